"""Evidence that a warp is right, from the pixels themselves, whichever matcher found it: templates of the optical scene
that share no pixel are compared with the SAR scene around the places where the warp puts them. Where it is right, the
similarity there stands above its surroundings for nearly all of them."""

import math
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from sn9reg.fit.correspondences import Floats
from sn9reg.fit.warp import Warp, least_squares_affine, on_a_line
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.dense.described import FeatureExtractor
from sn9reg.matchers.dense.lattice import Lattice
from sn9reg.matchers.dense.search import TILE, Level, search
from sn9reg.raster.grid import Points, Window, coarse_to_common, to_common, to_level
from sn9reg.raster.scene import ScenePair

# All lengths are in pixels of the level.
_TEMPLATE, _MIN_TEMPLATE = 128, 24  # largest and smallest side of a template
_RADIUS, _MARGIN = 48, 20  # of the search around the warp's place, and what features need beyond it
_SLIP = 4  # error that a right warp may have, the same for all templates
_JITTER = 2  # error that one template may have beside that
_CHANCE = 0.5  # height of the best of a few neighbouring places, by chance
_ELSEWHERE = 8  # distance from which another peak of the surface is a rival
_PLACES = 36  # number of templates at most, about
_CROWDED_TILE = 640  # side of the tiles that are described at once where templates lie close together
_STRAIGHT = 0.02  # a warp that turns or scales by more has the SAR scene turned and scaled back


@dataclass(frozen=True)
class Evidence:
    """What N templates say of a warp. Heights are those of the similarity at the place where the warp puts a template,
    in standard deviations of the similarity in its surroundings."""

    optical_xy: Points  # (N, 2) centres of the templates, pixels of the common grid
    standing: Floats  # (N,) height above the mean of the surroundings
    lead: float  # height of the mean over all templates above the next best place
    clear: float = 1.0  # that lead as a share of the height of the mean; where texture repeats itself, hardly any

    def __len__(self) -> int:
        return len(self.standing)

    @property
    def mean(self) -> float:
        """Mean of `standing`; 0 without templates."""
        return float(self.standing.mean()) if len(self) else 0.0

    @property
    def total(self) -> float:
        """By how many standard deviations the sum of `standing` lies above chance."""
        return (self.mean - _CHANCE) * math.sqrt(len(self))


NO_EVIDENCE = Evidence(np.zeros((0, 2)), np.zeros(0), 0.0)


def default_features(pair: ScenePair) -> FeatureExtractor:
    """The default matcher's features, which give evidence on the matches of every matcher."""
    from sn9reg.matchers.base import make_matcher  # here, so that importing this does not load a matcher

    matcher: Any = make_matcher(DEFAULT_MATCHER)
    return matcher.features(pair)


def gather(pair: ScenePair, warp: Warp, step: float, extract: FeatureExtractor) -> Evidence:
    """Evidence for a warp. step: side of the pixels that are compared, in common pixels. extract: the features that are
    compared. Raises InputError where a scene cannot be read."""
    factor = max(1, round(step))
    inside = Window(*(n // factor for n in astuple(pair.overlap)))
    side = int(np.clip(min(inside.shape) // 2, _MIN_TEMPLATE, _TEMPLATE))
    lattice = Lattice.over(inside, side, side, _PLACES)
    nodes = lattice.nodes
    there = to_level(pair.grid.to_pixel(warp(pair.grid.to_map(to_common(nodes, factor)))), factor)
    matrix = np.eye(3)
    if not on_a_line(nodes):
        matrix[:2] = least_squares_affine(nodes, there)
    if np.abs(matrix[:2, :2] - np.eye(2)).max() > _STRAIGHT:
        common, back = coarse_to_common(factor), np.linalg.inv(matrix)
        pair = pair.posed(common @ matrix @ np.linalg.inv(common))
        there = there @ back[:2, :2].T + back[:2, 2]
    level = Level(factor, side, _RADIUS, _MARGIN)
    tile = _CROWDED_TILE if lattice.spacing < 2 * side else TILE
    found = search(pair, level, nodes, there - nodes, extract, way_back=False, tile=tile)
    if not found.usable.any():
        return NO_EVIDENCE
    surfaces = found.values[found.usable].astype(np.float64)  # (N, D, D) around the warp's places
    surfaces = surfaces - surfaces.mean(axis=(1, 2), keepdims=True)
    surfaces = surfaces / np.maximum(surfaces.std(axis=(1, 2), keepdims=True), 1e-9)
    together = surfaces.mean(axis=0)
    near = slice(_RADIUS - _SLIP, _RADIUS + _SLIP + 1)
    row, col = (int(n) + near.start for n in divmod(int(together[near, near].argmax()), 2 * _SLIP + 1))
    # The small error of a right warp is the same for all templates: the best place of their mean is taken for it.
    here = np.s_[row - _JITTER : row + _JITTER + 1, col - _JITTER : col + _JITTER + 1]
    standing = surfaces[:, here[0], here[1]].max(axis=(1, 2))
    y, x = np.indices(together.shape)
    elsewhere = together[np.maximum(np.abs(x - col), np.abs(y - row)) > _ELSEWHERE].max()
    lead = float(together[row, col] - elsewhere)
    clear = lead / max(float(together[row, col]), 1e-9)
    return Evidence(to_common(nodes[found.usable], factor), standing, lead / max(float(together.std()), 1e-9), clear)
