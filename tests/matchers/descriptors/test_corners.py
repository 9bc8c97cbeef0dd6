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


@pytest.mark.parametrize(
    ("strength", "valid"), [(np.full((SIDE, SIDE), 0.3, np.float32), everywhere()), (squares(), ~everywhere())]
)
def test_there_are_no_corners_where_there_is_nothing_to_see(strength, valid):
    xy, response = fast_corners(strength, valid)
    assert xy.shape == (0, 2)
    assert response.shape == (0,)


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


@few
@given(seed=seeds, count=st.integers(1, 14))
def test_of_many_points_the_strongest_compete(seed, count):
    xy, response = points(seed)
    strongest = np.argsort(-response)[: 8 * count]
    expected = strongest[np.argsort(-radii(xy[strongest], response[strongest]), kind="stable")[:count]]
    chosen = spread_evenly(xy, response, count)
    assert set(chosen) == set(expected)
    assert chosen[0] == response.argmax()
    assert (np.diff(response[chosen]) <= 0).all()


@pytest.mark.parametrize("strength", [0.0, 7.0])
def test_of_equal_points_the_first_ones_stay(strength):
    assert np.array_equal(spread_evenly(points(0)[0], np.full(90, strength), 30), np.arange(30))


@pytest.mark.parametrize(("number", "count"), [(5, 5), (5, 100), (5, 0), (0, 10)])
def test_no_more_stay_than_there_are_or_are_asked_for(number, count):
    assert sorted(spread_evenly(*points(0, number), count)) == list(range(min(number, count)))


def test_the_spread_is_more_even_than_that_of_the_strongest():
    """Half of the points, which are twice as strong, crowd in one corner; the others are anywhere."""
    xy, response = points(0, 400)
    xy[:200] *= 0.15
    response[:200] *= 2
    chosen, strongest = spread_evenly(xy, response, 60), np.argsort(-response)[:60]
    places = np.random.default_rng(1).uniform(0, 200, (2000, 2))
    assert nearest(places, xy[chosen]).mean() < 0.5 * nearest(places, xy[strongest]).mean()


def test_a_point_that_is_little_weaker_is_not_suppressed():
    xy = np.array([[0, 0], [1, 0], [2, 0], [60, 0]], float)
    for second, chosen in ((95, {0, 1}), (90, {0, 1}), (89, {0, 3})):
        assert set(spread_evenly(xy, np.array([100.0, second, 80, 50]), 2)) == chosen


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
