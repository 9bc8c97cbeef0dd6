"""Fitting calibrations to pairs whose truth is known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit

from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences, Flags, Floats
from sn9reg.fit.neighbours import distance_to, local_mean
from sn9reg.judge import features as judged
from sn9reg.judge.calibration import RIGHT_PX, UNSEEN, Calibration, Curve, Linear, Models, PairModel, bounded
from sn9reg.judge.evidence import Evidence
from sn9reg.raster.grid import Points

Array = npt.NDArray[np.float64]
Observed = tuple[Correspondences, Fit, Evidence]
Field = tuple[Points, Floats, Floats]  # `Sample.places`, `raw` and `true`
Loss = Callable[[Floats, Floats], tuple[Floats, Floats]]  # (N,) answers, (N,) truth -> (N,) losses and slopes

_BELONGING = 0.6  # share of the pairs given to the tool that can be registered, as the verdict assumes
_STRANGERS = 0.25  # weight of a pair that does not belong together against one that does, where matches are judged
_RIDGE = 5.0  # pull of the weights to nothing, in samples, ...
_PAIR_RIDGE = 1.0  # ... and for pairs
_FAR = 20.0  # matched pixels, beyond which an error counts as that
_SOFT = 0.3  # matched pixels, added to errors before their logarithm is taken
_ENOUGH = 10  # right pairs of one size
_KNOTS = 24


@dataclass(frozen=True)
class Sample:
    """One pair as it was matched, and the truth. N matches; M places at which the warp's error is known."""

    right: bool  # whether the warp is
    large: float  # `largeness` of the scene
    broad: float  # `breadth` of the evidence
    room: float  # `Correspondences.span`
    pair: Array  # (1, k) `pair_features`
    inputs: Array  # (N, k) `match_features`, for a logit of 0
    off: Floats  # (N,) errors of the matches, matched pixels
    at: Points  # (N, 2) where the matches are, map units
    inliers: Flags  # (N,) matches that the warp follows
    footprint: float  # of a match, map units
    standing: float  # `Evidence.mean`
    places: Points  # (M, 2) map units
    raw: Floats  # (M,) sigma that the warp states at the places, matched pixels
    true: Floats  # (M,) error of the warp at the places, matched pixels
    weight: float = 1.0  # of the sample among the others

    @classmethod
    def of(cls, right: bool, observed: Observed, off: Floats, field: Field, weight: float = 1.0) -> "Sample":
        matches, fitted, evidence = observed
        scene = judged.largeness(matches), judged.breadth(evidence), matches.span
        features = judged.pair_features(matches, evidence), judged.match_features(*observed, 0.0)
        at, footprint = matches.optical_map, matches.footprint * matches.grid.resolution
        return cls(right, *scene, *features, off, at, fitted.inliers, footprint, evidence.mean, *field, weight)

    def matched(self, pair: PairModel) -> Array:
        """(N, k) `match_features`, with the logit that a model gives the pair."""
        features = self.inputs.copy()
        features[:, judged.MATCH_FEATURES.index("pair")] = judged.clipped(pair(self.pair, self.broad))
        return features

    def field(self, log_sigma: Floats) -> Array:
        """(M, k) `field_features` of the places. log_sigma: (N,) of the matches."""
        inliers = self.at[self.inliers]
        near = local_mean(inliers, log_sigma[self.inliers])(self.places)
        away = distance_to(inliers)(self.places) / self.footprint
        return judged.field_features(self.raw, near, away, self.standing, self.room)


def fit_pair(samples: Sequence[Sample]) -> PairModel:
    """The model of whether a pair is registered. No feature speaks against it: beyond what was seen it is sensible."""
    models = []
    for part in _by_size(samples, [s.broad for s in samples]):
        right, weight = np.array([s.right for s in part], float), np.array([s.weight for s in part])
        of_right, of_wrong = (weight * right).sum(), (weight * (1 - right)).sum()
        share = np.where(right > 0, _BELONGING / of_right, (1 - _BELONGING) / of_wrong)
        features, balanced = np.concatenate([s.pair for s in part]), weight * share * len(part)
        models.append(_minimised(_logistic, features, right, balanced, of_pairs=True))
    return PairModel(*models)


def _by_size(samples: Sequence[Sample], large: Sequence[float]) -> list[Sequence[Sample]]:
    """The small and the large ones, those in between in part; where too few of either were registered, all of them."""
    parts = [
        [replace(s, weight=s.weight * share) for s, share in zip(samples, shares, strict=True) if share > 0]
        for shares in ([1 - size for size in large], large)
    ]
    return [part if sum(s.right for s in part) >= _ENOUGH else samples for part in parts]


def fit_matcher(name: str, samples: Sequence[Sample], pair: PairModel, facts: dict[str, Any]) -> Calibration:
    """The calibration of a matcher from its samples, those of pairs that do not belong together among them."""
    small, large = (_fit_models(part, pair) for part in _by_size(samples, [s.large for s in samples]))
    return Calibration(name, small, large, facts)


def _fit_models(samples: Sequence[Sample], pair: PairModel) -> Models:
    used = [s if len(s.true) else replace(s, weight=s.weight * _STRANGERS) for s in samples if len(s.off)]
    features = np.concatenate([s.matched(pair) for s in used])
    off = np.minimum(np.concatenate([s.off for s in used]), _FAR)
    # A pair counts as one, however many matches it has: they share most of their error.
    weight = np.concatenate([np.full(len(s.off), s.weight / len(s.off)) for s in used])
    right = (off <= RIGHT_PX).astype(float)
    probability = _minimised(_logistic, features, right, weight)
    of_sigma = features[:, : len(judged.SIGMA_FEATURES)]
    spread = _scaled(_least_squares(of_sigma, np.log(off + _SOFT), weight), of_sigma, off, weight)
    good = [s for s in samples if s.right and len(s.true) and s.inliers.any()]
    places = np.concatenate([s.field(bounded(spread(s.inputs[:, : len(judged.SIGMA_FEATURES)]))) for s in good])
    true = np.minimum(np.concatenate([s.true for s in good]), _FAR)
    each = np.concatenate([np.full(len(s.true), s.weight / len(s.true)) for s in good])
    field = _scaled(_minimised(_exponential, places, true, each), places, true, each)
    return Models(probability, _curve(probability(features), right, weight), spread, field)


def _scaled(model: Linear, features: Array, off: Floats, weight: Floats) -> Linear:
    """A model of the logarithm of (N,) errors, turned into one of their standard deviation per axis: errors then lie
    within one and two of them as often as normal deviations do, or as nearly as one factor can do both."""
    ratio = off / np.exp(model(features))
    order = np.argsort(ratio)
    share = np.cumsum(weight[order]) / weight.sum()
    one, two = (float(ratio[order][np.searchsorted(share, 1 - math.exp(-(k**2) / 2))]) / k for k in (1, 2))
    return replace(model, bias=model.bias + math.log(max(1e-3, math.sqrt(one * two))))


def _standardised(features: Array, weight: Floats) -> tuple[Floats, Floats, Array]:
    """Mean and scale per feature, and the (N, k) features that they make, clipped."""
    mean = np.average(features, axis=0, weights=weight)
    scale = np.maximum(np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weight)), 1e-6)
    return mean, scale, np.clip((features - mean) / scale, -UNSEEN, UNSEEN)


def _logistic(logit: Floats, right: Floats) -> tuple[Floats, Floats]:
    return np.logaddexp(0, logit) - right * logit, expit(logit) - right


def _exponential(log_mean: Floats, off: Floats) -> tuple[Floats, Floats]:
    """Of errors as if distributed exponentially: what is large counts for more than in the mean of logarithms."""
    ratio = off * np.exp(-log_mean)
    return log_mean + ratio, 1 - ratio


def _minimised(loss: Loss, features: Array, truth: Floats, weight: Floats, of_pairs: bool = False) -> Linear:
    """The linear model whose answers minimise a weighted loss; of pairs, without negative weights."""
    mean, scale, x = _standardised(features, weight)
    k, ridge = x.shape[1], _PAIR_RIDGE if of_pairs else _RIDGE

    def total(parameters: Floats) -> tuple[float, Floats]:
        values, slopes = loss(x @ parameters[:k] + parameters[k], truth)
        value = (weight * values).sum() + ridge / 2 * (parameters[:k] ** 2).sum()
        slope = weight * slopes
        return float(value), np.append(x.T @ slope + ridge * parameters[:k], slope.sum())

    bounds = [(0.0 if of_pairs else None, None)] * k + [(None, None)]
    best = minimize(total, np.zeros(k + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    return Linear(mean.tolist(), scale.tolist(), best[:k].tolist(), float(best[k]))


def _least_squares(features: Array, values: Floats, weight: Floats) -> Linear:
    mean, scale, x = _standardised(features, weight)
    level = float(np.average(values, weights=weight))
    gram = (x * weight[:, None]).T @ x + _RIDGE * np.eye(x.shape[1])
    best = np.linalg.solve(gram, (x * weight[:, None]).T @ (values - level))
    return Linear(mean.tolist(), scale.tolist(), best.tolist(), level)


def _curve(x: Floats, y: Floats, weight: Floats) -> Curve:
    """The isotonic regression of y on x, through a few knots, each the mean of as much weight."""
    order = np.argsort(x, kind="stable")
    x, y, weight = x[order], y[order], weight[order]
    fitted = isotonic_regression(y, weights=weight).x
    part = np.minimum((np.cumsum(weight) / weight.sum() * _KNOTS).astype(int), _KNOTS - 1)
    present = np.unique(part)
    xs, ys = (np.array([np.average(v[part == k], weights=weight[part == k]) for k in present]) for v in (x, fitted))
    distinct = np.append(True, np.diff(xs) > 1e-9)
    return Curve(xs[distinct].tolist(), np.maximum.accumulate(ys[distinct]).tolist())
