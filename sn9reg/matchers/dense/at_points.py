"""Templates around given places, each compared on its own: what is left to do where a warp is known already."""

from __future__ import annotations

import numpy as np

from sn9reg.fit.correspondences import Correspondences
from sn9reg.matchers.dense.correlation import find_peaks
from sn9reg.matchers.dense.search import FeatureExtractor, Level, search
from sn9reg.matchers.dense.votes import centred
from sn9reg.raster.grid import Points, to_common
from sn9reg.raster.scene import ScenePair

_RETURN = 3.0  # pixels: a match that does not come back to within these is dropped


def compare_at(pair: ScenePair, level: Level, nodes: Points, extract: FeatureExtractor) -> Correspondences:
    """Correspondences at (N, 2) places, pixels of the level, searched for around the same place of the SAR scene: the
    best peaks of those whose template finds its way back, sub-pixel. Raises InputError where a scene cannot be read."""
    none = np.zeros_like(nodes)
    surfaces = search(pair, level, nodes, none, extract)
    peaks = find_peaks(centred(surfaces, none))
    moved = peaks.xy.double().numpy() - level.radius
    kept = surfaces.usable & (surfaces.returned < _RETURN) & (np.abs(moved).max(axis=1) < level.radius - 0.5)
    here = to_common(nodes, level.factor)
    there = here + moved * level.factor
    return Correspondences(
        grid=pair.grid,
        optical_xy=here,
        sar_xy=there,
        score=peaks.score.double().numpy(),
        sigma=peaks.sigma.double().numpy() * level.factor,
        distance=1 - peaks.value.double().numpy(),
        rival_distance=1 - peaks.rival.double().numpy(),
        solo_xy=there,
        search_radius=float(level.radius * level.factor),
        step=float(level.factor),
        footprint=float(level.template * level.factor),
        tried=int(surfaces.usable.sum()),
    ).keep(kept)
