"""Features by which the calibration judges a pair, its matches, and its map, the same for every matcher."""

import math

import numpy as np
from scipy.spatial import cKDTree

from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences, Floats
from sn9reg.fit.neighbours import witnesses_agree
from sn9reg.judge.evidence import Evidence
from sn9reg.raster.grid import Points

PAIR_FEATURES = ("total", "lead", "confirmed")
MATCH_FEATURES = (
    "sharpness", "score", "height", "deviation", "witness", "gap", "spread", "standing", "vote", "pair"
)  # fmt: skip
SIGMA_FEATURES = MATCH_FEATURES[:-1]  # the error of a match does not depend on the pair's logit
FIELD_FEATURES = ("deviation", "sigma", "away", "standing", "room")
# What the linear models of `calibration` take.
FEATURES = {"pair": PAIR_FEATURES, "probability": MATCH_FEATURES, "spread": SIGMA_FEATURES, "field": FIELD_FEATURES}

_MAX_LOGIT = 8.0  # logits of pairs are clipped to this when they serve as a feature
_SMALL, _LARGE = 2.5, 4.0  # a scene is small up to, and large from, so many footprints side by side
_LARGEST = 30.0  # footprints side by side of the largest scene that the fit saw
_FEW, _MANY = 4, 16  # the evidence is narrow up to, and broad from, so many places
_MAX_TOTAL = 30.0  # standard deviations: `Evidence.total` is clipped to this
_CLOSE = 0.1  # footprints, added to the distance to matches before its logarithm is taken
_EVIDENCE_PLACES = 3  # nearest places whose evidence describes a match


def pair_features(matches: Correspondences, evidence: Evidence) -> Floats:
    """(1, 3) `PAIR_FEATURES`, which tell whether a pair is registered.

    What is confirmed is counted against all places tried: a matcher that keeps few matches chose those that agree.
    """
    confirmed = float(witnesses_agree(matches).sum()) / max(1, matches.tried)
    return np.array([[min(evidence.total, _MAX_TOTAL), evidence.lead, confirmed]])


def match_features(matches: Correspondences, fit: Fit, evidence: Evidence, logit: float) -> Floats:
    """(N, 10) `MATCH_FEATURES`, which tell how right each match is. logit: that the pair is registered."""
    n, count = len(matches), min(_EVIDENCE_PLACES, len(evidence))
    deviation = _deviation(matches, fit, matches.sar_map)
    solo_deviation = _deviation(matches, fit, matches.grid.to_map(matches.solo_xy))
    standing = np.full(n, evidence.mean)
    if count:
        index = cKDTree(evidence.optical_xy).query(matches.optical_xy, count)[1]
        standing = evidence.standing[np.asarray(index).reshape(n, count)].mean(axis=1)
    return np.column_stack(
        [
            np.log(np.clip(matches.sigma / matches.step, 0.02, 50)),
            matches.score,
            1 - matches.distance,
            np.log1p(deviation),
            np.log1p(solo_deviation),
            matches.rival_distance - matches.distance,
            np.full(n, np.log1p(np.median(deviation)) if n else 0.0),
            standing,
            np.log1p(matches.vote_shift / matches.step),
            np.full(n, clipped(logit)),
        ]
    )


def field_features(raw: Floats, log_sigma: Floats, distance: Floats, standing: float, width: float) -> Floats:
    """(M, 5) `FIELD_FEATURES`, which tell the error of a map at M places.

    raw: (M,) the warp's expected error before calibration, matched pixels.
    log_sigma: (M,) mean of `Models.log_sigma` of the matches around, see `local_mean`.
    distance: (M,) distance to these matches, footprints, see `distance_to`.
    standing: `Evidence.mean`. width: of the scene, `Correspondences.span`.
    """
    everywhere = np.tile([standing, math.log(np.clip(width, 1.0, _LARGEST))], (len(raw), 1))
    return np.column_stack([np.log(np.maximum(raw, 0.05)), log_sigma, np.log(distance + _CLOSE), everywhere])


def largeness(matches: Correspondences) -> float:
    """From 0 (a small scene) to 1 (a large one)."""
    share = math.log(max(matches.span, _SMALL) / _SMALL) / math.log(_LARGE / _SMALL)
    return min(share, 1.0)


def breadth(evidence: Evidence) -> float:
    """From 0 (evidence at few places) to 1 (at many)."""
    return float(np.clip(math.log(max(len(evidence), _FEW) / _FEW) / math.log(_MANY / _FEW), 0, 1))


def _deviation(matches: Correspondences, fit: Fit, sar_map: Points) -> Floats:
    """(N,) distance of SAR places from where the warp puts the matches, matched pixels."""
    distance = np.hypot(*(sar_map - fit.warp(matches.optical_map)).T)
    return np.asarray(distance / (matches.step * matches.grid.resolution))


def clipped(logit: float) -> float:
    """A pair's logit as a feature of its matches."""
    return float(np.clip(logit, -_MAX_LOGIT, _MAX_LOGIT))
