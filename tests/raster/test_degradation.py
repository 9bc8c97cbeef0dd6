"""Speckle by its moments, blur against SciPy, and the order of the two."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import gammaln

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.degradation import DEGRADATION_CROSS, Degradation, blur, speckle


def generator(seed=0):
    return np.random.default_rng(seed)


def scene(shape=(2, 40, 30)):
    return (generator(5).random(shape) * 200).astype(np.float32)


@pytest.mark.parametrize("looks", [0.7, 1, 5, 35])
def test_intensity_speckle_has_mean_1_and_variance_1_over_looks_and_amplitude_speckle_is_its_root(looks):
    ones = np.ones((1, 500, 500), np.float32)
    gain, root = speckle(ones, looks, generator(), intensity=True), speckle(ones, looks, generator())
    assert gain.mean() == pytest.approx(1, abs=0.01)
    assert gain.var() == pytest.approx(1 / looks, rel=0.03)
    assert (root >= 0).all()
    np.testing.assert_allclose(root**2, gain, rtol=1e-5)
    assert root.mean() == pytest.approx(np.exp(gammaln(looks + 0.5) - gammaln(looks)) / np.sqrt(looks), abs=0.005)


def test_speckle_multiplies_and_is_independent_in_pixels_and_bands():
    values = scene(shape=(2, 300, 300)) + 1
    gain = speckle(values, 4, generator(), intensity=True) / values
    for one, other in ((gain[0, :, 1:], gain[0, :, :-1]), (gain[0], gain[1]), (gain, values)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_blur_is_within_each_band_and_comes_before_speckle():
    values = scene()
    blurred = np.stack([gaussian_filter(band, 1.5) for band in values])
    np.testing.assert_array_equal(blur(values, 1.5), blurred)
    np.testing.assert_array_equal(blur(values[0], 1.5), blurred[0])
    expected = speckle(blurred, 8, generator(3), intensity=True)
    np.testing.assert_array_equal(Degradation(8, 1.5, intensity=True)(values, generator(3)), expected)


@pytest.mark.parametrize("degradation", [Degradation(), Degradation(3), Degradation(blur=2), *DEGRADATION_CROSS])
def test_shape_type_and_sign_stay_and_the_input_is_left_alone(degradation):
    values = scene()
    values[:, 10:20] = 0
    before = values.copy()
    out = degradation(values, generator())
    np.testing.assert_array_equal(degradation(values, generator()), out)
    assert (out.shape, out.dtype) == (values.shape, np.float32)
    assert (out >= 0).all()
    assert out is not values
    np.testing.assert_array_equal(values, before)
    assert (out == values).all() == (degradation == Degradation())


def test_the_cross_has_the_papers_nine_arms():
    assert len(set(DEGRADATION_CROSS)) == len(DEGRADATION_CROSS) == 9
    assert {d.looks for d in DEGRADATION_CROSS if d.blur == 0.5} == {5, 8, 15, 25, 35, 75}
    assert {d.blur for d in DEGRADATION_CROSS if d.looks == 35} == {0.25, 0.5, 1, 2}


@pytest.mark.parametrize(
    ("bad", "words"),
    [({"looks": v}, "looks must be") for v in (0, -1, np.nan, np.inf)]
    + [({"blur": v}, "blur must be") for v in (-0.1, np.nan, np.inf)],
)
def test_numbers_that_make_no_sense_and_decibels_are_refused(bad, words):
    with pytest.raises(ConfigError, match=words):
        Degradation(**bad)
    with pytest.raises(InputError, match="decibels"):
        speckle(scene() - 100, 5, generator())
    assert np.isfinite(speckle(scene() ** 3 - 1e5, 5, generator(), True)).all()  # intensities less their noise
