"""How a displacement changes over a scene: block by block, the affine under which all surfaces are highest together.

A template alone often finds the wrong place. So does a vote of neighbours where the scale differs or the ground rises:
their surfaces have no peak in common. A few dozen that move by one affine have.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter

from sn9reg.matchers.dense.lattice import Lattice
from sn9reg.raster.grid import Points

Volume = npt.NDArray[np.float32]  # (N, D, D) surfaces, each around its expected shift
Matrix = npt.NDArray[np.float64]  # (2, 2) change of the shift, pixels per pixel
Prediction = Callable[[Points], Points]  # (M, 2) places -> shifts

_BLOCK = 16  # nodes to a side of a block at most; blocks overlap by half ...
_WIDEST, _NARROWEST = 640, 6  # ... and are no wider than so many pixels, unless these are fewer nodes
_FEWEST = 4  # templates that a block needs
_BLUR = 0.7  # pixels: shifts are looked for in whole pixels, and must not miss narrow peaks
_SCALES = tuple(np.linspace(-0.14, 0.14, 15))  # differences of scale with which the search begins
_STEPS = (0.04, 0.02, 0.01)  # by which it then changes one entry of the matrix after another
_STEEPEST = 0.2  # entry of the matrix
_WORTH = 1.005  # a step must raise the surfaces by this factor
_NEAR = 8  # pixels around the shift before a step in which the one after it is looked for
_STIFF = 8.0  # pixels by which half a block differs from the whole only for surfaces a standard deviation higher


def trend(surfaces: Volume, usable: npt.NDArray[np.bool_], lattice: Lattice, scaled: bool) -> Prediction:
    """From places, in pixels of the level, to the shifts that the surfaces add to those expected. First every block for
    itself; then, where there are several of half their side, how these differ from that. surfaces: (N, D, D), one for
    each node. usable: (N,) which of them say anything. scaled: whether the scale may differ by more than a little."""
    nodes, values = lattice.nodes, surfaces - np.median(surfaces.reshape(len(surfaces), -1), axis=1)[:, None, None]
    values = values / np.maximum(values.std(axis=(1, 2), keepdims=True), 1e-9)
    volume = np.asarray(gaussian_filter(values, (0, _BLUR, _BLUR)), np.float32)
    side = int(np.clip(_WIDEST / lattice.spacing, _NARROWEST, _BLOCK))  # of a block, in nodes
    scales, steps = (_SCALES, _STEPS) if scaled else ((0.0,), _STEPS[1:])
    whole = [_Block(volume[n], nodes[n], np.zeros((len(n), 2)), scales, steps) for n in _blocks(lattice, usable, side)]
    found = _blended(np.zeros_like, whole, side / 4 * lattice.spacing)
    halves = list(_blocks(lattice, usable, side // 2))
    if len(halves) < 2:
        return found
    parts = [_Block(volume[n], nodes[n], found(nodes[n]), (0.0,), _STEPS[1:], _STIFF) for n in halves]
    return _blended(found, parts, side / 8 * lattice.spacing)


def _blocks(lattice: Lattice, usable: npt.NDArray[np.bool_], side: int) -> Iterator[npt.NDArray[np.intp]]:
    """Indices of the usable nodes of each block that has enough of them."""
    index = np.arange(lattice.ny * lattice.nx).reshape(lattice.ny, lattice.nx)
    starts = (np.linspace(0, max(0, n - side), 1 + math.ceil(max(0, n - side) / (side / 2))) for n in index.shape)
    for row, col in product(*(np.rint(start).astype(int).tolist() for start in starts)):
        nodes = index[row : row + side, col : col + side].ravel()
        if usable[nodes].sum() >= _FEWEST:
            yield nodes[usable[nodes]]


class _Block:
    """The affine of one block. Call: (M, 2) places -> the (M, 2) shifts that it adds to those known before. scales,
    steps: with which the search begins, and goes on. stiff: pixels, see `_STIFF`."""

    def __init__(
        self, volume: Volume, nodes: Points, before: Points, scales: Sequence[float], steps: Sequence[float],
        stiff: float = math.inf,
    ) -> None:  # fmt: skip
        self.centre = nodes.mean(axis=0)
        self._volume, self._before, self._from_centre = volume, before, nodes - self.centre
        self._stiff, self._radius = stiff, volume.shape[-1] // 2
        candidates = [self._best(scale * np.eye(2)) for scale in scales]
        self.height, self.matrix, self.shift = max(candidates, key=lambda found: found[0])
        side = 2 * _NEAR + 1  # of what is looked at; beyond the surfaces nothing is found
        around = np.pad(volume, ((0, 0), (side, side), (side, side)))
        self._windows = sliding_window_view(around, (side, side), axis=(1, 2))
        for step in steps:
            while self._climbs(step):
                pass

    def __call__(self, xy: Points) -> Points:
        return np.asarray((xy - self.centre) @ self.matrix.T + self.shift)

    def _climbs(self, step: float) -> bool:
        """Change one entry of the matrix by a step, if the surfaces are then higher."""
        for row, col, by in product((0, 1), (0, 1), (step, -step)):
            matrix = self.matrix.copy()
            matrix[row, col] += by
            if np.abs(matrix).max() <= _STEEPEST:
                found = self._near(matrix)
                if found[0] > self.height * _WORTH:
                    self.height, self.matrix, self.shift = found
                    return True
        return False

    def _best(self, matrix: Matrix) -> tuple[float, Matrix, Points]:
        """Mean height of the surfaces, the matrix, and the shift (2,) of the centre for which it is largest."""
        side, total = self._volume.shape[-1], np.zeros(self._volume.shape[1:], np.float32)
        for surface, (dx, dy) in zip(self._volume, self._there(matrix).tolist(), strict=True):
            if max(abs(dx), abs(dy)) < side:
                rows, cols = (slice(max(0, -d), min(side, side - d)) for d in (dy, dx))
                total[rows, cols] += surface[max(0, dy) : side + min(0, dy), max(0, dx) : side + min(0, dx)]
        return self._highest(total, matrix, np.zeros(2, int), self._radius)

    def _near(self, matrix: Matrix) -> tuple[float, Matrix, Points]:
        """As `_best`, of the shifts near the present one alone."""
        corner = self._there(matrix) + self.shift + self._radius + _NEAR + 1
        x, y = np.clip(corner, 0, self._windows.shape[1] - 1).T
        return self._highest(self._windows[np.arange(len(x)), y, x].sum(axis=0), matrix, self.shift, _NEAR)

    def _there(self, matrix: Matrix) -> npt.NDArray[np.int64]:
        """(N, 2) where in each surface the place of no shift of the centre lies, from its middle."""
        return np.rint(self._before + self._from_centre @ matrix.T).astype(np.int64)

    def _highest(self, total: Any, matrix: Matrix, middle: Any, reach: int) -> tuple[float, Matrix, Points]:
        """As `_best`, of the shifts up to `reach` from `middle`, x and y, over which `total` is the surfaces' sum."""
        x, y = (np.arange(-reach, reach + 1) + n for n in middle)
        mean = total / len(self._volume) - (x**2 + y[:, None] ** 2) / self._stiff**2
        mean[np.maximum(np.abs(x), np.abs(y)[:, None]) > self._radius] = -np.inf
        row, col = divmod(int(mean.argmax()), len(x))
        return max(float(mean[row, col]), 1e-6), matrix, np.array([x[col], y[row]])


def _blended(before: Prediction, blocks: Sequence[_Block], reach: float) -> Prediction:
    """What blocks add to the shifts known before: each counts where it is near, and the more, the surer it is."""

    def moved(xy: Points) -> Points:
        total, mass = np.zeros((len(xy), 2)), np.full((len(xy), 1), 1e-12)
        for block in blocks:
            distance = np.linalg.norm(xy - block.centre, axis=1, keepdims=True) / reach
            weight = block.height**2 * (np.exp(-(distance**2) / 2) + 1e-9)
            total, mass = total + weight * block(xy), mass + weight
        return np.asarray(before(xy) + total / mass)

    return moved
