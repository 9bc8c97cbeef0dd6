"""correspondences: shapes checked at birth, choosing, and the adaptive ratio against its formula."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.crs import CRS

from sn9reg.fit.correspondences import Correspondences, adaptive_ratio
from sn9reg.raster.grid import Grid

GRID = Grid(Affine(2.0, 0, 435000, 0, -2.0, 4181000), 300, 200, CRS.from_epsg(32637))
POINTS = ("optical_xy", "sar_xy", "solo_xy")
VALUES = ("score", "sigma", "distance", "rival_distance", "vote_shift")


def matches(n=6, **given):
    random = np.random.default_rng(0)
    fields = {name: random.uniform(0, 200, (n, 2)) for name in POINTS}
    fields |= {name: random.uniform(0.1, 1, n) for name in VALUES}
    return Correspondences(
        GRID, **(fields | given), search_radius=40.0, step=2.0, footprint=64.0, tried=10
    )


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("shape", [(5, 2), (6, 3), (6,), (2, 6)])
def test_points_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"(optical|sar|solo)_xy|expected"):
        matches(**{name: np.zeros(shape)})


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("shape", [(5,), (6, 1), ()])
def test_values_of_another_shape_are_refused_by_name(name, shape):
    with pytest.raises(ValueError, match=f"^{name}: expected 6 values"):
        matches(**{name: np.zeros(shape)})


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_points_that_are_not_finite_are_refused(name, bad):
    points = np.zeros((6, 2))
    points[3, 1] = bad
    with pytest.raises(ValueError, match=f"^{name}"):
        matches(**{name: points})


def test_they_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        matches().step = 1.0


@pytest.mark.parametrize("n", [0, 1, 6])
def test_length(n):
    assert len(matches(n)) == n


@pytest.mark.parametrize(
    "chosen", [np.array([True, False, True, True, False, False]), np.array([3, 0]), np.zeros(0, int), np.zeros(6, bool)]
)
def test_keep_chooses_every_field_and_leaves_the_rest(chosen):
    whole = matches()
    part = whole.keep(chosen)
    for name in (*POINTS, *VALUES):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[chosen])
    for name in ("grid", "search_radius", "step", "footprint", "tried"):
        assert getattr(part, name) == getattr(whole, name)
    assert len(whole) == 6


def test_keep_knows_every_field_that_has_a_value_per_match():
    whole = matches()
    per_match = {f.name for f in dataclasses.fields(whole) if isinstance(getattr(whole, f.name), np.ndarray)}
    none = whole.keep(np.zeros(6, bool))
    assert per_match == {*POINTS, *VALUES}
    assert all(len(getattr(none, name)) == 0 for name in per_match)


def test_map_coordinates_are_those_of_pixel_centres():
    found = matches(1, optical_xy=np.array([[0.0, 0.0]]), sar_xy=np.array([[10.0, 4.5]]))
    np.testing.assert_allclose(found.optical_map, [[435001, 4180999]])
    np.testing.assert_allclose(found.sar_map, [[435021, 4180990]])


numbers = arrays(np.float64, st.shared(st.integers(1, 12), key="n"), elements=st.floats(0, 2, width=32))


@given(best=numbers, second=numbers)
def test_adaptive_ratio_is_its_formula(best, second):
    found = adaptive_ratio(matches(len(best), distance=best, rival_distance=second))
    mean = sum(b - a for a, b in zip(best.tolist(), second.tolist(), strict=True)) / len(best)
    assert found.shape == (len(best),)
    for i in range(len(best)):
        if abs(second[i] - (best[i] + mean)) > 1e-9:  # else rounding decides
            assert found[i] == (second[i] > best[i] + mean)


def test_adaptive_ratio_by_hand():
    gaps = np.array([0.1, 0.2, 0.3, 0.4, 0.0, 0.2])  # their mean is 0.2
    found = adaptive_ratio(matches(distance=np.full(6, 0.5), rival_distance=0.5 + gaps))
    np.testing.assert_array_equal(found[[0, 2, 3, 4]], [False, True, True, False])


def test_adaptive_ratio_of_no_matches_is_none():
    assert adaptive_ratio(matches(0)).shape == (0,)


def test_a_vote_that_was_left_out_moved_no_match():
    whole = matches(vote_shift=np.zeros(0))
    np.testing.assert_array_equal(whole.vote_shift, np.zeros(6))
    assert len(whole.keep(np.array([3, 0])).vote_shift) == 2
