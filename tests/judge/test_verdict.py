"""verdict: the probability decides, the sentence says on what grounds, and counts add up."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.calibrated import NOTHING
from support.matches import lattice, matched

from sn9reg.fit.correspondences import joined
from sn9reg.judge.evidence import NO_EVIDENCE
from sn9reg.judge.verdict import LIKELY, decide, judge

PLACES, STANDING = np.arange(12.0).reshape(6, 2), np.array([3.0, 4.0, 5.0, 4.5, 3.5, 4.0])
FIRM = replace(NO_EVIDENCE, optical_xy=PLACES, standing=STANDING, lead=5.0)


def moved(shift, side=20, **how):
    """Matches at side x side places, templates half overlapping; shift: (side^2, 2) of witness and match, pixels."""
    xy = lattice(side, 100, 100 + 48 * (side - 1))
    return matched(xy, xy + shift, **how)


def right(random, side=20, noise=0.8):
    x, y = lattice(side, 0, 1).T
    return np.column_stack([20 * np.sin(2 * x + y), 10 * x * y - 5]) + random.normal(0, noise, (side * side, 2))


def judged(matches, inliers=None, evidence=FIRM, probability=0.9, error=1.25):
    return decide(matches, np.ones(len(matches), bool) if inliers is None else inliers, evidence, probability, error)


@pytest.fixture(scope="module")
def smooth():
    return moved(right(np.random.default_rng(0)))


@pytest.mark.parametrize("probability", [0.0, LIKELY - 1e-9, LIKELY, 1.0])
def test_the_probability_decides(smooth, probability):
    verdict = judged(smooth, probability=probability)
    assert (verdict.registered, verdict.probability) == (probability >= LIKELY, probability)


def test_a_wide_scene_needs_matches_that_neighbours_confirm():
    verdict = judged(moved(np.random.default_rng(0).uniform(-40, 40, (400, 2))), probability=1.0)
    assert not verdict.registered
    assert verdict.reason.endswith(" of 400 matches (1%) are confirmed by neighbours that share no pixel")


def test_a_place_that_is_hardly_better_than_another_is_none(smooth):
    verdict = judged(smooth, evidence=replace(FIRM, clear=0.1))
    assert not verdict.registered
    assert "repeats itself" in verdict.reason


def test_the_reason_names_the_evidence_and_the_probability(smooth):
    reason = judged(smooth, probability=0.934).reason
    assert reason.startswith("at 6 places that share no pixel the images agree")
    assert "by 4.0 standard deviations" in reason
    assert reason.endswith("it is right with a probability of 93%")
    reason = judged(smooth, evidence=replace(FIRM, standing=FIRM.standing / 4), probability=0.12).reason
    assert "by only 1.0 standard deviations" in reason
    assert reason.endswith(f"with a probability of 12%, and at least {LIKELY:.0%} is asked")
    assert "\n" not in reason


def test_evidence_and_counts_are_handed_on(smooth):
    verdict = judged(smooth, np.arange(400) < 300)
    assert (verdict.matches, verdict.inliers, verdict.tried, verdict.error) == (400, 300, 400, 1.25)
    assert (verdict.standing, verdict.places) == (pytest.approx(4.0), 6)
    verdict = judged(smooth, evidence=NO_EVIDENCE, probability=0.02)
    assert (verdict.registered, verdict.standing, verdict.places) == (False, 0, 0)


def test_chance_is_the_tolerances_share_of_the_search_area():
    random = np.random.default_rng(0)
    small, large = (judged(moved(right(random), radius=r)).chance for r in (20.0, 80.0))
    assert small / large == pytest.approx((161 / 41) ** 2)
    # A level's tolerance and search grow together.
    assert judged(moved(right(random), radius=20.0, step=8.0)).chance == pytest.approx(small)
    assert judged(moved(right(random), radius=1.0)).chance == 1


@pytest.mark.parametrize(("tried", "agreement"), [(400, 1.0), (4000, 0.1)])
def test_agreement_is_a_share_of_the_places_tried(tried, agreement):
    shift = right(np.random.default_rng(2))
    assert judged(moved(shift, tried=tried)).agreement == pytest.approx(agreement, rel=0.05)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_few_matches_have_no_witnesses(smooth, count):
    verdict = judged(smooth.keep(np.arange(count) * 41), evidence=NO_EVIDENCE, probability=0.0, error=math.nan)
    assert (verdict.registered, verdict.agreement, verdict.matches, verdict.inliers) == (False, 0, count, count)
    assert judged(replace(smooth, tried=0).keep(np.zeros(0, int)), evidence=NO_EVIDENCE).coverage == 0


def test_what_is_confirmed_is_counted_in_the_first_source(smooth):
    random = np.random.default_rng(5)
    wrong = moved(random.uniform(-400, 400, (400, 2)), tried=9000)
    verdict = judged(joined({"first": smooth, "wrong": wrong}), np.arange(800) < 400)
    assert (verdict.registered, verdict.matches, verdict.tried) == (True, 800, 9400)
    assert verdict.agreement == judged(smooth).agreement


def test_coverage_is_the_share_of_squares_with_inliers():
    matches = moved(right(np.random.default_rng(0), side=18), side=18)  # 3 x 3 matches in each of the 6 x 6 cells
    cell = (np.arange(18) * 5.999 / 17).astype(int)
    cells = (cell[:, None] * 6 + cell[None]).ravel()
    for chosen in ([], [0, 35], list(range(36))):
        assert judged(matches, np.isin(cells, chosen)).coverage == pytest.approx(len(chosen) / 36)


def test_where_nothing_is_fitted_the_verdict_has_the_reason_and_promises_nothing():
    matches = moved(right(np.random.default_rng(0)), tried=500)
    found, fitted, verdict = judge(None, matches, NOTHING, None)
    assert (found, fitted, verdict.registered, verdict.reason) == (matches, NOTHING, False, "nothing")
    assert (verdict.matches, verdict.inliers, verdict.tried) == (400, 0, 500)
    assert (verdict.probability, verdict.standing, verdict.places) == (0, 0, 0)
    assert math.isnan(verdict.error)
