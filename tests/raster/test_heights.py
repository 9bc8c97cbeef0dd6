"""Heights: of any raster, in any CRS, at map positions of a grid."""

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from support import grids

from sn9reg.errors import InputError
from sn9reg.raster.grid import Grid
from sn9reg.raster.heights import read_heights

UTM, LONLAT = CRS.from_epsg(32637), CRS.from_epsg(4326)
IMAGE = grids.around(41.3, 37.7, UTM, 0.5, 400)


def hill(east_north):
    """Metres, at metres from the image's centre."""
    x, y = (east_north - np.array(IMAGE.centre)).T
    return 100 + 0.3 * x - 0.2 * y + 20 * np.sin(x / 40)


def heights_of(path, grid, hole=False):
    """A file of the hill's heights on a grid."""
    values = hill(grid.map_to_crs(grids.places(grid), UTM)).reshape(1, *grid.shape).astype(np.float32)
    if hole:
        values[:, grid.height // 2 - 3 : grid.height // 2 + 3, grid.width // 2 - 3 : grid.width // 2 + 3] = -9999
    return grids.write(path, values, grid, photometric="minisblack", nodata=-9999)


@pytest.mark.parametrize(
    "grid", [grids.around(41.3, 37.7, UTM, 10, 60), grids.around(41.3, 37.7, LONLAT, 5e-5, 90), IMAGE]
)
def test_heights_are_those_of_the_place(tmp_path, grid):
    heights = read_heights(heights_of(tmp_path / "dem.tif", grid), IMAGE)
    places = IMAGE.to_map(np.random.default_rng(0).uniform(20, 380, (300, 2)))
    np.testing.assert_allclose(heights(places), hill(places), atol=1.0)


def test_holes_hold_the_nearest_height(tmp_path):
    heights = read_heights(heights_of(tmp_path / "dem.tif", grids.around(41.3, 37.7, UTM, 10, 60), hole=True), IMAGE)
    assert 80 < heights(np.array([IMAGE.centre]))[0] < 120


def test_what_has_no_heights_here_is_refused(tmp_path):
    elsewhere = heights_of(tmp_path / "far.tif", Grid(Affine(10, 0, 300_000, 0, -10, 4_000_000), 30, 30, UTM))
    with pytest.raises(InputError, match=r"far\.tif: has heights for 0%"):
        read_heights(elsewhere, IMAGE)
    with pytest.raises(InputError, match="pixel frame"):
        read_heights(elsewhere, Grid.pixel_frame(100, 100))
    with pytest.raises(InputError, match=r"none\.tif: no such file"):
        read_heights(tmp_path / "none.tif", IMAGE)
