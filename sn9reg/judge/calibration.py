"""Calibration: what any matcher says of itself becomes probabilities and errors that mean what they say.

Raw scores of different matchers have nothing in common. Once a warp is fitted and the pixels have given evidence for
it (`evidence.py`), the same quantities describe every match: how surely its peak stands, how far it lies from the warp,
what the pixels around it say, and how likely the pair is registered at all. From these a logistic model and an isotonic
curve give the probability that a match is right within 3 pixels, and a linear model the logarithm of its error; from
the errors of the matches around a place follows what the map is off by there. All were fitted on pairs whose truth is
known (`training/calibrate.py`) and are stored with the weights.

A scene with room for few templates and one with room for many are two things: in the one all matches share pixels and
are off by the same, in the other each has an error of its own. So there are models for both, mixed in between.
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

from sn9reg.errors import InputError
from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences, Floats
from sn9reg.fit.nearby import distance_to, local_mean
from sn9reg.fit.neighbours import witnesses_agree
from sn9reg.judge.evidence import Evidence
from sn9reg.raster.files import PathLike
from sn9reg.raster.grid import Points

log = logging.getLogger(__name__)

RIGHT_PX = 3.0  # of the pixels that were matched: a match nearer to the truth is right
MEDIAN = math.sqrt(2 * math.log(2))  # length of the median 2-D normal deviation, in standard deviations per axis
_LOGIT = 8.0  # probabilities beyond this are not told apart
_SMALL, _LARGE = 1.5, 4.0  # footprints side by side up to which a scene is small, and from which on it is large
_LARGEST = 30.0  # and beyond which no scene was seen
UNSEEN = 4.0  # standard deviations of a feature beyond which nothing was seen either
_LOG_SIGMA = (math.log(0.1), math.log(20.0))  # matched pixels: nothing is surer, and nothing less sure, than this
_CERTAIN = 30.0  # standard deviations beyond which more say no more
_CLOSE = 0.1  # footprints: nearer is no better
_NEAR = 3  # places whose evidence counts for a match

PAIR_FEATURES = ("total", "lead", "confirmed")
MATCH_FEATURES = (
    "sharpness", "score", "height", "deviation", "witness", "gap", "spread", "standing", "vote", "pair"
)  # fmt: skip
SIGMA_FEATURES = MATCH_FEATURES[:-1]  # a pair that is not registered says nothing of how far off a match is
FIELD_FEATURES = ("deviation", "sigma", "away", "standing", "room")


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
        return np.asarray(np.clip(values, -UNSEEN, UNSEEN) @ np.asarray(self.weight) + self.bias)


@dataclass(frozen=True)
class Curve:
    """A monotone curve through knots, constant beyond them."""

    x: list[float]
    y: list[float]

    def __call__(self, values: Floats) -> Floats:
        return np.asarray(np.interp(values, self.x, self.y))


def bounded(log_sigma: Floats) -> Floats:
    """Logarithms of standard deviations, matched pixels, within what can be meant."""
    return np.clip(log_sigma, *_LOG_SIGMA)


@dataclass(frozen=True)
class PairModel:
    """The logit of a pair being registered: the model for small and that for large scenes."""

    small: Linear
    large: Linear

    def __call__(self, features: npt.NDArray[np.float64], large: float) -> float:
        """features: (1, k) `pair_features`. large: see `largeness`."""
        return float((1 - large) * self.small(features)[0] + large * self.large(features)[0])


@dataclass(frozen=True)
class Models:
    """For scenes of one kind. probability and right: logit of a match being right, and the curve from there to its
    probability. spread: logarithm of the standard deviation of its error per axis, matched pixels; field: the same of
    the map at a place."""

    probability: Linear
    right: Curve
    spread: Linear
    field: Linear

    def chance(self, features: npt.NDArray[np.float64]) -> Floats:
        """(N,) probability of matches, by `match_features`, to be right."""
        return np.clip(self.right(self.probability(features)), 0.0, 1.0)

    def log_sigma(self, features: npt.NDArray[np.float64]) -> Floats:
        """(N,) logarithm of their standard deviation per axis, matched pixels."""
        return bounded(self.spread(features[:, : len(SIGMA_FEATURES)]))

    def log_map_sigma(self, features: npt.NDArray[np.float64]) -> Floats:
        """(M,) the same of the map at places, by `field_features`."""
        return bounded(self.field(features))


@dataclass(frozen=True)
class Calibration:
    """Of one matcher: the models for small and for large scenes. facts: what they were fitted on."""

    matcher: str
    small: Models
    large: Models
    facts: Mapping[str, Any]

    def matches(self, matches: Correspondences, fit: Fit, evidence: Evidence, pair: float) -> Correspondences:
        """The matches with their score as probability and their sigma calibrated. pair: see `pair_logit`."""
        if not len(matches):
            return replace(matches, calibrated=True)
        features, large = match_features(matches, fit, evidence, pair), largeness(matches)
        chance = (1 - large) * self.small.chance(features) + large * self.large.chance(features)
        sigma = np.exp((1 - large) * self.small.log_sigma(features) + large * self.large.log_sigma(features))
        return replace(matches, score=chance, sigma=sigma * matches.step, calibrated=True)

    def fit(self, matches: Correspondences, fit: Fit, evidence: Evidence) -> Fit:
        """The fit with its expected error calibrated, everywhere. matches: calibrated already."""
        if not fit.inliers.any():
            return fit
        pixel, raw = matches.step * matches.grid.resolution, fit.warp.error
        large, room = largeness(matches), spans(matches)
        inliers = matches.optical_map[fit.inliers]
        near = local_mean(inliers, np.log(matches.sigma[fit.inliers] / matches.step))
        away, footprint = distance_to(inliers), matches.footprint * matches.grid.resolution

        def error(xy: Points) -> Floats:
            features = field_features(raw(xy) / pixel, near(xy), away(xy) / footprint, evidence.mean, room)
            small, wide = (models.log_map_sigma(features) for models in (self.small, self.large))
            return pixel * np.exp((1 - large) * small + large * wide)

        typical = float(np.median(error(inliers)))
        return replace(fit, error=MEDIAN * typical, warp=replace(fit.warp, error=error))


def pair_features(matches: Correspondences, evidence: Evidence) -> npt.NDArray[np.float64]:
    """(1, 3) what says whether a pair is registered at all, by `PAIR_FEATURES`."""
    confirmed = float(witnesses_agree(matches).mean()) if len(matches) else 0.0
    return np.array([[min(evidence.total, _CERTAIN), evidence.lead, confirmed]])


def match_features(matches: Correspondences, fit: Fit, evidence: Evidence, pair: float) -> npt.NDArray[np.float64]:
    """(N, 10) what says how right each match is, by `MATCH_FEATURES`. pair: logit that the pair is registered."""
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
            1 - matches.distance,
            np.log1p(off),
            np.log1p(alone),
            matches.rival_distance - matches.distance,
            np.full(n, np.log1p(np.median(off)) if n else 0.0),
            near,
            np.log1p(matches.vote_shift / matches.step),
            np.full(n, clipped(pair)),
        ]
    )


def field_features(raw: Floats, near: Floats, away: Floats, standing: float, room: float) -> npt.NDArray[np.float64]:
    """(M, 5) what says how far a map is off at M places, by `FIELD_FEATURES`. raw: the warp's own standard deviation,
    matched pixels; near: the mean of `Models.log_sigma` of the matches around; away: how far off these are, in
    footprints, see `distance_to`; standing: `Evidence.mean`; room: see `spans`."""
    everywhere = np.tile([standing, math.log(np.clip(room, 1.0, _LARGEST))], (len(raw), 1))
    return np.column_stack([np.log(np.maximum(raw, 0.05)), near, np.log(away + _CLOSE), everywhere])


def spans(matches: Correspondences) -> float:
    """How many footprints side by side the matches span."""
    extent = float(np.ptp(matches.optical_map, axis=0).max()) if len(matches) else 0.0
    return extent / (matches.footprint * matches.grid.resolution)


def largeness(matches: Correspondences) -> float:
    """From 0, a small scene, to 1, a large one."""
    share = math.log(max(spans(matches), _SMALL) / _SMALL) / math.log(_LARGE / _SMALL)
    return min(share, 1.0)


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


def pair_model() -> PairModel:
    """The model that ships."""
    content = _stored()["pair"]
    return PairModel(Linear(**content["small"]), Linear(**content["large"]))


def pair_logit(matches: Correspondences, evidence: Evidence) -> float:
    """The logit of the probability that a fitted warp is right: the same model for all matchers."""
    return pair_model()(pair_features(matches, evidence), largeness(matches))


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
    small, large = (_models(content[size]) for size in ("small", "large"))
    return Calibration(str(content["matcher"]), small, large, dict(content.get("facts", {})))


def _models(content: dict[str, Any]) -> Models:
    linear = {name: Linear(**content[name]) for name in ("probability", "spread", "field")}
    widths = {"probability": MATCH_FEATURES, "spread": SIGMA_FEATURES, "field": FIELD_FEATURES}
    for name, model in linear.items():
        values = [*model.mean, *model.scale, *model.weight, model.bias]
        if {len(model.mean), len(model.scale), len(model.weight)} != {len(widths[name])} or not all(
            map(math.isfinite, values)
        ) or min(model.scale) <= 0:
            raise ValueError(f"{name} is not a model of {len(widths[name])} features")
    curve = Curve(**content["right"])
    known = len(curve.x) == len(curve.y) > 0 and np.isfinite([*curve.x, *curve.y]).all()
    if not known or (np.diff(curve.x) <= 0).any() or (np.diff(curve.y) < 0).any() or min(curve.y) < 0:
        raise ValueError("right is no curve that rises")
    return Models(linear["probability"], curve, linear["spread"], linear["field"])


def _stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files("sn9reg.weights").joinpath("calibration.json").read_text())
    return content
