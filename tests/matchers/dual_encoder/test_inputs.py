"""What the dual encoder sees of optical bands and of SAR, and where there is something to see."""

import numpy as np
import pytest

from sn9reg.matchers.dual_encoder.inputs import optical_input, sar_input, textured
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import Patch

SHAPE = (24, 32)
ALL = np.ones(SHAPE, bool)
HOLED = ALL.copy()
HOLED[3:11, 5:20] = False


def patch(bands=3, valid=ALL, low=50, high=200):
    values = np.random.default_rng(0).uniform(low, high, (bands, *SHAPE)).astype(np.float32)
    return Patch(values * valid, valid)


def standardised(values):
    return (values - values.mean()) / values.std()


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_optical_images_of_any_bands_are_three_standardised_ones(bands):
    given = patch(bands, HOLED)
    seen = optical_input(given)
    assert seen.shape == (3, *SHAPE)
    assert seen.dtype == np.float32
    assert (seen[:, ~HOLED] == 0).all()
    shown = given.values[:3] if bands > 2 else [given.values.mean(axis=0)] * 3
    for k in range(3):
        np.testing.assert_allclose(seen[k, HOLED], standardised(shown[k][HOLED]), atol=1e-4)
    changed = Patch(given.values * np.float32(7) + 300, given.valid)
    np.testing.assert_allclose(optical_input(changed), seen, atol=1e-3)
    for nothing in (patch(bands, ~ALL), Patch(np.full((bands, *SHAPE), 90, np.float32), ALL)):
        assert (optical_input(nothing) == 0).all()


def test_sar_is_one_standardised_logarithm():
    given = patch(1, HOLED, low=1, high=900)
    log = SarLog.of(given.values, given.valid)
    seen = sar_input(given, log)
    assert seen.shape == (1, *SHAPE)
    assert seen.dtype == np.float32
    assert (seen[:, ~HOLED] == 0).all()
    expected = standardised(np.log(given.values[0, HOLED].astype(float) + log.floor))
    np.testing.assert_allclose(seen[0, HOLED], expected, atol=1e-3)


def test_decibels_are_a_logarithm_already_and_of_two_polarisations_the_mean_counts():
    decibel = patch(1, low=-20, high=5)
    seen = sar_input(decibel, SarLog.of(decibel.values, ALL))[0]
    np.testing.assert_allclose(seen, standardised(decibel.values[0]), atol=1e-3)
    two = patch(2, low=100, high=900)  # nothing so dark as to be cut
    expected = standardised(np.log(two.values + 5).mean(axis=0))
    np.testing.assert_allclose(sar_input(two, SarLog(5.0, False))[0], expected, atol=1e-3)


def test_texture_in_any_band_is_texture_and_bands_that_differ_are_none():
    image = optical_input(patch(3))
    image[:, 4:8, 8:12] = 0.5
    seen = textured(image, ALL, 4)
    assert seen.shape == (6, 8)
    assert np.argwhere(~seen).tolist() == [[1, 2]]
    image = np.array(np.broadcast_to(np.array([-1, 0, 2], np.float32)[:, None, None], (3, *SHAPE)))
    assert not textured(image, ALL, 4).any()
    image[2, 5, 9] = 1
    assert np.argwhere(textured(image, ALL, 4)).tolist() == [[1, 2]]


@pytest.mark.parametrize(("pixels", "expected"), [(0, False), (8, False), (9, True), (16, True)])
def test_more_than_half_of_a_cell_has_to_be_valid(pixels, expected):
    valid = ALL.copy()
    valid[8:12, 4:8] = (np.arange(16) < pixels).reshape(4, 4)
    seen = textured(optical_input(patch(1)), valid, 4)
    assert seen[2, 1] == expected
    assert np.delete(seen.ravel(), 2 * 8 + 1).all()


@pytest.mark.parametrize(("height", "width", "cell"), [(25, 34, 4), (27, 35, 4), (24, 32, 5)])
def test_what_is_left_over_at_the_right_and_below_is_no_cell(height, width, cell):
    image = np.random.default_rng(0).normal(size=(1, height, width)).astype(np.float32)
    image[:, cell : 2 * cell, 2 * cell : 3 * cell] = 0
    image[:, height // cell * cell :] = 1e6
    seen = textured(image, np.ones((height, width), bool), cell)
    assert seen.shape == (height // cell, width // cell)
    assert np.argwhere(~seen).tolist() == [[1, 2]]
