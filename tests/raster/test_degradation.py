"""Speckle by its moments, blur against SciPy, and the order of the two."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import gammaln

from sn9reg.errors import ConfigError, InputError
from sn9reg.options import check
from sn9reg.raster.degradation import DEGRADATION_CROSS, Degradation, blur, speckle


def generator(seed=0):
    return np.random.default_rng(seed)


def scene(shape=(2, 40, 30)):
    return (generator(5).random(shape) * 200).astype(np.float32)


@pytest.mark.parametrize("looks", [0.7, 1, 5, 35])
def test_the_square_of_speckle_has_mean_1_and_variance_1_over_looks(looks):
    root = speckle(np.ones((1, 500, 500), np.float32), looks, generator())
    gain = root**2
    assert gain.mean() == pytest.approx(1, abs=0.01)
    assert gain.var() == pytest.approx(1 / looks, rel=0.03)
    assert (root >= 0).all()
    assert root.mean() == pytest.approx(np.exp(gammaln(looks + 0.5) - gammaln(looks)) / np.sqrt(looks), abs=0.005)


def test_speckle_multiplies_and_is_independent_in_pixels_and_bands():
    values = scene(shape=(2, 300, 300)) + 1
    gain = speckle(values, 4, generator()) / values
    for one, other in ((gain[0, :, 1:], gain[0, :, :-1]), (gain[0], gain[1]), (gain, values)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_blur_is_within_each_band_and_comes_before_speckle():
    values = scene()
    blurred = np.stack([gaussian_filter(band, 1.5) for band in values])
    np.testing.assert_array_equal(blur(values, 1.5), blurred)
    np.testing.assert_array_equal(blur(values[0], 1.5), blurred[0])
    expected = speckle(blurred, 8, generator(3))
    np.testing.assert_array_equal(Degradation(8, 1.5)(values, generator(3)), expected)


@pytest.mark.parametrize("degradation", [Degradation(), Degradation(3), Degradation(blur=2)])
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


def test_a_lee_filter_takes_out_speckle_of_so_many_looks_and_leaves_what_varies_more():
    step = np.where(np.arange(60) < 30, 20, 200).astype(np.float32) * np.ones((1, 60, 1), np.float32)
    noisy = speckle(step, 4, generator())
    clean = Degradation(lee=4)(noisy, generator())
    assert (clean.shape, clean.dtype) == (noisy.shape, np.float32)
    for flat in (np.s_[:, :, 5:25], np.s_[:, :, 35:55]):
        assert clean[flat].mean() == pytest.approx(noisy[flat].mean(), rel=0.02)
        assert clean[flat].std() < 0.4 * noisy[flat].std()
    assert np.corrcoef(clean[0, :, 28:32].ravel(), noisy[0, :, 28:32].ravel())[0, 1] > 0.9
    assert np.abs(Degradation(lee=1e6)(noisy, generator()) - noisy).max() < 0.5
    assert not Degradation(lee=4)(np.zeros((1, 9, 9), np.float32), generator()).any()


def test_the_cross_has_the_papers_nine_arms():
    assert len(set(DEGRADATION_CROSS)) == len(DEGRADATION_CROSS) == 9
    assert {d.looks for d in DEGRADATION_CROSS if d.blur == 0.5} == {5, 8, 15, 25, 35, 75}
    assert {d.blur for d in DEGRADATION_CROSS if d.looks == 35} == {0.25, 0.5, 1, 2}


@pytest.mark.parametrize("bad", [{"looks": 0}, {"looks": np.inf}, {"blur": -0.1}, {"blur": np.nan}])
def test_numbers_that_make_no_sense_and_decibels_are_refused(bad):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} is "):
        check(Degradation, bad, "degradation")
    with pytest.raises(InputError, match="decibels"):
        speckle(scene() - 100, 5, generator())
    assert np.isfinite(speckle(scene() ** 3 - 1e5, 5, generator())).all()  # intensities less their noise
