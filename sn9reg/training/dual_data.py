"""Crops of registered pairs for the dual encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from sn9reg.errors import ConfigError
from sn9reg.matchers.dual_encoder.inputs import optical_input, sar_input
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import Patch
from sn9reg.training.dataset import Pairs, Source
from sn9reg.training.dual_config import DualConfig
from sn9reg.training.sample import augment_optical, augment_sar, cut


class Crops(NamedTuple):
    """optical: (B, 3, O, O), sar: (B, 1, S, S), place: (B, 2) row, col of the SAR crop in the optical one, pixels."""

    optical: Tensor
    sar: Tensor
    place: Tensor


class DualSamples(IterableDataset[Crops]):
    """Endless random crops; each worker has a stream of its own."""

    def __init__(self, config: DualConfig, pairs: list[tuple[Source, Pairs]], seed: int) -> None:
        self.config, self.seed = config, seed
        self.pairs = [(source, part) for source, part in pairs if part and source.weight > 0]
        if not self.pairs:
            raise ConfigError("there is nothing to train on: no source has pairs and a weight above zero")

    def __iter__(self) -> Iterator[Crops]:
        worker = get_worker_info()
        random = np.random.default_rng([self.seed, worker.id if worker else 0])
        weights = np.array([source.weight for source, _ in self.pairs])
        while True:
            source, part = self.pairs[random.choice(len(self.pairs), p=weights / weights.sum())]
            yield crops(*part[int(random.integers(len(part)))], source, self.config, random)


class HeldOutCrops(Dataset[Crops]):
    """One fixed crop of every pair that is held out, its grey values as they are."""

    def __init__(self, config: DualConfig, pairs: list[tuple[Source, Pairs]]) -> None:
        self.samples = [
            crops(*pair, source, config, np.random.default_rng([config.seed, index]), train=False)
            for source, part in pairs
            for index, pair in enumerate(part)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Crops:
        return self.samples[index]


def collate(samples: list[Crops]) -> Crops:
    """A batch."""
    return Crops(*(torch.stack(parts) for parts in zip(*samples, strict=True)))


def crops(
    optical: Patch, sar: Patch, source: Source, config: DualConfig, random: np.random.Generator, train: bool = True
) -> Crops:
    """One sample, without the batch's dimension. train: with the changes of grey values of the configuration."""
    low, high = source.zoom
    zoom = float(np.exp(random.uniform(np.log(low), np.log(high)))) if random.random() < source.zoomed else 1.0
    zoom = max(zoom, config.geometry.optical / min(optical.valid.shape))
    one, other, place = cut(optical, sar, config.geometry, zoom, random)
    if train:
        bands = 3 if random.random() < config.colours else 1
        seen = [augment_optical(one.values[0], config.photometry, random) for _ in range(bands)]
        one = Patch(np.stack(seen), one.valid)
        other = Patch(augment_sar(other.values[0], config.photometry, random)[None], other.valid)
    inputs = optical_input(one), sar_input(other, SarLog.of(other.values, other.valid))
    return Crops(torch.from_numpy(inputs[0]), torch.from_numpy(inputs[1]), torch.from_numpy(place))
