"""Training of dense matchers: features of both images, the surface of their similarity, and a loss on it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.dense.correlation import similarity
from sn9reg.matchers.dense.networks.table import build
from sn9reg.matchers.dense.weights import KIND, DenseOptions
from sn9reg.options import options
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.scene import Patch
from sn9reg.score.metrics import cmr, mean_l2
from sn9reg.training.config import Pace, Plan, Share, TrainingConfig
from sn9reg.training.data import Pairs, Samples, Source, load_all
from sn9reg.training.losses import make_loss
from sn9reg.training.sample import Geometry, Photometry, Sample, augment_optical, augment_sar, cut
from sn9reg.training.task import Stage, Task

_LOSS_RATE = 5.0  # the loss's parameters learn faster by this than the network's


@options
class Choice:
    """A network or a loss."""

    name: str  # in the table of networks or losses
    options: dict[str, Any] = field(default_factory=dict)


@options
class DenseConfig(TrainingConfig, Plan):
    """A network, a loss, and samples."""

    family: ClassVar[str] = "dense"

    _: KW_ONLY
    network: Choice  # see `matchers.dense.networks`
    loss: Choice  # see `training.losses`
    shared: bool = False  # whether both images go through the same weights (Siamese)
    geometry: Geometry = field(default_factory=Geometry)  # of the samples for training
    validation: Geometry = field(default_factory=Geometry)  # of those for validation: only the sides count
    photometry: Photometry = field(default_factory=Photometry)  # what is done to grey values
    degradation: Degradation = field(default_factory=Degradation)  # what a SAR sensor in flight does to its image
    average: Share = 0.0  # decay of the weights' running mean, which is what is then validated and kept; 0 for none

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        Pace.__post_init__(self)
        for name, shape in (("geometry", self.geometry), ("validation", self.validation)):
            if not 0 < shape.sar < shape.optical:
                raise ConfigError(f"{name}: the SAR side {shape.sar} must be smaller than the optical {shape.optical}")

    @property
    def ships_as(self) -> str:
        return self.network.name

    def stages(self) -> Sequence[Stage]:
        parts, held = load_all(self.sources, self.seed, max(self.geometry.optical, self.validation.optical))
        checks = [DataLoader(ValidationSamples(pairs, self), 4) for _, pairs in held if pairs]

        def batches(plan: Plan, done: int) -> DataLoader[Any]:
            samples = Samples(parts, self.sample, self.seed + done)
            return DataLoader(samples, plan.batch // plan.accumulate, num_workers=self.workers)

        return [Stage(self, self.seed, lambda plan: DenseTask(self, plan), batches, checks)]

    def sample(self, source: Source, optical: Patch, sar: Patch, random: np.random.Generator) -> Sample:
        """One sample for training, of a pair of a source."""
        zoom = max(source.drawn_zoom(random), self.geometry.optical / min(optical.valid.shape))
        one, other, place = cut(optical, sar, self.geometry, zoom, random)
        one = Patch(augment_optical(one.values[0], self.photometry, random)[None], one.valid)
        worse = self.degradation(other.values, random)[0]
        other = Patch(augment_sar(worse, self.photometry, random)[None], other.valid)
        return Sample.of(one, other, place)


class ValidationSamples(Dataset[Sample]):
    """One fixed sample per pair: the middle of the image, the template at a place drawn by the seed.

    Raises InputError for an image smaller than the patch.
    """

    def __init__(self, pairs: Pairs, config: DenseConfig) -> None:
        self.pairs, self.config = pairs, config
        for optical, _ in pairs:
            if min(optical.valid.shape) < config.validation.optical:
                height, width = optical.valid.shape
                raise InputError(f"a pair held out is {width} x {height} px, smaller than validation.optical")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        (optical, sar), shape = self.pairs[index], self.config.validation
        random = np.random.default_rng([self.config.seed, index])
        place = random.integers(0, shape.optical - shape.sar + 1, 2)
        corner = (np.array(optical.valid.shape) - shape.optical) // 2
        template = _part(sar, corner + place, shape.sar)
        worse = self.config.degradation(template.values.astype(np.float32), random)
        return Sample.of(_part(optical, corner, shape.optical), Patch(worse, template.valid), place)


def _part(patch: Patch, place: Any, side: int) -> Patch:
    rows, cols = (slice(n, n + side) for n in place)
    return Patch(patch.values[:, rows, cols], patch.valid[rows, cols])


class DenseTask(Task):
    """Validation logs, per source, CMR(1), CMR(3) and mean L2, and over all of them `quality`, the mean of CMR at 1, 2,
    3 and 5 px."""

    kind = KIND
    monitor = "quality"

    def __init__(self, config: DenseConfig, plan: Plan) -> None:
        super().__init__(plan)
        self.config = config
        network = build(config.network.name, config.shared, **config.network.options)
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = make_loss(config.loss.name, **config.loss.options)
        # The running mean of the weights: what is validated and shipped.
        self.mean = copy.deepcopy(self.network).requires_grad_(False) if config.average else None
        self.errors: dict[int, list[Tensor]] = {}

    def architecture(self) -> DenseOptions:
        network = self.config.network
        return DenseOptions(network.name, self.config.shared, self.loss.formula.similarity, network.options)

    def kept(self) -> nn.Module:
        return self.network if self.mean is None else self.mean

    def surface(self, network: nn.Module, batch: Sample) -> Tensor:
        """(B, O - S + 1, O - S + 1) similarity, as the loss wants it."""
        optical, sar = network(batch.optical, "optical"), network(batch.sar, "sar")
        return similarity(self.loss.formula.similarity, optical.float().contiguous(), sar.float().contiguous())

    def loss_of(self, batch: Sample) -> Tensor:
        loss: Tensor = self.loss(self.surface(self.network, batch), batch.place)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Sample, index: int) -> None:
        if self.mean is None or (index + 1) % self.plan.accumulate:
            return
        decay = min(self.config.average, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            for kept, now in zip(self.mean.state_dict().values(), self.network.state_dict().values(), strict=True):
                if kept.dtype.is_floating_point:
                    kept.lerp_(now, 1 - decay)
                else:
                    kept.copy_(now)

    def validation_step(self, batch: Sample, index: int, dataloader_idx: int = 0) -> None:
        surface = self.surface(self.kept(), batch)
        best = surface.flatten(1).argmax(dim=1)
        found = torch.stack([best // surface.shape[-1], best % surface.shape[-1]], dim=1)
        self.errors.setdefault(dataloader_idx, []).append((found - batch.place).double().norm(dim=1).cpu())

    def on_validation_epoch_end(self) -> None:
        quality = []
        for index, parts in sorted(self.errors.items()):
            errors = torch.cat(parts).numpy()
            for radius in (1, 3):
                self.log(f"val{index}/cmr{radius}", cmr(errors, radius))
            self.log(f"val{index}/l2", mean_l2(errors))
            quality.append(sum(cmr(errors, radius) for radius in (1, 2, 3, 5)) / 4)
        self.errors.clear()
        self.log("quality", sum(quality) / len(quality), prog_bar=True)

    def groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if of_loss := list(self.loss.parameters()):  # a temperature: decay would pull it to 1
            groups.append({"params": of_loss, "lr": _LOSS_RATE * self.plan.optimiser.rate, "weight_decay": 0.0})
        return groups
