"""Keypoint samples for training and validation: tiles of scenes with tie-points, and displaced registered pairs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.files import PathLike
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import Patch
from sn9reg.training.dataset import Pairs, Source, load
from sn9reg.training.displaced import KeypointSample, corners, displaced
from sn9reg.training.keypoint_config import KeypointConfig
from sn9reg.training.tiles import TileSet, scene_files, tile_set

log = logging.getLogger(__name__)


class TileSamples(Dataset[KeypointSample]):
    """Tiles of several sets; `turned`: flipped and turned by quarters at random, anew each epoch."""

    def __init__(
        self, tiles: Sequence[tuple[TileSet, int]], turned: bool = False, seed: int = 0, epoch: int = 0
    ) -> None:
        self.tiles, self.turned, self.seed, self.epoch = tiles, turned, seed, epoch

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> KeypointSample:
        tiles, k = self.tiles[index]
        images, place = tiles.images(k), tiles.place[k].astype(np.float64)
        if self.turned:
            images, place = _turned(images, place, np.random.default_rng([self.seed, self.epoch, index]))
        return KeypointSample(
            torch.from_numpy(images[:1]), torch.from_numpy(images[1:]), torch.from_numpy(place.astype(np.float32))
        )


def _turned(
    images: npt.NDArray[np.float32], place: npt.NDArray[np.float64], random: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
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


class DisplacedSamples(Dataset[KeypointSample]):
    """`config.samples` random samples of registered pairs, others each epoch, fixed by the seed."""

    def __init__(self, pairs: list[tuple[Source, Pairs]], config: KeypointConfig, finds: Modality, epoch: int) -> None:
        self.pairs = [(source, part) for source, part in pairs if part and source.weight > 0]
        self.config, self.finds, self.epoch = config, finds, epoch

    def __len__(self) -> int:
        return self.config.samples

    def __getitem__(self, index: int) -> KeypointSample:
        config = self.config
        random = np.random.default_rng([config.seed, self.epoch, index, 1])
        weights = np.array([source.weight for source, _ in self.pairs])
        which = int(random.choice(len(self.pairs), p=weights / weights.sum()))
        source, part = self.pairs[which]
        optical, sar = part[int(random.integers(len(part)))]
        zoom = float(np.exp(random.uniform(*np.log(source.zoom))))
        zoom = max(zoom, 1.3 * config.tile / min(optical.valid.shape))
        keypoint, optical, sar = self._keypoint(optical, sar, config.tile / zoom, random)
        return displaced(
            optical, sar, keypoint, config.tile, self.finds, zoom, config.displacement, config.photometry, random
        )

    def _keypoint(
        self, optical: Patch, sar: Patch, side: float, random: np.random.Generator
    ) -> tuple[npt.NDArray[np.float64], Patch, Patch]:
        """A place at least half a tile from the border, and the part of the images that is needed around it.

        Large images are cut to a random part first: their corners are not worth finding all at once.
        """
        size = np.array(optical.valid.shape[::-1])
        need = np.minimum(np.ceil(2.5 * side).astype(int), size)
        start = random.integers(0, size - need + 1)
        rows, cols = (slice(start[k], start[k] + need[k]) for k in (1, 0))
        optical, sar = (Patch(p.values[:, rows, cols], p.valid[rows, cols]) for p in (optical, sar))
        low, high = side / 2, need - side / 2
        if random.random() >= self.config.displacement.anywhere:
            found = corners(optical, sar)
            found = found[((found >= low) & (found <= high)).all(axis=1)]
            if len(found):
                return found[int(random.integers(len(found)))].astype(np.float64), optical, sar
        return np.floor(random.uniform(low, high)), optical, sar


def split(tiles: Sequence[TileSet], held_out: float, seed: int) -> tuple[list[tuple[TileSet, int]], ...]:
    """All tiles, for training and held out at random (Hänsch et al., section 4: 80 / 20)."""
    every = [(one, k) for one in tiles for k in range(len(one))]
    order = np.random.default_rng(seed).permutation(len(every))
    count = round(held_out * len(every))
    return [every[i] for i in sorted(order[count:])], [every[i] for i in sorted(order[:count])]


def load_tiles(folders: Sequence[str], finds: Modality, side: int, cache: PathLike) -> list[TileSet]:
    """The tile sets of all scenes in the folders. Raises InputError where there is no tile in any of them."""
    sets = [tile_set(scene, finds, side, cache) for folder in folders for scene in scene_files(folder)]
    if folders and not sum(map(len, sets)):
        raise InputError(f"{', '.join(folders)}: no tie-point lies in its partner's tile, so there is nothing to learn")
    return sets


class KeypointData:
    """Everything that a training reads."""

    def __init__(self, config: KeypointConfig, finds: Modality, cache: PathLike) -> None:
        self.config, self.finds = config, finds
        tiles = load_tiles(config.scenes, finds, config.tile, cache)
        self.training, held_out = split(tiles, config.held_out, config.seed)
        if tiles and not self.training:
            raise ConfigError(f"held_out: {config.held_out} of {len(held_out)} tiles leaves none to learn from")
        others = load_tiles(config.validate, finds, config.tile, cache)
        self.held_out = held_out + split(others, 0.0, config.seed)[0]
        self.pairs = [(source, load(source, config.seed, config.tile)[0]) for source in config.pairs]
        log.info("%d tiles for training, %d for validation", len(self.training), len(self.held_out))

    def epoch(self, epoch: int) -> Dataset[KeypointSample]:
        """What is learned from in that epoch."""
        parts: list[Dataset[KeypointSample]] = []
        if self.training:
            parts.append(TileSamples(self.training, self.config.turned, self.config.seed, epoch))
        if self.config.samples and any(part and source.weight > 0 for source, part in self.pairs):
            parts.append(DisplacedSamples(self.pairs, self.config, self.finds, epoch))
        return torch.utils.data.ConcatDataset(parts)
