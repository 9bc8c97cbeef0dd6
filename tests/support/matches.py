"""Matches at places that are given, with numbers that say nothing."""

import numpy as np
from affine import Affine

from sn9reg.fit.correspondences import Correspondences
from sn9reg.raster.grid import Grid
from support.rasters import UTM


def lattice(side, low, high):
    """(side * side, 2) places on a square, row by row."""
    axis = np.linspace(low, high, side)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def matched(xy, there, pixel=0.5, step=1.0, radius=40.0, footprint=96.0, sigma=1.0, crs=UTM, tried=None):
    """Matches of (N, 2) common pixels to (N, 2), whose witnesses saw the same. radius, footprint: matched pixels."""
    grid = Grid(Affine(pixel, 0, 435000, 0, -pixel, 4181000), 5000, 5000, crs)
    numbers = np.repeat([[1.0], [sigma], [0.0], [1.0]], len(xy), axis=1)
    sizes = (radius * step, step, footprint * step, len(xy) if tried is None else tried)
    return Correspondences(grid, xy, there, *numbers, there, *sizes)
