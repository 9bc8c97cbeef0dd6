"""calibration: probabilities and errors that mean what they say, on samples whose truth is made up."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from scipy.special import expit, logit
from scipy.stats import spearmanr

from sn9reg import calibration as module
from sn9reg.calibration import (
    FIELD_FEATURES,
    MATCH_FEATURES,
    PAIR_FEATURES,
    Calibration,
    Linear,
    as_json,
    calibration_of,
    field_features,
    match_features,
    pair_features,
    pair_logit,
    pair_probability,
    read_calibration,
)
from sn9reg.correspondences import Correspondences
from sn9reg.errors import InputError
from sn9reg.evidence import NO_EVIDENCE
from sn9reg.fitting import Fit
from sn9reg.grid import Grid
from sn9reg.metrics import ece
from sn9reg.training import calibrate as training
from sn9reg.training.calibrate import Sample, fit_matcher, fit_pair
from sn9reg.warp import Warp, identity_warp

SCORE, DEVIATION, PAIR = (MATCH_FEATURES.index(name) for name in ("score", "deviation", "pair"))
METRES = CRS.from_epsg(32637)
GRID = Grid(Affine(0.5, 0, 435000, 0, -0.5, 4181000), 1000, 1000, METRES)


def matches_of(n, seed=0, step=1.0, noise=1.0):
    random = np.random.default_rng(seed)
    xy, ones = random.uniform(50, 950, (n, 2)), np.ones(n)
    there = xy + [12, -7] + random.normal(0, noise, (n, 2)) * step
    score = random.random(n)
    return Correspondences(GRID, xy, there, score, noise * ones, 0 * ones, score, there, 40.0, step, 96.0, max(n, 1))


def fit_of(matches, error=1.0):
    warp = Warp("translation", METRES, lambda xy: xy + np.array([6.0, 3.5]), lambda xy: np.linspace(1, 2, len(xy)))
    return Fit(warp, np.ones(len(matches), bool), error, {"translation": error})


def evidence_of(n, level=4.0, seed=0):
    random = np.random.default_rng(seed)
    places, standing = random.uniform(50, 950, (n, 2)), level + random.normal(0, 0.5, n)
    return replace(NO_EVIDENCE, optical_xy=places, standing=standing, lead=level) if n else NO_EVIDENCE


def truth_of(features, random):
    """Made-up logits of matches by their features, and errors that are right as often as they say."""
    likely = expit(1.0 - 4.0 * features[:, DEVIATION] + 4.0 * features[:, SCORE] + 0.5 * features[:, PAIR])
    right = random.random(len(likely)) < likely
    near = np.minimum(random.rayleigh(0.3 + 1.2 * (1 - likely)), 3.0)
    return likely, np.where(right, near, random.uniform(3.01, 20, len(likely)))


def sample(random, right, n=60):
    level = 1.0 if right else -1.0
    pair = 2 + level * 1.5 + random.normal(0, 1.0, (1, len(PAIR_FEATURES)))
    spread = {"score": 0.3, "deviation": 0.6, "witness": 0.6, "pair": 0.0, "standing": 1.0}
    inputs = random.normal(0, 1, (n, len(MATCH_FEATURES))) * [spread.get(name, 0.3) for name in MATCH_FEATURES]
    inputs[:, DEVIATION] = np.abs(inputs[:, DEVIATION])
    known = inputs.copy()
    known[:, PAIR] = 3 * level
    off = truth_of(known, random)[1] if right else np.full(n, np.inf)
    field = random.normal(0, 1, (1, len(FIELD_FEATURES)))
    raw = np.exp(random.normal(0, 0.3, 100))
    true = random.rayleigh(raw * np.exp(0.4 + 0.5 * field[0, 0])) if right else np.zeros(0)
    return Sample(right, pair, inputs, off, field, raw if right else np.zeros(0), true)


def samples(seed, count=80):
    random = np.random.default_rng(seed)
    return [sample(random, k % 2 == 0) for k in range(count)]


@pytest.fixture(scope="module")
def pair_model():
    return fit_pair(samples(0, 240))


@pytest.fixture(scope="module")
def calibration(pair_model):
    return fit_matcher("made-up", samples(0, 240), pair_model, {"pairs": 240})


@pytest.fixture(scope="module")
def others(pair_model):
    """Features and errors of matches that nothing was fitted to, as many of them of wrong pairs as is assumed."""
    fresh = samples(1, 240)
    right, wrong = ([s for s in fresh if s.right == which] for which in (True, False))
    fresh = [*right, *wrong[: round(len(wrong) * training._STRANGERS)]]
    return np.concatenate([s.matched(pair_model) for s in fresh]), np.concatenate([s.off for s in fresh])


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [0, 1, 2, 9])
@pytest.mark.parametrize("n", [1, 4, 5, 60])
def test_features_are_as_many_as_are_named_and_finite(n, places):
    matches, evidence = matches_of(n), evidence_of(places)
    fitted = fit_of(matches)
    assert pair_features(matches, evidence).shape == (1, len(PAIR_FEATURES))
    assert match_features(matches, fitted, evidence, 2.0).shape == (n, len(MATCH_FEATURES))
    assert field_features(matches, fitted, evidence).shape == (1, len(FIELD_FEATURES))
    assert np.isfinite(pair_features(matches, evidence)).all()
    assert np.isfinite(field_features(matches, fitted, evidence)).all()
    assert np.isfinite(match_features(matches, fitted, evidence, 2.0)).all()


def test_without_matches_there_are_features_of_the_pair_and_of_no_match():
    matches = matches_of(0)
    nothing = Fit(identity_warp(METRES), np.zeros(0, bool), math.nan, {}, "nothing")
    features = pair_features(matches, NO_EVIDENCE)
    assert features.shape == (1, len(PAIR_FEATURES))
    assert np.isfinite(features).all()
    assert (features <= 0).all()  # nothing speaks for the pair
    assert match_features(matches, nothing, NO_EVIDENCE, 0.0).shape == (0, len(MATCH_FEATURES))


@pytest.mark.parametrize("step", [1.0, 4.0])
def test_features_count_in_matched_pixels(step):
    matches = matches_of(400, step=step)
    matches = replace(matches, sigma=matches.sigma * step)
    features = dict(zip(MATCH_FEATURES, match_features(matches, fit_of(matches), NO_EVIDENCE, 0.0).T, strict=True))
    assert np.median(np.expm1(features["deviation"])) == pytest.approx(module.MEDIAN, rel=0.1)
    assert np.expm1(features["spread"]) == pytest.approx(np.median(np.expm1(features["deviation"])))
    assert features["sharpness"] == pytest.approx(0.0)


def test_a_match_is_told_by_the_places_near_it():
    matches = matches_of(200)
    places = np.array([[x, y] for x in (100.0, 900.0) for y in (200.0, 500.0, 800.0)])
    evidence = replace(NO_EVIDENCE, optical_xy=places, standing=np.where(places[:, 0] < 500, 1.0, 7.0))
    near = match_features(matches, fit_of(matches), evidence, 0.0)[:, MATCH_FEATURES.index("standing")]
    left, right = matches.optical_xy[:, 0] < 150, matches.optical_xy[:, 0] > 850
    assert near[left] == pytest.approx(1.0)
    assert near[right] == pytest.approx(7.0)


@pytest.mark.parametrize(("claimed", "counted"), [(-50.0, -8.0), (1.5, 1.5), (50.0, 8.0)])
def test_beyond_some_odds_pairs_are_not_told_apart(claimed, counted):
    matches = matches_of(10)
    features = match_features(matches, fit_of(matches), NO_EVIDENCE, claimed)
    assert (features[:, PAIR] == counted).all()


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_right_pairs_are_told_from_wrong_ones(pair_model):
    fresh = samples(2, 200)
    says = pair_model(np.concatenate([s.pair for s in fresh]))
    right = np.array([s.right for s in fresh])
    assert ((says > 0) == right).mean() > 0.97
    assert np.median(says[right]) > 2
    assert np.median(says[~right]) < -2


@pytest.mark.parametrize("harmful", range(len(PAIR_FEATURES)))
def test_no_feature_speaks_against_a_pair(harmful):
    """Even where the samples, by chance, say so."""
    made = [replace(s, pair=s.pair * np.where(np.arange(len(PAIR_FEATURES)) == harmful, -1, 1)) for s in samples(3, 40)]
    model = fit_pair(made)
    assert min(model.weight) >= 0
    assert model.weight[harmful] == pytest.approx(0, abs=1e-6)
    assert max(model.weight) > 0.1


def test_as_many_wrong_pairs_as_one_likes_do_not_change_the_odds():
    made = samples(4)
    wrong = [s for s in made if not s.right]
    once, often = fit_pair(made), fit_pair([*made, *wrong, *wrong, *wrong])
    middle = np.mean([s.pair for s in made], axis=0)
    assert once(middle)[0] == pytest.approx(often(middle)[0], abs=0.5)


def test_odds_become_probabilities():
    assert pair_probability(0.0) == 0.5
    assert pair_probability(logit(0.9)) == pytest.approx(0.9)
    assert pair_probability(-800.0) == 0


def test_what_is_stored_is_what_judges(monkeypatch, pair_model, calibration):
    stored = {"pair": vars(pair_model), "matchers": {"made-up": as_json(calibration)}}
    monkeypatch.setattr(module, "_stored", lambda: stored)
    matches = matches_of(40)
    strong, weak = (pair_logit(matches, evidence_of(9, level)) for level in (7.0, 0.5))
    assert strong > weak + 1
    assert strong == pytest.approx(pair_model(pair_features(matches, evidence_of(9, 7.0)))[0])
    assert calibration_of("made-up") == calibration
    assert calibration_of("nobody") is None


# --- matches ---------------------------------------------------------------------------------------------------------


def test_probabilities_hold_on_other_samples(calibration, others):
    features, off = others
    probability = calibration.right(calibration.probability(features))
    assert probability.min() >= 0
    assert probability.max() <= 1
    assert probability.std() > 0.15
    assert ece(probability, off <= module.RIGHT_PX) < 0.05


def test_they_tell_right_matches_of_right_pairs_from_wrong_ones(calibration, pair_model):
    fresh = [s for s in samples(5) if s.right]
    probability = calibration.right(calibration.probability(np.concatenate([s.matched(pair_model) for s in fresh])))
    right = np.concatenate([s.off for s in fresh]) <= module.RIGHT_PX
    assert probability[right].mean() > probability[~right].mean() + 0.1


def test_sigma_predicts_the_error(calibration, others):
    features, off = others
    sigma = calibration.error(calibration.sigma(features))
    assert (sigma > 0).all()
    known = np.isfinite(off)
    assert spearmanr(sigma, np.minimum(off, 20)).statistic > 0.6
    assert spearmanr(sigma[known], off[known]).statistic > 0.3
    middle = sigma < np.median(sigma)
    per_axis = np.minimum(off, 20) / math.sqrt(math.pi / 2)
    assert sigma[middle].mean() == pytest.approx(per_axis[middle].mean(), rel=0.15)


def test_the_curves_are_monotone(calibration):
    for curve in (calibration.right, calibration.error):
        assert 2 <= len(curve.x) == len(curve.y)
        assert (np.diff(curve.x) > 0).all()
        assert (np.diff(curve.y) >= 0).all()
        assert curve.y[-1] > curve.y[0]
        beyond = curve(np.array([-1e6, 1e6]))
        assert beyond.tolist() == [curve.y[0], curve.y[-1]]


def test_matches_become_calibrated_and_nothing_else_of_them_changes(calibration):
    matches = matches_of(50)
    made = calibration.matches(matches, fit_of(matches), evidence_of(9), 3.0)
    assert made.calibrated
    assert not matches.calibrated
    assert made.score.shape == made.sigma.shape == (50,)
    assert made.score.min() >= 0
    assert made.score.max() <= 1
    assert (made.sigma > 0).all()
    for name in ("optical_xy", "sar_xy", "solo_xy", "distance", "rival_distance"):
        assert getattr(made, name) is getattr(matches, name)


def test_no_matches_are_calibrated_too(calibration):
    made = calibration.matches(matches_of(0), fit_of(matches_of(0)), evidence_of(3), 3.0)
    assert made.calibrated
    assert len(made) == 0


def test_likely_pairs_have_likely_matches(calibration):
    matches = matches_of(50)
    low, high = (calibration.matches(matches, fit_of(matches), evidence_of(9), pair).score for pair in (-6.0, 6.0))
    assert (high >= low).all()
    assert high.mean() > low.mean() + 0.2


def test_sigma_is_in_common_pixels_whatever_was_matched(calibration):
    one, four = (
        calibration.matches(matches := matches_of(50, step=step), fit_of(matches), NO_EVIDENCE, 3.0).sigma
        for step in (1.0, 4.0)
    )
    assert four.max() <= 4 * max(calibration.error.y) + 1e-9
    assert four.min() >= 4 * min(calibration.error.y) - 1e-9
    assert four.mean() > 1.5 * one.mean()


# --- warps -----------------------------------------------------------------------------------------------------------


def test_the_field_is_scaled_by_one_factor(calibration):
    matches = matches_of(50)
    fitted, evidence = fit_of(matches, error=1.3), evidence_of(9)
    made = calibration.fit(matches, fitted, evidence)
    factor = float(np.exp(calibration.field(field_features(matches, fitted, evidence))[0]))
    assert factor > 0
    assert factor != pytest.approx(1.0, abs=0.01)
    assert made.error == pytest.approx(1.3 * factor)
    np.testing.assert_allclose(made.warp.error(matches.optical_map), factor * fitted.warp.error(matches.optical_map))
    np.testing.assert_array_equal(made.warp(matches.optical_map), fitted.warp(matches.optical_map))
    assert (made.fitted, made.warp.model, made.held_out) == (True, "translation", fitted.held_out)


def test_the_factor_is_that_which_makes_errors_true(calibration):
    fresh = [s for s in samples(6, 200) if s.right]
    factor = np.exp(calibration.field(np.concatenate([s.field for s in fresh])))
    shares = [(s.true < k * s.raw).mean() for s, k in zip(fresh, factor, strict=True)]
    within = [(s.true < 2 * k * s.raw).mean() for s, k in zip(fresh, factor, strict=True)]
    assert np.mean(shares) == pytest.approx(1 - math.exp(-1 / 2), abs=0.05)
    assert np.mean(within) == pytest.approx(1 - math.exp(-2), abs=0.05)


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_calibration_survives_a_file(calibration, others, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(as_json(calibration)))
    again = read_calibration(path)
    assert again == calibration
    assert isinstance(again, Calibration)
    assert again.facts == {"pairs": 240}
    np.testing.assert_array_equal(again.probability(others[0]), calibration.probability(others[0]))


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_calibration(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_calibration(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"text"', "{}", '{"matcher": "hybrid"}', "\udcff"])
def test_what_is_no_calibration(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match="is no calibration"):
        read_calibration(path)


@pytest.mark.parametrize("part", ["matcher", "probability", "right", "sigma", "error", "field"])
def test_every_part_is_needed(calibration, tmp_path, part):
    content = as_json(calibration)
    del content[part]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no calibration"):
        read_calibration(path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("probability", "weight", [1.0]), ("sigma", "mean", [0.0] * (len(MATCH_FEATURES) + 1)), ("field", "scale", []),
        ("probability", "bias", float("nan")), ("sigma", "weight", [float("inf")] * len(MATCH_FEATURES)),
        ("field", "mean", "abc"), ("probability", "bias", None), ("right", "x", []), ("right", "y", [0.5]),
        ("right", "x", [0.0] * 5), ("error", "x", 3), ("error", "extra", [1.0]),
    ],
)  # fmt: skip
def test_models_that_are_none_are_refused(calibration, tmp_path, part, name, value):
    content = as_json(calibration)
    content[part][name] = value
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no calibration"):
        read_calibration(path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("right", "y", [float("nan")] * 3), ("right", "x", [0.0, float("nan"), 1.0]), ("error", "y", [3.0, 2.0, -1.0]),
        ("field", "scale", [0.0] * len(FIELD_FEATURES)),
    ],
)  # fmt: skip
def test_numbers_without_meaning_are_refused(calibration, tmp_path, part, name, value):
    content = as_json(calibration)
    content[part] |= {"x": [0.0, 1.0, 2.0], "y": [0.1, 0.2, 0.3]} if part in ("right", "error") else {}
    content[part][name] = value
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no calibration"):
        read_calibration(path)


def test_a_linear_model_clips_what_was_never_seen():
    model = Linear([1.0, 0.0], [2.0, 1.0], [1.0, -0.5], 0.25)
    assert model(np.array([[3.0, 2.0]])).tolist() == pytest.approx([1 - 1 + 0.25])
    assert model(np.array([[1e9, 0.0], [-1e9, 0.0]])).tolist() == pytest.approx([6.25, -5.75])
    assert model(np.zeros((0, 2))).shape == (0,)
