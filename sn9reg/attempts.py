"""Match, fit and judge: a pair as its images lie and, where that is refused, with the SAR scene turned and scaled back.

A matcher compares images that lie alike. Where they do not, it is shown the SAR scene through a similarity, from a
search over overviews (`features.pose`) or from matches that are turned themselves. The warp is fitted and judged there,
too: for a small scene that is upright a translation will do, not for one that is turned. Then all is carried back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sn9reg import progress
from sn9reg.errors import ConfigError
from sn9reg.features.pose import POSES, Pose, pose_of
from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences, adaptive_ratio, joined
from sn9reg.judge.calibration import Calibration
from sn9reg.judge.verdict import Verdict, judge
from sn9reg.judge.weigh import weighed
from sn9reg.matchers.base import Matcher
from sn9reg.raster.grid import Grid, Points
from sn9reg.raster.scene import ScenePair
from sn9reg.raster.view import through

log = logging.getLogger(__name__)

_MATCHING = 0.95  # share of an attempt's time
_STEEP = 0.15  # `Pose.steepness` from which templates on a pair as it lies blur too much to be trusted to a few pixels
_UPRIGHT = 0.1  # `Pose.steepness` up to which a search has found what was tried already
_SURE = 0.95  # probability from which a pair that has no georeference is believed to lie upright
_HOPE = 0.1  # probability from which the matches of a pose are taken to improve it


@dataclass
class Laps:
    """How long each stage took, in seconds, all attempts together."""

    seconds: dict[str, float] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)

    def __call__(self, stage: str) -> None:
        """Ends a stage; the next one begins."""
        took, self.start = time.perf_counter() - self.start, time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + took
        log.info("%s: %.1f s", stage, took)


@dataclass(frozen=True)
class Attempt:
    """What came of a pair, whichever pose its SAR scene was seen in: in the grid of the pair as it lies."""

    matches: Correspondences
    fit: Fit
    verdict: Verdict
    pose: Pose | None = None  # that the SAR scene was seen through, common pixels; None: as it lies

    def shown(self) -> Pose | None:
        """The pose that the matches themselves show; None where nothing could be fitted to them."""
        inliers = self.fit.inliers
        return Pose.between(self.matches.optical_xy[inliers], self.matches.sar_xy[inliers]) if inliers.any() else None

    def carried_back(self, pose: Pose) -> Attempt:
        """An attempt on the pair seen through a pose, in the grid of the pair as it lies."""
        matches, fit, grid = self.matches, self.fit, self.matches.grid
        sar_xy, solo_xy = through(pose.matrix, matches.sar_xy), through(pose.matrix, matches.solo_xy)
        matches = replace(matches, sar_xy=sar_xy, solo_xy=solo_xy, sigma=pose.zoom * matches.sigma)
        if fit.fitted:
            there, error = _moved(fit.warp, grid, pose), fit.warp.error
            warp = replace(fit.warp, move=there, error=lambda xy: pose.zoom * error(xy))
            fit = replace(fit, warp=warp, error=pose.zoom * fit.error)
        reason = f"{self.verdict.reason}; the SAR image was seen {pose}"
        return Attempt(matches, fit, replace(self.verdict, reason=reason, error=pose.zoom * self.verdict.error), pose)


@dataclass(frozen=True)
class Steps:
    """What is done with a pair in one attempt."""

    source: Matcher
    ratio_filter: bool
    fitter: Callable[[Correspondences], Fit]
    calibrations: Mapping[str, Calibration | None]  # of every source
    lap: Laps

    def attempt(self, pair: ScenePair, pose: Pose | None = None) -> Attempt:
        """One attempt. Raises InputError where a scene cannot be read."""
        if pose is not None:
            return self.attempt(pair.posed(pose.matrix)).carried_back(pose)
        with progress.part(0.0, _MATCHING, "match"):
            matches = self.source.match(pair)
        if self.ratio_filter:
            matches = _filtered(matches)
        self.lap("match")
        gain = 0.0
        if matches.sources:
            matches, fitted, gain = weighed(pair, matches, self.fitter, self.calibrations)
        else:
            fitted = self.fitter(matches)
        self.lap("fit")
        with progress.part(_MATCHING, 1.0, "judge"):
            calibration = self.calibrations[next(iter(matches.sources), self.source.name)]
            found = Attempt(*judge(pair, matches, fitted, calibration, gain))
        self.lap("judge")
        return found


def attempted(pair: ScenePair, steps: Steps, pose: str) -> Attempt:
    """The best of the attempts. pose: `none`, the pair is taken as it lies; `search`, the SAR scene is seen in the pose
    that a search finds; `auto`, so only where the pair is refused as it lies, or without georeference and not sure; and
    where it is sure, but its matches are turned or scaled much, in the pose that these show. Raises ConfigError for
    another, InputError where a scene cannot be read."""
    if pose not in POSES:
        raise ConfigError(f"no pose {pose!r}; there are: {', '.join(POSES)}")
    if pose == "search":
        return _searched(pair, steps, pose_of(pair))
    first = steps.attempt(pair)
    if pose == "none":
        return first
    if first.verdict.registered and (pair.grid.crs is not None or first.verdict.probability >= _SURE):
        return _seen_again(pair, steps, first, _STEEP)
    found = pose_of(pair)
    if found.steepness <= _UPRIGHT:
        return first
    second = _searched(pair, steps, found)
    surer = second.verdict.probability > first.verdict.probability or not first.verdict.registered
    return second if second.verdict.registered and surer else first


def _searched(pair: ScenePair, steps: Steps, found: Pose) -> Attempt:
    """An attempt in the pose that a search found, and in the one that its matches show."""
    log.info("a search finds the SAR scene %s; it stands out by %.1f deviations", found, found.strength)
    steps.lap("pose")
    first = steps.attempt(pair, found)
    return _seen_again(pair, steps, first) if first.verdict.probability >= _HOPE else first


def _seen_again(pair: ScenePair, steps: Steps, first: Attempt, least: float = 0.0) -> Attempt:
    """An attempt in the pose that the matches of the first one show, if that is steep enough and registers; else the
    first. least: `Pose.steepness`."""
    shown = first.shown()
    if shown is None or shown.steepness <= least:
        return first
    again = steps.attempt(pair, shown)
    return again if again.verdict.registered else first


def _filtered(matches: Correspondences) -> Correspondences:
    """Those that pass the adaptive-ratio filter. What it drops was not tried, so that the verdict judges the rest."""
    kept = adaptive_ratio(matches)
    if matches.sources:
        return joined({name: _filtered(part) for name, part in matches.parts().items()})
    return replace(matches.keep(kept), tried=matches.tried - int((~kept).sum()))


def _moved(warp: Callable[[Points], Points], grid: Grid, pose: Pose) -> Callable[[Points], Points]:
    """A warp to the SAR scene in a pose -> the warp to the scene as it lies; both of map positions."""
    return lambda xy: grid.to_map(through(pose.matrix, grid.to_pixel(warp(xy))))
