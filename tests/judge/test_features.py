"""features: how pairs, matches and places of a map are described."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.calibrated import NOTHING, PAIR, STANDING, evidence_of, fit_of, matches_of

from sn9reg.judge.calibration import MEDIAN
from sn9reg.judge.evidence import NO_EVIDENCE
from sn9reg.judge.features import FEATURES, breadth, field_features, largeness, match_features, pair_features


@pytest.mark.parametrize("places", [0, 1, 9])
@pytest.mark.parametrize("n", [0, 1, 60])
def test_features_are_as_many_as_are_named_and_finite(n, places):
    matches, evidence = matches_of(n), evidence_of(places)
    of_pair = pair_features(matches, evidence)
    of_matches = match_features(matches, fit_of(matches) if n else NOTHING, evidence, 2.0)
    assert (of_pair.shape, of_matches.shape) == ((1, len(FEATURES["pair"])), (n, len(FEATURES["probability"])))
    assert np.isfinite(of_pair).all()
    assert np.isfinite(of_matches).all()
    assert n or places or (of_pair <= 0).all()  # nothing speaks for the pair


@pytest.mark.parametrize("n", [0, 7])
@pytest.mark.parametrize(("width", "counted"), [(0.0, 0.0), (5.0, math.log(5)), (900.0, math.log(30))])
def test_features_of_the_map_are_those_of_its_places(n, width, counted):
    raw, log_sigma, distance = np.linspace(0, 3, n), np.linspace(-1, 1, n), np.linspace(0, 2, n)
    found = field_features(raw, log_sigma, distance, 4.5, width)
    logs = np.log(np.maximum(raw, 0.05)), log_sigma, np.log(distance + 0.1)
    np.testing.assert_allclose(found, np.column_stack([*logs, np.full(n, 4.5), np.full(n, counted)]))
    assert FEATURES["field"] == ("deviation", "sigma", "away", "standing", "room")


@pytest.mark.parametrize("step", [1.0, 4.0])
def test_features_of_matches_count_in_matched_pixels(step):
    matches = replace(matches_of(400, step=step), vote_shift=np.arange(400.0))
    found = match_features(matches, fit_of(matches), NO_EVIDENCE, 0.0)
    made = dict(zip(FEATURES["probability"], found.T, strict=True))
    assert np.median(np.expm1(made["deviation"])) == pytest.approx(MEDIAN, rel=0.1)
    assert np.expm1(made["spread"]) == pytest.approx(np.median(np.expm1(made["deviation"])))
    assert made["sharpness"] == pytest.approx(0.0)
    np.testing.assert_allclose(np.expm1(made["vote"]), np.arange(400) / step, atol=1e-12)
    np.testing.assert_array_equal(made["height"], 1 - matches.distance)
    np.testing.assert_array_equal(made["gap"], matches.rival_distance - matches.distance)
    np.testing.assert_array_equal(made["score"], matches.score)


def test_a_match_is_described_by_the_evidence_near_it():
    matches = matches_of(200)
    places = np.array([[x, y] for x in (100.0, 900.0) for y in (200.0, 500.0, 800.0)])
    evidence = replace(NO_EVIDENCE, optical_xy=places, standing=np.where(places[:, 0] < 500, 1.0, 7.0))
    near = match_features(matches, fit_of(matches), evidence, 0.0)[:, STANDING]
    assert near[matches.optical_xy[:, 0] < 150] == pytest.approx(1.0)
    assert near[matches.optical_xy[:, 0] > 850] == pytest.approx(7.0)


@pytest.mark.parametrize(("claimed", "counted"), [(-50.0, -8.0), (1.5, 1.5), (50.0, 8.0)])
def test_the_logit_of_a_pair_is_clipped(claimed, counted):
    matches = matches_of(10)
    assert (match_features(matches, fit_of(matches), NO_EVIDENCE, claimed)[:, PAIR] == counted).all()


@pytest.mark.parametrize(("places", "broad"), [(0, 0.0), (4, 0.0), (8, 0.5), (16, 1.0), (36, 1.0)])
def test_evidence_is_as_broad_as_it_has_places(places, broad):
    assert breadth(evidence_of(places)) == pytest.approx(broad)


def test_what_is_confirmed_counts_against_all_places_tried():
    matches = matches_of(60)
    all_of, half_of = pair_features(matches, NO_EVIDENCE), pair_features(replace(matches, tried=120), NO_EVIDENCE)
    assert half_of[0, -1] == pytest.approx(all_of[0, -1] / 2)
    assert half_of[0, -1] > 0


@pytest.mark.parametrize(
    ("across", "large"), [(0.2, 0.0), (2.5, 0.0), (math.sqrt(2.5 * 4), 0.5), (4.0, 1.0), (9.0, 1.0)]
)
@pytest.mark.parametrize("step", [1.0, 4.0])
def test_a_scene_is_as_large_as_its_matches_span_footprints(across, large, step):
    matches = matches_of(30, across=across, step=step)
    assert matches.span == pytest.approx(across)
    assert largeness(matches) == pytest.approx(large, abs=1e-9)
    assert matches_of(0).span == matches_of(1).span == largeness(matches_of(1)) == 0
