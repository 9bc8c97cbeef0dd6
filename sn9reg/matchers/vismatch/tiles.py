"""Both scenes of a pair as photographs, tile by tile, for matchers that are made for photographs."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Points, Window
from sn9reg.raster.radiometry import Modality, SarLog, fill_invalid, optical_grey
from sn9reg.raster.scene import Patch, ScenePair

Floats = npt.NDArray[np.float32]
Photograph = tuple[Floats, Patch]  # (3, h, w) in [0, 1], and what it was made from

_SHARES = (1.0, 99.0)  # percentiles of a scene that become black and white
_SIDE = 16  # images' sides are multiples of this, since networks pool by it and would resample other images
_LAP = 0.1  # overlap of neighbouring tiles, as a share of a tile's side


@dataclass(frozen=True)
class Tile:
    """Windows that are matched at once, pixels of a level."""

    core: Window  # the part of the optical window whose matches are kept
    optical: Window  # of the optical scene
    sar: Window  # of the SAR scene

    def in_core(self, xy: Points) -> npt.NDArray[np.bool_]:
        """(N,) whether places, pixels of the level, lie in the core. Each place lies in the core of one tile only."""
        at = np.rint(xy) - [self.core.col, self.core.row]
        return np.asarray(((at >= 0) & (at < [self.core.width, self.core.height])).all(axis=1))


def tiles_of(pair: ScenePair, factor: int, side: int, reach: float) -> Iterator[Tile]:
    """Tiles of about equal size over the overlap of both scenes, in pixels of the common grid coarsened by `factor`, to
    the end of the grid, but for what makes their sides multiples of 16. side: about the largest side of a tile.
    reach: pixels by which the SAR window is larger on each side."""
    whole, w, lap = pair.grid.coarsen(factor).window, pair.overlap, int(_LAP * side)
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


class Photographs:
    """Reads windows of a scene as photographs, all with one contrast stretch. Three optical bands are colours;
    another number of bands, and SAR's logarithm, are grey, in three equal bands."""

    def __init__(self, pair: ScenePair, modality: Modality, factor: int) -> None:
        self.scene, self.factor = (pair.sar if modality == "sar" else pair.optical), factor
        look = pair.overview(self.scene)[0]
        self.grey = SarLog.of(look.values, look.valid, look.decibel) if modality == "sar" else optical_grey
        self.colours = 3 if modality == "optical" else None  # so many bands are shown as they are
        low, high = np.percentile(self._bands(look.values)[:, look.valid].astype(np.float64), _SHARES, axis=1)
        high = np.maximum(high, low + 1e-6 * np.maximum(1, np.abs(low)))  # a range for a constant scene, too
        self.black, self.white = np.stack([low, high])[..., None, None].astype(np.float32)

    def __call__(self, window: Window) -> Photograph:
        """Raises InputError where the scene cannot be read."""
        patch = self.scene.read(window, self.factor)
        bands = np.clip((self._bands(patch.values) - self.black) / (self.white - self.black), 0, 1)
        image = np.stack([fill_invalid(band, patch.valid) for band in bands])
        # A copy, since torch needs a writable array.
        return np.array(np.broadcast_to(image, (3, *patch.valid.shape)), np.float32, order="C"), patch

    def _bands(self, values: Floats) -> Floats:
        return values if len(values) == self.colours else self.grey(values)[None]


def contrast(image: Floats, patch: Patch) -> float:
    """Standard deviation of the valid pixels, in the band where it is largest; 0 without valid pixels."""
    return float(image[:, patch.valid].std(axis=1).max()) if patch.valid.any() else 0.0


def is_valid(patch: Patch, xy: Points) -> npt.NDArray[np.bool_]:
    """(N,) whether the pixels that hold these places are valid."""
    at = np.rint(xy)
    inside = np.asarray(((at >= 0) & (at < patch.valid.shape[::-1])).all(axis=1))
    col, row = at[inside].astype(int).T
    inside[inside] = patch.valid[row, col]
    return inside
