"""The verdict: was the pair registered, and how right is the result?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sn9reg.fit.correspondences import Correspondences, Flags
from sn9reg.fit.neighbours import WITNESS_PX, witnesses_agree
from sn9reg.judge.evidence import Evidence

LIKELY = 0.5  # probability from which a pair counts as registered
# Where matches span so many footprints, so large a share must be confirmed too: a warp may be right in places alone.
_ROOM, _CONFIRMED = 3.0, 0.25


@dataclass(frozen=True)
class Verdict:
    """Registered or not, from the evidence.

    reason: one sentence. probability: that the warp is right. matches, inliers: counts. tried: places looked at.
    agreement: share of the places tried whose own pixels agree with those of neighbours they share no pixel with.
    chance: the share that would by chance. coverage: share of the cells of a 6 x 6 raster over the matches that hold
    inliers. standing: mean of `Evidence.standing`, over so many `places`. error: expected error of the warp, map units.
    """

    registered: bool
    reason: str
    probability: float
    matches: int
    inliers: int
    tried: int
    agreement: float
    chance: float
    coverage: float
    standing: float
    places: int
    error: float


def judge(matches: Correspondences, inliers: Flags, evidence: Evidence, probability: float, error: float) -> Verdict:
    """The verdict on a fitted warp. probability: that it is right; error: its expected error, map units."""
    agreed = int(witnesses_agree(matches).sum())
    agreement, confirmed = agreed / max(1, matches.tried), agreed / max(1, len(matches))
    chance = min(1.0, math.pi * (WITNESS_PX * matches.step) ** 2 / (2 * matches.search_radius + matches.step) ** 2)
    places = f"at {len(evidence)} places that share no pixel the images agree with the warp"
    deviations = f"{evidence.mean:.1f} standard deviations more than with their surroundings"
    right = f"it is right with a probability of {math.floor(100 * probability)}%"
    extent = float(np.ptp(matches.optical_xy, axis=0).max()) if len(matches) else 0.0
    alone = extent >= _ROOM * matches.footprint and confirmed < _CONFIRMED
    registered = probability >= LIKELY and not alone
    if alone:
        few = f"only {agreed} of {len(matches)} matches ({confirmed:.0%})"
        reason = f"{few} are confirmed by neighbours that share no pixel"
    elif registered:
        reason = f"{places}, by {deviations}: {right}"
    else:
        reason = f"{places} by only {deviations}: {right}, and at least {LIKELY:.0%} is asked"
    counts = (len(matches), int(inliers.sum()), matches.tried)
    return Verdict(
        registered,
        reason,
        probability,
        *counts,
        agreement,
        chance,
        _coverage(matches, inliers),
        evidence.mean,
        len(evidence),
        error,
    )


def refused(matches: Correspondences, reason: str) -> Verdict:
    """The verdict where nothing could be fitted."""
    return Verdict(False, reason, 0.0, len(matches), 0, matches.tried, 0.0, 0.0, 0.0, 0.0, 0, math.nan)


def _coverage(matches: Correspondences, inliers: Flags) -> float:
    if not inliers.any():
        return 0.0
    xy = matches.optical_xy
    low, size = xy.min(axis=0), np.ptp(xy, axis=0) + 1e-9
    return len(np.unique(np.floor((xy[inliers] - low) / size * 5.999).astype(int), axis=0)) / 36
