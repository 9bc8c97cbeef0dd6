"""Features of a scene, described tile by tile. What was described last is kept for all who ask for it again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor

from sn9reg.machine import enough_memory
from sn9reg.raster.grid import Window, to_level
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import Patch, ScenePair, SceneView

# (patch, modality) -> features (C, h, w), zero where there is nothing to compare
FeatureExtractor = Callable[[Patch, Modality], Tensor]
Features = tuple[Tensor, Tensor]  # (C, h, w) features and (h, w) mask, 1 where these can be trusted

_SIDE = 512  # of what is described at once, margins included, pixels; larger tiles leave the cache
_LEAST = 64  # of a tile without its margins
_NEARLY_ALL = 0.8  # share of a tile that has to be described for it to be described as a whole
_MOST_KEPT = 6  # scenes and extractors of a pair that are remembered
_KEPT_BYTES = 320 << 20  # two rows of tiles across 40 megapixels


class Described:
    """The features of a scene at any level. margin: pixels at a patch's border within which features feel it; they are
    cut off. cell: side of what the scene itself takes for a pixel, see `TemplateMatcher.cell`. metres: side of a common
    pixel on the ground, where it is known. One thread asks and reads, and others describe. Tiles are kept in half
    precision, which no match depends on."""

    def __init__(
        self, scene: SceneView, kind: Modality, extract: FeatureExtractor, margin: int, cell: int, metres: float | None
    ) -> None:  # fmt: skip
        self._scene, self._kind, self._extract, self._margin, self._metres = scene, kind, extract, margin, metres
        self._side = max(_LEAST, _SIDE // cell - 2 * margin)
        self._tiles: OrderedDict[tuple[int, Window], Future[Features | None]] = OrderedDict()

    @classmethod
    def both(cls, pair: ScenePair, extract: FeatureExtractor, margin: int, cell: int = 1) -> list[Described]:
        """The optical and the SAR scene of a pair, always the same ones, so that nothing is described twice."""

        def of(scene: SceneView, kind: Modality) -> Described:
            key = (id(scene), kind, extract, margin)
            if key not in pair.kept:
                while len(pair.kept) >= _MOST_KEPT:  # a pair that many matchers see, or in many poses
                    del pair.kept[next(iter(pair.kept))]
                metres = None if pair.grid.crs is None else pair.grid.metres_per_pixel
                pair.kept[key] = cls(scene, kind, extract, margin, cell, metres)
            return pair.kept[key]

        return [of(pair.optical, "optical"), of(pair.sar, "sar")]

    def window(self, pool: Executor, window: Window, factor: int, tiled: bool) -> Callable[[], Features | None]:
        """Read a window of a level and have it described in a pool: a function that waits for its features, None if
        nothing there is valid. tiled: from tiles, which are kept; else of the window alone, unless its tiles are there.
        Raises InputError where the scene cannot be read."""
        side, outline = self._side, to_level(self._scene.outline(), factor)
        low, high = np.floor(outline.min(axis=0)).astype(int) - 1, np.ceil(outline.max(axis=0)).astype(int) + 2
        extent = Window(*low.tolist(), *(high - low).tolist())  # nothing beyond is read
        rows = range(window.row // side, (window.row + window.height - 1) // side + 1)
        cols = range(window.col // side, (window.col + window.width - 1) // side + 1)
        places = [Window(col * side, row * side, side, side).intersect(extent) for row in rows for col in cols]
        tiles = [tile for tile in places if not tile.empty]
        if not tiled and not all((factor, tile) in self._tiles for tile in tiles):
            patch = self._read(window, factor)
            return pool.submit(self._described, patch, window.shape).result
        parts = [(tile, self._tile(pool, factor, tile)) for tile in tiles]
        return lambda: _composed(window, parts)

    def _tile(self, pool: Executor, factor: int, tile: Window) -> Future[Features | None]:
        """One tile, described if it is not kept. What was asked for longest ago is forgotten."""
        key, sizes = (factor, tile), {k: _size(asked.result()) for k, asked in self._tiles.items() if _is_there(asked)}
        for oldest in list(sizes):
            if sum(sizes.values()) > _KEPT_BYTES and len(sizes) > 1:
                del sizes[oldest], self._tiles[oldest]
        asked = self._tiles.pop(key, None)
        if asked is None or (asked.done() and not _is_there(asked)):
            asked = pool.submit(self._kept, self._read(tile, factor), tile.shape)
        self._tiles[key] = asked
        return asked

    def _read(self, window: Window, factor: int) -> Patch:
        """A window with its margin."""
        metres = None if self._metres is None else self._metres * factor
        return replace(self._scene.read(window.grow(self._margin), factor), metres=metres)

    def _kept(self, patch: Patch, shape: tuple[int, int]) -> Features | None:
        found = self._described(patch, shape)
        return found and (found[0].half(), found[1].half())

    def _described(self, patch: Patch, shape: tuple[int, int]) -> Features | None:
        """The features of the middle of a patch, so large; the rest is margin."""
        margin, (height, width) = self._margin, shape
        inner = np.s_[..., margin : margin + height, margin : margin + width]
        trusted = patch.valid
        if not trusted[inner].any():
            return None
        with enough_memory():
            features = self._within_valid(patch)
        if not trusted.all():
            trusted = binary_erosion(trusted, iterations=max(1, margin // 4), border_value=1)
        return features[inner].contiguous(), torch.from_numpy(trusted[inner].astype(np.float32)).to(features.device)

    def _within_valid(self, patch: Patch) -> Tensor:
        """The features of a patch, computed only for the box around valid pixels and a margin more; 0 elsewhere."""
        (height, width), spans = patch.valid.shape, []
        for axis, size in ((1, height), (0, width)):
            known = np.flatnonzero(patch.valid.any(axis=axis))
            spans.append(slice(max(0, int(known[0]) - self._margin), min(size, int(known[-1]) + 1 + self._margin)))
        rows, cols = spans
        if (rows.stop - rows.start) * (cols.stop - cols.start) > _NEARLY_ALL * height * width:
            return self._extract(patch, self._kind)
        box = replace(patch, values=patch.values[:, rows, cols], valid=patch.valid[rows, cols])
        part = self._extract(box, self._kind)
        return torch.nn.functional.pad(part, (cols.start, width - cols.stop, rows.start, height - rows.stop))


def _composed(window: Window, parts: list[tuple[Window, Future[Features | None]]]) -> Features | None:
    """The features of a window from those of its tiles."""
    whole: Features | None = None
    for tile, asked in parts:
        if (found := asked.result()) is None:
            continue
        if whole is None:
            on = found[0].device
            whole = torch.zeros(len(found[0]), *window.shape, device=on), torch.zeros(window.shape, device=on)
        part = tile.intersect(window)
        for target, source in zip(whole, found, strict=True):
            target[(..., *part.slices(window))] = source[(..., *part.slices(tile))]
    return whole


def _is_there(asked: Future[Features | None]) -> bool:
    return asked.done() and not asked.cancelled() and asked.exception() is None


def _size(found: Features | None) -> int:
    return sum(part.nbytes for part in found) if found else 0
