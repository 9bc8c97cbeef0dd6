"""descriptors/corners: corners of what is drawn, and those of them that are spread evenly."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from sn9reg.matchers.descriptors.corners import fast_corners, spread_evenly

SIDE = 96
ALL = np.ones((SIDE, SIDE), bool)
SQUARES = [(15, 20), (60, 12), (30, 60)]  # x, y of the upper left pixel of each
SIZE = 14
CORNERS = np.array([(x + i, y + j) for x, y in SQUARES for i in (0, SIZE - 1) for j in (0, SIZE - 1)])


def squares(*strengths):
    """One of each strength, a little blurred: two equal neighbours are no corner to FAST."""
    drawn = np.zeros((SIDE, SIDE), np.float32)
    for (x, y), strength in zip(SQUARES, strengths, strict=True):
        drawn[y : y + SIZE, x : x + SIZE] = strength
    return gaussian_filter(drawn, 0.5)


def nearest(points, others):
    """Of each point the distance to the nearest of the others."""
    return cdist(points, others).min(axis=1)


@pytest.mark.parametrize("unit", [1e-6, 1, 1e6])
def test_corners_of_squares_are_found_in_any_unit_and_nothing_else(unit):
    xy, response = fast_corners(unit * squares(1, 0.5, 0.5), ALL)
    assert nearest(CORNERS, xy).max() < 2
    assert nearest(xy, CORNERS).max() < 3
    strong = nearest(xy, CORNERS[:4]) < 3
    assert response[strong].min() > response[~strong].max() > 0
    valid = np.arange(SIDE) >= np.full((SIDE, 1), SIDE // 2)
    xy, _ = fast_corners(unit * squares(1, 1, 1), valid)
    assert nearest(CORNERS[CORNERS[:, 0] >= SIDE // 2], xy).max() < 2
    assert xy[:, 0].min() >= SIDE // 2


@pytest.mark.parametrize(
    ("strength", "valid"), [(np.full((SIDE, SIDE), 0.3, np.float32), ALL), (squares(1, 1, 1), ~ALL)]
)
def test_there_are_no_corners_where_there_is_nothing_to_see(strength, valid):
    xy, response = fast_corners(strength, valid)
    assert xy.shape == (0, 2)
    assert response.shape == (0,)


def test_full_strength_is_that_of_the_brightest_valid_pixels():
    """A few pixels that are much brighter, and any that are not valid, change no corner of the others."""
    drawn, valid = squares(1, 1, 1), ALL.copy()
    expected = fast_corners(np.minimum(drawn, np.percentile(drawn, 99.5)), ALL)[0]
    drawn[80:90, 80:90], valid[75:95, 75:95] = 1e6, False
    drawn[2:4, 2:5] = 50
    found = fast_corners(drawn, valid)[0]
    assert len(expected) >= len(CORNERS)
    assert nearest(expected, found).max() < 1


def radii(xy, response):
    """Of each point the distance to the nearest one of which 0.9 of the strength is still more."""
    clearly_stronger = response[:, None] < 0.9 * response[None, :]
    return np.where(clearly_stronger, cdist(xy, xy), np.inf).min(axis=1)


@pytest.mark.parametrize("count", [1, 2, 7, 14, 89])
@pytest.mark.parametrize("few", [True, False])
def test_of_many_points_the_strongest_compete(count, few):
    """few: strengths and places are few whole numbers, as those of FAST are."""
    random = np.random.default_rng(count)
    xy, response = random.uniform(0, 200, (90, 2)), random.gamma(2, 20, 90) + 1
    if few:
        xy, response = np.floor(xy / 16), np.ceil(response / 30)
    pool = np.argsort(-response, kind="stable")[: 8 * count]
    apart = radii(xy[pool], response[pool])
    chosen = spread_evenly(xy, response, count)
    assert len(set(chosen.tolist())) == count
    assert np.array_equal(np.sort(apart[np.isin(pool, chosen)]), np.sort(apart)[-count:])
    assert response[chosen[0]] == response.max()
    assert (np.diff(response[chosen]) <= 0).all()


@pytest.mark.parametrize(
    ("strengths", "count", "chosen"),
    [
        (np.full(90, 7.0), 30, range(30)), (np.zeros(90), 30, range(30)),  # of equal ones the first
        (np.ones(5), 100, range(5)), (np.ones(5), 0, []), (np.ones(0), 10, []),
        ([100, 95, 80, 50], 2, [0, 1]), ([100, 90, 80, 50], 2, [0, 1]), ([100, 89, 80, 50], 2, [0, 3]),
    ],
)  # fmt: skip
def test_a_point_is_only_suppressed_by_a_clearly_stronger_one(strengths, count, chosen):
    xy = np.column_stack([np.arange(len(strengths)), np.zeros(len(strengths))])
    xy[3:] *= 20
    assert sorted(spread_evenly(xy, np.array(strengths, float), count)) == list(chosen)
