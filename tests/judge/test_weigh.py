"""weigh: what a source without a calibration is worth, repetitions, and a source that is all wrong."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from support.calibrated import evidence_of, made_up
from support.matches import lattice, matched

from sn9reg.fit.choose import fit
from sn9reg.fit.correspondences import joined
from sn9reg.fit.warp import Warp
from sn9reg.judge import weigh as module
from sn9reg.judge.weigh import measured, repeated, weighed

SHIFT = np.array([6.0, -4.0])  # pixels; 0.5 map units each
WARP = Warp("translation", lambda xy: xy + SHIFT * [0.5, -0.5], lambda xy: np.full(len(xy), 0.25))


def source(side=20, sigma=1.0, wrong=0.0, seed=0, **options):
    """Matches off by `sigma`, but for a share that lies anywhere."""
    random, xy = np.random.default_rng(seed), lattice(side, 300, 4000)
    off = random.normal(0, sigma, (len(xy), 2))
    off[: round(wrong * len(xy))] = random.uniform(-40, 40, (round(wrong * len(xy)), 2))
    return matched(xy, xy + SHIFT + off, **options)


@pytest.fixture
def _seen(monkeypatch):
    """The pixels speak for the warp, whatever it is; what is described is no subject here."""
    monkeypatch.setattr(module, "default_features", lambda _pair: None)
    monkeypatch.setattr(module, "gather", lambda *_: evidence_of(9, 5.0))


@pytest.mark.parametrize(("sigma", "wrong"), [(2.0, 0.0), (1.0, 0.5), (4.0, 0.3)])
def test_a_source_is_measured_by_how_far_it_lies_from_the_warp(sigma, wrong):
    part = source(sigma=sigma, wrong=wrong)
    found, gain = measured(part, WARP)
    bad = np.arange(len(part)) < wrong * len(part)
    assert found.calibrated
    assert found.score.mean() == pytest.approx(1 - wrong, abs=0.08)
    assert found.score[~bad].mean() > 0.85
    # What is right is not known better than the warp itself, half a pixel.
    assert np.median(found.sigma) == pytest.approx(np.hypot(sigma, 0.5), rel=0.2)
    assert gain > 100


def test_a_source_that_is_all_wrong_speaks_for_nothing_and_an_empty_one_is_no_accident():
    found, gain = measured(source(wrong=1.0), WARP)
    assert gain < 3
    assert found.score.mean() < 0.1
    empty, none = measured(source().keep(np.zeros(0, int)), WARP)
    assert (len(empty), none) == (0, 0.0)


def test_of_matches_that_repeat_each_other_the_surer_is_kept_and_of_those_that_disagree_both():
    xy = np.array([[500.0, 500], [900, 500], [1300, 500]])
    one = matched(xy, xy + 5, sigma=1.0)
    beside, below = xy + np.array([3, 0]), xy + np.array([0, 200])
    other = matched(beside, beside + np.array([[5.5, 5], [25, 5], [5, 5.5]]), sigma=2.0)
    other = replace(other, sigma=np.array([2.0, 2.0, 0.5]))
    far = matched(below, below + 5)
    assert repeated(joined({"a": one, "b": other, "c": far})).reshape(3, 3).tolist() == [
        [False, False, True], [True, False, False], [False, False, False],
    ]  # fmt: skip
    assert not repeated(joined({"a": matched(np.concatenate([xy, xy]), np.concatenate([xy, xy]))})).any()


@pytest.mark.usefixtures("_seen")
@pytest.mark.parametrize("calibrated", [False, True])
def test_sources_that_are_right_are_fitted_together_and_one_that_is_wrong_takes_no_part(calibrated):
    parts = {"structure": source(), "noise": source(wrong=1.0, seed=1), "other": source(12, 1.5, seed=2)}
    known = {"structure": made_up(40)[1] if calibrated else None}
    matches, fitted, gain = weighed(None, joined(parts), fit, known)
    share = {name: fitted.inliers[matches.source == k].mean() for k, name in enumerate(matches.sources)}
    assert share["noise"] < 0.1
    assert min(share["structure"], share["other"]) > 0.8
    assert gain > 50
    assert matches.calibrated
    off = fitted.warp(matches.optical_map) - WARP(matches.optical_map)
    assert np.hypot(*off.T).mean() / 0.5 < 0.5


@pytest.mark.usefixtures("_seen")
def test_where_the_first_cannot_be_fitted_the_next_leads_and_where_none_can_nothing_is():
    few = source(2)
    matches, fitted, _ = weighed(None, joined({"few": few, "many": source()}), partial(fit, model="translation"), {})
    assert list(matches.sources) == ["many", "few"]
    assert fitted.fitted
    matches, fitted, gain = weighed(None, joined({"few": few, "less": few}), fit, {})
    assert (fitted.fitted, fitted.inliers.tolist(), gain) == (False, [False] * 8, 0.0)


@pytest.mark.usefixtures("_seen")
def test_where_too_few_are_trusted_the_first_sources_warp_stays(monkeypatch):
    monkeypatch.setattr(module, "TRUSTED", 1.1)
    matches, fitted, _ = weighed(None, joined({"a": source(), "b": source(8, seed=3)}), fit, {})
    assert fitted.fitted
    np.testing.assert_array_equal(fitted.inliers, matches.source == 0)


@pytest.mark.usefixtures("_seen")
def test_where_all_together_predict_the_first_sources_matches_worse_its_own_warp_stays():
    first, bent = source(sigma=0.3), source(30, sigma=0.3, seed=1)
    bent = replace(bent, sar_xy=bent.sar_xy + 8 * np.sin(bent.optical_xy / 90))  # consistent, and off everywhere
    alone = fit(first)
    matches, fitted, _ = weighed(None, joined({"a": first, "b": bent}), fit, {"b": None})
    at = matches.optical_map
    np.testing.assert_allclose(fitted.warp(at), alone.warp(at))
    np.testing.assert_array_equal(fitted.inliers, matches.source == 0)
