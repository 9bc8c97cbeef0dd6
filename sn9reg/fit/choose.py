"""From correspondences to a warp: the choice of a model by held-out error, and the error to expect of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from sn9reg.errors import ConfigError
from sn9reg.fit.correspondences import Correspondences, Flags, Floats
from sn9reg.fit.local_field import LocalField, block_folds, fit_local
from sn9reg.fit.neighbours import local_consistency, local_mean
from sn9reg.fit.warp import IDENTITY, GlobalFit, GlobalModel, Warp, fit_global
from sn9reg.raster.grid import Points
from sn9reg.raster.heights import Heights

Model = Literal["auto", "translation", "affine", "homography", "local"]
MODELS = get_args(Model)
WITH_HEIGHTS = "local, with heights"  # what `Fit.held_out` calls that model
THRESHOLD_PX = 30.0  # default threshold of the global models: parallax over terrain is no outlier
MINIMUM = 8  # matches below which nothing is fitted
_FAR = 5.0  # distances of matches to the warp are clipped to this many times their median
# Width of the scene, in footprints, from which `auto` considers more than a translation; the simpler model first. In a
# narrow one all matches share pixels, so that none is really held out and the most flexible model would win.
_MIN_WIDTH = {"affine": 2.0, "local": 3.0}
_SIMPLER = 0.97  # a more complex model must bring the held-out error below this share

# From places, counterparts and expected errors of matches to the model fitted to them, if they determine one.
Fitter = Callable[[Points, Points, Floats], Callable[[Points], Points] | None]


@dataclass(frozen=True)
class Fit:
    """A warp fitted to N matches."""

    warp: Warp  # the identity where nothing could be fitted
    inliers: Flags  # (N,) matches that the warp follows
    error: float  # median distance of the inliers to the warp, map units; held out for the local model
    held_out: Mapping[str, float]  # model -> mean residual at matches that it was not fitted to, map units
    by_heights: bool = False  # whether the local model takes heights of the ground into account
    reason: str = ""  # why nothing could be fitted
    # From M matches to their (M,) distances, map units, to a warp fitted without the squares they lie in
    left_out: Callable[[Correspondences], Floats] = lambda matches: np.full(len(matches), math.nan)

    @property
    def fitted(self) -> bool:
        return not self.reason

    def predicts_as_well_as(self, other: Fit, matches: Correspondences) -> bool:
        """Whether it predicts matches, those around each left out, as well as another fit; not if unfitted."""
        return bool(_SIMPLER * self.left_out(matches).mean() <= other.left_out(matches).mean())


def fit(
    matches: Correspondences, model: str = "auto", threshold: float | None = None, heights: Heights | None = None
) -> Fit:
    """Fit a warp to correspondences.

    model: translation, affine (plain RANSAC, the SpaceNet 9 baseline), homography, local, or auto: translation, affine
    or local, whichever predicts held-out correspondences best, the simpler one in a tie. threshold: of global models,
    metres (default 30 px). heights: of the ground, for the local model, if they help. Raises ConfigError for another.
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
    consistent = local_consistency(source, target - source, 2 * float(np.median(matches.sigma * pixel)))
    if consistent.sum() < MINIMUM:
        return _unfitted(matches, f"only {int(consistent.sum())} of {len(matches)} matches agree with neighbours")
    good = matches.keep(consistent)
    places = good.optical_map, good.sar_map, good.sigma * pixel
    block = _block(matches)
    fields = {"local": fit_local(*places, block)}
    if heights is not None:
        fields[WITH_HEIGHTS] = fit_local(*places, block, heights)
    fitters: dict[str, Fitter] = {
        "translation": lambda source, target, _: fit_global(source, target, "translation", limit),
        "affine": lambda source, target, _: fit_global(source, target, "affine", limit),
        **{name: field.refit for name, field in fields.items()},
    }
    left_out = {name: _left_out(*places, block, fitter, *places[:2]) for name, fitter in fitters.items()}
    held_out = {name: float(np.mean(distances)) for name, distances in left_out.items()}
    better = heights is not None and held_out[WITH_HEIGHTS] < _SIMPLER * held_out["local"]
    best = WITH_HEIGHTS if better else "local"
    chosen, errors = model, held_out | {"local": held_out[best]}
    if model == "auto":
        chosen = "translation"
        for name, width in _MIN_WIDTH.items():
            if matches.span >= width and errors[name] < _SIMPLER * errors[chosen]:
                chosen = name

    def left_out_by(refit: Fitter) -> Callable[[Correspondences], Floats]:
        return lambda others: _left_out(*places, _block(others), refit, others.optical_map, others.sar_map)

    if chosen == "local":
        distances, field = left_out[best], fields[best]
        warp = Warp("local", field, _expected_error(places[0], distances, field))
        left = left_out_by(field.refit)
        return Fit(warp, consistent, float(np.median(distances)), held_out, by_heights=better, left_out=left)
    kind: GlobalModel = chosen  # type: ignore[assignment]
    method = cv2.USAC_MAGSAC if chosen == "homography" else cv2.RANSAC

    def refit(source: Points, target: Points, _: Floats | None = None) -> GlobalFit | None:
        return fit_global(source, target, kind, limit, method=method)

    found = refit(source, target)
    if found is None:
        return _unfitted(matches, f"the matches do not determine a model of kind {chosen}")
    kept = source[found.inliers]
    distances = np.hypot(*(found(kept) - target[found.inliers]).T)
    warp = Warp(chosen, found, _expected_error(kept, distances))
    return Fit(warp, found.inliers, float(np.median(distances)), held_out, left_out=left_out_by(refit))


def _block(matches: Correspondences) -> float:
    """Side of the squares held out together, map units: two footprints, but at least 4 x 4 squares in the scene."""
    return max(min(2 * matches.footprint * matches.grid.resolution, matches.extent / 4), 1e-9)


def _left_out(
    source: Points, target: Points, sigma: Floats, block: float, fitter: Fitter, here: Points, there: Points
) -> Floats:
    """(M,) distances, map units, of matches from `here` to `there` to a model fitted to `source` without the block in
    which each lies; to its optical place where none fits."""
    start, predicted = here.min(axis=0), here.copy()
    fold, held_fold = block_folds(source, block, start), block_folds(here, block, start)
    for k in np.unique(held_fold):
        rest, held = fold != k, held_fold == k
        found = fitter(source[rest], target[rest], sigma[rest]) if rest.sum() >= MINIMUM // 2 else None
        if found is not None:
            predicted[held] = found(here[held])
    return np.hypot(*(predicted - there).T)


def _expected_error(source: Points, distances: Floats, field: LocalField | None = None) -> Callable[[Points], Floats]:
    """What `Warp.error` is: the distances of the matches around each place, plus the error of the field, which looks
    surer than it is: matches share pixels with their neighbours, and so share their errors."""
    # The mean length of a normal deviation in the plane is sqrt(pi / 2) of its standard deviation per axis.
    per_axis = np.minimum(distances, _FAR * np.median(distances)) / math.sqrt(math.pi / 2)
    around = local_mean(source, per_axis)

    def error(xy: Points) -> Floats:
        own = 0.0 if field is None else field.error(xy)
        return np.asarray(np.sqrt(around(xy) ** 2 + own**2 / 2))

    return error


def _unfitted(matches: Correspondences, reason: str) -> Fit:
    return Fit(IDENTITY, np.zeros(len(matches), bool), math.nan, {}, reason=reason)
