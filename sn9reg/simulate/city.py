"""A city or a town: streets that divide the land into blocks, straight first, then bent; houses and things between."""

from dataclasses import dataclass

import cv2
import numpy as np

from sn9reg.raster.grid import Points
from sn9reg.simulate.field import Bounds
from sn9reg.simulate.landuse import Kind, Solid, World, rectangle
from sn9reg.simulate.noise import waves
from sn9reg.simulate.roads import closed, densified, normals
from sn9reg.simulate.solids import STOREY

_PACE = 4.0  # metres from place to place where room for a house is looked for
# Least and greatest length and depth of houses, and gap between them, in metres, by the use of a block.
_HOUSES = {
    "flats": ((11, 21), (10, 17), (1.5, 5)),
    "rows": ((32, 70), (11, 16), (10, 22)),
    "towers": ((18, 26), (18, 26), (12, 28)),
    "halls": ((22, 60), (18, 40), (6, 16)),
}
_PLOTS = (Kind.YARD, Kind.PAVED, Kind.PAVED, Kind.GRAVEL, Kind.BARE, Kind.MEADOW)


@dataclass(frozen=True)
class Style:
    """What a city is like."""

    block: tuple[float, float]  # least and greatest area of a block, square metres
    storeys: tuple[int, int]
    uses: tuple[float, ...]  # of blocks: how often each of `_USES` is met
    green: float  # trees in a hundred square metres of open ground


_USES = ("flats", "rows", "court", "towers", "halls", "open")
STYLES = {
    "city": Style((3_000, 9_000), (4, 12), (0.68, 0.08, 0.1, 0.04, 0.05, 0.05), 0.15),
    "town": Style((6_000, 20_000), (1, 5), (0.62, 0.1, 0.04, 0.0, 0.1, 0.14), 0.6),
}


class City(World):
    """A plan of straight streets and convex blocks, which is bent, and what fills it; streets meet at its junctions."""

    def __init__(self, bounds: Bounds, style: Style, seed: int) -> None:
        super().__init__(bounds, seed)
        self._style = style
        # Plane waves, long and short: (16, 2) wave numbers, (16,) phases, (16, 2) metres by which they move places.
        strength, bearing = float(self.random.choice([0.3, 1.0, 1.6])), self.random.uniform(0, 2 * np.pi, 16)
        length = np.repeat([1100.0, 330.0], 8) * self.random.uniform(0.75, 1.4, 16)
        numbers = np.column_stack([np.cos(bearing), np.sin(bearing)]) * (2 * np.pi / length)[:, None]
        swing = self.random.normal(0, 1, (16, 2)) * np.repeat([12.0, 2.5], 8)[:, None] * strength
        self._bend = numbers, self.random.uniform(0, 2 * np.pi, 16), swing
        self._streets: list[tuple[Points, float]] = []  # (k, 2) bent line, width in metres
        self._blocks: list[Points] = []
        turn = self.random.uniform(0, np.pi / 2)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        side = float(np.linalg.norm(bounds.size)) / 2 + 80
        waiting = [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side @ rotation.T + bounds.centre]
        while waiting:
            block = waiting.pop()
            middle = block.mean(axis=0)
            radius = float(np.linalg.norm(block - middle, axis=1).max())
            if not bounds.grow(60 + radius).holds(middle[None])[0]:
                continue
            if area_of(block) < self.random.uniform(*style.block):
                self._blocks.append(block)
            else:
                waiting += self._divided(block)
        for line, width in self._streets:  # everything in its order: what is laid later lies on top
            self.take_line(line, width + 2.5)
        for block in self._blocks:
            self._block(block)
        for line, width in self._streets:
            self.ground.add(self.random, Kind.PAVEMENT, line, width + self.random.uniform(2.5, 5))
        for line, width in sorted(self._streets, key=lambda road: road[1]):
            self.ground.add(self.random, Kind.ROAD, line, width)
            if width > 17:  # a green strip between both ways
                self.ground.add(self.random, Kind.MEADOW, line[2:-2], 2.5)
        for line, width in self._streets:
            self._along(line, width)
        self.junctions = np.concatenate([line[[0, -1]] for line, _ in self._streets])

    def _divided(self, block: Points) -> list[Points]:
        """Both parts of a block on both sides of a new street, across its longer side."""
        area, (middle, sides, angle) = area_of(block), box_of(block)
        along = angle + (0 if sides[0] > sides[1] else np.pi / 2) + self.random.normal(0, 0.05)
        normal = np.array([np.cos(along), np.sin(along)])
        place = middle + normal * max(sides) * self.random.uniform(-0.14, 0.14)
        way, ends, corners = (block - place) @ normal, list[Points](), list[tuple[float, Points]]()
        for i in range(len(block)):
            j = (i + 1) % len(block)
            corners.append((way[i], block[i]))
            if way[i] * way[j] < 0:
                ends.append(block[i] + (block[j] - block[i]) * way[i] / (way[i] - way[j]))
                corners.append((0.0, ends[-1]))
        width = self.random.uniform(*((16, 28) if area > 4e5 else (9, 15) if area > 6e4 else (5.5, 9)))
        if len(ends) == 2:
            self._streets.append((self._bent(densified(np.array(ends), 6.0)), float(width)))
        return [np.array([corner for side, corner in corners if sign * side <= 0]) for sign in (1, -1)]

    def _bent(self, places: Points) -> Points:
        """(N, 2) where places of the plan come to lie."""
        numbers, phases, swing = self._bend
        return np.asarray(places + np.cos(places @ numbers.T + phases) @ swing)

    def _turned(self, place: Points, facing: Points) -> tuple[Points, Points]:
        here, there = self._bent(np.stack([place, place + facing]))
        return here, (there - here) / np.linalg.norm(there - here)

    def _house(
        self, middle: Points, facing: Points, length: float, depth: float, height: float, gap: float = 1.0
    ) -> bool:
        """A house, its plot and its roof, where there is room."""
        middle, facing = self._turned(middle, facing)
        if self.taken(middle[None])[0]:
            return False
        outline = rectangle(middle, facing, length, depth, self.random.normal(0, 0.02))
        if not self.free(rectangle(middle, facing, length + gap, depth + gap)):
            return False
        if self.random.random() < 0.7:
            plot = rectangle(middle, facing, length + self.random.uniform(4, 14), depth + self.random.uniform(4, 14))
            self.ground.add(self.random, int(self.random.choice(_PLOTS)), closed(plot))
            if self.random.random() < 0.3:
                for a, b in zip(plot, np.roll(plot, -1, axis=0), strict=True):
                    if self.random.random() < 0.7:
                        wall, tall = densified(np.stack([a, b]), 12.0), self.random.uniform(1, 2.6)
                        self.solids.add(self.random, Solid.WALL, wall, 0.35, tall)
        self.take(outline)
        hipped = height < 16 and self.random.random() < 0.4
        self.solids.add(self.random, Solid.HIPPED if hipped else Solid.FLAT, outline, height=height)
        across = np.array([-facing[1], facing[0]])
        # On a flat roof, stair heads, tanks, panels.
        for _ in range(0 if hipped else int(self.random.integers(1, 3 + int(length * depth / 120)))):
            u, v = self.random.uniform(-0.4, 0.4, 2) * [length, depth]
            sides = self.random.uniform(1.0, 4.5, 2)
            if max(sides / [length, depth]) < 0.6:
                shape = rectangle(middle + u * across + v * facing, facing, *sides.tolist())
                self.solids.add(self.random, Solid.CLUTTER, shape, height=height + self.random.uniform(0.6, 3.0))
        return True

    def _block(self, block: Points) -> None:
        use = str(self.random.choice(_USES, p=np.array(self._style.uses) / sum(self._style.uses)))
        kind = self.random.choice(_PLOTS)
        if use == "open":
            kind = self.random.choice([Kind.MEADOW, Kind.BARE, Kind.GRAVEL, Kind.PARKING, Kind.YARD])
        elif use == "halls":
            kind = self.random.choice([Kind.PAVED, Kind.PARKING, Kind.GRAVEL])
        self.ground.add(self.random, int(kind), self._bent(closed(block)))
        middle, sides, turn = box_of(block)
        u, v = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        usual = self.random.uniform(*self._style.storeys)
        built = len(self.solids.kind)
        if use == "court":
            self._court(block, usual)
        elif use in _HOUSES:
            self._houses(use, block, middle, u, v, sides, usual)
        if use == "open":
            self._open(kind, block, middle, u, v)
        elif len(self.solids.kind) == built:  # nothing of that size has room
            self._houses("flats", block, middle, u, v, sides, usual)
        self._trees(block, use)

    def _houses(
        self, use: str, block: Points, middle: Points, u: Points, v: Points, sides: tuple[float, float], usual: float
    ) -> None:
        draw = self.random.uniform
        length, depth, gap = (draw(*pair) for pair in _HOUSES[use])
        if self.random.random() < 0.5:
            u, v, sides = v, u, sides[::-1]
        down = -sides[1] / 2 + depth / 2
        while down < sides[1] / 2:
            along, built = -sides[0] / 2 + length / 2, False
            while along < sides[0] / 2:
                size = (length, depth) if use == "rows" else (length * draw(0.75, 1.25), depth * draw(0.8, 1.2))
                storeys = max(1, round(usual + self.random.normal(0, 1.2 if use == "flats" else 0.4)))
                height = draw(6, 12) if use == "halls" else STOREY * storeys + draw(0.3, 1.2)
                place = middle + along * u + down * v
                if inside(block, place, 3.0) and self._house(place, v, *size, height):
                    along, built = along + size[0] + gap * draw(0.7, 1.4), True
                else:
                    along += _PACE
            down += depth * 1.1 + gap * draw(0.7, 1.2) if built else _PACE

    def _court(self, block: Points, usual: float) -> None:
        """Houses wall to wall along the streets, around a courtyard."""
        inset, depth = self.random.uniform(8, 12), self.random.uniform(11, 15)
        for a, b in zip(block, np.roll(block, -1, axis=0), strict=True):
            length = float(np.linalg.norm(b - a))
            if length < 30:
                continue
            along = (b - a) / length
            inward = np.array([-along[1], along[0]])
            inward *= np.sign(inward @ (block.mean(axis=0) - a))
            way = inset + 2.0
            while way < length - inset - 12:
                side = min(self.random.uniform(12, 26), length - inset - way)
                storeys = max(2, round(usual + self.random.normal(0, 0.6)))
                place = a + along * (way + side / 2) + inward * (inset + depth / 2)
                self._house(place, -inward, side - 0.2, depth, STOREY * storeys + 0.8, gap=0.0)
                way += side + 1.0

    def _open(self, kind: int, block: Points, middle: Points, u: Points, v: Points) -> None:
        """A car park has cars in rows; another open plot has a track across it, as people walk."""
        if kind == Kind.PARKING:
            for row in np.arange(-60, 60, 8.0):
                for place in np.arange(-60, 60, 2.8):
                    at = middle + place * u + row * v
                    if inside(block, at, 12) and self.random.random() < 0.6:
                        self._car(*self._turned(at, v))
        else:
            for _ in range(int(self.random.integers(1, 3))):
                ends = block[self.random.permutation(len(block))[:2]]
                line = self._bent(densified(ends, 6.0))
                line += 2 * normals(line) * waves(int(self.random.integers(1 << 30)), 60, line, 6)[:, None]
                self.ground.add(self.random, Kind.TRACK, line, self.random.uniform(1.2, 3.5))

    def _car(self, middle: Points, facing: Points) -> None:
        size = self.random.uniform(1.7, 2.0), self.random.uniform(3.9, 5.2)
        if self.random.random() < 0.06:
            size = 2.5, self.random.uniform(7, 13)
        self.solids.add(self.random, Solid.CAR, rectangle(middle, facing, *size), height=self.random.uniform(1.3, 1.9))

    def _trees(self, block: Points, use: str) -> None:
        chance = self._style.green * self.random.uniform(0, 2) * (1.5 if use == "open" else 1)
        count = int(self.random.poisson(area_of(block) / 100 * chance))
        places = self.random.uniform(block.min(axis=0), block.max(axis=0), (count, 2))
        places = self._bent(places[np.array([inside(block, place) for place in places], bool)])
        for place in places[~self.taken(places)]:
            self.solids.tree(self.random, place, (2.5, 7.0), (0.9, 1.6))

    def _along(self, line: Points, width: float) -> None:
        """Parked cars, trees and poles along a street."""
        line = densified(line, 2.9)
        sides = normals(line)
        tangents = np.column_stack([sides[:, 1], -sides[:, 0]])
        full, planted = self.random.uniform(0.1, 0.85), self.random.random() < 0.35
        for sign in (-1, 1):
            for index in range(2, len(line) - 2):
                kerb = line[index] + sign * sides[index] * (width / 2)
                if index % 2 and self.random.random() < full:
                    self._car(kerb - sign * sides[index] * 1.2, tangents[index])
                if planted and index % 3 == 0 and self.random.random() < 0.7:
                    self.solids.tree(self.random, kerb + sign * sides[index] * 1.2, (2.0, 5.0), (0.9, 1.6))
                elif index % 12 == 5:
                    pole = rectangle(kerb + sign * sides[index] * 0.6, tangents[index], 0.4, 0.4)
                    self.solids.add(self.random, Solid.POLE, pole, height=self.random.uniform(6, 10))
        if width > 10:  # traffic
            for index in range(3, len(line) - 3, 5):
                if self.random.random() < 0.4:
                    aside = sides[index] * (width * 0.2 * self.random.choice([-1, 1]))
                    self._car(line[index] + aside, tangents[index])


def area_of(polygon: Points) -> float:
    """In square metres."""
    x, y = (polygon - polygon[0]).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def box_of(polygon: Points) -> tuple[Points, tuple[float, float], float]:
    """The least rectangle around a polygon: its middle, its sides in metres, and how far it is turned, radians."""
    middle = polygon.mean(axis=0)  # float32 holds metres near it, not map coordinates
    centre, (width, height), angle = cv2.minAreaRect((polygon - middle).astype(np.float32))
    return middle + centre, (width, height), float(np.radians(angle))


def inside(polygon: Points, place: Points, margin: float = 6.0) -> bool:
    """Whether a place lies in a convex polygon, so far from its edge."""
    local = (polygon - place).astype(np.float32)
    return float(cv2.pointPolygonTest(local, (0.0, 0.0), True)) > margin
