"""calibration: probabilities and errors that mean what they say, on samples whose truth is made up."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from scipy.special import logit
from scipy.stats import spearmanr

from sn9reg.errors import InputError
from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences
from sn9reg.fit.warp import Warp, identity_warp
from sn9reg.judge import calibration as module
from sn9reg.judge.calibration import (
    FIELD_FEATURES,
    MATCH_FEATURES,
    PAIR_FEATURES,
    SIGMA_FEATURES,
    Calibration,
    Linear,
    as_json,
    calibration_of,
    field_features,
    largeness,
    match_features,
    pair_features,
    pair_logit,
    pair_probability,
    read_calibration,
    spans,
)
from sn9reg.judge.evidence import NO_EVIDENCE
from sn9reg.raster.grid import Grid
from sn9reg.score.metrics import ece
from sn9reg.training import calibrate as training
from sn9reg.training.calibrate import Sample, fit_matcher, fit_pair

SHARPNESS, DEVIATION, STANDING, PAIR = map(MATCH_FEATURES.index, ("sharpness", "deviation", "standing", "pair"))
METRES = CRS.from_epsg(32637)
GRID = Grid(Affine(0.5, 0, 435000, 0, -0.5, 4181000), 1000, 1000, METRES)
FOOTPRINT = 96.0  # pixels
ROOM = {"small": 1.2, "large": 9.0}  # footprints side by side
ONE, TWO = 1 - math.exp(-1 / 2), 1 - math.exp(-2)  # of normal deviations in the plane lie within so many sigma


def matches_of(n, seed=0, step=1.0, across=9.0):
    random = np.random.default_rng(seed)
    xy, ones = random.random((n, 2)), np.ones(n)
    if n > 1:
        xy = (xy - xy.min(axis=0)) / np.ptp(xy, axis=0)
    xy = 50 + across * FOOTPRINT * xy
    there = xy + [12, -7] + random.normal(0, 1, (n, 2)) * step
    low, high = np.sort(random.random((2, n)), axis=0)
    score = random.random(n)
    return Correspondences(GRID, xy, there, score, step * ones, low, high, there, 40.0, step, FOOTPRINT, max(n, 1))


def fit_of(matches):
    def error(xy):
        return matches.step * (0.5 + (xy[:, 0] - 435000) / 500)

    warp = Warp("translation", METRES, lambda xy: xy + np.array([6.0, 3.5]), error)
    return Fit(warp, np.ones(len(matches), bool), 1.0, {"translation": 1.0})


def evidence_of(n, level=4.0, seed=0):
    random = np.random.default_rng(seed)
    places, standing = random.uniform(50, 950, (n, 2)), level + random.normal(0, 0.5, n)
    return replace(NO_EVIDENCE, optical_xy=places, standing=standing, lead=level) if n else NO_EVIDENCE


def scale(places, size):
    """Made-up truth: by what standard deviation the matches around a place are off."""
    return np.exp(0.6 * np.sin(2 * np.pi * places[:, 0] / (ROOM[size] * FOOTPRINT)))


def map_sigma(places, size):
    """And the map: matches of a small scene are off by the same, those of a large one make up for one another."""
    return {"small": 1.2, "large": 0.6}[size] * scale(places, size)


def sample(random, right, size, n=200):
    level = 1.0 if right else -1.0
    pair = 2 + level * 1.5 + random.normal(0, 1.0, (1, len(PAIR_FEATURES)))
    at, places = random.uniform(0, ROOM[size] * FOOTPRINT, (2, n, 2))
    inputs = random.normal(0, 0.3, (n, len(MATCH_FEATURES)))
    inputs[:, SHARPNESS] += np.log(scale(at, size))
    inputs[:, DEVIATION] = np.abs(random.normal(0, 0.6, n))
    inputs[:, STANDING] += 5 if right else 0
    inputs[:, PAIR] = 0
    sigma = np.exp(inputs[:, SHARPNESS] + 0.7 * inputs[:, DEVIATION] + (0.5 if size == "large" else 0.1))
    off, raw, true = random.rayleigh(sigma), np.exp(random.normal(0, 0.3, n)), random.rayleigh(map_sigma(places, size))
    if not right:
        off, places, raw, true = np.full(n, np.inf), places[:0], raw[:0], true[:0]
    large = float(size == "large")
    inliers = random.random(n) < 0.8
    return Sample(right, large, ROOM[size], pair, inputs, off, at, inliers, FOOTPRINT, 4.0, places, raw, true)


def samples(seed, count=80):
    random = np.random.default_rng(seed)
    return [sample(random, k % 2 == 0, "large" if k % 4 < 2 else "small") for k in range(count)]


def of(size, made):
    return [s for s in made if s.large == (size == "large")]


@pytest.fixture(scope="module")
def pair_model():
    return fit_pair(samples(0, 240))


@pytest.fixture(scope="module")
def one_pair_model(pair_model):
    """The same for all sizes."""
    return replace(pair_model, small=pair_model.large)


@pytest.fixture(scope="module")
def calibration(pair_model):
    return fit_matcher("made-up", samples(0, 240), pair_model, {"pairs": 240})


@pytest.fixture(scope="module", params=["small", "large"])
def size(request):
    return request.param


@pytest.fixture(scope="module")
def models(calibration, size):
    return getattr(calibration, size)


@pytest.fixture(scope="module")
def others(size):
    """Samples of one size that nothing was fitted to, as many of them of wrong pairs as is assumed."""
    fresh = of(size, samples(1, 320))
    right, wrong = ([s for s in fresh if s.right == which] for which in (True, False))
    return [*right, *wrong[: round(len(wrong) * training._STRANGERS)]]


@pytest.fixture(scope="module")
def features(others, pair_model):
    return np.concatenate([s.matched(pair_model) for s in others])


@pytest.fixture(scope="module")
def off(others):
    return np.concatenate([s.off for s in others])


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [0, 1, 2, 9])
@pytest.mark.parametrize("n", [1, 4, 5, 60])
def test_features_are_as_many_as_are_named_and_finite(n, places):
    matches, evidence = matches_of(n), evidence_of(places)
    of_pair, of_matches = pair_features(matches, evidence), match_features(matches, fit_of(matches), evidence, 2.0)
    assert of_pair.shape == (1, len(PAIR_FEATURES))
    assert of_matches.shape == (n, len(MATCH_FEATURES))
    assert np.isfinite(of_pair).all()
    assert np.isfinite(of_matches).all()


@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize(("room", "counted"), [(0.0, 0.0), (1.0, 0.0), (5.0, math.log(5)), (900.0, math.log(30))])
def test_features_of_the_map_are_those_of_its_places(n, room, counted):
    raw, near, away = np.linspace(0, 3, n), np.linspace(-1, 1, n), np.linspace(0, 2, n)
    found = field_features(raw, near, away, 4.5, room)
    assert found.shape == (n, len(FIELD_FEATURES))
    made = dict(zip(FIELD_FEATURES, found.T, strict=True))
    np.testing.assert_allclose(made["deviation"], np.log(np.maximum(raw, 0.05)))
    np.testing.assert_array_equal(made["sigma"], near)
    np.testing.assert_allclose(np.exp(made["away"]), away + 0.1)
    np.testing.assert_array_equal(made["standing"], 4.5)
    np.testing.assert_allclose(made["room"], counted)


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
    features = dict(zip(MATCH_FEATURES, match_features(matches, fit_of(matches), NO_EVIDENCE, 0.0).T, strict=True))
    assert np.median(np.expm1(features["deviation"])) == pytest.approx(module.MEDIAN, rel=0.1)
    assert np.expm1(features["spread"]) == pytest.approx(np.median(np.expm1(features["deviation"])))
    assert features["sharpness"] == pytest.approx(0.0)


def test_a_match_is_told_by_how_alike_its_pixels_are_and_by_how_much_more_than_elsewhere():
    matches = matches_of(30)
    features = dict(zip(MATCH_FEATURES, match_features(matches, fit_of(matches), NO_EVIDENCE, 0.0).T, strict=True))
    np.testing.assert_array_equal(features["height"], 1 - matches.distance)
    np.testing.assert_array_equal(features["gap"], matches.rival_distance - matches.distance)
    np.testing.assert_array_equal(features["score"], matches.score)


@pytest.mark.parametrize("step", [1.0, 4.0])
def test_a_match_is_told_by_how_settled_it_is_in_matched_pixels(step):
    matches = matches_of(30, step=step)
    matches = replace(matches, vote_shift=np.arange(30.0))
    features = dict(zip(MATCH_FEATURES, match_features(matches, fit_of(matches), NO_EVIDENCE, 0.0).T, strict=True))
    np.testing.assert_allclose(np.expm1(features["vote"]), np.arange(30) / step, atol=1e-12)


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


@pytest.mark.parametrize(
    ("across", "large"),
    [(0.2, 0.0), (1.5, 0.0), (math.sqrt(1.5 * 4), 0.5), (3.0, math.log(2) / math.log(4 / 1.5)), (4.0, 1.0), (9.0, 1.0)],
)
@pytest.mark.parametrize("step", [1.0, 4.0])
def test_a_scene_is_as_large_as_its_matches_span_footprints(across, large, step):
    matches = matches_of(30, across=across, step=step)
    assert spans(matches) == pytest.approx(across)
    assert largeness(matches) == pytest.approx(large, abs=1e-9)


@pytest.mark.parametrize("n", [0, 1])
def test_a_single_match_spans_nothing(n):
    assert spans(matches_of(n)) == largeness(matches_of(n)) == 0


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_right_pairs_are_told_from_wrong_ones(pair_model):
    fresh = samples(2, 200)
    says = np.array([pair_model(s.pair, s.large) for s in fresh])
    right = np.array([s.right for s in fresh])
    assert ((says > 0) == right).mean() > 0.97
    assert np.median(says[right]) > 2
    assert np.median(says[~right]) < -2


@pytest.mark.parametrize("harmful", range(len(PAIR_FEATURES)))
def test_no_feature_speaks_against_a_pair(harmful):
    """Even where the samples, by chance, say so."""
    made = [replace(s, pair=s.pair * np.where(np.arange(len(PAIR_FEATURES)) == harmful, -1, 1)) for s in samples(3, 40)]
    for model in (fit_pair(made).small, fit_pair(made).large):
        assert min(model.weight) >= 0
        assert model.weight[harmful] == pytest.approx(0, abs=1e-6)
        assert max(model.weight) > 0.1


def test_as_many_wrong_pairs_as_one_likes_do_not_change_the_odds():
    made = samples(4)
    wrong = [s for s in made if not s.right]
    once, often = fit_pair(made), fit_pair([*made, *wrong, *wrong, *wrong])
    middle = np.mean([s.pair for s in made], axis=0)
    for large in (0.0, 1.0):
        assert once(middle, large) == pytest.approx(often(middle, large), abs=0.5)


def test_small_and_large_pairs_have_models_of_their_own_mixed_in_between():
    made = [replace(s, pair=s.pair + 3 * s.large) for s in samples(4, 160)]  # large ones promise more
    model = fit_pair(made)
    middle = np.mean([s.pair for s in made], axis=0)
    small, large = model(middle, 0.0), model(middle, 1.0)
    assert small > large + 1
    assert (small, large) == (model.small(middle)[0], model.large(middle)[0])
    assert model(middle, 0.25) == pytest.approx(0.75 * small + 0.25 * large)


def test_odds_become_probabilities():
    assert pair_probability(0.0) == 0.5
    assert pair_probability(logit(0.9)) == pytest.approx(0.9)
    assert pair_probability(-800.0) == 0


def test_what_is_stored_is_what_judges(monkeypatch, pair_model, calibration):
    stored = {"pair": asdict(pair_model), "matchers": {"made-up": as_json(calibration)}}
    monkeypatch.setattr(module, "_stored", lambda: stored)
    matches = matches_of(40)
    strong, weak = (pair_logit(matches, evidence_of(9, level)) for level in (7.0, 0.5))
    assert strong > weak + 1
    features = pair_features(matches, evidence_of(9, 7.0))
    assert strong == pytest.approx(pair_model(features, largeness(matches)))
    assert calibration_of("made-up") == calibration
    assert calibration_of("nobody") is None


# --- matches ---------------------------------------------------------------------------------------------------------


def test_probabilities_hold_on_other_samples(models, features, off):
    probability = models.chance(features)
    assert probability.min() >= 0
    assert probability.max() <= 1
    assert probability.std() > 0.15
    assert ece(probability, off <= module.RIGHT_PX) < 0.05


def test_they_tell_right_matches_of_right_pairs_from_wrong_ones(models, features, off):
    known = np.isfinite(off)
    probability, right = models.chance(features[known]), off[known] <= module.RIGHT_PX
    assert probability[right].mean() > probability[~right].mean() + 0.1


def test_sigma_predicts_the_error(models, features, off):
    sigma = np.exp(models.log_sigma(features))
    known = np.isfinite(off)
    assert np.median(sigma[~known]) > 4 * np.median(sigma[known])
    assert spearmanr(sigma[known], off[known]).statistic > 0.4
    sigma, off = sigma[known], off[known]
    # A little wide: the fit has to do with matches of wrong pairs, too.
    assert (off < sigma).mean() == pytest.approx(ONE, abs=0.07)
    assert (off < 2 * sigma).mean() == pytest.approx(TWO, abs=0.04)


def test_the_curve_rises(models):
    curve = models.right
    assert 2 <= len(curve.x) == len(curve.y)
    assert (np.diff(curve.x) > 0).all()
    assert (np.diff(curve.y) >= 0).all()
    assert curve.y[-1] > curve.y[0]
    assert curve(np.array([-1e6, 1e6])).tolist() == [curve.y[0], curve.y[-1]]


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


@pytest.mark.parametrize("across", ROOM.values())
def test_likely_pairs_have_likely_matches_and_no_surer_ones(calibration, across):
    assert tuple(name for name in MATCH_FEATURES if name != "pair") == SIGMA_FEATURES
    matches = matches_of(50, across=across)
    low, high = (calibration.matches(matches, fit_of(matches), evidence_of(9), pair) for pair in (-6.0, 6.0))
    assert (high.score >= low.score).all()
    assert high.score.mean() > low.score.mean() + 0.2
    np.testing.assert_array_equal(high.sigma, low.sigma)


BETWEEN = [(1.2, 0.0), (2.0, math.log(4 / 3) / math.log(8 / 3)), (math.sqrt(6), 0.5), (9.0, 1.0)]


def alone(calibration):
    """With the models of small scenes for all, and with those of large ones."""
    return replace(calibration, large=calibration.small), replace(calibration, small=calibration.large)


@pytest.mark.parametrize(("across", "large"), BETWEEN)
def test_matches_of_scenes_in_between_are_of_both_kinds(calibration, across, large):
    matches = matches_of(60, across=across)
    made, small, big = (
        one.matches(matches, fit_of(matches), evidence_of(9), 1.0) for one in (calibration, *alone(calibration))
    )
    assert np.abs(np.log(small.sigma / big.sigma)).mean() > 0.2
    assert np.abs(small.score - big.score).mean() > 0.02
    np.testing.assert_allclose(made.score, (1 - large) * small.score + large * big.score)
    np.testing.assert_allclose(made.sigma, small.sigma ** (1 - large) * big.sigma**large)


def calibrated(calibration, across=9.0, step=1.0):
    """Matches, and the fit to them."""
    matches, evidence = matches_of(60, across=across, step=step), evidence_of(9)
    fitted = fit_of(matches)
    matches = calibration.matches(matches, fitted, evidence, 3.0)
    return matches, calibration.fit(matches, fitted, evidence)


@pytest.mark.parametrize("across", [1.2, 2.0, 9.0])
def test_sigma_is_in_common_pixels_whatever_was_matched(calibration, across):
    (one, map_of_one), (four, map_of_four) = (calibrated(calibration, across, step) for step in (1.0, 4.0))
    np.testing.assert_allclose(four.sigma, 4 * one.sigma)
    np.testing.assert_allclose(four.score, one.score)
    here = one.optical_map
    np.testing.assert_allclose(map_of_four.warp.error(here), 4 * map_of_one.warp.error(here))
    assert map_of_four.error == pytest.approx(4 * map_of_one.error)


# --- warps -----------------------------------------------------------------------------------------------------------


def test_the_maps_sigma_holds_at_other_places_and_ranks_them(models, others, size):
    good = [s for s in others if s.right]
    sigma = np.exp(np.concatenate([models.field(s.field(models.log_sigma(s.inputs))) for s in good]))
    true, known = np.concatenate([s.true for s in good]), np.concatenate([map_sigma(s.places, size) for s in good])
    assert (true < sigma).mean() == pytest.approx(ONE, abs=0.03)
    assert (true < 2 * sigma).mean() == pytest.approx(TWO, abs=0.03)
    assert np.median(np.abs(np.log(sigma / known))) < 0.2
    assert spearmanr(sigma, known).statistic > 0.85
    assert spearmanr(sigma, true).statistic > 0.8 * spearmanr(known, true).statistic


def test_only_what_is_expected_of_a_fit_changes(calibration):
    matches = matches_of(50)
    before, made = fit_of(matches), calibrated(calibration)[1]
    here = matches.optical_map
    np.testing.assert_array_equal(made.warp(here), before.warp(here))
    assert (made.fitted, made.warp.model, made.held_out) == (True, "translation", before.held_out)
    factor = made.warp.error(here) / before.warp.error(here)
    assert factor.min() > 0
    assert factor.max() > 1.05 * factor.min()


def test_a_map_is_sure_where_the_matches_around_are(calibration):
    matches = matches_of(200)
    here = matches.optical_map
    left = here[:, 0] < np.median(here[:, 0])
    fitted = fit_of(matches)
    fitted = replace(fitted, warp=replace(fitted.warp, error=lambda xy: np.ones(len(xy))))
    matches = replace(matches, sigma=np.where(left, 1.5, 6.0), calibrated=True)
    error = calibration.fit(matches, fitted, evidence_of(9)).warp.error(here)
    assert np.median(error[left]) < 0.6 * np.median(error[~left])


def test_nobody_is_surer_or_less_sure_than_can_be_meant(calibration):
    """Whatever the features: a tenth of a matched pixel at best, and twenty at worst."""
    wild = np.random.default_rng(0).choice([-1e6, 1e6], (200, len(MATCH_FEATURES)))
    for models in (calibration.small, calibration.large):
        bold = replace(models, spread=replace(models.spread, weight=[9.0 * 2**k for k in range(len(SIGMA_FEATURES))]))
        assert set(np.round(np.exp(bold.log_sigma(wild)), 6)) == {0.1, 20.0}
        bold = replace(models, field=replace(models.field, weight=[9.0 * 2**k for k in range(len(FIELD_FEATURES))]))
        assert set(np.round(np.exp(bold.log_map_sigma(wild[:, : len(FIELD_FEATURES)])), 6)) == {0.1, 20.0}


def test_the_error_of_a_fit_is_the_median_one_at_its_inliers_and_outliers_have_no_say(calibration):
    matches = matches_of(50)
    inliers = np.arange(50) % 3 > 0
    fitted, evidence = replace(fit_of(matches), inliers=inliers), evidence_of(9)
    made = calibration.fit(matches, fitted, evidence)
    sigma = made.warp.error(matches.optical_map)
    assert made.error == pytest.approx(math.sqrt(2 * math.log(2)) * np.median(sigma[inliers]))
    wild = replace(matches, sigma=np.where(inliers, matches.sigma, 100.0))
    assert calibration.fit(wild, fitted, evidence).error == made.error


@pytest.mark.parametrize(("across", "large"), BETWEEN)
def test_the_map_of_a_scene_in_between_is_of_both_kinds(calibration, across, large):
    matches = matches_of(60, across=across)
    here = matches.optical_map
    made, small, big = (
        one.fit(matches, fit_of(matches), evidence_of(9)).warp.error(here) for one in (calibration, *alone(calibration))
    )
    assert np.abs(np.log(small / big)).mean() > 0.2
    np.testing.assert_allclose(made, small ** (1 - large) * big**large)


@pytest.mark.parametrize("n", [0, 5])
def test_a_fit_without_inliers_stays_as_it_is(calibration, n):
    matches = calibration.matches(matches_of(n), fit_of(matches_of(n)), NO_EVIDENCE, 0.0)
    nothing = Fit(identity_warp(METRES), np.zeros(n, bool), math.nan, {}, "nothing")
    assert calibration.fit(matches, nothing, NO_EVIDENCE) is nothing


# --- fitting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1.0, 2.0])
def test_what_is_fitted_to_is_what_is_asked_for_later(calibration, pair_model, step):
    """The features of a sample are those of the matches, and of the map, that came with it."""
    matches, evidence = matches_of(40, step=step), evidence_of(9)
    fitted = replace(fit_of(matches), inliers=np.arange(40) % 3 > 0)
    places = matches.optical_map[:20] + 5.0
    raw, off = fitted.warp.error(places) / (step * GRID.resolution), np.ones(40)
    made = Sample.of(True, (matches, fitted, evidence), off, (places, raw, np.ones(20)), 0.5)
    assert (made.large, made.room, made.weight, made.standing) == (1.0, pytest.approx(9.0), 0.5, evidence.mean)
    likely = pair_model(pair_features(matches, evidence), 1.0)
    inputs = made.matched(pair_model)
    np.testing.assert_array_equal(inputs, match_features(matches, fitted, evidence, likely))
    known = calibration.matches(matches, fitted, evidence, likely)
    log_sigma = calibration.large.log_sigma(inputs)
    np.testing.assert_allclose(np.log(known.sigma / step), log_sigma)
    sigma = np.exp(calibration.large.field(made.field(log_sigma))) * step * GRID.resolution
    np.testing.assert_allclose(calibration.fit(known, fitted, evidence).warp.error(places), sigma)


@pytest.mark.parametrize(("right", "enough"), [(0, False), (9, False), (10, True)])
def test_a_size_with_too_few_right_pairs_has_the_models_of_all(one_pair_model, size, right, enough):
    made = samples(7, 60)
    rest = of({"small": "large", "large": "small"}[size], made)
    few = [s for s in of(size, made) if s.right][:right]
    of_all, of_few, of_rest = (
        fit_matcher("", [replace(s, large=1.0) for s in part], one_pair_model, {}).large
        for part in ([*few, *rest], few or rest, rest)
    )
    found = fit_matcher("", [*few, *rest], one_pair_model, {})
    other = found.large if size == "small" else found.small
    assert getattr(found, size) == (of_few if enough else of_all)
    assert other == of_rest


def test_a_sample_in_between_counts_for_both_in_part(one_pair_model):
    made = samples(8, 40)
    both = fit_matcher("", [replace(s, large=0.25) for s in made], one_pair_model, {})
    for found, share in ((both.small, 0.75), (both.large, 0.25)):
        assert found == fit_matcher("", [replace(s, large=1.0, weight=share) for s in made], one_pair_model, {}).large
    assert both.small != both.large


def test_a_pair_counts_as_one_however_many_matches_it_has(pair_model):
    made = samples(9, 60)
    often = [
        replace(s, inputs=np.tile(s.inputs, (5, 1)), off=np.tile(s.off, 5), at=np.tile(s.at, (5, 1)))
        if k < 20 else s for k, s in enumerate(made)
    ]  # fmt: skip
    often = [replace(s, inliers=np.resize(s.inliers, len(s.off))) for s in often]
    once, more = (fit_matcher("", part, pair_model, {}).large for part in (made, often))
    np.testing.assert_allclose(more.spread.weight, once.spread.weight, atol=1e-9)
    np.testing.assert_allclose(more.probability.weight, once.probability.weight, atol=0.01)


def without(s, **changes):
    n = len(s.off)
    return replace(s, right=False, inliers=np.zeros(n, bool), raw=np.full(len(s.raw), np.nan), **changes)


def test_pairs_of_which_nothing_came_do_no_harm(pair_model, calibration, tmp_path):
    made = samples(0, 240)
    empty = {"inputs": made[0].inputs[:0], "off": np.zeros(0), "at": np.zeros((0, 2))}
    nothing = [replace(without(s, **empty), inliers=np.zeros(0, bool)) for s in made[:8]]
    again = fit_matcher("made-up", [*made, *nothing], pair_model, {"pairs": 240})
    assert again == calibration
    unfitted = [replace(without(s), right=k == 0) for k, s in enumerate(made[:8])]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(as_json(fit_matcher("made-up", [*made, *unfitted], pair_model, {}))))
    found = read_calibration(path)
    assert found.large.field.weight == pytest.approx(calibration.large.field.weight, abs=0.1)


def test_what_a_map_is_off_by_that_is_not_right_says_nothing(pair_model):
    made = samples(10, 60)
    strays = [[replace(s, right=False, true=s.true + by) for s in made[:20]] for by in (0, 15)]
    one, other = (fit_matcher("", [*part, *made[20:]], pair_model, {}) for part in strays)
    assert one == other


@pytest.mark.parametrize("shape", [1.0, 2.0])
def test_the_mean_of_errors_is_found_whatever_their_distribution(shape):
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (20000, 2))
    off = np.exp(0.8 + 0.5 * x[:, 0] - 0.2 * x[:, 1]) * random.gamma(shape, 1 / shape, len(x))
    off[::4] *= 50  # of no weight
    model = training._log_mean(x, off, np.where(np.arange(len(x)) % 4 == 0, 0.0, 1.0))
    np.testing.assert_allclose(model(np.array([[0.0, 0], [1, 0], [0, 1]])), [0.8, 1.3, 0.6], atol=0.05)


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_a_scale_is_found_whatever_has_no_weight(factor):
    random = np.random.default_rng(0)
    ratio = np.append(factor * random.rayleigh(1, 20000), random.uniform(0, 99, 5000))
    assert training._scale(ratio, np.append(np.ones(20000), np.zeros(5000))) == pytest.approx(factor, rel=0.02)


# --- files -----------------------------------------------------------------------------------------------------------


def refused(path, content):
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no calibration"):
        read_calibration(path)


def test_a_calibration_survives_a_file(calibration, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(as_json(calibration)))
    again = read_calibration(path)
    assert again == calibration
    assert isinstance(again, Calibration)
    assert again.facts == {"pairs": 240}
    matches = matches_of(20, across=2.0)
    one, other = (c.matches(matches, fit_of(matches), evidence_of(9), 1.0) for c in (calibration, again))
    np.testing.assert_array_equal(one.score, other.score)
    np.testing.assert_array_equal(one.sigma, other.sigma)


@pytest.mark.parametrize("matcher", ["hybrid", "dual-encoder"])
def test_what_ships_says_something_sensible_of_what_it_was_fitted_to(matcher, size):
    found = calibration_of(matcher)
    assert found is not None
    assert found.matcher == matcher
    models, random = getattr(found, size), np.random.default_rng(0)

    def typical(linear):
        return linear.mean + random.normal(0, 1, (500, len(linear.mean))) * linear.scale

    likely = typical(models.probability)
    unlikely = likely.copy()
    likely[:, PAIR], unlikely[:, PAIR] = 6, -6
    assert 0 <= models.chance(unlikely).mean() < models.chance(likely).mean() <= 1
    for log_sigma in (models.log_sigma(likely), models.field(typical(models.field))):
        assert 0.1 < np.median(np.exp(log_sigma)) < 20
        assert 0.01 < log_sigma.std() < 2


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


@pytest.mark.parametrize("part", ["matcher", "small", "large"])
def test_every_part_is_needed(calibration, tmp_path, part):
    content = as_json(calibration)
    del content[part]
    refused(tmp_path / "c.json", content)


@pytest.mark.parametrize("part", ["probability", "right", "spread", "field"])
def test_every_part_of_either_size_is_needed(calibration, tmp_path, size, part):
    content = as_json(calibration)
    del content[size][part]
    refused(tmp_path / "c.json", content)


@pytest.mark.parametrize("value", [None, 3, [], "small", {}])
def test_sizes_that_are_no_models_are_refused(calibration, tmp_path, size, value):
    refused(tmp_path / "c.json", as_json(calibration) | {size: value})


def test_a_file_of_the_time_before_sizes_is_refused(calibration, tmp_path):
    content = as_json(calibration)
    models = content["large"]
    old = {"sigma": models["probability"], "error": models["right"], **models}
    refused(tmp_path / "c.json", {"matcher": "made-up", "facts": {}, **old})


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("probability", "weight", [1.0]), ("spread", "mean", [0.0] * len(MATCH_FEATURES)), ("field", "scale", []),
        ("probability", "bias", float("nan")), ("spread", "weight", [float("inf")] * len(SIGMA_FEATURES)),
        ("field", "mean", "abcd"), ("probability", "bias", None), ("right", "x", []), ("right", "y", [0.5]),
        ("right", "x", [0.0] * 5), ("right", "x", 3), ("right", "extra", [1.0]), ("spread", "extra", 1.0),
        ("field", "scale", [0.0] * len(FIELD_FEATURES)), ("field", "weight", [1.0] * 3),
    ],
)  # fmt: skip
def test_models_that_are_none_are_refused(calibration, tmp_path, size, part, name, value):
    content = as_json(calibration)
    content[size][part][name] = value
    refused(tmp_path / "c.json", content)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("y", [float("nan")] * 3), ("y", [0.3, 0.2, 0.4]), ("y", [-0.1, 0.2, 0.3]), ("y", [0.1, 0.2, "a"]),
        ("x", [0.0, float("nan"), 1.0]), ("x", [0.0, 0.0, 1.0]), ("x", [2.0, 1.0, 0.0]),
    ],
)  # fmt: skip
def test_curves_that_do_not_rise_are_refused(calibration, tmp_path, size, name, value):
    content = as_json(calibration)
    content[size]["right"] = {"x": [0.0, 1.0, 2.0], "y": [0.1, 0.2, 0.3]} | {name: value}
    refused(tmp_path / "c.json", content)


def test_a_linear_model_clips_what_was_never_seen():
    model = Linear([1.0, 0.0], [2.0, 1.0], [1.0, -0.5], 0.25)
    assert model(np.array([[3.0, 2.0]])).tolist() == pytest.approx([1 - 1 + 0.25])
    assert model(np.array([[1e9, 0.0], [-1e9, 0.0]])).tolist() == pytest.approx([4.25, -3.75])
    assert model(np.zeros((0, 2))).shape == (0,)
