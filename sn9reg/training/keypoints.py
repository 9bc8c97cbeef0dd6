"""Training of the optical and the SAR keypoint detector on tiles of scenes with tie-points and on registered pairs, of
which one image is displaced by a random field. R. Hänsch et al., "Introducing SpaceNet 9"."""

import logging
import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import count
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Gt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sn9reg.errors import ConfigError
from sn9reg.matchers.keypoints.detector import TILE
from sn9reg.matchers.keypoints.heatmap import SIGMA, gaussian, read_keypoints
from sn9reg.matchers.keypoints.network import KIND, DetectorOptions, HeatmapUNet, UNetOptions, build
from sn9reg.options import check, options
from sn9reg.raster.grid import Points, Window
from sn9reg.raster.radiometry import Image, Mask, Modality, SarLog, optical_grey, optical_input, optical_layers
from sn9reg.raster.scene import Patch
from sn9reg.training.config import Count, NotNegative, Optimiser, Pace, Plan, Positive, Share, TrainingConfig
from sn9reg.training.data import Parts, drawn, load_all
from sn9reg.training.loop import Stage, Task
from sn9reg.training.sample import Fraction, Photometry, Sample, augment_optical, augment_sar, part, softened, symmetry
from sn9reg.training.tiles import Tile, load_tiles, split, tile_sample

log = logging.getLogger(__name__)
_REGION = math.exp(-0.5 * 3**2)  # of a label: what stands above its value at three sigma
_APART = 6  # pixels between corners
_CORNERS = 150  # at most, of an image

Key = tuple[int, int]  # epoch, index


@options
class Displacement:
    """The random field, in pixels of the tile."""

    reach: NotNegative = 110.0  # the keypoint lies at most this far from the middle, per axis
    near: NotNegative = 20.0  # spread of the distances from the middle that are drawn normally
    far: Fraction = 0.6  # of samples whose distances are drawn evenly up to `reach`
    gradient: NotNegative = 0.05  # spread of the field's four first derivatives
    bend: NotNegative = 6.0  # largest second order term at half a tile from the keypoint
    anywhere: Fraction = 0.3  # of keypoints that are no corners
    hidden: Fraction = 0.08  # of tiles part of which is not valid


@options
class KeypointConfig(TrainingConfig, Pace):
    """Defaults are the paper's (sections 3.1 and 4), but the batch. Sources' `zoomed` and `held_out` do not count."""

    family: ClassVar[str] = "keypoints"
    _: KW_ONLY
    finds: Modality  # whose keypoints the detector finds
    network: dict[str, Any] = field(default_factory=dict)  # `UNetOptions`
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
    def bands(self) -> int:
        """Of the optical tiles. Raises ConfigError for options that no network has."""
        return check(UNetOptions, self.network, KIND).optical_bands

    def stages(self) -> Sequence[Stage]:
        tiles = load_tiles(self.scenes, self.finds, self.tile, self.cache, self.bands)
        training, held_out = split(tiles, self.held_out, self.seed)
        if tiles and not training:
            raise ConfigError(f"held_out: {self.held_out} of {len(held_out)} tiles leaves none to learn from")
        held_out += split(load_tiles(self.validate, self.finds, self.tile, self.cache, self.bands), 0.0, self.seed)[0]
        log.info("%d tiles for training, %d for validation", len(training), len(held_out))
        samples = KeypointSamples(self, training, load_all(self.sources, self.seed, self.tile)[0])
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
    """Validation logs `error`, the median px from peak to keypoint, `guess`, of the middle, and `within` sigma."""

    network: HeatmapUNet
    kind = KIND
    monitor, better = "error", "min"

    def __init__(self, config: KeypointConfig, plan: Plan) -> None:
        super().__init__(plan, build, DetectorOptions(config.finds, config.network))
        self.config = config
        if config.tile % self.network.divisor:
            raise ConfigError(f"a tile of {config.tile} px is no multiple of the {self.network.divisor} of this depth")
        self.errors: list[Tensor] = []

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
        self.log_dict({"guess": guess.median(), "within": (error <= self.config.sigma).double().mean()})


class KeypointSamples(Dataset[Sample]):
    """In each epoch every tile once, then other `config.samples` of registered pairs. Its length is an epoch's."""

    def __init__(self, config: KeypointConfig, tiles: Sequence[Tile], parts: Parts) -> None:
        self.config, self.tiles, self.parts = config, tiles, parts

    def __len__(self) -> int:
        return len(self.tiles) + (self.config.samples if self.parts else 0)

    def __getitem__(self, key: Key) -> Sample:
        config, (epoch, index) = self.config, key
        if index < len(self.tiles):
            return tile_sample(self.tiles[index], [config.seed, epoch, index] if config.turned else None)
        random = np.random.default_rng([config.seed, epoch, index - len(self.tiles), 1])
        source, optical, sar = drawn(self.parts, random)
        zoom = float(np.exp(random.uniform(*np.log(source.zoom))))  # `zoomed` does not count here: all are
        zoom = max(zoom, 1.3 * config.tile / min(optical.valid.shape))
        keypoint, optical, sar = _keypoint(optical, sar, config.tile / zoom, random, config)
        return displaced(optical, sar, keypoint, zoom, config, random)


@dataclass(frozen=True)
class Epochs:
    """Endless batches of keys, those of each epoch in an order of its own, the last of which may be smaller."""

    length: int  # samples of an epoch
    batch: int
    seed: int
    first: int = 0  # epoch to begin with

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch in count(self.first):
            random = torch.Generator().manual_seed(1000 * self.seed + epoch)
            # As the orders of Lightning's epochs: a loader draws a seed first, and is begun twice in all but the first.
            torch.empty(2 if epoch else 1, dtype=torch.int64).random_(generator=random)
            keys = [(epoch, index) for index in torch.randperm(self.length, generator=random).tolist()]
            yield from (keys[start : start + self.batch] for start in range(0, self.length, self.batch))


def _keypoint(
    optical: Patch, sar: Patch, side: float, random: np.random.Generator, config: KeypointConfig
) -> tuple[Points, Patch, Patch]:
    """A place half a tile from the border, and the images around it, cut first: all their corners would cost much."""
    size = np.array(optical.valid.shape[::-1])
    need = np.minimum(np.ceil(2.5 * side).astype(int), size)
    start = random.integers(0, size - need + 1)
    optical, sar = (part(patch, Window(*start, *need)) for patch in (optical, sar))
    low, high = side / 2, need - side / 2
    if random.random() >= config.displacement.anywhere:
        found = corners(optical, sar)
        found = found[((found >= low) & (found <= high)).all(axis=1)]
        if len(found):
            return found[int(random.integers(len(found)))].astype(np.float64), optical, sar
    return np.floor(random.uniform(low, high)), optical, sar


def corners(optical: Patch, sar: Patch) -> npt.NDArray[np.int64]:
    """(N, 2) x, y of corners of both images of a registered pair, best first: by the smaller corner measure (least
    eigenvalue of the structure tensor, Shi and Tomasi), as a share of its image's strongest; of softened SAR."""
    of_optical = _cornerness(optical_grey(optical.values), optical.valid, 1.0)
    of_sar = _cornerness(SarLog.of(sar.values, sar.valid)(sar.values), sar.valid, 2.5)
    strength = np.minimum(of_optical, of_sar)
    peak = strength >= cv2.dilate(strength, np.ones((2 * _APART + 1, 2 * _APART + 1), np.uint8))
    y, x = np.nonzero(peak & (strength > 0.05))
    best = np.argsort(-strength[y, x], kind="stable")[:_CORNERS]
    return np.column_stack([x, y])[best].astype(np.int64)


def _cornerness(image: Image, valid: Mask, soften: float) -> Image:
    smooth = cv2.GaussianBlur(np.where(valid, image, image[valid].mean() if valid.any() else 0), (0, 0), soften)
    strength = cv2.cornerMinEigenVal(smooth.astype(np.float32), 9)
    inside = cv2.erode(valid.astype(np.uint8), np.ones((9, 9), np.uint8), borderValue=1) > 0
    top = float(np.quantile(strength[inside], 0.99)) if inside.any() else 0.0
    return np.where(inside, strength / top, 0).astype(np.float32) if top > 0 else np.zeros_like(strength)


def displaced(
    optical: Patch, sar: Patch, keypoint: Points, zoom: float, config: KeypointConfig, random: np.random.Generator
) -> Sample:
    """A sample whose keypoint is `keypoint` (x, y) of a registered pair, magnified by `zoom`. Both images are flipped
    and turned by quarters alike; the one to be searched is then displaced, the keypoint by an exactly known shift."""
    side, field = config.tile, config.displacement
    turn = symmetry(bool(random.integers(2)), int(random.integers(4)))
    middle = np.full(2, float(side // 2))
    height, width = optical.valid.shape
    # A tile that reached outside the image would show its border, from which the displacement could be learned.
    half = side / 2 / zoom
    limits = keypoint - np.maximum([width, height] - np.array(half), half), keypoint - half
    far = random.random() < field.far
    shift = random.uniform(-field.reach, field.reach, 2) if far else random.normal(0, field.near, 2)
    shift = np.clip(turn @ np.clip(shift, -field.reach, field.reach) / zoom, *limits) @ turn * zoom
    place = np.clip(middle + shift, 0, side - 1)
    tile = np.mgrid[:side, :side][::-1].transpose(1, 2, 0).astype(np.float64, order="C")
    away = tile - place
    linear = np.eye(2) + random.normal(0, field.gradient, (2, 2))
    along, to = (np.array([np.cos(a), np.sin(a)]) for a in random.uniform(0, 2 * np.pi, 2))
    bent = random.uniform(0, field.bend) * ((away @ along) / (side / 2)) ** 2
    searched = keypoint + (away @ linear.T + bent[..., None] * to) @ turn.T / zoom
    around = keypoint + (tile - middle) @ turn.T / zoom
    tiles = [(around, middle), (searched, place)]  # where their pixels lie, and where they show the keypoint
    optical = Patch(optical_layers(optical.values, config.bands), optical.valid)
    sar = Patch(optical_layers(sar.values, 1), sar.valid)
    optical, sar = (
        _partly_hidden(_resample(patch, at, zoom), kept, field.hidden, random)
        for patch, (at, kept) in zip((optical, sar), tiles if config.finds == "sar" else tiles[::-1], strict=True)
    )
    alike = [*(deepcopy(random) for _ in optical.values[1:]), random]  # the same is done to every band
    seen = [augment_optical(band, config.photometry, own) for band, own in zip(optical.values, alike, strict=True)]
    optical = Patch(np.stack(seen), optical.valid)
    sar = Patch(augment_sar(sar.values[0], config.photometry, random)[None], sar.valid)
    sample = Sample.of(optical, sar, place.astype(np.float32))
    return sample._replace(optical=torch.from_numpy(optical_input(optical, config.bands)))


def _partly_hidden(patch: Patch, kept: Points, share: float, random: np.random.Generator) -> Patch:
    """In `share` of the cases, without what lies beyond a line at 20 px or more from the place that is kept."""
    if random.random() >= share:
        return patch
    height, width = patch.valid.shape
    y, x = np.mgrid[:height, :width]
    angle = random.uniform(0, 2 * np.pi)
    beyond = (x - kept[0]) * np.cos(angle) + (y - kept[1]) * np.sin(angle) > random.uniform(20, max(20, height / 2))
    return Patch(np.where(beyond, 0, patch.values), patch.valid & ~beyond)


def _resample(patch: Patch, at: Points, zoom: float) -> Patch:
    """(bands, h, w) at (h, w, 2) places; mirrored outside."""
    low = np.floor(at.min(axis=(0, 1))).astype(int) - 4
    high = np.ceil(at.max(axis=(0, 1))).astype(int) + 5
    height, width = patch.valid.shape
    low, high = np.clip(low, 0, [width - 1, height - 1]), np.clip(high, 1, [width, height])
    seen = part(patch, Window(*low, *(high - low)))
    bands, mask = [softened(band[None], zoom) for band in seen.values], seen.valid.astype(np.uint8)
    x, y = (at - low).astype(np.float32).transpose(2, 0, 1)
    values = [cv2.remap(band, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101) for band in bands]
    valid = cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101).astype(bool)
    return Patch(np.where(valid, np.stack(values), 0).astype(np.float32), valid)
