"""consistency: what a rotation or another scale does to all shifts alike is not held against them."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from sn9reg.fit import neighbours as consistency
from sn9reg.fit.correspondences import Correspondences
from sn9reg.fit.neighbours import WITNESS_PX, local_consistency, neighbour_prediction, witnesses_agree
from sn9reg.raster.grid import Grid

GRID = Grid(Affine(0.5, 0, 435000, 0, -0.5, 4181000), 5000, 5000, CRS.from_epsg(32637))
N, RADIUS = 400, 40.0


def similarity(degrees, zoom):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return zoom * np.array([[cos, -sin], [sin, cos]])


def matches_of(linear, noise=0.8, wrong=0.0, seed=0):
    """Scattered matches, and which of them are random ones within the search radius."""
    random = np.random.default_rng(seed)
    xy = random.uniform(200, 1800, (N, 2))
    there = (xy - 1000) @ np.asarray(linear).T + 1000 + random.normal(0, noise, (N, 2))
    outlier = random.random(N) < wrong
    there[outlier] += random.uniform(-RADIUS, RADIUS, (int(outlier.sum()), 2))
    ones = np.ones(N)
    return Correspondences(GRID, xy, there, ones, ones, 0 * ones, ones, there, RADIUS, 1.0, 64.0, N), outlier


STEEP = [(45, 1.0), (0, 1.3), (0, 1 / 1.3), (45, 1.3), (180, 0.7), (-100, 2.0)]


@pytest.mark.parametrize(("degrees", "zoom"), STEEP)
def test_witnesses_of_a_turned_or_scaled_pair_agree(degrees, zoom):
    matches, _ = matches_of(similarity(degrees, zoom))
    assert witnesses_agree(matches).mean() > 0.97


@pytest.mark.parametrize(("degrees", "zoom"), STEEP)
def test_matches_of_a_turned_or_scaled_pair_are_consistent(degrees, zoom):
    matches, _ = matches_of(similarity(degrees, zoom))
    shift = matches.sar_map - matches.optical_map
    assert local_consistency(matches.optical_map, shift, 0.5).mean() > 0.97


def test_without_the_trend_they_would_not_agree(monkeypatch):
    monkeypatch.setattr(consistency, "_STEEP", np.inf)
    matches, _ = matches_of(similarity(45, 1.3))
    assert witnesses_agree(matches).mean() < 0.8


@pytest.mark.parametrize(("degrees", "zoom"), STEEP)
def test_outliers_of_a_turned_pair_are_not_confirmed(degrees, zoom):
    matches, wrong = matches_of(similarity(degrees, zoom), wrong=0.3)
    agreed = witnesses_agree(matches)
    off = np.hypot(*((matches.sar_xy - 1000) - (matches.optical_xy - 1000) @ similarity(degrees, zoom).T).T)
    assert agreed[~wrong].mean() > 0.95
    assert not agreed[off > 2 * WITNESS_PX].any()


@pytest.mark.parametrize(("degrees", "zoom"), STEEP)
def test_outliers_of_a_turned_pair_are_not_consistent(degrees, zoom):
    matches, wrong = matches_of(similarity(degrees, zoom), wrong=0.3)
    kept = local_consistency(matches.optical_map, matches.sar_map - matches.optical_map, 0.5)
    assert kept[~wrong].mean() > 0.95
    assert kept[wrong].mean() < 0.2


@pytest.mark.parametrize("anywhere", [False, True])
def test_random_matches_are_confirmed_hardly_more_often_than_by_chance(anywhere):
    shares = []
    reach = 800.0 if anywhere else RADIUS
    for seed in range(5):
        random = np.random.default_rng(seed)
        xy = random.uniform(200, 1800, (N, 2))
        there = (1000 if anywhere else xy) + random.uniform(-reach, reach, (N, 2))
        ones = np.ones(N)
        matches = Correspondences(GRID, xy, there, ones, ones, 0 * ones, ones, there, reach, 1.0, 64.0, N)
        shares.append(witnesses_agree(matches).mean())
    chance = np.pi * WITNESS_PX**2 / (2 * reach) ** 2
    assert np.mean(shares) < 2 * chance + 1e-3


@pytest.mark.parametrize("linear", [np.eye(2), similarity(3, 1.02), [[1.05, 0.02], [-0.03, 0.97]]])
def test_gentle_trends_are_left_to_the_planes(monkeypatch, linear):
    matches, _ = matches_of(linear, wrong=0.2)
    source, shift = matches.optical_map, matches.sar_map - matches.optical_map
    now = neighbour_prediction(source, shift, 0.5, 30.0)
    monkeypatch.setattr(consistency, "_STEEP", np.inf)
    np.testing.assert_array_equal(neighbour_prediction(source, shift, 0.5, 30.0), now)


def test_a_steep_plane_is_predicted_up_to_the_rim():
    matches, _ = matches_of(similarity(45, 1.3), noise=0.0)
    source, shift = matches.optical_map, matches.sar_map - matches.optical_map
    np.testing.assert_allclose(neighbour_prediction(source, shift, 0.5), shift, atol=1e-3)


def test_a_hill_on_a_turned_pair_is_followed():
    matches, _ = matches_of(similarity(45, 1.0), noise=0.3)
    source = matches.optical_map
    hill = 12 * np.exp(-(((source - source.mean(axis=0)) / 250) ** 2).sum(axis=1))
    shift = matches.sar_map - source + np.column_stack([hill, 0 * hill])
    off = np.hypot(*(neighbour_prediction(source, shift, 0.5) - shift).T)
    assert np.median(off) < 0.6


@pytest.mark.parametrize("n", [5, 6, 8])
def test_few_matches_or_all_on_one_place_do_no_harm(n):
    source = np.random.default_rng(0).uniform(0, 100, (n, 2))
    assert np.isfinite(neighbour_prediction(source, source @ similarity(90, 1).T, 1.0)).all()
    same = np.full((n, 2), 7.0)
    np.testing.assert_allclose(neighbour_prediction(same, same * 0 + 3, 1.0), 3.0, atol=1e-6)


def test_collinear_matches_of_a_turned_pair_agree_along_their_line():
    source = np.column_stack([np.arange(40.0) * 50, np.zeros(40)])
    shift = source @ (similarity(45, 1.3) - np.eye(2)).T
    assert np.abs(neighbour_prediction(source, shift, 1.0) - shift).max() < 0.5
