"""Training of patch descriptors: patches of one place close to one another, and the hardest others of the batch far.

L. He et al., "Deep convolutional network based on attention mechanism for matching optical and SAR images".
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.descriptors.network import DenseFusion, distances
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.matchers.descriptors.weights import KIND, DescriptorOptions, build
from sn9reg.options import options
from sn9reg.training.config import Count, NotNegative, Optimiser, Pace, Plan, Positive, Share, TrainingConfig
from sn9reg.training.data import Samples, load_all
from sn9reg.training.losses import hardest_in_batch
from sn9reg.training.patch_pairs import PatchPairs, collate, held_out, patch_pairs
from sn9reg.training.sample import Photometry
from sn9reg.training.task import Stage, Task

_SLOWLY = 0.02  # the layout's learning rate, as a share of the network's
_FIRST = 80  # batches by which the layout of a patch is learned before the training
_AT_ONCE = 256  # patches of a validation batch


@options
class DescriptorConfig(TrainingConfig, Plan):
    """Defaults are the paper's (sections 2.2, 2.3 and 3.1), where it says; it does not say for how long.

    A batch counts pairs of patches. The gradients of its parts are cached (L. Gao et al., "Scaling deep contrastive
    learning batch size under memory limited setup", 2021), so that every patch is compared with the whole batch.
    """

    family: ClassVar[str] = "descriptors"

    _: KW_ONLY
    network: dict[str, Any] = field(default_factory=dict)  # options of `DenseFusion`, without what `patch` gives
    patch: PatchLayout = field(default_factory=PatchLayout)  # what a descriptor sees
    imagenet: str | None = None  # a .safetensors file with the weights of a timm MobileNetV2 to begin with
    image: Positive = 256  # side of the square cut from a pair, pixels
    places: Positive = 1  # patches taken from it
    rim: Count = 24  # pixels that places keep from its border
    apart: NotNegative = 8.0  # pixels that places keep from one another
    corners: Annotated[float, Ge(0), Le(1)] = 0.0  # share of places at corners of either image; others lie anywhere
    shift: NotNegative = 0.0  # SAR patches are displaced at random by up to this, pixels
    turn: NotNegative = 0.0  # and turned by up to this, degrees
    stretch: Share = 0.0  # and scaled by up to this share
    photometry: Photometry = field(default_factory=Photometry)
    margin: Annotated[float, Gt(0)] = 1.0  # of the triplets
    steps: Positive = 5000
    batch: Annotated[int, Ge(2)] = 256
    validate_every: Positive = 100
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(rate=1e-3))

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        Pace.__post_init__(self)
        if self.batch % self.places:
            raise ConfigError(f"batch is {self.batch}, must be a multiple of the {self.places} places")
        if 2 * self.rim >= self.image:
            raise ConfigError(f"rim is {self.rim}, must leave something of the {self.image} px of an image")

    def stages(self) -> Sequence[Stage]:
        parts, held = load_all(self.sources, self.seed, self.image)
        make = partial(patch_pairs, config=self)
        fixed: Any = held_out(self, held)
        checks = [DataLoader(fixed, max(1, _AT_ONCE // self.places), collate_fn=collate)] if fixed else []

        def batches(plan: Plan, done: int) -> DataLoader[Any]:
            samples = Samples(parts, make, self.seed + done)
            return DataLoader(samples, plan.batch // self.places, collate_fn=collate, num_workers=self.workers)

        return [Stage(self, self.seed, lambda plan: DescriptorTask(self, plan), batches, checks)]


class DescriptorTask(Task):
    """Validation logs `found`: the share of optical patches whose nearest of all SAR patches shows the same place."""

    network: DenseFusion
    kind = KIND
    monitor = "found"

    def __init__(self, config: DescriptorConfig, plan: Plan) -> None:
        super().__init__(plan)
        self.automatic_optimization = False  # for the cached gradients
        self.config = config
        self.network = build(asdict(self.architecture())).to(memory_format=torch.channels_last)
        self.held_out: list[tuple[Tensor, Tensor]] = []
        if config.imagenet is not None:
            self._start_from(Path(config.imagenet))

    def _start_from(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: no such weights file")
        try:
            self.network.start_from(load_file(path))
        except ConfigError as error:
            raise InputError(f"{path}: {error}") from error
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: is no whole safetensors file ({error})") from error

    def architecture(self) -> DescriptorOptions:
        return DescriptorOptions(self.config.patch, self.config.network)

    def before_training(self, batches: DataLoader[PatchPairs]) -> None:
        """Learn the layout of a patch, if it has one, from the first batches."""
        if self.network.cells:
            means = [[self.network.cell_means(patches) for patches in batch] for batch in islice(batches, _FIRST)]
            self.network.fit_layout(*(torch.cat(part) for part in zip(*means, strict=True)))

    def loss_of(self, batch: PatchPairs) -> Tensor:
        return self._loss(*self._describe(batch))

    def training_step(self, batch: PatchPairs, index: int) -> None:
        optimiser: Any = self.optimizers()
        optimiser.zero_grad()
        if self.plan.accumulate == 1:
            loss = self.loss_of(batch)
            self.manual_backward(loss)
        else:
            loss = self._cached(batch)
        self.checked(loss)
        if self.plan.optimiser.clip:
            self.clip_gradients(optimiser, self.plan.optimiser.clip, "norm")
        optimiser.step()
        self.lr_schedulers().step()  # type: ignore[union-attr]

    def _describe(self, pairs: PatchPairs) -> tuple[Tensor, Tensor]:
        """Both at once, so that batch normalisation sees the mixture that it is to work on."""
        patches = torch.cat(pairs).contiguous(memory_format=torch.channels_last)
        optical, sar = self.network(patches).chunk(2)
        return optical, sar

    def _loss(self, optical: Tensor, sar: Tensor) -> Tensor:
        with torch.autocast(optical.device.type, enabled=False):  # distances of a hundredth matter
            return hardest_in_batch(distances(optical.float(), sar.float()), self.config.margin)

    def _cached(self, batch: PatchPairs) -> Tensor:
        """The gradient of the whole batch's loss, with the activations of one part at a time in memory."""
        size = -(-len(batch.optical) // self.plan.accumulate)
        parts = [PatchPairs(*both) for both in zip(batch.optical.split(size), batch.sar.split(size), strict=True)]
        with torch.no_grad():
            described = [self._describe(part) for part in parts]
        leaves = [torch.cat(both).requires_grad_() for both in zip(*described, strict=True)]
        loss = self._loss(*leaves)
        loss.backward()
        gradients = [leaf.grad.split(size) for leaf in leaves if leaf.grad is not None]
        for part, *gradient in zip(parts, *gradients, strict=True):
            again = self._describe(part)
            self.manual_backward(sum((d * g).sum() for d, g in zip(again, gradient, strict=True)))
        return loss

    def validation_step(self, batch: PatchPairs, index: int) -> None:
        optical, sar = self._describe(batch)
        self.held_out.append((optical.cpu(), sar.cpu()))

    def on_validation_epoch_end(self) -> None:
        optical, sar = (torch.cat(parts) for parts in zip(*self.held_out, strict=True))
        self.held_out.clear()
        nearest = (optical.float() @ sar.float().T).argmax(dim=1)
        self.log("found", (nearest == torch.arange(len(nearest))).double().mean(), prog_bar=True)

    def groups(self) -> list[dict[str, Any]]:
        # The layout begins where it should be; steps as large as those of a new network would only blur it.
        layout = [p for name, p in self.network.named_parameters() if name.startswith("layout.")]
        others = [p for name, p in self.network.named_parameters() if not name.startswith("layout.")]
        slow = {"params": layout, "lr": self.plan.optimiser.rate * _SLOWLY}
        return [{"params": others}, slow] if layout else [{"params": others}]
