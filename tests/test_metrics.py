"""metrics: rates and means of distances, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sn9reg.metrics import RADII, cmr, f_measure, mean_l2, ncm, rmse, summarise


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
