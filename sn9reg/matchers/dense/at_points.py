"""Templates around given places, each compared without a vote of its neighbours, for where a warp is known."""

import numpy as np

from sn9reg.fit.correspondences import Correspondences
from sn9reg.matchers.dense.correlation import find_peaks
from sn9reg.matchers.dense.search import FeatureExtractor, Level, search
from sn9reg.matchers.dense.votes import centred
from sn9reg.raster.grid import Points, to_common
from sn9reg.raster.scene import ScenePair

_RETURN = 3.0  # pixels; a match whose way back ends farther from its start is dropped


def compare_at(pair: ScenePair, level: Level, nodes: Points, extract: FeatureExtractor) -> Correspondences:
    """Correspondences of optical templates at (N, 2) places, searched for around the same places of the SAR scene.

    nodes: centres of the templates, pixels of the level. Each match is the best sub-pixel peak of a template whose way
    back ends near its start. Raises InputError where a scene cannot be read.
    """
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
