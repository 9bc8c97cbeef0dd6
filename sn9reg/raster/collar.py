"""Collars and marks: pixels of a file that show no ground, though nothing declares them no data.

A collar is what surrounds an image that was cut along an outline: one exact value up to the border of the file (GDAL's
`nearblack` looks for it, too). A large area of one value inside is as empty. Marks are lines and labels that somebody
drew: they stand at the same pixels of both files, each in one value. Where both images share an outline or a mark, it
looks like the best of matches.
"""

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Window
from sn9reg.raster.view import Patch, SceneThrough, SceneView, halved, in_halves

Mask = npt.NDArray[np.bool_]

_AT_BORDER, _INSIDE = 5e-3, 1e-2  # least share of the pixels of an area of one value that reaches the border, or not
_BLENDED = 2  # pixels around that resampling or compression has blended with it
_WIDEST = 9  # pixels, width from which a line is an area
_STROKE = 8  # least number of pixels of a mark
_REACH = 12  # pixels around a window that tell whether what it cuts off is a mark
_BLOCK = 512  # side of what is read at once, pixels
_SAME = 0.5  # share of equal pixels from which two images are one
_MARKED = 2e-3  # share of the pixels from which a pair counts as marked


@dataclass(frozen=True)
class Trimmed(SceneThrough):
    """A scene without its collar."""

    areas: dict[float, Mask]  # value (see `_keys`) -> where its areas lie in the overview, and one pixel around
    factor: int  # of the overview
    share: float  # of the scene's valid pixels that lie in the collar

    def read(self, window: Window, factor: int = 1) -> Patch:
        """As `Scene.read`, the collar not valid."""
        patch = self.scene.read(window, factor)
        empty, keys = np.zeros(window.shape, bool), _keys(patch.values)
        rows = (window.row + np.arange(window.height)) * factor // self.factor
        cols = (window.col + np.arange(window.width)) * factor // self.factor
        for key, area in self.areas.items():
            near = area[np.clip(rows, 0, len(area) - 1)][:, np.clip(cols, 0, area.shape[1] - 1)]
            empty |= near & (keys == key)
        return _without(patch, _grown(empty & patch.valid, _BLENDED)) if empty.any() else patch


def taken_out(scene: SceneView) -> list[str]:
    """What of a scene is not valid because it shows no ground, in words."""
    said = []
    if isinstance(scene, Unmarked):
        said = ["lines or labels that both images share are taken for no data"]
        scene = scene.scene
    if isinstance(scene, Trimmed):
        said.append(f"areas of one exact value, {scene.share:.1%} of its valid pixels, are taken for no data")
    return said


def trimmed(scene: SceneView, overview: Patch, factor: int) -> SceneView:
    """The scene without its collar; itself where it has none. overview: the whole scene at `factor`."""
    areas = _areas(overview, max(3, _WIDEST // factor | 1))
    if not areas:
        return scene
    empty = np.logical_or.reduce(list(areas.values())) & overview.valid
    if (empty == overview.valid).all():  # an image of one value has no collar
        return scene
    wide = {key: _grown(area, 1) for key, area in areas.items()}
    return Trimmed(scene, wide, factor, float(empty.sum() / overview.valid.sum()))


def _areas(patch: Patch, thick: int) -> dict[float, Mask]:
    """Value -> its connected areas that are large, or reach the border of what is valid and are not small. Lines less
    than `thick` pixels wide are no areas."""
    keys, valid, pixels = _keys(patch.values), patch.valid, int(patch.valid.sum())
    values, counts = np.unique(keys[valid], return_counts=True)
    rim = valid & ~_inner(valid)
    areas: dict[float, Mask] = {}
    for value in values[counts >= _AT_BORDER * pixels]:
        here = _opened((keys == value) & valid, thick)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(here, connectivity=4)
        size = stats[:, cv2.CC_STAT_AREA].copy()
        size[0] = 0
        outside = np.zeros(len(size), bool)
        outside[np.unique(labels[rim])] = True
        found = size >= np.where(outside, _AT_BORDER, _INSIDE) * pixels
        if found.any():
            areas[float(value)] = found[labels]
    return areas


@dataclass(frozen=True)
class Unmarked(SceneThrough):
    """A scene without the marks that stand at the same pixels of another."""

    other: SceneView
    shift: tuple[int, int]  # columns and rows from a pixel of the scene to the same of the other, common grid
    values: tuple[tuple[float, float], ...]  # of each kind of mark, in the scene and in the other, see `_keys`

    def read(self, window: Window, factor: int = 1) -> Patch:
        """As `Scene.read`, the marks not valid; a coarse pixel is the mean of what is valid in it."""
        if factor > 1:
            if max(window.shape) > _BLOCK:  # few of the finer pixels are held at once
                return in_halves(lambda half: self.read(half, factor), window)
            twice = Window(2 * window.col, 2 * window.row, 2 * window.width, 2 * window.height)
            return halved(self.read(twice, factor // 2))
        around, inner = window.grow(_REACH), (slice(_REACH, -_REACH),) * 2
        patch = self.scene.read(around)
        seen = _without(patch, self.marks(around, patch))
        return Patch(seen.values[(slice(None), *inner)], seen.valid[inner])

    def marks(self, window: Window, patch: Patch) -> Mask:
        """(h, w) the marks in a window of the scene, and the pixels blended with them. patch: the window."""
        there = self.other.read(Window(window.col + self.shift[0], window.row + self.shift[1], *window.shape[::-1]))
        keys, valid = (_keys(patch.values), _keys(there.values)), patch.valid & there.valid
        marked = np.zeros(valid.shape, bool)
        for value, other in self.values:
            marked |= _strokes(valid & (keys[0] == value) & (keys[1] == other))
        return _grown(marked, _BLENDED)


def unmarked(optical: SceneView, sar: SceneView, common: Grid) -> tuple[SceneView, SceneView]:
    """Both scenes without the marks that they share; themselves where there are none."""
    shift = _between(optical.grid, sar.grid, common)
    if shift is None:
        return optical, sar
    found: set[tuple[float, float]] = set()
    for row, col in itertools.product(*(_starts(size, 2 * _BLOCK) for size in common.shape)):
        window = Window(col, row, 2 * _BLOCK, 2 * _BLOCK).intersect(common.window)
        there = Window(window.col + shift[0], window.row + shift[1], window.width, window.height)
        found |= _mark_values(optical.read(window), sar.read(there))
    if not found:
        return optical, sar
    values = tuple(sorted(found))
    back = tuple((other, value) for value, other in values)
    return Unmarked(optical, sar, shift, values), Unmarked(sar, optical, (-shift[0], -shift[1]), back)


def _mark_values(one: Patch, other: Patch) -> set[tuple[float, float]]:
    """The values of marks in two patches of the same pixels; none where one image is compared with itself."""
    keys = [_keys(patch.values) for patch in (one, other)]
    both = one.valid & other.valid
    if not both.any() or (keys[0] == keys[1])[both].mean() > _SAME:
        return set()
    flat = np.zeros(both.shape, bool)
    for before, after in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        flat[after] |= both[before] & both[after] & np.logical_and(*(key[before] == key[after] for key in keys))
    pairs, counts = np.unique(np.stack([key[flat] for key in keys], axis=1), axis=0, return_counts=True)
    often = pairs[counts > _MARKED * both.sum()]
    drawn = [_strokes(both & (keys[0] == a) & (keys[1] == b)).sum() for a, b in often]
    return {(float(a), float(b)) for (a, b), n in zip(often, drawn, strict=True) if n > _MARKED * both.sum()}


def _between(optical: Grid, sar: Grid, common: Grid) -> tuple[int, int] | None:
    """Columns and rows of the common grid from an optical pixel to the SAR pixel of the same number. None where the
    files' pixels are no pixels of the common grid, so that no two of them can have one number."""
    if optical.shape != sar.shape or optical.crs != sar.crs:
        return None
    corners = np.array([[0.0, 0.0], [optical.width - 1.0, 0.0], [0.0, optical.height - 1.0]])
    here, there = (common.to_pixel(grid.to_map(corners)) for grid in (optical, sar))
    apart = there - here
    square = np.abs(here - here[0] - corners).max() < 0.01
    whole = np.abs(apart - np.rint(apart[0])).max() < 0.01
    return (round(apart[0, 0]), round(apart[0, 1])) if square and whole else None


def _starts(size: int, side: int) -> list[int]:
    """Where the squares begin that are looked at along an axis."""
    return sorted({max(0, round((size - side) * share)) for share in (0.15, 0.85)}) if size > side else [0]


def _strokes(mask: Mask) -> Mask:
    """The parts of a mask that are thin, and large enough for a stroke."""
    thin = mask & ~_opened(mask, _WIDEST).astype(bool)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(thin.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= _STROKE
    large[0] = False
    return np.asarray(large[labels], bool)


def _keys(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(h, w) one number for the values of all bands of a pixel; others have another."""
    weights = np.sqrt(np.arange(2, len(values) + 2, dtype=np.float64)) if len(values) > 1 else np.ones(1)
    return np.asarray(np.tensordot(weights, values.astype(np.float64), 1))


def _opened(mask: Mask, side: int) -> npt.NDArray[np.uint8]:
    """The parts of a mask into which a square of a side fits."""
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((side, side), np.uint8)))


def _grown(mask: Mask, pixels: int) -> Mask:
    side = 2 * pixels + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)), bool)


def _inner(valid: Mask) -> Mask:
    """The valid pixels whose neighbours are valid, too, and lie in the image."""
    return np.asarray(cv2.erode(np.pad(valid, 1).astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1], bool)


def _without(patch: Patch, empty: Mask) -> Patch:
    return Patch(np.where(empty, np.float32(0), patch.values), patch.valid & ~empty)
