"""The plan of a city: streets that divide the land into blocks, straight first, then bent."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from sn9reg.raster.grid import Points
from sn9reg.simulate.field import Bounds
from sn9reg.simulate.roads import densified


@dataclass(frozen=True)
class Street:
    """One street of a plan, straight."""

    line: Points  # (2, 2) map coordinates
    width: float  # metres


class Plan:
    """The plan before it is bent: straight streets and convex blocks; `bent` takes places to where they come to lie."""

    def __init__(self, bounds: Bounds, block_area: tuple[float, float], seed: int) -> None:
        self.random = np.random.default_rng([seed, 3])
        self._bend = _plane_waves(self.random, float(self.random.choice([0.3, 1.0, 1.6])))
        self.streets: list[Street] = []
        self.blocks: list[Points] = []
        turn = self.random.uniform(0, np.pi / 2)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        side = float(np.linalg.norm(bounds.size)) / 2 + 80
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side @ rotation.T + bounds.centre
        waiting = [square]
        while waiting:
            block = waiting.pop()
            middle = block.mean(axis=0)
            radius = float(np.linalg.norm(block - middle, axis=1).max())
            if not bounds.grow(60 + radius).holds(middle[None])[0]:
                continue
            if area_of(block) < self.random.uniform(*block_area):
                self.blocks.append(block)
            else:
                waiting += self._divided(block)

    def _divided(self, block: Points) -> Iterator[Points]:
        """Both parts of a block on both sides of a new street, across its longer side."""
        area = area_of(block)
        centre, sides, angle = cv2.minAreaRect((block - block.mean(axis=0)).astype(np.float32))
        along = np.radians(angle) + (0 if sides[0] > sides[1] else np.pi / 2) + self.random.normal(0, 0.05)
        normal = np.array([np.cos(along), np.sin(along)])
        place = block.mean(axis=0) + centre + normal * max(sides) * self.random.uniform(-0.14, 0.14)
        way = (block - place) @ normal
        cuts = []
        for i in range(len(block)):
            j = (i + 1) % len(block)
            if way[i] * way[j] < 0:
                cuts.append(block[i] + (block[j] - block[i]) * way[i] / (way[i] - way[j]))
        width = self.random.uniform(*((16, 28) if area > 4e5 else (9, 15) if area > 6e4 else (5.5, 9)))
        if len(cuts) == 2:
            self.streets.append(Street(np.array(cuts), float(width)))
        yield from (_half(block, place, normal * sign) for sign in (1, -1))

    def bent(self, places: Points) -> Points:
        """(N, 2) where places of the plan come to lie."""
        numbers, phases, swing = self._bend
        return np.asarray(places + np.cos(places @ numbers.T + phases) @ swing)

    def turned(self, place: Points, facing: Points) -> tuple[Points, Points]:
        """A place and a direction there, bent."""
        here, there = self.bent(np.stack([place, place + facing]))
        return here, (there - here) / np.linalg.norm(there - here)


def _plane_waves(random: np.random.Generator, strength: float) -> tuple[Points, Points, Points]:
    """Plane waves, long and short: (n, 2) wave numbers, (n,) phases, (n, 2) metres by which they move places."""
    bearing, length = random.uniform(0, 2 * np.pi, 16), np.repeat([1100.0, 330.0], 8) * random.uniform(0.75, 1.4, 16)
    numbers = np.column_stack([np.cos(bearing), np.sin(bearing)]) * (2 * np.pi / length)[:, None]
    swing = random.normal(0, 1, (16, 2)) * np.repeat([12.0, 2.5], 8)[:, None] * strength
    return numbers, random.uniform(0, 2 * np.pi, 16), swing


def ring(outline: Points) -> Points:
    """A polygon's outline, closed and with vertices near to each other."""
    return densified(np.concatenate([outline, outline[:1]]), 12.0)


def area_of(polygon: Points) -> float:
    """In square metres."""
    x, y = (polygon - polygon[0]).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _half(polygon: Points, place: Points, normal: Points) -> Points:
    """The part of a convex polygon on the side of a line that its normal points away from."""
    way, kept = (polygon - place) @ normal, []
    for i in range(len(polygon)):
        j = (i + 1) % len(polygon)
        if way[i] <= 0:
            kept.append(polygon[i])
        if way[i] * way[j] < 0:
            kept.append(polygon[i] + (polygon[j] - polygon[i]) * way[i] / (way[i] - way[j]))
    return np.array(kept)


def inside(polygon: Points, place: Points, margin: float = 6.0) -> bool:
    """Whether a place lies in a convex polygon, so far from its edge."""
    local = (polygon - place).astype(np.float32)
    return float(cv2.pointPolygonTest(local, (0.0, 0.0), True)) > margin
