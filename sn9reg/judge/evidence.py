"""Evidence that a warp is right, from the pixels themselves, whoever found it.

Templates that share no pixel are cut from the optical scene and compared with the SAR scene around where the warp says.
Where the warp is right the similarity there stands above all of its surroundings, again and again; where a pair does
not belong together it may do so once, by the choice of the warp, but not everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sn9reg.fit.correspondences import Floats
from sn9reg.fit.warp import Warp, least_squares_affine
from sn9reg.matchers.dense.lattice import Lattice
from sn9reg.matchers.dense.search import TILE, FeatureExtractor, Level, search
from sn9reg.raster.grid import Points, Window, coarse_to_common, to_common, to_level
from sn9reg.raster.scene import ScenePair

_TEMPLATE, _LEAST, _RADIUS, _MARGIN = 128, 24, 48, 20  # pixels of the level
_SLIP = 4  # pixels that the warp may be off and still be the one that is meant
_REACH = 2  # pixels by which templates may differ from one another
_CHANCE = 0.5  # the best of a few neighbouring places stands as high anywhere
_ELSEWHERE = 8  # pixels beyond which a place of the surface is another one
_PLACES = 36  # at most, about
_CROWDED = 640  # side of what is described at once where templates lie close together
_STRAIGHT = 0.02  # the SAR scene is turned and scaled back where the warp does that by more


@dataclass(frozen=True)
class Evidence:
    """What N templates say of a warp. optical_xy: (N, 2) pixels of the common grid. standing: (N,) by how many standard
    deviations of its surroundings the similarity at the warp's place stands above their mean. lead: of all templates
    together, by how many standard deviations it stands above the next best place."""

    optical_xy: Points
    standing: Floats
    lead: float

    def __len__(self) -> int:
        return len(self.standing)

    @property
    def mean(self) -> float:
        return float(self.standing.mean()) if len(self) else 0.0

    @property
    def total(self) -> float:
        """Of all templates together: by how many standard deviations their sum stands above chance."""
        return (self.mean - _CHANCE) * math.sqrt(len(self))


NO_EVIDENCE = Evidence(np.zeros((0, 2)), np.zeros(0), 0.0)


def gather(pair: ScenePair, warp: Warp, step: float, extract: FeatureExtractor) -> Evidence:
    """Evidence for a warp. step: side of the pixels that are compared, common pixels.

    Raises InputError where a scene cannot be read.
    """
    factor = max(1, round(step))
    window = pair.overlap
    inside = Window(
        window.col // factor, window.row // factor, max(1, window.width // factor), max(1, window.height // factor)
    )
    side = int(np.clip(min(inside.shape) // 2, _LEAST, _TEMPLATE))
    lattice = Lattice.over(inside, side, side, _PLACES)
    nodes = lattice.nodes
    there = _moved(pair, warp, nodes, factor)
    matrix = _straight(nodes, there)
    if np.abs(matrix[:2, :2] - np.eye(2)).max() > _STRAIGHT:
        common = coarse_to_common(factor)
        pair = pair.posed(common @ matrix @ np.linalg.inv(common))
        back = np.linalg.inv(matrix)
        there = there @ back[:2, :2].T + back[:2, 2]
    level = Level(factor, side, _RADIUS, _MARGIN)
    tile = _CROWDED if lattice.spacing < 2 * side else TILE
    surfaces = search(pair, level, nodes, there - nodes, extract, way_back=False, tile=tile)
    if not surfaces.usable.any():
        return NO_EVIDENCE
    standing, lead = _standing(_standard(surfaces.values[surfaces.usable]))
    return Evidence(to_common(nodes[surfaces.usable], factor), standing, lead)


def _standard(surfaces: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(N, D, D) surfaces with mean 0 and standard deviation 1."""
    values = surfaces.astype(np.float64)
    values -= values.mean(axis=(1, 2), keepdims=True)
    return np.asarray(values / np.maximum(values.std(axis=(1, 2), keepdims=True), 1e-9))


def _standing(surfaces: npt.NDArray[np.float64]) -> tuple[Floats, float]:
    """(N,) height of (N, D, D) surfaces at the warp's place, and by how much their mean leads there."""
    together = surfaces.mean(axis=0)
    near = slice(_RADIUS - _SLIP, _RADIUS + _SLIP + 1)
    row, col = (int(n) + near.start for n in divmod(int(together[near, near].argmax()), 2 * _SLIP + 1))
    # A warp that is off by a little is off everywhere.
    here = np.s_[row - _REACH : row + _REACH + 1, col - _REACH : col + _REACH + 1]
    standing = surfaces[:, here[0], here[1]].max(axis=(1, 2))
    y, x = np.indices(together.shape)
    elsewhere = together[np.maximum(np.abs(x - col), np.abs(y - row)) > _ELSEWHERE].max()
    return standing, float((together[row, col] - elsewhere) / max(float(together.std()), 1e-9))


def _moved(pair: ScenePair, warp: Warp, nodes: Points, factor: int) -> Points:
    """Where the warp puts (N, 2) places, all in pixels of the level."""
    optical_map = pair.grid.to_map(to_common(nodes, factor))
    return to_level(pair.grid.to_pixel(warp(optical_map)), factor)


def _straight(nodes: Points, there: Points) -> npt.NDArray[np.float64]:
    """(3, 3) the affine nearest to the warp; the identity where there are too few places to tell, or all in a row."""
    matrix = np.eye(3)
    if len(nodes) >= 4 and np.linalg.svd(nodes - nodes.mean(axis=0), compute_uv=False)[1] > 1:
        matrix[:2] = least_squares_affine(nodes, there)
    return matrix
