"""The SAR image: terrain and solids lean towards the sensor; layover, shadow, double bounce, speckle."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

from sn9reg.offsets import Block, from_nodes, node_positions
from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.simulate.field import GroundField
from sn9reg.simulate.landuse import Kind, Shapes, Solid, World
from sn9reg.simulate.noise import Image, metres, pixel_noise, texture
from sn9reg.simulate.sketch import Sketch, drawn
from sn9reg.simulate.solids import BAY, STOREY, Labels, Solids, Surface, hidden_below, inner, steps

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
    Kind.PAVED: (0.012, 0.045, (0.10, 0.15, 0.25)),
    Kind.GRAVEL: (0.040, 0.140, (0.12, 0.15, 0.20)),
    Kind.PARKING: (0.008, 0.020, (0.05, 0.08, 0.10)),
    Kind.BARE: (0.030, 0.140, (0.15, 0.12, 0.15)),
    Kind.PAVEMENT: (0.012, 0.040, (0.05, 0.15, 0.25)),
}
# Least and greatest intensity of a solid from above, of its walls, and of the corner of wall and ground.
_SOLIDS: dict[Solid, tuple[float, float, float, float]] = {
    Solid.FLAT: (0.008, 0.06, 0.35, 4.0),
    Solid.HIPPED: (0.02, 0.27, 0.22, 2.0),
    Solid.CLUTTER: (0.03, 0.60, 0.30, 1.2),
    Solid.CAR: (0.03, 0.60, 0.15, 0.5),
    Solid.WALL: (0.05, 0.10, 0.25, 0.8),
    Solid.POLE: (0.80, 3.00, 0.60, 2.5),
    Solid.TREE: (0.12, 0.32, 0.15, 0.0),
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
        self._solids = Solids.of(world.solids, grid, field.in_sar)
        self._near = field.towards_sensor * [1, -1]  # pixel rows run down
        self._intensity, self._texture = _backscatter(world.ground)
        self._top, self._wall, self._corner = _solid_backscatter(world.solids, self._solids.along, self._near)
        self._from_sar = _inverse(grid, field)
        self._gain = _speckle(looks)
        self._edge = _swath_edge(grid, field, empty)

    def intensity(self, window: Window) -> Image:
        """(h, w) backscatter without speckle."""
        ground, tops, sides, _ = self._parts(window.grow(_BLUR))
        blurred = cv2.GaussianBlur(ground + tops + sides, (2 * _BLUR + 1, 2 * _BLUR + 1), 0.7)
        return np.asarray(blurred[_BLUR:-_BLUR, _BLUR:-_BLUR] + np.float32(_FLOOR), np.float32)

    def surface(self, window: Window) -> npt.NDArray[np.uint8]:
        """(h, w) the `Surface` that returns most to each pixel."""
        ground, tops, sides, shadow = self._parts(window)
        y, x = np.ogrid[window.slices()]
        shown = np.select(
            [~self.covers(x, y), sides > np.maximum(tops, ground), tops > ground, shadow],
            [Surface.NOTHING, Surface.SIDE, Surface.TOP, Surface.SHADOW],
            Surface.GROUND,
        )
        return shown.astype(np.uint8)

    def _parts(self, window: Window) -> tuple[Image, Image, Image, npt.NDArray[np.bool_]]:
        """(h, w) what the ground returns, what tops and what sides of solids do, and where radar shadow lies."""
        metre, tangent = self.grid.resolution, self._field.tan_incidence
        rise = metre / tangent  # of a ray in a pixel of its way, in metres
        lift = metre * tangent  # metres of height that lie one pixel nearer to the sensor
        leaning, shadowing = (int(np.ceil(self._solids.highest / some)) + 3 for some in (lift, rise))
        height, label = self._solids.drawn(window.grow(leaning + shadowing))
        hidden = hidden_below(height, self._near, rise, shadowing)
        height, label = inner(height, shadowing), inner(label, shadowing)
        wide = window.grow(leaning)
        flat, grain = self._from_above(wide, height, label, hidden)
        tops, sides = np.zeros_like(flat), np.zeros_like(flat)
        self._raise(tops, flat, height, label > 0, lift)
        self._add_walls(sides, grain, height, label, hidden, lift, wide)
        ground = np.where(label > 0, np.float32(0), flat)
        shadow = (hidden > height + 0.05) | (label > 0)  # no ground is seen beneath a solid either
        return inner(ground, leaning), inner(tops, leaning), inner(sides, leaning), inner(shadow, leaning)

    def _from_above(self, window: Window, height: Image, label: Labels, hidden: Image) -> tuple[Image, Image]:
        """(h, w) what ground, roofs and crowns return, where they stand, and the finest texture."""
        ground = drawn(window, np.int32, self._ground)
        back_x, back_y, slope = self._from_sar(window)
        x, y = metres(self.grid, self._origin, window)
        x, y = x - back_x, y - back_y
        grain = [texture(self._seed + 70 + k, cell, x, y) for k, cell in enumerate((20.0, 6.0, 1.5))]
        weights = self._texture[ground]
        result = self._intensity[ground] * np.exp(sum(weights[..., k] * g for k, g in enumerate(grain)))
        # A slope that faces the sensor is squeezed, and returns more.
        result *= np.clip(1 + slope, 0.4, 2.5) ** -2
        result = np.where(label > 0, self._top[label] * np.exp(0.35 * grain[2] + 0.2 * grain[1]), result)
        return np.where(hidden > height + 0.05, np.float32(0.03) * result, result), grain[2]

    def _raise(self, result: Image, flat: Image, height: Image, standing: npt.NDArray[np.bool_], lift: float) -> None:
        """Add roofs and crowns where they appear: nearer to the sensor."""
        rows, cols = np.nonzero(standing)
        way = steps(self._near, int(height.max(initial=0.0) / lift) + 2)
        step = np.rint(height[rows, cols] / lift).astype(int)
        _add(result, rows + way[step, 1], cols + way[step, 0], flat[rows, cols])

    def _add_walls(
        self, result: Image, grain: Image, height: Image, label: Labels, hidden: Image, lift: float, window: Window
    ) -> None:
        """Add what faces the sensor: walls from foot to top, brighter at windows, and the corner at the foot."""
        x, y = np.rint(self._near * 1.5).astype(int).tolist()
        front, before = (np.roll(array, (-y, -x), (0, 1)) for array in (height, hidden))
        rows, cols = np.nonzero(height > front + 0.5)
        top, foot, seen = height[rows, cols], front[rows, cols], before[rows, cols]
        which = label[rows, cols]
        place = np.column_stack([cols + window.col, rows + window.row]) - self._solids.centre[which]
        along = self._solids.along[which]
        way_along = place[:, 0] * (along[:, 0] - along[:, 1]) + place[:, 1] * (along[:, 1] + along[:, 0])
        bay = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * way_along * self.grid.resolution / BAY))
        rough = np.exp(0.6 * grain[rows, cols])
        way = steps(self._near, int(height.max(initial=0.0) / lift) + 2)
        for k in range(len(way)):
            z = k * lift
            there = (foot - lift / 2 <= z) & (z < top) & (z >= seen)
            if not there.any():
                continue
            r, c = rows[there] + way[k, 1], cols[there] + way[k, 0]
            comb = max(0.0, np.cos(2 * np.pi * z / STOREY)) ** 2
            wall = self._wall[which[there]] * (0.15 + 2.2 * comb * bay[there]) * rough[there]
            at_foot = z < foot[there] + lift / 2
            wall += at_foot * self._corner[which[there]] * np.minimum(top - foot, 12)[there] / 6 * rough[there]
            _add(result, r, c, wall)

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


def _add(result: Image, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64], values: Image) -> None:
    """Add values at pixels; what lies outside is left out."""
    inside = (rows >= 0) & (rows < result.shape[0]) & (cols >= 0) & (cols < result.shape[1])
    at = rows[inside] * result.shape[1] + cols[inside]
    result += np.bincount(at, values[inside], result.size).reshape(result.shape).astype(np.float32)


def _inverse(grid: Grid, field: GroundField) -> Callable[[Window], Block]:
    """window -> (3, h, w): displacement in metres x, y of what each pixel shows, and slope away from the sensor."""
    margin = 32 * _NODE_STEP
    wide = grid.crop(grid.window.grow(margin))
    xy, shape = node_positions(wide, _NODE_STEP)
    shown = wide.to_map(xy)
    ground = field.on_ground(shown)
    slope = field.slope(ground, field.towards_sensor)
    nodes = np.column_stack([shown - ground, slope]).T.reshape(3, *shape).astype(np.float32)
    known = from_nodes(wide, nodes, _NODE_STEP)
    return lambda window: known.read(replace(window, col=window.col + margin, row=window.row + margin))


def _backscatter(ground: Shapes) -> tuple[Image, Image]:
    """For each label: (n,) intensity, (n, 3) strength of texture."""
    kind, tone = np.array(ground.kind, int), np.array(ground.tone).reshape(-1, 3)[:, 1]
    low, high, rough = (np.array([_LOOK[k][i] for k in Kind])[kind] for i in range(3))
    intensity = np.concatenate([[0.08], low * (high / low) ** tone])
    return intensity.astype(np.float32), np.concatenate([[[0.15, 0.1, 0.1]], rough]).astype(np.float32)


def _solid_backscatter(solids: Shapes, along: Points, near: Points) -> tuple[Image, Image, Image]:
    """For each label: (n,) intensity from above, of the walls, and of the corner of wall and ground.

    A wall that faces the sensor squarely returns most.
    """
    kind, tone = np.array(solids.kind, int), np.array(solids.tone).reshape(-1, 3)
    low, high, wall, corner = np.array([_SOLIDS[k] for k in Solid]).T[:, kind]
    square = np.maximum(np.abs(along[1:] @ near), np.abs(along[1:, 1] * near[0] - along[1:, 0] * near[1]))
    square = np.clip((square - 0.70) / 0.30, 0, 1)  # 0 where both walls lie askew, 1 where one faces the sensor
    top = low * (high / low) ** tone[:, 1]
    wall = wall * (0.5 + 1.5 * tone[:, 2]) * (0.4 + 0.6 * square)
    corner = corner * (0.4 + 1.2 * tone[:, 0]) * (0.08 + 0.92 * square**3)
    return tuple(np.concatenate([[0.0], values]).astype(np.float32) for values in (top, wall, corner))  # type: ignore[return-value]


def _speckle(looks: float) -> npt.NDArray[np.float32]:
    """(65536,) amplitude gains by quantile: root of a gamma variable of mean 1 and shape `looks`."""
    return np.sqrt(gammaincinv(looks, (np.arange(65536) + 0.5) / 65536) / looks).astype(np.float32)


def _swath_edge(grid: Grid, field: GroundField, empty: float) -> tuple[float, float, float]:
    """a, b, limit: pixels with a * x + b * y < limit lie before the swath. (a, b) is away from the sensor."""
    across, down = (-field.towards_sensor @ np.linalg.inv(grid.linear).T).tolist()
    x, y = np.meshgrid(np.linspace(0, grid.width - 1, 200), np.linspace(0, grid.height - 1, 200))
    limit = float(np.quantile(x * across + y * down, empty)) if empty > 0 else -np.inf
    return across, down, limit
