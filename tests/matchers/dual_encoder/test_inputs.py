"""cells/inputs: what the dual encoder sees of optical bands and of SAR, and where there is something to see."""

from __future__ import annotations

import numpy as np
import pytest

from sn9reg.matchers.dual_encoder.inputs import optical_input, sar_input, textured
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import Patch

SHAPE = (24, 32)


def patch(bands=3, seed=0, valid=None, low=50, high=200):
    values = np.random.default_rng(seed).uniform(low, high, (bands, *SHAPE)).astype(np.float32)
    valid = np.ones(SHAPE, bool) if valid is None else valid
    return Patch(values * valid, valid)


def holed():
    valid = np.ones(SHAPE, bool)
    valid[3:11, 5:20] = False
    return valid


# --- optical ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_optical_images_of_any_bands_are_three_standardised_ones(bands):
    seen = optical_input(patch(bands, valid=holed()))
    assert seen.shape == (3, *SHAPE)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen[:, holed()].mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(seen[:, holed()].std(axis=1), 1, atol=1e-4)
    assert (seen[:, ~holed()] == 0).all()


def test_a_grey_image_is_three_times_the_same():
    given = patch(1)
    seen = optical_input(given)
    assert (seen[0] == seen[1]).all()
    assert (seen[0] == seen[2]).all()
    assert np.corrcoef(seen[0].ravel(), given.values[0].ravel())[0, 1] > 0.9999


def test_of_two_bands_their_mean_is_shown():
    given = patch(2)
    seen = optical_input(given)
    np.testing.assert_allclose(seen, optical_input(Patch(given.values.mean(axis=0, keepdims=True), given.valid)))
    assert np.abs(seen - optical_input(Patch(given.values[:1], given.valid))).max() > 0.1


def test_each_of_three_bands_is_shown_for_itself():
    given = patch(3)
    given.values[1] *= 100
    seen = optical_input(given)
    for k in range(3):
        np.testing.assert_allclose(seen[k], optical_input(Patch(given.values[k : k + 1], given.valid))[0], atol=1e-4)
    assert np.abs(seen[0] - seen[1]).max() > 1


def test_of_more_than_three_bands_the_first_three_are_shown():
    given = patch(4)
    np.testing.assert_array_equal(optical_input(given), optical_input(Patch(given.values[:3], given.valid)))


def test_brightness_and_contrast_do_not_matter():
    given = patch(3)
    changed = Patch(given.values * np.float32(7) + 300, given.valid)
    np.testing.assert_allclose(optical_input(changed), optical_input(given), atol=1e-3)


@pytest.mark.parametrize("bands", [1, 2, 3])
def test_where_nothing_is_valid_or_all_is_one_grey_there_is_nothing(bands):
    constant = Patch(np.full((bands, *SHAPE), 90, np.float32), np.ones(SHAPE, bool))
    for given in (patch(bands, valid=np.zeros(SHAPE, bool)), constant):
        assert (optical_input(given) == 0).all()


# --- SAR -------------------------------------------------------------------------------------------------------------


def test_sar_is_one_standardised_logarithm():
    given = patch(1, valid=holed(), low=1, high=900)
    log = SarLog.of(given.values, given.valid)
    seen = sar_input(given, log)
    assert seen.shape == (1, *SHAPE)
    assert seen.dtype == np.float32
    assert (seen[:, ~holed()] == 0).all()
    inside = np.log(given.values[0, holed()].astype(float) + log.floor)
    np.testing.assert_allclose(seen[0, holed()], (inside - inside.mean()) / inside.std(), atol=1e-3)


def test_sar_in_decibels_is_no_more_changed_than_that():
    given = patch(1, low=-20, high=5)
    seen = sar_input(given, SarLog.of(given.values, given.valid))[0]
    decibel = given.values[0]
    np.testing.assert_allclose(seen, (decibel - decibel.mean()) / decibel.std(), atol=1e-3)


def test_of_two_polarisations_the_mean_of_the_logarithms_is_seen():
    given = patch(2, low=100, high=900)  # nothing so dark as to be cut
    log = SarLog(5.0, False)
    expected = np.log(given.values + 5).mean(axis=0)
    np.testing.assert_allclose(sar_input(given, log)[0], (expected - expected.mean()) / expected.std(), atol=1e-3)


# --- what there is to see --------------------------------------------------------------------------------------------


def test_cells_of_texture_are_seen_and_those_of_one_grey_are_not():
    image = optical_input(patch(3))
    image[:, 4:8, 8:12] = 0.5
    seen = textured(image, np.ones(SHAPE, bool), 4)
    assert seen.shape == (6, 8)
    assert seen.dtype == bool
    assert not seen[1, 2]
    assert seen.sum() == 47


def test_texture_in_one_band_alone_is_texture():
    image = np.zeros((3, *SHAPE), np.float32)
    image[2, 5, 9] = 1
    assert np.argwhere(textured(image, np.ones(SHAPE, bool), 4)).tolist() == [[1, 2]]


def test_bands_that_differ_are_no_texture():
    image = np.broadcast_to(np.array([-1, 0, 2], np.float32)[:, None, None], (3, *SHAPE))
    assert not textured(image, np.ones(SHAPE, bool), 4).any()


@pytest.mark.parametrize(("pixels", "expected"), [(0, False), (7, False), (8, False), (9, True), (16, True)])
def test_more_than_half_of_a_cell_has_to_be_valid(pixels, expected):
    valid, cell = np.ones(SHAPE, bool), np.zeros(16, bool)
    cell[:pixels] = True
    valid[8:12, 4:8] = cell.reshape(4, 4)
    seen = textured(optical_input(patch(1)), valid, 4)
    assert seen[2, 1] == expected
    assert np.delete(seen.ravel(), 2 * 8 + 1).all()


@pytest.mark.parametrize(("height", "width", "cell"), [(25, 34, 4), (27, 35, 4), (24, 32, 8), (24, 32, 5)])
def test_what_is_left_over_at_the_right_and_below_is_no_cell(height, width, cell):
    image = np.random.default_rng(0).normal(size=(1, height, width)).astype(np.float32)
    image[:, cell : 2 * cell, 2 * cell : 3 * cell] = 0
    image[:, height // cell * cell :] = 1e6
    seen = textured(image, np.ones((height, width), bool), cell)
    assert seen.shape == (height // cell, width // cell)
    assert np.argwhere(~seen).tolist() == [[1, 2]]
