"""The matches of several sources, weighed so that they can be fitted together: each gets a probability and a sigma, and
where sources repeat each other one match is kept."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences, Flags, joined
from sn9reg.fit.warp import Warp
from sn9reg.judge.calibration import Calibration, pair_logit
from sn9reg.judge.evidence import default_features, gather
from sn9reg.raster.scene import ScenePair

TRUSTED = 0.1  # probability below which a match does not take part in the fit
_SAME = 1 / 8  # of the smaller footprint: two sources' matches so near each other looked at the same pixels
_ROUNDS = 30  # of expectation and maximisation
_WRONG = 4.0  # matches that are wrong, beside those of a source: few that agree say little
_RELATIVE = 3.0  # by which sigmas of one source may differ from their median, either way
_LEAST_SIGMA = 0.5  # matched pixels


def weighed(
    pair: ScenePair, matches: Correspondences, fitter: Callable[[Correspondences], Fit],
    calibrations: Mapping[str, Calibration | None],
) -> tuple[Correspondences, Fit, float]:  # fmt: skip
    """Matches of several sources, weighed and thinned; the fit to those that are trusted, or to the first source alone
    where that predicts its own matches better; and by how much the other sources agree with the warp of the first, see
    `measured`. First is what was first and can be fitted. A source with a calibration is judged by that at the first
    one's warp; one without is `measured` by that warp. Raises InputError where a scene cannot be read."""
    parts = matches.parts()
    fits = {source: fitter(part) for source, part in parts.items()}
    name = next((source for source, found in fits.items() if found.fitted), next(iter(parts)))
    lead, first = parts[name], fits[name]
    if not first.fitted:
        return matches, replace(first, inliers=np.zeros(len(matches), bool)), 0.0
    parts = {name: lead} | parts
    evidence = gather(pair, first.warp, lead.step, default_features(pair))
    logit, gain = pair_logit(lead, evidence), 0.0
    calibrated = {
        source: found.matches(parts[source], first, evidence, logit) for source, found in calibrations.items()
        if found is not None and source in parts
    }  # fmt: skip
    own = calibrations.get(name)
    warp = first.warp if own is None else own.fit(calibrated[name], first, evidence).warp  # knows its error better
    for source, part in parts.items():
        told, agreed = measured(part, warp)
        calibrated.setdefault(source, told)
        gain += agreed * (source != name)
    together = joined({source: calibrated[source] for source in parts})
    repeats = repeated(together)
    together = together.keep(~repeats)
    found = _fit_trusted(together, fitter)
    if not found.predicts_as_well_as(first, lead.keep(first.inliers)):
        found = replace(first, inliers=np.pad(first.inliers, (0, len(repeats) - len(lead)))[~repeats])
    return together, found, gain


def measured(part: Correspondences, warp: Warp) -> tuple[Correspondences, float]:
    """The matches of a source, with a probability and a sigma by how far off another source's warp they lie; and by how
    many nats that speaks for both. Matches that are right lie off as a normal deviation in the plane does, others
    anywhere in the area that was searched (a mixture as in MLESAC: Torr & Zisserman 2000), fitted by expectation and
    maximisation; its two parameters are paid for (Schwarz 1978). No match is known better than the warp is."""
    n, grid = len(part), part.grid
    if not n:
        return replace(part, calibrated=True), 0.0
    off = np.hypot(*(part.sar_xy - grid.to_pixel(warp(part.optical_map))).T)
    relative = np.clip(part.sigma / np.median(part.sigma), 1 / _RELATIVE, _RELATIVE)
    anywhere = 1 / (math.pi * (part.search_radius + part.step) ** 2)
    least, largest = _LEAST_SIGMA * part.step, part.search_radius / 2
    scale, share = max(least, min(largest, float(np.median(off / relative)))), 0.5
    for _ in range(_ROUNDS):
        sigma = scale * relative
        right = share * np.exp(-((off / sigma) ** 2) / 2) / (2 * math.pi * sigma**2)
        chance = right / (right + (1 - share) * anywhere)
        share = float(chance.sum()) / (n + _WRONG)
        variance = float((chance * (off / relative) ** 2).sum() / (2 * chance.sum() + 1e-9))
        scale = min(max(math.sqrt(variance), least), largest)
    gain = float(np.log1p(right / anywhere - share).sum()) - math.log(n)
    sigma = np.hypot(scale * relative, warp.error(part.optical_map) / grid.resolution)
    return replace(part, score=chance, sigma=sigma, calibrated=True), max(0.0, gain)


def repeated(matches: Correspondences) -> Flags:
    """(N,) which matches another source repeats, and is surer of: at the same optical pixels, to the same place."""
    footprint = min(source.footprint for source in matches.sources.values())
    i, j = cKDTree(matches.optical_xy).query_pairs(_SAME * footprint, output_type="ndarray").T
    apart = np.hypot(*((matches.sar_xy - matches.optical_xy)[i] - (matches.sar_xy - matches.optical_xy)[j]).T)
    same = (matches.source[i] != matches.source[j]) & (apart < 2 * np.hypot(matches.sigma[i], matches.sigma[j]))
    weight = matches.score / matches.sigma**2
    dropped = np.zeros(len(matches), bool)
    dropped[np.where(weight[i] < weight[j], i, j)[same]] = True
    return dropped


def _fit_trusted(matches: Correspondences, fitter: Callable[[Correspondences], Fit]) -> Fit:
    """The fit to the matches that are likely enough to be right; the less likely, the less each counts."""
    chosen = np.flatnonzero(matches.score >= TRUSTED)
    likely = matches.keep(chosen)
    found = fitter(replace(likely, sigma=likely.sigma / np.sqrt(likely.score)))
    inliers = np.zeros(len(matches), bool)
    inliers[chosen] = found.inliers
    return replace(found, inliers=inliers)
