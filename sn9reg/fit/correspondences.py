"""Correspondences: places in the optical and the SAR scene that show the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Points

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_PLACES = ("optical_xy", "sar_xy", "solo_xy")
_NUMBERS = ("score", "sigma", "distance", "rival_distance", "vote_shift")


@dataclass(frozen=True)
class Source:
    """What all matches of one matcher have in common: the fields of that name of `Correspondences`."""

    search_radius: float
    step: float
    footprint: float
    tried: int


@dataclass(frozen=True)
class Correspondences:
    """N matches in pixels of the common grid. Raises ValueError where shapes disagree or a coordinate is not finite."""

    grid: Grid  # the common grid
    optical_xy: Points  # (N, 2)
    sar_xy: Points  # (N, 2)
    score: Floats  # (N,) in [0, 1], higher is better
    sigma: Floats  # (N,) expected error per axis, pixels
    distance: Floats  # (N,) dissimilarity of the best candidate
    rival_distance: Floats  # (N,) dissimilarity of the second-best candidate
    solo_xy: Points  # (N, 2) the match's witness: the SAR place that its own pixels choose, without neighbours
    search_radius: float  # how far from the prediction a match could have been found, pixels; gives chance agreement
    step: float  # side of the pixels that were matched, e.g. 2 for a pyramid level of half size; tolerances count in it
    footprint: float  # side of the square that one match looked at, pixels
    tried: int  # number of places that were looked at for these matches
    calibrated: bool = False  # the score is the probability of an error below 3 `step`, and sigma holds: `calibration`
    # (N,) pixels by which a place moves when a wider circle of neighbours votes; 0 for all where neighbours do not vote
    vote_shift: Floats = field(default_factory=lambda: np.zeros(0))
    # Where several matchers were run: each by its name, the surest first, and (N,) which of them found a match
    sources: Mapping[str, Source] = field(default_factory=dict)
    source: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))

    def __post_init__(self) -> None:
        n = len(self.optical_xy)
        for name in ("vote_shift", "source"):
            if not (values := getattr(self, name)).size:
                object.__setattr__(self, name, np.zeros(n, values.dtype))
        for name in (*_PLACES, *_NUMBERS):
            values, shape = getattr(self, name), (n, 2) if name in _PLACES else (n,)
            if values.shape != shape or (name in _PLACES and not np.isfinite(values).all()):
                raise ValueError(f"{name}: expected {n} values, of places finite ones, got shape {values.shape}")
        if self.source.shape != (n,):
            raise ValueError(f"source: expected {n} values, got shape {self.source.shape}")

    def __len__(self) -> int:
        return len(self.optical_xy)

    def keep(self, chosen: Flags | npt.NDArray[np.intp]) -> Correspondences:
        """The matches chosen by a boolean mask (N,) or by an array of indices."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in (*_PLACES, *_NUMBERS, "source")})

    def parts(self) -> dict[str, Correspondences]:
        """The matches of every source by its name, as they were before they were joined."""
        found = {}
        for k, (name, common) in enumerate(self.sources.items()):
            part = replace(self.keep(self.source == k), sources={}, **asdict(common))
            found[name] = replace(part, source=np.zeros(len(part), np.uint8))
        return found

    @property
    def lead(self) -> Correspondences:
        """Those of the first source, by which the verdict counts; all where there is one matcher."""
        return next(iter(self.parts().values()), self)

    @property
    def optical_map(self) -> Points:
        """(N, 2) `optical_xy` as map coordinates in the common grid's CRS; `sar_map` likewise."""
        return self.grid.to_map(self.optical_xy)

    @property
    def sar_map(self) -> Points:
        return self.grid.to_map(self.sar_xy)

    @property
    def extent(self) -> float:
        """The larger side of the rectangle around the matches' optical places, map units."""
        return float(np.ptp(self.optical_map, axis=0).max()) if len(self) else 0.0

    @property
    def span(self) -> float:
        """How many footprints the matches span, side by side: the width of the scene."""
        return self.extent / (self.footprint * self.grid.resolution)


def joined(parts: Mapping[str, Correspondences]) -> Correspondences:
    """The matches of several sources on one grid, the surest first, as one set that remembers where each came from.
    Step, footprint and search radius of the first hold for all."""
    names = (*_PLACES, *_NUMBERS)
    arrays: dict[str, Any] = {n: np.concatenate([getattr(part, n) for part in parts.values()]) for n in names}
    source = np.repeat(np.arange(len(parts), dtype=np.uint8), [len(part) for part in parts.values()])
    common = {name: Source(p.search_radius, p.step, p.footprint, p.tried) for name, p in parts.items()}
    tried, first = sum(part.tried for part in parts.values()), next(iter(parts.values()))
    return replace(first, **arrays, source=source, sources=common, tried=tried)


def adaptive_ratio(matches: Correspondences) -> Flags:
    """(N,) which matches pass the adaptive-ratio filter: d'_i > d_i + mean_j(d'_j - d_j), where d and d' are the
    distances to the best and the second-best candidate; of a dense surface, to its two best separate peaks. He et al.,
    "Deep convolutional network based on attention mechanism for matching optical and SAR images", 2.4."""
    gap, source = matches.rival_distance - matches.distance, matches.source
    count = np.maximum(np.bincount(source), 1)  # distances of different sources are not to be compared
    return np.asarray(gap > (np.bincount(source, gap) / count)[source])
