"""A city or a town: a plan whose blocks are full of houses, and what stands between them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sn9reg.raster.grid import Points
from sn9reg.simulate.field import Bounds
from sn9reg.simulate.landuse import Kind, Shapes, Solid, Taken, World, rectangle
from sn9reg.simulate.noise import waves
from sn9reg.simulate.plan import Plan, Street, area_of, inside, ring
from sn9reg.simulate.roads import densified, normals
from sn9reg.simulate.solids import STOREY

_PACE = 4.0  # metres from place to place where room for a house is looked for
_PLOTS = (Kind.YARD, Kind.PAVED, Kind.PAVED, Kind.GRAVEL, Kind.BARE, Kind.MEADOW)


@dataclass(frozen=True)
class Style:
    """What a city is like."""

    block: tuple[float, float]  # least and greatest area of a block, square metres
    storeys: tuple[int, int]
    uses: tuple[tuple[str, float], ...]  # of blocks, and how often each is met
    green: float  # trees in a hundred square metres of open ground


_CITY_USES = ("flats", 0.68), ("rows", 0.08), ("court", 0.1), ("towers", 0.04), ("halls", 0.05), ("open", 0.05)
_TOWN_USES = ("flats", 0.62), ("rows", 0.1), ("court", 0.04), ("halls", 0.1), ("open", 0.14)
CITY = Style((3_000, 9_000), (4, 12), _CITY_USES, 0.15)
TOWN = Style((6_000, 20_000), (1, 5), _TOWN_USES, 0.6)


class _Builder:
    """Fills a plan with houses and things."""

    def __init__(self, plan: Plan, bounds: Bounds, style: Style) -> None:
        self.plan, self.style, self.random = plan, style, plan.random
        self.ground, self.solids, self.taken = Shapes(), Shapes(), Taken(bounds)

    def house(
        self, middle: Points, facing: Points, length: float, depth: float, height: float, gap: float = 1.0
    ) -> bool:
        """A house, its plot and its roof, where there is room."""
        middle, facing = self.plan.turned(middle, facing)
        if self.taken.at(middle[None])[0]:
            return False
        outline = rectangle(middle, facing, length, depth, self.random.normal(0, 0.02))
        if not self.taken.free(rectangle(middle, facing, length + gap, depth + gap)):
            return False
        if self.random.random() < 0.7:
            plot = rectangle(middle, facing, length + self.random.uniform(4, 14), depth + self.random.uniform(4, 14))
            self.ground.add(self.random, int(self.random.choice(_PLOTS)), ring(plot))
            if self.random.random() < 0.3:
                self._walls(plot)
        self.taken.polygon(outline)
        hipped = height < 16 and self.random.random() < 0.4
        self.solids.add(self.random, Solid.HIPPED if hipped else Solid.FLAT, outline, height=height)
        if not hipped:
            self._roof(middle, facing, length, depth, height)
        return True

    def _roof(self, middle: Points, facing: Points, length: float, depth: float, height: float) -> None:
        """Stair heads, tanks, panels."""
        across = np.array([-facing[1], facing[0]])
        for _ in range(int(self.random.integers(1, 3 + int(length * depth / 120)))):
            u, v = self.random.uniform(-0.4, 0.4, 2) * [length, depth]
            sides = self.random.uniform(1.0, 4.5, 2)
            if max(sides / [length, depth]) < 0.6:
                shape = rectangle(middle + u * across + v * facing, facing, *sides.tolist())
                self.solids.add(self.random, Solid.CLUTTER, shape, height=height + self.random.uniform(0.6, 3.0))

    def _walls(self, plot: Points) -> None:
        for a, b in zip(plot, np.roll(plot, -1, axis=0), strict=True):
            if self.random.random() < 0.7:
                line, height = densified(np.stack([a, b]), 12.0), self.random.uniform(1, 2.6)
                self.solids.add(self.random, Solid.WALL, line, 0.35, height)

    def block(self, block: Points) -> None:
        """One block: its ground, its houses, its trees."""
        names, chances = zip(*self.style.uses, strict=True)
        use = str(self.random.choice(names, p=np.array(chances) / sum(chances)))
        kind = self.random.choice(_PLOTS)
        if use == "open":
            kind = self.random.choice([Kind.MEADOW, Kind.BARE, Kind.GRAVEL, Kind.PARKING, Kind.YARD])
        elif use == "halls":
            kind = self.random.choice([Kind.PAVED, Kind.PARKING, Kind.GRAVEL])
        self.ground.add(self.random, int(kind), self.plan.bent(ring(block)))
        centre, (width, high), angle = cv2.minAreaRect((block - block.mean(axis=0)).astype(np.float32))
        middle, turn = block.mean(axis=0) + centre, np.radians(angle)
        u, v = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        low, most = self.style.storeys
        usual = self.random.uniform(low, most)
        built = len(self.solids.kind)
        self._houses(use, block, middle, u, v, (width, high), usual)
        if use != "open" and len(self.solids.kind) == built:  # nothing of that size has room
            self._houses("flats", block, middle, u, v, (width, high), usual)
        if use == "open":
            self._open(kind, block, middle, u, v)
        self._trees(block, use)

    def _houses(
        self, use: str, block: Points, middle: Points, u: Points, v: Points, sides: tuple[float, float], usual: float
    ) -> None:
        draw = self.random.uniform
        sizes = {"flats": ((11, 21), (10, 17), (1.5, 5)), "rows": ((32, 70), (11, 16), (10, 22)),
                 "towers": ((18, 26), (18, 26), (12, 28)), "halls": ((22, 60), (18, 40), (6, 16))}  # fmt: skip
        if use == "court":
            self._court(block, usual)
        if use not in sizes:
            return
        lengths, depths, gaps = sizes[use]
        length, depth, gap = (draw(*pair) for pair in (lengths, depths, gaps))
        facing = v
        if self.random.random() < 0.5:
            u, v, sides, facing = v, u, sides[::-1], u
        down = -sides[1] / 2 + depth / 2
        while down < sides[1] / 2:
            along, built = -sides[0] / 2 + length / 2, False
            while along < sides[0] / 2:
                size = (length, depth) if use == "rows" else (length * draw(0.75, 1.25), depth * draw(0.8, 1.2))
                storeys = max(1, round(usual + self.random.normal(0, 1.2 if use == "flats" else 0.4)))
                height = draw(6, 12) if use == "halls" else STOREY * storeys + draw(0.3, 1.2)
                place = middle + along * u + down * v
                if inside(block, place, 3.0) and self.house(place, facing, *size, height):
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
                self.house(place, -inward, side - 0.2, depth, STOREY * storeys + 0.8, gap=0.0)
                way += side + 1.0

    def _open(self, kind: int, block: Points, middle: Points, u: Points, v: Points) -> None:
        """A car park has cars in rows; another open plot has a track across it, as people walk."""
        if kind == Kind.PARKING:
            for row in np.arange(-60, 60, 8.0):
                for place in np.arange(-60, 60, 2.8):
                    at = middle + place * u + row * v
                    if inside(block, at, 12) and self.random.random() < 0.6:
                        self.car(*self.plan.turned(at, v))
        else:
            for _ in range(int(self.random.integers(1, 3))):
                ends = block[self.random.permutation(len(block))[:2]]
                line = self.plan.bent(densified(ends, 6.0))
                line += 2 * normals(line) * waves(int(self.random.integers(1 << 30)), 60, line, 6)[:, None]
                self.ground.add(self.random, Kind.TRACK, line, self.random.uniform(1.2, 3.5))

    def car(self, middle: Points, facing: Points) -> None:
        size = self.random.uniform(1.7, 2.0), self.random.uniform(3.9, 5.2)
        shape = rectangle(middle, facing, *size)
        if self.random.random() < 0.06:
            shape = rectangle(middle, facing, 2.5, self.random.uniform(7, 13))
        self.solids.add(self.random, Solid.CAR, shape, height=self.random.uniform(1.3, 1.9))

    def tree(self, place: Points, least: float = 2.5, most: float = 7.0) -> None:
        crown = float(self.random.uniform(least, most))
        height = crown * self.random.uniform(0.9, 1.6)
        self.solids.add(self.random, Solid.TREE, np.repeat(place[None], 2, axis=0), crown, height)

    def _trees(self, block: Points, use: str) -> None:
        chance = self.style.green * self.random.uniform(0, 2) * (1.5 if use == "open" else 1)
        count = int(self.random.poisson(area_of(block) / 100 * chance))
        low, high = block.min(axis=0), block.max(axis=0)
        places = self.random.uniform(low, high, (count, 2))
        places = self.plan.bent(places[[inside(block, place) for place in places]]) if count else places
        for place in places[~self.taken.at(places)] if len(places) else places:
            self.tree(place)

    def along(self, street: Street) -> None:
        """Parked cars, trees and poles along a street."""
        line = densified(self.plan.bent(densified(street.line, 6.0)), 2.9)
        tangents = np.gradient(line, axis=0)
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        sides = normals(line)
        full, planted = self.random.uniform(0.1, 0.85), self.random.random() < 0.35
        for sign in (-1, 1):
            for index in range(2, len(line) - 2):
                kerb = line[index] + sign * sides[index] * (street.width / 2)
                if index % 2 and self.random.random() < full:
                    self.car(kerb - sign * sides[index] * 1.2, tangents[index])
                if planted and index % 3 == 0 and self.random.random() < 0.7:
                    self.tree(kerb + sign * sides[index] * 1.2, 2.0, 5.0)
                elif index % 12 == 5:
                    pole = rectangle(kerb + sign * sides[index] * 0.6, tangents[index], 0.4, 0.4)
                    self.solids.add(self.random, Solid.POLE, pole, height=self.random.uniform(6, 10))
        if street.width > 10:  # traffic
            for index in range(3, len(line) - 3, 5):
                if self.random.random() < 0.4:
                    aside = sides[index] * (street.width * 0.2 * self.random.choice([-1, 1]))
                    self.car(line[index] + aside, tangents[index])


def build_city(bounds: Bounds, style: Style, seed: int) -> World:
    """A city over `bounds`; its junctions are where its streets meet."""
    plan = Plan(bounds, style.block, seed)
    builder = _Builder(plan, bounds, style)
    lines = [(plan.bent(densified(street.line, 6.0)), street.width) for street in plan.streets]
    for line, width in lines:
        builder.taken.line(line, width + 2.5)
    for block in plan.blocks:
        builder.block(block)
    ground, random = builder.ground, builder.random
    for line, width in lines:
        ground.add(random, Kind.PAVEMENT, line, width + random.uniform(2.5, 5))
    for line, width in sorted(lines, key=lambda road: road[1]):
        ground.add(random, Kind.ROAD, line, width)
        if width > 17:  # a green strip between both ways
            ground.add(random, Kind.MEADOW, line[2:-2], 2.5)
    for street in plan.streets:
        builder.along(street)
    ends = np.concatenate([line[[0, -1]] for line, _ in lines])
    return World(ground, builder.solids, ends)
