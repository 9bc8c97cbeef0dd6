"""verdict: yes to pairs whose witnesses agree, no to chance, and counts that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from sn9reg.correspondences import Correspondences
from sn9reg.grid import Grid
from sn9reg.verdict import MINIMUM, judge, refused

GRID = Grid(Affine(0.5, 0, 435000, 0, -0.5, 4181000), 4000, 4000, CRS.from_epsg(32637))


def lattice(shift, side=20, tried=None, radius=40.0, step=1.0):
    """Matches at side x side places, templates half overlapping; shift: (side^2, 2) of witness and match, pixels."""
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    xy = np.column_stack([x.ravel(), y.ravel()]) * 48.0 + 100
    n = len(xy)
    ones, there = np.ones(n), xy + shift
    return Correspondences(
        GRID, xy, there, ones, ones, 0 * ones, ones, there, radius, step, 96.0, n if tried is None else tried
    )


def right(random, side=20, noise=0.8):
    x, y = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    field = np.column_stack([(20 * np.sin(2 * x + y)).ravel(), (10 * x * y - 5).ravel()])
    return field + random.normal(0, noise, field.shape)


def wrong(random, side=20, radius=40.0):
    return random.uniform(-radius, radius, (side * side, 2))


def everyone(matches):
    return np.ones(len(matches), bool)


@pytest.mark.parametrize("seed", range(5))
def test_yes_to_a_smooth_field(seed):
    matches = lattice(right(np.random.default_rng(seed)))
    verdict = judge(matches, everyone(matches), 1.25)
    assert verdict.registered
    assert verdict.agreement > 0.95
    assert "400 matches" in verdict.reason
    assert (verdict.matches, verdict.inliers, verdict.tried, verdict.error) == (400, 400, 400, 1.25)


@pytest.mark.parametrize("radius", [12.0, 40.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_to_random_shifts(seed, radius):
    matches = lattice(wrong(np.random.default_rng(seed), radius=radius), radius=radius)
    verdict = judge(matches, everyone(matches), 0.1)  # however small the residual is claimed to be
    assert not verdict.registered
    assert verdict.agreement < 0.3
    assert verdict.agreement == pytest.approx(verdict.chance, abs=0.06)


def test_chance_is_the_tolerances_share_of_the_search_area():
    random = np.random.default_rng(0)
    small, large = (
        judge(m, everyone(m), 1.0).chance for m in (lattice(right(random), radius=r) for r in (20.0, 80.0))
    )
    assert small / large == pytest.approx((161 / 41) ** 2)
    # A level's tolerance and search grow together.
    whole = lattice(right(random), radius=20.0 * 8, step=8.0)
    assert judge(whole, everyone(whole), 1.0).chance == pytest.approx(small)
    nowhere = lattice(right(random), radius=1.0)
    assert judge(nowhere, everyone(nowhere), 1.0).chance == 1


def test_where_chance_alone_would_do_agreement_proves_nothing():
    matches = lattice(right(np.random.default_rng(0)), radius=3.0)
    verdict = judge(matches, everyone(matches), 1.0)
    assert verdict.agreement > 0.95
    assert not verdict.registered


@pytest.mark.parametrize("share", [0.75, 0.15])
def test_a_share_of_right_matches_decides(share):
    random = np.random.default_rng(1)
    shift = np.where(random.random((400, 1)) < share, right(random), wrong(random))
    matches = lattice(shift)
    assert judge(matches, everyone(matches), 1.0).registered == (share > 0.5)


def test_few_right_matches_of_many_places_tried_are_not_enough():
    shift = right(np.random.default_rng(2))
    enough, few = (lattice(shift, tried=tried) for tried in (800, 4000))
    assert judge(enough, everyone(enough), 1.0).registered
    verdict = judge(few, everyone(few), 1.0)
    assert not verdict.registered
    assert verdict.agreement == pytest.approx(0.1, abs=0.01)
    assert "of the places tried" in verdict.reason


@pytest.mark.parametrize("count", [0, 1, MINIMUM - 1])
def test_no_to_too_few_matches(count):
    matches = lattice(right(np.random.default_rng(0))).keep(np.arange(count) * 41)
    verdict = judge(matches, everyone(matches), 0.1)
    assert not verdict.registered
    assert f"at least {MINIMUM}" in verdict.reason
    assert verdict.matches == count


def test_no_matches_of_no_places():
    matches = lattice(np.zeros((400, 2)), tried=0).keep(np.zeros(0, int))
    verdict = judge(matches, everyone(matches), math.nan)
    assert not verdict.registered
    assert verdict.agreement == 0
    assert verdict.coverage == 0


def test_coverage_is_the_share_of_cells_with_inliers():
    matches = lattice(right(np.random.default_rng(0), side=18), side=18)  # 3 x 3 matches in each of the 6 x 6 cells
    cell = (np.arange(18) * 5.999 / 17).astype(int)
    cells = (cell[:, None] * 6 + cell[None]).ravel()
    for chosen in ([0], [0, 35], list(range(12)), list(range(36))):
        assert judge(matches, np.isin(cells, chosen), 1.0).coverage == pytest.approx(len(chosen) / 36)
    none = np.zeros(len(matches), bool)
    assert judge(matches, none, 1.0).coverage == 0
    assert judge(matches, none, 1.0).inliers == 0


def test_refused_carries_its_reason_and_promises_nothing():
    matches = lattice(right(np.random.default_rng(0)), tried=500)
    verdict = refused(matches, "no such luck")
    assert not verdict.registered
    assert verdict.reason == "no such luck"
    assert (verdict.matches, verdict.inliers, verdict.tried) == (400, 0, 500)
    assert math.isnan(verdict.error)
