"""A road network: villages joined by winding roads, streets that branch and meet, tracks into the fields."""

import itertools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import Delaunay, cKDTree

from sn9reg.raster.grid import Points
from sn9reg.simulate.field import Bounds
from sn9reg.simulate.noise import waves

_STEP = 6.0  # metres between two vertices
_VILLAGES_EVERY = 620.0
_CELL = 100.0
_WIDTHS = ((6.5, 9.0), (4.5, 6.5), (2.6, 3.6))  # least and greatest of a rank, metres
_CLEARANCE = 24.0  # metres to another road below which a road joins it


@dataclass(frozen=True)
class Road:
    line: Points  # (k, 2) map coordinates
    width: float  # metres
    rank: int  # 0 main road, 1 street, 2 track


def densified(line: Points, step: float) -> Points:
    """The same line with a vertex at least every `step` metres."""
    lengths = np.linalg.norm(np.diff(line, axis=0), axis=1)
    parts = [
        a + np.linspace(0, 1, max(1, int(np.ceil(length / step))), endpoint=False)[:, None] * (b - a)
        for a, b, length in zip(line[:-1], line[1:], lengths, strict=True)
    ]
    return np.concatenate([*parts, line[-1:]])


def closed(corners: Points) -> Points:
    """The outline through (k, 2) corners and back, with vertices near to each other."""
    return densified(np.concatenate([corners, corners[:1]]), 12.0)


def normals(line: Points) -> Points:
    """(k, 2) unit normals, to the left of the way."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    return np.column_stack([-tangent[:, 1], tangent[:, 0]])


class Roads:
    """A network over `bounds` and its villages, one of them near the middle of `scene`."""

    def __init__(self, bounds: Bounds, scene: Bounds, water: list[Points], seed: int) -> None:
        self.roads: list[Road] = []
        self.random = np.random.default_rng([seed, 4])
        self._villages, self._radii = _villages(bounds, scene, seed)
        self._bounds, self._shores = bounds, cKDTree(np.concatenate([densified(outline, 8.0) for outline in water]))
        self._cells: dict[tuple[int, int], list[Points]] = defaultdict(list)
        self._met: list[Points] = []
        self._join_villages(seed)
        main = list(self.roads)
        self._branch(main, (45, 85), (90, 260), 1)
        self._branch(self.roads[len(main) :], (50, 90), (50, 170), 1)
        self._branch(main, (90, 200), (120, 450), 2)
        self._branch([road for road in self.roads if road.rank == 2], (120, 220), (100, 300), 2)
        self.roads = [road for road in self.roads if bounds.grow(20).holds(road.line).any()]
        close = [max(pair) for pair in cKDTree(self._met).query_pairs(9.0)]
        self.junctions = np.delete(self._met, close, axis=0)  # (N, 2) where roads meet

    def village_distance(self, places: Points) -> npt.NDArray[np.float64]:
        """(N,) distance from the nearest village's centre as a fraction of its radius."""
        distance, index = self._villages.query(places)
        return np.asarray(distance / self._radii[index])

    def _join_villages(self, seed: int) -> None:
        """Main roads along the Gabriel graph of the villages, winding with the land."""
        villages = self._villages.data
        corners = np.sort(Delaunay(villages).simplices, axis=1)
        for a, b in np.unique(corners[:, [[0, 1], [1, 2], [0, 2]]].reshape(-1, 2), axis=0):
            start, end = villages[[a, b]]
            length = float(np.linalg.norm(end - start))
            if self._villages.query((start + end) / 2)[0] < length / 2 - 1e-6 or length > 2.2 * _VILLAGES_EVERY:
                continue
            t = np.linspace(0, 1, int(length / _STEP) + 2)
            straight = start + t[:, None] * (end - start)
            side = np.array([-(end - start)[1], (end - start)[0]]) / length
            sway = 0.05 * length * waves(seed + 40, 600, straight, 8) + 5 * waves(seed + 41, 180, straight, 8)
            self._add(straight + side * (np.sin(np.pi * t) * sway)[:, None], 0)
            self._met.extend([start, end])

    def _add(self, line: Points, rank: int) -> None:
        self.roads.append(Road(line, float(self.random.uniform(*_WIDTHS[rank])), rank))
        cells = np.floor(line / _CELL).astype(int)
        for i, j in np.unique(cells, axis=0).tolist():
            self._cells[i, j].append(line[(cells == [i, j]).all(axis=1)])

    def _branch(self, parents: list[Road], every: tuple[float, float], length: tuple[float, float], rank: int) -> None:
        """Let roads of `rank` branch off `parents`, in villages (streets) or outside (tracks)."""
        for parent in parents:
            sides = normals(parent.line)
            index = round(self.random.uniform(0.3, 1.0) * every[0] / _STEP)
            while index < len(parent.line) - 4:
                start = parent.line[index : index + 1]
                in_village = self.village_distance(start)[0] < 1
                if self._bounds.holds(start)[0] and in_village == (rank == 1):
                    side = sides[index] * self.random.choice([-1, 1])
                    self._grow(start[0], side, self.random.uniform(*length), rank)
                index += max(3, round(self.random.uniform(*every) / _STEP))

    def _grow(self, start: Points, side: Points, length: float, rank: int) -> None:
        """Grow one road until its length, another road (which it joins) or water."""
        heading = np.arctan2(side[1], side[0]) + self.random.normal(0, 0.22)
        bend = self.random.normal(0, 0.0016 if rank == 1 else 0.0025)
        reach = length + 30  # the vertices of all roads that are within it, and some more
        (left, bottom), (right, top) = (np.floor((start + r) / _CELL).astype(int).tolist() for r in (-reach, reach))
        cells = itertools.product(range(left, right + 1), range(bottom, top + 1))
        existing = cKDTree(np.concatenate([part for cell in cells for part in self._cells.get(cell, [])]))
        line = [start]
        for way in _STEP * np.arange(int(length / _STEP)):
            heading += bend * _STEP + self.random.normal(0, 0.015)
            line.append(line[-1] + _STEP * np.array([np.cos(heading), np.sin(heading)]))
            if self._shores.query(line[-1])[0] < 14:
                line.pop()
                break
            distance, index = existing.query(line[-1])
            if way > _CLEARANCE + 6 and distance < _CLEARANCE:
                line.append(existing.data[index])
                self._met.append(line[-1])
                break
            if 12 < way <= _CLEARANCE + 6 and distance < way * 0.6:
                return  # would run beside another road
        if len(line) * _STEP >= 30:
            self._met.append(start)
            self._add(densified(np.array(line), _STEP), rank)


def _villages(bounds: Bounds, scene: Bounds, seed: int) -> tuple[cKDTree, npt.NDArray[np.float64]]:
    """(N, 2) centres and (N,) radii: a loose lattice, one near the middle of the scene; 5 x 5 or more."""
    random = np.random.default_rng([seed, 7])
    nx, ny = np.maximum(2, np.ceil(bounds.size / 2 / _VILLAGES_EVERY)).astype(int).tolist()
    i, j = np.meshgrid(np.arange(-nx, nx + 1), np.arange(-ny, ny + 1))
    lattice = np.column_stack([(i + 0.5 * (j % 2)).ravel(), j.ravel()]) * _VILLAGES_EVERY
    moved = lattice + random.uniform(-0.3, 0.3, lattice.shape) * _VILLAGES_EVERY
    middle = (lattice == 0).all(axis=1)
    moved[middle] = random.uniform(-0.12, 0.12, 2) * np.minimum(scene.size, 1000)
    keep = middle | (random.random(len(lattice)) > 0.15)
    radii = random.uniform(110, 260, len(lattice))
    radii[middle] = 230
    return cKDTree(moved[keep] + scene.centre), radii[keep]
