"""Calibration: what any matcher says of itself becomes probabilities and errors that mean what they say.

Raw scores of different matchers have nothing in common. Once a warp is fitted and the pixels have given evidence for
it (`evidence.py`), the same quantities describe every match: how surely its peak stands, how far it lies from the warp,
what the pixels around it say, and how likely the pair is registered at all. From these a logistic model and an isotonic
curve give the probability that a match is right within 3 pixels, a linear model and another curve its error. Both were
fitted on pairs whose truth is known (`training/calibrate.py`) and are stored with the weights.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.special import expit

from sn9reg.consistency import witnesses_agree
from sn9reg.correspondences import Correspondences, Floats
from sn9reg.errors import InputError
from sn9reg.evidence import Evidence
from sn9reg.fitting import Fit
from sn9reg.rasters import PathLike

log = logging.getLogger(__name__)

RIGHT_PX = 3.0  # of the pixels that were matched: a match nearer to the truth is right
MEDIAN = math.sqrt(2 * math.log(2))  # length of the median 2-D normal deviation, in standard deviations per axis
_LOGIT = 8.0  # probabilities beyond this are not told apart
_ROOMY = 10.0  # templates side by side, from which on a scene is large
_CERTAIN = 30.0  # standard deviations beyond which more say no more
_NEAR = 3  # places whose evidence counts for a match

PAIR_FEATURES = ("total", "lead", "confirmed")
MATCH_FEATURES = ("sharpness", "score", "deviation", "witness", "gap", "pair", "spread", "standing", "room")
FIELD_FEATURES = ("deviation", "room", "standing")


@dataclass(frozen=True)
class Linear:
    """A linear model of standardised features."""

    mean: list[float]
    scale: list[float]
    weight: list[float]
    bias: float

    def __call__(self, features: npt.NDArray[np.float64]) -> Floats:
        """(N, k) -> (N,)."""
        values = (np.atleast_2d(features) - self.mean) / self.scale
        return np.asarray(np.clip(values, -6, 6) @ np.asarray(self.weight) + self.bias)


@dataclass(frozen=True)
class Curve:
    """A monotone curve through knots, constant beyond them."""

    x: list[float]
    y: list[float]

    def __call__(self, values: Floats) -> Floats:
        return np.asarray(np.interp(values, self.x, self.y))


@dataclass(frozen=True)
class Calibration:
    """Of one matcher. probability and right: logit of a match being right, and the curve from there to its probability;
    sigma and error: the logarithm of its error in matched pixels, and the curve to its standard deviation per axis.
    field: the logarithm of the true error of a warp over that of its matches. facts: what it was fitted on and how good
    it was."""

    matcher: str
    probability: Linear
    right: Curve
    sigma: Linear
    error: Curve
    field: Linear
    facts: Mapping[str, Any]

    def matches(self, matches: Correspondences, fit: Fit, evidence: Evidence, pair: float) -> Correspondences:
        """The matches with their score as probability and their sigma calibrated. pair: see `pair_logit`."""
        if not len(matches):
            return replace(matches, calibrated=True)
        features = match_features(matches, fit, evidence, pair)
        return replace(
            matches,
            score=np.clip(self.right(self.probability(features)), 0.0, 1.0),
            sigma=self.error(self.sigma(features)) * matches.step,
            calibrated=True,
        )

    def fit(self, matches: Correspondences, fit: Fit, evidence: Evidence) -> Fit:
        """The fit with its expected error calibrated, everywhere."""
        factor = float(np.exp(self.field(field_features(matches, fit, evidence))[0]))
        raw = fit.warp.error
        return replace(fit, error=fit.error * factor, warp=replace(fit.warp, error=lambda xy: raw(xy) * factor))


def pair_features(matches: Correspondences, evidence: Evidence) -> npt.NDArray[np.float64]:
    """(1, 3) what says whether a pair is registered at all, by `PAIR_FEATURES`."""
    confirmed = float(witnesses_agree(matches).mean()) if len(matches) else 0.0
    return np.array([[min(evidence.total, _CERTAIN), evidence.lead, confirmed]])


def match_features(matches: Correspondences, fit: Fit, evidence: Evidence, pair: float) -> npt.NDArray[np.float64]:
    """(N, 9) what says how right each match is, by `MATCH_FEATURES`. pair: logit that the pair is registered."""
    n = len(matches)
    off, alone = (_deviation(matches, fit, there) for there in (matches.sar_map, matches.grid.to_map(matches.solo_xy)))
    near = np.full(n, evidence.mean)
    if len(evidence):
        index = cKDTree(evidence.optical_xy).query(matches.optical_xy, min(_NEAR, len(evidence)))[1]
        near = evidence.standing[np.asarray(index).reshape(n, min(_NEAR, len(evidence)))].mean(axis=1)
    return np.column_stack(
        [
            np.log(np.clip(matches.sigma / matches.step, 0.02, 50)),
            matches.score,
            np.log1p(off),
            np.log1p(alone),
            matches.rival_distance - matches.distance,
            np.full(n, clipped(pair)),
            np.full(n, np.log1p(np.median(off)) if n else 0.0),
            near,
            np.full(n, _room(matches)),
        ]
    )


def field_features(matches: Correspondences, fit: Fit, evidence: Evidence) -> npt.NDArray[np.float64]:
    """(1, 3) what says how the error of a warp compares with that of its matches, by `FIELD_FEATURES`."""
    pixel = matches.step * matches.grid.resolution
    return np.array([[math.log(max(fit.error / pixel, 0.05)), _room(matches), evidence.mean]])


def _room(matches: Correspondences) -> float:
    """Logarithm of how many footprints side by side the matches span."""
    extent = float(np.ptp(matches.optical_map, axis=0).max()) if len(matches) else 0.0
    return math.log(min(max(extent / (matches.footprint * matches.grid.resolution), 0.25), _ROOMY))


def _deviation(matches: Correspondences, fit: Fit, there: npt.NDArray[np.float64]) -> Floats:
    """(N,) distance from where the warp puts each match, in matched pixels."""
    off = np.hypot(*(there - fit.warp(matches.optical_map)).T)
    return np.asarray(off / (matches.step * matches.grid.resolution))


def clipped(logit: float) -> float:
    """A pair's logit as a feature of its matches."""
    return float(np.clip(logit, -_LOGIT, _LOGIT))


def pair_probability(logit: float) -> float:
    """That a pair is registered, from 0 to 1."""
    return float(expit(logit))


def pair_logit(matches: Correspondences, evidence: Evidence) -> float:
    """The logit of the probability that a fitted warp is right: the same model for all matchers."""
    return float(_stored_pair()(pair_features(matches, evidence))[0])


def calibration_of(matcher: str) -> Calibration | None:
    """The calibration that ships for a matcher; None where there is none."""
    content = _stored()["matchers"]
    return _built(content[matcher]) if matcher in content else None


def read_calibration(path: PathLike) -> Calibration:
    """A calibration from a file. Raises InputError for a file that is missing or holds none."""
    try:
        return _built(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is no calibration; `python -m pipelines.calibrate` writes one ({error})") from error


def as_json(calibration: Calibration) -> dict[str, Any]:
    """For `read_calibration`."""
    return asdict(calibration)


def _built(content: dict[str, Any]) -> Calibration:
    linear = {name: Linear(**content[name]) for name in ("probability", "sigma", "field")}
    widths = {"probability": MATCH_FEATURES, "sigma": MATCH_FEATURES, "field": FIELD_FEATURES}
    for name, model in linear.items():
        values = [*model.mean, *model.scale, *model.weight, model.bias]
        if {len(model.mean), len(model.scale), len(model.weight)} != {len(widths[name])} or not all(
            map(math.isfinite, values)
        ) or min(model.scale) <= 0:
            raise ValueError(f"{name} is not a model of {len(widths[name])} features")
    curves = {name: Curve(**content[name]) for name in ("right", "error")}
    for name, curve in curves.items():
        known = len(curve.x) == len(curve.y) > 0 and np.isfinite([*curve.x, *curve.y]).all()
        if not known or (np.diff(curve.x) <= 0).any() or (np.diff(curve.y) < 0).any() or min(curve.y) < 0:
            raise ValueError(f"{name} is no curve that rises")
    return Calibration(
        str(content["matcher"]),
        linear["probability"],
        curves["right"],
        linear["sigma"],
        curves["error"],
        linear["field"],
        dict(content.get("facts", {})),
    )


def _stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files("sn9reg.weights").joinpath("calibration.json").read_text())
    return content


def _stored_pair() -> Linear:
    content = _stored()["pair"]
    return Linear(content["mean"], content["scale"], content["weight"], content["bias"])
