"""Features by which the calibration judges a pair, its matches, and its map, the same for every matcher."""

import math

import numpy as np
from scipy.spatial import cKDTree

from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences, Floats
from sn9reg.fit.neighbours import witnesses_agree
from sn9reg.judge.evidence import Evidence

MATCH_FEATURES = "sharpness", "score", "height", "deviation", "witness", "gap", "spread", "standing", "vote", "pair"
SIGMA_FEATURES = MATCH_FEATURES[:-1]  # the error of a match does not depend on the pair's logit
# What the linear models of `calibration` take.
FEATURES = {
    "pair": ("total", "lead", "confirmed"),
    "probability": MATCH_FEATURES,
    "spread": SIGMA_FEATURES,
    "field": ("deviation", "sigma", "away", "standing", "room"),
}

_MAX_LOGIT = 8.0  # logits of pairs are clipped to this when they serve as a feature
_SMALL, _LARGE = 2.5, 4.0  # a scene is small up to, and large from, so many footprints side by side
_LARGEST = 30.0  # footprints side by side of the largest scene that the fit saw
_FEW, _MANY = 4, 16  # the evidence is narrow up to, and broad from, so many places
_MAX_TOTAL = 30.0  # standard deviations: `Evidence.total` is clipped to this
_CLOSE = 0.1  # footprints, added to the distance to matches before its logarithm is taken
_EVIDENCE_PLACES = 3  # nearest places whose evidence describes a match


def pair_features(matches: Correspondences, evidence: Evidence) -> Floats:
    """(1, 3) `FEATURES` that tell whether a pair is registered."""
    # Counted against all places tried: a matcher that keeps few matches chose those that agree.
    lead = matches.lead
    confirmed = float(witnesses_agree(lead).sum()) / max(1, lead.tried)
    return np.array([[min(evidence.total, _MAX_TOTAL), evidence.lead, confirmed]])


def match_features(matches: Correspondences, fit: Fit, evidence: Evidence, logit: float) -> Floats:
    """(N, 10) `MATCH_FEATURES`, which tell how right each match is. logit: that the pair is registered."""
    n, count, grid = len(matches), min(_EVIDENCE_PLACES, len(evidence)), matches.grid
    expected, pixel = fit.warp(matches.optical_map), matches.step * grid.resolution
    off, solo_off = (np.hypot(*(grid.to_map(xy) - expected).T) / pixel for xy in (matches.sar_xy, matches.solo_xy))
    standing = np.full(n, evidence.mean)
    if count:
        index = cKDTree(evidence.optical_xy).query(matches.optical_xy, count)[1]
        standing = evidence.standing[np.asarray(index).reshape(n, count)].mean(axis=1)
    sharpness, height = np.log(np.clip(matches.sigma / matches.step, 0.02, 50)), 1 - matches.distance
    deviation, witness, vote = (np.log1p(shift) for shift in (off, solo_off, matches.vote_shift / matches.step))
    gap, pair = matches.rival_distance - matches.distance, np.full(n, clipped(logit))
    spread = np.full(n, np.log1p(np.median(off)) if n else 0.0)
    columns = sharpness, matches.score, height, deviation, witness, gap, spread, standing, vote, pair
    return np.column_stack(columns)


def field_features(raw: Floats, log_sigma: Floats, distance: Floats, standing: float, width: float) -> Floats:
    """(M, 5) `FEATURES` that tell the error of a map at M places. raw: the warp's expected error before calibration,
    matched pixels. log_sigma: mean of `Models.log_sigma` of the matches around. distance: to these, footprints; each
    (M,). standing: `Evidence.mean`. width: `Correspondences.span`."""
    everywhere = np.tile([standing, math.log(np.clip(width, 1.0, _LARGEST))], (len(raw), 1))
    return np.column_stack([np.log(np.maximum(raw, 0.05)), log_sigma, np.log(distance + _CLOSE), everywhere])


def largeness(matches: Correspondences) -> float:
    """From 0 (a small scene) to 1 (a large one)."""
    return min(math.log(max(matches.span, _SMALL) / _SMALL) / math.log(_LARGE / _SMALL), 1.0)


def breadth(evidence: Evidence) -> float:
    """From 0 (evidence at few places) to 1 (at many)."""
    return float(np.clip(math.log(max(len(evidence), _FEW) / _FEW) / math.log(_MANY / _FEW), 0, 1))


def clipped(logit: float) -> float:
    """A pair's logit as a feature of its matches."""
    return float(np.clip(logit, -_MAX_LOGIT, _MAX_LOGIT))
