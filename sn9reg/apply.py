"""Pull any raster that lies in the SAR frame onto the optical grid, through an offset map."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import rasterio
from rasterio.dtypes import in_dtype_range
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader, DatasetWriter

from sn9reg import progress
from sn9reg.errors import ConfigError, InputError
from sn9reg.offsets import OffsetMap
from sn9reg.raster import files
from sn9reg.raster.grid import Grid, Window
from sn9reg.raster.resampling import RESAMPLING, Floats, Mask, Values, block_means, interpolate, locator, working_dtype
from sn9reg.raster.validity import has_data

_log = logging.getLogger(__name__)
_REACH = 16384  # px; a longer offset is none
_MAX_PIXELS = 4 << 20  # of the raster that a block may need at once; one that needs more is cut in two
_MAX_BANDS = 512  # a block of so many takes 2 GiB


def apply_offsets(
    offsets: OffsetMap, raster: files.PathLike, out: files.PathLike, *, resampling: str | None = None,
    nodata: float | None = None, bands: Sequence[int] | None = None, pixel_frame: bool = False, threads: int = 1,
    overwrite: bool = False, creation_options: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write `raster` on the optical grid, each pixel from where the offsets say that its counterpart lies.

    resampling: nearest, bilinear or cubic; by default nearest for palettes and 64-bit integers, which name things, and
    bilinear for all else. Only valid pixels are interpolated, and where the nearest source pixel is not valid there is
    no data. A raster at least 1.5 times finer than the optical image is averaged first, except with nearest.
    nodata: the value for pixels without data, in the raster too unless the raster declares one.
    Kept: data type, nodata, palette, alpha, band names, colours, units and scales. Without nodata and alpha, pixels
    without data are marked by a mask inside the file. threads: blocks computed at once; GDAL reads one at a time.
    Raises InputError if the raster cannot be used, ConfigError for options that do not fit it, OutputError."""
    files.check_output(out, overwrite)
    if offsets.facts.get("registered") == "no":
        _log.warning("the offset map says that its pair was NOT registered; %s will not fit the optical image", out)
    with files.open_raster(raster) as dataset:
        chosen = list(bands or dataset.indexes)
        files.check_bands(dataset, chosen, allow_complex=True)
        if len(chosen) > _MAX_BANDS:
            raise InputError(f"{raster}: {len(chosen)} bands are too many at once; name {_MAX_BANDS} with --bidx")
        job = _job(offsets, dataset, chosen, files.grid_of(dataset, pixel_frame), resampling, nodata)
        profile = files.check_creation(out, job.profile(), creation_options)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), files.create_raster(out, profile, overwrite) as target:
            job.describe(target)
            if not _write(target, job, threads):
                _log.warning("%s holds no data: does %s lie in the SAR frame?", out, raster)


@dataclass(frozen=True)
class _Job:
    """The raster and what becomes of it, block by block; files are read by one thread at a time, as GDAL demands."""

    offsets: OffsetMap
    dataset: DatasetReader
    grid: Grid  # of the raster, after averaging
    factor: int  # this many pixels a side are averaged
    bands: list[int]
    colours: list[ColorInterp]  # of the bands
    dtype: str  # of the output
    resampling: str
    nodata: float | None  # of the output
    marker: float | None  # a value that means no data in the raster, though the raster does not declare it
    lock: AbstractContextManager[Any] = field(default_factory=Lock)

    @property
    def alpha(self) -> bool:
        return ColorInterp.alpha in self.colours

    def profile(self) -> dict[str, Any]:
        rgb = "rgb" if self.colours[:3] == [ColorInterp.red, ColorInterp.green, ColorInterp.blue] else None
        options = {"nodata": self.nodata, "photometric": rgb, "alpha": "yes" if self.alpha else None}
        options = {name: value for name, value in options.items() if value is not None}
        return files.geotiff_profile(self.offsets.grid, len(self.bands), self.dtype, **options)

    def describe(self, target: DatasetWriter) -> None:
        """Copy what the raster says of its bands."""
        dataset, rows = self.dataset, [band - 1 for band in self.bands]
        target.update_tags(**{k: v for k, v in dataset.tags().items() if k != "AREA_OR_POINT"})
        target.descriptions = [dataset.descriptions[i] for i in rows]
        target.units = [dataset.units[i] or "" for i in rows]
        if any(dataset.scales[i] != 1 or dataset.offsets[i] != 0 for i in rows):
            target.scales, target.offsets = [dataset.scales[i] for i in rows], [dataset.offsets[i] for i in rows]
        for index, band in enumerate(self.bands, start=1):
            # Statistics are of the raster's own pixels.
            tags = dataset.tags(band).items()
            target.update_tags(index, **{k: v for k, v in tags if not k.startswith("STATISTICS_")})
        if self.colours == [ColorInterp.palette]:
            target.write_colormap(1, dataset.colormap(self.bands[0]))
        elif ColorInterp.palette not in self.colours:
            target.colorinterp = self.colours

    def __call__(self, window: Window) -> tuple[Values, Mask]:
        """(bands, h, w) values and validity of a window of the optical grid."""
        with self.lock:
            dx, dy = self.offsets.read(window)[:2].astype(np.float64)
        with np.errstate(invalid="ignore"):
            wild = ~((np.abs(dx) < _REACH) & (np.abs(dy) < _REACH))
        x = np.where(wild, np.nan, np.arange(window.col, window.col + window.width) + dx)
        y = np.where(wild, np.nan, np.arange(window.row, window.row + window.height)[:, None] + dy)
        there = locator(self.offsets.grid, self.grid)(x, y)
        # Steps of 2**-20 px: the last bits of map coordinates must not blur what lies on whole pixels.
        values, valid = self._sample(*(np.rint(u * 2**20) / 2**20 for u in there))
        return self._finish(values, valid), valid

    def _sample(self, x: Floats, y: Floats) -> tuple[Values, Mask]:
        """(bands, h, w) values and validity at pixels (x, y), each (h, w), of `grid`; NaN: nowhere."""
        dtype = np.dtype(self.dtype.replace("_int16", "64"))
        dtype = dtype if self.resampling == "nearest" else working_dtype(dtype)
        with np.errstate(invalid="ignore"):
            inside = (x >= -0.5) & (x < self.grid.width - 0.5) & (y >= -0.5) & (y < self.grid.height - 0.5)
        if not inside.any():
            return np.zeros((len(self.bands), *x.shape), dtype), np.zeros((len(self.bands), *x.shape), bool)
        left, top = math.floor(x[inside].min()) - 2, math.floor(y[inside].min()) - 2
        right, bottom = math.ceil(x[inside].max()) + 3, math.ceil(y[inside].max()) + 3
        need = Window(left, top, right - left, bottom - top).intersect(self.grid.window)
        if need.width * need.height > _MAX_PIXELS and x.size > 1:
            axis = int(np.argmax(x.shape))
            halves = zip(np.array_split(x, 2, axis), np.array_split(y, 2, axis), strict=True)
            return _joined([self._sample(*half) for half in halves], axis + 1)
        with self.lock:
            values, valid = self._read(need)
        x, y = np.where(inside, x - need.col, 0.0), np.where(inside, y - need.row, 0.0)
        values, valid = interpolate(values, valid, x, y, self.resampling)
        return values.astype(dtype, copy=False), valid & inside

    def _read(self, window: Window) -> tuple[Values, Mask]:
        """(bands, h, w) values and validity of a window of `grid`."""
        k = self.factor
        # Of a much finer raster, the pixels under one block could fill the memory.
        if k > 1 and window.width * window.height * k**2 > _MAX_PIXELS and max(window.shape) > 1:
            return _joined([self._read(half) for half in window.halves()], 1 if window.height > window.width else 2)
        pixels = Window(window.col * k, window.row * k, window.width * k, window.height * k)
        area = pixels.intersect(Window(0, 0, self.dataset.width, self.dataset.height)).slices()
        with files.reading(self.dataset.name):
            dtype = None if self.dtype == "complex_int16" else self.dtype
            values = self.dataset.read(self.bands, window=area, out_dtype=dtype)
            filled, shown = has_data(self.dataset, self.bands, values, area, self.marker)
        alpha = [colour == ColorInterp.alpha for colour in self.colours]
        filled[alpha] = True
        valid = filled & shown & (values[alpha] != 0).all(axis=0) & ~np.isnan(values)
        return (values, valid) if k == 1 else block_means(values, valid, k, window.shape)

    def _finish(self, values: Values, valid: Mask) -> Values:
        """Back to the raster's type; no data where there is none, and nowhere else."""
        if self.dtype == "complex_int16":
            return np.where(valid, values, 0).astype(np.complex64)
        dtype, fill = np.dtype(self.dtype), self.nodata
        if fill is None:
            fill = math.nan if dtype.kind in "fc" and not self.alpha else 0
        if self.resampling != "nearest":
            if dtype.kind in "iu":
                limits = np.iinfo(dtype)
                values = np.clip(np.rint(np.where(valid, values, 0)), limits.min, limits.max)
            values = values.astype(dtype)
            if self.nodata is not None and not math.isnan(self.nodata):
                # Blending must not turn data into no data.
                values[valid & (values == self.nodata)] = _beside(self.nodata, dtype)
        return np.where(valid, values, np.array(fill).astype(dtype))


def _job(
    offsets: OffsetMap, raster: DatasetReader, bands: list[int], grid: Grid, how: str | None, nodata: float | None
) -> _Job:
    """Settle every default. Raises InputError, ConfigError."""
    if (grid.crs is None) != (offsets.grid.crs is None):
        raise InputError(f"{raster.name}: has a CRS or the offset map has, not both; use --pixel-frame")
    # GeoTIFF has one type for all bands: the smallest that holds theirs.
    names = {raster.dtypes[band - 1] for band in bands}
    dtype = names.pop() if len(names) == 1 else str(np.result_type(*(n.replace("_int16", "64") for n in names)))
    colours = [raster.colorinterp[band - 1] for band in bands]
    names_things = dtype in ("int64", "uint64") or ColorInterp.palette in colours
    how = how or ("nearest" if names_things else "bilinear")
    if how not in RESAMPLING:
        raise ConfigError(f"resampling is {', '.join(RESAMPLING)}, not {how}")
    if how != "nearest" and names_things:
        raise ConfigError(f"{raster.name}: a palette or 64-bit integers cannot be blended; use nearest")
    declared = raster.nodatavals[bands[0] - 1]
    if nodata is not None and not _fits(nodata, dtype):
        raise ConfigError(f"nodata {nodata:g} does not fit into the raster's type {dtype}")
    kept = declared if nodata is None and declared is not None and _fits(declared, dtype) else nodata
    factor = 1 if how == "nearest" else _finer(offsets.grid, grid)
    if factor > 1 and offsets.grid.width * offsets.grid.height * factor**2 > files.MOST_PIXELS:
        words = f"its pixels are {factor} times as fine as the optical image's, too many to be averaged"
        raise InputError(f"{raster.name}: {words}; use --resampling nearest")
    marker = nodata if declared is None else None
    return _Job(offsets, raster, grid.coarsen(factor), factor, bands, colours, dtype, how, kept, marker)


def _write(target: DatasetWriter, job: _Job, threads: int) -> bool:
    """Compute and write every block; whether any pixel got data."""
    masking, any_data = False, False
    can_mask = job.nodata is None and not job.alpha
    blocks = list(job.offsets.grid.blocks(512))
    for count, (window, (values, valid)) in enumerate(_in_parallel(job, blocks, threads), start=1):
        area = window.slices()
        target.write(values, window=area)
        seen = valid.any(axis=0)
        any_data |= bool(seen.any())
        if can_mask and not masking and not seen.all():
            masking = True  # a new mask starts all invalid
            for earlier in blocks[: count - 1]:
                target.write_mask(True, window=earlier.slices())
        if masking:
            target.write_mask(seen, window=area)
        progress.report(count / len(blocks))
    return any_data


def _in_parallel(job: _Job, blocks: list[Window], threads: int) -> Iterator[tuple[Window, tuple[Values, Mask]]]:
    """Blocks in order, computed by `threads` at once, a few ahead of the one that is written."""
    if threads == 1:
        yield from ((block, job(block)) for block in blocks)
        return
    threads = min(threads, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(blocks), 4 * threads):
            part = blocks[start : start + 4 * threads]
            yield from zip(part, pool.map(job, part), strict=True)


def _joined(parts: Sequence[tuple[Values, Mask]], axis: int) -> tuple[Values, Mask]:
    values, valid = zip(*parts, strict=True)
    return np.concatenate(values, axis), np.concatenate(valid, axis)


def _beside(value: float, dtype: np.dtype[Any]) -> float:
    """The next value of a type."""
    if dtype.kind in "iu":
        return value + 1 if value < np.iinfo(dtype).max else value - 1
    real = np.dtype(dtype.type(0).real.dtype).type
    return float(np.nextafter(real(value), real(0 if value else 1)))


def _fits(nodata: float, dtype: str) -> bool:
    if dtype.startswith("complex"):
        return True
    whole = math.isfinite(nodata) and float(nodata).is_integer()
    return (whole or dtype.startswith("float")) and bool(math.isnan(nodata) or in_dtype_range(nodata, dtype))


def _finer(optical: Grid, raster: Grid) -> int:
    """How many pixels of the raster, a side, lie in one of the optical image; at least 1."""
    if optical.crs == raster.crs:
        return max(1, round(optical.resolution / raster.resolution))
    # At several places, for a pole says nothing of the pixels around it.
    share = np.array([[0.5, 0.5], [0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])
    places = np.array([[0, 0], [1, 0], [0, 1]])[:, None] + (np.array([optical.width, optical.height]) * share - 0.5)
    u, v = raster.to_pixel(optical.map_to_crs(optical.to_map(places.reshape(-1, 2)), raster.crs)).T.reshape(2, 3, 5)
    area = np.abs((u[1] - u[0]) * (v[2] - v[0]) - (u[2] - u[0]) * (v[1] - v[0]))
    return max(1, round(math.sqrt(np.median(area))))
