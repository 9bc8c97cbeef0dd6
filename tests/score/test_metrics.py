"""metrics: rates and means of distances, and how far what is claimed is from what is, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sn9reg.score.metrics import (
    RADII,
    anm,
    cmr,
    ece,
    f_measure,
    mean_l2,
    mma,
    mma_of_truth,
    ncm,
    reliability,
    rmse,
    summarise,
)


@pytest.mark.parametrize(("radius", "rate"), [(0, 0.2), (0.5, 0.2), (1, 0.4), (1.5, 0.6), (2, 0.6), (3, 0.8), (5, 0.8)])
def test_cmr_counts_what_lies_within_the_radius(radius, rate):
    assert cmr([0, 1, math.sqrt(2), 3, math.inf], radius) == pytest.approx(rate)


def test_radius_counts_with_rounding_and_no_more():
    assert cmr([math.hypot(0.6, 0.8) + 1e-12], 1) == 1
    assert cmr([1e-12], 0) == 1
    assert cmr([1.0001], 1) == 0


def test_mean():
    assert mean_l2(np.array([0.0, 1.0, 5.0])) == pytest.approx(2)
    assert mean_l2([1, math.inf]) == math.inf


def test_summary_is_ready_for_json():
    facts = json.loads(json.dumps(summarise(np.array([0.0, 1.0, 2.5]))))
    rates = {"0": 0.3333, "1": 0.6667, "2": 0.6667, "3": 1.0, "5": 1.0}
    assert facts == {"n": 3, "cmr": rates, "mean_l2_px": 1.1667}
    assert tuple(map(int, facts["cmr"])) == RADII


@pytest.mark.parametrize("errors", [[], np.zeros((3, 2)), 1.0])
@pytest.mark.parametrize("metric", [lambda e: cmr(e, 1), mean_l2, summarise])
def test_nothing_and_other_shapes_are_refused(metric, errors):
    with pytest.raises(ValueError, match=r"errors must be \(N,\)"):
        metric(errors)


def test_a_match_is_correct_below_the_radius_and_not_at_it():
    errors = [0, 2.999, 3, 3 - 1e-12, 3.001, math.inf, math.nan]
    assert ncm(errors) == 2
    assert ncm(errors, 5) == 5
    assert ncm(errors, 0) == 0


def test_rmse_is_that_of_the_correct_ones():
    assert rmse([1.0, 2.0, 3.0, 40.0, math.inf]) == pytest.approx(math.sqrt(2.5))
    assert rmse([1.0, 2.0, 3.0], 4) == pytest.approx(math.sqrt(14 / 3))
    assert rmse([0.0]) == 0


@pytest.mark.parametrize("errors", [[], [3.0], [math.inf]])
def test_without_correct_matches_there_is_no_rmse(errors):
    assert ncm(errors) == 0
    assert math.isnan(rmse(errors))


@pytest.mark.parametrize("metric", [ncm, rmse])
@pytest.mark.parametrize("errors", [np.zeros((3, 2)), 1.0])
def test_other_shapes_are_refused_of_matches_too(metric, errors):
    with pytest.raises(ValueError, match=r"errors must be \(N,\)"):
        metric(errors)


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        ((10, 20, 100), 2 * 0.5 * 0.1 / 0.6),
        ((20, 20, 20), 1.0),
        ((389, 389, 7021), 0.105),  # the paper's pair A, if all its matches were correct
        ((0, 20, 100), 0.0),
        ((0, 0, 100), 0.0),
        ((0, 0, 0), 0.0),
    ],
)
def test_the_f_measure_is_the_harmonic_mean_of_precision_and_recall(counts, value):
    assert f_measure(*counts) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(
    "counts", [(-1, 2, 3), (1, -2, 3), (0, 0, -1), (3, 2, 5), (1, 6, 5), (3, 3, 2), (1, 2, math.nan), (1, 2, math.inf)]
)
def test_counts_that_do_not_go_together_are_refused(counts):
    with pytest.raises(ValueError, match="do not go together"):
        f_measure(*counts)


def test_mma_averages_over_pairs_and_not_over_matches():
    errors = [[0.0, 1.0, 3.0, 9.0], [2.0], []]
    assert mma(errors, 1) == pytest.approx((0.5 + 0 + 0) / 3)
    assert mma(errors, 3) == pytest.approx((0.75 + 1 + 0) / 3)
    assert mma(errors, 100) == pytest.approx(2 / 3)  # a pair without matches counts, as 0
    assert mma([[1.0, math.inf]], 1) == 0.5


def test_mma_of_the_truth_is_the_mean_recall():
    errors, confidence = [[0.5, 2.0, 40.0], [1.0, 1.0]], [[0.2, 0.9, 0.5], [0.1, 0.0]]
    assert mma_of_truth(errors, confidence, [4, 2], 1) == pytest.approx((1 / 4 + 2 / 2) / 2)
    assert mma_of_truth(errors, confidence, [4, 2], 2) == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert mma_of_truth([[], [1.0]], [[], [0.3]], [5, 1], 3) == 0.5


def test_mma_of_the_truth_asks_how_many_there_are_and_not_how_sure_one_is():
    random = np.random.default_rng(0)
    errors = [random.exponential(2.0, 50) for _ in range(4)]
    values = {mma_of_truth(errors, [random.random(50) for _ in range(4)], [50] * 4, 3) for _ in range(5)}
    assert values == {mma(errors, 3)}  # of all that exist, all were found
    assert mma_of_truth(errors, errors, [100] * 4, 3) == pytest.approx(mma(errors, 3) / 2)


@pytest.mark.parametrize("radius", [0, 1, 3, 10])
def test_both_are_shares_that_grow_with_the_radius(radius):
    random = np.random.default_rng(radius)
    errors = [random.exponential(4.0, n) for n in (1, 7, 30)]
    both = [lambda r: mma(errors, r), lambda r: mma_of_truth(errors, errors, [1, 9, 60], r)]
    for metric in both:
        assert 0 <= metric(radius) <= metric(radius + 1) <= 1
        assert metric(0) < metric(10)


def test_anm_counts_what_exceeds_the_threshold():
    confidence = [[0.9, 0.5, 0.51], [], [0.1, 0.2, 0.6, 1.0]]
    assert anm(confidence, 0.5) == pytest.approx((2 + 0 + 2) / 3)
    assert anm(confidence, 1.0) == 0
    assert anm(confidence, -1) == pytest.approx(7 / 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mma([], 3),
        lambda: anm([], 0.5),
        lambda: mma_of_truth([], [], [], 3),
        lambda: mma_of_truth([[1.0]], [[0.5]], [0], 3),
    ],
)
def test_without_pairs_there_is_no_mean(call):
    with pytest.raises(ValueError, match="there are no pairs"):
        call()


@pytest.mark.parametrize(("confidence", "possible"), [([[0.5]], [1, 1]), ([[0.5], [0.5]], [1])])
def test_every_pair_needs_its_confidences_and_its_count(confidence, possible):
    with pytest.raises(ValueError, match="zip"):
        mma_of_truth([[1.0], [2.0]], confidence, possible, 3)


def test_reliability_by_hand():
    table = reliability([0.05, 0.15, 0.19, 0.3, 1.0, 0.95], [0, 1, 0, 1, 1, 1])
    assert table.shape == (10, 3)
    expected = np.full((10, 3), np.nan)
    expected[:, 0] = 0
    for row, (count, sure, good) in {0: (1, 0.05, 0), 1: (2, 0.17, 0.5), 3: (1, 0.3, 1), 9: (2, 0.975, 1)}.items():
        expected[row] = count / 6, sure, good
    np.testing.assert_allclose(table, expected)


def test_ece_by_hand():
    assert ece([0.05, 0.15, 0.19, 0.3, 1.0, 0.95], [0, 1, 0, 1, 1, 1]) == pytest.approx(
        (1 * 0.05 + 2 * 0.33 + 1 * 0.7 + 2 * 0.025) / 6
    )
    # In one bin only the means count; in two the same samples are wrong by as much as can be.
    assert ece([0.0, 1.0], [True, False], bins=1) == 0
    assert ece([0.0, 1.0], [True, False], bins=2) == 1
    assert ece([1.0], [1]) == 0


@pytest.mark.parametrize("bins", [1, 5, 10, 15])
def test_confidences_that_mean_what_they_say_have_no_calibration_error(bins):
    random = np.random.default_rng(1)
    sure = random.random(200_000)
    assert ece(sure, random.random(len(sure)) < sure, bins) < 0.005


@pytest.mark.parametrize("gap", [0.05, 0.2, 0.4])
def test_overconfidence_is_the_calibration_error(gap):
    random = np.random.default_rng(2)
    sure = random.uniform(0.5, 1, 100_000)
    right = random.random(len(sure)) < sure - gap
    assert ece(sure, right) == pytest.approx(gap, abs=0.01)
    assert ece(sure - gap, right) < 0.01
    assert ece(1 - sure, ~right) == pytest.approx(gap, abs=0.01)  # too little is as wrong as too much


def test_the_table_adds_up_to_the_whole():
    random = np.random.default_rng(3)
    sure, right = random.beta(4, 1, 500), random.random(500) < 0.3
    share, mean, good = np.nan_to_num(reliability(sure, right, 20)).T
    assert share.sum() == pytest.approx(1)
    assert (share * mean).sum() == pytest.approx(sure.mean())
    assert (share * good).sum() == pytest.approx(right.mean())
    assert abs(sure.mean() - right.mean()) <= ece(sure, right, 20) <= 1


@pytest.mark.parametrize(
    ("confidence", "right"),
    [([], []), ([0.5], [1, 0]), ([[0.5]], [[1]]), (0.5, 1), ([1.1], [1]), ([-0.01], [0]), ([math.nan], [0])],
)
@pytest.mark.parametrize("metric", [reliability, ece])
def test_what_is_no_confidence_is_refused(metric, confidence, right):
    with pytest.raises(ValueError, match=r"confidence must be \(N,\) from 0 to 1"):
        metric(confidence, right)
