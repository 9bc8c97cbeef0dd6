"""Training of patch descriptors: patches that show one place close, the hardest others of the batch far. L. He et al.,
"Deep convolutional network based on attention mechanism for matching optical and SAR images"."""

from collections.abc import Sequence
from dataclasses import field
from functools import cache, partial
from itertools import islice
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError, InputError
from sn9reg.features.phase_congruency import phase_congruency
from sn9reg.matchers.dense.networks.branches import Branches
from sn9reg.matchers.dense.weights import DenseOptions, load_dense
from sn9reg.matchers.descriptors.describe import fast_corners
from sn9reg.matchers.descriptors.network import KIND, DenseFusion, DescriptorOptions, build, distances, seen
from sn9reg.matchers.descriptors.patches import PatchLayout, sample_patches
from sn9reg.options import options
from sn9reg.raster.grid import Points
from sn9reg.raster.radiometry import Mask, Modality
from sn9reg.raster.scene import Patch
from sn9reg.training.config import Count, NotNegative, Optimiser, Pace, Plan, Positive, Share, TrainingConfig
from sn9reg.training.data import Parts, Source, fixed, load_all
from sn9reg.training.loop import Stage, Task
from sn9reg.training.losses import contrastive, hardest_in_batch
from sn9reg.training.sample import Geometry, Photometry, augment_optical, augment_sar, cut, finish

_SLOWLY = 0.02  # the layout's learning rate, as a share of the network's
_FIRST = 80  # batches by which the layout of a patch is learned before the training
_AT_ONCE = 256  # patches of a validation batch
_MODALITIES: tuple[Modality, ...] = "optical", "sar"
_CANDIDATES = 4  # places drawn at random for each that is wanted


class PatchPairs(NamedTuple):
    """optical, sar: (N, C, side, side); those of one index show the same place."""

    optical: Tensor
    sar: Tensor


@cache
def loaded(stem: str) -> tuple[Branches, DenseOptions]:
    """A dense network, by the name of one that ships or a .safetensors file. Raises InputError as `load_dense`."""
    return load_dense(stem if stem.endswith(".safetensors") else None, stem)


def collate(samples: list[PatchPairs]) -> PatchPairs:
    return PatchPairs(*map(torch.cat, zip(*samples, strict=True)))


@options
class DescriptorConfig(TrainingConfig, Plan):
    """Defaults are the paper's (sections 2.2, 2.3, 3.1), where it says. A batch counts pairs of patches; the gradients
    of its parts are cached (L. Gao et al., "Scaling deep contrastive learning batch size under memory limited setup",
    2021), so that every patch is compared with the whole batch."""

    family: ClassVar[str] = "descriptors"
    network: dict[str, Any] = field(default_factory=dict)  # `FusionOptions`
    patch: PatchLayout = field(default_factory=PatchLayout)  # what a descriptor sees
    # A trained dense network, by the name of one that ships or a .safetensors file, whose features a patch shows, too
    stem: str | None = None
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
    contrast: Share = 0.0  # share of the steps, the first, that learn from all of the batch and not the hardest
    temperature: Annotated[float, Gt(0)] = 0.07  # of that contrast
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
        seen: Any = self.held_out(held)
        checks = [DataLoader(seen, max(1, _AT_ONCE // self.places), collate_fn=collate)] if seen else []
        size = self.batch // self.places
        batches = partial(self.batches, parts, self.patch_pairs, batch_size=size, collate_fn=collate)
        return [Stage(self, self.seed, partial(DescriptorTask, self), batches, checks)]

    def held_out(self, parts: Parts) -> list[PatchPairs]:
        """Fixed patch pairs, of every pair of images that is held out and has room for them."""
        return fixed(parts, partial(self.patch_pairs, train=False), self.seed)

    def patch_pairs(
        self, source: Source, optical: Patch, sar: Patch, random: np.random.Generator, train: bool = True
    ) -> PatchPairs | None:
        """`places` patch pairs of a pair of images, None where it has no room. train: with the changes asked for."""
        one, other, _ = cut(optical, sar, Geometry(self.image, self.image), source.drawn_zoom(random), random)
        if train:
            one = Patch(augment_optical(one.values[0], self.photometry, random)[None], one.valid)
            other = Patch(augment_sar(other.values[0], self.photometry, random)[None], other.valid)
        images = torch.from_numpy(np.concatenate(finish(one, other)))
        places = self._places(images, one.valid, other.valid, random)
        if len(places) < self.places:
            return None
        n, strength = len(places), float(train)
        angle = torch.from_numpy(random.uniform(-1, 1, n) * np.deg2rad(self.turn) * strength)
        size = torch.from_numpy(np.exp(random.uniform(-1, 1, n) * np.log1p(self.stretch) * strength))
        moved = places + random.uniform(-1, 1, (n, 2)) * self.shift * strength
        stems = loaded(self.stem)[0] if self.stem else None
        first, second = (seen(images[k : k + 1], self.patch, stems, of)[0] for k, of in enumerate(_MODALITIES))
        still = sample_patches(first, torch.from_numpy(places), self.patch)
        return PatchPairs(still, sample_patches(second, torch.from_numpy(moved), self.patch, angle, size))

    def _places(self, images: Tensor, valid: Mask, other: Mask, random: np.random.Generator) -> Points:
        """(N, 2) places x, y, at most `places`, where both images are valid, apart from one another."""
        middle = slice(self.rim, self.image - self.rim)
        inner = np.pad((valid & other)[middle, middle], self.rim)
        free = np.argwhere(inner)[:, ::-1].astype(np.float64)
        if not len(free):
            return free
        anywhere = free[random.integers(len(free), size=_CANDIDATES * self.places)]
        corners = anywhere[:0]
        if self.corners:
            congruency = phase_congruency(images, torch.from_numpy(np.stack([valid, other])))
            maps = [moment[k].numpy() for k in range(2) for moment in (congruency.minimum, congruency.maximum)]
            corners = random.permutation(np.concatenate([fast_corners(m, inner)[0] for m in maps]))
        chosen: list[Points] = []
        for candidates, upto in ((corners, random.binomial(self.places, self.corners)), (anywhere, self.places)):
            for xy in candidates:
                if len(chosen) < upto and all(np.hypot(*(xy - other)) >= self.apart for other in chosen):
                    chosen.append(xy)
        return np.array(chosen).reshape(-1, 2)


class DescriptorTask(Task):
    """Validation logs `found`: the share of optical patches whose nearest of all SAR patches shows the same place."""

    network: DenseFusion
    kind = KIND
    monitor = "found"

    def __init__(self, config: DescriptorConfig, plan: Plan) -> None:
        stems, stem = loaded(config.stem) if config.stem else (None, None)
        super().__init__(plan, build, DescriptorOptions(config.patch, config.network, stem))
        if stems is not None:
            assert self.network.stems is not None
            self.network.stems.load_state_dict(stems.state_dict())
        self.automatic_optimization = False  # for the cached gradients
        self.config = config
        self.held_out: list[list[Tensor]] = []
        if config.imagenet is not None:
            try:
                self.network.start_from(load_file(config.imagenet))
            except ConfigError as error:
                raise InputError(f"{config.imagenet}: {error}") from error
            except (SafetensorError, OSError) as error:  # one that is not there, too
                raise InputError(f"{config.imagenet}: is no whole safetensors file ({error})") from error

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
            self.manual_backward(loss := self.loss_of(batch))
        else:
            loss = self._cached(batch)
        self.checked(loss)
        if self.plan.optimiser.clip:
            self.clip_gradients(optimiser, self.plan.optimiser.clip, "norm")
        optimiser.step()
        self.lr_schedulers().step()  # type: ignore[union-attr]

    def _describe(self, pairs: PatchPairs) -> tuple[Tensor, ...]:
        """Both at once, so that batch normalisation sees the mixture that it is to work on."""
        return self.network(torch.cat(pairs).contiguous(memory_format=torch.channels_last)).chunk(2)

    def _loss(self, optical: Tensor, sar: Tensor) -> Tensor:
        with torch.autocast(optical.device.type, enabled=False):  # distances of a hundredth matter
            one, other = optical.float(), sar.float()
            if self.global_step < self.config.contrast * self.plan.steps:
                return contrastive(one, other, self.config.temperature)
            return hardest_in_batch(distances(one, other), self.config.margin)

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
            self.manual_backward(sum((d * g).sum() for d, g in zip(self._describe(part), gradient, strict=True)))
        return loss

    def validation_step(self, batch: PatchPairs, index: int) -> None:
        self.held_out.append([side.cpu() for side in self._describe(batch)])

    def on_validation_epoch_end(self) -> None:
        optical, sar = (torch.cat(parts) for parts in zip(*self.held_out, strict=True))
        self.held_out.clear()
        nearest = (optical.float() @ sar.float().T).argmax(dim=1)
        self.log("found", (nearest == torch.arange(len(nearest))).double().mean(), prog_bar=True)

    def groups(self) -> list[dict[str, Any]]:
        # The layout begins where it should be; steps as large as those of a new network would only blur it, and what
        # the network adds is to grow no sooner than the network learns.
        slow: dict[str, Any] = {"params": [], "lr": self.plan.optimiser.rate * _SLOWLY}
        groups: list[dict[str, Any]] = [{"params": []}, slow]
        slowly = ("layout.", "fusion_norm.") if self.network.cells else ()
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                groups[name.startswith(slowly)]["params"].append(parameter)
        return groups if slow["params"] else groups[:1]
