"""From correspondences to a warp: the choice of a model by held-out error, and the verdict whether it is one at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sn9reg.correspondences import Correspondences, Flags
from sn9reg.errors import ConfigError
from sn9reg.grid import Points
from sn9reg.local_field import LocalField, block_folds, fit_local, local_consistency
from sn9reg.warp import GlobalModel, Warp, fit_global, global_warp, identity_warp

Model = Literal["auto", "translation", "affine", "homography", "local"]
MODELS: tuple[str, ...] = get_args(Model)

_MINIMUM = 8  # matches below which nothing is fitted
_THRESHOLD_PX = 30.0  # default threshold of the global models: parallax over terrain is no outlier
_SIMPLER = 0.97  # a more complex model must bring the held-out error below this share
_AGREE_PX = 3.0  # a witness within this many pixels of its level agrees with the prediction
_SHARE = 0.5  # of the matches must agree ...
_AGREEMENT = 0.2  # ... and of all places tried

Predictor = Callable[[Points], Points]


@dataclass(frozen=True)
class Verdict:
    """Registered or not, from the evidence.

    reason: one sentence. matches, inliers: counts. tried: places looked at. agreement: share of all tried places whose
    own pixels agree with a warp fitted without them and their neighbours. chance: the share that agrees by chance.
    coverage: share of the cells of a 6 x 6 raster over the tried area that hold inliers. error: expected error of the
    warp, map units: the median distance of inliers to it, for the local model to one fitted without their block.
    """

    registered: bool
    reason: str
    matches: int
    inliers: int
    tried: int
    agreement: float
    chance: float
    coverage: float
    error: float


@dataclass(frozen=True)
class Fit:
    """warp: the fitted warp (the identity if not registered). inliers: (N,) over the matches. held_out: model -> mean
    held-out residual, map units."""

    warp: Warp
    inliers: Flags
    verdict: Verdict
    held_out: Mapping[str, float]


def fit(matches: Correspondences, model: str = "auto", threshold: float | None = None) -> Fit:
    """Fit a warp to correspondences and judge it.

    model: translation, affine (plain RANSAC, the SpaceNet 9 baseline), homography, local, or auto: translation, affine
    or local, whichever predicts held-out correspondences best, the simpler one in a tie. threshold: of the global
    models, metres (default 30 px).

    Raises ConfigError for an unknown model.
    """
    if model not in MODELS:
        raise ConfigError(f"no model {model!r}; there are: {', '.join(MODELS)}")
    pixel = matches.grid.resolution
    limit = threshold / matches.grid.metres_per_unit if threshold else _THRESHOLD_PX * pixel
    none = np.zeros(len(matches), bool)
    if len(matches) < _MINIMUM:
        return _unfitted(matches, none, f"only {len(matches)} matches of {matches.tried} tried places")
    source, target = matches.optical_map, matches.sar_map
    sigma = matches.sigma * pixel
    consistent = local_consistency(source, target - source, 2 * float(np.median(sigma)))
    if consistent.sum() < _MINIMUM:
        return _unfitted(matches, none, f"only {int(consistent.sum())} of {len(matches)} matches agree with neighbours")
    good = matches.keep(consistent)
    local = fit_local(good.optical_map, good.sar_map, good.sigma * pixel, _block(matches))
    held_out = _held_out(good, local, limit)
    chosen = _simplest(held_out) if model == "auto" else model
    fitted = _final(matches, consistent, local, chosen, limit)
    if fitted is None:
        return _unfitted(matches, none, f"the matches do not determine a model of kind {chosen}")
    warp, inliers = fitted
    return Fit(warp, inliers, _verdict(matches, inliers, local, warp), held_out)


def _block(matches: Correspondences) -> float:
    """Side of the squares held out together, map units: two footprints, but at least 4 x 4 squares in the scene."""
    extent = float(np.ptp(matches.optical_map, axis=0).max())
    return max(min(2 * matches.footprint * matches.grid.resolution, extent / 4), 1e-9)


def _final(
    matches: Correspondences, consistent: Flags, local: LocalField, model: str, limit: float
) -> tuple[Warp, Flags] | None:
    if model == "local":
        return Warp("local", matches.grid.crs, local, local.error), consistent
    kind: GlobalModel = model  # type: ignore[assignment]
    found = fit_global(matches.optical_map, matches.sar_map, kind, limit, "ransac" if model == "affine" else "magsac")
    return None if found is None else (global_warp(found, model, matches), found.inliers)


def _held_out(good: Correspondences, local: LocalField, limit: float) -> dict[str, float]:
    """Mean residual of each model of `auto` at correspondences of blocks that it was not fitted to, map units."""
    source, target, sigma = good.optical_map, good.sar_map, good.sigma * good.grid.resolution

    def of(fitter: Callable[[Flags], Predictor | None]) -> float:
        predicted = _cross_predict(source, _block(good), fitter)
        return float(np.mean(np.hypot(*(predicted - target).T)))

    return {
        "translation": of(lambda rest: fit_global(source[rest], target[rest], "translation", limit)),
        "affine": of(lambda rest: fit_global(source[rest], target[rest], "affine", limit, "ransac")),
        "local": of(lambda rest: local.refit(source[rest], target[rest], sigma[rest])),
    }


def _cross_predict(source: Points, block: float, fitter: Callable[[Flags], Predictor | None]) -> Points:
    """(N, 2) what a model fitted without a point's block says of it; the point itself where it cannot be fitted."""
    fold = block_folds(source, block)
    predicted = source.copy()
    for k in np.unique(fold):
        rest = fold != k
        found = fitter(rest) if rest.sum() >= _MINIMUM // 2 else None
        if found is not None:
            predicted[~rest] = found(source[~rest])
    return predicted


def _simplest(held_out: Mapping[str, float]) -> str:
    """The simplest model that no more complex one beats clearly."""
    order = ["translation", "affine", "local"]
    best = order[0]
    for name in order[1:]:
        if held_out[name] < _SIMPLER * held_out[best]:
            best = name
    return best


def _verdict(matches: Correspondences, inliers: Flags, local: LocalField, warp: Warp) -> Verdict:
    source, target = matches.optical_map, matches.sar_map
    sigma = matches.sigma * matches.grid.resolution
    consistent = inliers if inliers.sum() >= _MINIMUM else np.ones(len(matches), bool)

    def without(rest: Flags) -> Predictor | None:
        use = rest & consistent
        return local.refit(source[use], target[use], sigma[use]) if use.sum() >= 4 else None

    predicted = _cross_predict(source, _block(matches), without)
    tolerance = _AGREE_PX * matches.step * matches.grid.resolution
    agreed = int((np.hypot(*(predicted - matches.grid.to_map(matches.solo_xy)).T) < tolerance).sum())
    agreement = agreed / max(1, matches.tried)
    chance = math.pi * (_AGREE_PX * matches.step) ** 2 / (2 * matches.search_radius + matches.step) ** 2
    expected = predicted if warp.model == "local" else warp(source)
    residual = np.hypot(*(expected - target).T)[inliers]
    error = float(np.median(residual)) if len(residual) else math.nan
    registered, reason = _judge(agreed, len(matches), agreement, chance)
    counts = (len(matches), int(inliers.sum()), matches.tried)
    return Verdict(registered, reason, *counts, agreement, chance, _coverage(matches.optical_xy, inliers), error)


def _judge(agreed: int, matches: int, agreement: float, chance: float) -> tuple[bool, str]:
    """Thresholds set between right and wrong pairs of the training data (README, "When it says no")."""
    share = agreed / max(1, matches)
    evidence = f"{agreed} of {matches} matches ({share:.0%}) confirm a warp fitted without them"
    if agreed < _MINIMUM:
        return False, f"only {evidence}; at least {_MINIMUM} must"
    if share < _SHARE:
        return False, f"only {evidence}; in a pair that matches at least {_SHARE:.0%} do"
    if agreement < max(_AGREEMENT, 2 * chance):
        return False, f"{evidence}, but these are only {agreement:.0%} of the places tried"
    return True, evidence


def _coverage(xy: Points, inliers: Flags) -> float:
    if not inliers.any():
        return 0.0
    low, size = xy.min(axis=0), np.ptp(xy, axis=0) + 1e-9
    cells = np.unique(np.floor((xy[inliers] - low) / size * 5.999).astype(int), axis=0)
    return len(cells) / 36


def _unfitted(matches: Correspondences, inliers: Flags, reason: str) -> Fit:
    verdict = Verdict(False, reason, len(matches), 0, matches.tried, 0.0, 0.0, 0.0, math.nan)
    return Fit(identity_warp(matches.grid.crs), inliers, verdict, {})
