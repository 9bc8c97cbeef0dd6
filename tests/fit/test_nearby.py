"""nearby: what is known around a place is a mean of it, the nearer the more."""

from __future__ import annotations

import numpy as np
import pytest

from sn9reg.fit.nearby import distance_to, local_mean

FEW, JUST, MANY = 3, 24, 200  # 24 places count nearby
ALL = 4  # and the mean of all as so many


def scattered(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 1000, (n, 2))


@pytest.mark.parametrize("n", [1, 2, FEW, JUST, MANY])
def test_what_is_the_same_everywhere_is_the_same_elsewhere(n):
    mean = local_mean(scattered(n), np.full(n, -2.5))
    np.testing.assert_allclose(mean(scattered(40, 1) * 3 - 1000), -2.5)


@pytest.mark.parametrize("n", [1, FEW, JUST, MANY])
@pytest.mark.parametrize("asked", [0, 1, 7])
def test_there_is_one_value_per_place(n, asked):
    assert local_mean(scattered(n), np.arange(n, dtype=float))(scattered(asked, 1)).shape == (asked,)


def test_one_place_is_known_at_itself_too():
    mean = local_mean(np.array([[3.0, 4.0]]), np.array([7.0]))
    np.testing.assert_allclose(mean(np.array([[3.0, 4.0], [1e6, -1e6]])), [7, 7])


def test_places_on_top_of_one_another_count_alike():
    values = np.arange(10.0)
    mean = local_mean(np.full((10, 2), 5.0), values)
    np.testing.assert_allclose(mean(np.array([[5.0, 5.0], [80.0, 5.0]])), values.mean())


def test_two_places_are_mixed_by_their_distance():
    """The farthest place lies at two widths of the weight, by definition: exp(-2)."""
    mean = local_mean(np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([0.0, 1.0]))
    far = np.exp(-2)
    at_first = (far + ALL / 2) / (1 + far + ALL)
    np.testing.assert_allclose(mean(np.array([[0.0, 0], [5, 0], [10, 0]])), [at_first, 0.5, 1 - at_first])


@pytest.mark.parametrize("n", [JUST, 60])
def test_groups_far_apart_have_means_of_their_own_drawn_a_little_to_that_of_all(n):
    """All of a group that lie around one point, as far from it as each other: each counts by exp(-2)."""
    angle = 2 * np.pi * np.arange(n) / n
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    centres = np.array([[0.0, 0.0], [1e5, 0.0]])
    mean = local_mean(np.concatenate([ring + centre for centre in centres]), np.repeat([1.0, 5.0], n))
    near = JUST * np.exp(-2)
    share = near / (near + ALL)
    np.testing.assert_allclose(mean(centres), share * np.array([1, 5]) + (1 - share) * 3, rtol=1e-6)


def test_fewer_places_than_count_nearby_all_count():
    source, values = scattered(FEW), np.array([1.0, 2.0, 6.0])
    without = local_mean(source, np.array([1.0, 2.0, 0.0]))
    at = scattered(20, 1)
    assert (local_mean(source, values)(at) > without(at)).all()
    assert (local_mean(source, values)(at) > 1).all()
    assert (local_mean(source, values)(at) < 6).all()


def test_a_slope_is_followed_and_nothing_beyond_what_is_known():
    source = scattered(MANY)
    found = local_mean(source, source[:, 0])(np.array([[100.0, 500.0], [500, 500], [900, 500], [9000, 500]]))
    assert (np.diff(found[:3]) > 150).all()
    assert found[3] <= source[:, 0].max()


def test_sums_are_means_of_sums():
    source, at = scattered(MANY), scattered(20, 1)
    one, two = np.random.default_rng(2).normal(size=(2, MANY))
    both = local_mean(source, one - 3 * two)(at)
    np.testing.assert_allclose(both, local_mean(source, one)(at) - 3 * local_mean(source, two)(at))


@pytest.mark.parametrize("asked", [0, 1, 7])
@pytest.mark.parametrize("n", [1, FEW, 6, MANY])
def test_the_nearest_six_are_so_far_away(n, asked):
    source, places = scattered(n), scattered(asked, 1)
    apart = np.sort(np.linalg.norm(places[:, None] - source[None], axis=2), axis=1)[:, :6]
    found = distance_to(source)(places)
    assert found.shape == (asked,)
    np.testing.assert_allclose(found, apart.mean(axis=1))
