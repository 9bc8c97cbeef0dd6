"""dense: lattices, fields on them, surfaces of a synthetic pair whose shift is known, and votes."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg.features.orientation import orientation_features
from sn9reg.matchers.dense.correlation import find_peaks
from sn9reg.matchers.dense.descent import _near_prediction
from sn9reg.matchers.dense.lattice import Lattice, aggregate, smooth_field
from sn9reg.matchers.dense.search import Level, Surfaces, compare_at, search
from sn9reg.progress import listening
from sn9reg.raster.grid import Window
from sn9reg.raster.scene import PairFiles

few = settings(max_examples=30, deadline=None)

# --- lattice ---------------------------------------------------------------------------------------------------------


@few
@given(
    window=st.builds(Window, st.integers(-50, 500), st.integers(-50, 500), st.integers(1, 3000), st.integers(1, 3000)),
    template=st.sampled_from([16, 33, 96]),
    spacing=st.floats(8, 200),
    limit=st.integers(1, 500),
)
def test_a_lattice_lies_evenly_in_its_window_and_respects_the_limit(window, template, spacing, limit):
    lattice = Lattice.over(window, template, spacing, limit)
    nodes = lattice.nodes
    assert lattice.spacing >= spacing
    assert 1 <= len(nodes) == lattice.nx * lattice.ny <= 2 * limit + 1
    low, high = nodes.min(axis=0) - (template - 1) / 2, nodes.max(axis=0) + (template - 1) / 2
    start, size = np.array([window.col, window.row]), np.array([window.width, window.height])
    inside = size >= template
    # Templates lie in the window where they fit at all, with less than half a step left over on either side.
    assert (low - start >= -1e-6)[inside].all()
    np.testing.assert_allclose((low - start)[inside], (start + size - 1 - high)[inside], atol=1e-6)
    assert (low - start <= lattice.spacing / 2 + 1e-6)[inside].all()
    np.testing.assert_allclose(low[~inside], start[~inside])


def test_a_wide_limit_leaves_the_spacing_a_tight_one_widens_it_and_nodes_run_row_by_row():
    window = Window(0, 0, 2000, 1500)
    assert Lattice.over(window, 96, 48.0, 10_000).spacing == 48
    tight = Lattice.over(window, 96, 48.0, 400)
    assert tight.spacing > 48
    assert 300 < tight.nx * tight.ny <= 460
    expected = [[5, 7], [15, 7], [25, 7], [5, 17], [15, 17], [25, 17]]
    np.testing.assert_array_equal(Lattice(5.0, 7.0, 10.0, 3, 2).nodes, expected)


def linear(lattice, slope=0.3):
    x, y = lattice.nodes.T
    return np.stack([slope * x - 0.1 * y + 2, 0.2 * y - 5], axis=-1).reshape(lattice.ny, lattice.nx, 2)


def test_interpolation_is_bilinear_and_held_outside():
    lattice = Lattice(10.0, 20.0, 8.0, 6, 5)
    field = linear(lattice)
    np.testing.assert_allclose(lattice.interpolate(field, lattice.nodes), field.reshape(-1, 2), atol=1e-12)
    xy = np.array([[13.7, 29.1], [48.0, 20.5]])
    expected = np.column_stack([0.3 * xy[:, 0] - 0.1 * xy[:, 1] + 2, 0.2 * xy[:, 1] - 5])
    np.testing.assert_allclose(lattice.interpolate(field, xy), expected, atol=1e-12)
    far = lattice.interpolate(field, np.array([[-500.0, -500.0], [500.0, 500.0]]))
    np.testing.assert_allclose(far, [field[0, 0], field[-1, -1]])
    one = Lattice(3.0, 3.0, 8.0, 1, 1).interpolate(np.array([[[4.0, -2.0]]]), np.array([[0.0, 0], [90, 9]]))
    np.testing.assert_array_equal(one, [[4, -2], [4, -2]])


# --- smooth fields ---------------------------------------------------------------------------------------------------

LATTICE = Lattice(0.0, 0.0, 1.0, 16, 14)


def test_a_constant_field_is_kept_to_its_edges_and_fills_its_gaps_and_a_linear_one_is_kept():
    field, weight = np.tile([3.0, -7.0], (14, 16, 1)), np.random.default_rng(0).uniform(0.1, 1, (14, 16))
    expected, weight[3:11, 3:13] = field.copy(), 0
    field[3:11, 3:13] = np.nan
    np.testing.assert_allclose(smooth_field(field, weight), expected, atol=1e-9)
    field = linear(LATTICE, 0.4)
    np.testing.assert_allclose(smooth_field(field, np.ones((14, 16)))[4:-4, 4:-4], field[4:-4, 4:-4], atol=0.02)


@pytest.mark.parametrize("at", [(7, 8), (0, 0), (13, 4)])
def test_an_outlier_has_no_say(at):
    field, weight, missing = linear(LATTICE), np.ones((14, 16)), np.ones((14, 16))
    field[at] += [30, -40]
    missing[at] = 0
    np.testing.assert_allclose(smooth_field(field, weight), smooth_field(field, missing), atol=1e-9)
    assert np.abs(smooth_field(field, weight, tolerance=1e3) - smooth_field(field, missing)).max() > 1


def test_one_known_node_fills_everything_and_none_gives_zeros():
    field, weight = np.full((30, 40, 2), np.nan), np.zeros((30, 40))
    assert (smooth_field(field, weight) == 0).all()
    field[2, 3], weight[2, 3] = [4, -6], 1e-3
    np.testing.assert_allclose(smooth_field(field, weight), np.tile([4.0, -6.0], (30, 40, 1)), atol=1e-6)
    field, weight = np.zeros((9, 9, 2)), np.full((9, 9), 1e-3)
    field[:, 5:], weight[:, 5:] = 1.0, 1.0
    assert smooth_field(field, weight)[4, 4, 0] > 0.9  # weights weigh


# --- surfaces --------------------------------------------------------------------------------------------------------

SIDE = 260


@contextmanager
def pair_of(folder, empty=None):
    """`textures`, opened; `empty` (slices) of the SAR image is nodata."""
    optical, sar = textures(SIDE, SIDE)
    if empty is not None:
        sar[empty] = 0
    for name, image, nodata in (("optical", optical, None), ("sar", sar, 0)):
        write_raster(folder / f"{name}.tif", image[None], TEXTURE_TRANSFORM, UTM, nodata=nodata)
    with PairFiles(folder / "optical.tif", folder / "sar.tif").open() as pair:
        yield pair


def plain(patch, modality):
    """Brightness of a pixel and nothing around it, on the unit circle: the same in both."""
    turn = torch.from_numpy(patch.values[0]) / 60
    return torch.stack([torch.cos(turn), torch.sin(turn)]) * torch.from_numpy(patch.valid)


def orientations(patch, modality):
    return orientation_features(torch.from_numpy(patch.values[0])[None])[0]


LEVEL = Level(factor=1, template=48, radius=12, margin=24)
NODES = Lattice.over(Window(30, 30, 200, 200), 48, 24.0, 1000).nodes


def shifts(surfaces):
    """(N, 2) of the best peaks."""
    return find_peaks(torch.from_numpy(surfaces.values)).xy.numpy() - surfaces.level.radius + surfaces.centre


def long_and_short(patch, modality):
    """As `plain`, of a length that is not 1 and differs from pixel to pixel."""
    return plain(patch, modality) * (1 + torch.from_numpy(patch.values[0]) / 60) * 0.01


@pytest.mark.parametrize(
    ("similarity", "extract", "best"),
    [
        ("cc", plain, 1.0), ("cc", orientations, None), ("zncc", plain, 1.0), ("zncc", long_and_short, 1.0),
        ("ssd", plain, 0.0), ("ssd", long_and_short, 0.0),
    ],
)  # fmt: skip
def test_search_finds_the_shift_with_its_sign(tmp_path, similarity, extract, best):
    with pair_of(tmp_path) as pair:
        surfaces = search(pair, LEVEL, NODES, np.zeros_like(NODES), extract, similarity)
    np.testing.assert_allclose(shifts(surfaces), np.tile(SHIFT, (len(NODES), 1)), atol=0.3)
    assert surfaces.values.shape == (len(NODES), 25, 25)
    assert surfaces.usable.all()
    assert (surfaces.returned == 0).all()
    if best is not None:  # the height of the peak shows which similarity it was
        np.testing.assert_allclose(surfaces.values.max(axis=(1, 2)), best, atol=1e-3)


@pytest.mark.parametrize("similarity", ["cc", "zncc", "ssd"])
def test_search_by_any_similarity_beside_a_gap_with_and_without_the_way_back(tmp_path, similarity):
    with pair_of(tmp_path, (slice(None), slice(140, None))) as pair:
        surfaces, one_way = (
            search(pair, LEVEL, NODES, np.zeros_like(NODES), plain, similarity, way_back) for way_back in (True, False)
        )
    assert np.isfinite(surfaces.returned[surfaces.usable]).all()
    assert np.isinf(one_way.returned).all()
    for name in ("values", "usable"):
        np.testing.assert_array_equal(getattr(one_way, name), getattr(surfaces, name))
    x = NODES[:, 0]
    assert np.isfinite(surfaces.values).all()
    assert surfaces.usable[x + 24 < 130].all()
    assert not surfaces.usable[x - 24 > 138].any()
    assert (x - 24 > 138).sum() > 5
    partly = surfaces.usable & (x + 24 > 135)  # templates of which half is seen
    assert partly.any()
    np.testing.assert_allclose(shifts(surfaces)[partly], np.tile(SHIFT, (int(partly.sum()), 1)), atol=0.5)


def test_where_features_are_zero_or_no_scene_is_nothing_is_usable(tmp_path):
    def half(patch, modality):
        """No structure in the right half of the optical patch: the tile is the whole scene."""
        found = plain(patch, modality).clone()
        if modality == "optical":
            found[:, :, found.shape[2] // 2 :] = 0
        return found

    nodes = np.array([[60.0, 130.0], [210.0, 130.0], [-5000.0, 40.0], [9000.0, 9000.0]])
    with pair_of(tmp_path) as pair:
        for similarity in ("cc", "zncc", "ssd"):
            surfaces = search(pair, LEVEL, nodes, np.zeros_like(nodes), half, similarity=similarity)
            np.testing.assert_array_equal(surfaces.usable, [True, False, False, False])
            assert np.isfinite(surfaces.values).all()
    assert (surfaces.values[2:] == 0).all()
    assert np.isinf(surfaces.returned[2:]).all()


def test_search_starts_at_the_prediction_and_reports_its_progress(tmp_path):
    nodes, done = np.concatenate([NODES, [[9000.0, 9000.0]]]), []
    with pair_of(tmp_path) as pair, listening(done.append):
        surfaces = search(pair, LEVEL, nodes, np.tile([5.4, -6.6], (len(nodes), 1)), plain)
    np.testing.assert_array_equal(surfaces.centre, np.tile([5, -7], (len(nodes), 1)))
    assert surfaces.values[:-1, 12 + 1, 12 + 4].min() > 0.999
    assert (done[0], done[-1], done) == (0.0, 1.0, sorted(done))
    assert len(done) > 2


def test_search_at_a_coarser_level_counts_in_its_pixels(tmp_path):
    level = Level(factor=2, template=40, radius=8, margin=24)
    nodes = np.array([[64.0, 64.0], [50.0, 70.0]])
    with pair_of(tmp_path) as pair:
        surfaces = search(pair, level, nodes, np.zeros_like(nodes), plain)
    np.testing.assert_allclose(shifts(surfaces), [np.array(SHIFT) / 2] * 2, atol=0.2)


def test_surfaces_do_not_depend_on_the_tiles(tmp_path):
    predicted = np.random.default_rng(0).uniform(-5, 5, NODES.shape)
    with pair_of(tmp_path, (slice(100, 150), slice(100, 160))) as pair:
        for extract, side, tolerance in ((plain, 49, 1e-4), (orientations, 100, 0.02)):
            part, whole = (search(pair, LEVEL, NODES, predicted, extract, tile=tile) for tile in (side, 10_000))
            np.testing.assert_allclose(part.values, whole.values, atol=tolerance)
            np.testing.assert_array_equal(part.usable, whole.usable)


def test_many_a_chance_match_does_not_find_its_way_back(tmp_path):
    far = np.tile([60.0, 60.0], (len(NODES), 1))  # the true place is not within the search
    with pair_of(tmp_path) as pair:
        surfaces = search(pair, LEVEL, NODES, far, plain)
    assert (surfaces.returned[surfaces.usable] > 3).mean() > 0.3


# --- matches at given places, without votes ---------------------------------------------------------------------------


def moved(dx, dy):
    return np.array([[1.0, 0, dx], [0, 1, dy], [0, 0, 1]])


@pytest.mark.parametrize("fraction", [(0.5, 0.25), (-0.3, 0.4)])
def test_a_sub_pixel_shift_is_found_at_the_places(tmp_path, fraction):
    with pair_of(tmp_path) as pair:
        found = compare_at(pair.posed(moved(*fraction)), LEVEL, NODES, orientations)
    assert len(found) > 0.9 * len(NODES)
    off = found.sar_xy - found.optical_xy - (np.array(SHIFT) - fraction)
    assert np.median(np.abs(off), axis=0).max() < 0.15


@pytest.mark.parametrize("factor", [1, 2])
def test_matches_lie_at_the_places_of_the_level_in_common_pixels(tmp_path, factor):
    nodes = NODES / factor + 0.3
    with pair_of(tmp_path) as pair:
        found = compare_at(pair, Level(factor, 40, 10, 20), nodes, orientations)
    assert len(found) > 0.5 * len(nodes)
    assert {tuple(p) for p in found.optical_xy} <= {tuple(p) for p in (nodes + 0.5) * factor - 0.5}
    assert np.abs(np.median(found.sar_xy - found.optical_xy, axis=0) - SHIFT).max() < 0.3 * factor
    assert (found.step, found.footprint, found.search_radius) == (factor, 40 * factor, 10 * factor)


def test_places_without_data_are_neither_tried_nor_matched(tmp_path):
    with pair_of(tmp_path, np.s_[:, 160:]) as pair:
        found, beyond = (compare_at(pair, LEVEL, nodes, orientations) for nodes in (NODES, NODES + 5000))
    assert (len(beyond), beyond.tried) == (0, 0)
    inside, outside = int((NODES[:, 0] < 130).sum()), int((NODES[:, 0] > 190).sum())
    assert outside > 5
    assert inside <= found.tried <= len(NODES) - outside
    assert found.optical_xy[:, 0].max() < 190


def test_places_with_nothing_to_find_are_tried_and_hardly_matched(tmp_path):
    with pair_of(tmp_path) as pair:
        found = compare_at(pair.posed(moved(-40, 0)), LEVEL, NODES, orientations)
    assert found.tried > 0.7 * len(NODES)
    assert len(found) < 0.7 * found.tried
    assert np.abs(found.sar_xy - found.optical_xy).max(initial=0) < LEVEL.radius  # none on the rim of the search


# --- votes -----------------------------------------------------------------------------------------------------------

RADIUS = 10


def bumps(places, height=1.0, width=1.8):
    """(N, D, D) Gaussians with tops at (N, 2) shifts."""
    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    places = np.asarray(places, float)
    d2 = (x - places[:, 0, None, None]) ** 2 + (y - places[:, 1, None, None]) ** 2
    return (np.reshape(height, (-1, 1, 1)) * np.exp(-d2 / (2 * width**2))).astype(np.float32)


def centred(values, predicted, usable):
    nowhere = np.zeros_like(predicted)
    return Surfaces(Level(1, 48, RADIUS, 24), nowhere, predicted, values, np.array(usable), nowhere[:, 0]).centred()


@few
@given(predicted=st.tuples(st.floats(-30, 30), st.floats(-30, 30)), dx=st.floats(-5, 5), dy=st.floats(-5, 5))
def test_centred_surfaces_are_relative_to_the_exact_prediction(predicted, dx, dy):
    predicted = np.array([predicted])
    values = bumps(predicted + np.array([dx, dy]) - np.rint(predicted))
    moved = centred(values, predicted, [True])
    np.testing.assert_allclose(find_peaks(moved).xy.numpy() - RADIUS, [[dx, dy]], atol=0.15)


def test_centred_surfaces_have_no_median_and_leave_out_what_is_not_usable():
    predicted = np.zeros((3, 2))
    values = np.random.default_rng(0).normal(5, 1, (3, 21, 21)).astype(np.float32)
    before = values.copy()
    moved = centred(values, predicted, [True, False, True])
    np.testing.assert_array_equal(values, before)
    assert (moved[1] == 0).all()
    for k in (0, 2):
        np.testing.assert_allclose(moved[k].numpy(), values[k] - np.median(values[k]), atol=1e-4)


@pytest.mark.parametrize(("height", "kept"), [(1.02, [2, 1]), (1.5, [-9, 6])])
def test_a_peak_far_from_the_prediction_has_to_be_higher(height, kept):
    surfaces = torch.from_numpy(bumps([[2, 1]]) + bumps([[-9, 6]], height=height))
    np.testing.assert_allclose(find_peaks(_near_prediction(surfaces)).xy.numpy() - RADIUS, [kept], atol=0.2)
    assert find_peaks(surfaces).xy[0, 0] < RADIUS


def test_neighbours_decide_an_ambiguous_surface():
    lattice = Lattice(0.0, 0.0, 24.0, 5, 5)
    values = bumps(np.tile([3.0, -2.0], (25, 1)))
    values[12] += bumps([[-6.0, 5.0]], height=1.2)[0]  # a rival, higher than the truth
    alone = torch.from_numpy(values)
    usable = np.ones(25, bool)
    voted = aggregate(alone, usable, lattice, 0.8)
    np.testing.assert_allclose(find_peaks(alone).xy[12].numpy() - RADIUS, [-6, 5], atol=0.2)
    peaks = find_peaks(voted)
    np.testing.assert_allclose(peaks.xy.numpy() - RADIUS, np.tile([3.0, -2.0], (25, 1)), atol=0.2)
    assert peaks.score[12] > 0.3


def test_a_vote_of_equals_changes_nothing_at_the_border_or_beside_gaps_and_fills_them():
    lattice = Lattice(0.0, 0.0, 24.0, 6, 4)
    usable = np.random.default_rng(1).random(24) < 0.7
    usable[[0, 23]] = True
    alone = torch.from_numpy(bumps(np.tile([1.0, 1.0], (24, 1))) * usable[:, None, None])
    voted = aggregate(alone, usable, lattice, 0.8)
    np.testing.assert_allclose(voted[usable].numpy(), alone[usable].numpy(), atol=1e-4)
    filled = find_peaks(voted[~usable]).xy.numpy() - RADIUS
    np.testing.assert_allclose(filled, np.ones_like(filled), atol=0.1)


def test_rows_and_columns_of_the_lattice_are_not_mixed_up():
    lattice = Lattice(0.0, 0.0, 24.0, 7, 3)
    values = np.zeros((21, 21, 21), np.float32)
    values[6] = bumps([[0.0, 0.0]])[0]  # the last node of the first row
    heights = aggregate(torch.from_numpy(values), np.ones(21, bool), lattice, 0.6).amax(dim=(1, 2))
    assert min(heights[5], heights[13]) > 0.01
    assert heights[7] == 0  # the start of the next row
