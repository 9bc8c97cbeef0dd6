"""PosedScene: a scene seen through a matrix, pixel by pixel where the matrix moves whole pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from support.rasters import TEXTURE_TRANSFORM, UTM, write_raster

from sn9reg.raster.grid import Window
from sn9reg.raster.scene import PosedScene, open_pair, through

SIDE = 200
MIDDLE = (SIDE - 1) / 2
EMPTY = np.s_[:, 20:60, 100:150]  # without data


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("posed")
    values = 50 + 40 * gaussian_filter(np.random.default_rng(0).normal(size=(2, SIDE, SIDE)), (0, 3, 3)) / 0.1
    values = values.clip(1, 255).astype(np.float32)
    holes = values.copy()
    holes[EMPTY] = 0
    write_raster(folder / "optical.tif", values[:1], TEXTURE_TRANSFORM, UTM)
    write_raster(folder / "sar.tif", holes, TEXTURE_TRANSFORM, UTM, nodata=0)
    with open_pair(folder / "optical.tif", folder / "sar.tif") as opened:
        yield opened


def shifted(dx, dy):
    return np.array([[1.0, 0, dx], [0, 1, dy], [0, 0, 1]])


def about_the_middle(linear):
    """(3, 3) that leaves the middle of the scene where it is."""
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = MIDDLE - np.asarray(linear) @ [MIDDLE, MIDDLE]
    return matrix


def whole(pair, matrix):
    return pair.posed(matrix).sar.read(pair.grid.window)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_through_the_identity_the_scene_is_itself(pair, factor):
    window = Window(3, 5, 40, 30)
    seen, plain = pair.posed(np.eye(3)).sar.read(window, factor), pair.sar.read(window, factor)
    np.testing.assert_array_equal(seen.valid, plain.valid)
    np.testing.assert_allclose(seen.values, plain.values, atol=1e-3)


@pytest.mark.parametrize(("dx", "dy"), [(7, -4), (-30, 12), (150, 90)])
def test_through_a_whole_shift_the_window_is_a_shifted_one(pair, dx, dy):
    seen = pair.posed(shifted(dx, dy)).sar.read(Window(10, 20, 150, 120))
    plain = pair.sar.read(Window(10 + dx, 20 + dy, 150, 120))
    assert plain.valid.any()
    np.testing.assert_array_equal(seen.valid, plain.valid)
    np.testing.assert_allclose(seen.values, plain.values, atol=1e-3)


def test_on_a_coarser_grid_a_shift_counts_in_common_pixels(pair):
    seen = pair.posed(shifted(8, -4)).sar.read(Window(10, 10, 60, 50), 2)
    plain = pair.sar.read(Window(14, 8, 60, 50), 2)
    np.testing.assert_array_equal(seen.valid, plain.valid)
    np.testing.assert_allclose(seen.values, plain.values, atol=1e-2)


def test_half_a_pixel_is_the_mean_of_two(pair):
    seen = pair.posed(shifted(0.5, 0)).sar.read(Window(0, 100, 50, 50))
    plain = pair.sar.read(Window(0, 100, 51, 50)).values
    np.testing.assert_allclose(seen.values, (plain[..., 1:] + plain[..., :-1]) / 2, atol=0.05)


@pytest.mark.parametrize(
    ("linear", "quarters"), [([[0, -1], [1, 0]], 1), ([[-1, 0], [0, -1]], 2), ([[0, 1], [-1, 0]], 3)]
)
def test_through_quarter_turns_the_scene_is_rot90(pair, linear, quarters):
    """Seen at (x, y) is what lies at linear (x, y) from the middle: for one quarter, at (-y, x)."""
    seen, plain = whole(pair, about_the_middle(linear)), pair.sar.read(pair.grid.window)
    np.testing.assert_allclose(seen.values, np.rot90(plain.values, quarters, (1, 2)), atol=1e-2)
    np.testing.assert_array_equal(seen.valid, np.rot90(plain.valid, quarters))


def test_twice_as_large_the_scene_is_what_averaging_makes_of_it(pair):
    """Seen pixels of twice the size have their centres where those of the grid coarsened by 2 have them."""
    matrix = np.array([[2.0, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    window = Window(4, 40, 80, 50)
    seen, plain = pair.posed(matrix).sar.read(window), pair.sar.read(window, 2)
    assert seen.valid.all()
    contrast = plain.values.std()
    assert contrast > 5
    assert np.abs(seen.values - plain.values).max() < 0.2 * contrast
    assert np.abs((seen.values - plain.values).mean()) < 0.01 * contrast


def test_what_lies_outside_the_scene_is_not_valid(pair):
    seen = whole(pair, shifted(50, 0))
    assert seen.valid[100:, : SIDE - 50].all()
    assert not seen.valid[:, SIDE - 50 :].any()
    assert not seen.values[:, :, SIDE - 50 :].any()


def test_far_from_the_scene_nothing_is_valid(pair):
    assert not whole(pair, shifted(5000, -5000)).valid.any()


def test_what_has_no_data_does_not_leak_into_its_surroundings(pair):
    angle = np.radians(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    seen = whole(pair, about_the_middle(turn))
    least = pair.sar.read(pair.grid.window)
    for band, plain in zip(seen.values, least.values, strict=True):
        assert band[seen.valid].min() >= plain[least.valid].min() - 1e-3


def test_values_are_zero_where_nothing_is_valid(pair):
    seen = whole(pair, about_the_middle(np.diag([0.7, 0.7])))
    assert not seen.valid.all()
    assert not seen.values[:, ~seen.valid].any()


def test_windows_agree_with_the_whole(pair):
    angle = np.radians(40)
    matrix = about_the_middle(0.8 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))
    part = pair.posed(matrix).sar.read(Window(50, 80, 60, 40))
    full = whole(pair, matrix)
    np.testing.assert_allclose(part.values, full.values[:, 80:120, 50:110], atol=0.1)
    np.testing.assert_array_equal(part.valid, full.valid[80:120, 50:110])


def test_the_outline_lies_where_the_scene_is_seen(pair):
    matrix = shifted(12, -7) @ about_the_middle([[0, -1], [1, 0]])
    posed = pair.posed(matrix).sar
    np.testing.assert_allclose(through(matrix, posed.outline()), pair.sar.outline(), atol=1e-6)


def test_the_overlap_is_where_the_turned_scene_is_seen(pair):
    overlap = pair.posed(shifted(50, -30)).overlap
    assert (overlap.col, overlap.row, overlap.width, overlap.height) == (0, 30, SIDE - 50, SIDE - 30)


def test_scenes_that_no_longer_meet_have_no_overlap(pair):
    assert pair.posed(shifted(1000, 0)).overlap.empty


def test_posing_leaves_the_optical_scene_and_the_grid_alone(pair):
    posed = pair.posed(shifted(3, 3))
    assert posed.optical is pair.optical
    assert posed.grid is pair.grid
    assert isinstance(posed.sar, PosedScene)
    assert posed.sar.name == pair.sar.name


def test_posing_twice_is_an_error(pair):
    with pytest.raises(TypeError, match="posed already"):
        pair.posed(np.eye(3)).posed(np.eye(3))


def test_an_overview_is_seen_through_the_matrix(pair):
    patch, factor = (posed := pair.posed(shifted(40, 0))).overview(posed.sar)
    assert factor == 1
    np.testing.assert_allclose(patch.values[..., :-40], pair.sar.read(pair.grid.window).values[..., 40:], atol=1e-3)


def test_points_move_through_an_affine():
    matrix = np.array([[2.0, 0, 5], [0, 3, -1], [0, 0, 1]])
    np.testing.assert_allclose(through(matrix, np.array([[1.0, 2], [0, 0]])), [[7, 5], [5, -1]])


def test_points_move_through_a_perspective():
    matrix = np.array([[1.0, 0, 0], [0, 1, 0], [0.5, 0, 1]])
    np.testing.assert_allclose(through(matrix, np.array([[2.0, 4]])), [[1, 2]])
