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
Found = tuple[float, Matrix, Points]  # mean height of the surfaces, and the affine that leads there

_BLOCK = 16  # nodes to a side of a block at most; blocks overlap by half ...
_WIDEST, _NARROWEST = 640, 6  # ... and are no wider than so many pixels, unless these are fewer nodes
_FEWEST = 4  # templates that a block needs
_BLUR = 0.7  # pixels: shifts are looked for in whole pixels, and must not miss narrow peaks
_SCALES = [scale * np.eye(2) for scale in np.linspace(-0.14, 0.14, 15)]  # with which the first search begins
_TILTS = [np.reshape(tilt, (2, 2)) for tilt in product((-0.06, 0.0, 0.06), repeat=4)]  # ... and later ones
_TRIED = 6  # so many of these, the highest, are gone on with; of the first, one: the highest of few templates mislead
_STEPS = (0.04, 0.02, 0.01)  # by which one entry of the matrix after another is then changed
_STEEPEST = 0.2  # entry of the matrix
_WORTH = 1.005  # a step must raise the surfaces by this factor
_NEAR = 8  # pixels around the shift before a step in which the one after it is looked for
_STIFF = 8.0  # pixels by which half a block differs from the whole only for surfaces a standard deviation higher


def trend(surfaces: Volume, usable: npt.NDArray[np.bool_], lattice: Lattice, first: bool) -> Prediction:
    """From places, in pixels of the level, to the shifts that the surfaces add to those expected. First every block for
    itself; then, where there are several of half their side, how these differ from that. surfaces: (N, D, D), one for
    each node. usable: (N,) which of them say anything. first: whether nothing is known yet, not even the scale. Where a
    coarser level said something, it may have been misled: in a city its few templates are high in many places, and a
    wrong affine of six numbers higher than the true one. Finer ones tell these apart, if they are tried."""
    nodes, values = lattice.nodes, surfaces - np.median(surfaces.reshape(len(surfaces), -1), axis=1)[:, None, None]
    values = values / np.maximum(values.std(axis=(1, 2), keepdims=True), 1e-9)
    volume = np.asarray(gaussian_filter(values, (0, _BLUR, _BLUR)), np.float32)
    side = int(np.clip(_WIDEST / lattice.spacing, _NARROWEST, _BLOCK))  # of a block, in nodes
    search = (_SCALES, 1) if first else (_TILTS, _TRIED)
    whole = [_Block(volume[n], nodes[n], np.zeros((len(n), 2)), *search) for n in _blocks(lattice, usable, side)]
    found = _blended(np.zeros_like, whole, side / 4 * lattice.spacing)
    halves = list(_blocks(lattice, usable, side // 2))
    if len(halves) < 2:
        return found
    flat = [np.zeros((2, 2))]
    parts = [_Block(volume[n], nodes[n], found(nodes[n]), flat, 1, _STEPS[1:], _STIFF) for n in halves]
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
    """The affine of one block. Call: (M, 2) places -> the (M, 2) shifts that it adds to those known before. starts,
    steps: with which the search begins, and goes on from the `tried` highest. stiff: pixels, see `_STIFF`."""

    def __init__(
        self, volume: Volume, nodes: Points, before: Points, starts: Sequence[Matrix], tried: int,
        steps: Sequence[float] = _STEPS, stiff: float = math.inf,
    ) -> None:  # fmt: skip
        self.centre = nodes.mean(axis=0)
        self._volume, self._before, self._from_centre = volume, before, nodes - self.centre
        self._stiff, self._radius = stiff, volume.shape[-1] // 2
        self._ys, self._row = np.unique(self._from_centre[:, 1], return_inverse=True)  # of the rows; of each node
        self._summed: dict[tuple[float, ...], Volume] = {}
        side = 2 * _NEAR + 1  # of what is looked at once it is known where; beyond the surfaces nothing is found
        around = np.pad(volume, ((0, 0), (side, side), (side, side)))
        self._windows = sliding_window_view(around, (side, side), axis=(1, 2))
        highest = sorted(map(self._best, starts), key=_height)[-tried:]
        self._summed.clear()
        self.height, self.matrix, self.shift = max((self._climbed(found, steps) for found in highest), key=_height)

    def __call__(self, xy: Points) -> Points:
        return np.asarray((xy - self.centre) @ self.matrix.T + self.shift)

    def _climbed(self, found: Found, steps: Sequence[float]) -> Found:
        """What changes of one entry of the matrix lead to, as long as the surfaces become higher."""
        for step in steps:
            while (higher := self._higher(found, step)) is not found:
                found = higher
        return found

    def _higher(self, found: Found, step: float) -> Found:
        """The first change of one entry by a step that makes the surfaces higher; what was found if there is none."""
        for row, col, by in product((0, 1), (0, 1), (step, -step)):
            matrix = found[1].copy()
            matrix[row, col] += by
            if np.abs(matrix).max() <= _STEEPEST:
                other = self._near(matrix, found[2])
                if other[0] > found[0] * _WORTH:
                    return other
        return found

    def _best(self, matrix: Matrix) -> Found:
        """The shift (2,) of the centre for which the surfaces are highest."""
        side = self._volume.shape[-1]
        total, reach = np.zeros(self._volume.shape[1:], np.float32), side // 2
        for row, (dx, dy) in zip(self._rows(*matrix[:, 0]), _whole(self._ys[:, None] * matrix[:, 1]), strict=True):
            if max(abs(dx), abs(dy)) <= reach:
                total += row[reach + dy : reach + dy + side, reach + dx : reach + dx + side]
        return self._highest(total, matrix, np.zeros(2, int), self._radius)

    def _rows(self, *change: float) -> Volume:
        """(R, 2 D - 1, 2 D - 1) sums of the surfaces of each row of nodes, with zeros around them, if along the row the
        shift changes by so much per pixel. Matrices that differ in the other column alone have them in common."""
        if change not in self._summed:
            side, reach = self._volume.shape[-1], self._volume.shape[-1] // 2
            rows = np.zeros((len(self._ys), *2 * (side + 2 * reach,)), np.float32)
            moved = _whole(self._before + self._from_centre[:, :1] * change)
            for surface, row, (dx, dy) in zip(self._volume, self._row, moved, strict=True):
                if max(abs(dx), abs(dy)) <= reach:
                    rows[row, reach - dy : reach - dy + side, reach - dx : reach - dx + side] += surface
            self._summed[change] = rows
        return self._summed[change]

    def _near(self, matrix: Matrix, shift: Points) -> Found:
        """As `_best`, of the shifts near one alone."""
        corner = self._there(matrix) + shift + self._radius + _NEAR + 1
        x, y = np.clip(corner, 0, self._windows.shape[1] - 1).T
        return self._highest(self._windows[np.arange(len(x)), y, x].sum(axis=0), matrix, shift, _NEAR)

    def _there(self, matrix: Matrix) -> npt.NDArray[np.int64]:
        """(N, 2) where in each surface the place of no shift of the centre lies, from its middle."""
        return np.rint(self._before + self._from_centre @ matrix.T).astype(np.int64)

    def _highest(self, total: Any, matrix: Matrix, middle: Any, reach: int) -> Found:
        """As `_best`, of the shifts up to `reach` from `middle`, x and y, over which `total` is the surfaces' sum."""
        x, y = (np.arange(-reach, reach + 1) + n for n in middle)
        mean = total / len(self._volume) - (x**2 + y[:, None] ** 2) / self._stiff**2
        mean[np.maximum(np.abs(x), np.abs(y)[:, None]) > self._radius] = -np.inf
        row, col = divmod(int(mean.argmax()), len(x))
        return max(float(mean[row, col]), 1e-6), matrix, np.array([x[col], y[row]])


def _whole(shifts: Points) -> list[list[int]]:
    return np.rint(shifts).astype(int).tolist()


def _height(found: Found) -> float:
    return found[0]


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
