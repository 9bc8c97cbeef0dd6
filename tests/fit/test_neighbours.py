"""consistency: smooth fields with outliers, of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from sn9reg.fit import neighbours as consistency
from sn9reg.fit.correspondences import Correspondences
from sn9reg.fit.neighbours import WITNESS_PX, local_consistency, neighbour_prediction, witnesses_agree
from sn9reg.raster.grid import Grid

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def scattered(random, n=400, side=2000.0):
    return random.uniform(0, side, (n, 2)) + np.array([435000, 4180000])


def smooth(xy):
    """A hill's parallax on a tilt, over 2 km: tens of metres."""
    x, y = ((xy - [435000, 4180000]) / 2000).T
    return np.column_stack([12 * x - 5 * y + 15 * np.sin(3 * x + 2 * y), 4 * y + 3 * np.cos(4 * x)])


def on_lattice(shift_px, step=1.0, pixel=0.5, spacing=48.0, footprint=96.0, radius=40.0, side=20):
    """Matches on a regular lattice of side x side places whose witnesses saw `shift_px` (N, 2), common pixels."""
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    xy = np.column_stack([x.ravel(), y.ravel()]) * spacing * step + 200.0
    n = len(xy)
    grid = Grid(Affine(pixel, 0, 435000, 0, -pixel, 4181000), 5000, 5000, CRS.from_epsg(32637))
    ones = np.ones(n)
    return Correspondences(
        grid, xy, xy + shift_px, ones, ones, 0 * ones, ones, xy + shift_px, radius * step, step, footprint * step, n
    )


# --- prediction by neighbours ----------------------------------------------------------------------------------------


@few
@given(seed=seeds, tilt=st.tuples(*[st.floats(-0.02, 0.02)] * 4))
def test_a_plane_is_predicted_almost_exactly(seed, tilt):
    source = scattered(np.random.default_rng(seed), 200)
    shift = (source - source.mean(axis=0)) @ np.array(tilt).reshape(2, 2) + [30, -20]
    predicted = neighbour_prediction(source, shift, 1.0)
    inner = (np.abs(source - source.mean(axis=0)) < 800).all(axis=1)
    # Well below what the plane changes between neighbours (150 m apart).
    assert np.median(np.linalg.norm(predicted - shift, axis=1)[inner]) <= 0.3 * 150 * max(map(abs, tilt)) + 1e-9


def test_a_match_has_no_say_in_its_own_prediction():
    source = scattered(np.random.default_rng(0), 50)
    shift = smooth(source)
    before = neighbour_prediction(source, shift, 1.0)
    shift[7] += [500, -300]
    after = neighbour_prediction(source, shift, 1.0)
    np.testing.assert_array_equal(after[7], before[7])
    assert not np.array_equal(after, before)


def test_excluded_neighbours_have_no_say():
    source = scattered(np.random.default_rng(1), 300)
    shift = smooth(source)
    before = neighbour_prediction(source, shift, 1.0, exclude=250)
    near = np.linalg.norm(source - source[7], axis=1) < 250
    assert near.sum() > 5
    shift[near] += 100
    np.testing.assert_array_equal(neighbour_prediction(source, shift, 1.0, exclude=250)[7], before[7])


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_neighbours_predict_nothing(n):
    source = scattered(np.random.default_rng(0), n)
    assert np.isnan(neighbour_prediction(source, smooth(source), 1.0)).all()
    assert local_consistency(source, smooth(source), 1.0).shape == (n,)


def test_places_on_a_line_are_predicted_along_it():
    source = np.column_stack([np.arange(30.0) * 50, np.zeros(30)])
    shift = np.column_stack([0.01 * source[:, 0], 5 - 0.02 * source[:, 0]])
    predicted = neighbour_prediction(source, shift, 1.0)
    assert np.linalg.norm(predicted - shift, axis=1)[6:-6].max() < 0.5


# --- local consistency -----------------------------------------------------------------------------------------------


@few
@given(seed=seeds, noise=st.floats(0.1, 2.0))
def test_outliers_among_a_smooth_field_are_found(seed, noise):
    random = np.random.default_rng(seed)
    source = scattered(random)
    wrong = random.random(len(source)) < 0.3
    shift = smooth(source) + random.normal(0, noise, source.shape)
    shift[wrong] = random.uniform(-150, 150, (int(wrong.sum()), 2))
    kept = local_consistency(source, shift, noise)
    assert (kept & ~wrong).sum() / (~wrong).sum() > 0.9  # recall
    assert (kept & ~wrong).sum() / kept.sum() > 0.95  # precision


def test_a_clean_field_is_kept():
    source = scattered(np.random.default_rng(2))
    assert local_consistency(source, smooth(source), 1.0).mean() > 0.95


def test_the_limit_is_three_times_the_scale():
    source = scattered(np.random.default_rng(3))
    shift = np.zeros_like(source)
    shift[10], shift[20] = [2.5, 0], [0, 3.5]
    kept = local_consistency(source, shift, 1.0)
    assert kept[10]
    assert not kept[20]
    assert kept.sum() == len(source) - 1


# --- witnesses -------------------------------------------------------------------------------------------------------


def field_px(side=20):
    """Smooth, up to 30 px, on the lattice of `on_lattice`."""
    x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    return np.column_stack([(20 * np.sin(2 * x + y)).ravel(), (10 * x * y - 5).ravel()])


@few
@given(seed=seeds, step=st.sampled_from([1.0, 4.0]), pixel=st.sampled_from([0.5, 10.0]))
def test_witnesses_of_a_smooth_noisy_field_agree(seed, step, pixel):
    noise = np.random.default_rng(seed).normal(0, 0.8, (400, 2))
    assert witnesses_agree(on_lattice((field_px() + noise) * step, step, pixel)).mean() > 0.97


@pytest.mark.parametrize("radius", [12.0, 40.0])
@pytest.mark.parametrize("step", [1.0, 4.0])
def test_witnesses_of_random_shifts_agree_by_chance_only(radius, step):
    random = np.random.default_rng(0)
    trials = [
        witnesses_agree(on_lattice(random.uniform(-radius, radius, (400, 2)) * step, step, radius=radius)).mean()
        for _ in range(10)
    ]
    # Uniform witnesses hit a place well inside the search area this often; predictions are means, which lie there.
    chance = np.pi * WITNESS_PX**2 / (2 * radius) ** 2
    assert 0.5 * chance < np.mean(trials) < 1.5 * chance


def test_the_tolerance_counts_in_pixels_of_the_level():
    noise = np.random.default_rng(1).normal(0, 6.0, (400, 2))
    fine, coarse = (witnesses_agree(on_lattice(noise, step)).mean() for step in (1.0, 8.0))
    assert fine < 0.4
    assert coarse > 0.95


def test_witnesses_that_share_pixels_do_not_vouch_for_each_other():
    """Blocks of 2 x 2 overlapping templates that saw the same wrong thing."""
    random = np.random.default_rng(2)
    blocks = random.uniform(-40, 40, (10, 10, 2))
    shift = blocks.repeat(2, axis=0).repeat(2, axis=1).reshape(-1, 2)
    assert witnesses_agree(on_lattice(shift)).mean() < 0.05


@pytest.mark.parametrize("spacing", [96.0, 48.0, 24.0, 12.0])
def test_witnesses_agree_however_dense_the_lattice_is(spacing):
    noise = np.random.default_rng(3).normal(0, 0.5, (900, 2))
    assert witnesses_agree(on_lattice(noise + np.array([10.0, -4.0]), spacing=spacing, side=30)).mean() > 0.97


def test_a_scene_within_one_footprint_has_no_witnesses():
    assert not witnesses_agree(on_lattice(np.zeros((16, 2)), spacing=10.0, side=4)).any()


def test_neighbours_are_the_same_in_one_go_and_in_many(monkeypatch):
    matches = on_lattice(np.random.default_rng(4).normal(0, 3.0, (400, 2)), spacing=20.0)
    at_once = witnesses_agree(matches)
    monkeypatch.setattr(consistency, "_CANDIDATES", 1000)
    np.testing.assert_array_equal(witnesses_agree(matches), at_once)
    assert 0.2 < at_once.mean() < 0.999
