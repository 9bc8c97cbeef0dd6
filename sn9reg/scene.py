"""ScenePair: an optical and a SAR scene on one common grid, each with a validity mask, read by window.

Scene alignment as in the SpaceNet 9 baseline (Hänsch et al., section 3): the finer scene is resampled by area
average to the pixel size of the coarser one, both are padded to the same extent. Nothing is held at full
resolution: every read goes through a WarpedVRT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from sn9reg.errors import InputError
from sn9reg.grid import Grid, Window, common_grid
from sn9reg.rasters import PathLike, alpha_band, check_bands, data_bands, grid_of, open_raster, reading

# A scene this far to a side is never smaller than an overview in memory.
_OVERVIEW_SIDE = 1024
# WarpedVRT wants some CRS; in a pixel frame both sides get this one, so nothing is ever transformed.
_FRAME_CRS = CRS.from_epsg(3857)


@dataclass(frozen=True)
class Patch:
    """What a window of a scene holds: values (bands, h, w) float32, 0 where not valid; valid (h, w) bool."""

    values: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[1:] != self.valid.shape:
            raise ValueError(f"values {self.values.shape} and valid {self.valid.shape} do not belong together")


@dataclass(frozen=True)
class Scene:
    """One open scene. `grid` is its own; `read` resamples it onto any window of any coarsening of the common grid."""

    name: str
    grid: Grid
    bands: tuple[int, ...]
    _dataset: DatasetReader = field(repr=False)
    _common: Grid = field(repr=False)
    _nodata: float | None = field(repr=False)
    _vrts: dict[int, WarpedVRT] = field(default_factory=dict, repr=False)

    def read(self, window: Window, factor: int = 1) -> Patch:
        """The window, in pixels of the common grid coarsened by `factor`; outside the scene nothing is valid.

        Raises InputError if the file cannot be read.
        """
        vrt, alpha = self._vrt(factor), alpha_band(self._dataset)
        inside = window.intersect(Window(0, 0, vrt.width, vrt.height))
        values = np.zeros((len(self.bands), *window.shape), np.float32)
        valid = np.zeros(window.shape, bool)
        if not inside.empty:
            rows = slice(inside.row - window.row, inside.row - window.row + inside.height)
            cols = slice(inside.col - window.col, inside.col - window.col + inside.width)
            with reading(self.name):
                data = vrt.read(
                    [*self.bands, alpha or vrt.count],
                    window=RasterioWindow(inside.col, inside.row, inside.width, inside.height),
                    out_dtype="float64" if "64" in vrt.dtypes[0] else "float32",
                )
            # A NaN or infinity among the averaged pixels leaves the average without meaning.
            good = (data[-1] > 0) & np.isfinite(data[:-1]).all(axis=0)
            nodata = self._dataset.nodata if self._nodata is None else self._nodata
            if alpha and nodata is not None:  # of the two, GDAL heeds alpha only
                good &= (data[:-1] != nodata).any(axis=0)
            valid[rows, cols] = good
            values[:, rows, cols] = np.where(good, np.clip(data[:-1], -3e38, 3e38), 0)
        return Patch(values, valid)

    def _vrt(self, factor: int) -> WarpedVRT:
        if factor not in self._vrts:
            target = self._common.coarsen(factor)
            same_size = self.grid.crs == target.crs and np.allclose(
                self.grid.pixel_size, target.pixel_size, rtol=1e-6, atol=0
            )
            extras: dict[str, Any] = {"NUM_THREADS": 2, "UNIFIED_SRC_NODATA": "YES"}
            if same_size:  # else GDAL takes a turned scene's blocks for downsampled ones, and blurs some of them
                extras |= {"XSCALE": 1, "YSCALE": 1}
            # An alpha band of the scene's own serves; its nodata must not become the alpha of the padding.
            extras |= {"nodata": None} if alpha_band(self._dataset) else {"add_alpha": True}
            if self._nodata is not None:
                extras["src_nodata"] = self._nodata
            with reading(self.name):
                self._vrts[factor] = WarpedVRT(
                    self._dataset,
                    src_crs=self.grid.crs or _FRAME_CRS,
                    src_transform=_upright(self.grid),
                    crs=target.crs or _FRAME_CRS,
                    transform=_upright(target),
                    width=target.width,
                    height=target.height,
                    # An average over less than one source pixel is nearest neighbour: half a pixel of jitter.
                    resampling=Resampling.bilinear if same_size else Resampling.average,
                    warp_mem_limit=256,
                    **extras,
                )
        return self._vrts[factor]

    def close(self) -> None:
        for vrt in self._vrts.values():
            vrt.close()


def _upright(grid: Grid) -> Affine:
    """The geotransform given to GDAL; a pixel frame's y axis is turned up, as map axes are."""
    return grid.transform if grid.crs is not None else Affine.scale(1, -1) * grid.transform


@dataclass(frozen=True)
class ScenePair:
    """An optical and a SAR scene and the common grid on which they are compared."""

    optical: Scene
    sar: Scene
    grid: Grid

    @property
    def overlap(self) -> Window:
        """Where the extents of both scenes overlap, in pixels of the common grid."""
        windows = [
            self.grid.covering(scene.grid.map_to_crs(scene.grid.outline(), self.grid.crs))
            for scene in (self.optical, self.sar)
        ]
        return windows[0].intersect(windows[1])

    def overview(self, scene: Scene) -> tuple[Patch, int]:
        """The whole of `scene` on the common grid at about 1,000 px a side, and the factor of that."""
        factor = max(1, -(-max(self.grid.shape) // _OVERVIEW_SIDE))
        return scene.read(self.grid.coarsen(factor).window, factor), factor


@contextmanager
def open_pair(
    optical: PathLike,
    sar: PathLike,
    *,
    pixel_frame: bool = False,
    optical_bands: Sequence[int] = (),
    sar_bands: Sequence[int] = (),
    optical_nodata: float | None = None,
    sar_nodata: float | None = None,
) -> Iterator[ScenePair]:
    """Open both scenes and lay them on their common grid.

    Bands default to the first three (optical) and all (SAR) that are not alpha. A nodata value given here
    replaces the file's own; otherwise validity comes from nodata, alpha, mask band and NaN, and is never guessed.

    Raises InputError for files that cannot be used, that do not overlap, or that hold no valid pixel.
    """
    with ExitStack() as stack:
        datasets = [stack.enter_context(open_raster(path)) for path in (optical, sar)]
        grids = [grid_of(dataset, pixel_frame) for dataset in datasets]
        bands = [
            tuple(optical_bands) or tuple(data_bands(datasets[0])[:3]),
            tuple(sar_bands) or tuple(data_bands(datasets[1])),
        ]
        for dataset, chosen in zip(datasets, bands, strict=True):
            check_bands(dataset, list(chosen))
        if not _overlap(*grids):
            raise InputError(f"{optical} and {sar} do not overlap: check that they show the same place and their CRS")
        common = common_grid(*grids)
        scenes = [
            Scene(str(path), grid, chosen, dataset, common, nodata)
            for path, grid, chosen, dataset, nodata in zip(
                (optical, sar), grids, bands, datasets, (optical_nodata, sar_nodata), strict=True
            )
        ]
        for scene in scenes:
            stack.callback(scene.close)
        pair = ScenePair(*scenes, common)
        for scene in scenes:
            if not pair.overview(scene)[0].valid.any():
                raise InputError(f"{scene.name}: holds no valid pixel (all nodata, masked or NaN)")
        yield pair


def _overlap(optical: Grid, sar: Grid) -> bool:
    """Whether the two extents share any area, judged in the optical scene's pixels."""
    if (optical.crs is None) != (sar.crs is None):
        return True  # common_grid says what is wrong
    there = optical.to_pixel(sar.map_to_crs(sar.outline(), optical.crs)) + 0.5
    low, high = there.min(axis=0), there.max(axis=0)
    return bool((high > 0).all() and (low < [optical.width, optical.height]).all())
