"""What stands on the ground, as a raster of heights from above, and what of it light or radar reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.simulate.landuse import Shapes, Solid
from sn9reg.simulate.noise import Image
from sn9reg.simulate.sketch import Sketch, closed, drawn

STOREY, BAY = 3.0, 3.3  # metres from window to window, up and along a wall
Labels = npt.NDArray[np.int32]  # (h, w)
# What a pixel of an image shows: nothing, ground, ground in shadow, what stands on the ground from above, its sides.
Surface = IntEnum("Surface", "NOTHING GROUND SHADOW TOP SIDE", start=0)


@dataclass(frozen=True)
class Solids:
    """Solids in the pixels of an image, the highest on top. Label k is that of solid k - 1; 0 is the ground."""

    highest: float  # metres
    centre: npt.NDArray[np.float64]  # (n + 1, 2) in pixels
    along: npt.NDArray[np.float64]  # (n + 1, 2) unit vector of the first side, in pixels
    half: npt.NDArray[np.float64]  # (n + 1, 2) half of the length along it and across it, in pixels
    _sketch: Sketch
    _labels: Labels  # (n,) in painting order
    _heights: Image  # (n,) in painting order

    @classmethod
    def of(cls, shapes: Shapes, grid: Grid, move: Callable[[Points], Points] = lambda places: places) -> Solids:
        """From map coordinates, each moved by `move` first."""
        order = np.argsort(shapes.height, kind="stable").tolist()
        line = [w > 0 for w in shapes.width]
        outlines = [shapes.outlines[k] if line[k] else closed(shapes.outlines[k]) for k in order]
        sketch = Sketch.of(outlines, grid, [shapes.width[k] for k in order], move)
        centre, along, half = (np.full((len(order) + 1, 2), value) for value in (0.0, 0.0, 1.0))
        if order:
            count = np.array([len(outline) for outline in shapes.outlines])
            first = np.cumsum(count) - count
            xy = grid.to_pixel(move(np.concatenate(shapes.outlines)))
            centre[1:] = np.add.reduceat(xy, first) / count[:, None]
            side, across = xy[first + 1] - xy[first], xy[first + count - 1] - xy[first]
            length = np.hypot(*side.T)
            along[1:] = side / np.maximum(length, 1e-6)[:, None]
            half[1:] = np.column_stack([length, np.hypot(*across.T)]) / 2
            crown = np.array(shapes.width) / 2 / grid.resolution
            half[1:] = np.maximum(
                np.where((np.array(shapes.kind) == Solid.TREE)[:, None], crown[:, None], half[1:]), 0.5
            )
        heights = np.array(shapes.height, np.float32)[order]
        labels = np.array(order, np.int32) + 1
        return cls(float(heights.max(initial=0.0)), centre, along, half, sketch, labels, heights)

    def drawn(self, window: Window) -> tuple[Image, Labels]:
        """(h, w) heights in metres and labels."""
        labels = drawn(window, np.int32, (self._sketch, self._labels))
        by_label = np.zeros(len(self._heights) + 1, np.float32)
        by_label[self._labels] = self._heights
        return by_label[labels], labels


def steps(direction: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """(count, 2) whole pixels x, y after 0, 1, ... steps along a direction in pixels."""
    return np.rint(np.arange(count)[:, None] * direction).astype(np.int64)


def inner(array: npt.NDArray[Any], margin: int, x: int = 0, y: int = 0) -> npt.NDArray[Any]:
    """What lies x, y pixels further than the middle of an array that has `margin` pixels around it."""
    height, width = array.shape
    return array[margin + y : height - margin + y, margin + x : width - margin + x]


def hidden_below(height: Image, towards: npt.NDArray[np.float64], rise: float, margin: int) -> Image:
    """(h - 2 margin, w - 2 margin): below which height, in metres, a ray from far is kept off by what stands before it.

    towards: where the ray comes from, a unit vector in pixels; rise: metres that it rises in a pixel of the way there.
    """
    count = min(margin, int(np.ceil(float(height.max(initial=0.0)) / rise)) + 1)
    result = np.zeros([side - 2 * margin for side in height.shape], np.float32)
    for k, (x, y) in enumerate(steps(towards, count + 1)[1:].tolist(), 1):
        np.maximum(result, inner(height, margin, x, y) - np.float32(k * rise), out=result)
    return result
