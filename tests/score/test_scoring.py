"""Scores: bit for bit against a second implementation of SpaceNet 9's scorer, and the unrounded truth."""

import json
import logging
import math

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform
from support.grids import offsets_of
from support.rasters import UTM

from sn9reg.errors import InputError
from sn9reg.offsets import OffsetMap
from sn9reg.raster.folders import data_root
from sn9reg.raster.grid import Grid
from sn9reg.score.scoring import metres, reference, score, sn9_reference
from sn9reg.tiepoints import TiePoints, read_tiepoints

OPTICAL = Grid(Affine(0.3052, 0, 435385.5, 0, -0.3053, 4181428.8), 90, 70, UTM)
KEYS = {"sn9_mean_px", "sn9_score", "n", *(f"{k}_{u}" for k in ("mean", "median", "rmse", "ce90") for u in ("px", "m"))}


def zeros(grid):
    return offsets_of(np.zeros((2, *grid.shape)), grid)


def sar_grid(epsg, size=80):
    """A SAR grid of 0.41 m that lies over the optical one, in any CRS."""
    if epsg == 32637:
        return Grid(Affine(0.4091, 0, 435380.0, 0, -0.4090, 4181431.0), size, size, UTM)
    corner = OPTICAL.map_to_crs(np.array([[435380.0, 4181431.0], [435412.0, 4181399.0]]), CRS.from_epsg(epsg))
    step = (corner[1] - corner[0]) / size
    return Grid(Affine(step[0], 0, corner[0, 0], 0, step[1], corner[0, 1]), size, size, CRS.from_epsg(epsg))


def sn9_again(predicted, optical, sar, table):
    """SpaceNet 9's scorer, written a second time: row by row, from its rules."""
    go, gs = optical.transform.to_gdal(), sar.transform.to_gdal()
    errors = []
    for row in table.itertuples():
        x_opt, y_opt = go[0] + row.optical_col * go[1], go[3] + row.optical_row * go[5]
        x_sar, y_sar = gs[0] + row.sar_col * gs[1], gs[3] + row.sar_row * gs[5]
        if sar.crs != optical.crs:
            (x_sar,), (y_sar,) = transform(sar.crs, optical.crs, [x_sar], [y_sar])
        dx, dy = np.rint((x_sar - x_opt) / go[1]), np.rint((y_sar - y_opt) / go[5])
        px, py = predicted[:, row.optical_row, row.optical_col].astype(np.float64)
        errors.append(math.sqrt((px - dx) ** 2 + (py - dy) ** 2))
    mean = np.mean(errors)
    return mean, 100 / (1 + 0.01 * mean)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), epsg=st.sampled_from([32637, 4326, 3857]), n=st.integers(1, 40))
def test_spacenet_9_bit_for_bit(seed, epsg, n):
    rng, sar = np.random.default_rng(seed), sar_grid(epsg)
    predicted = rng.normal(0, 30, (2, *OPTICAL.shape)).astype(np.float32)
    sizes = {"sar_row": 80, "sar_col": 80, "optical_row": OPTICAL.height, "optical_col": OPTICAL.width}
    table = pd.DataFrame({name: rng.integers(0, size, n) for name, size in sizes.items()})
    points = TiePoints(table[["optical_col", "optical_row"]].to_numpy(), table[["sar_col", "sar_row"]].to_numpy())
    found = score(offsets_of(predicted, OPTICAL), OPTICAL, sar, points)
    for result, array in ((found, predicted), (found.without_registration, 0 * predicted)):
        assert (result.sn9_mean_px, result.sn9_score) == sn9_again(array, OPTICAL, sar, table)


@pytest.mark.parametrize("epsg", [32637, 4326, 3857])
@pytest.mark.parametrize("degrees", [0, 30])
def test_the_reference_itself_has_no_error(epsg, degrees):
    rng, sar = np.random.default_rng(degrees), sar_grid(epsg)
    optical = Grid(OPTICAL.transform * Affine.rotation(degrees), OPTICAL.width, OPTICAL.height, UTM)
    pixels = rng.choice(optical.width * optical.height, 12, replace=False)
    (y, x), results = np.divmod(pixels, optical.width), []
    points = TiePoints(np.column_stack([x, y]), rng.uniform(0, sar.width - 1, (12, 2)))
    for truth in (reference, sn9_reference):
        array = np.full((2, *optical.shape), np.nan)
        array[:, y, x] = truth(optical, sar, points).T
        results.append(score(offsets_of(array, optical), optical, sar, points))
    assert results[0].rmse_px < 1e-4
    assert (results[1].sn9_mean_px, results[1].sn9_score) == (0, 100)


def test_content_that_lies_right_and_down_in_sar_has_positive_offsets():
    sar, points = OPTICAL.coarsen(2), TiePoints([[10.5, 20.5]], [[10.0, 13.0]])  # 5 and 3 SAR px from (5, 10)
    np.testing.assert_allclose(reference(OPTICAL, sar, points), [[10, 6]], atol=1e-6)
    # SpaceNet 9 counts from corners, so that the same point is half a pixel of the coarser image away, rounded.
    np.testing.assert_allclose(sn9_reference(OPTICAL, sar, points), [[10, 6]], atol=1)


def test_statistics_in_pixels_and_metres():
    optical = Grid(Affine(0.5, 0, 500000, 0, -0.5, 4000000), 50, 50, UTM)
    xy = np.column_stack([np.arange(10.0), np.zeros(10)])
    moved = TiePoints(xy, xy + np.column_stack([np.arange(1, 11), np.zeros(10)]))
    result = score(zeros(optical), optical, optical, moved)
    found = [result.mean_px, result.median_m, result.rmse_px, result.ce90_px, result.n]
    assert found == pytest.approx([5.5, 2.75, math.sqrt(38.5), 9.1, 10])
    without = result.without_registration.as_dict()
    assert result.as_dict() == without | {"without_registration": without}
    assert set(without) == KEYS


def test_fractional_points_sample_between_pixels_and_sn9_the_nearest():
    ramp = np.stack([np.tile(np.arange(90.0), (70, 1)), np.zeros((70, 90))])
    points = TiePoints([[10.25, 5.0]], [[10.25, 5.0]])
    (row,) = score(offsets_of(ramp, OPTICAL), OPTICAL, OPTICAL, points).per_point.itertuples()
    assert (row.dx, row.sn9_dx) == (pytest.approx(10.25), 10)


def test_degrees_are_measured_where_the_point_lies():
    grid = Grid(Affine(1e-5, 0, 39.0, 0, -1e-5, 60.0), 100, 100, CRS.from_epsg(4326))
    east, south = metres(grid, np.array([[50.0, 50.0]] * 2), np.array([[100.0, 0], [0, 100.0]]))
    assert np.hypot(*east) == pytest.approx(55.8, rel=2e-3)  # a degree of longitude at 60 degrees north: 55.8 km
    assert np.hypot(*south) == pytest.approx(111.4, rel=2e-3)
    assert np.isnan(metres(Grid.pixel_frame(9, 9), np.zeros((1, 2)), np.ones((1, 2)))).all()


def test_nan_offsets_give_null_and_a_warning(caplog):
    array = np.zeros((2, *OPTICAL.shape))
    array[:, 5, 5] = np.nan
    points = TiePoints([[5.0, 5], [6, 6]], [[5.0, 5], [6, 6]])
    with caplog.at_level(logging.WARNING):
        result = score(offsets_of(array, OPTICAL), OPTICAL, OPTICAL, points)
    assert "1 of 2 tie-points" in caplog.text
    assert math.isnan(result.sn9_mean_px)
    values = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert (values["sn9_mean_px"], values["mean_px"]) == (None, None)
    assert values["without_registration"]["sn9_mean_px"] == 0
    assert result.per_point.error_px.isna().tolist() == [True, False]


def test_a_turned_optical_image_has_no_sn9_step():
    optical = Grid(Affine(0, 0.5, 0, 0.5, 0, 0), 20, 20, UTM)
    result = score(zeros(optical), optical, optical, TiePoints([[3.0, 4.0]], [[5.0, 4.0]])).as_dict()
    assert (result["sn9_mean_px"], result["mean_px"]) == (None, pytest.approx(2))


def test_points_outside_are_named():
    points = TiePoints([(1.0, 1.0), (3, 3)], [(1.0, 1.0), (3, -1)])
    with pytest.raises(InputError, match=r"tie-point 2: .* outside the SAR image"):
        score(zeros(OPTICAL), OPTICAL, sar_grid(32637), points)


def test_real_scenes_without_registration():
    folder = data_root() / "sn9_tiepoints"
    if not folder.exists():
        pytest.skip(f"real tie-points are not here: {folder}")
    facts = json.loads((folder / "geotransforms.json").read_text())
    for name, expected in (("02_tiepoints_train_01", 105.56), ("03_tiepoints_train_01", 104.72)):
        images, crs = (facts[name][image] for image in ("optical", "sar")), CRS.from_string(facts[name]["crs"])
        optical, sar = (
            Grid(Affine.from_gdal(*image["geotransform"]), image["max_col"] + 1, image["max_row"] + 1, crs)
            for image in images
        )
        points = read_tiepoints(folder / f"{name}.csv", optical, sar)
        offsets = OffsetMap(optical, lambda window: np.zeros((2, *window.shape), np.float32))
        assert score(offsets, optical, sar, points).sn9_mean_px == pytest.approx(expected, abs=0.01)
