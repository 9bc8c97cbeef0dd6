"""The optical image: colours, furrows, crowns, roofs, walls that lean, sun shadows, shaded slopes, haze."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.offsets import from_nodes, node_positions
from sn9reg.raster.grid import Window
from sn9reg.simulate.landuse import MATERIALS, Kind, Scene, Solid
from sn9reg.simulate.noise import Image, metres, pixel_noise, texture
from sn9reg.simulate.solids import BAY, STOREY, Labels, Sketch, Solids, Surface, inner, steps

_SHADE = 0.42
_BLUR = 6  # pixels that the point spread and the halo of pan-sharpening reach
_COLOUR_BLUR = 1.6  # pixels: colours come from coarser bands

_ROOFS = np.array([[158, 84, 62], [176, 104, 80], [132, 66, 52], [120, 116, 112], [206, 204, 198], [84, 86, 92]], float)
_FLAT_ROOFS = np.array([[150, 146, 140], [196, 192, 186], [118, 118, 120], [226, 224, 220], [140, 104, 88]], float)
_WALLS = np.array([[226, 220, 208], [206, 192, 170], [214, 178, 150], [180, 172, 164], [236, 234, 230]], float)
_CARS = np.array([[230, 230, 232], [40, 42, 46], [150, 152, 156], [150, 34, 32], [44, 62, 120], [214, 212, 206]], float)


class Optical:
    """Renders windows of the optical image; any block alone equals its part of the whole."""

    def __init__(self, scene: Scene) -> None:
        grid, look, ground = scene.optical, scene.look, scene.world.ground
        self.grid, self._seed, self._haze = grid, scene.seed, look.haze
        self._ground = Sketch(ground.outlines, ground.width, grid)
        self._solids = Solids(scene.world.solids, grid)
        flip = np.array([1, -1])  # pixel rows run down
        self._sun = look.sun * flip / np.linalg.norm(look.sun)
        self._rise = look.sun_slope * grid.resolution  # metres by which its light rises in a pixel
        along = self._solids.along  # and how much the second half of a roof faces the sun: -1 to 1
        self._facing_sun = np.column_stack([-along[:, 1], along[:, 0]]) @ self._sun
        self._lean = look.lean * flip / grid.resolution  # pixels a metre
        kind, tone = ground.labelled()  # by label, (n, 3) colours and strengths of texture
        dark, bright, rough = (np.array([MATERIALS[k][i] for k in Kind], float)[kind] for i in range(3))
        self._colour = (dark + tone[:, :1] * (bright - dark)).astype(np.float32)
        self._texture = rough.astype(np.float32)
        bearing, number = tone[:, 2] * 40, 2 * np.pi / (2.5 + 5 * tone[:, 0])
        waves = np.column_stack([np.cos(bearing) * number, np.sin(bearing) * number, 0.03 + 0.07 * tone[:, 1]])
        ploughed = np.isin(kind, [Kind.FIELD, Kind.SOIL]) & (tone[:, 2] > 0.45)
        self._furrows = (waves * ploughed[:, None]).astype(np.float32)  # (n, 3) wave number x, y and depth
        self._kind, tone = scene.world.solids.labelled()  # by label, (n, 3) colours from above and of walls

        def one_of(colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.asarray(colours[(tone[:, 0] * len(colours)).astype(int)] * (0.85 + 0.3 * tone[:, 1:2]))

        crown = np.array([38, 58, 28]) * 1.2 + tone[:, :1] * [26, 30, 14]
        grey = 110 + 120 * tone[:, :1] * np.ones(3)
        tops = [one_of(_FLAT_ROOFS), one_of(_ROOFS), grey, one_of(_CARS), grey, grey, crown]
        self._top = np.select([(self._kind == k)[:, None] for k in Solid], tops).astype(np.float32)
        self._side = one_of(_WALLS).astype(np.float32)
        xy, shape = node_positions(grid)
        slope = scene.field.slope(grid.to_map(xy), -look.sun) * scene.field.tan_incidence
        light = np.clip(slope * 0.8, -0.25, 0.25).reshape(1, *shape).astype(np.float32)
        self._shading = from_nodes(grid, light, 32)  # relative light of the slopes

    def render(self, window: Window) -> npt.NDArray[np.uint8]:
        """(3, h, w) of the image."""
        image = self._sharp(window.grow(_BLUR))
        grey = cv2.GaussianBlur(image.mean(axis=2), (2 * _BLUR + 1, 2 * _BLUR + 1), 0.75)
        colour = cv2.GaussianBlur(image, (2 * _BLUR + 1, 2 * _BLUR + 1), _COLOUR_BLUR)
        image = colour * (grey / np.maximum(colour.mean(axis=2), 1))[..., None]
        image = image[_BLUR:-_BLUR, _BLUR:-_BLUR] * (1 + self._shading.read(window)[0])[..., None]
        image = image * (1 - self._haze) + np.array([128, 140, 156], np.float32) * self._haze
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
        ground = self._ground.drawn(window)
        x, y = metres(self.grid, window, self.grid)
        grain = [texture(self._seed + 50 + k, cell, x, y) for k, cell in enumerate((12.0, 3.0, 0.8))]
        weights = self._texture[ground]
        light = np.prod([1 + weights[..., k] * grain[k] for k in range(3)], axis=0)
        kx, ky, depth = np.moveaxis(self._furrows[ground], -1, 0)
        light *= 1 + depth * np.sin(kx * x + ky * y)
        result = self._colour[ground] * light[..., None]
        at = rows, cols = np.nonzero(label)
        which, z = label[at], up[at]
        place = np.column_stack([cols + window.col, rows + window.row]) - self._lean * z[:, None]
        result[at] = self._painted(which, z, place - self._solids.centre[which], height[at], shown[at])
        result[at] *= 1 + 0.03 * grain[1][at][:, None] + 0.05 * grain[2][at][:, None]
        return result * np.where(shade, np.float32(_SHADE), np.float32(1))[..., None]

    def _seen(self, window: Window) -> tuple[Image, Labels, npt.NDArray[np.bool_], npt.NDArray[np.bool_], Image]:
        """What each pixel shows: height of what stands there, label, whether it lies in shadow, is a roof, and its
        height z, for which it is shown `lean` * z aside; of all places along a ray the highest is seen."""
        view = float(np.hypot(*self._lean))
        leaning = int(np.ceil(self._solids.highest * view)) + 4
        height, label, hidden = self._solids.reached(window.grow(leaning), self._sun, self._rise)
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

    def _painted(self, which: Labels, z: Image, place: Image, height: Image, roof: npt.NDArray[np.bool_]) -> Image:
        """(n, 3) colours of places on solids, `place` pixels from the middle and z metres above the ground."""
        kind, metre = self._kind[which], self.grid.resolution
        half, along = self._solids.half[which], self._solids.along[which]
        u = (place * along).sum(axis=1)
        v = place[:, 1] * along[:, 0] - place[:, 0] * along[:, 1]
        outward = place / half[:, :1]
        sunny = np.where(kind == Solid.HIPPED, 0.25 * np.sign(v) * self._facing_sun[which], 0)
        sunny = np.where(kind == Solid.TREE, 0.45 * np.clip(outward @ self._sun, -1, 1), sunny)
        rim = (np.maximum(np.abs(u) - half[:, 0], np.abs(v) - half[:, 1]) > -1.2) & (kind == Solid.FLAT)
        colour = self._top[which] * (1 + sunny + 0.15 * rim)[:, None]
        floor, bay = np.mod(z, STOREY) / STOREY, np.mod((u + v) * metre, BAY) / BAY
        window = (floor > 0.3) & (floor < 0.8) & (bay > 0.25) & (bay < 0.8) & (height > 4) & (kind <= Solid.HIPPED)
        wall = self._side[which] * np.where(window, 0.45, 1.0)[:, None]
        return np.where((roof | (kind > Solid.HIPPED))[:, None], colour, wall).astype(np.float32)
