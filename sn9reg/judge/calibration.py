"""Calibration: the scores and sigmas of any matcher become probabilities and errors that hold.

The same features describe every match (`features.py`); the models that judge by these were fitted on pairs whose truth
is known (`training/calibrate.py`). Small and large scenes have models of their own, mixed in between: in a small one
all matches share pixels and have the same error, in a large one each has an error of its own.
"""

import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt

from sn9reg.errors import ConfigError, InputError
from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences, Floats
from sn9reg.fit.neighbours import distance_to, local_mean
from sn9reg.judge.evidence import Evidence
from sn9reg.judge.features import FEATURES, breadth, field_features, largeness, match_features, pair_features
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike, read_file
from sn9reg.raster.grid import Points

log = logging.getLogger(__name__)

RIGHT_PX = 3.0  # matched pixels: a match is right if it lies nearer to the truth than this
MEDIAN = math.sqrt(2 * math.log(2))  # median length of a 2-D normal deviation, in standard deviations per axis
UNSEEN = 4.0  # features are clipped to this many standard deviations: the fit saw none beyond
_OWN = "scores and sigma are not calibrated"
_MEASURED = "how right its matches are is measured by the warp of the source that confirms itself most"
_SHIPPED = str(files("sn9reg.weights").joinpath("calibration.json"))


@options
class Linear:
    """A linear model of k standardised features: (N, k) -> (N,)."""

    mean: list[float]  # (k,) of the features
    scale: list[Annotated[float, Gt(0)]]  # (k,) standard deviation of the features
    weight: list[float]  # (k,) of the standardised features
    bias: float

    def __call__(self, features: Floats) -> Floats:
        values = (np.atleast_2d(features) - self.mean) / self.scale
        return np.asarray(np.clip(values, -UNSEEN, UNSEEN) @ np.asarray(self.weight) + self.bias)


@options
class Curve:
    """A monotone curve through knots, constant beyond them."""

    x: list[float]  # positions of the knots, rising
    y: list[Annotated[float, Ge(0)]]  # values at the knots, never falling

    def __call__(self, values: Floats) -> Floats:
        return np.asarray(np.interp(values, self.x, self.y))


def bounded(log_sigma: Floats) -> Floats:
    """Logarithms of standard deviations, matched pixels, clipped to 0.1 to 20 pixels."""
    return np.clip(log_sigma, math.log(0.1), math.log(20.0))


@options
class PairModel:
    """The logit of the probability that a pair is registered."""

    small: Linear  # model for evidence at few places
    large: Linear  # model for evidence at many places

    def __call__(self, features: Floats, broad: float) -> float:
        """The logit, from (1, k) `pair_features` and the evidence's `breadth`."""
        return float((1 - broad) * self.small(features)[0] + broad * self.large(features)[0])


@options
class Models:
    """The models for scenes of one size."""

    probability: Linear  # logit that a match is right
    right: Curve  # from that logit to the probability that it is right
    spread: Linear  # logarithm of the standard deviation of a match's error per axis, matched pixels
    field: Linear  # logarithm of the standard deviation of the map's error per axis at a place, matched pixels

    def chance(self, features: Floats) -> Floats:
        """(N,) probability that matches are right, from (N, k) `match_features`."""
        return np.clip(self.right(self.probability(features)), 0.0, 1.0)

    def log_sigma(self, features: Floats) -> Floats:
        """(N,) logarithm of the matches' sigma, matched pixels, from (N, k) `match_features`."""
        return bounded(self.spread(features[:, : len(FEATURES["spread"])]))

    def log_map_sigma(self, features: Floats) -> Floats:
        """(M,) logarithm of the map's sigma at places, matched pixels, from (M, k) `field_features`."""
        return bounded(self.field(features))


@options
class Calibration:
    """The calibration of one matcher."""

    matcher: str  # its name
    small: Models  # for small scenes
    large: Models  # for large scenes
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the models were fitted on

    def matches(self, matches: Correspondences, fit: Fit, evidence: Evidence, logit: float) -> Correspondences:
        """The matches with a probability as their score and a calibrated sigma. logit: see `pair_logit`."""
        if not len(matches):
            return replace(matches, calibrated=True)
        features, large = match_features(matches, fit, evidence, logit), largeness(matches)
        chance = (1 - large) * self.small.chance(features) + large * self.large.chance(features)
        sigma = np.exp((1 - large) * self.small.log_sigma(features) + large * self.large.log_sigma(features))
        return replace(matches, score=chance, sigma=sigma * matches.step, calibrated=True)

    def fit(self, matches: Correspondences, fit: Fit, evidence: Evidence) -> Fit:
        """The fit with a calibrated expected error, everywhere. matches: must be calibrated already."""
        if not fit.inliers.any():
            return fit
        pixel, raw = matches.step * matches.grid.resolution, fit.warp.error
        large, width = largeness(matches), matches.span
        inliers = matches.optical_map[fit.inliers]
        log_sigma = local_mean(inliers, np.log(matches.sigma[fit.inliers] / matches.step))
        distance, footprint = distance_to(inliers), matches.footprint * matches.grid.resolution

        def error(xy: Points) -> Floats:
            features = field_features(raw(xy) / pixel, log_sigma(xy), distance(xy) / footprint, evidence.mean, width)
            of_small, of_large = (models.log_map_sigma(features) for models in (self.small, self.large))
            return pixel * np.exp((1 - large) * of_small + large * of_large)

        typical = float(np.median(error(inliers)))
        return replace(fit, error=MEDIAN * typical, warp=replace(fit.warp, error=error))


def pair_logit(matches: Correspondences, evidence: Evidence) -> float:
    """The logit of the probability that a fitted warp is right, by the model that ships, the same for all matchers.
    Raises InputError where the calibration that ships is damaged."""
    with _reading(_SHIPPED):
        model = check(PairModel, _stored()["pair"], "pair")
        for linear in (model.small, model.large):
            _check_count(linear, "pair")
    return model(pair_features(matches, evidence), breadth(evidence))


def read_calibration(path: PathLike, matchers: Collection[str]) -> Calibration:
    """A file of `pipelines.calibrate`. Raises InputError where it is not of one of the matchers."""
    with _reading(path):
        given = _built(_stored(path))
    if given.matcher not in matchers:
        raise InputError(f"{path}: is a calibration of {given.matcher}, not of {' or '.join(matchers)}")
    return given


def calibration_for(
    matcher: str, own_weights: bool = False, path: PathLike | None = None, otherwise: str = _OWN
) -> Calibration | None:
    """The calibration to use for a matcher; None, with a warning that says why and what is done `otherwise`, where none
    ships that fits, as with own_weights. path: a file of `pipelines.calibrate` in its place. Raises InputError where
    that is of another."""
    if path is not None:
        return read_calibration(path, [matcher])
    try:
        with _reading(_SHIPPED):
            content = _stored()["matchers"]
            found = _built(content[matcher]) if matcher in content else None
        if found is None:
            log.warning("no calibration ships for %s: %s", matcher, otherwise)
        elif own_weights:
            raise InputError(f"the calibration that ships is of other weights of {matcher}")
        return found
    except InputError as error:
        log.warning("%s; %s", error, otherwise)
        return None


def calibrations_for(sources: Mapping[str, bool], path: PathLike | None = None) -> dict[str, Calibration | None]:
    """`calibration_for` each of several matchers run together, by whether its weights are its own. path: a file for one
    of them."""
    if len(sources) == 1:
        return {name: calibration_for(name, own, path) for name, own in sources.items()}
    given = None if path is None else read_calibration(path, sources)
    named = {} if given is None else {given.matcher: given}
    return {name: named.get(name) or calibration_for(name, own, None, _MEASURED) for name, own in sources.items()}


@contextmanager
def _reading(path: object) -> Iterator[None]:
    """Raises InputError, which names the file, for whatever is wrong with a calibration that is read inside."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, ConfigError) as error:
        raise InputError(f"{path}: is no calibration; `python -m pipelines.calibrate` writes one ({error})") from error


def _stored(path: PathLike = _SHIPPED) -> Any:
    return json.loads(read_file(path).decode())


def _built(content: Mapping[str, Any]) -> Calibration:
    made = check(Calibration, content, "calibration")
    for models in (made.small, made.large):
        for name in ("probability", "spread", "field"):
            _check_count(getattr(models, name), name)
        curve = models.right
        if not len(curve.x) == len(curve.y) > 0 or (np.diff(curve.x) <= 0).any() or (np.diff(curve.y) < 0).any():
            raise ValueError("right is no curve that rises")
    return made


def _check_count(model: Linear, name: str) -> None:
    if {len(model.mean), len(model.scale), len(model.weight)} != {len(FEATURES[name])}:
        raise ValueError(f"{name} is not a model of {len(FEATURES[name])} features")
