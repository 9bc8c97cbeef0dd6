"""Posed: a scene seen through a matrix, pixel by pixel where the matrix moves whole pixels."""

from functools import partial

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from support import rasters
from support.rasters import TEXTURE_TRANSFORM, UTM, open_plain, write_raster

from sn9reg.raster.grid import Window
from sn9reg.raster.scene import Patch
from sn9reg.raster.view import Posed, through

SIDE = 200
EMPTY = np.s_[:, 20:60, 100:150]  # without data
turned = partial(rasters.turned, SIDE)  # degrees and zoom -> (3, 3) that leaves the middle where it is


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("posed")
    values = 50 + 40 * gaussian_filter(np.random.default_rng(0).normal(size=(2, SIDE, SIDE)), (0, 3, 3)) / 0.1
    values = values.clip(1, 255).astype(np.float32)
    holes = values.copy()
    holes[EMPTY] = 0
    write_raster(folder / "optical.tif", values[:1], TEXTURE_TRANSFORM, UTM)
    write_raster(folder / "sar.tif", holes, TEXTURE_TRANSFORM, UTM, nodata=0)
    with open_plain(folder / "optical.tif", folder / "sar.tif") as opened:
        yield opened


def shifted(dx, dy):
    return np.array([[1.0, 0, dx], [0, 1, dy], [0, 0, 1]])


def assert_same(seen, plain, atol=1e-3):
    np.testing.assert_array_equal(seen.valid, plain.valid)
    np.testing.assert_allclose(seen.values, plain.values, atol=atol)


def whole(pair, matrix):
    return pair.posed(matrix).sar.read(pair.grid.window)


@pytest.mark.parametrize(("dx", "dy", "factor"), [(0, 0, 4), (7, -4, 1), (-30, 12, 1), (150, 90, 1), (8, -4, 2)])
def test_through_a_shift_the_window_is_a_shifted_one_and_half_a_pixel_is_the_mean_of_two(pair, dx, dy, factor):
    """A shift counts in common pixels on a coarser grid, too."""
    seen = pair.posed(shifted(dx, dy)).sar.read(Window(3, 5, 40, 30), factor)
    plain = pair.sar.read(Window(3 + dx // factor, 5 + dy // factor, 40, 30), factor)
    assert plain.valid.any()
    assert_same(seen, plain, atol=1e-2)
    half, plain = (pair.posed(shifted(s, 0)).sar.read(Window(0, 100, 50, 50)).values for s in (0.5, 0))
    np.testing.assert_allclose(half[..., :-1], (plain[..., 1:] + plain[..., :-1]) / 2, atol=0.05)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_through_quarter_turns_the_scene_is_rot90(pair, quarters):
    """Seen at (x, y) from the middle is, for one quarter, what lies at (-y, x)."""
    seen, plain = whole(pair, turned(90 * quarters).round(9)), pair.sar.read(pair.grid.window)
    assert_same(seen, Patch(np.rot90(plain.values, quarters, (1, 2)), np.rot90(plain.valid, quarters)), atol=1e-2)


def test_twice_as_large_the_scene_is_what_averaging_makes_of_it(pair):
    """Seen pixels of twice the size have their centres where those of the grid coarsened by 2 have them."""
    matrix = np.array([[2.0, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    window = Window(4, 40, 80, 50)
    seen, plain = pair.posed(matrix).sar.read(window), pair.sar.read(window, 2)
    assert seen.valid.all()
    contrast, difference = plain.values.std(), seen.values - plain.values
    assert contrast > 5
    assert np.abs(difference).max() < 0.2 * contrast
    assert np.abs(difference.mean()) < 0.01 * contrast


def test_what_has_no_data_or_lies_outside_is_not_valid_and_does_not_leak_into_its_surroundings(pair):
    shift = whole(pair, shifted(50, 0))
    assert shift.valid[100:, : SIDE - 50].all()
    assert not shift.valid[:, SIDE - 50 :].any()
    assert not whole(pair, shifted(5000, -5000)).valid.any()
    turn, plain = whole(pair, turned(30)), pair.sar.read(pair.grid.window)
    for seen in (shift, turn):
        assert not seen.values[:, ~seen.valid].any()
        assert (seen.values[:, seen.valid].min(axis=1) >= plain.values[:, plain.valid].min(axis=1) - 1e-3).all()


def test_windows_agree_with_the_whole(pair):
    matrix = turned(40, 0.8)
    part, full = pair.posed(matrix).sar.read(Window(50, 80, 60, 40)), whole(pair, matrix)
    assert_same(part, Patch(full.values[:, 80:120, 50:110], full.valid[80:120, 50:110]), atol=0.1)


def test_outline_and_overlap_are_where_the_scene_is_seen_and_the_rest_is_left_alone(pair):
    matrix = shifted(12, -7) @ turned(90)
    posed = pair.posed(matrix)
    np.testing.assert_allclose(through(matrix, posed.sar.outline()), pair.sar.outline(), atol=1e-6)
    assert pair.posed(shifted(50, -30)).overlap == Window(0, 30, SIDE - 50, SIDE - 30)
    assert pair.posed(shifted(1000, 0)).overlap.empty
    assert (posed.optical, posed.grid) == (pair.optical, pair.grid)
    assert (posed.sar.name, posed.sar.grid) == (pair.sar.name, pair.sar.grid)
    perspective = np.array([[2.0, 0, 5], [0, 3, -1], [0.5, 0, 1]])
    np.testing.assert_allclose(through(perspective, np.array([[2.0, 4], [0, 0]])), [[4.5, 5.5], [5, -1]])


@pytest.mark.parametrize(
    "matrix", [[[1.0, 0, 0], [0, 1, 0], [-1 / 49.26, 0, 1]], np.diag([1e4, 1e4, 1]), np.diag([-1e4, 1e4, 1])]
)
def test_a_warp_that_blows_up_asks_for_no_more_than_the_scene_holds(pair, matrix):
    asked = []

    class Counting(Posed):
        def read(self, window, factor=1):
            asked.append(window)
            return self.scene.read(window, factor)

    seen = Posed(Counting(pair.sar, np.eye(3)), np.array(matrix)).read(pair.grid.window)
    assert max(asked[0].shape) < SIDE + 10
    assert seen.valid.shape == (SIDE, SIDE)
    assert np.isfinite(seen.values).all()
