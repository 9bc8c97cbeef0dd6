"""Correspondences: places in the optical and the SAR scene that show the same thing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Points

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_PLACES = ("optical_xy", "sar_xy", "solo_xy")
_NUMBERS = ("score", "sigma", "distance", "rival_distance", "vote_shift")


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

    def __post_init__(self) -> None:
        n = len(self.optical_xy)
        if not self.vote_shift.size:
            object.__setattr__(self, "vote_shift", np.zeros(n))
        for name in (*_PLACES, *_NUMBERS):
            values, shape = getattr(self, name), (n, 2) if name in _PLACES else (n,)
            if values.shape != shape or (name in _PLACES and not np.isfinite(values).all()):
                raise ValueError(f"{name}: expected {n} values, of places finite ones, got shape {values.shape}")

    def __len__(self) -> int:
        return len(self.optical_xy)

    def keep(self, chosen: Flags | npt.NDArray[np.intp]) -> Correspondences:
        """The matches chosen by a boolean mask (N,) or by an array of indices."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in (*_PLACES, *_NUMBERS)})

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


def adaptive_ratio(matches: Correspondences) -> Flags:
    """(N,) which matches pass the adaptive-ratio filter: d'_i > d_i + mean_j(d'_j - d_j), where d and d' are the
    distances to the best and the second-best candidate; of a dense surface, to its two best separate peaks. He et al.,
    "Deep convolutional network based on attention mechanism for matching optical and SAR images", 2.4."""
    gap = matches.rival_distance - matches.distance
    return np.asarray(gap > gap.mean()) if len(gap) else np.zeros(0, bool)
