"""Means, weighted by area, over the pixels of a file that lie under those of a grid, its columns along the file's."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

_LEAST = 1e-3  # of a pixel: that little of a pixel is what rounding leaves of the one beside it


@dataclass(frozen=True)
class Steps:
    """The columns (or rows) of a file under a grid's: column c covers first + step * c to first + step * (c + 1)."""

    first: float
    step: float  # 1 or more

    def weights(self, start: int, count: int, size: int) -> tuple[slice, csr_array]:
        """The file's columns under `count` of the grid from `start` on, and the (count, those) shares that they have.

        size: how many columns the file has. Shares sum to 1, less only at its edges.
        """
        low = self.first + self.step * (start + np.arange(count)[:, None])
        column = np.floor(low + _LEAST).astype(int) + np.arange(int(np.ceil(self.step)) + 1)
        share = np.minimum(low + self.step, column + 1) - np.maximum(low, column)
        row, tap = np.nonzero((share > _LEAST) & (column >= 0) & (column < size))
        column, share = column[row, tap], share[row, tap] / self.step
        held = slice(int(column.min()), int(column.max()) + 1) if len(column) else slice(0, 0)
        return held, csr_array((share.astype(np.float32), (row, column - held.start)), (count, held.stop - held.start))


def means(
    values: npt.NDArray[np.generic], valid: npt.NDArray[np.bool_], down: csr_array, across: csr_array
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """(bands, h, w) means of the valid ones among (bands, H, W) values, and (h, w) whether any was valid.

    down, across: (h, H) and (w, W) shares. NaN must not be among valid values.
    """

    def total(layer: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        return np.asarray((across @ (down @ np.asarray(layer, np.float32)).T).T)

    if valid.all():
        weight = np.outer(down.sum(axis=1), across.sum(axis=1))
    else:
        weight, values = total(valid), np.where(valid, values, 0)
    mean = np.stack([total(layer) for layer in values]) / np.maximum(weight, 1e-9)
    return mean.astype(np.float32, copy=False), weight > 1e-9
