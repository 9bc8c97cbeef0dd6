"""The verdict: was the pair registered, and how right is the result? `judge` is the one door to this folder."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences, Flags
from sn9reg.fit.neighbours import WITNESS_PX, witnesses_agree
from sn9reg.judge.calibration import Calibration, pair_logit
from sn9reg.judge.evidence import Evidence, default_features, gather
from sn9reg.raster.scene import ScenePair

LIKELY = 0.75  # probability from which a pair counts as registered: a wrong map does more harm than none
# Footprints across, and the share of the matches that neighbours must confirm in scenes so wide: a warp may be right in
# some places and wrong elsewhere.
_WIDE, _CONFIRMED = 3.0, 0.05
_MOST_GAIN = 1.0  # nats that other sources can add at most: they look at the same pixels, and may err alike
_CLEAR = 0.12  # `Evidence.clear` below which the images agree elsewhere, too: parcels or streets on one lattice


@dataclass(frozen=True)
class Verdict:
    """Registered or not, and the evidence for that."""

    registered: bool
    reason: str  # one sentence
    matches: int  # their number
    tried: int  # number of places where a match was looked for
    probability: float = 0.0  # that the warp is right
    inliers: int = 0  # number of matches that agree with the warp
    agreement: float = 0.0  # share of `tried` that neighbours without a common pixel confirm, see `witnesses_agree`
    chance: float = 0.0  # the share that would agree by chance
    coverage: float = 0.0  # share of the squares of a 6 x 6 raster over the matches that hold inliers
    standing: float = 0.0  # `Evidence.mean`
    places: int = 0  # number of places that gave evidence
    error: float = math.nan  # expected error of the warp, map units


def judge(
    pair: ScenePair, matches: Correspondences, fit: Fit, calibration: Calibration | None, gain: float = 0.0
) -> tuple[Correspondences, Fit, Verdict]:
    """Matches and fit, with calibrated errors where there is a calibration, and the verdict on them. gain: nats by
    which sources but the first speak for the warp, see `weigh`. Raises InputError where a scene cannot be read."""
    if not fit.fitted:
        return matches, fit, Verdict(False, fit.reason, len(matches), matches.tried)
    evidence = gather(pair, fit.warp, matches.step, default_features(pair))
    logit = pair_logit(matches, evidence) + min(gain, _MOST_GAIN)
    if calibration is not None:
        if not matches.calibrated:
            matches = calibration.matches(matches, fit, evidence, logit)
        fit = calibration.fit(matches, fit, evidence)
    return matches, fit, decide(matches, fit.inliers, evidence, float(expit(logit)), fit.error)


def decide(matches: Correspondences, inliers: Flags, evidence: Evidence, probability: float, error: float) -> Verdict:
    """The verdict on a fitted warp. probability: that it is right; error: its expected error, map units."""
    lead = matches.lead
    agreed = int(witnesses_agree(lead).sum())
    agreement, confirmed = agreed / max(1, lead.tried), agreed / max(1, len(lead))
    chance = min(1.0, math.pi * (WITNESS_PX * matches.step) ** 2 / (2 * matches.search_radius + matches.step) ** 2)
    extent = float(np.ptp(matches.optical_xy, axis=0).max()) if len(matches) else 0.0
    unconfirmed = extent >= _WIDE * matches.footprint and confirmed < _CONFIRMED
    likely, repeated = probability >= LIKELY, evidence.clear < _CLEAR
    registered = likely and not unconfirmed and not repeated
    if likely and repeated:
        reason = "the images agree as well at another place nearby: what they show repeats itself"
    elif unconfirmed:
        few = f"only {agreed} of {len(lead)} matches ({confirmed:.0%})"
        reason = f"{few} are confirmed by neighbours that share no pixel"
    else:
        by, asked = (", by", "") if registered else (" by only", f", and at least {LIKELY:.0%} is asked")
        reason = (
            f"at {len(evidence)} places that share no pixel the images agree with the warp{by} {evidence.mean:.1f} "
            "standard deviations more than with their surroundings: it is right with a probability of "
            f"{math.floor(100 * probability)}%{asked}"
        )
    numbers, coverage = (len(matches), matches.tried, probability, int(inliers.sum())), 0.0
    if inliers.any():
        xy = matches.optical_xy
        squares = np.floor((xy[inliers] - xy.min(axis=0)) / (np.ptp(xy, axis=0) + 1e-9) * 5.999).astype(int)
        coverage = len(np.unique(squares, axis=0)) / 36
    return Verdict(registered, reason, *numbers, agreement, chance, coverage, evidence.mean, len(evidence), error)
