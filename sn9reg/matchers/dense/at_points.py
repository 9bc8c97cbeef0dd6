"""Correspondences of surfaces, and of templates around given places, where a warp is known and no neighbour votes."""

from typing import Any

import numpy as np

from sn9reg.fit.correspondences import Correspondences
from sn9reg.matchers.dense.correlation import Peaks, find_peaks
from sn9reg.matchers.dense.search import FeatureExtractor, Level, Surfaces, search
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
    return correspondences(pair, surfaces, nodes, peaks, moved, none, moved)


def correspondences(
    pair: ScenePair,
    surfaces: Surfaces,
    nodes: Points,
    peaks: Peaks,
    moved: Points,
    predicted: Points,
    solo: Points,
    **more: Any,
) -> Correspondences:
    """The matches at N peaks off the rim of the search, whose way back ends near their start.

    All but `peaks` are in pixels of the level. nodes: centres of the templates. moved: how far the peaks lie from the
    middle of their surfaces. predicted: shifts of these middles. solo: shifts that a template chooses without a vote.
    """
    level, f = surfaces.level, surfaces.level.factor
    kept = surfaces.usable & (surfaces.returned < _RETURN) & (np.abs(moved).max(axis=1) < level.radius - 0.5)
    here = to_common(nodes, f)
    return Correspondences(
        grid=pair.grid,
        optical_xy=here,
        sar_xy=here + (predicted + moved) * f,
        score=peaks.score.double().numpy(),
        sigma=peaks.sigma.double().numpy() * f,
        distance=1 - peaks.value.double().numpy(),
        rival_distance=1 - peaks.rival.double().numpy(),
        solo_xy=here + solo * f,
        search_radius=float(level.radius * f),
        step=float(f),
        footprint=float(level.template * f),
        tried=int(surfaces.usable.sum()),
        **more,
    ).keep(kept)
