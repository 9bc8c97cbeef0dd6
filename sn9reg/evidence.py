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

from sn9reg.correspondences import Floats
from sn9reg.dense.lattice import Lattice
from sn9reg.dense.tiles import FeatureExtractor, Level, search
from sn9reg.grid import Points, Window
from sn9reg.scene import ScenePair
from sn9reg.warp import Warp, least_squares_affine

_TEMPLATE, _LEAST, _RADIUS, _MARGIN = 128, 24, 48, 20  # pixels of the level
_REACH = 2  # pixels around the place that the warp says that count as it
_ELSEWHERE = 8  # pixels beyond which a place of the surface is another one
_PLACES = 36  # at most, about
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
        return self.mean * math.sqrt(len(self))


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
        common = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
        pair = pair.posed(common @ matrix @ np.linalg.inv(common))
        back = np.linalg.inv(matrix)
        there = there @ back[:2, :2].T + back[:2, 2]
    level = Level(factor, side, _RADIUS, _MARGIN)
    surfaces = search(pair, level, nodes, there - nodes, extract)
    values = surfaces.values[surfaces.usable]
    if not len(values):
        return NO_EVIDENCE
    mean, spread = values.mean(axis=(1, 2), keepdims=True), values.std(axis=(1, 2), keepdims=True)
    standard = (values - mean) / np.maximum(spread, 1e-9)
    # Where in the surface the warp's place lies: the middle, but for the fraction of a pixel.
    middle = slice(_RADIUS - _REACH, _RADIUS + _REACH + 1)
    standing = standard[:, middle, middle].max(axis=(1, 2))
    return Evidence((nodes[surfaces.usable] + 0.5) * factor - 0.5, standing.astype(np.float64), _lead(standard))


def _lead(surfaces: npt.NDArray[np.float32]) -> float:
    """Of (N, D, D) surfaces: by how many standard deviations their mean is higher at the middle than elsewhere."""
    together = surfaces.mean(axis=0, dtype=np.float64)
    y, x = np.indices(together.shape) - _RADIUS
    distance = np.maximum(np.abs(x), np.abs(y))
    here, elsewhere = together[distance <= _REACH].max(), together[distance > _ELSEWHERE].max()
    return float((here - elsewhere) / max(float(together.std()), 1e-9))


def _moved(pair: ScenePair, warp: Warp, nodes: Points, factor: int) -> Points:
    """Where the warp puts (N, 2) places, all in pixels of the level."""
    optical_map = pair.grid.to_map((nodes + 0.5) * factor - 0.5)
    return (pair.grid.to_pixel(warp(optical_map)) + 0.5) / factor - 0.5


def _straight(nodes: Points, there: Points) -> npt.NDArray[np.float64]:
    """(3, 3) the affine nearest to the warp; the identity where there are too few places to tell."""
    matrix = np.eye(3)
    if len(nodes) >= 4:
        matrix[:2] = least_squares_affine(nodes, there)
    return matrix
