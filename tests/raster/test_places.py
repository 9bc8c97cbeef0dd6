"""No place on Earth is special: where longitude begins again and around the poles, all is as elsewhere."""

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform
from support import grids

from sn9reg.apply import apply_offsets
from sn9reg.raster.grid import Grid, common_grid
from sn9reg.raster.scene import PairFiles
from sn9reg.registration import Registration
from sn9reg.score.scoring import score
from sn9reg.tiepoints import TiePoints, read_tiepoints, write_tiepoints

LONLAT = CRS.from_epsg(4326)


def around(longitude, latitude, epsg):
    return grids.around(longitude, latitude, CRS.from_epsg(epsg), 10, n=60)


def degrees(left, top, side=1e-4, crs=LONLAT, n=60):
    return Grid(Affine(side, 0, left, 0, -side, top), n, n, crs)


def whole_turn(left, top):
    return Grid(Affine(1, 0, left, 0, -2e-4, top), 360, 50, LONLAT)


OVER_180, OVER_MINUS_180, UTM_1S, UTM_60S, MERCATOR_180, MERCATOR_MINUS_180 = (
    *(degrees(179.997, -16), degrees(-180.003, -16), around(180, -16.003, 32701), around(180, -16.003, 32760)),
    *(around(180, -16.003, 3857), around(-179.9999, -16.003, 3857)),
)
NORTH, NORTH_FROM_0, UPS, UTM_POLE = whole_turn(-180, 90), whole_turn(0, 90), around(0, 90, 32661), around(9, 90, 32633)
PAIRS = {
    "degrees, UTM": (OVER_180, UTM_1S),
    "UTM, degrees": (UTM_60S, OVER_180),
    "over 180 and -180": (OVER_180, OVER_MINUS_180),
    "east of 180, west of -180": (degrees(180.0001, -16), degrees(-180.004, -16)),
    "Mercator over 180 and -180": (MERCATOR_180, MERCATOR_MINUS_180),
    "UTM, Mercator": (UTM_1S, MERCATOR_MINUS_180),
    "other cylinders": (around(180, -16.003, 3832), around(180, -16.003, 4087)),
    "pole, degrees": (NORTH, UPS),
    "pole, degrees from 0": (around(0, 90, 3413), NORTH_FROM_0),
    "pole, UTM and degrees": (UTM_POLE, NORTH_FROM_0),
    "south pole": (around(0, -90, 3031), whole_turn(-180, -89.99)),
    "grads from Paris": (degrees(3, 50, crs=CRS.from_epsg(4807)), around(5.04, 44.997, 32631)),
}


def ground(grid):
    """What lies at each pixel: waves some 1,000 m long."""
    longitude, latitude = np.radians(transform(grid.crs, LONLAT, *grids.places(grid).T.tolist()))
    x, y = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude)
    waves = [np.sin(6378137 * v / 170) for v in (x, y, np.sin(latitude))]
    return (1000 + 100 * sum(waves)).reshape(grid.shape).astype(np.float32)


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_that_lies_right_has_no_offset(tmp_path, name):
    optical, sar = PAIRS[name]
    for name, grid in (("o", optical), ("s", sar)):
        grids.write(tmp_path / f"{name}.tif", ground(grid), grid)
    xy = optical.to_pixel(grids.places(optical))
    with PairFiles(tmp_path / "o.tif", tmp_path / "s.tif").open() as pair:
        images = [scene.read(pair.grid.window) for scene in (pair.optical, pair.sar)]
        for image, grid in zip(images, (optical, sar), strict=True):
            inside = grid.holds(grid.to_pixel(pair.grid.map_to_crs(grids.places(pair.grid), grid.crs)))
            assert (image.valid.ravel() != inside).mean() < 0.06  # along the edges
        both = images[0].valid & images[1].valid
        assert both.mean() > 0.02
        assert np.median(np.abs(images[0].values - images[1].values)[0, both]) < 8  # of 200
    sar_xy = sar.to_pixel(optical.map_to_crs(grids.places(optical), sar.crs))
    inside = sar.holds(sar_xy)
    zeros = grids.constant(optical, 0, 0)
    apply_offsets(zeros, tmp_path / "s.tif", tmp_path / "out.tif", nodata=-9)
    with rasterio.open(tmp_path / "out.tif") as out:
        values = out.read(1)
    assert ((values.ravel() != -9) != inside).mean() < 0.001
    assert np.median(np.abs(values - ground(optical))[values != -9]) < 8
    points = TiePoints(xy[inside][::97], sar_xy[inside][::97])
    for suffix in (".csv", ".points", ".geojson"):
        write_tiepoints(tmp_path / f"t{suffix}", points, optical, sar)
        result = score(zeros, optical, sar, read_tiepoints(tmp_path / f"t{suffix}", optical, sar))
        assert result.mean_px < 1e-3
        assert result.mean_m < 0.02


def test_a_raster_of_the_whole_earth_has_no_seam(tmp_path):
    """Over 180 degrees its last column has its first one for a neighbour."""
    world = Grid(Affine(1, 0, -180, 0, -1, 90), 360, 180, LONLAT)
    grids.write(tmp_path / "s.tif", np.tile(np.arange(1, 361, dtype=np.float32), (180, 1)), world)
    optical = degrees(177.5, -16, side=0.5, n=10)
    apply_offsets(grids.constant(optical, 0, 0), tmp_path / "s.tif", tmp_path / "out.tif", resampling="nearest")
    with rasterio.open(tmp_path / "out.tif") as out:
        assert out.read(1)[0].tolist() == [358, 359, 359, 360, 360, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("sar", [MERCATOR_180, UTM_1S, OVER_MINUS_180])
def test_a_warp_holds_on_both_sides_of_180_degrees(sar):
    """Far from its middle this one would move by kilometres."""
    optical, common = OVER_180, common_grid(OVER_180, sar)
    made = SimpleNamespace(optical=optical, grid=common, registered=True, facts=dict)
    made.warp = lambda xy: (xy - common.centre) * 1.0005 + common.centre
    assert np.abs(Registration.offsets(made).read(optical.window)).max() < 0.05
