"""metrics: rates and means of distances, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sn9reg.metrics import RADII, cmr, mean_l2, summarise


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
