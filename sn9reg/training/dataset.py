"""Samples out of folders of registered pairs, for training and for validation."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.folders import pair_files
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import Patch
from sn9reg.training.geosplit import GeoSplit, PairRef, read_manifest, spatial_split, temporal_split
from sn9reg.training.sample import Geometry, Photometry, augment_optical, augment_sar, cut, finish
from sn9reg.training.split import hold_out

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A folder of pairs, or a manifest of large rasters (see `geosplit`).

    weight: share of the samples. zoom: range of magnification, drawn on its logarithm; used for `zoomed` of the
    samples, the others keep their pixels. held_out: share of a folder's pairs kept for validation, on ground that the
    others do not show. A manifest is parted by `longitude`, or else by `year`; `held_out` then is the share of its test
    set that is looked at. sar_band: of a manifest's rasters.
    Raises ConfigError where not exactly one of folder and manifest is given, and for values out of range.
    """

    folder: str | None = None
    manifest: str | None = None
    weight: float = 1.0
    zoom: tuple[float, float] = (1.0, 1.0)
    zoomed: float = 1.0
    held_out: float = 0.0
    longitude: float | None = None
    year: int = 2018
    sar_band: int = 1

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.manifest is None):
            raise ConfigError("a source needs either a folder or a manifest")
        if not (0 < self.zoom[0] <= self.zoom[1] and self.weight >= 0 and 0 <= self.held_out < 1):
            raise ConfigError(f"{self.name}: zoom, weight or held_out is out of range")

    @property
    def name(self) -> str:
        return str(self.folder or self.manifest)


class Sample(NamedTuple):
    """optical: (1, O, O), sar: (1, S, S) float32. place: (2,) row, col of the template in the patch. In a batch each
    has a leading dimension."""

    optical: Tensor
    sar: Tensor
    place: Tensor


Pairs = Sequence[tuple[Patch, Patch]]


class _Windows(Sequence[tuple[Patch, Patch]]):
    """Windows of a manifest's rasters; another one each time that an item is asked for, unless `fixed`."""

    def __init__(self, pairs: Sequence[PairRef], size: int, seed: int, sar_band: int, fixed: bool = False) -> None:
        self._windows = GeoSplit(pairs, size, seed, sar_band)
        self._epochs = repeat(0) if fixed else count()

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: Any) -> Any:
        self._windows.set_epoch(next(self._epochs))
        optical, sar = (image.numpy() for image in self._windows[index])
        valid = np.ones(optical.shape[1:], bool)
        return Patch(optical, valid), _amplitude(Patch(sar, valid))


def _amplitude(sar: Patch) -> Patch:
    """The patch with decibels, of intensity, turned to amplitude."""
    if not SarLog.of(sar.values, sar.valid).decibel:
        return Patch(np.maximum(sar.values, 0), sar.valid)
    return Patch(np.where(sar.valid, np.power(10, sar.values / 20, dtype=np.float32), np.float32(0)), sar.valid)


def load(source: Source, seed: int, side: int) -> tuple[Pairs, Pairs]:
    """Pairs for training, and those held out. side: of the patches wanted, pixels, for windows of large rasters.
    Raises InputError where there are none or a file cannot be read."""
    if source.manifest is not None:
        acquisitions = read_manifest(source.manifest)
        if source.longitude is not None:
            split = spatial_split(acquisitions, source.longitude)
        else:
            split = temporal_split(acquisitions, source.year)
        few = split[1][:: max(1, round(1 / source.held_out))] if source.held_out else []
        held_out = _Windows(few, side, seed, source.sar_band, fixed=True) if few else []
        return _Windows(split[0], math.ceil(side / min(1, source.zoom[0])), seed, source.sar_band), held_out
    pairs = []
    for files in pair_files(str(source.folder)):
        optical, sar = files.read(native=True)
        if optical.valid.shape != sar.valid.shape:
            raise InputError(f"{files.optical} and {files.sar.name} differ in size; a registered pair does not")
        pairs.append((optical, _amplitude(sar)))
    held = np.zeros(len(pairs), bool)
    if source.held_out:
        held = hold_out([optical.values.mean(axis=0) for optical, _ in pairs], source.held_out, seed)
    log.info("%s: %d pairs, %d held out", source.name, len(pairs), int(held.sum()))
    return (
        [pair for pair, out in zip(pairs, held, strict=True) if not out],
        [pair for pair, out in zip(pairs, held, strict=True) if out],
    )


class TrainingSamples(IterableDataset[Sample]):
    """Endless random samples of several sources; each worker has a stream of its own, fixed by the seed."""

    def __init__(
        self,
        pairs: list[tuple[Source, Pairs]],
        geometry: Geometry,
        photometry: Photometry,
        degradation: Degradation,
        seed: int,
    ) -> None:
        self.pairs = [(source, part) for source, part in pairs if part and source.weight > 0]
        if not self.pairs:
            raise ConfigError("there is nothing to train on: no source has pairs and a weight above zero")
        self.geometry, self.photometry, self.degradation, self.seed = geometry, photometry, degradation, seed

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        random = np.random.default_rng([self.seed, worker.id if worker else 0])
        weights = np.array([source.weight for source, _ in self.pairs])
        while True:
            source, part = self.pairs[random.choice(len(self.pairs), p=weights / weights.sum())]
            optical, sar = part[int(random.integers(len(part)))]
            low, high = source.zoom
            zoom = float(np.exp(random.uniform(np.log(low), np.log(high)))) if random.random() < source.zoomed else 1.0
            yield self._sample(optical, sar, max(zoom, self.geometry.optical / min(optical.valid.shape)), random)

    def _sample(self, optical: Patch, sar: Patch, zoom: float, random: np.random.Generator) -> Sample:
        one, other, place = cut(optical, sar, self.geometry, zoom, random)
        one = Patch(augment_optical(one.values[0], self.photometry, random)[None], one.valid)
        worse = self.degradation(other.values, random)[0]
        other = Patch(augment_sar(worse, self.photometry, random)[None], other.valid)
        return _sample(*finish(one, other), place)


class ValidationSamples(Dataset[Sample]):
    """One fixed sample per pair: the middle of the image, the template at a place drawn by the seed. Raises InputError
    for an image smaller than the patch."""

    def __init__(self, pairs: Pairs, geometry: Geometry, degradation: Degradation, seed: int = 0) -> None:
        for optical, _ in pairs:
            if min(optical.valid.shape) < geometry.optical:
                height, width = optical.valid.shape
                raise InputError(f"a pair held out is {width} x {height} px, smaller than validation.optical")
        self.pairs, self.geometry, self.degradation, self.seed = pairs, geometry, degradation, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        if index >= len(self.pairs):
            raise IndexError(index)
        random = np.random.default_rng([self.seed, index])
        optical, sar = self.pairs[index]
        place = random.integers(0, self.geometry.optical - self.geometry.sar + 1, 2)
        one, whole = _middle(optical, self.geometry.optical), _middle(sar, self.geometry.optical)
        part = tuple(slice(n, n + self.geometry.sar) for n in place)
        template = self.degradation(whole.values[:, part[0], part[1]].astype(np.float32), random)
        return _sample(*finish(one, Patch(template, whole.valid[part])), place)


def collate(samples: list[Sample]) -> Sample:
    """A batch."""
    return Sample(*(torch.stack([getattr(s, name) for s in samples]) for name in ("optical", "sar", "place")))


def _sample(optical: npt.NDArray[np.float32], sar: npt.NDArray[np.float32], place: npt.NDArray[np.int64]) -> Sample:
    return Sample(torch.from_numpy(optical), torch.from_numpy(sar), torch.from_numpy(np.asarray(place)))


def _middle(patch: Patch, side: int) -> Patch:
    top, left = ((n - side) // 2 for n in patch.valid.shape)
    part = slice(top, top + side), slice(left, left + side)
    return Patch(patch.values[:, part[0], part[1]], patch.valid[part])
