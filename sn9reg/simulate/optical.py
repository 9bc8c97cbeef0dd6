"""The optical image: colours, furrows, crowns, roofs, walls that lean, sun shadows, shaded slopes, haze."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.offsets import from_nodes, node_positions
from sn9reg.raster.grid import Grid, Window
from sn9reg.simulate.field import GroundField
from sn9reg.simulate.landuse import Kind, Shapes, Solid, World
from sn9reg.simulate.look import Look
from sn9reg.simulate.noise import Image, metres, pixel_noise, texture
from sn9reg.simulate.sketch import Sketch, drawn
from sn9reg.simulate.solids import BAY, STOREY, Labels, Solids, Surface, hidden_below, inner, steps

_SHADE = 0.42
_BLUR = 6  # pixels that the point spread and the halo of pan-sharpening reach
_COLOUR_BLUR = 1.6  # pixels: colours come from coarser bands

# Darkest and brightest colour of a kind, and how strong its texture is: coarse (12 m), middle (3 m), fine (0.8 m).
_LOOK: dict[Kind, tuple[tuple[int, int, int], tuple[int, int, int], tuple[float, float, float]]] = {
    Kind.FIELD: ((62, 84, 42), (168, 152, 98), (0.05, 0.03, 0.04)),
    Kind.MEADOW: ((76, 102, 52), (112, 126, 70), (0.06, 0.05, 0.06)),
    Kind.SOIL: ((118, 92, 66), (190, 168, 138), (0.06, 0.04, 0.04)),
    Kind.WOOD: ((40, 52, 28), (56, 70, 38), (0.08, 0.10, 0.12)),
    Kind.YARD: ((88, 98, 66), (142, 134, 108), (0.06, 0.06, 0.08)),
    Kind.WATER: ((30, 48, 52), (44, 66, 66), (0.04, 0.02, 0.01)),
    Kind.HEDGE: ((44, 62, 32), (60, 80, 42), (0.05, 0.15, 0.15)),
    Kind.TRACK: ((158, 142, 112), (188, 172, 142), (0.04, 0.06, 0.05)),
    Kind.SHOULDER: ((122, 120, 92), (150, 142, 116), (0.05, 0.08, 0.06)),
    Kind.ROAD: ((88, 88, 90), (140, 138, 136), (0.02, 0.03, 0.03)),
    Kind.PAVED: ((128, 126, 120), (188, 182, 172), (0.04, 0.06, 0.05)),
    Kind.GRAVEL: ((132, 124, 110), (196, 186, 168), (0.04, 0.05, 0.08)),
    Kind.PARKING: ((78, 80, 84), (126, 126, 124), (0.03, 0.04, 0.03)),
    Kind.BARE: ((128, 104, 80), (186, 164, 134), (0.06, 0.05, 0.05)),
    Kind.PAVEMENT: ((132, 128, 122), (182, 174, 162), (0.03, 0.05, 0.04)),
}
_ROOFS = np.array([[158, 84, 62], [176, 104, 80], [132, 66, 52], [120, 116, 112], [206, 204, 198], [84, 86, 92]], float)
_FLAT_ROOFS = np.array([[150, 146, 140], [196, 192, 186], [118, 118, 120], [226, 224, 220], [140, 104, 88]], float)
_WALLS = np.array([[226, 220, 208], [206, 192, 170], [214, 178, 150], [180, 172, 164], [236, 234, 230]], float)
_CARS = np.array([[230, 230, 232], [40, 42, 46], [150, 152, 156], [150, 34, 32], [44, 62, 120], [214, 212, 206]], float)


class Optical:
    """Renders windows of the optical image; any block alone equals its part of the whole."""

    def __init__(self, world: World, grid: Grid, field: GroundField, look: Look, seed: int) -> None:
        self.grid, self._seed, self._view = grid, seed, look
        self._origin = np.array([grid.transform.c, grid.transform.f])
        self._ground = Sketch.of(world.ground.outlines, grid, world.ground.width)
        self._solids = Solids.of(world.solids, grid)
        flip = np.array([1, -1])  # pixel rows run down
        self._sun = look.sun * flip / np.linalg.norm(look.sun)
        self._lean = look.lean * flip / grid.resolution  # pixels a metre
        self._colour, self._texture, self._furrows = _ground_palette(world.ground)
        self._top, self._side, self._kind = _solid_palette(world.solids)
        xy, shape = node_positions(grid)
        slope = field.slope(grid.to_map(xy), -look.sun) * field.tan_incidence
        light = np.clip(slope * 0.8, -0.25, 0.25).reshape(1, *shape).astype(np.float32)
        self._shading = from_nodes(grid, light, 32)  # relative light of the slopes

    def render(self, window: Window) -> npt.NDArray[np.uint8]:
        """(3, h, w) of the image."""
        halo = window.grow(_BLUR)
        image = self._sharp(halo)
        grey = cv2.GaussianBlur(image.mean(axis=2), (2 * _BLUR + 1, 2 * _BLUR + 1), 0.75)
        colour = cv2.GaussianBlur(image, (2 * _BLUR + 1, 2 * _BLUR + 1), _COLOUR_BLUR)
        image = colour * (grey / np.maximum(colour.mean(axis=2), 1))[..., None]
        image = image[_BLUR:-_BLUR, _BLUR:-_BLUR]
        image = image * (1 + self._shading.read(window)[0])[..., None]
        image = image * (1 - self._view.haze) + np.array([128, 140, 156], np.float32) * self._view.haze
        image += (pixel_noise(self._seed + 60, window)[..., None].astype(np.float32) - 32768) * np.float32(5 / 65536)
        return np.ascontiguousarray(np.moveaxis(np.clip(image + 0.5, 1, 255).astype(np.uint8), -1, 0))

    def surface(self, window: Window) -> npt.NDArray[np.uint8]:
        """(h, w) the `Surface` that each pixel shows."""
        _, label, shade, above, _ = self._seen(window)
        ground = np.where(shade, Surface.SHADOW, Surface.GROUND)
        return np.where(label == 0, ground, np.where(above, Surface.TOP, Surface.SIDE)).astype(np.uint8)

    def _sharp(self, window: Window) -> Image:
        """(h, w, 3) of an image without blur, noise and haze."""
        height, label, shade, shown, up = self._seen(window)
        ground = drawn(window, np.int32, (self._ground, 1 + np.arange(len(self._ground.outlines))))
        x, y = metres(self.grid, self._origin, window)
        grain = [texture(self._seed + 50 + k, cell, x, y) for k, cell in enumerate((12.0, 3.0, 0.8))]
        weights = self._texture[ground]
        light = np.prod([1 + weights[..., k] * grain[k] for k in range(3)], axis=0)
        kx, ky, depth = np.moveaxis(self._furrows[ground], -1, 0)
        light *= 1 + depth * np.sin(kx * x + ky * y)
        result = self._colour[ground] * light[..., None]
        at = np.nonzero(label)
        which, z = label[at], up[at]
        rows, cols = at
        solids = self._solids
        place = np.column_stack([cols + window.col, rows + window.row]) - self._lean * z[:, None] - solids.centre[which]
        u = (place * solids.along[which]).sum(axis=1)
        v = place[:, 1] * solids.along[which][:, 0] - place[:, 0] * solids.along[which][:, 1]
        result[at] = self._painted(which, z, u, v, place, height[at], shown[at])
        result[at] *= 1 + 0.03 * grain[1][at][:, None] + 0.05 * grain[2][at][:, None]
        return result * np.where(shade, np.float32(_SHADE), np.float32(1))[..., None]

    def _seen(self, window: Window) -> tuple[Image, Labels, npt.NDArray[np.bool_], npt.NDArray[np.bool_], Image]:
        """What each pixel shows: the height of it and its label, whether it lies in shadow, is a roof, and its height.

        A place at height z is shown `lean` * z aside; of all places along a ray the highest is seen.
        """
        view, rise = float(np.hypot(*self._lean)), self._view.sun_slope * self.grid.resolution
        leaning = int(np.ceil(self._solids.highest * view)) + 4
        shadowing = int(np.ceil(self._solids.highest / rise)) + 2
        height, label = self._solids.drawn(window.grow(leaning + shadowing))
        hidden = hidden_below(height, self._sun, rise, shadowing)
        height, label = inner(height, shadowing), inner(label, shadowing)
        rise = min(1.0, 1 / max(view, 1e-6))
        count = int(np.ceil(float(height.max(initial=0.0)) / rise)) + 1
        way = steps(-self._lean * rise, count + 2)
        step = np.zeros(window.shape, np.int64)
        for k in range(1, count):
            x, y = way[k].tolist()
            np.putmask(step, inner(height, leaning, x, y) >= k * rise, k)
        rows, cols = np.ogrid[: window.height, : window.width]

        def at(array: npt.NDArray[Any], further: int) -> npt.NDArray[Any]:
            x, y = np.moveaxis(way[np.minimum(step + further, count + 1)], -1, 0)
            return array[rows + leaning + y, cols + leaning + x]

        top, which = at(height, 0), at(label, 0)
        roof = top < (step + 1) * rise
        up = np.where(roof, top, (step + 0.5) * rise).astype(np.float32)
        # A wall's light is that of the place before it.
        shadow = np.where(roof, at(hidden, 0), at(hidden, 2)) > up + 0.05
        return top, which, shadow, roof, up

    def _painted(
        self, which: Labels, z: Image, u: Image, v: Image, place: Image, height: Image, roof: npt.NDArray[np.bool_]
    ) -> Image:
        """(n, 3) colours of places on solids: u, v pixels from the middle along and across."""
        kind, metre = self._kind[which], self.grid.resolution
        half = self._solids.half[which]
        outward = place / half[:, :1]
        sunny = np.where(kind == Solid.HIPPED, 0.25 * np.sign(v) * self._facing_sun[which], 0)
        sunny = np.where(kind == Solid.TREE, 0.45 * np.clip(outward @ self._sun, -1, 1), sunny)
        rim = (np.maximum(np.abs(u) - half[:, 0], np.abs(v) - half[:, 1]) > -1.2) & (kind == Solid.FLAT)
        colour = self._top[which] * (1 + sunny + 0.15 * rim)[:, None]
        floor, bay = np.mod(z, STOREY) / STOREY, np.mod((u + v) * metre, BAY) / BAY
        window = (floor > 0.3) & (floor < 0.8) & (bay > 0.25) & (bay < 0.8) & (height > 4) & (kind <= Solid.HIPPED)
        wall = self._side[which] * np.where(window, 0.45, 1.0)[:, None]
        return np.where((roof | (kind > Solid.HIPPED))[:, None], colour, wall).astype(np.float32)

    @property
    def _facing_sun(self) -> npt.NDArray[np.float64]:
        """(n + 1,) how much the second half of a roof faces the sun: -1 to 1."""
        along = self._solids.along
        return np.column_stack([-along[:, 1], along[:, 0]]) @ self._sun


def _ground_palette(ground: Shapes) -> tuple[Image, Image, Image]:
    """For each label: (n, 3) colour, (n, 3) strength of texture, (n, 3) furrows: wave number x, y and depth."""
    dark, bright, rough = (np.array([_LOOK[kind][k] for kind in Kind], float) for k in range(3))
    tone, kind = np.array(ground.tone).reshape(-1, 3), np.array(ground.kind, int)
    colour = np.concatenate([[[92, 104, 62]], dark[kind] + tone[:, :1] * (bright - dark)[kind]])
    roughness = np.concatenate([[[0.1, 0.08, 0.06]], rough[kind]])
    bearing, number = tone[:, 2] * 40, 2 * np.pi / (2.5 + 5 * tone[:, 0])
    ploughed = np.isin(kind, [Kind.FIELD, Kind.SOIL]) & (tone[:, 2] > 0.45)
    waves = np.column_stack([np.cos(bearing) * number, np.sin(bearing) * number, 0.03 + 0.07 * tone[:, 1]])
    furrows = np.zeros(colour.shape)
    furrows[1:][ploughed] = waves[ploughed]
    return colour.astype(np.float32), roughness.astype(np.float32), furrows.astype(np.float32)


def _solid_palette(solids: Shapes) -> tuple[Image, Image, npt.NDArray[np.int64]]:
    """For each label: (n, 3) colour from above and of its walls, (n,) kind."""
    kind, tone = np.array(solids.kind, int), np.array(solids.tone).reshape(-1, 3)

    def one_of(colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(colours[(tone[:, 0] * len(colours)).astype(int)] * (0.85 + 0.3 * tone[:, 1:2]))

    crown = np.array([38, 58, 28]) * 1.2 + tone[:, :1] * [26, 30, 14]
    grey = 110 + 120 * tone[:, :1] * np.ones(3)
    tops = {Solid.FLAT: one_of(_FLAT_ROOFS), Solid.HIPPED: one_of(_ROOFS), Solid.CLUTTER: grey,
            Solid.CAR: one_of(_CARS), Solid.WALL: grey, Solid.POLE: grey, Solid.TREE: crown}  # fmt: skip
    top = np.select([(kind == k)[:, None] for k in Solid], [tops[k] for k in Solid])
    nothing = np.zeros((1, 3))
    side = np.concatenate([nothing, one_of(_WALLS)]).astype(np.float32)
    return np.concatenate([nothing, top]).astype(np.float32), side, np.concatenate([[-1], kind])
