"""Shapes of the ground as an image sees them: in its pixels, drawn block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.simulate.roads import densified

_SHIFT = 4  # coordinates are drawn in steps of 1/16 px
# The canvas is larger than the block by the longest way between two vertices, so that blocks agree at their seams: a
# line that leaves the canvas is cut there, and may be drawn a pixel aside as far as its next vertex.
MARGIN = 64


@dataclass(frozen=True)
class Sketch:
    """Outlines in subpixels, in painting order."""

    outlines: list[npt.NDArray[np.int32]]  # (k, 2) each
    thickness: npt.NDArray[np.int64]  # (n,) in pixels; 0 for a filled polygon
    boxes: npt.NDArray[np.float64]  # (n, 4) left, top, right, bottom in pixels

    @classmethod
    def of(
        cls, outlines: Sequence[Points], grid: Grid, width: npt.ArrayLike = 0.0,
        move: Callable[[Points], Points] = lambda places: places,
    ) -> Sketch:  # fmt: skip
        """From map coordinates, each moved by `move` first; width in metres, 0 for a filled polygon."""
        if not outlines:
            return cls([], np.zeros(0, np.int64), np.zeros((0, 4)))
        starts = np.cumsum([0, *map(len, outlines[:-1])])
        xy = grid.to_pixel(move(np.concatenate(outlines)))
        widths = np.broadcast_to(np.asarray(width, np.float64), len(outlines))
        thickness = np.where(widths > 0, np.maximum(1, np.rint(widths / grid.resolution)), 0).astype(np.int64)
        low, high = np.minimum.reduceat(xy, starts), np.maximum.reduceat(xy, starts)
        reach = thickness[:, None] / 2 + 2
        fixed = np.rint(xy * (1 << _SHIFT)).astype(np.int32)
        return cls(np.split(fixed, starts[1:]), thickness, np.column_stack([low - reach, high + reach]))

    def paint(self, canvas: npt.NDArray[Any], window: Window, values: npt.NDArray[np.generic] | int) -> None:
        """Paint what touches `window` on its canvas (h, w). values: one for all or one for each outline."""
        left, top, right, bottom = self.boxes.T
        seen = (right >= window.col) & (left <= window.col + window.width)
        seen &= (bottom >= window.row) & (top <= window.row + window.height)
        corner = np.array([window.col, window.row], np.int32) << _SHIFT
        for index in np.flatnonzero(seen).tolist():
            outline = [self.outlines[index] - corner]
            value = values if isinstance(values, int) else values[index].item()
            if self.thickness[index]:
                cv2.polylines(canvas, outline, False, value, int(self.thickness[index]), cv2.LINE_8, _SHIFT)
            else:
                cv2.fillPoly(canvas, outline, value, cv2.LINE_8, _SHIFT)


def drawn(window: Window, dtype: npt.DTypeLike, *layers: tuple[Sketch, npt.NDArray[Any] | int]) -> npt.NDArray[Any]:
    """(h, w) sketches painted one over the other with their values, see `Sketch.paint`, on 0."""
    wide = window.grow(MARGIN)
    canvas = np.zeros(wide.shape, dtype)
    for sketch, values in layers:
        sketch.paint(canvas, wide, values)
    return canvas[MARGIN:-MARGIN, MARGIN:-MARGIN]


def swept(outline: Points, step: npt.NDArray[np.float64]) -> Points:
    """Outline of what a convex outline (k, 2) covers on its way along `step` (2,)."""
    both = np.concatenate([outline, outline + step])
    centre = both.mean(axis=0)  # float32 holds metres near the centre, not map coordinates
    hull = cv2.convexHull((both - centre).astype(np.float32))
    return closed(hull[:, 0].astype(np.float64) + centre)


def closed(corners: Points) -> Points:
    """The outline through (k, 2) corners and back, with vertices as near to each other as `MARGIN` asks for."""
    return densified(np.concatenate([corners, corners[:1]]), 12.0)
