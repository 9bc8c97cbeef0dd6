"""register with and without a calibration: who gets which, and who is told that there is none."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from importlib.resources import files

import numpy as np
import pytest
import rasterio

import sn9reg.registration
from sn9reg.fit.correspondences import Correspondences
from sn9reg.judge import calibration as stored_module
from sn9reg.judge.calibration import MATCH_FEATURES, MEDIAN, PAIR_FEATURES, as_json
from sn9reg.matchers.base import make_matcher
from sn9reg.score.metrics import ece
from sn9reg.training.calibrate import Sample, fit_matcher, fit_pair

module = sys.modules["sn9reg.registration"]


def samples(count=40, n=30):
    """Right pairs whose matches are nearly all right, and wrong ones, of scenes of either size."""
    random = np.random.default_rng(0)
    made = []
    for k in range(count):
        right, large = k % 2 == 0, k % 4 < 2
        level = {"total": (20, 3), "lead": (3, -4), "confirmed": (0.7, 0.1)}
        pair = np.array([[level[name][0 if right else 1] for name in PAIR_FEATURES]])
        pair = pair + random.normal(0, 0.1, pair.shape)
        inputs = np.abs(random.normal(0, 0.5, (n, len(MATCH_FEATURES))))
        off = random.rayleigh(1.0, n) if right else np.full(n, np.inf)
        at, places = random.uniform(0, 1000, (n, 2)), random.uniform(0, 1000, (50 if right else 0, 2))
        raw, true = random.uniform(0.5, 2, len(places)), random.rayleigh(1.5, len(places))
        room, inliers = 6.0 if large else 1.0, np.ones(n, bool)
        made.append(Sample(right, float(large), room, pair, inputs, off, at, inliers, 96.0, 5.0, places, raw, true))
    return made


@pytest.fixture(scope="module")
def models():
    pair = fit_pair(samples())
    return pair, fit_matcher("structure", samples(), pair, {"pairs": 40})


@pytest.fixture(autouse=True)
def ships(monkeypatch, models):
    pair, calibration = models
    content = {"pair": asdict(pair), "matchers": {"structure": as_json(calibration)}}
    monkeypatch.setattr(stored_module, "_stored", lambda: content)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.fixture
def own_file(tmp_path, models):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(as_json(models[1])))
    return path


def test_what_ships_is_used_without_a_word(models, caplog):
    assert module._calibration("structure", False, None) == models[1]
    assert not warnings_of(caplog)


@pytest.mark.parametrize("own_weights", [False, True])
def test_a_file_of_ones_own_is_used_whatever_the_weights(own_file, models, caplog, own_weights):
    assert module._calibration("structure", own_weights, own_file) == models[1]
    assert not warnings_of(caplog)


def test_a_missing_file_is_no_end_but_a_warning(tmp_path, caplog):
    assert module._calibration("structure", False, tmp_path / "none.json") is None
    (message,) = warnings_of(caplog)
    assert "none.json" in message
    assert "not calibrated" in message


def test_a_broken_file_too(tmp_path, caplog):
    (tmp_path / "c.json").write_text("{}")
    assert module._calibration("structure", False, tmp_path / "c.json") is None
    assert "is no calibration" in warnings_of(caplog)[0]


def test_another_matchers_calibration_is_not_used(own_file, caplog):
    assert module._calibration("hybrid", False, own_file) is None
    (message,) = warnings_of(caplog)
    assert "of structure, not of hybrid" in message


def test_a_matcher_without_calibration(caplog):
    assert module._calibration("learned", False, None) is None
    (message,) = warnings_of(caplog)
    assert "no calibration ships for learned" in message


def test_what_ships_is_not_for_other_weights(caplog):
    assert module._calibration("structure", True, None) is None
    (message,) = warnings_of(caplog)
    assert "other weights of structure" in message


@pytest.fixture(scope="module")
def registered(scene, models):
    """One registration, slow as it is, with the calibration; and what `assess` makes of it without one."""
    found = {}
    pair, calibration = models
    with pytest.MonkeyPatch.context() as patch:
        content = {"pair": asdict(pair), "matchers": {"structure": as_json(calibration)}}
        patch.setattr(stored_module, "_stored", lambda: content)
        assess, gather, once = module.assess, module.gather, []

        def gathered(*arguments):
            once[:] = once or [gather(*arguments)]
            return once[0]

        def both(opened, matches, fitted, own):
            found["raw"] = (matches, fitted, assess(opened, matches, fitted, None)[2])
            return assess(opened, matches, fitted, own)

        patch.setattr(module, "gather", gathered)
        patch.setattr(module, "assess", both)
        found["with"] = sn9reg.register(scene.optical, scene.sar, matcher="structure")
        (found["evidence"],) = once
    return found


def test_a_calibrated_registration_says_so(registered):
    made = registered["with"]
    assert made.registered, made.verdict.reason
    assert made.facts()["calibrated"] == "yes"
    assert made.as_dict()["calibrated"] is True
    assert json.loads(json.dumps(made.as_dict()))["calibrated"] is True
    assert made.tiepoints().score.min() >= 0
    assert made.tiepoints().score.max() <= 1


def test_calibration_changes_errors_and_not_the_verdict(registered):
    made, (matches, fitted, verdict) = registered["with"], registered["raw"]
    assert not matches.calibrated
    assert (made.verdict.registered, made.verdict.probability) == (verdict.registered, verdict.probability)
    sigma = made.warp.error(matches.optical_map)
    assert np.isfinite(sigma).all()
    assert sigma.min() > 0
    assert made.fit.error == pytest.approx(MEDIAN * np.median(sigma[fitted.inliers]))
    assert made.fit.error != pytest.approx(fitted.error, rel=1e-3)
    assert made.expected_error_px == pytest.approx(made.fit.error / made.optical.resolution)
    np.testing.assert_array_equal(made.fit.inliers, fitted.inliers)
    np.testing.assert_array_equal(made.warp(matches.optical_map), fitted.warp(matches.optical_map))
    assert (made.matches.sigma != matches.sigma).any()


def test_the_map_is_calibrated_by_the_matches_that_are_calibrated_already(registered, models):
    made, (_, fitted, _) = registered["with"], registered["raw"]
    again = models[1].fit(made.matches, fitted, registered["evidence"])
    assert again.error == made.fit.error
    here = made.matches.optical_map
    np.testing.assert_array_equal(again.warp.error(here), made.warp.error(here))


def test_without_calibration_it_says_no(registered):
    made, (matches, fitted, verdict) = registered["with"], registered["raw"]
    raw = type(made)(made.optical, made.sar, made.grid, matches, fitted, verdict, made.matcher, made.names, {})
    assert raw.facts()["calibrated"] == "no"
    assert raw.as_dict()["calibrated"] is False


def test_the_tag_is_in_the_file(registered, tmp_path):
    registered["with"].offsets().write(tmp_path / "o.tif")
    with rasterio.open(tmp_path / "o.tif") as written:
        tags = written.tags()
    assert tags["SN9REG_CALIBRATED"] == "yes"
    assert float(tags["SN9REG_PROBABILITY"]) >= 0.5


def test_the_made_up_pairs_are_told_apart(models):
    pair, _ = models
    says = np.array([stored_module.pair_probability(pair(s.pair, s.large)) for s in samples()])
    assert ece(says, [s.right for s in samples()]) < 0.1


WEIGHTS = files("sn9reg.weights")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hybrid", {"weights": "slim-unet.safetensors"}),
        ("slim-unet", {"weights": "slim-unet.safetensors"}),
        ("descriptors", {"weights": "descriptors.safetensors"}),
        ("dual-encoder", {"weights": "dual-encoder.safetensors"}),
        ("keypoints", {"sar_weights": "keypoints-sar.safetensors"}),
        ("keypoints", {"optical_weights": "keypoints-optical.safetensors"}),
    ],
)
def test_a_matcher_says_whether_its_weights_are_its_own(name, options):
    assert make_matcher(name).own_weights is False
    given = {option: str(WEIGHTS.joinpath(file)) for option, file in options.items()}
    assert make_matcher(name, **given).own_weights is True


@pytest.mark.parametrize("own_weights", [None, False, True])
def test_a_matcher_given_as_an_object_is_asked_for_its_weights_too(scene, caplog, own_weights):
    class Found:
        name = "structure"

        def match(self, pair):
            places = np.stack(np.meshgrid(np.arange(50.0, 400, 25), np.arange(50.0, 400, 25)), -1).reshape(-1, 2)
            each = np.full(len(places), 0.5)
            numbers = (each, each, each, each)
            return Correspondences(pair.grid, places, places, *numbers, places, 10.0, 1.0, 128.0, len(places))

    matcher = Found()
    if own_weights is not None:
        matcher.own_weights = own_weights
    found = sn9reg.register(scene.optical, scene.sar, matcher=matcher)
    assert found.matches.calibrated is not bool(own_weights)
    assert ("other weights of structure" in caplog.text) is bool(own_weights)
