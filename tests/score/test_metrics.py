"""metrics: rates and means of distances, and how far what is claimed is from what is, by hand."""

import json
import math

import numpy as np
import pytest

from sn9reg.score.metrics import (
    anm,
    auroc,
    cmr,
    ece,
    f_measure,
    mma,
    mma_of_truth,
    ncm,
    reliability,
    risk_coverage,
    rmse,
    summarise,
)


@pytest.mark.parametrize(("radius", "rate"), [(0, 0.2), (0.5, 0.2), (1, 0.4), (1.5, 0.6), (2, 0.6), (3, 0.8), (5, 0.8)])
def test_cmr_counts_what_lies_within_the_radius(radius, rate):
    assert cmr([1e-12, 1 + 1e-12, math.sqrt(2), 3, math.inf], radius) == pytest.approx(rate)  # with rounding


def test_summary_is_ready_for_json():
    facts = json.loads(json.dumps(summarise(np.array([0.0, 1.0, 2.5]))))
    rates = {"0": 0.3333, "1": 0.6667, "2": 0.6667, "3": 1.0, "5": 1.0}
    assert facts == {"n": 3, "cmr": rates, "mean_l2_px": 1.1667}
    assert summarise([1, math.inf])["mean_l2_px"] == math.inf


def test_a_match_is_correct_below_the_radius_and_not_at_it():
    errors = [0, 2.999, 3, 3 - 1e-12, 3.001, math.inf, math.nan]
    assert [ncm(errors), ncm(errors, 5), ncm(errors, 0)] == [2, 5, 0]


def test_rmse_is_that_of_the_correct_ones():
    assert rmse([1.0, 2.0, 3.0, 40.0, math.inf]) == pytest.approx(math.sqrt(2.5))
    assert rmse([1.0, 2.0, 3.0], 4) == pytest.approx(math.sqrt(14 / 3))
    assert rmse([0.0]) == 0
    for errors in ([], [3.0], [math.inf]):
        assert (ncm(errors), math.isnan(rmse(errors))) == (0, True)


def test_the_f_measure_is_the_harmonic_mean_of_precision_and_recall():
    assert f_measure(10, 20, 100) == pytest.approx(2 * 0.5 * 0.1 / 0.6)
    assert f_measure(389, 389, 7021) == pytest.approx(0.105, rel=1e-3)  # the paper's pair A, were all matches correct
    assert [f_measure(20, 20, 20), f_measure(0, 20, 100), f_measure(0, 0, 0)] == [1, 0, 0]


def test_mma_averages_over_pairs_and_not_over_matches():
    errors = [[0.0, 1.0, 3.0, 9.0], [2.0], []]
    assert mma(errors, 1) == pytest.approx((0.5 + 0 + 0) / 3)
    assert mma(errors, 3) == pytest.approx((0.75 + 1 + 0) / 3)
    assert mma(errors, 100) == pytest.approx(2 / 3)  # a pair without matches counts, as 0
    assert mma([[1.0, math.inf]], 1) == 0.5


def test_mma_of_the_truth_is_the_mean_recall():
    errors = [[0.5, 2.0, 40.0], [1.0, 1.0]]
    assert mma_of_truth(errors, [4, 2], 1) == pytest.approx((1 / 4 + 2 / 2) / 2)
    assert mma_of_truth(errors, [4, 2], 2) == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert mma_of_truth([[], [1.0]], [5, 1], 3) == 0.5
    assert mma_of_truth(errors, [3, 2], 2) == mma(errors, 2)  # of all that exist, all were found


def test_anm_counts_what_exceeds_the_threshold():
    confidence = [[0.9, 0.5, 0.51], [], [0.1, 0.2, 0.6, 1.0]]
    assert anm(confidence, 0.5) == pytest.approx((2 + 0 + 2) / 3)
    assert anm(confidence, 1.0) == 0
    assert anm(confidence, -1) == pytest.approx(7 / 3)


CLAIMS = [0.05, 0.15, 0.19, 0.3, 1.0, 0.95], [0, 1, 0, 1, 1, 1]


def test_auroc_counts_right_ones_that_are_surer_than_wrong_ones_and_risk_is_of_the_surest():
    sure, right = [0.9, 0.7, 0.7, 0.1], [True, False, True, False]
    assert auroc(sure, right) == pytest.approx((2 + 1.5) / 4)
    assert auroc(sure, np.logical_not(right)) == pytest.approx(0.5 / 4)
    assert math.isnan(auroc(sure, [True] * 4))
    curve = risk_coverage([0.1, 0.6, 0.7, 0.9], [False, False, True, True])
    np.testing.assert_allclose(curve, [[0.25, 0], [0.5, 0], [0.75, 1 / 3], [1, 0.5]])


def test_reliability_and_ece_by_hand():
    expected = np.full((10, 3), np.nan)
    expected[:, 0] = 0
    for row, (count, sure, good) in {0: (1, 0.05, 0), 1: (2, 0.17, 0.5), 3: (1, 0.3, 1), 9: (2, 0.975, 1)}.items():
        expected[row] = count / 6, sure, good
    np.testing.assert_allclose(reliability(*CLAIMS), expected)
    assert ece(*CLAIMS) == pytest.approx((1 * 0.05 + 2 * 0.33 + 1 * 0.7 + 2 * 0.025) / 6)
    # In one bin only the means count; in two the same samples are wrong by as much as can be.
    assert [ece([0.0, 1.0], [True, False], bins) for bins in (1, 2)] == [0, 1]
    assert ece([1.0], [1]) == 0


@pytest.mark.parametrize("errors", [[], np.zeros((3, 2)), 1.0])
def test_what_is_no_list_of_errors_is_refused(errors):
    for call in (lambda e: cmr(e, 1), summarise, *([] if np.ndim(errors) == 1 else [ncm, rmse])):
        with pytest.raises(ValueError, match=r"errors must be \(N,\)"):
            call(errors)


BAD_COUNTS = (-1, 2, 3), (0, 0, -1), (3, 2, 5), (1, 6, 5), (1, 2, math.nan), (1, 2, math.inf)
BAD_CLAIMS = ([], []), ([0.5], [1, 0]), ([[0.5]], [[1]]), ([1.1], [1]), ([-0.01], [0]), ([math.nan], [0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mma([], 3), "no pairs"),
        (lambda: anm([], 0.5), "no pairs"),
        (lambda: mma_of_truth([], [], 3), "no pairs"),
        (lambda: mma_of_truth([[1.0]], [0], 3), "no pairs"),
        (lambda: mma_of_truth([[1.0], [2.0]], [1], 3), "zip"),
        *((lambda c=c: ece(*c), r"confidence must be \(N,\) from 0 to 1") for c in BAD_CLAIMS),
        *((lambda c=c: f_measure(*c), "do not go together") for c in BAD_COUNTS),
    ],
)
def test_pairs_confidences_and_counts_that_are_not_there_or_do_not_go_together_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
