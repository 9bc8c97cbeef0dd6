"""From correspondences to a warp: the choice of a model by held-out error, and the verdict whether it is one at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from sn9reg.consistency import local_consistency
from sn9reg.correspondences import Correspondences, Flags
from sn9reg.errors import ConfigError
from sn9reg.grid import Points
from sn9reg.local_field import LocalField, block_folds, fit_local
from sn9reg.verdict import MINIMUM, Verdict, judge, refused
from sn9reg.warp import GlobalModel, Warp, fit_global, global_warp, identity_warp

Model = Literal["auto", "translation", "affine", "homography", "local"]
MODELS: tuple[str, ...] = get_args(Model)

THRESHOLD_PX = 30.0  # default threshold of the global models: parallax over terrain is no outlier
# So many templates' widths must the matches span for `auto` to consider a model.
_ROOM = {"translation": 0.0, "affine": 2.0, "local": 3.0}
_SIMPLER = 0.97  # a more complex model must bring the held-out error below this share

Predictor = Callable[[Points], Points]


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
    limit = threshold / matches.grid.metres_per_unit if threshold else THRESHOLD_PX * pixel
    if not matches.tried:
        return _unfitted(matches, "there is nowhere to look: too few valid pixels overlap, or they show nothing")
    if len(matches) < MINIMUM:
        return _unfitted(matches, f"only {len(matches)} matches of {matches.tried} tried places")
    source, target = matches.optical_map, matches.sar_map
    sigma = matches.sigma * pixel
    consistent = local_consistency(source, target - source, 2 * float(np.median(sigma)))
    if consistent.sum() < MINIMUM:
        return _unfitted(matches, f"only {int(consistent.sum())} of {len(matches)} matches agree with neighbours")
    good = matches.keep(consistent)
    local = fit_local(good.optical_map, good.sar_map, good.sigma * pixel, _block(matches))
    held_out = _held_out(good, local, limit)
    chosen = _simplest(_with_room(held_out, matches)) if model == "auto" else model
    fitted = _final(matches, consistent, local, chosen, limit)
    if fitted is None:
        return _unfitted(matches, f"the matches do not determine a model of kind {chosen}")
    warp, inliers = fitted
    error = _expected_error(matches, inliers, local, warp)
    return Fit(_with_floor(warp, error), inliers, judge(matches, inliers, error), held_out)


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
        found = fitter(rest) if rest.sum() >= MINIMUM // 2 else None
        if found is not None:
            predicted[~rest] = found(source[~rest])
    return predicted


def _with_room(held_out: Mapping[str, float], matches: Correspondences) -> dict[str, float]:
    """The models that the scene has room for: where all matches share pixels none is held out, and what bends most
    would always win."""
    extent = float(np.ptp(matches.optical_map, axis=0).max())
    templates = extent / (matches.footprint * matches.grid.resolution)
    return {name: error for name, error in held_out.items() if templates >= _ROOM[name]}


def _simplest(held_out: Mapping[str, float]) -> str:
    """The simplest model that no more complex one beats clearly."""
    order = [name for name in ("translation", "affine", "local") if name in held_out]
    best = order[0]
    for name in order[1:]:
        if held_out[name] < _SIMPLER * held_out[best]:
            best = name
    return best


def _expected_error(matches: Correspondences, inliers: Flags, local: LocalField, warp: Warp) -> float:
    """Median distance of the inliers to the warp, map units; of the local model, to one fitted without their block."""
    source, target = matches.optical_map[inliers], matches.sar_map[inliers]
    if not len(source):
        return math.nan
    predicted = warp(source)
    if warp.model == "local":
        sigma = matches.sigma[inliers] * matches.grid.resolution
        block = _block(matches)
        predicted = _cross_predict(source, block, lambda rest: local.refit(source[rest], target[rest], sigma[rest]))
    return float(np.median(np.hypot(*(predicted - target).T)))


def _with_floor(warp: Warp, median: float) -> Warp:
    """The warp with an expected error that is nowhere below that of held-out matches.

    Matches share pixels with their neighbours and so their errors: a field through them looks surer than it is. The
    median length of a 2-D normal deviation is sqrt(ln 2) times its root mean square.
    """
    if warp.model != "local":
        return warp
    floor = median**2 / math.log(2)
    return replace(warp, error=lambda xy: np.sqrt(warp.error(xy) ** 2 + floor))


def _unfitted(matches: Correspondences, reason: str) -> Fit:
    return Fit(identity_warp(matches.grid.crs), np.zeros(len(matches), bool), refused(matches, reason), {})
