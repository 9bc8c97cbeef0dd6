"""Resampling of arrays from one grid to another, from valid pixels only, in any data type."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.warp import transform as transform_coordinates
from scipy.ndimage import map_coordinates
from scipy.sparse import csr_array

from sn9reg.raster.grid import Grid

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[Any]  # (bands, h, w)
Mask = npt.NDArray[np.bool_]  # (bands, h, w), True where there is data

RESAMPLING = ("nearest", "bilinear", "cubic")
_LEAST = 1e-3  # of a pixel: that little of a pixel is what rounding leaves of the one beside it
_BENT = 0.1  # px: from places half way between nodes 16 px apart, where the map is not nearly linear there


def locator(optical: Grid, source: Grid) -> Callable[[Floats, Floats], tuple[Floats, Floats]]:
    """The function from optical pixels x, y to those of `source`: affine in one CRS, a lattice of nodes between two."""
    matrix = np.linalg.inv(source.linear) @ optical.linear

    def affine(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        u, v = source.to_pixel(optical.to_map(np.zeros((1, 2))))[0]
        u, v = matrix[0, 0] * x + matrix[0, 1] * y + u, matrix[1, 0] * x + matrix[1, 1] * y + v
        if source.turn:
            across, down = np.linalg.inv(source.linear)[:, 0] * source.turn
            there = source.transform.a * (u + 0.5) + source.transform.b * (v + 0.5) + source.transform.c
            turns = np.rint((there - source.centre[0]) / source.turn)
            u, v = u - turns * across, v - turns * down
        return u, v

    def exactly(x: Floats, y: Floats) -> Floats:
        places = optical.to_map(np.column_stack([x.ravel(), y.ravel()]))
        xy = np.column_stack(transform_coordinates(optical.crs, source.crs, *places.T.tolist()))
        xy[~np.isfinite(xy).all(axis=1)] = np.nan  # a place that the raster's CRS does not know
        return source.to_pixel(xy).T.reshape(2, *x.shape)

    def between_nodes(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        known = np.isfinite(x)
        if not known.any():
            return x, y
        nodes_x, nodes_y = _nodes(x[known]), _nodes(y[known])
        nodes = exactly(*np.meshgrid(nodes_x, nodes_y))
        # Around a pole, and where longitude begins again, nothing lies half way between the nodes: take each pixel.
        between = exactly(*np.meshgrid(*((n[1:] + n[:-1]) / 2 for n in (nodes_x, nodes_y))))
        mean = (nodes[:, 1:, 1:] + nodes[:, 1:, :-1] + nodes[:, :-1, 1:] + nodes[:, :-1, :-1]) / 4
        if (np.abs(between - mean) > _BENT).any():
            u, v = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
            u[known], v[known] = exactly(x[known], y[known])
            return u, v
        at = [np.where(known, (a - line[0]) / (line[1] - line[0]), 0) for a, line in ((y, nodes_y), (x, nodes_x))]
        u, v = (np.where(known, map_coordinates(node, at, order=1, mode="nearest"), np.nan) for node in nodes)
        return u, v

    return affine if optical.crs == source.crs else between_nodes


def _nodes(values: Floats) -> Floats:
    """Places 16 px apart that hold the values between them; at most 257, for a wild offset map would need millions."""
    low, high = float(values.min()), float(values.max())
    return np.linspace(low, max(high, low + 1), min(257, max(2, math.ceil((high - low) / 16) + 1)))


def interpolate(values: Values, valid: Mask, x: Floats, y: Floats, how: str) -> tuple[Values, Mask]:
    """(bands, h, w) values and validity at pixels (x, y), (h, w) each, of (bands, H, W) arrays. how: one of
    `RESAMPLING`. A result is valid where its nearest pixel is valid, and only valid pixels enter it. Integers come back
    unrounded. (cv2.remap rounds coordinates to 1/32 px, takes 32,767 px at most, knows no validity.)"""
    # Two pixels around, so that every tap of the kernel lies in the array.
    values, valid = (np.pad(a, ((0, 0), (2, 2), (2, 2))) for a in (values, valid))
    x, y = x + 2, y + 2
    near_x, near_y = np.floor(x + 0.5).astype(np.intp), np.floor(y + 0.5).astype(np.intp)
    nearest, known = values[:, near_y, near_x], valid[:, near_y, near_x]
    if how == "nearest":
        return nearest, known
    work = working_dtype(values.dtype)
    values = np.where(valid, values, 0).astype(work, copy=False)
    total, weight, _ = _gather(values, valid, x, y, lambda f: [1 - f, f])
    with np.errstate(invalid="ignore", divide="ignore"):
        result = total / weight
    if how == "cubic":  # its negative weights need all of their pixels
        total, _, complete = _gather(values, valid, x, y, cubic_weights)
        result = np.where(complete, total, result)
    # On a whole pixel exactly its value, infinite ones too.
    return np.where(known, np.where((x == near_x) & (y == near_y), nearest, result), 0).astype(work, copy=False), known


def _gather(
    values: Values, valid: Mask, x: Floats, y: Floats, kernel: Callable[[Floats], list[Floats]]
) -> tuple[Values, Values, Mask]:
    """Sums of values and of weights over the valid taps of a separable kernel, and whether all taps are valid."""
    col, row = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    across, down = kernel(x - col), kernel(y - row)
    first, width, real = 1 - len(across) // 2, values.shape[2], values.real.dtype
    shape = (len(values), *x.shape)
    total, weight, complete = np.zeros(shape, values.dtype), np.zeros(shape, real), np.ones(shape, bool)
    flat, known = values.reshape(len(values), -1), valid.reshape(len(valid), -1)
    with np.errstate(invalid="ignore"):  # zero times an infinite value
        for (j, wy), (i, wx) in itertools.product(enumerate(down, first), enumerate(across, first)):
            at, w = (row + j) * width + col + i, (wy * wx).astype(real)
            there = known.take(at, axis=1)
            total += w * flat.take(at, axis=1)
            weight += w * there
            complete &= there
    return total, weight, complete


def cubic_weights(f: Floats) -> list[Floats]:
    """Of the four taps around a place that lies `f` of a step after the second; Catmull-Rom, GDAL's cubic."""
    inner = ((3 * f - 5) * f * f + 2) / 2, ((4 - 3 * f) * f + 1) * f / 2
    return [((2 - f) * f - 1) * f / 2, *inner, (f - 1) * f * f / 2]


def block_means(values: Values, valid: Mask, k: int, shape: tuple[int, int]) -> tuple[Values, Mask]:
    """Means of each k x k block's valid, finite pixels; valid where at least half of it is, and inside the array."""
    valid = valid & np.isfinite(values)
    short = [(0, 0), *((0, n * k - have) for n, have in zip(shape, values.shape[1:], strict=True))]
    blocks = (len(values), shape[0], k, shape[1], k)
    values, valid = (np.pad(array, short).reshape(blocks) for array in (values, valid))
    work = np.complex128 if values.dtype.kind == "c" else np.float64
    number = valid.sum(axis=(2, 4))
    means = np.where(valid, values, 0).sum(axis=(2, 4), dtype=work) / np.maximum(number, 1)
    return means, 2 * number >= k * k


def shares(first: float, step: float, start: int, count: int, size: int) -> tuple[slice, csr_array]:
    """A file's columns (or rows) under `count` of a grid's from `start` on that run along them, and the (count, those)
    shares that they have, by area. Column c of the grid covers first + step * c to first + step * (c + 1) of the file,
    step >= 1, which has `size` columns. Shares sum to 1, less only at its edges."""
    low = first + step * (start + np.arange(count)[:, None])
    column = np.floor(low + _LEAST).astype(int) + np.arange(int(np.ceil(step)) + 1)
    share = np.minimum(low + step, column + 1) - np.maximum(low, column)
    row, tap = np.nonzero((share > _LEAST) & (column >= 0) & (column < size))
    column, share = column[row, tap], share[row, tap] / step
    held = slice(int(column.min()), int(column.max()) + 1) if len(column) else slice(0, 0)
    return held, csr_array((share.astype(np.float32), (row, column - held.start)), (count, held.stop - held.start))


def means(values: Values, valid: Mask, down: csr_array, across: csr_array) -> tuple[Values, Mask]:
    """(bands, h, w) float32 means of the valid ones among (bands, H, W) values, and (h, w) whether any was valid. down,
    across: (h, H) and (w, W) shares. NaN must not be among valid values."""

    def total(layer: Values) -> Values:
        return np.asarray((across @ (down @ np.asarray(layer, np.float32)).T).T)

    if valid.all():
        weight = np.outer(down.sum(axis=1), across.sum(axis=1))
    else:
        weight, values = total(valid), np.where(valid, values, 0)
    mean = np.stack([total(layer) for layer in values]) / np.maximum(weight, 1e-9)
    return mean.astype(np.float32, copy=False), weight > 1e-9


def working_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The type to compute in: float32 holds 16-bit integers and float32 itself; wider types need 64 bits."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        return dtype
    return np.dtype(np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64)
