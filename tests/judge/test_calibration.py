"""calibration: probabilities and errors that hold, on samples whose truth is made up."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from support.calibrated import NOTHING, PAIR, WIDTH, evidence_of, fit_of, made_up, map_sigma, matches_of, of, samples

from sn9reg.errors import InputError
from sn9reg.judge import calibration as module
from sn9reg.judge.calibration import Linear, calibration_for, calibrations_for
from sn9reg.judge.evidence import NO_EVIDENCE
from sn9reg.judge.features import FEATURES, MATCH_FEATURES, SIGMA_FEATURES
from sn9reg.score.metrics import ece
from sn9reg.training import calibrate as training

ONE, TWO = 1 - math.exp(-1 / 2), 1 - math.exp(-2)  # of normal deviations in the plane lie within so many sigma


@pytest.fixture(scope="module")
def calibration():
    return made_up()[1]


@pytest.fixture(scope="module", params=["small", "large"])
def size(request):
    return request.param


@pytest.fixture(scope="module")
def models(calibration, size):
    return getattr(calibration, size)


@pytest.fixture(scope="module")
def others(size):
    """Samples of one size that nothing was fitted to, as many of them of wrong pairs as is assumed."""
    right, wrong = ([s for s in of(size, samples(1, 320)) if s.right == which] for which in (True, False))
    return [*right, *wrong[: round(len(wrong) * training._STRANGERS)]]


def test_probabilities_and_sigmas_hold_on_other_samples(models, others):
    features = np.concatenate([s.matched(made_up()[0]) for s in others])
    off = np.concatenate([s.off for s in others])
    chance, sigma, known = models.chance(features), np.exp(models.log_sigma(features)), np.isfinite(off)
    right = off <= module.RIGHT_PX
    assert chance.std() > 0.15
    assert ece(chance, right) < 0.05
    assert chance[known & right].mean() > chance[known & ~right].mean() + 0.1
    assert np.median(sigma[~known]) > 4 * np.median(sigma[known])
    sigma, off = sigma[known], off[known]
    assert spearmanr(sigma, off).statistic > 0.4
    # A little wide: the fit has to do with matches of wrong pairs, too.
    assert (off < sigma).mean() == pytest.approx(ONE, abs=0.07)
    assert (off < 2 * sigma).mean() == pytest.approx(TWO, abs=0.04)
    curve = models.right
    assert curve.y[-1] > curve.y[0]
    assert curve(np.array([-1e6, 1e6])).tolist() == [curve.y[0], curve.y[-1]]


def test_only_score_and_sigma_of_matches_and_the_error_of_their_fit_change(calibration):
    matches = matches_of(50)
    before, made = fit_of(matches), calibrated(calibration)[1]
    here = matches.optical_map
    np.testing.assert_array_equal(made.warp(here), before.warp(here))
    assert (made.fitted, made.warp.model, made.held_out) == (True, "translation", before.held_out)
    factor = made.warp.error(here) / before.warp.error(here)
    assert factor.max() > 1.05 * factor.min() > 0
    made = calibration.matches(matches, before, evidence_of(), 3.0)
    assert (made.calibrated, matches.calibrated, len(made)) == (True, False, 50)
    assert ((made.score >= 0) & (made.score <= 1) & (made.sigma > 0)).all()
    for name in ("optical_xy", "sar_xy", "solo_xy", "distance", "rival_distance"):
        assert getattr(made, name) is getattr(matches, name)
    nothing = matches_of(0)
    assert calibration.matches(nothing, fit_of(nothing), evidence_of(), 3.0).calibrated


@pytest.mark.parametrize("across", WIDTH.values())
def test_likely_pairs_have_likelier_matches_of_the_same_sigma(calibration, across):
    matches = matches_of(50, across=across)
    low, high = (calibration.matches(matches, fit_of(matches), evidence_of(), logit) for logit in (-6.0, 6.0))
    assert (high.score >= low.score).all()
    assert high.score.mean() > low.score.mean() + 0.2
    np.testing.assert_array_equal(high.sigma, low.sigma)


def calibrated(calibration, across=9.0, step=1.0):
    """Matches, and the fit to them."""
    matches, evidence = matches_of(60, across=across, step=step), evidence_of()
    fitted = fit_of(matches)
    matches = calibration.matches(matches, fitted, evidence, 3.0)
    return matches, calibration.fit(matches, fitted, evidence)


@pytest.mark.parametrize(("across", "large"), [(1.2, 0.0), (math.sqrt(10), 0.5), (9.0, 1.0)])
def test_scenes_in_between_mix_both_sizes(calibration, across, large):
    matches, evidence = matches_of(60, across=across), evidence_of()
    fitted = fit_of(matches)
    alone = replace(calibration, large=calibration.small), replace(calibration, small=calibration.large)
    made, small, big = (c.matches(matches, fitted, evidence, 1.0) for c in (calibration, *alone))
    assert np.abs(small.score - big.score).mean() > 0.02
    np.testing.assert_allclose(made.score, (1 - large) * small.score + large * big.score)
    errors = [c.fit(matches, fitted, evidence).warp.error(matches.optical_map) for c in (calibration, *alone)]
    for mixed, of_small, of_large in ((made.sigma, small.sigma, big.sigma), errors):
        assert np.abs(np.log(of_small / of_large)).mean() > 0.2
        np.testing.assert_allclose(mixed, of_small ** (1 - large) * of_large**large)


@pytest.mark.parametrize("across", WIDTH.values())
def test_sigma_is_in_common_pixels_whatever_was_matched(calibration, across):
    (one, map_of_one), (four, map_of_four) = (calibrated(calibration, across, step) for step in (1.0, 4.0))
    np.testing.assert_allclose(four.sigma, 4 * one.sigma)
    np.testing.assert_allclose(four.score, one.score)
    here = one.optical_map
    np.testing.assert_allclose(map_of_four.warp.error(here), 4 * map_of_one.warp.error(here))
    assert map_of_four.error == pytest.approx(4 * map_of_one.error)


def test_the_maps_sigma_holds_at_other_places_and_ranks_them(models, others, size):
    good = [s for s in others if s.right]
    sigma = np.exp(np.concatenate([models.field(s.field(models.log_sigma(s.inputs))) for s in good]))
    true, known = np.concatenate([s.true for s in good]), np.concatenate([map_sigma(s.places, size) for s in good])
    assert (true < sigma).mean() == pytest.approx(ONE, abs=0.03)
    assert (true < 2 * sigma).mean() == pytest.approx(TWO, abs=0.03)
    assert np.median(np.abs(np.log(sigma / known))) < 0.2
    assert spearmanr(sigma, known).statistic > 0.85


def test_a_map_is_sure_where_the_matches_around_are(calibration):
    matches = matches_of(200)
    left = matches.optical_xy[:, 0] < np.median(matches.optical_xy[:, 0])
    fitted = fit_of(matches)
    fitted = replace(fitted, warp=replace(fitted.warp, error=lambda xy: np.ones(len(xy))))
    matches = replace(matches, sigma=np.where(left, 1.5, 6.0), calibrated=True)
    error = calibration.fit(matches, fitted, evidence_of()).warp.error(matches.optical_map)
    assert np.median(error[left]) < 0.6 * np.median(error[~left])


def test_sigmas_stay_between_a_tenth_of_a_matched_pixel_and_twenty(models):
    wild = np.random.default_rng(0).choice([-1e6, 1e6], (200, len(MATCH_FEATURES)))
    steep = [9.0 * 2**k for k in range(len(SIGMA_FEATURES))]
    field = replace(models.field, weight=steep[: len(FEATURES["field"])])
    bold = replace(models, spread=replace(models.spread, weight=steep), field=field)
    for log_sigma in (bold.log_sigma(wild), bold.log_map_sigma(wild[:, : len(FEATURES["field"])])):
        assert set(np.round(np.exp(log_sigma), 6)) == {0.1, 20.0}


def test_the_error_of_a_fit_is_the_median_one_at_its_inliers_and_outliers_do_not_count(calibration):
    matches, inliers = matches_of(50), np.arange(50) % 3 > 0
    fitted, evidence = replace(fit_of(matches), inliers=inliers), evidence_of()
    made = calibration.fit(matches, fitted, evidence)
    sigma = made.warp.error(matches.optical_map)
    assert made.error == pytest.approx(math.sqrt(2 * math.log(2)) * np.median(sigma[inliers]))
    wild = replace(matches, sigma=np.where(inliers, matches.sigma, 100.0))
    assert calibration.fit(wild, fitted, evidence).error == made.error
    nothing = replace(NOTHING, inliers=np.zeros(50, bool))
    assert calibration.fit(matches, nothing, NO_EVIDENCE) is nothing


def test_a_linear_model_clips_what_was_never_seen():
    model = Linear([1.0, 0.0], [2.0, 1.0], [1.0, -0.5], 0.25)
    assert model(np.array([[3.0, 2.0]])).tolist() == pytest.approx([1 - 1 + 0.25])
    assert model(np.array([[1e9, 0.0], [-1e9, 0.0]])).tolist() == pytest.approx([4.25, -3.75])
    assert model(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize("matcher", ["hybrid", "dual-encoder"])
def test_what_ships_is_sensible_for_what_it_was_fitted_to(matcher, size):
    found = calibration_for(matcher)
    models, random = getattr(found, size), np.random.default_rng(0)

    def typical(linear):
        return linear.mean + random.normal(0, 1, (500, len(linear.mean))) * linear.scale

    likely = typical(models.probability)
    unlikely = likely.copy()
    likely[:, PAIR], unlikely[:, PAIR] = 6, -6
    assert found.matcher == matcher
    assert 0 <= models.chance(unlikely).mean() < models.chance(likely).mean() <= 1
    for log_sigma in (models.log_sigma(likely), models.field(typical(models.field))):
        assert 0.1 < np.median(np.exp(log_sigma)) < 20
        assert 0.01 < log_sigma.std() < 2


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_calibration_survives_a_file_and_a_file_that_is_none_is_refused(calibration, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(asdict(calibration)))
    assert calibration_for("structure", path=path) == calibration
    assert calibration.facts == {"pairs": 240}
    with pytest.raises(InputError, match="of structure, not of hybrid"):
        calibration_for("hybrid", path=path)
    two = {"structure": False, "ncc": False}
    assert calibrations_for(two, path) == {"structure": calibration, "ncc": None}
    with pytest.raises(InputError, match="of structure, not of hybrid or ncc"):
        calibrations_for({"hybrid": False, "ncc": False}, path)
    for missing, words in ((tmp_path / "none.json", "no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(InputError, match=f"{missing.name}: {words}"):
            calibration_for("structure", path=missing)
    odd = b"\xff", b"[" * 100_000, b"1" * 5000
    for content in (b"{", b"{}", b"[]", b"3", b"null", b'"text"', b'{"matcher": "hybrid"}', *odd):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"c\.json: is no calibration"):
            calibration_for("structure", path=path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("probability", "weight", [1.0]), ("spread", "mean", [0.0] * len(MATCH_FEATURES)), ("field", "scale", []),
        ("probability", "bias", math.nan), ("spread", "weight", [math.inf] * len(SIGMA_FEATURES)),
        ("field", "scale", [0.0] * len(FEATURES["field"])), ("spread", "extra", 1.0), ("right", "extra", [1.0]),
        ("right", "x", []), ("right", "y", [0.5]), ("right", "y", [0.3, 0.2, 0.4]), ("right", "y", [-0.1, 0.2, 0.3]),
        ("right", "x", [0.0, 0.0, 1.0]), ("right", "x", [2.0, 1.0, 0.0]), ("right", None, 3), ("field", None, {}),
        ("right", "x", [0.0, 1.0, 10**400]),
    ],
)  # fmt: skip
def test_models_of_another_form_are_refused(calibration, tmp_path, size, part, name, value):
    content = asdict(calibration)
    content[size]["right"] = {"x": [0.0, 1.0, 2.0], "y": [0.1, 0.2, 0.3]}
    content[size][part] = value if name is None else content[size][part] | {name: value}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no calibration"):
        calibration_for("structure", path=path)
