"""Keypoint samples for training and validation: tiles of scenes with tie-points, and displaced registered pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from sn9reg.errors import InputError
from sn9reg.raster.files import PathLike
from sn9reg.raster.grid import Points
from sn9reg.raster.radiometry import Image, Modality
from sn9reg.raster.scene import Patch
from sn9reg.training.data import Parts, drawn, located, usable
from sn9reg.training.displaced import corners, displaced
from sn9reg.training.sample import Sample
from sn9reg.training.tiles import TileSet, scene_files, tile_set

if TYPE_CHECKING:
    from sn9reg.training.keypoints import KeypointConfig

Tile = tuple[TileSet, int]
Key = tuple[int, int]  # epoch, index


class KeypointSamples(Dataset[Sample]):
    """In each epoch every tile once, then other `config.samples` of registered pairs. Its length is an epoch's."""

    def __init__(self, config: KeypointConfig, tiles: Sequence[Tile], parts: Parts) -> None:
        self.config, self.tiles, self.parts = config, tiles, usable(parts)

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


class Epochs(Sampler[list[Key]]):
    """Endless batches of keys, those of each epoch in an order of its own; the last batch of an epoch may be smaller.

    length: samples of an epoch. first: the epoch to begin with.
    """

    def __init__(self, length: int, batch: int, seed: int, first: int = 0) -> None:
        self.length, self.batch, self.seed, self.first = length, batch, seed, first

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch in count(self.first):
            random = torch.Generator().manual_seed(1000 * self.seed + epoch)
            # As the orders of Lightning's epochs: a loader draws a seed first, and is begun twice in all but the first.
            torch.empty(2 if epoch else 1, dtype=torch.int64).random_(generator=random)
            keys = [(epoch, index) for index in torch.randperm(self.length, generator=random).tolist()]
            yield from (keys[start : start + self.batch] for start in range(0, self.length, self.batch))


def tile_sample(tile: Tile, seed: Sequence[int] | None = None) -> Sample:
    """A tile, flipped and turned by quarters at random if there is a seed."""
    tiles, k = tile
    images, place = tiles.images(k), tiles.place[k].astype(np.float64)
    if seed is not None:
        images, place = _turned(images, place, np.random.default_rng(seed))
    return Sample(*map(torch.from_numpy, (images[:1], images[1:], place.astype(np.float32))))


def split(tiles: Sequence[TileSet], held_out: float, seed: int) -> tuple[list[Tile], list[Tile]]:
    """All tiles, for training and held out at random (Hänsch et al., section 4: 80 / 20)."""
    every = [(one, k) for one in tiles for k in range(len(one))]
    order = np.random.default_rng(seed).permutation(len(every))
    count = round(held_out * len(every))
    return [every[i] for i in sorted(order[count:])], [every[i] for i in sorted(order[:count])]


def load_tiles(folders: Sequence[str], finds: Modality, side: int, cache: PathLike) -> list[TileSet]:
    """The tile sets of all scenes in the folders. Raises InputError where there is no tile in any of them."""
    scenes = [scene for folder in folders for scene in scene_files(located(folder))]
    sets = [tile_set(scene, finds, side, cache) for scene in scenes]
    if folders and not sum(map(len, sets)):
        raise InputError(f"{', '.join(folders)}: no tie-point lies in its partner's tile, so there is nothing to learn")
    return sets


def _turned(images: Image, place: Points, random: np.random.Generator) -> tuple[Image, Points]:
    """(C, S, S) flipped and turned at random about pixel S // 2, so that what is in the middle stays there; one row and
    column, wrapped around, is another's."""
    side = images.shape[-1]
    middle = side // 2
    even = 1 - side % 2
    x, y = place - middle
    if random.integers(2):
        images, x = np.roll(images[..., ::-1], even, axis=-1), -x
    if random.integers(2):
        images, y = np.roll(images[..., ::-1, :], even, axis=-2), -y
    if random.integers(2):
        images, x, y = images.swapaxes(-1, -2), y, x
    return np.ascontiguousarray(images), np.clip([middle + x, middle + y], 0, side - 1)


def _keypoint(
    optical: Patch, sar: Patch, side: float, random: np.random.Generator, config: KeypointConfig
) -> tuple[Points, Patch, Patch]:
    """A place at least half a tile from the border, and the part of the images that is needed around it, to which large
    images are cut at random first: their corners are not worth finding all at once."""
    size = np.array(optical.valid.shape[::-1])
    need = np.minimum(np.ceil(2.5 * side).astype(int), size)
    start = random.integers(0, size - need + 1)
    rows, cols = (slice(start[k], start[k] + need[k]) for k in (1, 0))
    optical, sar = (Patch(p.values[:, rows, cols], p.valid[rows, cols]) for p in (optical, sar))
    low, high = side / 2, need - side / 2
    if random.random() >= config.displacement.anywhere:
        found = corners(optical, sar)
        found = found[((found >= low) & (found <= high)).all(axis=1)]
        if len(found):
            return found[int(random.integers(len(found)))].astype(np.float64), optical, sar
    return np.floor(random.uniform(low, high)), optical, sar
