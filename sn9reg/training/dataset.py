"""Samples out of folders of registered pairs, for training and for validation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from sn9reg.degradation import Degradation
from sn9reg.errors import ConfigError, InputError
from sn9reg.pair_folder import pair_files
from sn9reg.scene import Patch
from sn9reg.training.sample import Geometry, Photometry, augment_optical, augment_sar, cut, finish
from sn9reg.training.split import hold_out

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A folder of pairs. weight: share of the samples. zoom: range of magnification, drawn on its logarithm; used for
    `zoomed` of the samples, the others keep their pixels. held_out: share of the pairs kept for validation, on ground
    that the others do not show."""

    folder: str
    weight: float = 1.0
    zoom: tuple[float, float] = (1.0, 1.0)
    zoomed: float = 1.0
    held_out: float = 0.0


class Sample(NamedTuple):
    """optical: (1, O, O), sar: (1, S, S) float32. place: (2,) row, col of the template in the patch. In a batch each
    has a leading dimension."""

    optical: Tensor
    sar: Tensor
    place: Tensor


Pairs = list[tuple[Patch, Patch]]


def load(source: Source, seed: int) -> tuple[Pairs, Pairs]:
    """Pairs for training, and those held out. Raises InputError where the folder has none or a file cannot be read."""
    pairs = []
    for files in pair_files(source.folder):
        optical, sar = files.read(native=True)
        if optical.valid.shape != sar.valid.shape:
            raise InputError(f"{files.optical} and {files.sar.name} differ in size; a registered pair does not")
        pairs.append((optical, sar))
    held = np.zeros(len(pairs), bool)
    if source.held_out:
        held = hold_out([optical.values.mean(axis=0) for optical, _ in pairs], source.held_out, seed)
    log.info("%s: %d pairs, %d held out", source.folder, len(pairs), int(held.sum()))
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
            optical, sar = part[random.integers(len(part))]
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
    """One fixed sample per pair: the middle of the image, the template at a place drawn by the seed."""

    def __init__(self, pairs: Pairs, geometry: Geometry, degradation: Degradation, seed: int = 0) -> None:
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
