"""descriptors/corners: corners of what is drawn, and those of them that are spread evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from sn9reg.matchers.descriptors.corners import fast_corners, full_strength, spread_evenly

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
SIDE = 96
SQUARES = [(15, 20), (60, 12), (30, 60)]  # x, y of the upper left pixel of each
SIZE = 14
CORNERS = np.array([(x + i, y + j) for x, y in SQUARES for i in (0, SIZE - 1) for j in (0, SIZE - 1)])


def squares(*strengths):
    """One of each strength; all 1 if none is given. A little blurred: two equal neighbours are no corner to FAST."""
    drawn = np.zeros((SIDE, SIDE), np.float32)
    for (x, y), strength in zip(SQUARES, strengths or (1, 1, 1), strict=True):
        drawn[y : y + SIZE, x : x + SIZE] = strength
    return gaussian_filter(drawn, 0.5)


def everywhere(side=SIDE):
    return np.ones((side, side), bool)


def nearest(points, others):
    """Of each point the distance to the nearest of the others."""
    return cdist(points, others).min(axis=1)


# --- corners ---------------------------------------------------------------------------------------------------------


def test_corners_of_squares_are_found_and_nothing_else():
    xy, response = fast_corners(squares(), everywhere())
    assert nearest(CORNERS, xy).max() < 2
    assert nearest(xy, CORNERS).max() < 3
    assert response.shape == (len(xy),)
    assert (response > 0).all()


def test_coordinates_are_columns_and_rows():
    xy, _ = fast_corners(squares()[: SIDE // 2], everywhere()[: SIDE // 2])
    assert xy[:, 0].max() > 70
    assert xy[:, 1].max() < SIDE // 2


@few
@given(exponent=st.floats(-6, 6))
def test_the_unit_of_strength_does_not_matter(exponent):
    plain, scaled = (fast_corners(unit * squares(), everywhere())[0] for unit in (1, 10**exponent))
    assert len(plain) == len(scaled) == 12
    assert nearest(scaled, plain).max() < 2  # grey values are rounded


def test_stronger_corners_have_a_larger_response():
    xy, response = fast_corners(squares(1, 0.5, 0.5), everywhere())
    strong = nearest(xy, CORNERS[:4]) < 3
    assert response[strong].min() > response[~strong].max()


def test_there_are_no_corners_where_the_mask_is_not():
    valid = everywhere()
    valid[:, : SIDE // 2] = False
    xy, _ = fast_corners(squares(), valid)
    assert nearest(CORNERS[CORNERS[:, 0] >= SIDE // 2], xy).max() < 2
    assert xy[:, 0].min() >= SIDE // 2


@pytest.mark.parametrize("value", [0.0, 0.3, 1e6])
def test_there_are_no_corners_on_a_constant_map(value):
    xy, response = fast_corners(np.full((SIDE, SIDE), value, np.float32), everywhere())
    assert xy.shape == (0, 2)
    assert response.shape == (0,)


def test_there_are_no_corners_where_nothing_is_valid():
    xy, response = fast_corners(squares(), ~everywhere())
    assert xy.shape == (0, 2)
    assert response.shape == (0,)


def test_a_level_above_all_strengths_leaves_no_corner():
    assert len(fast_corners(squares(), everywhere(), level=10.0)[0]) > 0
    assert len(fast_corners(squares(), everywhere(), level=1000.0)[0]) == 0


def test_windows_with_one_level_agree_with_the_whole():
    strength = np.random.default_rng(0).random((SIDE, SIDE), np.float32) ** 4
    strength[:, SIDE // 2 :] *= 0.2
    level = full_strength(strength, everywhere())
    whole = np.column_stack(fast_corners(strength, everywhere(), level))
    part = np.column_stack(fast_corners(strength[:, 40:], everywhere()[:, 40:], level))
    part[:, 0] += 40
    expected, found = (set(map(tuple, points[points[:, 0] >= 45])) for points in (whole, part))
    assert len(expected) > 20
    assert found == expected


def test_full_strength_is_that_of_the_brightest_valid_pixels():
    strength = np.arange(SIDE**2, dtype=np.float32).reshape(SIDE, SIDE)
    valid = strength < 1001
    assert full_strength(strength, valid) == pytest.approx(995)
    assert full_strength(strength, ~everywhere()) == 0


# --- an even spread --------------------------------------------------------------------------------------------------


def radii(xy, response):
    """Of each point the distance to the nearest one of which 0.9 of the strength is still more."""
    clearly_stronger = response[:, None] < 0.9 * response[None, :]
    return np.where(clearly_stronger, cdist(xy, xy), np.inf).min(axis=1)


def points(seed, number=90, side=200.0):
    random = np.random.default_rng(seed)
    return random.uniform(0, side, (number, 2)), random.gamma(2, 20, number) + 1


def clustered(seed=0, number=400, side=200.0):
    """Half of the points, which are twice as strong, crowd in one corner; the others are anywhere."""
    random = np.random.default_rng(seed)
    xy, response = random.uniform(0, side, (number, 2)), random.gamma(2, 20, number) + 1
    xy[: number // 2] *= 0.15
    response[: number // 2] *= 2
    return xy, response


@few
@given(seed=seeds, count=st.integers(15, 89))
def test_points_with_the_largest_radii_stay(seed, count):
    xy, response = points(seed)
    chosen = spread_evenly(xy, response, count)
    assert len(set(chosen.tolist())) == count
    assert np.sort(radii(xy, response)[chosen]) == pytest.approx(np.sort(radii(xy, response))[-count:])


@few
@given(seed=seeds, count=st.integers(1, 14))
def test_of_many_points_the_strongest_compete(seed, count):
    xy, response = points(seed)
    strongest = np.argsort(-response)[: 8 * count]
    expected = strongest[np.argsort(-radii(xy[strongest], response[strongest]), kind="stable")[:count]]
    assert set(spread_evenly(xy, response, count)) == set(expected)


@few
@given(seed=seeds, count=st.integers(1, 60))
def test_the_strongest_stays_and_comes_first(seed, count):
    xy, response = points(seed)
    chosen = spread_evenly(xy, response, count)
    assert chosen[0] == response.argmax()
    assert (np.diff(response[chosen]) <= 0).all()


def test_the_spread_is_more_even_than_that_of_the_strongest():
    xy, response = clustered()
    chosen, strongest = spread_evenly(xy, response, 60), np.argsort(-response)[:60]
    places = np.random.default_rng(1).uniform(0, 200, (2000, 2))
    assert nearest(places, xy[chosen]).mean() < 0.5 * nearest(places, xy[strongest]).mean()


def test_a_point_that_is_little_weaker_is_not_suppressed():
    xy = np.array([[0, 0], [1, 0], [2, 0], [60, 0]], float)
    for second, chosen in ((95, {0, 1}), (90, {0, 1}), (89, {0, 3})):
        assert set(spread_evenly(xy, np.array([100.0, second, 80, 50]), 2)) == chosen


@pytest.mark.parametrize("strength", [0.0, 7.0])
def test_of_equal_points_the_first_ones_stay(strength):
    xy, _ = points(0)
    assert np.array_equal(spread_evenly(xy, np.full(len(xy), strength), 30), np.arange(30))


@few
@given(seed=seeds, count=st.integers(1, 89))
def test_points_of_few_strengths_are_spread_as_any(seed, count):
    """FAST's responses are whole numbers, and its corners lie on whole pixels."""
    random = np.random.default_rng(seed)
    xy, response = random.integers(0, 12, (90, 2)).astype(float), random.integers(1, 5, 90).astype(float)
    pool = np.argsort(-response, kind="stable")[: 8 * count]
    chosen = spread_evenly(xy, response, count)
    assert len(set(chosen.tolist())) == count
    own = radii(xy[pool], response[pool])
    assert np.array_equal(np.sort(own[np.isin(pool, chosen)]), np.sort(own)[-count:])


def test_points_in_one_place_are_no_trouble():
    xy, response = np.ones((50, 2)), np.arange(50.0)
    assert spread_evenly(xy, response, 10)[0] == 49


@pytest.mark.parametrize("count", [5, 6, 100])
def test_all_stay_where_no_more_are_there_than_asked_for(count):
    xy, response = points(0, number=5)
    assert sorted(spread_evenly(xy, response, count)) == [0, 1, 2, 3, 4]


def test_of_no_points_none_stays():
    assert spread_evenly(np.zeros((0, 2)), np.zeros(0), 10).shape == (0,)


def test_none_stays_where_none_is_asked_for():
    assert spread_evenly(*points(0), 0).shape == (0,)
