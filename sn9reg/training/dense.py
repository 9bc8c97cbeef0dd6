"""Training of dense matchers: features of both images, the surface of their similarity, and a loss on it."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import field
from functools import cached_property, partial
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.base import make_matcher, matcher_class
from sn9reg.matchers.batch_norm import fused
from sn9reg.matchers.dense.correlation import similarity
from sn9reg.matchers.dense.weights import KIND, DenseOptions, build, load_dense
from sn9reg.options import options
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.folders import data_root
from sn9reg.raster.grid import Window
from sn9reg.raster.scene import Patch
from sn9reg.score.metrics import cmr
from sn9reg.training.config import Pace, Plan, Share, TrainingConfig
from sn9reg.training.data import Pairs, Source, load_all
from sn9reg.training.loop import Stage, Task
from sn9reg.training.losses import make_loss
from sn9reg.training.sample import Geometry, Photometry, Sample, augment_optical, augment_sar, cut, part

log = logging.getLogger(__name__)
_LOOKED_AT = 50  # batches in which is looked for what an imitation is to learn
_RIM = 6  # pixels at an image's border, where not even the teacher knows
_LOSS_RATE = 5.0  # the loss's parameters learn faster by this than the network's


@options
class Choice:
    name: str  # in the table of networks or losses
    options: dict[str, Any] = field(default_factory=dict)


class Seen(NamedTuple):
    """A `Sample`, and what is known of it; in a batch each field has a leading dimension."""

    optical: Tensor
    sar: Tensor
    place: Tensor
    known: Tensor  # (O - S + 1, O - S + 1) similarity by the matcher beside; without one, a 0 that nothing looks at


@options
class DenseConfig(TrainingConfig, Plan):
    """A network, a loss, and samples."""

    family: ClassVar[str] = "dense"
    network: Choice  # see `matchers.dense.networks`
    loss: Choice  # see `training.losses`
    shared: bool = False  # whether both images go through the same weights (Siamese)
    # Weights, relative to the data root, whose features are to be imitated: then the loss counts in validation alone.
    teacher: str | None = None
    # A dense matcher. The mean of its similarity and the network's is compared with the truth: so the network learns
    # what that matcher lacks, and is to be used beside it.
    beside: str | None = None
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
        if self.teacher and not self.shared:
            raise ConfigError("a teacher is imitated by a network that both images share: set shared: true")
        if self.beside is not None and not hasattr(matcher_class(self.beside), "surface"):
            raise ConfigError(f"beside is {self.beside!r}, which is no dense matcher")

    @property
    def channels(self) -> int:
        """Of the optical images that the network sees."""
        return int(self.network.options.get("in_channels", 1))

    def stages(self) -> Sequence[Stage]:
        parts, held = load_all(self.sources, self.seed, max(self.geometry.optical, self.validation.optical))
        for height, width in (optical.valid.shape for _, pairs in held for optical, _ in pairs):
            if min(height, width) < self.validation.optical:
                raise InputError(f"a pair held out is {width} x {height} px, smaller than validation.optical")
        seen: Any = [(range(len(pairs)), partial(self.validating, pairs)) for _, pairs in held if pairs]
        checks = [DataLoader(indices, 4, collate_fn=made) for indices, made in seen]
        task = partial(Imitation if self.teacher else DenseTask, self)
        return [Stage(self, self.seed, task, partial(self.batches, parts, self.sample), checks)]

    @cached_property
    def _beside(self) -> Any:
        return make_matcher(self.beside) if self.beside else None

    def seen(self, optical: Patch, sar: Patch, place: Any) -> "Seen":
        """What the network is shown of two patches, beside what another matcher makes of them."""
        known = self._beside.surface(optical, sar) if self._beside else torch.zeros(())
        return Seen(*Sample.of(optical, sar, place, self.channels), known)

    def sample(self, source: Source, optical: Patch, sar: Patch, random: np.random.Generator) -> "Seen":
        zoom = source.drawn_zoom(random)
        one, other, place = cut(optical, sar, self.geometry, zoom, random, bands=self.channels > 1)
        one = Patch(augment_optical(one.values, self.photometry, random), one.valid)
        worse = self.degradation(other.values, random)[0]
        other = Patch(augment_sar(worse, self.photometry, random)[None], other.valid)
        return self.seen(one, other, place)

    def validating(self, pairs: Pairs, indices: Sequence[int]) -> "Seen":
        """A batch for validation, the same each time: the middle of the images, the template at a random place."""
        samples, shape = [], self.validation
        for index in indices:
            (optical, sar), random = pairs[index], np.random.default_rng([self.seed, index])
            place = random.integers(0, shape.optical - shape.sar + 1, 2)
            row, col = (np.array(optical.valid.shape) - shape.optical) // 2
            template = part(sar, Window(col + place[1], row + place[0], shape.sar, shape.sar))
            worse = Patch(self.degradation(template.values.astype(np.float32), random), template.valid)
            middle = part(optical, Window(col, row, shape.optical, shape.optical))
            samples.append(self.seen(middle, worse, place))
        return default_collate(samples)


class DenseTask(Task):
    """Validation logs, per source, CMR(1), CMR(3) and mean L2; over all, `quality`: mean CMR at 1, 2, 3 and 5 px."""

    kind = KIND
    monitor = "quality"

    def __init__(self, config: DenseConfig, plan: Plan) -> None:
        loss, network = make_loss(config.loss.name, **config.loss.options), config.network
        options = DenseOptions(network.name, config.shared, loss.formula.similarity, network.options)
        super().__init__(plan, build, options)
        self.config, self.loss = config, loss
        self.mean = copy.deepcopy(self.network).requires_grad_(False) if config.average else None
        self.errors: dict[int, list[Tensor]] = {}

    def kept(self) -> nn.Module:
        return self.network if self.mean is None else self.mean

    def surface(self, network: nn.Module, batch: Seen) -> Tensor:
        """(B, O - S + 1, O - S + 1) similarity, as the loss wants it."""
        optical, sar = network(batch.optical, "optical"), network(batch.sar, "sar")
        own = similarity(self.loss.formula.similarity, optical.float().contiguous(), sar.float().contiguous())
        return (own + batch.known) / 2 if self.config.beside else own

    def loss_of(self, batch: Seen) -> Tensor:
        return self.loss(self.surface(self.network, batch), batch.place)

    def on_train_batch_end(self, outputs: Any, batch: Seen, index: int) -> None:
        if self.mean is None or (index + 1) % self.plan.accumulate:
            return
        decay = min(self.config.average, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            for kept, now in zip(self.mean.state_dict().values(), self.network.state_dict().values(), strict=True):
                kept.copy_(kept.lerp(now, 1 - decay) if kept.dtype.is_floating_point else now)

    def validation_step(self, batch: Seen, index: int, dataloader_idx: int = 0) -> None:
        surface = self.surface(self.kept(), batch)
        best = surface.flatten(1).argmax(dim=1)
        found = torch.stack([best // surface.shape[-1], best % surface.shape[-1]], dim=1)
        self.errors.setdefault(dataloader_idx, []).append((found - batch.place).double().norm(dim=1).cpu())

    def on_validation_epoch_end(self) -> None:
        quality = []
        for index, parts in sorted(self.errors.items()):
            errors = torch.cat(parts).numpy()
            rates = {f"val{index}/cmr{radius}": cmr(errors, radius) for radius in (1, 3)}
            self.log_dict(rates | {f"val{index}/l2": float(errors.mean())})
            quality.append(sum(cmr(errors, radius) for radius in (1, 2, 3, 5)) / 4)
        self.errors.clear()
        self.log("quality", sum(quality) / len(quality), prog_bar=True)

    def groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        # A temperature: decay would pull it to 1.
        if of_loss := [parameter for parameter in self.loss.parameters() if parameter.requires_grad]:
            groups.append({"params": of_loss, "lr": _LOSS_RATE * self.plan.optimiser.rate, "weight_decay": 0.0})
        return groups


class Imitation(DenseTask):
    """A network learns the features of another, its teacher: as many directions of them as it has features itself, in
    which images of one place agree most. Raises ConfigError for a teacher with fewer, and where either takes colours,
    InputError as `load_dense`."""

    directions: Tensor  # (features, teacher's features), orthonormal rows

    def __init__(self, config: DenseConfig, plan: Plan) -> None:
        super().__init__(config, plan)
        teacher = fused(load_dense(data_root() / str(config.teacher))[0]).requires_grad_(False)
        # In a list it is no part of what is trained and saved.
        self.teacher = [teacher.to(memory_format=torch.channels_last)]
        if self.network.channels != 1 or teacher.channels != 1:
            raise ConfigError("a network and its teacher take images of one band: leave in_channels out")
        own, its = (_width(network) for network in (copy.deepcopy(self.network).eval(), teacher))
        if own > its:
            raise ConfigError(f"network: it has {own} features and its teacher {its}: give it as many at most")
        self.register_buffer("directions", torch.eye(own, its))

    def before_training(self, batches: DataLoader[Any]) -> None:
        own, its = self.directions.shape
        shared = torch.zeros(its, its, dtype=torch.double)
        for batch in islice(batches, _LOOKED_AT):
            optical, sar = self.taught(_side_by_side(batch)).double().flatten(2).chunk(2)
            centred = (features - features.mean(dim=2, keepdim=True) for features in (optical, sar))
            shared += torch.einsum("bcn,bdn->cd", *centred)
        agreement, found = torch.linalg.eigh(shared + shared.T)
        held = float(agreement[-own:].sum() / agreement.clamp_min(0).sum())
        log.info("%d directions of %d hold %.1f %% of what both images share", own, its, 100 * held)
        self.directions = found.flip(1)[:, :own].T.float().contiguous()

    def taught(self, images: Tensor) -> Tensor:
        """(2 B, C, S, S) what the teacher says of `_side_by_side`."""
        teacher, kinds = self.teacher[0].to(images.device), ("optical", "sar")
        with torch.no_grad():
            return torch.cat([teacher(half, kind) for half, kind in zip(images.chunk(2), kinds, strict=True)])

    def loss_of(self, batch: Seen) -> Tensor:
        images = _side_by_side(batch)
        wanted = torch.einsum("kc,bchw->bkhw", self.directions, self.taught(images))
        inner = np.s_[..., _RIM:-_RIM, _RIM:-_RIM]
        return (self.network(images, "sar") - wanted)[inner].square().sum() / wanted[inner].square().sum()


def _width(network: nn.Module) -> int:
    """Number of its features."""
    with torch.no_grad():
        return int(network(torch.zeros(1, 1, 64, 64), "sar").shape[1])


def _side_by_side(batch: Seen) -> Tensor:
    """(2 B, 1, S, S) the optical images, where the SAR images lie in them, and then these."""
    side = batch.sar.shape[-1]
    places = zip(batch.optical, batch.place.tolist(), strict=True)
    optical = torch.stack([image[:, row : row + side, col : col + side] for image, (row, col) in places])
    return torch.cat([optical, batch.sar]).contiguous(memory_format=torch.channels_last)
