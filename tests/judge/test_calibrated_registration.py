"""judge: which calibration is used, the warnings where there is none, and what it changes."""

import json
import logging
from dataclasses import asdict, replace
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
from support.calibrated import evidence_of, made_up, matches_of

import sn9reg.registration
from sn9reg.errors import InputError
from sn9reg.judge import calibration as stored_module
from sn9reg.judge import verdict as verdict_module
from sn9reg.judge.calibration import MEDIAN, calibration_for, pair_logit
from sn9reg.judge.features import breadth, pair_features
from sn9reg.judge.verdict import judge
from sn9reg.matchers.base import make_matcher

WEIGHTS = files("sn9reg.weights")


@pytest.fixture(scope="module")
def models():
    return made_up(40)


@pytest.fixture
def ships(monkeypatch, models):
    content = {"pair": asdict(models[0]), "matchers": {"structure": asdict(models[1])}}
    stored = stored_module._stored
    monkeypatch.setattr(stored_module, "_stored", lambda path=None: stored(path) if path else content)


@pytest.fixture
def _firm(monkeypatch):
    """The pixels speak for whatever warp there is."""
    monkeypatch.setattr(verdict_module, "default_features", lambda _pair: None)
    monkeypatch.setattr(verdict_module, "gather", lambda *_: evidence_of(9, 7.0))


@pytest.mark.usefixtures("ships")
@pytest.mark.parametrize(("own_weights", "own"), [(False, False), (False, True), (True, True)])
def test_a_calibration_that_fits_is_used_without_a_warning(tmp_path, models, caplog, own_weights, own):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(asdict(models[1])))
    assert calibration_for("structure", own_weights, path if own else None) == models[1]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("ships")
@pytest.mark.parametrize(
    ("matcher", "own_weights", "words"),
    [("learned", False, "no calibration ships for learned"), ("structure", True, "other weights of structure")],
)
def test_where_no_calibration_ships_that_fits_a_warning_says_why(caplog, matcher, own_weights, words):
    assert calibration_for(matcher, own_weights) is None
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert words in message


@pytest.mark.usefixtures("ships")
def test_what_ships_is_what_judges(models):
    matches, strong, weak = matches_of(40), evidence_of(9, 7.0), evidence_of(9, 0.5)
    assert pair_logit(matches, strong) > pair_logit(matches, weak) + 1
    assert pair_logit(matches, strong) == pytest.approx(models[0](pair_features(matches, strong), breadth(strong)))


@pytest.mark.parametrize("content", [[], {"pair": {}, "matchers": {"structure": {}}}, {"pair": 3, "matchers": 3}])
def test_a_damaged_file_that_ships_is_named(monkeypatch, caplog, content):
    monkeypatch.setattr(stored_module, "_stored", lambda: content)
    with pytest.raises(InputError, match=r"calibration\.json: is no calibration"):
        pair_logit(matches_of(9), evidence_of())
    assert calibration_for("structure") is None
    assert "calibration.json: is no calibration" in caplog.text


@pytest.mark.usefixtures("_firm")
def test_calibration_changes_errors_and_not_the_verdict(small_registration, models):
    matches, fitted = replace(small_registration.matches, calibrated=False), small_registration.fit
    raw, raw_fit, verdict = judge(None, matches, fitted, None)
    made, made_fit, again = judge(None, matches, fitted, models[1])
    assert (raw, raw_fit) == (matches, fitted)
    assert verdict.registered, verdict.reason
    assert (again.registered, again.probability) == (verdict.registered, verdict.probability)
    assert (raw.calibrated, made.calibrated) == (False, True)
    assert (made.sigma != matches.sigma).any()
    assert ((made.score >= 0) & (made.score <= 1)).all()
    sigma = made_fit.warp.error(matches.optical_map)
    assert made_fit.error == again.error == pytest.approx(MEDIAN * np.median(sigma[fitted.inliers]))
    assert made_fit.error != pytest.approx(fitted.error, rel=1e-3)
    np.testing.assert_array_equal(made_fit.inliers, fitted.inliers)
    np.testing.assert_array_equal(made_fit.warp(matches.optical_map), fitted.warp(matches.optical_map))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("hybrid", {"weights": "slim-unet"}),
        ("descriptors", {"weights": "descriptors"}),
        ("dual-encoder", {"weights": "dual-encoder"}),
        ("keypoints", {"sar_weights": "keypoints-sar", "optical_weights": "keypoints-optical"}),
    ],
)
def test_a_matcher_says_whether_its_weights_are_its_own(name, weights):
    assert make_matcher(name).own_weights is False
    for option, file in weights.items():
        assert make_matcher(name, **{option: str(WEIGHTS.joinpath(f"{file}.safetensors"))}).own_weights is True


@pytest.mark.usefixtures("ships", "_firm")
@pytest.mark.parametrize("own_weights", [None, False, True])
def test_a_registration_by_an_object_says_whether_it_is_calibrated(
    small_files, small_registration, caplog, own_weights
):
    matches = replace(small_registration.matches, calibrated=False)
    matcher = SimpleNamespace(name="structure", match=lambda _pair: matches)
    if own_weights is not None:
        matcher.own_weights = own_weights
    found = sn9reg.register(*small_files, matcher=matcher)
    assert found.matches.calibrated is not bool(own_weights)
    assert found.as_dict()["calibrated"] is found.matches.calibrated
    assert found.facts()["calibrated"] == ("no" if own_weights else "yes")
    assert ("other weights of structure" in caplog.text) is bool(own_weights)
