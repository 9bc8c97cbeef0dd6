"""Registration of a pair: the whole story. open -> match -> fit -> judge -> render."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sn9reg.attempts import Laps, Steps, attempted
from sn9reg.features.pose import Pose
from sn9reg.fit.choose import WITH_HEIGHTS, Fit, fit
from sn9reg.fit.correspondences import Correspondences
from sn9reg.fit.warp import Warp
from sn9reg.judge.advice import advice
from sn9reg.judge.calibration import calibrations_for
from sn9reg.judge.verdict import Verdict
from sn9reg.machine import computing_on
from sn9reg.matchers.base import Matcher, make_matcher
from sn9reg.offsets import OffsetMap, from_nodes, node_positions, offsets_between
from sn9reg.pipeline import chosen
from sn9reg.raster.collar import taken_out
from sn9reg.raster.files import PathLike
from sn9reg.raster.grid import Grid
from sn9reg.raster.heights import read_heights
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import PairFiles
from sn9reg.tiepoints import TiePoints

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registration:
    """What came out for one pair."""

    optical: Grid
    sar: Grid
    grid: Grid  # the common grid, on which both were compared
    matches: Correspondences
    fit: Fit  # the warp that was fitted to the matches, and which of them agree with it
    verdict: Verdict
    matcher: str  # its name
    names: tuple[str, str]  # of the optical and the SAR file
    seconds: Mapping[str, float]  # stage -> time taken
    sar_scale: str  # whether the SAR values were taken for dB or for linear ones, and why
    dem: str = ""  # what became of the heights that were given
    pose: Pose | None = None  # in which the SAR image was seen, pixels of the common grid; None: as it lies

    @property
    def registered(self) -> bool:
        return self.verdict.registered

    @property
    def warp(self) -> Warp:
        return self.fit.warp

    @property
    def expected_error_px(self) -> float:
        """Expected error of the offset map in optical pixels: half of it is more right than that."""
        return self.verdict.error * self.grid.metres_per_unit / self.optical.metres_per_pixel

    def offsets(self, sigma: bool = False) -> OffsetMap:
        """The offset map on the optical grid; zeros where the pair was not registered. sigma: with the third band."""
        # The field's shortest length is many pixels of the common grid: nodes may be farther apart on larger images.
        step = int(np.clip(max(self.optical.shape) / 160, 8, 64))
        places, (ny, nx) = node_positions(self.optical, step)
        here = self.optical.to_map(places)
        if self.registered:
            source = self.optical.map_to(here, self.grid)
            bands = [*offsets_between(self.optical, here, self.grid.map_to_crs(self.warp(source), self.optical.crs)).T]
            if sigma:
                bands.append(self.warp.error(source) * (self.grid.metres_per_unit / self.optical.metres_per_pixel))
        else:
            bands = [np.zeros(len(places))] * 2 + [np.full(len(places), np.nan)] * sigma
        nodes = np.stack(bands).reshape(len(bands), ny, nx).astype(np.float32)
        return from_nodes(self.optical, nodes, step, self.facts())

    def tiepoints(self) -> TiePoints:
        """The matches in pixels of each image, with score, sigma (optical pixels) and inlier flag."""
        places = (self.optical, self.matches.optical_map), (self.sar, self.matches.sar_map)
        optical_xy, sar_xy = (grid.to_pixel(self.grid.map_to_crs(xy, grid.crs)) for grid, xy in places)
        sigma = self.matches.sigma * (self.grid.metres_per_pixel / self.optical.metres_per_pixel)
        names = np.array(list(self.matches.sources), str)
        source = names[self.matches.source] if len(names) else None
        return TiePoints(optical_xy, sar_xy, self.matches.score, sigma, self.fit.inliers, source)

    def sources(self) -> dict[str, dict[str, int] | None]:
        """Where several matchers were run, what each gave; None for one that failed."""
        given, inliers = {}, self.fit.inliers
        for k, name in enumerate(self.matches.sources):
            found = self.matches.source == k
            given[name] = {"matches": int(found.sum()), "inliers": int((found & inliers).sum())}
        return {name: given.get(name) for name in self.matcher.split("+")} if given else {}

    def facts(self) -> dict[str, str]:
        """What the offset map says of itself, as tags."""
        v, frame = self.verdict, "pixel" if self.optical.crs is None else "map"
        facts = {"version": version("sn9reg"), "registered": "yes" if v.registered else "no", "reason": v.reason}
        facts |= {"optical": self.names[0], "sar": self.names[1], "frame": frame, "sar_scale": self.sar_scale}
        facts |= {"matcher": self.matcher, "model": self.warp.model, **({"dem": self.dem} if self.dem else {})}
        facts |= {"pose": str(self.pose)} if self.pose else {}
        facts |= {"matches": str(v.matches), "inliers": str(v.inliers), "probability": f"{v.probability:.4f}"}
        if sources := self.sources():
            shares = {n: f"{s['inliers'] / max(1, v.inliers):.0%}" if s else "failed" for n, s in sources.items()}
            facts["sources"] = ", ".join(f"{name} {share}" for name, share in shares.items())
        facts |= {"calibrated": "yes" if self.matches.calibrated else "no"}
        return facts | {"expected_error_px": f"{self.expected_error_px:.3f}"}

    def as_dict(self) -> dict[str, Any]:
        """The evidence as plain numbers, for JSON; None where a number does not exist."""
        v = self.verdict

        def number(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        scale = self.grid.metres_per_unit
        facts: dict[str, Any] = {"registered": v.registered, "reason": v.reason, "model": self.warp.model}
        facts |= {"sources": self.sources()} if self.matches.sources else {}
        facts |= {"matcher": self.matcher, "sar_scale": self.sar_scale, "dem": self.dem or None}
        facts["pose"] = {"turn_degrees": self.pose.degrees, "zoom": self.pose.zoom} if self.pose else None
        facts |= {name: getattr(v, name) for name in ("matches", "inliers", "tried")}
        facts |= {name: number(getattr(v, name)) for name in ("agreement", "chance", "coverage", "standing")}
        facts |= {"places": v.places, "probability": number(v.probability), "calibrated": self.matches.calibrated}
        facts |= {"expected_error_px": number(self.expected_error_px), "expected_error_m": number(v.error * scale)}
        facts |= {"held_out_m": {name: number(value * scale) for name, value in self.fit.held_out.items()}}
        facts |= {"common_grid": self.grid.describe()}
        return facts | {"seconds": {stage: round(value, 3) for stage, value in self.seconds.items()}}


def register(
    optical: PathLike, sar: PathLike, *, pipeline: PathLike | None = None,
    matcher: str | Sequence[str] | Matcher | None = None, matcher_options: Mapping[str, Any] | None = None,
    model: str | None = None, threshold: float | None = None, ratio_filter: bool | None = None,
    pose: str | None = None, dem: PathLike | None = None, calibration: PathLike | None = None, device: str = "auto",
    pixel_frame: bool = False, optical_bands: Sequence[int] = (), sar_bands: Sequence[int] = (),
    optical_nodata: float | None = None, sar_nodata: float | None = None, keep_collar: bool = False,
) -> Registration:  # fmt: skip
    """Register an optical to a SAR image. The result says itself whether the pair was registered.

    pipeline: the name of one, or a YAML file, see `sn9reg.pipeline`. It holds the six settings that follow; what is
    given here goes before it, matcher options one by one. Its matcher is its own.
    matcher: a name (default hybrid), several (a list, or joined by `+`) that are run and fitted together, or an object.
    matcher_options: keyword arguments of its constructor; SOURCE.NAME is for one of several.
    model: auto (default), translation, affine, homography or local. threshold: of RANSAC, metres (default 30 px).
    ratio_filter: keep only the matches that pass the adaptive-ratio filter; about half do.
    pose: auto (default), none or search: whether the SAR image may be turned and scaled, see `attempts.attempted`.
    dem: a raster of heights of the ground, in any CRS, used where matches held out are then predicted better.
    calibration: a file of `pipelines.calibrate` for the matcher; by default the one that ships. Where none does, a
    warning says so, and scores and sigma stay those of the matcher.
    device: what to compute on: cpu, cuda or cuda:N; auto takes a GPU if there is one.
    The others say how the images are read, see `raster.scene.PairFiles`. Raises InputError for files that cannot be
    used, ConfigError for options that make no sense."""
    files = PairFiles(optical, sar, pixel_frame, optical_bands, sar_bands, optical_nodata, sar_nodata, keep_collar)
    name = matcher if matcher is None or isinstance(matcher, str | Matcher) else "+".join(matcher)
    given = {"matcher": name, "matcher_options": matcher_options, "model": model, "threshold": threshold}
    how = chosen(pipeline, **given, ratio_filter=ratio_filter, pose=pose)
    with computing_on(device):
        source = name if isinstance(name, Matcher) else make_matcher(how.matcher, **how.matcher_options)
    lap = Laps()
    with computing_on(device), files.open() as pair:
        for scene in (pair.optical, pair.sar):
            for said in taken_out(scene):
                log.warning("%s: %s; --keep-collar keeps them", scene.name, said)
        look = pair.overview(pair.sar)[0]
        kind = "dB" if SarLog.of(look.values, look.valid, look.decibel).decibel else "linear"
        scale = f"{kind}, {'judged by the values' if look.decibel is None else 'as the file says'}"
        heights = None if dem is None else read_heights(dem, pair.grid)
        lap("open")
        sources = getattr(source, "sources", {source.name: source})
        own = {name: getattr(one, "own_weights", False) for name, one in sources.items()}
        fitter = partial(fit, model=how.model, threshold=how.threshold, heights=heights)
        steps = Steps(source, how.ratio_filter, fitter, calibrations_for(own, calibration), lap)
        found = attempted(pair, steps, how.pose)
        verdict = found.verdict
        reach = getattr(getattr(source, "options", None), "max_offset", None)
        if not verdict.registered and (hint := advice(pair, reach, how.pose != "none")):
            verdict = replace(verdict, reason=f"{verdict.reason}; {hint}")
        lap("judge")
        use = "" if dem is None else _use_of(dem, found.fit)
        names, grids = (Path(optical).name, Path(sar).name), (pair.optical.grid, pair.sar.grid, pair.grid)
        made = Registration(*grids, found.matches, found.fit, verdict, source.name, names, lap.seconds, scale, use)
        return replace(made, pose=found.pose)


def _use_of(dem: PathLike, fitted: Fit) -> str:
    """Whether the heights of a raster are used, and why."""
    name, error = Path(dem).name, fitted.held_out
    if WITH_HEIGHTS not in error:
        return f"{name}: not used, nothing was fitted"
    compared = f"held-out matches are {error[WITH_HEIGHTS]:.2f} map units off with it, {error['local']:.2f} without"
    if fitted.warp.model != "local":
        return f"{name}: not used, the model is {fitted.warp.model}; {compared}"
    return f"{name}: {'used' if fitted.by_heights else 'not used'}; {compared}"
