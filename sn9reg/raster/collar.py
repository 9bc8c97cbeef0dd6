"""Collars and marks: pixels of a file that show no ground, though nothing declares them no data.

A collar is what surrounds an image that was cut along an outline: one exact value up to the border of the file (GDAL's
`nearblack` looks for it, too). A large area of one value inside is as empty. Marks are lines and labels that somebody
drew, at the same pixels of both files, each in one value. Shared by both images, either looks like the best match."""

import itertools
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Window
from sn9reg.raster.view import Patch, SceneThrough, SceneView, from_finer

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
        keys, empty = _keys(patch.values), np.zeros(window.shape, bool)
        rows = (window.row + np.arange(window.height)) * factor // self.factor
        cols = (window.col + np.arange(window.width)) * factor // self.factor
        for key, area in self.areas.items():
            empty |= area.take(rows, 0, mode="clip").take(cols, 1, mode="clip") & (keys == key)
        return _without(patch, empty & patch.valid)


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
    share = float(np.any([*areas.values()], axis=0)[overview.valid].mean()) if areas else 0.0
    if share in (0, 1):  # an image of one value has no collar
        return scene
    return Trimmed(scene, {key: _morphed(area, cv2.MORPH_DILATE, 3) for key, area in areas.items()}, factor, share)


def _areas(patch: Patch, thick: int) -> dict[float, Mask]:
    """Value -> its connected areas that are large, or reach the border of what is valid and are not small. Lines less
    than `thick` pixels wide are no areas."""
    keys, pixels = _keys(patch.values), patch.valid.sum()
    inner = _morphed(np.pad(patch.valid, 1), cv2.MORPH_ERODE, 3)[1:-1, 1:-1]
    values, counts = np.unique(keys[patch.valid], return_counts=True)
    areas: dict[float, Mask] = {}
    for value in values[counts >= _AT_BORDER * pixels].tolist():
        labels, sizes = _parts(_morphed((keys == value) & patch.valid, cv2.MORPH_OPEN, thick), 4)
        least = np.full(len(sizes), _INSIDE)
        least[labels[~inner]] = _AT_BORDER
        large = sizes >= least * pixels
        if large.any():
            areas[value] = large[labels]
    return areas


@dataclass(frozen=True)
class Unmarked(SceneThrough):
    """A scene without the marks that stand at the same pixels of another."""

    other: SceneView
    shift: tuple[int, int]  # columns and rows from a pixel of the scene to the same of the other, common grid
    values: tuple[tuple[float, float], ...]  # of each kind of mark, in the scene and in the other, see `_keys`

    def read(self, window: Window, factor: int = 1) -> Patch:
        """As `Scene.read`, the marks not valid; a coarse pixel is the mean of what is valid in it."""
        if factor > 1:  # few of the finer pixels are held at once
            return from_finer(self.read, window, factor, in_two=max(window.shape) > _BLOCK)
        around, inner = window.grow(_REACH), np.s_[..., _REACH:-_REACH, _REACH:-_REACH]
        patch, there = self.scene.read(around), self.other.read(_moved(around, self.shift))
        keys, both = (_keys(patch.values), _keys(there.values)), patch.valid & there.valid
        strokes = [_strokes(both & (keys[0] == value) & (keys[1] == other)) for value, other in self.values]
        seen = _without(patch, np.any(strokes, axis=0))
        return Patch(seen.values[inner], seen.valid[inner])


def unmarked(optical: SceneView, sar: SceneView, common: Grid) -> tuple[SceneView, SceneView]:
    """Both scenes without the marks that they share; themselves where there are none."""
    shift = _between(optical.grid, sar.grid, common)
    if shift is None:
        return optical, sar
    found: set[tuple[float, float]] = set()
    starts = ({max(0, round((size - 2 * _BLOCK) * share)) for share in (0.15, 0.85)} for size in common.shape)
    for row, col in itertools.product(*map(sorted, starts)):  # where the squares begin that are looked at
        window = Window(col, row, 2 * _BLOCK, 2 * _BLOCK).intersect(common.window)
        found |= _mark_values(optical.read(window), sar.read(_moved(window, shift)))
    if not found:
        return optical, sar
    values = tuple(sorted(found))
    back = tuple((other, value) for value, other in values)
    return Unmarked(optical, sar, shift, values), Unmarked(sar, optical, (-shift[0], -shift[1]), back)


def _moved(window: Window, shift: tuple[int, int]) -> Window:
    return replace(window, col=window.col + shift[0], row=window.row + shift[1])


def _mark_values(one: Patch, other: Patch) -> set[tuple[float, float]]:
    """The values of marks in two patches of the same pixels; none where one image is compared with itself."""
    keys, both = (_keys(one.values), _keys(other.values)), one.valid & other.valid
    if not both.any() or (keys[0] == keys[1])[both].mean() > _SAME:
        return set()
    flat = np.zeros(both.shape, bool)  # as the neighbour above or to the left, in both patches
    for before, after in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        flat[after] |= both[before] & both[after] & np.logical_and(*(key[before] == key[after] for key in keys))
    pairs, counts = np.unique(np.stack([key[flat] for key in keys], axis=1), axis=0, return_counts=True)
    least = _MARKED * both.sum()
    often = [(float(a), float(b)) for a, b in pairs[counts > least]]
    return {(a, b) for a, b in often if _strokes(both & (keys[0] == a) & (keys[1] == b)).sum() > least}


def _between(optical: Grid, sar: Grid, common: Grid) -> tuple[int, int] | None:
    """Columns and rows of the common grid from an optical pixel to the SAR pixel of the same number. None where the
    files' pixels are no pixels of the common grid, so that no two of them can have one number."""
    if optical.shape != sar.shape or optical.crs != sar.crs:
        return None
    corners = np.array([[0.0, 0.0], [optical.width - 1.0, 0.0], [0.0, optical.height - 1.0]])
    here, there = (common.to_pixel(grid.to_map(corners)) for grid in (optical, sar))
    shift = np.rint(there[0] - here[0])
    errors = here - here[0] - corners, there - here - shift
    return (int(shift[0]), int(shift[1])) if np.abs(errors).max() < 0.01 else None


def _strokes(mask: Mask) -> Mask:
    """The parts of a mask that are thin, and large enough for a stroke."""
    labels, sizes = _parts(mask & ~_morphed(mask, cv2.MORPH_OPEN, _WIDEST), 8)
    return np.asarray((sizes >= _STROKE)[labels])


def _keys(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(h, w) one number for the values of all bands of a pixel; others have another."""
    weights = np.sqrt(np.arange(2, len(values) + 2, dtype=np.float64)) if len(values) > 1 else np.ones(1)
    return np.asarray(np.tensordot(weights, values.astype(np.float64), 1))


def _parts(mask: Mask, neighbours: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(h, w) the number of the connected part that a pixel belongs to, and how many pixels each has; 0 is none."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=neighbours)
    stats[0, cv2.CC_STAT_AREA] = 0
    return np.asarray(labels, np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], np.int32)


def _morphed(mask: Mask, operation: int, side: int) -> Mask:
    """OpenCV's operation with a square of a side."""
    return cv2.morphologyEx(mask.astype(np.uint8), operation, np.ones((side, side), np.uint8)).astype(bool)


def _without(patch: Patch, empty: Mask) -> Patch:
    """The patch, what is empty and the pixels blended with it not valid."""
    if not empty.any():
        return patch
    empty = _morphed(empty, cv2.MORPH_DILATE, 2 * _BLENDED + 1)
    return Patch(np.where(empty, np.float32(0), patch.values), patch.valid & ~empty)
