"""neighbours: smooth fields with outliers, and values known at scattered places, of which the truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.matches import lattice, matched

from sn9reg.fit import neighbours
from sn9reg.fit.neighbours import WITNESS_PX as TOLERANCE
from sn9reg.fit.neighbours import distance_to, local_consistency, local_mean, neighbour_prediction, witnesses_agree

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**32 - 1)
RADIUS = 40.0


def scattered(random, n=400):
    return random.uniform(0, 2000, (n, 2)) + np.array([435000, 4180000])


def smooth(xy):
    """A hill's parallax on a tilt, over 2 km: tens of metres."""
    x, y = ((xy - [435000, 4180000]) / 2000).T
    return np.column_stack([12 * x - 5 * y + 15 * np.sin(3 * x + 2 * y), 4 * y + 3 * np.cos(4 * x)])


def on_lattice(shift_px, step=1.0, pixel=0.5, spacing=48.0, radius=RADIUS, side=20):
    """Matches on a regular lattice of side x side places whose witnesses saw `shift_px` (N, 2), common pixels."""
    xy = lattice(side, 200.0, 200.0 + (side - 1) * spacing * step)
    return matched(xy, xy + shift_px, pixel, step, radius)


@few
@given(seed=seeds, tilt=st.tuples(*[st.floats(-0.02, 0.02)] * 4))
def test_a_plane_is_predicted_almost_exactly(seed, tilt):
    source = scattered(np.random.default_rng(seed), 200)
    shift = (source - source.mean(axis=0)) @ np.array(tilt).reshape(2, 2) + [30, -20]
    predicted = neighbour_prediction(source, shift, 1.0)
    inner = (np.abs(source - source.mean(axis=0)) < 800).all(axis=1)
    # Well below what the plane changes between neighbours (150 m apart).
    assert np.median(np.linalg.norm(predicted - shift, axis=1)[inner]) <= 0.3 * 150 * max(map(abs, tilt)) + 1e-9


@pytest.mark.parametrize("exclude", [0.0, 250.0])
def test_a_match_and_excluded_neighbours_do_not_count_in_its_prediction(exclude):
    source = scattered(np.random.default_rng(1), 300)
    shift = smooth(source)
    before = neighbour_prediction(source, shift, 1.0, exclude)
    near = np.linalg.norm(source - source[7], axis=1) <= exclude
    assert near.sum() == 1 or near.sum() > 5
    shift[near] += 100
    after = neighbour_prediction(source, shift, 1.0, exclude)
    np.testing.assert_array_equal(after[7], before[7])
    assert not np.array_equal(after, before)


@pytest.mark.parametrize("n", [0, 1, 4, 5, 8])
def test_too_few_neighbours_predict_nothing_and_a_few_do_no_harm(n):
    source = scattered(np.random.default_rng(0), n)
    predicted = neighbour_prediction(source, source @ similarity(90, 1).T, 1.0)
    assert (np.isnan(predicted) if n < 5 else np.isfinite(predicted)).all()
    assert local_consistency(source, smooth(source), 1.0).shape == (n,)
    if n > 4:
        same = np.full((n, 2), 7.0)
        np.testing.assert_allclose(neighbour_prediction(same, same * 0 + 3, 1.0), 3.0, atol=1e-6)


@pytest.mark.parametrize("linear", [[[0.01, 0], [0, 0]], [[-0.08, -0.92], [0.92, -0.08]]])
def test_places_on_a_line_are_predicted_along_it(linear):
    source = np.column_stack([np.arange(40.0) * 50, np.zeros(40)])
    shift = source @ np.array(linear).T
    assert np.abs(neighbour_prediction(source, shift, 1.0) - shift)[6:-6].max() < 0.5


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


def test_the_limit_is_three_times_the_scale():
    source = scattered(np.random.default_rng(3))
    assert local_consistency(source, smooth(source), 1.0).mean() > 0.95
    shift = np.zeros_like(source)
    shift[10], shift[20] = [2.5, 0], [0, 3.5]
    assert np.flatnonzero(~local_consistency(source, shift, 1.0)).tolist() == [20]


@pytest.mark.parametrize("spacing", [96.0, 48.0, 12.0])
@pytest.mark.parametrize(("step", "pixel"), [(1.0, 0.5), (1.0, 10.0), (4.0, 0.5)])
def test_witnesses_of_a_smooth_noisy_field_agree_however_dense_they_are(step, pixel, spacing):
    noise = np.random.default_rng(3).normal(0, 0.8, (400, 2))
    x, y = lattice(20, 0, spacing / 48).T
    field = np.column_stack([20 * np.sin(2 * x + y), 10 * x * y - 5])  # pixels
    assert witnesses_agree(on_lattice((field + noise) * step, step, pixel, spacing)).mean() > 0.95


@pytest.mark.parametrize(("radius", "step"), [(12.0, 1.0), (40.0, 1.0), (12.0, 4.0)])
def test_witnesses_of_random_shifts_agree_by_chance_only(radius, step):
    random = np.random.default_rng(0)
    shifts = [random.uniform(-radius, radius, (400, 2)) * step for _ in range(10)]
    share = np.mean([witnesses_agree(on_lattice(shift, step, radius=radius)).mean() for shift in shifts])
    # Uniform witnesses hit a place well inside the search area this often; predictions are means, which lie there.
    chance = np.pi * TOLERANCE**2 / (2 * radius) ** 2
    assert 0.5 * chance < share < 1.5 * chance


def test_witnesses_that_share_pixels_do_not_vouch_for_each_other():
    """Blocks of 2 x 2 overlapping templates that saw the same wrong thing."""
    blocks = np.random.default_rng(2).uniform(-40, 40, (10, 10, 2))
    shift = blocks.repeat(2, axis=0).repeat(2, axis=1).reshape(-1, 2)
    assert witnesses_agree(on_lattice(shift)).mean() < 0.05
    assert not witnesses_agree(on_lattice(np.zeros((16, 2)), spacing=10.0, side=4)).any()  # within one footprint


def test_neighbours_are_the_same_in_one_go_and_in_many(monkeypatch):
    matches = on_lattice(np.random.default_rng(4).normal(0, 3.0, (400, 2)), spacing=20.0)
    at_once = witnesses_agree(matches)
    monkeypatch.setattr(neighbours, "_CANDIDATES", 1000)
    np.testing.assert_array_equal(witnesses_agree(matches), at_once)
    assert 0.2 < at_once.mean() < 0.999


def similarity(degrees, zoom):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return zoom * np.array([[cos, -sin], [sin, cos]])


def turned(linear, noise=0.8, wrong=0.0):
    """Scattered matches, and which of them are random ones within the search radius."""
    random = np.random.default_rng(0)
    xy = random.uniform(200, 1800, (400, 2))
    there = (xy - 1000) @ np.asarray(linear).T + 1000 + random.normal(0, noise, (400, 2))
    outlier = random.random(400) < wrong
    there[outlier] += random.uniform(-RADIUS, RADIUS, (int(outlier.sum()), 2))
    return matched(xy, there, footprint=64.0), outlier


def predicted(matches, *arguments):
    """The matches' shifts, and what is predicted of them."""
    shift = matches.sar_map - matches.optical_map
    return shift, neighbour_prediction(matches.optical_map, shift, 0.5, *arguments)


@pytest.mark.parametrize(("degrees", "zoom"), [(45, 1.0), (0, 1 / 1.3), (180, 0.7), (-100, 2.0)])
def test_matches_of_a_turned_or_scaled_pair_agree_and_outliers_do_not(degrees, zoom):
    matches, wrong = turned(similarity(degrees, zoom), wrong=0.3)
    source = matches.optical_map
    agreed, kept = witnesses_agree(matches), local_consistency(source, matches.sar_map - source, 0.5)
    off = np.hypot(*((matches.sar_xy - 1000) - (matches.optical_xy - 1000) @ similarity(degrees, zoom).T).T)
    assert min(agreed[~wrong].mean(), kept[~wrong].mean()) > 0.95
    assert not agreed[off > 2 * TOLERANCE].any()
    assert kept[wrong].mean() < 0.2


def test_random_matches_anywhere_agree_hardly_more_often_than_by_chance():
    places = np.random.default_rng(0).uniform(200, 1800, (5, 2, 400, 2))
    shares = [witnesses_agree(matched(*pair, footprint=64.0, radius=800.0)).mean() for pair in places]
    assert np.mean(shares) < 2 * np.pi * TOLERANCE**2 / 1600**2 + 1e-3


@pytest.mark.parametrize("linear", [similarity(3, 1.02), [[1.05, 0.02], [-0.03, 0.97]]])
def test_only_steep_trends_are_taken_off_first(monkeypatch, linear):
    matches, _ = turned(linear, wrong=0.2)
    now = predicted(matches, 30.0)
    monkeypatch.setattr(neighbours, "_STEEP", np.inf)
    np.testing.assert_array_equal(predicted(matches, 30.0), now)
    assert witnesses_agree(turned(similarity(45, 1.3))[0]).mean() < 0.8  # a steep one that is not taken off


def test_a_steep_plane_is_predicted_up_to_the_rim_and_a_hill_on_it_is_followed():
    matches, _ = turned(similarity(45, 1.3), noise=0.0)
    source, (shift, found) = matches.optical_map, predicted(matches)
    np.testing.assert_allclose(found, shift, atol=1e-3)
    hill = 12 * np.exp(-(((source - source.mean(axis=0)) / 250) ** 2).sum(axis=1))
    shift = shift + np.column_stack([hill, 0 * hill])
    assert np.median(np.hypot(*(neighbour_prediction(source, shift, 0.5) - shift).T)) < 0.6


# --- values at places, and the distance to them ----------------------------------------------------------------------

COUNTED, PRIOR = 24, 4  # the nearest 24 places count, and the mean of all as 4 more


def places_of(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 1000, (n, 2))


@pytest.mark.parametrize(("n", "asked"), [(1, 1), (3, 0), (200, 40)])
def test_a_constant_stays_a_constant(n, asked):
    found = local_mean(places_of(n), np.full(n, -2.5))(places_of(asked, 1) * 3 - 1000)
    np.testing.assert_allclose(found, np.full(asked, -2.5))


def test_two_places_are_mixed_by_their_distance_and_places_on_top_of_one_another_count_alike():
    """The farthest place lies at two widths of the weight, by definition: exp(-2)."""
    mean = local_mean(np.full((10, 2), 5.0), np.arange(10.0))
    np.testing.assert_allclose(mean(np.array([[5.0, 5.0], [80.0, 5.0]])), 4.5)
    mean = local_mean(np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([0.0, 1.0]))
    far = np.exp(-2)
    at_first = (far + PRIOR / 2) / (1 + far + PRIOR)
    np.testing.assert_allclose(mean(np.array([[0.0, 0], [5, 0], [10, 0]])), [at_first, 0.5, 1 - at_first])


def test_groups_far_apart_have_means_of_their_own_drawn_a_little_to_that_of_all():
    """All of a group lie around one point, as far from it as each other: each counts by exp(-2)."""
    angle = 2 * np.pi * np.arange(60) / 60
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    centres = np.array([[0.0, 0.0], [1e5, 0.0]])
    mean = local_mean(np.concatenate([ring + centre for centre in centres]), np.repeat([1.0, 5.0], 60))
    share = COUNTED * np.exp(-2) / (COUNTED * np.exp(-2) + PRIOR)
    np.testing.assert_allclose(mean(centres), share * np.array([1, 5]) + (1 - share) * 3, rtol=1e-6)


@pytest.mark.parametrize(("n", "asked"), [(1, 1), (3, 0), (6, 7), (200, 7)])
def test_the_distance_is_that_of_the_nearest_six(n, asked):
    source, places = places_of(n), places_of(asked, 1)
    apart = np.sort(np.linalg.norm(places[:, None] - source[None], axis=2), axis=1)[:, :6]
    np.testing.assert_allclose(distance_to(source)(places), apart.mean(axis=1))
