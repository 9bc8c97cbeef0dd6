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

# Neither the network nor the finest level is the subject here.
QUICK = {"matcher": "structure", "matcher_options": {"work_megapixels": 0.06}}


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


def test_another_crs_turned_gives_right_offsets_too(scene, truth, tmp_path):
    """The SAR image in longitude and latitude, turned by 25 degrees, as float with NaN for no data."""
    with rasterio.open(scene.sar) as sar:
        wgs84 = CRS.from_epsg(4326)
        upright, width, height = calculate_default_transform(sar.crs, wgs84, sar.width, sar.height, *sar.bounds)
        side = int(np.hypot(width, height)) + 2
        middle = Affine.translation(width / 2, height / 2)
        turned = upright @ middle @ Affine.rotation(25) @ Affine.translation(-side / 2, -side / 2)
        values = np.zeros((side, side), np.float32)
        reproject(sar.read(1), values, src_transform=sar.transform, src_crs=sar.crs, src_nodata=0, dst_crs=wgs84,
                  dst_transform=turned, dst_nodata=np.nan, resampling=Resampling.cubic)  # fmt: skip
    assert np.isnan(values).any()
    registration = register(scene.optical, write_raster(tmp_path / "s.tif", values[None], turned, wgs84), **QUICK)
    assert registration.registered, registration.verdict.reason
    assert mean_distance(offsets_of(registration), truth) < 0.15 * mean_distance(truth, 0 * truth)


def test_a_sar_image_half_beyond_the_slanting_edge_of_its_swath(tmp_path):
    half = simulate(tmp_path, 900, 800, seed=2, looks=8, empty=0.5)
    registration = register(half.optical, half.sar, **QUICK)
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
    registration = register(scene.optical, path, **QUICK)
    if registration.registered:
        seen = np.s_[:, : truth.shape[2] // 3]
        assert mean_distance(offsets_of(registration), truth, seen) < 0.25 * mean_distance(truth, 0 * truth)
    else:
        assert not offsets_of(registration).any()
        assert registration.verdict.reason


def test_the_registration_carries_its_evidence(scene, truth):
    registration = register(scene.optical, scene.sar, model="affine", **QUICK)
    assert registration.registered
    assert registration.warp.model == registration.facts()["model"] == "affine"
    assert set(registration.fit.held_out) == {"translation", "affine", "local"}
    assert len(registration.tiepoints()) == len(registration.matches) == registration.verdict.matches
    assert (registration.optical.shape, registration.grid.crs) == (truth.shape[1:], registration.optical.crs)
    expected = registration.as_dict()
    assert expected["sar_scale"] == registration.facts()["sar_scale"] == "linear, judged by the values"
    assert expected["expected_error_px"] * registration.optical.resolution == pytest.approx(
        expected["expected_error_m"]
    )
    error = np.median(np.hypot(*(offsets_of(registration) - truth)))
    assert 0.1 < error / registration.expected_error_px < 10


def test_a_matcher_may_be_an_object(small_files):
    class Nothing:
        name = "nothing"

        def match(self, pair):
            raise ConfigError(f"seen {pair.optical.name}")

    with pytest.raises(ConfigError, match=f"seen {small_files[0]}"):
        register(*small_files, matcher=Nothing())


def test_options_that_make_no_sense(small_files, small_registration):
    class Known:
        name = "known"

        def match(self, _pair):
            return small_registration.matches

    for words, options in (
        ("'Affine'.* auto, translation, affine, homography, local", {"matcher": Known(), "model": "Affine"}),
        ("nonesuch", {"matcher": "nonesuch"}),
        ("speed", {"matcher": "structure", "matcher_options": {"speed": 9}}),
    ):
        with pytest.raises(ConfigError, match=words):
            register(*small_files, **options)


def test_how_the_images_are_read_reaches_the_files(small_files):
    with pytest.raises(InputError, match="has no band 9"):
        register(*small_files, matcher="structure", sar_bands=[9])
