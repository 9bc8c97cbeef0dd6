"""Training of keypoint detectors: of the optical and of the SAR one, which differ in what they find.

R. Hänsch et al., "Introducing SpaceNet 9".
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, field, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError
from sn9reg.matchers.keypoints.crops import TILE
from sn9reg.matchers.keypoints.heatmap import SIGMA, gaussian, read_keypoints
from sn9reg.matchers.keypoints.network import HeatmapUNet
from sn9reg.matchers.keypoints.weights import KIND, DetectorOptions, build
from sn9reg.options import options
from sn9reg.raster.radiometry import Modality
from sn9reg.training.config import Count, Optimiser, Pace, Plan, Positive, Share, TrainingConfig
from sn9reg.training.data import load
from sn9reg.training.displaced import Displacement
from sn9reg.training.keypoint_samples import Epochs, KeypointSamples, load_tiles, split
from sn9reg.training.sample import Photometry, Sample
from sn9reg.training.task import Stage, Task

log = logging.getLogger(__name__)
_REGION = math.exp(-0.5 * 3**2)  # of a label: what stands above its value at three sigma


@options
class KeypointConfig(TrainingConfig, Pace):
    """Defaults are the paper's (sections 3.1 and 4); where it is silent: a batch of 16. Of the sources, `zoomed` and
    `held_out` do not count."""

    family: ClassVar[str] = "keypoints"

    _: KW_ONLY
    finds: Modality  # whose keypoints the detector finds
    network: dict[str, Any] = field(default_factory=dict)  # options of `HeatmapUNet`, without `finds`
    scenes: tuple[str, ...] = ()  # folders of scenes in SpaceNet 9's layout, whose tiles are drawn once an epoch
    validate: tuple[str, ...] = ()  # folders of scenes for validation alone
    samples: Count = 0  # drawn of the registered pairs in an epoch
    displacement: Displacement = field(default_factory=Displacement)  # of the samples of registered pairs
    photometry: Photometry = field(default_factory=Photometry)  # what is done to their grey values
    turned: bool = False  # whether tiles of scenes are flipped and turned by quarters
    tile: Positive = TILE  # side of a tile, pixels
    sigma: Annotated[float, Gt(0)] = SIGMA  # of the label, pixels
    held_out: Share = 0.2  # share of the scenes' tiles kept for validation
    epochs: Positive = 100  # how often all tiles are seen; validation follows each
    cache: str = "work/tiles"  # folder where the scenes' tiles are kept
    optimiser: Optimiser = field(default_factory=lambda: Optimiser(rate=1e-4, schedule="drop"))

    def __post_init__(self) -> None:
        Pace.__post_init__(self)
        if not self.scenes and not (self.samples and any(source.weight > 0 for source in self.sources)):
            raise ConfigError("there is nothing to train on: give scenes, or sources with a weight, and samples")

    @property
    def ships_as(self) -> str:
        return f"keypoints-{self.finds}"

    def stages(self) -> Sequence[Stage]:
        tiles = load_tiles(self.scenes, self.finds, self.tile, self.cache)
        training, held_out = split(tiles, self.held_out, self.seed)
        if tiles and not training:
            raise ConfigError(f"held_out: {self.held_out} of {len(held_out)} tiles leaves none to learn from")
        held_out += split(load_tiles(self.validate, self.finds, self.tile, self.cache), 0.0, self.seed)[0]
        log.info("%d tiles for training, %d for validation", len(training), len(held_out))
        parts = [(source, load(source, self.seed, self.tile)[0]) for source in self.sources]
        samples = KeypointSamples(self, training, parts)
        epoch = math.ceil(len(samples) / self.batch)
        shared = {name: getattr(self, name) for name in ("batch", "accumulate", "patience", "optimiser")}
        plan = Plan(steps=self.epochs * epoch, validate_every=epoch, **shared)

        def batches(plan: Plan, done: int) -> DataLoader[Any]:
            order = Epochs(len(samples), plan.batch // plan.accumulate, self.seed, done // epoch)
            return DataLoader(samples, batch_sampler=order, num_workers=self.workers)

        fixed = KeypointSamples(replace(self, turned=False), held_out, [])
        checks = [DataLoader(fixed, self.batch, sampler=[(0, k) for k in range(len(fixed))])] if held_out else []
        return [Stage(plan, self.seed, lambda plan: KeypointTask(self, plan), batches, checks)]


def balanced_mse(heatmap: Tensor, label: Tensor) -> Tensor:
    """Squared error of (B, H, W) heatmaps, its mean over the keypoint's region and that over the rest in equal parts
    (Hänsch et al., section 3.1). The region is where the label is not zero, taken to be within three sigma."""
    region = (label > _REGION).float()
    error = (heatmap - label) ** 2
    return sum((error * w).sum() / w.sum().clamp_min(1) for w in (region, 1 - region)) / 2  # type: ignore[return-value]


class KeypointTask(Task):
    """Validation logs `error`, the median distance of the heatmap's peak to the keypoint in pixels, `guess`, that of
    the tile's middle, and `within`, the share of peaks within sigma."""

    network: HeatmapUNet
    kind = KIND
    monitor, better = "error", "min"

    def __init__(self, config: KeypointConfig, plan: Plan) -> None:
        super().__init__(plan)
        self.config = config
        network = build(asdict(self.architecture()))
        if config.tile % network.divisor:
            raise ConfigError(f"a tile of {config.tile} px is no multiple of the {network.divisor} of this depth")
        self.network = network.to(memory_format=torch.channels_last)
        self.errors: list[Tensor] = []

    def architecture(self) -> DetectorOptions:
        return DetectorOptions(self.config.finds, self.config.network)

    def loss_of(self, batch: Sample) -> Tensor:
        label = gaussian(batch.place, self.config.tile, self.config.sigma)
        return balanced_mse(self.network(batch.optical, batch.sar), label)

    def validation_step(self, batch: Sample, index: int) -> None:
        found = read_keypoints(self.network(batch.optical, batch.sar), sigma=self.config.sigma)
        away = [(place - batch.place).norm(dim=1) for place in (found.xy, float(self.config.tile // 2))]
        self.errors.append(torch.stack(away).double().cpu())

    def on_validation_epoch_end(self) -> None:
        error, guess = torch.cat(self.errors, dim=1)
        self.errors.clear()
        self.log("error", error.median(), prog_bar=True)
        self.log("guess", guess.median())
        self.log("within", (error <= self.config.sigma).double().mean())
