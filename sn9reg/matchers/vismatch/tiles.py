"""Both scenes of a pair as photographs, tile by tile, for matchers that are made for photographs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Points, Window
from sn9reg.raster.radiometry import SarLog, fill_invalid, optical_grey
from sn9reg.raster.scene import Patch, ScenePair

Floats = npt.NDArray[np.float32]
Photograph = tuple[Floats, Patch]  # (3, h, w) in [0, 1], and what it was made from

_SHARES = (1.0, 99.0)  # percentiles of a scene that become black and white
_SIDE = 16  # images' sides are multiples of this, since networks pool by it and would resample other images
_LAP = 0.1  # overlap of neighbouring tiles, as a share of a tile's side


@dataclass(frozen=True)
class Tile:
    """Windows that are matched at once, pixels of a level.

    core: the part of the optical window whose matches are kept.
    optical: the window of the optical scene.
    sar: the window of the SAR scene.
    """

    core: Window
    optical: Window
    sar: Window

    def in_core(self, xy: Points) -> npt.NDArray[np.bool_]:
        """(N,) whether places, pixels of the level, lie in the core. Each place lies in the core of one tile only."""
        at = np.rint(xy) - [self.core.col, self.core.row]
        return np.asarray(((at >= 0) & (at < [self.core.width, self.core.height])).all(axis=1))


def tiles_of(pair: ScenePair, factor: int, side: int, reach: float) -> Iterator[Tile]:
    """Tiles of about equal size over the overlap of both scenes, in pixels of the common grid coarsened by `factor`.

    side: about the largest side of a tile. reach: pixels by which the SAR window is larger on each side.
    Windows end with the grid, except for the pixels that make their sides multiples of 16.
    """
    whole, lap = pair.grid.coarsen(factor).window, int(_LAP * side)
    w = pair.overlap
    low = w.col // factor, w.row // factor
    size = -(-(w.col + w.width) // factor) - low[0], -(-(w.row + w.height) // factor) - low[1]
    cols, rows = (np.linspace(0, n, max(1, math.ceil(n / (side - 2 * lap))) + 1).astype(int).tolist() for n in size)
    for (top, bottom), (left, right) in itertools.product(itertools.pairwise(rows), itertools.pairwise(cols)):
        core = Window(low[0] + left, low[1] + top, right - left, bottom - top)
        around = core.grow(lap).intersect(whole)
        yield Tile(core, _padded(around), _padded(around.grow(math.ceil(reach)).intersect(whole)))


def _padded(window: Window) -> Window:
    width, height = (-(-n // _SIDE) * _SIDE for n in (window.width, window.height))
    return Window(window.col, window.row, width, height)


@dataclass(frozen=True)
class Photographs:
    """Reads windows of both scenes at a level as photographs, with one contrast stretch for each scene.

    pair: the scenes.
    factor: side of a pixel of the level, in common pixels.
    sar_log: the SAR scene's logarithm.
    optical_range: (2, bands, 1, 1) values that become black and white.
    sar_range: (2, 1, 1, 1) values of the logarithm that become black and white.
    """

    pair: ScenePair
    factor: int
    sar_log: SarLog
    optical_range: Floats
    sar_range: Floats

    @classmethod
    def of(cls, pair: ScenePair, factor: int) -> Photographs:
        optical, sar = (pair.overview(scene)[0] for scene in (pair.optical, pair.sar))
        sar_log = SarLog.of(sar.values, sar.valid)
        ranges = _range(_colours(optical.values), optical.valid), _range(sar_log(sar.values)[None], sar.valid)
        return cls(pair, factor, sar_log, *ranges)

    def optical(self, window: Window) -> Photograph:
        """Three bands as colours, others as grey in three equal bands. Raises InputError for an unreadable scene."""
        patch = self.pair.optical.read(window, self.factor)
        return _photograph(_colours(patch.values), patch, self.optical_range), patch

    def sar(self, window: Window) -> Photograph:
        """The logarithm, in three equal bands. Raises InputError for an unreadable scene."""
        patch = self.pair.sar.read(window, self.factor)
        return _photograph(self.sar_log(patch.values)[None], patch, self.sar_range), patch


def _colours(values: Floats) -> Floats:
    """(bands, h, w) -> (3, h, w) colours for three bands, (1, h, w) grey for any other number."""
    return values if len(values) == 3 else optical_grey(values)[None]


def _range(bands: Floats, valid: npt.NDArray[np.bool_]) -> Floats:
    low, high = np.percentile(bands[:, valid].astype(np.float64), _SHARES, axis=1)
    high = np.maximum(high, low + 1e-6 * np.maximum(1, np.abs(low)))  # a range for a constant scene, too
    return np.stack([low, high])[..., None, None].astype(np.float32)


def _photograph(bands: Floats, patch: Patch, between: Floats) -> Floats:
    low, high = between
    image = np.stack([fill_invalid(band, patch.valid) for band in np.clip((bands - low) / (high - low), 0, 1)])
    # A copy, since torch needs a writable array.
    return np.array(np.broadcast_to(image, (3, *patch.valid.shape)), np.float32, order="C")


def contrast(image: Floats, patch: Patch) -> float:
    """Standard deviation of the valid pixels, in the band where it is largest; 0 without valid pixels."""
    return float(image[:, patch.valid].std(axis=1).max()) if patch.valid.any() else 0.0


def is_valid(patch: Patch, xy: Points) -> npt.NDArray[np.bool_]:
    """(N,) whether the pixels that hold these places are valid."""
    height, width = patch.valid.shape
    col, row = np.rint(xy).T
    inside = (col >= 0) & (col < width) & (row >= 0) & (row < height)
    inside[inside] = patch.valid[row[inside].astype(int), col[inside].astype(int)]
    return np.asarray(inside)
