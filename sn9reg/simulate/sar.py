"""The SAR image: terrain and solids lean towards the sensor; layover, shadow, double bounce, speckle."""

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

from sn9reg.offsets import from_nodes, node_positions
from sn9reg.raster.grid import Window
from sn9reg.simulate.landuse import MATERIALS, Kind, Scene, Solid
from sn9reg.simulate.noise import Image, metres, pixel_noise, texture
from sn9reg.simulate.solids import BAY, STOREY, Labels, Sketch, Solids, Surface, inner, steps

_NODE_STEP = 16
_MARGIN = 32 * _NODE_STEP  # pixels around the image where the way back to the ground is known
_BLUR = 2
_AMPLITUDE = 700.0  # digital number of intensity 1
_FLOOR = 0.0025  # intensity of the receiver's own noise

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
    """Renders windows of the SAR image. looks: L of the gamma speckle. empty: share, all 0, beyond the swath's edge."""

    def __init__(self, scene: Scene, looks: float, empty: float) -> None:
        grid, field, ground = scene.sar, scene.field, scene.world.ground
        self.grid, self._seed, self._optical = grid, scene.seed, scene.optical
        self._lift = grid.resolution * field.tan_incidence  # metres of height that lie one pixel nearer to the sensor
        self._rise = grid.resolution / field.tan_incidence  # metres by which a ray rises in a pixel of its way
        self._ground = Sketch(ground.outlines, ground.width, grid, field.in_sar)
        self._solids = Solids(scene.world.solids, grid, field.in_sar)
        self._near = field.towards_sensor * [1, -1]  # pixel rows run down
        kind, tone = ground.labelled()
        low, high, rough = (np.array([MATERIALS[k][i] for k in Kind])[kind] for i in range(3, 6))
        self._intensity, self._texture = (low * (high / low) ** tone[:, 1]).astype(np.float32), rough.astype(np.float32)
        # By label, intensity of solids from above, of their walls, and of the corner of wall and ground.
        kind, tone = scene.world.solids.labelled()
        low, high, wall, corner = np.array([_SOLIDS[k] for k in Solid]).T[:, kind]
        (ax, ay), near = self._solids.along.T, self._near
        square = np.maximum(np.abs(self._solids.along @ near), np.abs(ay * near[0] - ax * near[1]))
        square = np.clip((square - 0.70) / 0.30, 0, 1)  # 0 where both walls lie askew, 1 where one faces the sensor
        self._top = (low * (high / low) ** tone[:, 1]).astype(np.float32)
        self._wall = (wall * (0.5 + 1.5 * tone[:, 2]) * (0.4 + 0.6 * square)).astype(np.float32)
        self._corner = (corner * (0.4 + 1.2 * tone[:, 0]) * (0.08 + 0.92 * square**3)).astype(np.float32)
        # (3, h, w) displacement in metres x, y of what each pixel shows, and slope away from the sensor.
        wide = grid.crop(grid.window.grow(_MARGIN))
        xy, shape = node_positions(wide, _NODE_STEP)
        shown = wide.to_map(xy)
        back = field.on_ground(shown)
        nodes = np.column_stack([shown - back, field.slope(back, field.towards_sensor)]).T.reshape(3, *shape)
        self._back = from_nodes(wide, nodes.astype(np.float32), _NODE_STEP)
        # Amplitude by quantile of the speckle: root of a gamma variable of mean 1 and shape `looks`.
        self._gain = np.sqrt(gammaincinv(looks, (np.arange(65536) + 0.5) / 65536) / looks).astype(np.float32)
        # Pixels with across * x + down * y < limit lie before the swath; (across, down) is away from the sensor.
        self._across, self._down = (-field.towards_sensor @ np.linalg.inv(grid.linear).T).tolist()
        x, y = np.meshgrid(*(np.linspace(0, side - 1, 200) for side in (grid.width, grid.height)))
        self._limit = np.quantile(x * self._across + y * self._down, empty) if empty > 0 else -np.inf

    def render(self, window: Window) -> npt.NDArray[np.uint16]:
        """(h, w) amplitude of the image, 0 where it sees nothing."""
        gain = self._gain[pixel_noise(self._seed + 80, window)]
        amplitude = np.clip(np.sqrt(self.intensity(window)) * gain * np.float32(_AMPLITUDE), 1, 65535)
        y, x = np.ogrid[window.slices()]
        return np.where(self.covers(x, y), amplitude, 0).astype(np.uint16)

    def covers(self, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether the image has data at pixels x, y."""
        return np.asarray(x * self._across + y * self._down >= self._limit)

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
        leaning = int(np.ceil(self._solids.highest / self._lift)) + 3
        wide = window.grow(leaning)
        height, label, hidden = self._solids.reached(wide, self._near, self._rise)
        flat, grain = self._from_above(wide, height, label, hidden)
        way = steps(self._near, int(height.max(initial=0.0) / self._lift) + 2)
        tops = np.zeros_like(flat)
        rows, cols = np.nonzero(label)  # roofs and crowns appear nearer to the sensor
        step = np.rint(height[rows, cols] / self._lift).astype(int)
        _add(tops, rows + way[step, 1], cols + way[step, 0], flat[rows, cols])
        sides = self._walls(wide, grain, height, label, hidden, way)
        ground = np.where(label > 0, np.float32(0), flat)
        shadow = (hidden > height + 0.05) | (label > 0)  # no ground is seen beneath a solid either
        return inner(ground, leaning), inner(tops, leaning), inner(sides, leaning), inner(shadow, leaning)

    def _from_above(self, window: Window, height: Image, label: Labels, hidden: Image) -> tuple[Image, Image]:
        """(h, w) what ground, roofs and crowns return, where they stand, and the finest texture."""
        ground = self._ground.drawn(window)
        back_x, back_y, slope = self._back.read(replace(window, col=window.col + _MARGIN, row=window.row + _MARGIN))
        x, y = metres(self.grid, window, self._optical)
        x, y = x - back_x, y - back_y
        grain = [texture(self._seed + 70 + k, cell, x, y) for k, cell in enumerate((20.0, 6.0, 1.5))]
        weights = self._texture[ground]
        result = self._intensity[ground] * np.exp(sum(weights[..., k] * g for k, g in enumerate(grain)))
        result *= np.clip(1 + slope, 0.4, 2.5) ** -2  # a slope that faces the sensor is squeezed, and returns more
        result = np.where(label > 0, self._top[label] * np.exp(0.35 * grain[2] + 0.2 * grain[1]), result)
        return np.where(hidden > height + 0.05, np.float32(0.03) * result, result), grain[2]

    def _walls(
        self, window: Window, grain: Image, height: Image, label: Labels, hidden: Image, way: npt.NDArray[np.int64]
    ) -> Image:
        """(h, w) what faces the sensor: walls from foot to top, brighter at windows, and the corner at the foot."""
        x, y = np.rint(self._near * 1.5).astype(int).tolist()
        front, before = (np.roll(array, (-y, -x), (0, 1)) for array in (height, hidden))
        at = rows, cols = np.nonzero(height > front + 0.5)
        top, foot, seen, which = height[at], front[at], before[at], label[at]
        place = np.column_stack([cols + window.col, rows + window.row]) - self._solids.centre[which]
        along = self._solids.along[which]
        way_along = place[:, 0] * (along[:, 0] - along[:, 1]) + place[:, 1] * (along[:, 1] + along[:, 0])
        bay = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * way_along * self.grid.resolution / BAY))
        rough = np.exp(0.6 * grain[at])
        result, lift = np.zeros_like(grain), self._lift
        for k, (x, y) in enumerate(way.tolist()):
            z = k * lift
            there = (foot - lift / 2 <= z) & (z < top) & (z >= seen)
            comb = max(0.0, np.cos(2 * np.pi * z / STOREY)) ** 2
            wall = self._wall[which[there]] * (0.15 + 2.2 * comb * bay[there]) * rough[there]
            at_foot = z < foot[there] + lift / 2
            wall += at_foot * self._corner[which[there]] * np.minimum(top - foot, 12)[there] / 6 * rough[there]
            _add(result, rows[there] + y, cols[there] + x, wall)
        return result


def _add(result: Image, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64], values: Image) -> None:
    """Add values at pixels; what lies outside is left out."""
    inside = (rows >= 0) & (rows < result.shape[0]) & (cols >= 0) & (cols < result.shape[1])
    at = rows[inside] * result.shape[1] + cols[inside]
    result += np.bincount(at, values[inside], result.size).reshape(result.shape).astype(np.float32)
