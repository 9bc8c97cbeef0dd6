"""Pixel <-> map, coarser grids, the common grid, windows: the only place that knows the conventions.

Pixel coordinates are (x, y) = (column, row), float64. An integer names the pixel CENTRE, which lies at
``transform * (c + 0.5, r + 0.5)`` in map space. A grid without CRS is a *pixel frame*: 1 px is 1 unit, y runs down.
Longitudes that differ by a whole turn around the Earth are one place: rasters on both sides of 180 degrees may count
on beyond it, or begin again at -180.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
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
LONLAT = CRS.from_epsg(4326)
_PLANE = CRS.from_epsg(3857)  # what GDAL is told of images that lie on no map of the Earth


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
            latitude = math.radians(self.centre[1] * 360 / self.turn)
            return 111_320.0 * 360 / self.turn * math.sqrt(max(1e-6, math.cos(latitude)))
        return float(self.crs.units_factor[1])

    @property
    def metres_per_pixel(self) -> float:
        """Side of the square of one pixel's area, in metres (1 in a pixel frame)."""
        return self.resolution * self.metres_per_unit

    @property
    def centre(self) -> tuple[float, float]:
        """The image's centre in map coordinates."""
        x, y = self.to_map(np.array([[(self.width - 1) / 2, (self.height - 1) / 2]]))[0].tolist()
        return x, y

    @property
    def turn(self) -> float:
        """By how much x grows once around the Earth; 0 where it does not, as in UTM and around a pole."""
        return 0.0 if self.crs is None else _turn(self.crs)

    def to_map(self, xy: Points) -> Points:
        """(N, 2) pixel coordinates -> (N, 2) map coordinates."""
        xy = np.asarray(xy, dtype=np.float64)
        return (xy + 0.5) @ self.linear.T + np.array([self.transform.c, self.transform.f])

    def to_pixel(self, map_xy: Points) -> Points:
        """(N, 2) map coordinates -> (N, 2) pixel coordinates, on the turn around the Earth that the image lies on."""
        near = self.less_turns(np.asarray(map_xy, dtype=np.float64), self.centre[0])
        return (near - np.array([self.transform.c, self.transform.f])) @ np.linalg.inv(self.linear).T - 0.5

    def less_turns(self, map_xy: Points, about: float | npt.NDArray[np.float64] = 0) -> Points:
        """(N, 2) map coordinates, or steps, less whole turns around the Earth: x within half a turn of `about`."""
        turns = np.rint((map_xy[:, 0] - about) / self.turn) if self.turn else np.zeros(1)
        return map_xy - np.column_stack([turns * self.turn, 0 * turns]) if turns.any() else map_xy

    def beside(self, other: Grid) -> Grid:
        """This grid, in the CRS of `other` counted on from where that one lies."""
        if self.crs != other.crs or not self.turn:
            return self
        turns = round((self.centre[0] - other.centre[0]) / self.turn)
        return replace(self, transform=Affine.translation(-turns * self.turn, 0) * self.transform) if turns else self

    def holds(self, xy: Points) -> npt.NDArray[np.bool_]:
        """(N,) whether (N, 2) pixel coordinates lie in the image, its edge included."""
        return np.asarray(((xy >= -0.5) & (xy <= np.array([self.width, self.height]) - 0.5)).all(axis=1))

    def map_to_crs(self, map_xy: Points, crs: CRS | None) -> Points:
        """(N, 2) map coordinates of this grid -> the same places in another CRS, longitudes from -180 to 180 degrees.
        Raises InputError between a pixel frame and a CRS, and where a place has no coordinates there."""
        map_xy = np.asarray(map_xy, dtype=np.float64)
        if self.crs == crs:
            return map_xy
        if self.crs is None or crs is None:
            raise InputError("one raster has a CRS and the other is in a pixel frame: use --pixel-frame for both")
        if is_plane(self.crs) or is_plane(crs):
            names = f"{crs_name(self.crs)} and {crs_name(crs)}"
            raise InputError(f"{names}: a local CRS has no way to another; give both one CRS, or use --pixel-frame")
        try:
            xs, ys = transform_coordinates(self.crs, crs, map_xy[:, 0].tolist(), map_xy[:, 1].tolist())
        except (CPLE_BaseError, RasterioError) as error:
            way = f"no way from {crs_name(self.crs)} to {crs_name(crs)} ({error})"
            raise InputError(f"{way}: check both CRS, or use --pixel-frame") from error
        result = np.column_stack([xs, ys]).astype(np.float64)
        if not np.isfinite(result).all():
            lost = f"some coordinates in {crs_name(self.crs)} do not exist in {crs_name(crs)}"
            raise InputError(f"{lost}: check both rasters' CRS")
        return result

    def map_to(self, map_xy: Points, other: Grid) -> Points:
        """`map_to_crs` for the CRS of another grid, on the turn around the Earth that it lies on."""
        return other.less_turns(self.map_to_crs(map_xy, other.crs), other.centre[0])

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
        return self.to_map(np.concatenate([np.column_stack(side) for side in sides]) * [self.width, self.height] - 0.5)

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


def crs_name(crs: CRS | None) -> str:
    """An authority's code, or the name that the WKT gives it: a whole WKT is no part of a sentence."""
    if crs is None:
        return "a pixel frame"
    text = str(crs.to_string())
    return text if len(text) < 40 else (re.search(r'"([^"]+)"', text) or [text, text])[1]


def is_plane(crs: CRS | None) -> bool:
    """Whether a CRS is a plane of its own, without a place on Earth: a pixel frame, or a local (engineering) CRS."""
    return crs is None or not (crs.is_geographic or crs.is_projected)


@lru_cache(maxsize=64)
def _turn(crs: CRS) -> float:
    """`Grid.turn` of a CRS. Of projected ones the cylindrical have one: x is linear in longitude, at any latitude."""
    if is_plane(crs):
        return 0.0
    if crs.is_geographic:
        return float(round(2 * math.pi / crs.units_factor[1], 9))
    longitudes, latitudes = np.meshgrid(np.arange(-150.0, 180, 60), [0.0, 45.0])
    try:
        places = transform_coordinates(LONLAT, crs, longitudes.ravel().tolist(), latitudes.ravel().tolist())
    except (CPLE_BaseError, RasterioError):  # no projection of the whole Earth
        return 0.0
    x, y = np.array(places).reshape(2, 2, 6)
    steps = np.diff(x, axis=1, append=x[:, :1])  # one of them, which may be any, goes back by a turn
    step = float(np.median(steps))
    cylindrical = np.isclose(steps, step).sum(axis=1).min() == 5 and np.allclose(np.ptp(y, axis=1), 0, atol=1e-3)
    return 6 * abs(step) if cylindrical else 0.0


def warping(source: Grid, target: Grid) -> dict[str, Any]:
    """Options of rasterio's `WarpedVRT` that warp a raster on one grid to another."""
    here, there = _for_gdal(source, target.crs), _for_gdal(target, source.crs)
    options: dict[str, Any] = {"src_crs": here.crs, "src_transform": here.transform, "crs": there.crs}
    return options | {"transform": there.transform, "width": target.width, "height": target.height}


def _for_gdal(grid: Grid, other: CRS | None) -> Grid:
    """The grid as GDAL takes it to warp it to the CRS `other`, or from it. GDAL wants some CRS, and transforms nothing
    between equal ones. To GDAL the Earth ends half a turn from the prime or central meridian: of a grid that reaches
    beyond, its own centre becomes that meridian."""
    if grid.crs is None or is_plane(grid.crs):  # a frame's y is turned up, as map axes are
        upright = Affine.scale(1, -1) * grid.transform if grid.crs is None else grid.transform
        return replace(grid, transform=upright, crs=_PLANE)
    if grid.crs == other or not grid.turn:
        return grid
    wkt, centre = grid.crs.to_wkt(), grid.centre[0]
    start = re.search(r'"false_easting",([-+.\de]+)', wkt)
    middle = float(start[1]) if start else 0.0
    if np.abs(grid.outline()[:, 0] - middle).max() <= grid.turn / 2 + max(grid.pixel_size):
        return grid

    def moved(meridian: re.Match[str]) -> str:
        return f"{meridian[1]}{(float(meridian[2]) + 180 + (centre - middle) * 360 / grid.turn) % 360 - 180!r}"

    # By its old name or code it would be taken for the old one.
    wkt = re.sub(r',AUTHORITY\["\w+","\d+"\]\]$', "]", re.sub(r'^(\w+\[)"[^"]*"', r'\1"moved"', wkt))
    if grid.crs.is_geographic:
        wkt = re.sub(r'PRIMEM\["[^"]*",([^,\]]*)(,AUTHORITY\[[^\]]*\])?', r'PRIMEM["moved",\1', wkt)
    wkt = re.sub(r'(PRIMEM\["moved",|"central_meridian",|\+lon_0=)([-+.\de]+)', moved, wkt)
    return replace(grid, transform=Affine.translation(middle - centre, 0) * grid.transform, crs=CRS.from_wkt(wkt))


def _metric_grid(optical: Grid, sar: Grid) -> Grid:
    """The image whose CRS is metric, the optical one first; where none is, a grid in UTM at the optical centre."""
    for grid in (optical, sar):
        if grid.crs is not None and (grid.crs.is_projected or (is_plane(grid.crs) and optical.crs == sar.crs)):
            return grid
    longitude, latitude = optical.map_to_crs(optical.outline().mean(axis=0, keepdims=True), LONLAT)[0].tolist()
    zone = min(60, int((longitude + 180) % 360 // 6) + 1)
    return Grid(Affine.identity(), 1, 1, CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone))


def _pixel_area(grid: Grid, metric: Grid) -> float:
    """Of a pixel at the centre of `grid`, in squared units of the CRS of `metric`."""
    centre = np.array([(grid.width - 1) / 2, (grid.height - 1) / 2])
    steps = np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])
    places = grid.map_to(grid.to_map(centre + steps), metric)
    return float(np.hypot(*(places[1] - places[0]))) * float(np.hypot(*(places[3] - places[2])))


def common_grid(optical: Grid, sar: Grid) -> Grid:
    """The grid on which both scenes are compared: pixel size of the coarser, extent the union of both.

    Scene alignment of the SpaceNet 9 baseline (Hänsch et al., "Introducing SpaceNet 9", section 3). The grid is
    projected and north-up; where the coarser scene is so in the same CRS, on its lattice, so that it is not resampled.
    Two scenes in one local CRS lie on that plane. Raises InputError if one scene has a CRS and the other is in a pixel
    frame, or another CRS than a local one."""
    if (optical.crs is None) != (sar.crs is None):
        raise InputError("one raster has a CRS and the other has none: use --pixel-frame to ignore both")
    if optical.crs is None:
        return Grid.pixel_frame(max(optical.width, sar.width), max(optical.height, sar.height))
    metric = _metric_grid(optical, sar)
    areas = _pixel_area(optical, metric), _pixel_area(sar, metric)
    # Sides are differences of large coordinates, right to some 1e-9: of equal ones the SAR's lattice is taken.
    coarser, area = (optical, areas[0]) if areas[0] > areas[1] * (1 + 1e-6) else (sar, areas[1])
    t, left, top = coarser.transform, 0.0, 0.0
    width = height = math.sqrt(area)
    if coarser.crs == metric.crs and t.b == 0 and t.d == 0:
        width, height, left, top = abs(t.a), abs(t.e), t.c, t.f
    outline = np.concatenate([grid.map_to(grid.outline(), metric) for grid in (optical, sar)])
    cols, rows = (outline[:, 0] - left) / width, (top - outline[:, 1]) / height
    col, row = math.floor(cols.min() + 1e-6), math.floor(rows.min() + 1e-6)
    right, bottom = math.ceil(cols.max() - 1e-6), math.ceil(rows.max() - 1e-6)
    transform = Affine(width, 0, left + col * width, 0, -height, top - row * height)
    return Grid(transform, right - col, bottom - row, metric.crs)
