"""What stands on the ground: parcels, water, roads, buildings, trees, as outlines in map coordinates."""

from dataclasses import dataclass, field
from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import Voronoi, cKDTree

from sn9reg.raster.grid import Grid, Points
from sn9reg.simulate.field import Bounds, GroundField, Look
from sn9reg.simulate.noise import waves
from sn9reg.simulate.roads import Roads, closed, densified, normals

Random = np.random.Generator
Parcels = tuple[cKDTree, npt.NDArray[np.int64]]  # of their (N, 2) seeds, and (N,) kinds
Triple = tuple[float, float, float]
# What the ground is made of; the rest is what no shape covers.
Kind = IntEnum(
    "Kind",
    "FIELD MEADOW SOIL WOOD YARD WATER HEDGE TRACK SHOULDER ROAD PAVED GRAVEL PARKING PAVEMENT BARE REST",
    start=0,
)
# What stands on it: houses with a flat and with a hipped roof, what is on their roofs, and the rest.
Solid = IntEnum("Solid", "FLAT HIPPED CLUTTER CAR WALL POLE TREE", start=0)
# How each kind of ground looks. Optical: darkest and brightest colour, strength of the texture, coarse (12 m), middle
# (3 m), fine (0.8 m); SAR: least and greatest intensity, strength of the texture, 20 m, 6 m, 1.5 m.
MATERIALS: dict[Kind, tuple[Triple, Triple, Triple, float, float, Triple]] = {
    Kind.FIELD: ((62, 84, 42), (168, 152, 98), (0.05, 0.03, 0.04), 0.030, 0.200, (0.12, 0.10, 0.10)),
    Kind.MEADOW: ((76, 102, 52), (112, 126, 70), (0.06, 0.05, 0.06), 0.060, 0.120, (0.18, 0.12, 0.12)),
    Kind.SOIL: ((118, 92, 66), (190, 168, 138), (0.06, 0.04, 0.04), 0.018, 0.160, (0.15, 0.10, 0.12)),
    Kind.WOOD: ((40, 52, 28), (56, 70, 38), (0.08, 0.10, 0.12), 0.100, 0.150, (0.10, 0.15, 0.25)),
    Kind.YARD: ((88, 98, 66), (142, 134, 108), (0.06, 0.06, 0.08), 0.050, 0.130, (0.15, 0.22, 0.40)),
    Kind.WATER: ((30, 48, 52), (44, 66, 66), (0.04, 0.02, 0.01), 0.004, 0.007, (0.10, 0.05, 0.05)),
    Kind.HEDGE: ((44, 62, 32), (60, 80, 42), (0.05, 0.15, 0.15), 0.200, 0.400, (0.00, 0.20, 0.30)),
    Kind.TRACK: ((158, 142, 112), (188, 172, 142), (0.04, 0.06, 0.05), 0.015, 0.045, (0.05, 0.10, 0.15)),
    Kind.SHOULDER: ((122, 120, 92), (150, 142, 116), (0.05, 0.08, 0.06), 0.110, 0.260, (0.05, 0.15, 0.25)),
    Kind.ROAD: ((88, 88, 90), (140, 138, 136), (0.02, 0.03, 0.03), 0.008, 0.016, (0.05, 0.05, 0.05)),
    Kind.PAVED: ((128, 126, 120), (188, 182, 172), (0.04, 0.06, 0.05), 0.012, 0.045, (0.10, 0.15, 0.25)),
    Kind.GRAVEL: ((132, 124, 110), (196, 186, 168), (0.04, 0.05, 0.08), 0.040, 0.140, (0.12, 0.15, 0.20)),
    Kind.PARKING: ((78, 80, 84), (126, 126, 124), (0.03, 0.04, 0.03), 0.008, 0.020, (0.05, 0.08, 0.10)),
    Kind.PAVEMENT: ((132, 128, 122), (182, 174, 162), (0.03, 0.05, 0.04), 0.012, 0.040, (0.05, 0.15, 0.25)),
    Kind.BARE: ((128, 104, 80), (186, 164, 134), (0.06, 0.05, 0.05), 0.030, 0.140, (0.15, 0.12, 0.15)),
    Kind.REST: ((92, 104, 62), (92, 104, 62), (0.1, 0.08, 0.06), 0.08, 0.08, (0.15, 0.1, 0.1)),
}


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

    def labelled(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(n + 1,) kinds and (n + 1, 3) tones by label: k is shape k - 1; 0, where none is, is of the last kind."""
        return np.array([-1, *self.kind]), np.array([[0.0] * 3, *self.tone])

    def tree(self, random: Random, place: Points, width: tuple[float, float], slender: tuple[float, float]) -> None:
        """Add a tree; least and greatest width of its crown, and how many times as high it is."""
        crown = random.uniform(*width)
        self.add(random, Solid.TREE, np.repeat(place[None], 2, axis=0), crown, crown * random.uniform(*slender))


class World:
    """A place that never was, as it is laid out, and which of its square metres are taken already."""

    def __init__(self, bounds: Bounds, seed: int) -> None:
        self.random = np.random.default_rng([seed, 3])
        self.ground = Shapes()  # flat
        self.solids = Shapes()  # convex footprints, lines with a width, and trees: a place, as wide as the crown
        self.junctions: Points = np.zeros((0, 2))  # map coordinates
        self._taken = np.zeros((np.ceil(bounds.size[::-1]).astype(int) + 1).tolist(), np.uint8)
        self._corner = bounds.low

    def take_line(self, outline: Points, width: float) -> None:
        cv2.polylines(self._taken, [self._cells(outline)], False, 1, max(1, round(width)))

    def take(self, outline: Points) -> None:
        cv2.fillPoly(self._taken, [self._cells(outline)], 1)

    def free(self, outline: Points) -> bool:
        """Whether a polygon lies inside the bounds and touches nothing taken."""
        cells = self._cells(outline)
        (left, top), (right, bottom) = cells.min(axis=0), cells.max(axis=0)
        if left < 0 or top < 0 or bottom >= self._taken.shape[0] or right >= self._taken.shape[1]:
            return False
        around = self._taken[top : bottom + 1, left : right + 1]
        return not (around & cv2.fillPoly(np.zeros_like(around), [cells - [left, top]], 1)).any()

    def taken(self, places: Points) -> npt.NDArray[np.bool_]:
        cells = np.clip(self._cells(places), 0, np.array(self._taken.shape[::-1]) - 1)
        return np.asarray(self._taken[cells[:, 1], cells[:, 0]] > 0)

    def _cells(self, places: Points) -> npt.NDArray[np.int32]:
        return np.rint(places - self._corner).astype(np.int32)


@dataclass(frozen=True)
class Scene:
    """What is to be drawn: both grids, the ground's displacement, and what stands on it."""

    optical: Grid
    sar: Grid
    field: GroundField
    world: World
    look: Look
    seed: int


def build_village(bounds: Bounds, scene: Bounds, seed: int) -> World:
    """Parcels, waters, roads, buildings, trees over `bounds`; near the middle of `scene` a village and a river."""
    water = _water(bounds, scene, seed)
    roads = Roads(bounds, scene, water, seed)
    world = World(bounds, seed)
    world.junctions = roads.junctions
    parcels = _parcels(world, bounds, roads, seed)
    ground, random = world.ground, world.random
    for outline in water:
        ground.add(random, Kind.WATER, outline)
        world.take(outline)
    by_width = sorted(roads.roads, key=lambda road: road.width)
    for road in (road for road in by_width if road.rank < 2):  # under all roads, so that none crosses a junction
        ground.add(random, Kind.SHOULDER, road.line, road.width + 2.5)
    for road in by_width:
        ground.add(random, Kind.ROAD if road.rank < 2 else Kind.TRACK, road.line, road.width)
        world.take_line(road.line, road.width + 3)
    _buildings(world, roads)
    _trees(world, bounds, parcels)
    return world


def _parcels(world: World, bounds: Bounds, roads: Roads, seed: int) -> Parcels:
    """Irregular parcels, longer than wide, turning with the land."""
    random, ground = world.random, world.ground
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
        outline = closed(diagram.vertices[region])
        if bounds.grow(60).holds(outline).any():
            ground.add(random, int(kind[index]), outline)
            if random.random() < 0.3 and kind[index] != Kind.YARD:
                edge = densified(diagram.vertices[region[:2]], 12.0)
                ground.add(random, Kind.HEDGE, edge, random.uniform(1.0, 2.5))
    return cKDTree(places), kind


def _buildings(world: World, roads: Roads) -> None:
    """Rows of houses along the roads of villages, larger and taller towards the middle, and a farm here and there."""
    random = world.random
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
                draw, sizes = random.random(), ((9, 17), (8, 12), (3, 9))
                if near < 0.6 and draw < 0.12:
                    sizes = ((18, 34), (11, 15), (11, 25))
                elif draw > 0.93:
                    sizes = ((25, 55), (15, 26), (6, 11))
                length, depth, height = (random.uniform(*size) for size in sizes)
                side = sides[index]
                middle = road.line[index] + side * (road.width / 2 + random.uniform(2.5, 8) + depth / 2)
                outline = rectangle(middle, side, length, depth, random.normal(0, 0.05))
                if world.free(rectangle(middle, side, length + 3, depth + 3)):
                    world.take(outline)
                    world.solids.add(random, Solid.HIPPED, outline, height=height)
                    if random.random() < 0.35:  # a wing, a shed
                        wing = rectangle(middle + side * (depth / 2 + 4), sign * side, length * 0.45, 8.0)
                        world.take(wing)
                        world.solids.add(random, Solid.HIPPED, wing, height=height * random.uniform(0.5, 1.0))
                position += length + random.uniform(3, 14)


def rectangle(middle: Points, facing: Points, length: float, depth: float, turn: float = 0.0) -> Points:
    """(4, 2) corners: two along one eave, two along the other; `facing` is a unit vector, depth runs along it."""
    cos, sin = np.cos(turn), np.sin(turn)
    forward = np.array([cos * facing[0] - sin * facing[1], sin * facing[0] + cos * facing[1]])
    u, v = np.array([-forward[1], forward[0]]) * (length / 2), forward * (depth / 2)
    return np.stack([middle - u - v, middle + u - v, middle + u + v, middle - u + v])


def _trees(world: World, bounds: Bounds, parcels: Parcels) -> None:
    """Closed crowns in woods, scattered ones elsewhere; none on a road, a roof or in water."""
    random, (places, _) = world.random, bounds.lattice(6.0)
    places += random.uniform(-2.6, 2.6, places.shape)
    parcel = parcels[1][parcels[0].query(places)[1]]
    chance = np.select([parcel == Kind.WOOD, parcel == Kind.YARD, parcel == Kind.MEADOW], [0.96, 0.07, 0.012], 0.002)
    grown = (random.random(len(places)) < chance) & ~world.taken(places)
    for place, wood in zip(places[grown], parcel[grown] == Kind.WOOD, strict=True):
        world.solids.tree(random, place, (4.5, 9.0) if wood else (2.5, 7.5), (1.0, 1.7))


def _water(bounds: Bounds, scene: Bounds, seed: int) -> list[Points]:
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
