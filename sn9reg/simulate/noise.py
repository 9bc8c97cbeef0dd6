"""Randomness as a function of seed and place: any block of a scene can be drawn alone and fits its neighbours."""

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Points, Window

Image = npt.NDArray[np.float32]  # (h, w)


def hashed(seed: int, columns: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """(len(rows), len(columns)) uint32, evenly spread; one value for each seed and lattice place."""
    key = np.uint32((seed * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF)
    across = _mixed(columns.astype(np.uint32) ^ key)
    down = _mixed(rows.astype(np.uint32) + key)
    return _mixed(across[None, :] ^ (down * np.uint32(0x85EBCA6B))[:, None])


def _mixed(value: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """The 'lowbias32' integer hash of C. Wellons."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        value ^= value >> np.uint32(shift)
        value *= np.uint32(factor)
    return value ^ (value >> np.uint32(16))


def pixel_noise(seed: int, window: Window) -> npt.NDArray[np.uint16]:
    """White noise of a window's shape, uniform over all of uint16."""
    rows, columns = np.ogrid[window.slices()]
    return (hashed(seed, columns[0], rows[:, 0]) >> np.uint32(16)).astype(np.uint16)


def metres(grid: Grid, window: Window, corner: Grid) -> tuple[Image, Image]:
    """(h, w) x and y of a window's pixels, in metres from the corner of another grid, which float32 holds."""
    steps, origin = np.arange(max(window.shape)), np.array([corner.transform.c, corner.transform.f])
    xy = (grid.to_map(np.column_stack([window.col + steps, window.row + steps])) - origin).astype(np.float32)
    x, y = np.meshgrid(xy[: window.width, 0], xy[: window.height, 1])
    return x, y


def texture(seed: int, cell: float, x: Image, y: Image) -> Image:
    """Smooth noise of about unit variance at places x, y (metres): hashed values every `cell` metres, cubic between.
    For cells up to some ten pixels: the interpolation has steps of 1/32 cell."""
    u, v = x / np.float32(cell), y / np.float32(cell)
    left, top = int(np.floor(u.min())) - 2, int(np.floor(v.min())) - 2
    right, bottom = int(np.ceil(u.max())) + 3, int(np.ceil(v.max())) + 3
    values = hashed(seed, np.arange(left, right), np.arange(top, bottom)).astype(np.float32)
    values = values * np.float32(5.2 / 2**32) - np.float32(2.6)
    return np.asarray(cv2.remap(values, u - np.float32(left), v - np.float32(top), cv2.INTER_CUBIC))


def waves(seed: int, wavelength: float, places: Points, count: int = 24) -> npt.NDArray[np.float64]:
    """(N,) smooth isotropic noise of unit variance at map places: plane waves of about one length, all directions."""
    generator = np.random.default_rng([seed, round(wavelength)])
    bearing = (np.arange(count) + generator.random(count)) * (np.pi / count)
    number = 2 * np.pi / (wavelength * generator.uniform(0.75, 1.4, count))
    vectors = np.column_stack([np.cos(bearing), np.sin(bearing)]) * number[:, None]
    phases = generator.uniform(0, 2 * np.pi, count)
    # One wave at a time: places may be many.
    total = sum(np.cos(places @ vector + phase) for vector, phase in zip(vectors, phases, strict=True))
    return np.asarray(total * np.sqrt(2 / count))
