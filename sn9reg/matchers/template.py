"""Dense template matching, coarse to fine, over a whole scene: what every matcher with dense features shares.

A pyramid level lays a lattice of templates over the overlap, computes their similarity surfaces around the shift that
the coarser level predicts, lets neighbours vote, and smooths the peaks to the next prediction. The finest level emits
the correspondences: sub-pixel peaks that survive a forward-backward check.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sn9reg.correlation import Peaks, find_peaks
from sn9reg.correspondences import Correspondences
from sn9reg.dense.aggregate import aggregate, centred
from sn9reg.dense.lattice import Field, Lattice, smooth_field
from sn9reg.dense.tiles import Level, Modality, Surfaces, search
from sn9reg.grid import Points, Window
from sn9reg.scene import Patch, ScenePair

log = logging.getLogger(__name__)

_COARSE_RADIUS = 40  # a coarsest level is one where the largest shift is at most this many pixels ...
_COARSE_SIDE = 96  # ... unless the scene would shrink below this
_RETURN = 3.0  # a match that does not come back to within this many pixels is dropped
_FINE_RADIUS = 12  # search of every finer level around its prediction


@dataclass(frozen=True)
class _Prediction:
    """A displacement field, in pixels of the common grid, on the lattice of a level."""

    lattice: Lattice
    factor: int
    field: Field

    def at(self, common_xy: Points) -> Points:
        """(N, 2) shifts in common pixels at (N, 2) places in common pixels."""
        return self.lattice.interpolate(self.field, to_level(common_xy, self.factor))


def to_level(common_xy: Points, factor: int) -> Points:
    """Common pixels -> pixels of the grid coarsened by `factor` (integers are centres in both)."""
    return (common_xy + 0.5) / factor - 0.5


def to_common(level_xy: Points, factor: int) -> Points:
    """The inverse of `to_level`."""
    return (level_xy + 0.5) * factor - 0.5


class TemplateMatcher:
    """Base of the dense matchers. A subclass gives `name` and `features`.

    max_offset: largest shift looked for, metres. template: side of a template, pixels of its level. spacing: step of
    the lattice, pixels of its level (default half a template). max_templates: at most about this many at a level.
    work_megapixels: the finest level is the first whose overlap has no more pixels than this.
    """

    name: str
    margin = 24  # pixels by which a feature feels the border of what it is computed from

    def __init__(
        self,
        max_offset: float = 150.0,
        template: int = 96,
        spacing: float | None = None,
        max_templates: int = 1600,
        work_megapixels: float = 40.0,
    ) -> None:
        self.max_offset = max_offset
        self.template = template
        self.spacing = spacing or template / 2
        self.max_templates = max_templates
        self.work_megapixels = work_megapixels

    def prepare(self, pair: ScenePair) -> Callable[[Patch, Modality], Tensor]:
        """The feature extractor for this pair: (patch, modality) -> (C, h, w), each pixel of unit length or zero."""
        raise NotImplementedError

    def levels(self, pair: ScenePair) -> list[Level]:
        """Coarsest first."""
        window = pair.overlap
        shift = self.max_offset / (pair.grid.resolution * pair.grid.metres_per_unit)
        factor = 1
        while window.width * window.height / factor**2 > self.work_megapixels * 1e6:
            factor *= 2
        factors = [factor]
        while shift / factors[-1] > _COARSE_RADIUS and min(window.shape) / factors[-1] / 2 >= _COARSE_SIDE:
            factors.append(factors[-1] * 2)
        result = []
        for f in reversed(factors):
            side = min(window.shape) // f
            template = max(16, min(self.template, side // 2 * 2 // (2 if f == factors[-1] and len(factors) > 1 else 1)))
            radius = min(math.ceil(shift / f) + 2, max(4, side // 2)) if f == factors[-1] else _FINE_RADIUS
            result.append(Level(f, template, radius, self.margin))
        return result

    def match(self, pair: ScenePair) -> Correspondences:
        """Correspondences on the finest level's lattice. Raises InputError where a scene cannot be read."""
        extract = self.prepare(pair)
        prediction: _Prediction | None = None
        levels = self.levels(pair)
        for level in levels[:-1]:
            prediction = self._predict(pair, level, prediction, extract)
        lattice = self._lattice(pair, levels[-1], self.max_templates)
        return self._emit(pair, levels[-1], lattice, prediction, extract)

    def _lattice(self, pair: ScenePair, level: Level, limit: int) -> Lattice:
        window = pair.overlap
        f = level.factor
        inside = Window(
            window.col // f, window.row // f, max(1, window.width // f), max(1, window.height // f)
        )
        return Lattice.over(inside, level.template, self.spacing * level.template / self.template, limit)

    def _surfaces(
        self, pair: ScenePair, level: Level, lattice: Lattice, prediction: _Prediction | None, extract: Callable
    ) -> tuple[Surfaces, Points]:
        places = to_common(lattice.nodes, level.factor)
        predicted = np.zeros_like(places) if prediction is None else prediction.at(places) / level.factor
        return search(pair, level, lattice.nodes, predicted, extract), predicted

    def _predict(
        self, pair: ScenePair, level: Level, prediction: _Prediction | None, extract: Callable
    ) -> _Prediction:
        lattice = self._lattice(pair, level, self.max_templates // 2)
        surfaces, predicted = self._surfaces(pair, level, lattice, prediction, extract)
        votes = aggregate(centred(surfaces, predicted), surfaces.usable, lattice, 1.0 if prediction is None else 0.8)
        peaks = find_peaks(votes)
        shift = predicted + peaks.xy.numpy() - level.radius
        weight = np.where(surfaces.usable, peaks.score.numpy() + 1e-3, 0.0)
        shape = (lattice.ny, lattice.nx)
        field = smooth_field(shift.reshape(*shape, 2), weight.reshape(shape), width=0.7)
        log.debug("level 1/%d: %d templates, %.2f mean score", level.factor, len(shift), float(peaks.score.mean()))
        return _Prediction(lattice, level.factor, field * level.factor)

    def _emit(
        self, pair: ScenePair, level: Level, lattice: Lattice, prediction: _Prediction | None, extract: Callable
    ) -> Correspondences:
        surfaces, predicted = self._surfaces(pair, level, lattice, prediction, extract)
        alone = centred(surfaces, predicted)
        solo, peaks = find_peaks(alone), find_peaks(aggregate(alone, surfaces.usable, lattice, 0.6))
        shift = predicted + peaks.xy.numpy() - level.radius
        kept = surfaces.usable & (np.abs(shift - predicted).max(axis=1) < level.radius - 0.5)
        kept &= surfaces.returned < _RETURN
        return _correspondences(pair, level, lattice.nodes, shift, predicted, solo, peaks, kept, int(surfaces.usable.sum()))


def _correspondences(
    pair: ScenePair,
    level: Level,
    nodes: Points,
    shift: Points,
    predicted: Points,
    solo: Peaks,
    peaks: Peaks,
    kept: npt.NDArray[np.bool_],
    tried: int,
) -> Correspondences:
    f = level.factor
    here = to_common(nodes, f)
    alone = predicted + solo.xy.numpy() - level.radius

    def column(values: Tensor) -> npt.NDArray[np.float64]:
        return values.numpy().astype(np.float64)

    return Correspondences(
        grid=pair.grid,
        optical_xy=here,
        sar_xy=here + shift * f,
        score=column(peaks.score),
        sigma=column(peaks.sigma) * f,
        distance=1 - column(peaks.value),
        rival_distance=1 - column(peaks.rival),
        solo_xy=here + alone * f,
        search_radius=float(level.radius * f),
        step=float(f),
        footprint=float(level.template * f),
        tried=tried,
    ).keep(kept)
