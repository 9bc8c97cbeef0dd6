"""Fitting calibrations to pairs whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

from sn9reg.calibration import (
    MATCH_FEATURES,
    MEDIAN,
    RIGHT_PX,
    Calibration,
    Curve,
    Linear,
    clipped,
    field_features,
    match_features,
    pair_features,
)
from sn9reg.correspondences import Correspondences, Floats
from sn9reg.evidence import Evidence
from sn9reg.fitting import Fit

Array = npt.NDArray[np.float64]

_BELONGING = 0.6  # share of the pairs given to the tool that can be registered, as the verdict assumes
_STRANGERS = 0.25  # weight of a pair that does not belong together against one that does, where matches are judged
_RIDGE = 1.0  # pull of the weights to nothing, in samples
_FAR = 20.0  # matched pixels, beyond which an error counts as that
_KNOTS = 24


@dataclass(frozen=True)
class Sample:
    """One pair as it was matched, and the truth. right: whether its warp is. pair: (1, k) `pair_features`. inputs: (N,
    k) `match_features`, for a logit of 0. off: (N,) errors of the matches, matched pixels. field: (1, k)
    `field_features`. raw: (M,) the warp's own sigma and true: (M,) its error at M places, matched pixels. weight: of
    the sample among the others."""

    right: bool
    pair: Array
    inputs: Array
    off: Floats
    field: Array
    raw: Floats
    true: Floats
    weight: float = 1.0

    @classmethod
    def of(
        cls,
        right: bool,
        observed: tuple[Correspondences, Fit, Evidence],
        off: Floats,
        field: tuple[Floats, Floats],
        weight: float = 1.0,
    ) -> Sample:
        """observed: as `pair_features` takes it. field: `raw` and `true`."""
        matches, _, evidence = observed
        features = (pair_features(matches, evidence), match_features(*observed, 0.0))
        return cls(right, *features, off, field_features(*observed), *field, weight)

    def matched(self, pair: Linear) -> Array:
        """(N, k) `match_features`, with the logit that a model gives the pair."""
        features = self.inputs.copy()
        features[:, MATCH_FEATURES.index("pair")] = clipped(float(pair(self.pair)[0]))
        return features


def fit_pair(samples: Sequence[Sample]) -> Linear:
    """The model of whether a pair is registered. Every feature speaks for it, none against: beyond what was seen the
    answer stays sensible."""
    features = np.concatenate([s.pair for s in samples])
    right = np.array([s.right for s in samples], float)
    weight = np.array([s.weight for s in samples])
    share = np.where(right > 0, _BELONGING / (weight * right).sum(), (1 - _BELONGING) / (weight * (1 - right)).sum())
    balanced = weight * share
    return _logistic(features, right, balanced * len(samples), positive=True)


def fit_matcher(name: str, samples: Sequence[Sample], pair: Linear, facts: dict[str, Any]) -> Calibration:
    """The calibration of a matcher from its samples, those of pairs that do not belong together among them."""
    used = [s if len(s.true) else replace(s, weight=s.weight * _STRANGERS) for s in samples if len(s.off)]
    features = np.concatenate([s.matched(pair) for s in used])
    off = np.minimum(np.concatenate([s.off for s in used]), _FAR)
    weight = np.concatenate([np.full(len(s.off), s.weight / len(s.off)) for s in used])
    weight *= len(weight) / weight.sum()
    right = (off <= RIGHT_PX).astype(float)
    probability = _logistic(features, right, weight)
    logit = probability(features)
    sigma = _least_squares(features, np.log(off + 0.3), weight)
    expected = sigma(features)
    per_axis = off / math.sqrt(math.pi / 2)  # the mean length of a normal deviation, per standard deviation of an axis
    good = [s for s in samples if s.right and len(s.true)]
    wanted = np.array([math.log(_scale(s.true, s.raw)) for s in good])
    field = _least_squares(
        np.concatenate([s.field for s in good]),
        wanted,
        np.array([s.weight for s in good]),
    )
    return Calibration(
        name,
        probability,
        _curve(logit, right, weight),
        sigma,
        _curve(expected, per_axis, weight),
        field,
        facts,
    )


def _scale(true: Floats, raw: Floats) -> float:
    """By which `raw` standard deviations must be multiplied for normal deviations to have the lengths that are true:
    the geometric mean of what the median and what 86 % of them (two standard deviations) ask for."""
    ratio = true / np.maximum(raw, 1e-6)
    return max(1e-3, math.sqrt(float(np.median(ratio)) / MEDIAN * float(np.quantile(ratio, 0.8647)) / 2))


def _standardised(features: npt.NDArray[np.float64], weight: Floats) -> tuple[Floats, Floats]:
    mean = np.average(features, axis=0, weights=weight)
    scale = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weight))
    return mean, np.maximum(scale, 1e-6)


def _logistic(features: npt.NDArray[np.float64], right: Floats, weight: Floats, positive: bool = False) -> Linear:
    mean, scale = _standardised(features, weight)
    x = np.clip((features - mean) / scale, -6, 6)
    k = x.shape[1]

    def loss(parameters: Floats) -> tuple[float, Floats]:
        logit = x @ parameters[:k] + parameters[k]
        value = (weight * (np.logaddexp(0, logit) - right * logit)).sum() + _RIDGE / 2 * (parameters[:k] ** 2).sum()
        slope = weight * (expit(logit) - right)
        return float(value), np.append(x.T @ slope + _RIDGE * parameters[:k], slope.sum())

    bounds = [(0.0 if positive else None, None)] * k + [(None, None)]
    best = minimize(loss, np.zeros(k + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    return Linear(mean.tolist(), scale.tolist(), best[:k].tolist(), float(best[k]))


def _least_squares(features: npt.NDArray[np.float64], values: Floats, weight: Floats) -> Linear:
    mean, scale = _standardised(features, weight)
    x = np.clip((features - mean) / scale, -6, 6)
    level = float(np.average(values, weights=weight))
    gram = (x * weight[:, None]).T @ x + _RIDGE * np.eye(x.shape[1])
    best = np.linalg.solve(gram, (x * weight[:, None]).T @ (values - level))
    return Linear(mean.tolist(), scale.tolist(), best.tolist(), level)


def _curve(x: Floats, y: Floats, weight: Floats) -> Curve:
    """The isotonic regression of y on x, through a few knots, each the mean of as much weight."""
    order = np.argsort(x, kind="stable")
    x, y, weight = x[order], y[order], weight[order]
    fitted = isotonic_regression(y, weights=weight).x
    share = np.cumsum(weight) / weight.sum()
    part = np.minimum((share * _KNOTS).astype(int), _KNOTS - 1)
    present = np.unique(part)
    xs = np.array([np.average(x[part == k], weights=weight[part == k]) for k in present])
    ys = np.array([np.average(fitted[part == k], weights=weight[part == k]) for k in present])
    distinct = np.append(True, np.diff(xs) > 1e-9)
    return Curve(xs[distinct].tolist(), np.maximum.accumulate(ys[distinct]).tolist())
