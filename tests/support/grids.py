"""Rasters and offset maps on given grids."""

import warnings

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as transform_coordinates

from sn9reg.offsets import OffsetMap
from sn9reg.raster.grid import Grid


def write(path, array, grid, mask=None, colours=None, **options):
    """(h, w) or (count, h, w) values as a GeoTIFF on a grid; `mask` inside the file, `colours` of the bands."""
    array = array if array.ndim == 3 else array[None]
    profile = {"driver": "GTiff", "width": grid.width, "height": grid.height, "count": len(array)}
    profile |= {"dtype": array.dtype, "transform": grid.transform, "crs": grid.crs}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **(profile | options)) as target:
            target.write(array)
            if colours is not None:
                target.colorinterp = colours
            if mask is not None:
                target.write_mask(mask)
    return path


def offsets_of(array, grid, **options):
    """(2 or 3, h, w) values as an offset map."""
    array = np.asarray(array, np.float32)
    return OffsetMap(grid, lambda window: array[(slice(None), *window.slices())], **options)


def constant(grid, *values, **options):
    """The map of the same offsets, and perhaps sigma, everywhere."""
    block = np.array(values, np.float32)[:, None, None]
    return OffsetMap(
        grid, lambda window: np.broadcast_to(block, (len(block), *window.shape)), len(block) == 3, **options
    )


def places(grid):
    """(N, 2) map coordinates of the centres of a grid's pixels, row by row."""
    x, y = np.meshgrid(np.arange(grid.width), np.arange(grid.height))
    return grid.to_map(np.column_stack([x.ravel(), y.ravel()]))


def around(longitude, latitude, crs, side, n=100, angle=0, south_up=False, shift=(0, 0)):
    """A grid of n x n pixels whose centre lies at a place, or `shift` pixels from it."""
    (x,), (y,) = transform_coordinates(CRS.from_epsg(4326), crs, [longitude], [latitude])
    transform = Affine.translation(x, y) * Affine.rotation(angle) * Affine.scale(side, side if south_up else -side)
    return Grid(transform * Affine.translation(shift[0] - n / 2, shift[1] - n / 2), n, n, crs)
