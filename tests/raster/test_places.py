"""No place on Earth is special: where longitude begins again and around the poles, all is as elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform
from support import grids

from sn9reg.apply import apply_offsets
from sn9reg.fit.warp import Warp
from sn9reg.offsets import offsets_between
from sn9reg.raster.grid import Grid, common_grid
from sn9reg.raster.scene import PairFiles
from sn9reg.score.scoring import score
from sn9reg.tiepoints import TiePoints, read_tiepoints, write_tiepoints

LONLAT = CRS.from_epsg(4326)


def around(longitude, latitude, epsg, side):
    return grids.around(longitude, latitude, CRS.from_epsg(epsg), side, n=60)


def degrees(left, top, side=1e-4, n=60):
    return Grid(Affine(side, 0, left, 0, -side, top), n, n, LONLAT)


def whole_turn(left, top):
    return Grid(Affine(1, 0, left, 0, -2e-4, top), 360, 50, LONLAT)


GRIDS = {
    "degrees over 180": degrees(179.997, -16),
    "degrees over -180": degrees(-180.003, -16),
    "degrees east of 180": degrees(180.0001, -16),
    "degrees west of -180": degrees(-180.004, -16),
    "UTM 1S": around(180, -16.003, 32701, 10),
    "UTM 60S": around(180, -16.003, 32760, 10),
    "Mercator over 180": around(180, -16.003, 3857, 10),
    "Mercator over -180": around(-179.9999, -16.003, 3857, 10),
    "cylinder over 180": around(180, -16.003, 4087, 10),
    "Pacific Mercator": around(180, -16.003, 3832, 10),
    "north pole, degrees from -180": whole_turn(-180, 90),
    "north pole, degrees from 0": whole_turn(0, 90),
    "north pole, stereographic": around(0, 90, 3413, 10),
    "north pole, UPS": around(0, 90, 32661, 10),
    "north pole, UTM 33N": around(15, 90, 32633, 10),
    "south pole, degrees": whole_turn(-180, -89.99),
    "south pole, stereographic": around(0, -90, 3031, 10),
    "equator, Paris grads": Grid(Affine(1e-4, 0, 3.0, 0, -1e-4, 50), 60, 60, CRS.from_epsg(4807)),
    "equator, UTM 31N": around(5.04, 44.997, 32631, 10),
}
PAIRS = [
    ("degrees over 180", "UTM 1S"),
    ("UTM 60S", "degrees over 180"),
    ("degrees over 180", "degrees over -180"),
    ("degrees east of 180", "degrees west of -180"),
    ("UTM 60S", "UTM 1S"),
    ("Mercator over 180", "Mercator over -180"),
    ("Mercator over 180", "degrees over -180"),
    ("UTM 1S", "Mercator over -180"),
    ("Pacific Mercator", "cylinder over 180"),
    ("north pole, degrees from -180", "north pole, UPS"),
    ("north pole, stereographic", "north pole, degrees from 0"),
    ("north pole, UTM 33N", "north pole, UPS"),
    ("north pole, UTM 33N", "north pole, degrees from 0"),
    ("south pole, stereographic", "south pole, degrees"),
    ("equator, Paris grads", "equator, UTM 31N"),
]


def ground(grid):
    """What lies at each pixel: waves some 1,000 m long."""
    longitude, latitude = np.radians(transform(grid.crs, LONLAT, *grids.places(grid).T.tolist()))
    x, y = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude)
    waves = [np.sin(6378137 * v / 170) for v in (x, y, np.sin(latitude))]
    return (1000 + 100 * sum(waves)).reshape(grid.shape).astype(np.float32)


@pytest.mark.parametrize(("optical", "sar"), PAIRS)
def test_a_pair_that_lies_right_has_no_offset(tmp_path, optical, sar):
    optical, sar = GRIDS[optical], GRIDS[sar]
    for name, grid in (("o", optical), ("s", sar)):
        grids.write(tmp_path / f"{name}.tif", ground(grid), grid)
    xy = optical.to_pixel(grids.places(optical))
    with PairFiles(tmp_path / "o.tif", tmp_path / "s.tif").open() as pair:
        images, places = [], grids.places(pair.grid)
        for scene, grid in ((pair.optical, optical), (pair.sar, sar)):
            image = scene.read(pair.grid.window)
            inside = grid.holds(grid.to_pixel(pair.grid.map_to_crs(places, grid.crs)))
            assert (image.valid.ravel() != inside).mean() < 0.06  # along the edges
            images.append(image)
        both = images[0].valid & images[1].valid
        assert both.mean() > 0.05
        assert np.median(np.abs(images[0].values - images[1].values)[0, both]) < 8  # of 200
        there = pair.grid.map_to_crs(optical.map_to_crs(grids.places(optical), pair.grid.crs), optical.crs)
    np.testing.assert_allclose(offsets_between(optical, grids.places(optical), there), 0, atol=1e-3)
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


@pytest.mark.parametrize(("optical", "sar"), [("degrees over 180", "Mercator over 180"), PAIRS[0], PAIRS[5]])
def test_a_warp_holds_on_both_sides_of_180_degrees(small_registration, optical, sar):
    """Far from its middle this one would move by kilometres."""
    optical, sar = GRIDS[optical], GRIDS[sar]
    common = common_grid(optical, sar)
    warp = Warp("affine", common.crs, lambda xy: (xy - common.centre) * 1.0005 + common.centre, lambda xy: xy[:, 0])
    verdict = replace(small_registration.verdict, registered=True)
    made = replace(small_registration, optical=optical, sar=sar, grid=common, verdict=verdict)
    made = replace(made, fit=replace(made.fit, warp=warp))
    assert np.abs(made.offsets().read(optical.window)).max() < 0.05
