"""ScenePair: an optical and a SAR scene on one common grid (see `common_grid`), each with a validity mask, read by
window: area averages of the finer one. Nothing is held at full resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from sn9reg.errors import InputError, naming
from sn9reg.raster import files
from sn9reg.raster.collar import trimmed, unmarked
from sn9reg.raster.files import PathLike, alpha_band, check_bands, data_bands, grid_of, open_raster, reading
from sn9reg.raster.grid import Grid, Points, Window, common_grid, warping
from sn9reg.raster.radiometry import says_decibel
from sn9reg.raster.resampling import means, shares
from sn9reg.raster.validity import data_view, expanded, gdal_suffices, nodata_of, read_data
from sn9reg.raster.view import Patch, Posed, SceneView, from_finer

Steps = tuple[float, float]  # first and step, see `shares`
_BLOCK = 512  # side of what is warped at once
_LARGEST_WARP = 4  # coarser pixels are averaged from these, in memory, so that the file is read once for all of them
_AT_ONCE = 16 << 20  # pixels of that size that are averaged at once; more are read part by part
_SAME_PLACE = 1e-3  # px by which rows that run along one another may drift apart
_MOST_BANDS = 64  # of an image
_CACHE = 128 << 20  # bytes; GDAL's own default is a share of the memory


@dataclass(frozen=True)
class Scene:
    """One open scene, a `SceneView`. `read` resamples it onto any window of any coarsening of the common grid."""

    name: str
    grid: Grid
    bands: tuple[int, ...]  # of the file
    _layers: tuple[int, ...] = field(repr=False)  # the band of each of the values: a palette's thrice
    _dataset: DatasetReader = field(repr=False)
    _common: Grid = field(repr=False)
    _nodata: float | None = field(repr=False)
    _open: ExitStack = field(repr=False)  # closes what reading opens
    _vrts: dict[tuple[int, bool], WarpedVRT] = field(default_factory=dict, repr=False)

    def read(self, window: Window, factor: int = 1) -> Patch:
        if factor > _LARGEST_WARP and factor % 2 == 0:
            pixels = window.width * window.height * (factor // _LARGEST_WARP) ** 2
            return from_finer(self.read, window, factor, in_two=pixels > _AT_ONCE and max(window.shape) > 1)
        values, valid = np.zeros((len(self._layers), *window.shape), np.float32), np.zeros(window.shape, bool)
        whole = self._common.coarsen(factor)
        inside = window.intersect(whole.window)
        if inside.empty:
            return Patch(values, valid)
        for row in range(inside.row // _BLOCK, (inside.row + inside.height - 1) // _BLOCK + 1):
            for col in range(inside.col // _BLOCK, (inside.col + inside.width - 1) // _BLOCK + 1):
                block = Window(col * _BLOCK, row * _BLOCK, _BLOCK, _BLOCK).intersect(whole.window)
                part = block.intersect(inside)
                patch, there, here = self._block(factor, block), part.slices(block), part.slices(window)
                values[(slice(None), *here)] = patch.values[(slice(None), *there)]
                valid[here] = patch.valid[there]
        return Patch(values, valid)

    @cached_property
    def _block(self) -> Callable[[int, Window], Patch]:
        """`_warp` through a cache: templates and search areas overlap, and warping is what reading costs."""
        # Room for a few rows of blocks: work goes through the scene row by row.
        cached = lru_cache(max(64, 4 * (self._common.width // _BLOCK + 1)))(self._warp)
        self._open.callback(cached.cache_clear)
        return cached

    def _warp(self, factor: int, inside: Window) -> Patch:
        if steps := self._straight(factor):
            return self._averaged(inside, *steps)
        for exact in (not gdal_suffices(self._dataset, self.bands, self._nodata), True):
            vrt = self._vrt(factor, exact)
            bands = range(1, len(self._layers) + 1) if exact else self.bands
            alpha = None if exact else alpha_band(self._dataset)
            with reading(self.name):
                dtype = "float64" if "64" in vrt.dtypes[0] else "float32"
                data = vrt.read([*bands, alpha or vrt.count], window=inside.slices(), out_dtype=dtype)
            good, finite = data[-1] > 0, np.isfinite(data[:-1]).all(axis=0)
            if exact or finite[good].all():  # else a NaN or infinity took whole averages with it
                break
        good &= finite
        return Patch(np.where(good, np.clip(data[:-1], -3e38, 3e38), 0).astype(np.float32), good)

    def _straight(self, factor: int) -> tuple[Steps, Steps] | None:
        """Which of the file's columns and rows lie under those of the window's grid, where they run along one another.
        None where GDAL reads better: it turns images, knows overviews, and takes what is large in parts."""
        target = self._common.coarsen(factor)
        if self.grid.crs != target.crs:
            return None
        a, b, c, d, e, f = np.array((~self.grid.transform @ target.transform)[:6]).tolist()
        along = max(abs(b), abs(d)) * max(target.shape) < _SAME_PLACE
        large = a * e * len(self._layers) > 2 * _AT_ONCE / _BLOCK**2
        if not along or large or min(a, e) < 1 - 1e-6 or (max(a, e) > 1.9 and self._dataset.overviews(self.bands[0])):
            return None
        return (c, a), (f, e)

    def _averaged(self, window: Window, cols: Steps, rows: Steps) -> Patch:
        """Means of the file's valid pixels, weighted by area: what GDAL's warper makes of them, but faster."""
        across, columns = shares(*cols, window.col, window.width, self.grid.width)
        down, lines = shares(*rows, window.row, window.height, self.grid.height)
        if across.start == across.stop or down.start == down.stop:
            return Patch(np.zeros((len(self._layers), *window.shape), np.float32), np.zeros(window.shape, bool))
        with reading(self.name):
            values, valid = read_data(self._dataset, self.bands, (down, across), self._nodata)
        if "64" in str(values.dtype):
            values = np.clip(values, -3e38, 3e38)
        return Patch(*means(values, valid, lines, columns))

    def _vrt(self, factor: int, exact: bool) -> WarpedVRT:
        """exact: of `data_view`, which costs one more reading of the file, in place of the file itself."""
        if (factor, exact) in self._vrts:
            return self._vrts[factor, exact]
        target = self._common.coarsen(factor)
        options = warping(self.grid, target) | {"NUM_THREADS": 2, "warp_mem_limit": 256, "UNIFIED_SRC_NODATA": "YES"}
        options["resampling"] = Resampling.average
        if self.grid.crs == target.crs and np.allclose(self.grid.pixel_size, target.pixel_size, rtol=1e-6, atol=0):
            # An average over less than one source pixel is nearest neighbour: half a pixel of jitter. Without a scale,
            # GDAL takes a turned scene's blocks for downsampled ones, and blurs some of them.
            options |= {"resampling": Resampling.bilinear, "XSCALE": 1, "YSCALE": 1}
        # An alpha band of the scene's own serves; its nodata must not become the alpha of the padding.
        options |= {"nodata": None} if not exact and alpha_band(self._dataset) else {"add_alpha": True}
        if not exact and (nodata := nodata_of(self._dataset, self.bands[0], self._nodata)) is not None:
            options["src_nodata"] = nodata
        reach = np.abs(self.grid.outline()[:, 1]).max() + self.grid.pixel_size[1]
        if options["src_crs"].is_geographic and reach >= self.grid.turn / 4:
            # A pole is a line of the image; else GDAL reads what lies under the target's edges, not around the pole.
            options |= {"SAMPLE_GRID": "YES", "SAMPLE_STEPS": "ALL"}
        with reading(self.name):
            vrt = WarpedVRT(self._view if exact else self._dataset, **options)
        self._vrts[factor, exact] = self._open.enter_context(vrt)
        return vrt

    @cached_property
    def _view(self) -> DatasetReader:
        return self._open.enter_context(data_view(self._dataset, self._layers, self._nodata))

    def outline(self) -> Points:
        return self._common.to_pixel(self.grid.map_to_crs(self.grid.outline(), self._common.crs))


@dataclass(frozen=True)
class ScenePair:
    """An optical and a SAR scene and the common grid on which they are compared."""

    optical: SceneView
    sar: SceneView
    grid: Grid
    decibel: bool | None = None  # whether the SAR file says that its values are decibels; None where it says nothing
    kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # computed once, for all who ask

    @property
    def overlap(self) -> Window:
        """Where the extents of both scenes overlap, in pixels of the common grid."""
        optical, sar = (self.grid.covering(self.grid.to_map(s.outline())) for s in (self.optical, self.sar))
        return optical.intersect(sar)

    def posed(self, matrix: npt.NDArray[np.float64]) -> ScenePair:
        """The pair with its SAR scene seen through `matrix`, see `Posed`."""
        return replace(self, sar=Posed(self.sar, matrix))

    def overview(self, scene: SceneView) -> tuple[Patch, int]:
        """The whole of `scene` on the common grid at 1,024 px a side at most, and the factor of that."""
        factor = 1
        while max(self.grid.shape) / factor > 1024:
            factor *= 2
        return replace(scene.read(self.grid.coarsen(factor).window, factor), decibel=self.decibel), factor


@dataclass(frozen=True)
class PairFiles:
    """The two images of a pair. Not valid are nodata, what alpha or a mask band hide, NaN, and collars and marks."""

    optical: PathLike
    sar: PathLike
    pixel_frame: bool = False  # ignore georeference; both images lie on one pixel grid
    optical_bands: Sequence[int] = ()  # from 1; where none are given, the first three that are not alpha
    sar_bands: Sequence[int] = ()  # from 1; where none are given, all that are not alpha
    optical_nodata: float | None = None  # replaces the file's nodata value
    sar_nodata: float | None = None  # replaces the file's nodata value
    keep_collar: bool = False  # collars and marks (see `collar`) are valid, too

    def grids(self) -> tuple[Grid, Grid]:
        """The images' own grids. Raises InputError for a file that cannot be read or has no georeference."""
        with open_raster(self.optical) as optical, open_raster(self.sar) as sar:
            return self._grids(optical, sar)

    def _grids(self, optical: DatasetReader, sar: DatasetReader) -> tuple[Grid, Grid]:
        grid = grid_of(optical, self.pixel_frame)
        return grid, grid_of(sar, self.pixel_frame).beside(grid)

    @contextmanager
    def open(self, grid: Grid | None = None) -> Iterator[ScenePair]:
        """Open both scenes and lay them on their common grid, or on `grid`. Raises InputError for files that cannot be
        used, that do not overlap, or that hold no valid pixel."""
        with rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_NUM_THREADS=2), ExitStack() as stack:
            optical, sar = (stack.enter_context(open_raster(path)) for path in (self.optical, self.sar))
            grids = self._grids(optical, sar)
            optical_bands = _bands(optical, tuple(self.optical_bands) or data_bands(optical)[:3], "--optical-bidx")
            sar_bands = _bands(sar, tuple(self.sar_bands) or data_bands(sar), "--sar-bidx")
            with naming(self.optical, self.sar):
                if not _overlap(*grids):
                    raise InputError("they do not overlap: check that they show the same place and their CRS")
                common = grid or common_grid(*grids)
            _check_size(f"{self.optical} and {self.sar}, together", common)
            scenes = (
                Scene(str(self.optical), grids[0], *optical_bands, optical, common, self.optical_nodata, stack),
                Scene(str(self.sar), grids[1], *sar_bands, sar, common, self.sar_nodata, stack),
            )
            pair = ScenePair(*scenes, common, says_decibel(sar, sar_bands[0]))
            seen: list[SceneView] = []
            for scene in scenes:
                look, factor = pair.overview(scene)
                if not look.valid.any():
                    raise InputError(f"{scene.name}: holds no valid pixel (all nodata, masked or NaN)")
                seen.append(trimmed(scene, look, factor))
            yield pair if self.keep_collar else ScenePair(*unmarked(seen[0], seen[1], common), common, pair.decibel)


def _bands(image: DatasetReader, bands: Sequence[int], option: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The bands, and those of each of the values. Raises InputError for one that is not there, or for an image that is
    too large. option: names them."""
    check_bands(image, bands)
    _check_size(image.name, image)
    layers = expanded(image, bands)
    if len(layers) > _MOST_BANDS:
        raise InputError(f"{image.name}: {len(layers)} bands are too many; name fewer with {option}")
    return tuple(bands), layers


def _check_size(name: str, image: DatasetReader | Grid) -> None:
    """Raises InputError, before anything is read, for more pixels than are bearable."""
    if image.width * image.height > (most := files.MOST_PIXELS):
        words = f"{image.width} x {image.height} px are too many, {most // 10**6:,} megapixels are the most"
        raise InputError(f"{name}: {words}; cut out the part that both images show, e.g. with gdal_translate -projwin")


def _overlap(optical: Grid, sar: Grid) -> bool:
    """Whether the two extents share any area, judged in the optical scene's pixels."""
    if (optical.crs is None) != (sar.crs is None):
        return True  # common_grid says what is wrong
    # Not the outline alone: around a pole it says nothing of what lies within.
    x, y = np.meshgrid(*(np.linspace(-0.5, side - 0.5, 21) for side in (sar.width, sar.height)))
    there = optical.to_pixel(sar.map_to_crs(sar.to_map(np.column_stack([x.ravel(), y.ravel()])), optical.crs)) + 0.5
    return bool((there.max(axis=0) > 0).all() and (there.min(axis=0) < [optical.width, optical.height]).all())
