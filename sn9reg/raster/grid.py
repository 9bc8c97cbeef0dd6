"""Pixel <-> map, coarser grids, the common grid, windows: the only place that knows the conventions.

Pixel coordinates are (x, y) = (column, row), float64. An integer names the pixel CENTRE, which lies at
``transform * (c + 0.5, r + 0.5)`` in map space. A grid without CRS is a *pixel frame*: 1 px is 1 unit, y runs down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as transform_coordinates

from sn9reg.errors import InputError

Points = npt.NDArray[np.float64]  # (N, 2), x then y


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: columns [col, col + width), rows [row, row + height). May lie outside its grid."""

    col: int
    row: int
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    def slices(self, of: Window | None = None) -> tuple[slice, slice]:
        """Rows and columns, as NumPy and rasterio take them, in an array of the window `of`, or of the whole grid."""
        row, col = (self.row, self.col) if of is None else (self.row - of.row, self.col - of.col)
        return slice(row, row + self.height), slice(col, col + self.width)

    def grow(self, margin: int) -> Window:
        """The window with `margin` pixels more on each side."""
        return Window(self.col - margin, self.row - margin, self.width + 2 * margin, self.height + 2 * margin)

    def halves(self) -> tuple[Window, Window]:
        """The window in two parts, one above the other where it is higher than wide, else side by side."""
        upper, left = self.height // 2, self.width // 2
        if self.height > self.width:
            return replace(self, height=upper), replace(self, row=self.row + upper, height=self.height - upper)
        return replace(self, width=left), replace(self, col=self.col + left, width=self.width - left)

    def intersect(self, other: Window) -> Window:
        """The common part; `empty` if there is none."""
        col, row = max(self.col, other.col), max(self.row, other.row)
        right = min(self.col + self.width, other.col + other.width)
        bottom = min(self.row + self.height, other.row + other.height)
        return Window(col, row, max(0, right - col), max(0, bottom - row))


@dataclass(frozen=True)
class Grid:
    """A raster's geometry. Raises InputError where size or geotransform cannot be one of a raster."""

    transform: Affine  # geotransform: from corners of pixels to map units
    width: int  # px
    height: int  # px
    crs: CRS | None = None  # None: a pixel frame

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"a grid of {self.width} x {self.height} px has no pixels")
        if not all(map(math.isfinite, self.transform)) or self.transform.determinant == 0:
            raise InputError(f"the geotransform {tuple(self.transform)[:6]} cannot be inverted")

    @classmethod
    def pixel_frame(cls, width: int, height: int) -> Grid:
        """The grid of an image without georeference: 1 px = 1 unit, origin at the upper left corner."""
        return cls(Affine.identity(), width, height, None)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def window(self) -> Window:
        return Window(0, 0, self.width, self.height)

    @property
    def linear(self) -> npt.NDArray[np.float64]:
        """(2, 2) matrix from a pixel step (dx, dy) to a map step."""
        t = self.transform
        return np.array([[t.a, t.b], [t.d, t.e]])

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Length of one column and one row step, in map units."""
        t = self.transform
        return math.hypot(t.a, t.d), math.hypot(t.b, t.e)

    @property
    def resolution(self) -> float:
        """Side of the square of one pixel's area, in map units."""
        return math.sqrt(abs(self.transform.determinant))

    @property
    def metres_per_unit(self) -> float:
        """Metres, 1 in a pixel frame. A degree is the side of the square of a degree's area at the grid's centre."""
        if self.crs is None:
            return 1.0
        if self.crs.is_geographic:
            centre = self.to_map(np.array([[(self.width - 1) / 2, (self.height - 1) / 2]]))[0]
            return 111_320.0 * math.sqrt(max(1e-6, math.cos(math.radians(float(centre[1])))))
        return float(self.crs.linear_units_factor[1])

    @property
    def metres_per_pixel(self) -> float:
        """Side of the square of one pixel's area, in metres (1 in a pixel frame)."""
        return self.resolution * self.metres_per_unit

    def to_map(self, xy: Points) -> Points:
        """(N, 2) pixel coordinates -> (N, 2) map coordinates."""
        xy = np.asarray(xy, dtype=np.float64)
        return (xy + 0.5) @ self.linear.T + np.array([self.transform.c, self.transform.f])

    def to_pixel(self, map_xy: Points) -> Points:
        """(N, 2) map coordinates -> (N, 2) pixel coordinates."""
        shifted = np.asarray(map_xy, dtype=np.float64) - np.array([self.transform.c, self.transform.f])
        return shifted @ np.linalg.inv(self.linear).T - 0.5

    def holds(self, xy: Points) -> npt.NDArray[np.bool_]:
        """(N,) whether (N, 2) pixel coordinates lie in the image, its edge included."""
        return np.asarray(((xy >= -0.5) & (xy <= np.array([self.width, self.height]) - 0.5)).all(axis=1))

    def map_to_crs(self, map_xy: Points, crs: CRS | None) -> Points:
        """(N, 2) map coordinates of this grid -> the same places in another CRS.

        Raises InputError between a pixel frame and a CRS, and where a place has no coordinates there.
        """
        map_xy = np.asarray(map_xy, dtype=np.float64)
        if self.crs == crs:
            return map_xy
        if self.crs is None or crs is None:
            raise InputError("one raster has a CRS and the other is in a pixel frame: use --pixel-frame for both")
        try:
            xs, ys = transform_coordinates(self.crs, crs, map_xy[:, 0].tolist(), map_xy[:, 1].tolist())
        except (CPLE_BaseError, RasterioError) as error:
            way = f"no way from {_name(self.crs)} to {_name(crs)} ({error})"
            raise InputError(f"{way}: check both CRS, or use --pixel-frame") from error
        result = np.column_stack([xs, ys]).astype(np.float64)
        if not np.isfinite(result).all():
            lost = f"some coordinates in {_name(self.crs)} do not exist in {_name(crs)}"
            raise InputError(f"{lost}: check both rasters' CRS")
        return result

    def crop(self, window: Window) -> Grid:
        """The grid of a window of this one; it may reach outside."""
        return Grid(self.transform * Affine.translation(window.col, window.row), window.width, window.height, self.crs)

    def coarsen(self, factor: int) -> Grid:
        """The grid of factor x factor pixels made one; the last column and row may reach outside."""
        transform = self.transform * Affine.scale(factor)
        return Grid(transform, -(-self.width // factor), -(-self.height // factor), self.crs)

    def outline(self, per_side: int = 21) -> Points:
        """(4 * per_side, 2) map coordinates along the outer edge."""
        t = np.linspace(0, 1, per_side)
        sides = (t, 0 * t), (0 * t + 1, t), (1 - t, 0 * t + 1), (0 * t, 1 - t)
        edge = np.concatenate([np.column_stack(side) for side in sides])
        return self.to_map(edge * [self.width, self.height] - 0.5)

    def blocks(self, size: int = 512) -> Iterator[Window]:
        """Windows of size x size that tile the grid, row by row."""
        for row in range(0, self.height, size):
            for col in range(0, self.width, size):
                yield Window(col, row, min(size, self.width - col), min(size, self.height - row))

    def covering(self, map_xy: Points) -> Window:
        """The smallest window of whole pixels that covers the given map coordinates, cut to the grid."""
        xy = self.to_pixel(map_xy) + 0.5
        low, high = np.floor(xy.min(axis=0) + 1e-6).astype(int), np.ceil(xy.max(axis=0) - 1e-6).astype(int)
        return Window(*low.tolist(), *(high - low).tolist()).intersect(self.window)

    def describe(self) -> dict[str, Any]:
        """Plain facts for logs and JSON."""
        crs = self.crs.to_string() if self.crs else "pixel frame"
        return {"width": self.width, "height": self.height, "crs": crs, "transform": list(tuple(self.transform)[:6])}


def to_level(common_xy: Points, factor: int) -> Points:
    """Common pixels -> pixels of the grid coarsened by `factor` (integers are centres in both)."""
    return (common_xy + 0.5) / factor - 0.5


def to_common(level_xy: Points, factor: int) -> Points:
    """The inverse of `to_level`."""
    return (level_xy + 0.5) * factor - 0.5


def coarse_to_common(factor: float) -> npt.NDArray[np.float64]:
    """(3, 3) `to_common` as a matrix; its inverse is `to_level`."""
    return np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1.0]])


def _name(crs: CRS) -> str:
    """An authority's code, or the name that the WKT gives it: a whole WKT is no part of a sentence."""
    text = str(crs.to_string())
    return text if len(text) < 40 else (re.search(r'"([^"]+)"', text) or [text, text])[1]


def _metric_crs(optical: Grid, sar: Grid) -> CRS:
    """The optical CRS if it is projected, else the SAR one, else UTM at the optical centre."""
    if projected := [grid.crs for grid in (optical, sar) if grid.crs is not None and grid.crs.is_projected]:
        return projected[0]
    centre = optical.outline().mean(axis=0, keepdims=True)
    longitude, latitude = optical.map_to_crs(centre, CRS.from_epsg(4326))[0].tolist()
    return CRS.from_epsg((32600 if latitude >= 0 else 32700) + min(60, int((longitude + 180) // 6) + 1))


def _pixel_area(grid: Grid, crs: CRS) -> float:
    """Of a pixel at the centre of `grid`, in squared units of `crs`."""
    centre = np.array([(grid.width - 1) / 2, (grid.height - 1) / 2])
    steps = np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])
    places = grid.map_to_crs(grid.to_map(centre + steps), crs)
    return float(np.hypot(*(places[1] - places[0]))) * float(np.hypot(*(places[3] - places[2])))


def common_grid(optical: Grid, sar: Grid) -> Grid:
    """The grid on which both scenes are compared: pixel size of the coarser, extent the union of both.

    Scene alignment of the SpaceNet 9 baseline (Hänsch et al., "Introducing SpaceNet 9", section 3). The grid is
    projected and north-up; where the coarser scene is so in the same CRS, on its lattice, so that it is not resampled.

    Raises InputError if one scene has a CRS and the other is in a pixel frame.
    """
    if optical.crs is None or sar.crs is None:
        if optical.crs is not None or sar.crs is not None:
            raise InputError("one raster has a CRS and the other has none: use --pixel-frame to ignore both")
        return Grid.pixel_frame(max(optical.width, sar.width), max(optical.height, sar.height))
    crs = _metric_crs(optical, sar)
    area = {grid: _pixel_area(grid, crs) for grid in (optical, sar)}
    # Sides are differences of large coordinates, right to some 1e-9: of equal ones the SAR's lattice is taken.
    coarser = optical if area[optical] > area[sar] * (1 + 1e-6) else sar
    t, left, top = coarser.transform, 0.0, 0.0
    width = height = math.sqrt(area[coarser])
    if coarser.crs == crs and t.b == 0 and t.d == 0:
        width, height, left, top = abs(t.a), abs(t.e), t.c, t.f
    outline = np.concatenate([grid.map_to_crs(grid.outline(), crs) for grid in (optical, sar)])
    cols, rows = (outline[:, 0] - left) / width, (top - outline[:, 1]) / height
    col, row = math.floor(cols.min() + 1e-6), math.floor(rows.min() + 1e-6)
    right, bottom = math.ceil(cols.max() - 1e-6), math.ceil(rows.max() - 1e-6)
    return Grid(Affine(width, 0, left + col * width, 0, -height, top - row * height), right - col, bottom - row, crs)
