"""Rasters and offset maps on given grids."""

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as transform_coordinates

from sn9reg.offsets import OffsetMap
from sn9reg.raster.grid import Grid
from support.rasters import write_raster


def write(path, array, grid, **options):
    """(h, w) or (count, h, w) values as a GeoTIFF on a grid, see `write_raster`."""
    return write_raster(path, array if array.ndim == 3 else array[None], grid.transform, grid.crs, **options)


def offsets_of(array, grid, **options):
    """(2 or 3, h, w) values as an offset map."""
    array = np.asarray(array, np.float32)
    return OffsetMap(grid, lambda window: array[(slice(None), *window.slices())], **options)


def constant(grid, *values, **options):
    """The map of the same offsets, and perhaps sigma, everywhere."""
    whole = np.broadcast_to(np.array(values, np.float32)[:, None, None], (len(values), *grid.shape))
    return offsets_of(whole, grid, sigma=len(values) == 3, **options)


def places(grid):
    """(N, 2) map coordinates of the centres of a grid's pixels, row by row."""
    x, y = np.meshgrid(np.arange(grid.width), np.arange(grid.height))
    return grid.to_map(np.column_stack([x.ravel(), y.ravel()]))


def around(longitude, latitude, crs, side, n=100, angle=0, south_up=False, shift=(0, 0)):
    """A grid of n x n pixels whose centre lies at a place, or `shift` pixels from it."""
    (x,), (y,) = transform_coordinates(CRS.from_epsg(4326), crs, [longitude], [latitude])
    transform = Affine.translation(x, y) * Affine.rotation(angle) * Affine.scale(side, side if south_up else -side)
    return Grid(transform * Affine.translation(shift[0] - n / 2, shift[1] - n / 2), n, n, crs)
