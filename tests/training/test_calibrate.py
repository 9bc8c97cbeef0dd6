"""calibrate: models fitted to samples whose truth is made up."""

from dataclasses import replace

import numpy as np
import pytest
from support.calibrated import GRID, evidence_of, fit_of, made_up, matches_of, of, samples

from sn9reg.judge.calibration import Linear
from sn9reg.judge.features import breadth, match_features, pair_features
from sn9reg.training import calibrate as training
from sn9reg.training.calibrate import Sample, fit_matcher, fit_pair


def fitted_to(samples):
    """By a model of pairs that is the same for all sizes."""
    pair_model = made_up()[0]
    return fit_matcher("", samples, replace(pair_model, small=pair_model.large), {})


def test_right_pairs_are_told_from_wrong_ones():
    fresh, pair_model = samples(2, 200), made_up()[0]
    says = np.array([pair_model(s.pair, s.broad) for s in fresh])
    right = np.array([s.right for s in fresh])
    assert ((says > 0) == right).mean() > 0.97
    assert np.median(says[right]) > 2
    assert np.median(says[~right]) < -2


@pytest.mark.parametrize("harmful", [0, 2])
def test_no_feature_speaks_against_a_pair_even_where_the_samples_by_chance_say_so(harmful):
    made = [replace(s, pair=s.pair * np.where(np.arange(3) == harmful, -1, 1)) for s in samples(3, 40)]
    for model in (fit_pair(made).small, fit_pair(made).large):
        assert min(model.weight) >= 0
        assert model.weight[harmful] == pytest.approx(0, abs=1e-6)
        assert max(model.weight) > 0.1


def test_the_number_of_wrong_pairs_does_not_change_the_odds():
    made = samples(4)
    wrong = [s for s in made if not s.right]
    once, often = fit_pair(made), fit_pair([*made, *wrong, *wrong, *wrong])
    middle = np.mean([s.pair for s in made], axis=0)
    for large in (0.0, 1.0):
        assert once(middle, large) == pytest.approx(often(middle, large), abs=0.5)


def test_small_and_large_pairs_have_models_of_their_own_mixed_in_between():
    made = [replace(s, pair=s.pair + 3 * s.broad) for s in samples(4, 160)]  # large ones promise more
    model = fit_pair(made)
    middle = np.mean([s.pair for s in made], axis=0)
    small, large = model(middle, 0.0), model(middle, 1.0)
    assert small > large + 1
    assert model(middle, 0.25) == pytest.approx(0.75 * small + 0.25 * large)


@pytest.mark.parametrize("step", [1.0, 2.0])
def test_a_sample_has_the_features_of_the_matches_and_the_map_it_came_with(step):
    pair_model, calibration = made_up()
    matches, evidence = matches_of(40, step=step), evidence_of()
    fitted = replace(fit_of(matches), inliers=np.arange(40) % 3 > 0)
    places = matches.optical_map[:20] + 5.0
    raw, off = fitted.warp.error(places) / (step * GRID.resolution), np.ones(40)
    made = Sample.of(True, (matches, fitted, evidence), off, (places, raw, np.ones(20)), 0.5)
    assert (made.large, made.room, made.weight, made.standing) == (1.0, pytest.approx(9.0), 0.5, evidence.mean)
    likely = pair_model(pair_features(matches, evidence), breadth(evidence))
    inputs = made.matched(pair_model)
    np.testing.assert_array_equal(inputs, match_features(matches, fitted, evidence, likely))
    known = calibration.matches(matches, fitted, evidence, likely)
    log_sigma = calibration.large.log_sigma(inputs)
    np.testing.assert_allclose(np.log(known.sigma / step), log_sigma)
    sigma = np.exp(calibration.large.field(made.field(log_sigma))) * step * GRID.resolution
    np.testing.assert_allclose(calibration.fit(known, fitted, evidence).warp.error(places), sigma)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(("right", "enough"), [(9, False), (10, True)])
def test_a_size_with_too_few_right_pairs_has_the_models_of_all(size, right, enough):
    made, other = samples(7, 50), {"small": "large", "large": "small"}[size]
    few, rest = [s for s in of(size, made) if s.right][:right], of(other, made)
    wanted, of_rest = (
        fitted_to([replace(s, large=1.0) for s in part]).large for part in (few if enough else [*few, *rest], rest)
    )
    found = fitted_to([*few, *rest])
    assert getattr(found, size) == wanted
    assert getattr(found, other) == of_rest


def test_a_sample_in_between_counts_for_both_in_part():
    made = samples(8, 40)
    both = fitted_to([replace(s, large=0.25) for s in made])
    for found, share in ((both.small, 0.75), (both.large, 0.25)):
        assert found == fitted_to([replace(s, large=1.0, weight=share) for s in made]).large
    assert both.small != both.large


def test_a_pair_counts_as_one_however_many_matches_it_has():
    made, names = samples(9, 60), ("inputs", "off", "at", "inliers")
    often = [replace(s, **{name: np.concatenate([getattr(s, name)] * 5) for name in names}) for s in made[:20]]
    often += made[20:]
    once, more = (fitted_to(part).large for part in (made, often))
    np.testing.assert_allclose(more.spread.weight, once.spread.weight, atol=1e-9)
    np.testing.assert_allclose(more.probability.weight, once.probability.weight, atol=0.01)


def test_pairs_without_matches_or_without_a_fit_do_no_harm():
    made, (pair_model, calibration) = samples(0, 240), made_up()
    bad = {"right": False, "inliers": np.zeros(200, bool), "raw": np.full(200, np.nan)}
    unfitted = [replace(s, **bad) for s in made[:8]]
    empty = {"inputs": made[0].inputs[:0], "off": np.zeros(0), "at": np.zeros((0, 2)), "inliers": np.zeros(0, bool)}
    nothing = [replace(s, **empty) for s in unfitted]
    assert fit_matcher("structure", [*made, *nothing], pair_model, {"pairs": 240}) == calibration
    unfitted[0] = replace(unfitted[0], right=True)
    found = fit_matcher("made-up", [*made, *unfitted], pair_model, {})
    assert found.large.field.weight == pytest.approx(calibration.large.field.weight, abs=0.1)


def test_the_error_of_a_map_that_is_not_right_does_not_count():
    made = samples(10, 60)
    strays = [[replace(s, right=False, true=s.true + by) for s in made[:20]] for by in (0, 15)]
    assert fitted_to([*strays[0], *made[20:]]) == fitted_to([*strays[1], *made[20:]])


@pytest.mark.parametrize("shape", [1.0, 2.0])
def test_the_mean_of_errors_is_found_whatever_their_distribution(shape):
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (20000, 2))
    off = np.exp(0.8 + 0.5 * x[:, 0] - 0.2 * x[:, 1]) * random.gamma(shape, 1 / shape, len(x))
    off[::4] *= 50  # of no weight
    model = training._minimised(training._exponential, x, off, np.where(np.arange(len(x)) % 4 == 0, 0.0, 1.0))
    np.testing.assert_allclose(model(np.array([[0.0, 0], [1, 0], [0, 1]])), [0.8, 1.3, 0.6], atol=0.05)


@pytest.mark.parametrize("factor", [0.2, 7.0])
def test_a_scale_is_found_whatever_has_no_weight(factor):
    random = np.random.default_rng(0)
    ratio = np.append(factor * random.rayleigh(1, 20000), random.uniform(0, 99, 5000))
    model = training._scaled(Linear([0.0], [1.0], [0.0], 0.0), np.zeros((25000, 1)), ratio, np.arange(25000) < 20000)
    assert np.exp(model.bias) == pytest.approx(factor, rel=0.02)
