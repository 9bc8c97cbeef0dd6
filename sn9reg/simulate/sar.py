"""The SAR image: terrain and buildings lean towards the sensor; layover, shadow, double bounce, speckle."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

from sn9reg.offsets import Block, from_nodes, node_positions
from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.simulate.field import TAN_INCIDENCE, GroundField
from sn9reg.simulate.landuse import Kind, World
from sn9reg.simulate.noise import Image, metres, pixel_noise, texture
from sn9reg.simulate.roads import densified
from sn9reg.simulate.sketch import Sketch, closed, drawn, swept

Values = npt.NDArray[np.float64]
_NODE_STEP = 16
_BLUR = 2
_AMPLITUDE = 700.0  # digital number of intensity 1
_FLOOR = 0.0025  # intensity of the receiver's own noise

# Least and greatest intensity of a kind, and how strong its texture is: coarse (20 m), middle (6 m), fine (1.5 m).
_LOOK: dict[Kind, tuple[float, float, tuple[float, float, float]]] = {
    Kind.FIELD: (0.030, 0.200, (0.12, 0.10, 0.10)),
    Kind.MEADOW: (0.060, 0.120, (0.18, 0.12, 0.12)),
    Kind.SOIL: (0.018, 0.160, (0.15, 0.10, 0.12)),
    Kind.WOOD: (0.100, 0.150, (0.10, 0.15, 0.25)),
    Kind.YARD: (0.050, 0.130, (0.15, 0.22, 0.40)),
    Kind.WATER: (0.004, 0.007, (0.10, 0.05, 0.05)),
    Kind.HEDGE: (0.200, 0.400, (0.00, 0.20, 0.30)),
    Kind.TRACK: (0.015, 0.045, (0.05, 0.10, 0.15)),
    Kind.SHOULDER: (0.110, 0.260, (0.05, 0.15, 0.25)),
    Kind.ROAD: (0.008, 0.016, (0.05, 0.05, 0.05)),
}


class Sar:
    """Renders windows of the SAR image. looks: L of the gamma speckle. empty: fraction of the image that lies beyond
    the swath's edge, where it is 0."""

    def __init__(
        self, world: World, grid: Grid, origin: Points, field: GroundField, seed: int, looks: float, empty: float = 0.0
    ) -> None:
        self.grid, self._seed, self._origin, self._field = grid, seed, origin, field
        ground = Sketch.of(world.ground.outlines, grid, world.ground.width, field.in_sar)
        self._ground = ground, 1 + np.arange(len(ground.outlines))
        self._shadows, self._volumes, self._walls, self._feet = _solids(world, grid, field)
        self._intensity, self._texture = _backscatter(world)
        self._from_sar = _inverse(grid, field)
        self._gain = _speckle(looks)
        self._edge = _swath_edge(grid, field, empty)

    def intensity(self, window: Window) -> Image:
        """(h, w) backscatter without speckle."""
        halo = window.grow(_BLUR)
        labels = drawn(halo, np.int32, self._ground)
        back_x, back_y, slope = self._from_sar(halo)
        x, y = metres(self.grid, self._origin, halo)
        x, y = x - back_x, y - back_y
        grain = [texture(self._seed + 70 + k, cell, x, y) for k, cell in enumerate((20.0, 6.0, 1.5))]
        weights = self._texture[labels]
        result = self._intensity[labels] * np.exp(sum(weights[..., k] * g for k, g in enumerate(grain)))
        # A slope that faces the sensor is squeezed, and returns more.
        result *= np.clip(1 + slope, 0.4, 2.5) ** -2
        layers = ((self._shadows, 1), self._volumes, (self._walls, 1), (self._feet, 1))
        shadow, volume, wall, bounce = (drawn(halo, np.float32, layer) for layer in layers)
        result = np.where(shadow > 0, result * np.float32(0.03), result)
        result = np.where(volume > 0, volume * np.exp(0.35 * grain[2] + 0.2 * grain[1]), result)
        result += wall * np.exp(0.9 * grain[2] - 1.6)
        result += bounce * np.exp(0.8 * grain[2] + 0.7)
        blurred = cv2.GaussianBlur(result, (2 * _BLUR + 1, 2 * _BLUR + 1), 0.7)[_BLUR:-_BLUR, _BLUR:-_BLUR]
        return np.asarray(blurred + np.float32(_FLOOR), np.float32)

    def render(self, window: Window) -> npt.NDArray[np.uint16]:
        """(h, w) amplitude of the image, 0 where it sees nothing."""
        gain = self._gain[pixel_noise(self._seed + 80, window)]
        amplitude = np.clip(np.sqrt(self.intensity(window)) * gain * np.float32(_AMPLITUDE), 1, 65535)
        y, x = np.ogrid[window.slices()]
        return np.where(self.covers(x, y), amplitude, 0).astype(np.uint16)

    def covers(self, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether the image has data at pixels x, y."""
        across, down, limit = self._edge
        return np.asarray(x * across + y * down >= limit)


def _inverse(grid: Grid, field: GroundField) -> Callable[[Window], Block]:
    """window -> (3, h, w): displacement in metres x, y of what each pixel shows, and slope away from the sensor."""
    margin = 2 * _NODE_STEP
    wide = grid.crop(grid.window.grow(margin))
    xy, shape = node_positions(wide, _NODE_STEP)
    shown = wide.to_map(xy)
    ground = field.on_ground(shown)
    slope = field.slope(ground, field.towards_sensor)
    nodes = np.column_stack([shown - ground, slope]).T.reshape(3, *shape).astype(np.float32)
    known = from_nodes(wide, nodes, _NODE_STEP)
    return lambda window: known.read(replace(window, col=window.col + margin, row=window.row + margin))


def _solids(world: World, grid: Grid, field: GroundField) -> tuple[Sketch, tuple[Sketch, Values], Sketch, Sketch]:
    """Shadows; roofs and crowns where they appear, with their intensities; walls; the feet of walls."""
    near, trees, buildings = field.towards_sensor, world.trees, world.buildings
    shadows, volumes, walls, feet = [], [], [], []  # the first two with widths
    for outline, height in zip(buildings.outlines, buildings.height, strict=True):
        up = near * (height / TAN_INCIDENCE)
        shown = field.in_sar(outline)
        shadows.append((swept(shown, -near * (height * TAN_INCIDENCE)), 0.0))
        volumes.append((closed(shown + up), 0.0))
        for a, b in zip(shown, np.roll(shown, -1, axis=0), strict=True):
            outward = (a + b) / 2 - shown.mean(axis=0)
            if outward / max(1e-9, np.linalg.norm(outward)) @ near > 0.3:
                walls.append(closed(np.stack([a, b, b + up, a + up])))
                feet.append(densified(np.stack([a, b]), 12.0))
    dots = np.concatenate(trees.outlines) if trees.outlines else np.zeros((0, 2))
    for dot, crown, height in zip(field.in_sar(dots), trees.width, trees.height, strict=True):
        shadows.append((np.stack([dot, dot - near * (height * TAN_INCIDENCE - crown / 2)]), crown * 0.8))
        volumes.append((np.stack([dot + near * (0.7 * height / TAN_INCIDENCE)] * 2), crown))
    values = [0.02 + 0.25 * tone[1] ** 2 for tone in buildings.tone] + [0.12 + 0.2 * tone[1] for tone in trees.tone]
    shadow, volume = (Sketch.of([s for s, _ in some], grid, [w for _, w in some]) for some in (shadows, volumes))
    return shadow, (volume, np.array(values)), Sketch.of(walls, grid), Sketch.of(feet, grid, 1.2)


def _backscatter(world: World) -> tuple[Image, Image]:
    """For each label: (n,) intensity, (n, 3) strength of texture."""
    kind, tone = np.array(world.ground.kind, int), np.array(world.ground.tone).reshape(-1, 3)[:, 1]
    low, high, rough = (np.array([_LOOK[k][i] for k in Kind])[kind] for i in range(3))
    intensity = np.concatenate([[0.08], low * (high / low) ** tone])
    return intensity.astype(np.float32), np.concatenate([[[0.15, 0.1, 0.1]], rough]).astype(np.float32)


def _speckle(looks: float) -> npt.NDArray[np.float32]:
    """(65536,) amplitude gains by quantile: root of a gamma variable of mean 1 and shape `looks`."""
    return np.sqrt(gammaincinv(looks, (np.arange(65536) + 0.5) / 65536) / looks).astype(np.float32)


def _swath_edge(grid: Grid, field: GroundField, empty: float) -> tuple[float, float, float]:
    """a, b, limit: pixels with a * x + b * y < limit lie before the swath. (a, b) is away from the sensor."""
    across, down = (-field.towards_sensor @ np.linalg.inv(grid.linear).T).tolist()
    x, y = np.meshgrid(np.linspace(0, grid.width - 1, 200), np.linspace(0, grid.height - 1, 200))
    limit = float(np.quantile(x * across + y * down, empty)) if empty > 0 else -np.inf
    return across, down, limit
