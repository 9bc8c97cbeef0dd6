"""sn9reg.register on scenes as others deliver them: in another CRS, turned, half empty, without declared nodata."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import Resampling, calculate_default_transform, reproject
from support.rasters import write_raster

from sn9reg import register
from sn9reg.errors import ConfigError, InputError
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
    """The SAR image in another CRS, as float with NaN for no data."""
    with rasterio.open(scene.sar) as sar:
        if transform is None:
            transform, *size = calculate_default_transform(sar.crs, crs, sar.width, sar.height, *sar.bounds)
        values = np.zeros((size[1], size[0]), np.float32)
        reproject(sar.read(1), values, src_transform=sar.transform, src_crs=sar.crs, src_nodata=0, dst_crs=crs,
                  dst_transform=transform, dst_nodata=np.nan, resampling=Resampling.cubic)  # fmt: skip
    assert np.isnan(values).any()
    return write_raster(path, values[None], transform, crs, nodata=np.nan)


@pytest.mark.parametrize("how", ["geographic", "turned"])
def test_another_crs_gives_nearly_the_same_offsets(scene, aligned, truth, tmp_path, how):
    if how == "turned":
        with rasterio.open(scene.sar) as sar:
            centre = Affine.translation(sar.width / 2, sar.height / 2)
            side = int(np.hypot(sar.width, sar.height)) + 2
            turn = sar.transform @ centre @ Affine.rotation(25) @ Affine.translation(-side / 2, -side / 2)
            path = reprojected(scene, tmp_path / "s.tif", sar.crs, turn, (side, side))
    else:
        path = reprojected(scene, tmp_path / "s.tif", CRS.from_epsg(4326))
    registration = register(scene.optical, path)
    assert registration.registered, registration.verdict.reason
    assert mean_distance(offsets_of(registration), read(aligned.offsets)) < 8
    assert mean_distance(offsets_of(registration), truth) < 0.15 * mean_distance(truth, 0 * truth)


def test_a_sar_image_half_beyond_the_slanting_edge_of_its_swath(tmp_path):
    half = simulate(tmp_path, 900, 800, seed=2, looks=8, empty=0.5)
    registration = register(half.optical, half.sar)
    exact = read(half.offsets)
    assert registration.registered, registration.verdict.reason
    xy = np.rint(registration.tiepoints().optical_xy[registration.fit.inliers]).astype(int)
    there = (np.clip(xy[:, 1], 0, 799), np.clip(xy[:, 0], 0, 899))
    assert mean_distance(offsets_of(registration), exact, there) < 0.15 * mean_distance(exact, 0 * exact)


def test_undeclared_zeros_are_registered_or_refused_never_nonsense(scene, truth, tmp_path):
    with rasterio.open(scene.sar) as sar:
        values = sar.read()
        values[..., values.shape[2] // 2 :] = 0
        path = write_raster(tmp_path / "s.tif", values, sar.transform, sar.crs)
    registration = register(scene.optical, path)
    if registration.registered:
        seen = np.s_[:, : truth.shape[2] // 3]
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

        def match(self, pair):
            raise ConfigError(f"seen {pair.optical.name}")

    with pytest.raises(ConfigError, match=f"seen {scene.optical}"):
        register(scene.optical, scene.sar, matcher=Nothing())


def test_options_that_make_no_sense(small_files, small_registration):
    class Known:
        name = "known"

        def match(self, _pair):
            return small_registration.matches

    wrong = {"quadratic": {"matcher": Known(), "model": "quadratic"}, "nonesuch": {"matcher": "nonesuch"},
             "speed": {"matcher": "structure", "matcher_options": {"speed": 9}}}  # fmt: skip
    for word, options in wrong.items():
        with pytest.raises(ConfigError, match=word):
            register(*small_files, **options)


def test_how_the_images_are_read_reaches_the_files(small_files):
    with pytest.raises(InputError, match="has no band 9"):
        register(*small_files, matcher="structure", sar_bands=[9])
