"""The verdict: was the pair registered, and how right is the result?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sn9reg.consistency import WITNESS_PX, witnesses_agree
from sn9reg.correspondences import Correspondences, Flags

MINIMUM = 8  # matches below which nothing is fitted or believed
_SHARE = 0.4  # of the matches must be confirmed ...
_AGREEMENT = 0.35  # ... and of all places tried


@dataclass(frozen=True)
class Verdict:
    """Registered or not, from the evidence.

    reason: one sentence. matches, inliers: counts. tried: places looked at. agreement: share of the places tried whose
    own pixels agree with those of neighbours they share no pixel with. chance: the share that would by chance.
    coverage: share of the cells of a 6 x 6 raster over the matches that hold inliers. error: expected error of the
    warp, map units.
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


def judge(matches: Correspondences, inliers: Flags, error: float) -> Verdict:
    """The verdict on a fitted warp. error: its expected error, map units."""
    agreed = int(witnesses_agree(matches).sum())
    agreement = agreed / max(1, matches.tried)
    chance = min(1.0, math.pi * (WITNESS_PX * matches.step) ** 2 / (2 * matches.search_radius + matches.step) ** 2)
    registered, reason = _decide(agreed, len(matches), agreement, chance)
    counts = (len(matches), int(inliers.sum()), matches.tried)
    return Verdict(registered, reason, *counts, agreement, chance, _coverage(matches, inliers), error)


def refused(matches: Correspondences, reason: str) -> Verdict:
    """The verdict where nothing could be fitted."""
    return Verdict(False, reason, len(matches), 0, matches.tried, 0.0, 0.0, 0.0, math.nan)


def _decide(agreed: int, matches: int, agreement: float, chance: float) -> tuple[bool, str]:
    """Thresholds lie between pairs that belong together and others (`pipelines/verdict.py` measures both)."""
    share = agreed / max(1, matches)
    evidence = f"{agreed} of {matches} matches ({share:.0%}) are confirmed by neighbours that share no pixel with them"
    if agreed < MINIMUM:
        return False, f"only {evidence}; at least {MINIMUM} must be"
    if share < max(_SHARE, 2 * chance):
        return False, f"only {evidence}; of a pair that matches at least {max(_SHARE, 2 * chance):.0%} are"
    if agreement < _AGREEMENT:
        return False, f"{evidence}, but that is only {agreement:.0%} of the places tried"
    return True, evidence


def _coverage(matches: Correspondences, inliers: Flags) -> float:
    if not inliers.any():
        return 0.0
    xy = matches.optical_xy
    low, size = xy.min(axis=0), np.ptp(xy, axis=0) + 1e-9
    return len(np.unique(np.floor((xy[inliers] - low) / size * 5.999).astype(int), axis=0)) / 36
