"""register() on a scene as others deliver it: another CRS, turned, half empty, float with NaN, zeros for no data."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import Resampling, calculate_default_transform, reproject
from support.rasters import write_raster

import sn9reg
from sn9reg.errors import ConfigError
from sn9reg.registration import register
from sn9reg.simulate import simulate


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def offsets_of(registration):
    return registration.offsets().read(registration.optical.window)


def mean_distance(offsets, others, where=slice(None)):
    return float(np.hypot(*(offsets[:2] - others[:2]))[where].mean())


@pytest.fixture(scope="module")
def truth(scene):
    return read(scene.offsets)


def reprojected(scene, path, crs, transform=None, size=None):
    with rasterio.open(scene.sar) as sar:
        if transform is None:
            transform, *size = calculate_default_transform(sar.crs, crs, sar.width, sar.height, *sar.bounds)
        values = np.zeros((size[1], size[0]), np.uint16)
        reproject(sar.read(1), values, src_transform=sar.transform, src_crs=sar.crs, src_nodata=0, dst_crs=crs,
                  dst_transform=transform, dst_nodata=0, resampling=Resampling.cubic)  # fmt: skip
    return write_raster(path, values[None], transform, crs, nodata=0)


@pytest.mark.parametrize("how", ["geographic", "mercator", "turned"])
def test_another_crs_gives_nearly_the_same_offsets(scene, aligned, truth, tmp_path, how):
    if how == "turned":
        with rasterio.open(scene.sar) as sar:
            centre = Affine.translation(sar.width / 2, sar.height / 2)
            side = int(np.hypot(sar.width, sar.height)) + 2
            turn = sar.transform @ centre @ Affine.rotation(25) @ Affine.translation(-side / 2, -side / 2)
            path = reprojected(scene, tmp_path / "s.tif", sar.crs, turn, (side, side))
    else:
        path = reprojected(scene, tmp_path / "s.tif", CRS.from_epsg(4326 if how == "geographic" else 3857))
    registration = register(scene.optical, path)
    assert registration.registered, registration.verdict.reason
    assert mean_distance(offsets_of(registration), read(aligned.offsets)) < 8
    assert mean_distance(offsets_of(registration), truth) < 0.15 * mean_distance(truth, 0 * truth)


def test_float_sar_with_nan_for_no_data(scene, aligned, tmp_path):
    with rasterio.open(scene.sar) as sar:
        values = np.where(sar.read() == 0, np.nan, sar.read().astype(np.float32))
        assert np.isnan(values).any()
        path = write_raster(tmp_path / "s.tif", values, sar.transform, sar.crs, nodata=np.nan)
    registration = register(scene.optical, path)
    assert registration.registered
    assert mean_distance(offsets_of(registration), read(aligned.offsets)) < 1


@pytest.mark.parametrize("where", ["right", "swath"])
def test_half_empty_sar(tmp_path, where):
    """The right half is missing, or all beyond the slanting edge of the swath, on the left."""
    half = simulate(tmp_path, 900, 800, seed=2, looks=8, empty=0.5 if where == "swath" else 0.01)
    if where == "right":
        with rasterio.open(half.sar, "r+") as sar:
            values = sar.read()
            values[..., sar.width // 2 :] = 0
            sar.write(values)
    registration = register(half.optical, half.sar)
    exact = read(half.offsets)
    assert registration.registered, registration.verdict.reason
    xy = np.rint(registration.tiepoints().optical_xy[registration.fit.inliers]).astype(int)
    there = (np.clip(xy[:, 1], 0, 799), np.clip(xy[:, 0], 0, 899))
    assert mean_distance(offsets_of(registration), exact, there) < 0.15 * mean_distance(exact, 0 * exact)


@pytest.mark.parametrize("side", ["right", "bottom"])
def test_undeclared_zeros_are_registered_or_refused_never_nonsense(scene, truth, tmp_path, side):
    with rasterio.open(scene.sar) as sar:
        values = sar.read()
        values[(..., slice(values.shape[2] // 2, None)) if side == "right" else
               (0, slice(values.shape[1] // 2, None))] = 0  # fmt: skip
        path = write_raster(tmp_path / "s.tif", values, sar.transform, sar.crs)
    registration = register(scene.optical, path)
    if registration.registered:
        seen = np.s_[:, : truth.shape[2] // 3] if side == "right" else np.s_[: truth.shape[1] // 3]
        assert mean_distance(offsets_of(registration), truth, seen) < 0.25 * mean_distance(truth, 0 * truth)
    else:
        assert not offsets_of(registration).any()
        assert registration.verdict.reason


def test_the_registration_carries_its_evidence(scene, truth):
    registration = register(scene.optical, scene.sar, model="affine")
    assert registration.registered
    assert registration.warp.model == registration.facts()["model"] == "affine"
    assert set(registration.fit.held_out) == {"translation", "affine", "local"}
    assert len(registration.tiepoints()) == len(registration.matches) == registration.verdict.matches
    assert (registration.optical.shape, registration.grid.crs) == (truth.shape[1:], registration.optical.crs)
    expected = registration.as_dict()
    assert expected["expected_error_px"] * registration.optical.resolution == pytest.approx(
        expected["expected_error_m"]
    )
    error = np.median(np.hypot(*(offsets_of(registration) - truth)))
    assert 0.1 < error / registration.expected_error_px < 10


def test_a_matcher_may_be_an_object(scene):
    class Nothing:
        name = "nothing"

        def __init__(self):
            self.pairs = []

        def match(self, pair):
            self.pairs.append(pair)
            raise ConfigError("seen")

    matcher = Nothing()
    with pytest.raises(ConfigError, match="seen"):
        register(scene.optical, scene.sar, matcher=matcher)
    assert matcher.pairs[0].optical.name == str(scene.optical)


def test_the_short_name_is_the_function_each_time(scene):
    for _ in range(2):  # the first use imports the module of the same name
        with pytest.raises(ConfigError, match="nonesuch"):
            sn9reg.registration(scene.optical, scene.sar, matcher="nonesuch")


@pytest.mark.parametrize("wrong", [{"model": "quadratic"}, {"matcher": "nonesuch"}, {"matcher_options": {"speed": 9}}])
def test_options_that_make_no_sense(scene, wrong):
    with pytest.raises(ConfigError, match=r"quadratic|nonesuch|speed"):
        register(scene.optical, scene.sar, **wrong)
