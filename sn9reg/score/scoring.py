"""Tie-point scores: SpaceNet 9's number bit for bit, and beside it the unrounded errors in pixels and metres."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from sn9reg.fit.correspondences import Floats
from sn9reg.offsets import OffsetMap, offsets_between
from sn9reg.raster.grid import Grid, Points, common_grid
from sn9reg.tiepoints import TiePoints

_KINDS = {"mean": "mean", "median": "median", "rmse": "RMSE", "ce90": "CE90"}
_LABELS = {"sn9_score": "SpaceNet 9 score", "sn9_mean_px": "SpaceNet 9 mean, px"}
_LABELS |= {f"{key}_{unit}": f"{label}, {unit}" for unit in ("px", "m") for key, label in _KINDS.items()}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """How far an offset map is from tie-points, in optical pixels (px) and metres (m; NaN in a pixel frame). All but
    SpaceNet 9's numbers are unrounded and respect pixel centres, rotation and tie-points between pixels. Means are NaN
    if the map holds no value at a tie-point."""

    sn9_mean_px: float  # SpaceNet 9's mean error (`sn9_reference`), which counts every row once
    sn9_score: float  # SpaceNet 9's, 0 to 100
    mean_px: float
    median_px: float
    rmse_px: float
    ce90_px: float  # radius that holds 90 % of the points
    mean_m: float
    median_m: float
    rmse_m: float
    ce90_m: float
    n: int  # number of tie-points
    without_registration: Score | None = None  # the same for zero offsets
    # One row per tie-point: coordinates, offset, reference (unrounded and SpaceNet 9's, optical px) and errors.
    per_point: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; what is not finite becomes None."""
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.type in ("float", "int")}
        result: dict[str, Any] = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        if self.without_registration is not None:
            result["without_registration"] = self.without_registration.as_dict()
        return result


def score_rows(scored: Score) -> list[tuple[str, str, str]]:
    """(label, with registration, without) of each number that one of them has, as texts for people."""
    with_, without = scored.as_dict(), scored.as_dict()["without_registration"]
    rows = [(label, with_[key], without[key]) for key, label in _LABELS.items()]
    return [(label, _text(one), _text(other)) for label, one, other in rows if (one, other) != (None, None)]


def _text(value: float | None) -> str:
    return "no value" if value is None else f"{value:.2f}"


def score(offsets: OffsetMap, optical: Grid, sar: Grid, tiepoints: TiePoints) -> Score:
    """Compare an offset map with tie-points. Raises InputError if a tie-point lies outside its image, or one grid is a
    pixel frame and the other is not."""
    tiepoints.check_inside(optical, sar)
    points, xy = tiepoints.table(), tiepoints.optical_xy
    nearest = np.clip(np.floor(xy + 0.5), 0, [optical.width - 1, optical.height - 1])
    found, sn9_found = (offsets.sample(places)[:, :2] for places in (xy, nearest))
    truth, sn9_truth = (of(optical, sar, tiepoints) for of in (reference, sn9_reference))
    points[["dx", "dy"]], points[["reference_dx", "reference_dy"]] = found, truth
    points[["sn9_dx", "sn9_dy"]], points[["sn9_reference_dx", "sn9_reference_dy"]] = sn9_found, sn9_truth
    if gaps := int(points[["dx", "dy", "sn9_dx", "sn9_dy"]].isna().any(axis=1).sum()):
        what = "so that no mean can be given and SpaceNet 9 would count NaN; --per-point shows which"
        _log.warning("the offset map holds no value (NaN) at %d of %d tie-points, %s", gaps, len(points), what)
    scores = []
    for suffix, error, sn9_error in (("", found - truth, sn9_found - sn9_truth), ("_without", -truth, -sn9_truth)):
        points[f"error_px{suffix}"] = _length(error)
        points[f"error_m{suffix}"] = _length(metres(optical, xy, error))
        points[f"sn9_error_px{suffix}"] = _length(sn9_error)
        scores.append(Score(**_statistics(points, suffix), n=len(tiepoints)))
    return replace(scores[0], without_registration=scores[1], per_point=points)


def reference(optical: Grid, sar: Grid, tiepoints: TiePoints) -> Floats:
    """(N, 2) true offsets in optical pixels: pixel centres, CRS and rotation of both images respected."""
    sar_map = sar.map_to_crs(sar.to_map(tiepoints.sar_xy), optical.crs)
    return offsets_between(optical, optical.to_map(tiepoints.optical_xy), sar_map)


def sn9_reference(optical: Grid, sar: Grid, tiepoints: TiePoints) -> Floats:
    """(N, 2) reference offsets as SpaceNet 9 computes them: no half pixel, no rotation, rounded to whole pixels."""
    images = (optical.transform, tiepoints.optical_xy), (sar.transform, tiepoints.sar_xy)
    optical_map, sar_map = (np.column_stack([t.c + xy[:, 0] * t.a, t.f + xy[:, 1] * t.e]) for t, xy in images)
    step = np.array([optical.transform.a, optical.transform.e])
    with np.errstate(divide="ignore", invalid="ignore"):  # an image turned by 90 degrees has no such step
        return np.asarray(np.rint(optical.less_turns(sar.map_to_crs(sar_map, optical.crs) - optical_map) / step))


def metres(grid: Grid, xy: Points, steps: Floats) -> Floats:
    """(N, 2) pixel steps at (N, 2) pixels -> (N, 2) metres; NaN in a pixel frame. Degrees are measured where each point
    lies, by projecting the pixel around it."""
    if grid.crs is None:
        return np.full(np.shape(steps), np.nan)
    if not grid.crs.is_geographic:
        return np.asarray(steps) @ grid.linear.T * grid.metres_per_unit
    utm = common_grid(grid, grid).crs
    result = np.zeros(np.shape(steps))
    for axis, half in enumerate(([0.5, 0.0], [0.0, 0.5])):
        ends = [grid.map_to_crs(grid.to_map(xy + sign * np.array(half)), utm) for sign in (1, -1)]
        result += steps[:, axis : axis + 1] * (ends[0] - ends[1])
    return result


def _length(vectors: Floats) -> Floats:
    # One by one, as SpaceNet 9's scorer does: NumPy squares an array's numbers to another last bit than a single one.
    return np.array([np.sqrt(x**2 + y**2) for x, y in vectors], dtype=np.float64)


def _statistics(points: pd.DataFrame, suffix: str) -> dict[str, Any]:
    mean = float(np.mean(points[f"sn9_error_px{suffix}"].to_numpy()))
    result: dict[str, Any] = {"sn9_mean_px": mean, "sn9_score": 100.0 / (1 + 0.01 * mean)}
    for unit in ("px", "m"):
        error = points[f"error_{unit}{suffix}"].to_numpy()
        middle, ce90 = (math.nan, math.nan) if np.isnan(error).any() else (np.median(error), np.percentile(error, 90))
        statistics = {"mean": np.mean(error), "median": middle, "rmse": np.sqrt(np.mean(error**2)), "ce90": ce90}
        result |= {f"{name}_{unit}": float(value) for name, value in statistics.items()}
    return result
