"""Heights of the ground, from any raster of them."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from scipy.ndimage import distance_transform_edt, map_coordinates

from sn9reg.errors import InputError
from sn9reg.raster.files import PathLike, check_bands, grid_of, open_raster, reading
from sn9reg.raster.grid import Grid, Points, is_plane, to_level, warping

# (N, 2) map positions -> (N,) heights, in the unit of the raster.
Heights = Callable[[Points], npt.NDArray[np.float64]]

_MOST = 2048  # nodes to a side
_LEAST = 0.5  # of the ground must have a height


def read_heights(path: PathLike, grid: Grid) -> Heights:
    """Heights at map positions of `grid`, bilinear, from a raster in any CRS; where it has none, the nearest one.
    Raises InputError for a raster that cannot be used or does not cover the ground, and for images without a CRS."""
    factor = -(-max(grid.shape) // _MOST)
    target = grid.coarsen(factor)
    if is_plane(grid.crs):
        raise InputError(f"{path}: heights need images with a CRS on the Earth, not a pixel frame")
    with open_raster(path) as dataset:
        check_bands(dataset, [1])
        own = grid_of(dataset)
        options = warping(own, target) | {"nodata": float("nan"), "dtype": "float32"}
        finer = own.metres_per_pixel < target.metres_per_pixel
        options["resampling"] = Resampling.average if finer else Resampling.bilinear
        with reading(path), WarpedVRT(dataset, **options) as warped:
            values = warped.read(1).astype(np.float64)
    known = np.isfinite(values)
    if known.mean() < _LEAST:
        raise InputError(f"{path}: has heights for {known.mean():.0%} of the images' ground; half is needed")
    if not known.all():
        values = values[tuple(distance_transform_edt(~known, return_distances=False, return_indices=True))]

    def heights(map_xy: Points) -> npt.NDArray[np.float64]:
        at = to_level(grid.to_pixel(map_xy), factor).T[::-1]
        return np.asarray(map_coordinates(values, at, order=1, mode="nearest"))

    return heights
