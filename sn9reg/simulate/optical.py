"""The optical image: colours, furrows, crowns, roofs, sun shadows, shaded slopes."""

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.offsets import from_nodes, node_positions
from sn9reg.raster.grid import Grid, Window
from sn9reg.simulate.field import TAN_INCIDENCE, GroundField
from sn9reg.simulate.landuse import Kind, World
from sn9reg.simulate.noise import Image, metres, pixel_noise, texture
from sn9reg.simulate.sketch import Sketch, closed, drawn, swept

_SHADOW = np.array([-0.55, 0.835])  # where shadows fall, in map axes
_SHADOW_LENGTH = 0.75  # of one metre of height
_SHADE = 0.42
_BLUR = 2  # pixels that the point spread reaches

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
}
_ROOFS = np.array([[158, 84, 62], [176, 104, 80], [132, 66, 52], [120, 116, 112], [206, 204, 198], [84, 86, 92]], float)


class Optical:
    """Renders windows of the optical image; any block alone equals its part of the whole."""

    def __init__(self, world: World, grid: Grid, field: GroundField, seed: int) -> None:
        self.grid, self._seed = grid, seed
        self._origin = np.array([grid.transform.c, grid.transform.f])
        ground, buildings = world.ground, world.buildings
        width = np.array(world.trees.width)
        dots = [np.repeat(outline, 2, axis=0) for outline in world.trees.outlines]
        lit = [dot - _SHADOW * (0.16 * w) for dot, w in zip(dots, width.tolist(), strict=True)]  # towards the sun
        crowns, bright_crowns = Sketch.of(dots, grid, width), Sketch.of(lit, grid, width * 0.62)
        roofs = Sketch.of([closed(outline) for outline in buildings.outlines], grid)
        # Corners run along one eave, then along the other.
        beyond_ridge = [np.stack([(a + d) / 2, (b + c) / 2, c, d]) for a, b, c, d in buildings.outlines]
        far_roofs = Sketch.of([closed(half) for half in beyond_ridge], grid)
        sketches = (Sketch.of(ground.outlines, grid, ground.width), crowns, bright_crowns, roofs, far_roofs)
        counts = [len(sketch.outlines) for sketch in sketches]
        first = np.cumsum([1, *counts[:-1]])
        self._layers = [(s, start + np.arange(n)) for s, start, n in zip(sketches, first, counts, strict=True)]
        self._shade = ((_shadows(world, grid), 1), (bright_crowns, 0), (roofs, 0))
        self._colour, self._texture, self._furrows = _palette(world)
        xy, shape = node_positions(grid)
        slope = field.slope(grid.to_map(xy), _SHADOW) * TAN_INCIDENCE
        light = np.clip(slope * 0.8, -0.25, 0.25).reshape(1, *shape).astype(np.float32)
        self._shading = from_nodes(grid, light, 32)  # relative light of the slopes

    def render(self, window: Window) -> npt.NDArray[np.uint8]:
        """(3, h, w) of the image."""
        halo = window.grow(_BLUR)
        labels = drawn(halo, np.int32, *self._layers)
        light = np.where(drawn(halo, np.uint8, *self._shade) > 0, np.float32(_SHADE), np.float32(1))
        x, y = metres(self.grid, self._origin, halo)
        weights = self._texture[labels]
        for k, cell in enumerate((12.0, 3.0, 0.8)):
            light *= 1 + weights[..., k] * texture(self._seed + 50 + k, cell, x, y)
        kx, ky, depth = np.moveaxis(self._furrows[labels], -1, 0)
        light *= 1 + depth * np.sin(kx * x + ky * y)
        sharp = self._colour[labels] * light[..., None]
        blurred = cv2.GaussianBlur(sharp, (2 * _BLUR + 1, 2 * _BLUR + 1), 0.75)[_BLUR:-_BLUR, _BLUR:-_BLUR]
        image = blurred * (1 + self._shading.read(window)[0])[..., None]
        image += (pixel_noise(self._seed + 60, window)[..., None].astype(np.float32) - 32768) * np.float32(5 / 65536)
        return np.ascontiguousarray(np.moveaxis(np.clip(image + 0.5, 1, 255).astype(np.uint8), -1, 0))


def _shadows(world: World, grid: Grid) -> Sketch:
    houses, trees = (zip(shapes.outlines, shapes.height, strict=True) for shapes in (world.buildings, world.trees))
    shapes = [swept(outline, _SHADOW * (_SHADOW_LENGTH * height)) for outline, height in houses]
    widths = [0.0] * len(shapes) + [crown * 0.9 for crown in world.trees.width]
    shapes += [np.stack([at[0], at[0] + _SHADOW * (_SHADOW_LENGTH * height * 0.7)]) for at, height in trees]
    return Sketch.of(shapes, grid, widths)


def _palette(world: World) -> tuple[Image, Image, Image]:
    """For each label: (n, 3) colour, (n, 3) strength of texture, (n, 3) furrows: wave number x, y and depth."""
    dark, bright, rough = (np.array([_LOOK[kind][k] for kind in Kind], float) for k in range(3))
    layers = (world.ground, world.trees, world.buildings)
    tone, green, roof_tone = (np.array(shapes.tone).reshape(-1, 3) for shapes in layers)
    kind = np.array(world.ground.kind, int)
    ground = dark[kind] + tone[:, :1] * (bright - dark)[kind]
    crown = np.array([38, 58, 28]) + green[:, :1] * [26, 30, 14]
    roof = _ROOFS[(roof_tone[:, 0] * len(_ROOFS)).astype(int)] * (0.85 + 0.3 * roof_tone[:, 1:2])
    facing = [(a + b - c - d) / 2 for a, b, c, d in world.buildings.outlines]
    # How much the first half of a roof faces the sun: -1 to 1.
    sunny = np.array([-way @ _SHADOW / max(1e-9, np.linalg.norm(way)) for way in facing]).reshape(-1, 1)
    near, far = (roof * np.where(roof_tone[:, 2:3] < 0.35, 1, 1 + sign * 0.25 * sunny) for sign in (1, -1))
    colour = np.concatenate([[[92, 104, 62]], ground, crown, crown * 1.5, near, far])
    crowns, roofs = np.full((2 * len(crown), 3), [0.0, 0.06, 0.16]), np.full((2 * len(roof), 3), [0.0, 0.03, 0.05])
    roughness = np.concatenate([[[0.1, 0.08, 0.06]], rough[kind], crowns, roofs])
    bearing, number = tone[:, 2] * 40, 2 * np.pi / (2.5 + 5 * tone[:, 0])
    ploughed = np.isin(kind, [Kind.FIELD, Kind.SOIL]) & (tone[:, 2] > 0.45)
    waves = np.column_stack([np.cos(bearing) * number, np.sin(bearing) * number, 0.03 + 0.07 * tone[:, 1]])
    furrows = np.zeros(colour.shape)
    furrows[1 : 1 + len(kind)][ploughed] = waves[ploughed]
    return colour.astype(np.float32), roughness.astype(np.float32), furrows.astype(np.float32)
