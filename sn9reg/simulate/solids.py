"""Shapes as an image sees them, block by block: lying on the ground or standing on it; what light or radar reaches."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.simulate.landuse import Shapes, Solid
from sn9reg.simulate.noise import Image
from sn9reg.simulate.roads import closed

STOREY, BAY = 3.0, 3.3  # metres from window to window, up and along a wall
_SHIFT = 4  # coordinates are drawn in steps of 1/16 px
# The canvas is larger than the block by the longest way between two vertices, so that blocks agree at their seams.
_MARGIN = 64
Labels = npt.NDArray[np.int32]  # (h, w)
Move = Callable[[Points], Points]  # of map coordinates
# What a pixel of an image shows: nothing, ground, ground in shadow, what stands on the ground from above, its sides.
Surface = IntEnum("Surface", "NOTHING GROUND SHADOW TOP SIDE", start=0)


class Sketch:
    """Outlines in subpixels, in painting order."""

    def __init__(self, outlines: Sequence[Points], width: npt.ArrayLike, grid: Grid, move: Move = np.asarray) -> None:
        """From map coordinates, each moved by `move` first; width: (n,) in metres, 0 for a filled polygon."""
        xy, first = _in_pixels(outlines, grid, move)
        widths = np.asarray(width, np.float64)
        self._thickness = np.where(widths > 0, np.maximum(1, np.rint(widths / grid.resolution)), 0).astype(np.int64)
        reach = self._thickness[:, None] / 2 + 2
        self._low = np.minimum.reduceat(xy, first[:-1]) - reach
        self._high = np.maximum.reduceat(xy, first[:-1]) + reach
        self._outlines = np.split(np.rint(xy * (1 << _SHIFT)).astype(np.int32), first[1:-1])

    def drawn(self, window: Window) -> Labels:
        """(h, w) outlines painted one over the other: the number of that on top, from 1; 0 where there is none."""
        wide = window.grow(_MARGIN)
        canvas = np.zeros(wide.shape, np.int32)
        corner = np.array([wide.col, wide.row], np.int32)
        seen = (self._high >= corner) & (self._low <= corner + np.array([wide.width, wide.height]))
        for index in np.flatnonzero(seen.all(axis=1)).tolist():
            outline, thickness = [self._outlines[index] - (corner << _SHIFT)], int(self._thickness[index])
            if thickness:
                cv2.polylines(canvas, outline, False, index + 1, thickness, cv2.LINE_8, _SHIFT)
            else:
                cv2.fillPoly(canvas, outline, index + 1, cv2.LINE_8, _SHIFT)
        return canvas[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


class Solids:
    """Solids in the pixels of an image, the highest on top. Label k is that of solid k - 1; 0 is the ground."""

    def __init__(self, shapes: Shapes, grid: Grid, move: Move = np.asarray) -> None:
        """From map coordinates, each moved by `move` first."""
        order = np.argsort(np.array(shapes.height, float), kind="stable")
        outlines = [shapes.outlines[k] if shapes.width[k] > 0 else closed(shapes.outlines[k]) for k in order]
        width = np.array(shapes.width, float)
        self._sketch = Sketch(outlines, width[order], grid, move)
        self._labels = np.concatenate([[0], order + 1]).astype(np.int32)  # (n + 1,) in painting order
        self._heights = np.concatenate([[0.0], np.array(shapes.height)[order]]).astype(np.float32)  # metres, likewise
        self.highest = float(self._heights.max())
        xy, first = _in_pixels(shapes.outlines, grid, move)
        start, end = first[:-1], first[1:]
        side, across = xy[start + 1] - xy[start], xy[end - 1] - xy[start]
        length = np.hypot(*side.T)
        tree = np.array(shapes.kind, int)[:, None] == Solid.TREE
        half = np.where(tree, width[:, None] / 2 / grid.resolution, np.column_stack([length, np.hypot(*across.T)]) / 2)
        # (n + 1, 2) by label, in pixels: middle, unit vector of the first side, half of the lengths along and across.
        self.centre = np.vstack([np.zeros(2), np.add.reduceat(xy, start) / (end - start)[:, None]])
        self.along = np.vstack([np.zeros(2), side / np.maximum(length, 1e-6)[:, None]])
        self.half = np.vstack([np.ones(2), np.maximum(half, 0.5)])

    def reached(self, window: Window, towards: Points, rise: float) -> tuple[Image, Labels, Image]:
        """(h, w) heights in metres, labels, and below which height a ray from far is kept off by what stands before it.
        towards: where the ray comes from, a unit vector in pixels; rise: metres by which it rises in a pixel."""
        margin = int(np.ceil(self.highest / rise)) + 2
        index = self._sketch.drawn(window.grow(margin))
        height = self._heights[index]
        hidden = np.zeros(window.shape, np.float32)
        far = int(np.ceil(float(height.max()) / rise)) + 1
        for k, (x, y) in enumerate(steps(towards, far + 1)[1:].tolist(), 1):
            np.maximum(hidden, inner(height, margin, x, y) - np.float32(k * rise), out=hidden)
        return inner(height, margin), inner(self._labels[index], margin), hidden


def _in_pixels(outlines: Sequence[Points], grid: Grid, move: Move) -> tuple[Points, npt.NDArray[np.int64]]:
    """(N, 2) vertices of all outlines in pixels, and (n + 1,) where each begins, and the last ends."""
    xy = grid.to_pixel(move(np.concatenate([np.zeros((0, 2)), *outlines])))
    return xy, np.cumsum([0, *map(len, outlines)])


def steps(direction: Points, count: int) -> npt.NDArray[np.int64]:
    """(count, 2) whole pixels x, y after 0, 1, ... steps along a direction in pixels."""
    return np.rint(np.arange(count)[:, None] * direction).astype(np.int64)


def inner(array: npt.NDArray[Any], margin: int, x: int = 0, y: int = 0) -> npt.NDArray[Any]:
    """What lies x, y pixels further than the middle of an array that has `margin` pixels around it."""
    height, width = array.shape
    return array[margin + y : height - margin + y, margin + x : width - margin + x]
