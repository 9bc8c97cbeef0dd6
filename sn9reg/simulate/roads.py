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
    """One road."""

    line: Points  # (k, 2) map coordinates
    width: float  # metres
    rank: int  # 0 main road, 1 street, 2 track


@dataclass(frozen=True)
class Roads:
    """A network and its villages."""

    roads: list[Road]
    junctions: Points  # (N, 2) where roads meet
    villages: Points  # (M, 2) centres
    radii: npt.NDArray[np.float64]  # (M,) of the villages

    def village_distance(self, places: Points) -> npt.NDArray[np.float64]:
        """(N,) distance from the nearest village's centre as a fraction of its radius."""
        distance, index = cKDTree(self.villages).query(places)
        return np.asarray(distance / self.radii[index])


def densified(line: Points, step: float) -> Points:
    """The same line with a vertex at least every `step` metres."""
    lengths = np.linalg.norm(np.diff(line, axis=0), axis=1)
    parts = [
        a + np.linspace(0, 1, max(1, int(np.ceil(length / step))), endpoint=False)[:, None] * (b - a)
        for a, b, length in zip(line[:-1], line[1:], lengths, strict=True)
    ]
    return np.concatenate([*parts, line[-1:]])


def normals(line: Points) -> Points:
    """(k, 2) unit normals, to the left of the way."""
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    return np.column_stack([-tangent[:, 1], tangent[:, 0]])


class _Network:
    """Roads as they grow."""

    def __init__(self, bounds: Bounds, villages: Roads, water: cKDTree, seed: int) -> None:
        self.roads: list[Road] = []
        self.junctions: list[Points] = []
        self.random = np.random.default_rng([seed, 4])
        self._bounds, self._villages, self._water = bounds, villages, water
        self._cells: dict[tuple[int, int], list[Points]] = defaultdict(list)

    def add(self, line: Points, rank: int) -> None:
        self.roads.append(Road(line, float(self.random.uniform(*_WIDTHS[rank])), rank))
        cells = np.floor(line / _CELL).astype(int)
        for i, j in np.unique(cells, axis=0).tolist():
            self._cells[i, j].append(line[(cells == [i, j]).all(axis=1)])

    def branch(self, parents: list[Road], every: tuple[float, float], length: tuple[float, float], rank: int) -> None:
        """Let roads of `rank` branch off `parents`, in villages (streets) or outside (tracks)."""
        for parent in parents:
            sides = normals(parent.line)
            index = round(self.random.uniform(0.3, 1.0) * every[0] / _STEP)
            while index < len(parent.line) - 4:
                start = parent.line[index : index + 1]
                in_village = self._villages.village_distance(start)[0] < 1
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
            if self._water.query(line[-1])[0] < 14:
                line.pop()
                break
            distance, index = existing.query(line[-1])
            if way > _CLEARANCE + 6 and distance < _CLEARANCE:
                line.append(existing.data[index])
                self.junctions.append(line[-1])
                break
            if 12 < way <= _CLEARANCE + 6 and distance < way * 0.6:
                return  # would run beside another road
        if len(line) * _STEP >= 30:
            self.junctions.append(start)
            self.add(densified(np.array(line), _STEP), rank)


def make_roads(bounds: Bounds, scene: Bounds, water: list[Points], seed: int) -> Roads:
    """The network over `bounds`, with a village near the middle of `scene`."""
    villages, radii = _villages(bounds, scene, seed)
    shores = cKDTree(np.concatenate([densified(outline, 8.0) for outline in water]))
    network = _Network(bounds, Roads([], np.zeros((0, 2)), villages, radii), shores, seed)
    _main_roads(network, villages, seed)
    main = list(network.roads)
    network.branch(main, (45, 85), (90, 260), 1)
    network.branch(network.roads[len(main) :], (50, 90), (50, 170), 1)
    network.branch(main, (90, 200), (120, 450), 2)
    network.branch([road for road in network.roads if road.rank == 2], (120, 220), (100, 300), 2)
    inside = [road for road in network.roads if bounds.grow(20).holds(road.line).any()]
    junctions = np.array(network.junctions)
    close = [max(pair) for pair in cKDTree(junctions).query_pairs(9.0)]
    return Roads(inside, np.delete(junctions, close, axis=0), villages, radii)


def _villages(bounds: Bounds, scene: Bounds, seed: int) -> tuple[Points, npt.NDArray[np.float64]]:
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
    return moved[keep] + scene.centre, radii[keep]


def _main_roads(network: _Network, villages: Points, seed: int) -> None:
    """Roads along the Gabriel graph of the villages, winding with the land."""
    tree = cKDTree(villages)
    corners = np.sort(Delaunay(villages).simplices, axis=1)
    for a, b in np.unique(corners[:, [[0, 1], [1, 2], [0, 2]]].reshape(-1, 2), axis=0):
        start, end = villages[a], villages[b]
        length = float(np.linalg.norm(end - start))
        if tree.query((start + end) / 2)[0] < length / 2 - 1e-6 or length > 2.2 * _VILLAGES_EVERY:
            continue
        t = np.linspace(0, 1, int(length / _STEP) + 2)
        straight = start + t[:, None] * (end - start)
        side = np.array([-(end - start)[1], (end - start)[0]]) / length
        sway = 0.05 * length * waves(seed + 40, 600, straight, 8) + 5 * waves(seed + 41, 180, straight, 8)
        network.add(straight + side * (np.sin(np.pi * t) * sway)[:, None], 0)
        network.junctions.extend([start, end])
