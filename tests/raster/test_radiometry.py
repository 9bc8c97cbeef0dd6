"""radiometry: what networks see."""

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rasters import TEXTURE_TRANSFORM, UTM, write_raster

from sn9reg.raster.radiometry import SarLog, are_decibels, says_decibel, standardise


def rough(seed=0):
    return np.random.default_rng(seed).normal(size=(30, 41)).astype(np.float32)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), gain=st.floats(1e-2, 1e6), offset=st.floats(-10, 10), filled=st.floats(0.1, 1))
def test_standardised_pixels_have_mean_0_and_variance_1_where_valid(seed, gain, offset, filled):
    valid = np.random.default_rng(seed).random((30, 41)) < filled
    image = (rough(seed) + np.float32(offset)) * np.float32(gain)
    result = standardise(image, valid)
    assert (result.dtype, result.shape) == (np.float32, image.shape)
    assert result[valid].mean() == pytest.approx(0, abs=3e-3)
    assert result[valid].std() == pytest.approx(1, abs=1e-2)  # what is beyond 4 is cut
    np.testing.assert_allclose(result, standardise(rough(seed), valid), atol=1e-2)
    assert (result[~valid] == 0).all()


def test_outliers_are_cut_at_four_deviations_and_what_is_not_valid_does_not_count():
    image, valid = rough(), np.ones((30, 41), bool)
    valid[:, 20:] = False
    image[0, 0], image[5, 5] = 1e4, -1e4
    result = standardise(image, valid)
    assert (result[0, 0], result[5, 5], np.abs(result).max()) == (4, -4, 4)
    image[:, 20:] = np.float32(1e30)
    np.testing.assert_array_equal(standardise(image, valid), result)


@pytest.mark.parametrize(("level", "valid"), [(0.1, 0.0), (0.0, 0.3), (-77.7, 1.0), (3e8, 0.3)])
def test_constants_and_nothing_at_all_give_zeros(level, valid):
    mask = np.random.default_rng(0).random((30, 41)) < valid
    result = standardise(np.where(mask, np.float32(level), np.float32(5)), mask)
    assert result.dtype == np.float32
    assert (result == 0).all()


@pytest.mark.parametrize("scale", [1e18, 3e37])
def test_values_too_large_to_be_squared_are_no_accident(scale):
    """RuntimeWarnings are errors in these tests."""
    whole = np.ones((30, 41), bool)
    np.testing.assert_allclose(standardise(rough() * np.float32(scale), whole), standardise(rough(), whole), atol=1e-4)
    extremes = np.where(rough() > 0, np.float32(3e38), np.float32(-3e38))
    assert np.unique(np.round(standardise(extremes, whole))).tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("unit", "name", "tags", "expected"),
    [
        ("dB", "", {}, True),
        ("intensity_db", "linear", {}, True),
        ("", "Sigma0_VV_dB", {}, True),
        ("", "", {"SCALE": "decibel"}, True),
        ("", "", {"data_units": "db", "note": "linear interpolation"}, True),
        ("intensity", "", {"SCALE": "dB"}, False),
        ("", "gamma0, linear power", {}, False),
        ("", "VV amplitude", {}, None),
        ("", "dbl", {"NESZ": "-22 dB", "TIFFTAG_SOFTWARE": "DB 2.0", "note": "from linear to dB"}, None),
    ],
)
def test_a_file_says_what_its_values_are(tmp_path, unit, name, tags, expected):
    path = write_raster(tmp_path / "s.tif", rough()[None], TEXTURE_TRANSFORM, UTM)
    with rasterio.open(path, "r+") as target:
        target.units, target.descriptions = (unit,), (name,)
        target.update_tags(**tags)
    with rasterio.open(path) as dataset:
        assert says_decibel(dataset, [1]) is expected


def test_intensities_less_their_noise_are_not_decibels_though_some_are_negative():
    """Ground that varies by 4 dB, and speckle of 1 to 16 looks."""
    random = np.random.default_rng(0)
    for looks in (1, 4, 16):
        ground = 0.1 * 10 ** (0.4 * random.standard_normal((1, 200, 200)))
        intensity = (ground * random.gamma(looks, 1 / looks, ground.shape)).astype(np.float32)
        for share in (0.02, 0.1, 0.3):
            assert not are_decibels(intensity - np.quantile(intensity, share))
        for offset in (-10, 5, 15):
            assert are_decibels(10 * np.log10(intensity) + offset) == bool(
                (10 * np.log10(intensity) < -offset).mean() > 0.01
            )
    sea = np.where(random.random(intensity.shape) < 0.7, 0, intensity) + 0.01 * random.standard_normal(intensity.shape)
    assert not are_decibels(sea)
    assert are_decibels(np.maximum(10 * np.log10(intensity), -12))  # more than half of it was cut
    valid = np.ones((200, 200), bool)
    assert [SarLog.of(intensity, valid, said).decibel for said in (True, None)] == [True, False]
