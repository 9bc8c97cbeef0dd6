"""What stands on the ground: parcels, water, roads, buildings, trees, as outlines in map coordinates."""

from dataclasses import dataclass, field
from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import Voronoi, cKDTree

from sn9reg.raster.grid import Points
from sn9reg.simulate.field import Bounds
from sn9reg.simulate.noise import waves
from sn9reg.simulate.roads import Roads, densified, normals

Random = np.random.Generator
# What the ground is made of.
Kind = IntEnum(
    "Kind",
    "FIELD MEADOW SOIL WOOD YARD WATER HEDGE TRACK SHOULDER ROAD PAVED GRAVEL PARKING PAVEMENT BARE",
    start=0,
)
# What stands on it: houses with a flat and with a hipped roof, what is on their roofs, and the rest.
Solid = IntEnum("Solid", "FLAT HIPPED CLUTTER CAR WALL POLE TREE", start=0)


@dataclass
class Shapes:
    """Outlines of one layer in painting order."""

    kind: list[int] = field(default_factory=list)  # a `Kind` on the ground, a `Solid` of what stands on it
    outlines: list[Points] = field(default_factory=list)  # (k, 2) each, in map coordinates; a line if it has a width
    width: list[float] = field(default_factory=list)  # metres; 0 for a polygon
    height: list[float] = field(default_factory=list)  # metres
    tone: list[list[float]] = field(default_factory=list)  # three random numbers in [0, 1), to look like no other

    def add(self, random: Random, kind: int, outline: Points, width: float = 0.0, height: float = 0.0) -> None:
        self.kind.append(int(kind))
        self.outlines.append(outline)
        self.width.append(width)
        self.height.append(height)
        self.tone.append(random.random(3).tolist())


@dataclass(frozen=True)
class World:
    """A place that never was."""

    ground: Shapes  # flat
    solids: Shapes  # convex footprints, lines with a width, and trees: a place, as wide as the crown
    junctions: Points  # (N, 2) map coordinates


class Taken:
    """Which square metres are taken already."""

    def __init__(self, bounds: Bounds) -> None:
        width, height = np.ceil(bounds.size).astype(int).tolist()
        self.mask = np.zeros((height + 1, width + 1), np.uint8)
        self.corner = np.array([bounds.left, bounds.bottom])

    def line(self, outline: Points, width: float) -> None:
        cv2.polylines(self.mask, [self._cells(outline)], False, 1, max(1, round(width)))

    def polygon(self, outline: Points) -> None:
        cv2.fillPoly(self.mask, [self._cells(outline)], 1)

    def free(self, outline: Points) -> bool:
        """Whether a polygon lies inside the bounds and touches nothing taken."""
        cells = self._cells(outline)
        (left, top), (right, bottom) = cells.min(axis=0), cells.max(axis=0)
        if left < 0 or top < 0 or bottom >= self.mask.shape[0] or right >= self.mask.shape[1]:
            return False
        around = self.mask[top : bottom + 1, left : right + 1]
        return not (around & cv2.fillPoly(np.zeros_like(around), [cells - [left, top]], 1)).any()

    def at(self, places: Points) -> npt.NDArray[np.bool_]:
        cells = np.clip(self._cells(places), 0, np.array(self.mask.shape[::-1]) - 1)
        return np.asarray(self.mask[cells[:, 1], cells[:, 0]] > 0)

    def _cells(self, places: Points) -> npt.NDArray[np.int32]:
        return np.rint(places - self.corner).astype(np.int32)


def build_world(bounds: Bounds, roads: Roads, water: list[Points], seed: int) -> World:
    """Parcels around the roads and waters, buildings along the roads of villages, trees in woods, hedges, gardens."""
    random = np.random.default_rng([seed, 3])
    ground = Shapes()
    parcels = _parcels(ground, bounds, roads, seed, random)
    taken = Taken(bounds)
    for outline in water:
        ground.add(random, Kind.WATER, outline)
        taken.polygon(outline)
    by_width = sorted(roads.roads, key=lambda road: road.width)
    for road in (road for road in by_width if road.rank < 2):  # under all roads, so that none crosses a junction
        ground.add(random, Kind.SHOULDER, road.line, road.width + 2.5)
    for road in by_width:
        ground.add(random, Kind.ROAD if road.rank < 2 else Kind.TRACK, road.line, road.width)
        taken.line(road.line, road.width + 3)
    solids = Shapes()
    _buildings(solids, roads, taken, random)
    _trees(solids, bounds, *parcels, taken, random)
    return World(ground, solids, roads.junctions)


def _parcels(
    ground: Shapes, bounds: Bounds, roads: Roads, seed: int, random: Random
) -> tuple[Points, npt.NDArray[np.int64]]:
    """Irregular parcels, longer than wide, turning with the land. Returns their (N, 2) seeds and kinds."""
    turn = random.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    reach = np.linalg.norm(bounds.size) / 2 + 150
    along, across = np.meshgrid(np.arange(-reach, reach, 125.0), np.arange(-reach, reach, 62.0))
    along[1::2] += 60
    places = np.column_stack([along.ravel(), across.ravel()])
    places += random.uniform(-1, 1, places.shape) * [38, 17]
    places = places[random.random(len(places)) > 0.2] @ rotation.T + bounds.centre
    places += 70 * np.column_stack([waves(seed + k, 900, places, 12) for k in (20, 21)])
    diagram = Voronoi(places)
    woods, rural = waves(seed + 22, 650, places), waves(seed + 23, 800, places)
    village = roads.village_distance(places)
    draw = random.random(len(places))
    kind = np.select(
        [village < 0.5, (woods > 0.9) & (village > 1.1), draw < 0.25, draw < 0.42, rural > 1.5],
        [Kind.YARD, Kind.WOOD, Kind.MEADOW, Kind.SOIL, Kind.SOIL],
        Kind.FIELD,
    )
    for index in np.flatnonzero(bounds.grow(150).holds(places)).tolist():
        region = diagram.regions[diagram.point_region[index]]
        if not region or -1 in region:
            continue
        outline = densified(diagram.vertices[[*region, region[0]]], 12.0)
        if bounds.grow(60).holds(outline).any():
            ground.add(random, int(kind[index]), outline)
            if random.random() < 0.3 and kind[index] != Kind.YARD:
                edge = densified(diagram.vertices[region[:2]], 12.0)
                ground.add(random, Kind.HEDGE, edge, random.uniform(1.0, 2.5))
    return places, kind


def _buildings(buildings: Shapes, roads: Roads, taken: Taken, random: Random) -> None:
    """Rows of houses along the roads of villages, larger and taller towards the middle, and a farm here and there."""
    for road in roads.roads:
        way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(road.line, axis=0), axis=1))])
        for sign in (-1, 1):
            sides = normals(road.line) * sign
            position = random.uniform(6, 20)
            while position < way[-1] - 4:
                index = int(np.searchsorted(way, position))
                near = float(roads.village_distance(road.line[index : index + 1])[0])
                if near > 1 or road.rank == 2:
                    position += random.uniform(40, 160)
                    if random.random() > 0.12:
                        continue
                length, depth, height = _house(random, near)
                side = sides[index]
                middle = road.line[index] + side * (road.width / 2 + random.uniform(2.5, 8) + depth / 2)
                outline = rectangle(middle, side, length, depth, random.normal(0, 0.05))
                if taken.free(rectangle(middle, side, length + 3, depth + 3)):
                    taken.polygon(outline)
                    buildings.add(random, Solid.HIPPED, outline, height=height)
                    if random.random() < 0.35:  # a wing, a shed
                        wing = rectangle(middle + side * (depth / 2 + 4), sign * side, length * 0.45, 8.0)
                        taken.polygon(wing)
                        buildings.add(random, Solid.HIPPED, wing, height=height * random.uniform(0.5, 1.0))
                position += length + random.uniform(3, 14)


def _house(random: Random, near: float) -> tuple[float, float, float]:
    """Length, depth and height in metres."""
    draw = random.random()
    if near < 0.6 and draw < 0.12:
        return random.uniform(18, 34), random.uniform(11, 15), random.uniform(11, 25)
    if draw > 0.93:
        return random.uniform(25, 55), random.uniform(15, 26), random.uniform(6, 11)
    return random.uniform(9, 17), random.uniform(8, 12), random.uniform(3, 9)


def rectangle(middle: Points, facing: Points, length: float, depth: float, turn: float = 0.0) -> Points:
    """(4, 2) corners: two along one eave, two along the other; `facing` is a unit vector, depth runs along it."""
    cos, sin = np.cos(turn), np.sin(turn)
    forward = np.array([cos * facing[0] - sin * facing[1], sin * facing[0] + cos * facing[1]])
    u, v = np.array([-forward[1], forward[0]]) * (length / 2), forward * (depth / 2)
    return np.stack([middle - u - v, middle + u - v, middle + u + v, middle - u + v])


def _trees(
    trees: Shapes, bounds: Bounds, parcels: Points, kind: npt.NDArray[np.int64], taken: Taken, random: Random
) -> None:
    """Closed crowns in woods, scattered ones elsewhere; none on a road, a roof or in water."""
    places, _ = bounds.lattice(6.0)
    places += random.uniform(-2.6, 2.6, places.shape)
    parcel = kind[cKDTree(parcels).query(places)[1]]
    chance = np.select([parcel == Kind.WOOD, parcel == Kind.YARD, parcel == Kind.MEADOW], [0.96, 0.07, 0.012], 0.002)
    grown = (random.random(len(places)) < chance) & ~taken.at(places)
    for place, wood in zip(places[grown], parcel[grown] == Kind.WOOD, strict=True):
        crown = float(random.uniform(4.5, 9.0) if wood else random.uniform(2.5, 7.5))
        trees.add(random, Solid.TREE, np.repeat(place[None], 2, axis=0), crown, crown * random.uniform(1.0, 1.7))


def make_water(bounds: Bounds, scene: Bounds, seed: int) -> list[Points]:
    """A river through the scene, beside its middle, and some ponds: polygons (k, 2)."""
    random = np.random.default_rng([seed, 2])
    bearing = random.uniform(0, np.pi)
    flow, side = np.array([[np.cos(bearing), np.sin(bearing)], [-np.sin(bearing), np.cos(bearing)]])
    reach = float(np.linalg.norm(bounds.size)) / 2 + 100
    across = float(np.abs(side) @ scene.size) * random.choice([-1, 1]) * random.uniform(0.2, 0.35)
    straight = scene.centre + side * across + np.arange(-reach, reach, 10.0)[:, None] * flow
    swing = min(60.0, float(scene.size.min()) / 10)
    sway = swing * waves(seed + 30, 500, straight, 8) + 8 * waves(seed + 31, 170, straight, 8)
    middle = straight + side * sway[:, None]
    half = normals(middle) * (random.uniform(5, 11) * (1 + 0.25 * waves(seed + 32, 200, straight, 8)))[:, None]
    polygons = [np.concatenate([middle + half, (middle - half)[::-1]])]
    angle = np.linspace(0, 2 * np.pi, 40)[:-1]
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    for _ in range(round(float(scene.size.prod()) / 1e6)):
        centre = scene.centre + random.uniform(-0.5, 0.5, 2) * scene.size
        shape = circle * random.uniform(0.6, 1.4, 2) * random.uniform(15, 60)
        rim = shape * (1 + 0.18 * waves(seed + 33, 60, centre + shape, 8))[:, None]
        polygons.append(densified(centre + rim, 8.0))
    return polygons
