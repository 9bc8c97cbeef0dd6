"""Which pixels of a file are data, told of every pixel before any are averaged, and by the bands alone that are used.

GDAL warps by one rule at a time, nodata or mask or alpha, counts all bands, and averages NaN. Where that suffices it is
fast, see `gdal_suffices`; else `data_view` shows the file with one mask that says it all, and palettes as colours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.dtypes import dtype_rev, typename_fwd
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader, MemoryFile

from sn9reg.raster.files import alpha_band, geotiff_profile, reading
from sn9reg.raster.grid import Grid, Window

Values = npt.NDArray[Any]  # (bands, h, w)
Mask = npt.NDArray[np.bool_]

_AT_ONCE = 1 << 23  # values


def nodata_of(dataset: DatasetReader, band: int, given: float | None = None) -> float | None:
    """The value of a band that means no data, as pixels of its type hold it: 0.1 is another number in float32. given:
    replaces the file's own."""
    value, dtype = dataset.nodatavals[band - 1] if given is None else given, dataset.dtypes[band - 1]
    with np.errstate(over="ignore"):
        return float(np.float32(value)) if value is not None and dtype in ("float32", "complex64") else value


def colours_of(dataset: DatasetReader, band: int) -> npt.NDArray[np.uint8] | None:
    """(n, 4) red, green, blue and alpha of a band that holds indexes of a palette; None for any other."""
    with reading(dataset.name):
        if dataset.colorinterp[band - 1] != ColorInterp.palette:
            return None
    try:
        return np.array([colour for _, colour in sorted(dataset.colormap(band).items())], np.uint8)
    except ValueError:  # the file says that it has one, and has none
        return None


def expanded(dataset: DatasetReader, bands: Sequence[int]) -> tuple[int, ...]:
    """The bands, each that holds a palette three times: for red, green and blue."""
    return tuple(b for band in bands for b in [band] * (1 if colours_of(dataset, band) is None else 3))


def gdal_suffices(dataset: DatasetReader, bands: Sequence[int], nodata: float | None = None) -> bool:
    """Whether GDAL's warper itself finds the pixels of these bands that are data, but for those that are not finite."""
    alpha = alpha_band(dataset)
    values = {str(nodata_of(dataset, band, nodata)) for band in dataset.indexes if band != alpha}
    masks = {"+".join(flag.name for flag in dataset.mask_flag_enums[band - 1]) for band in bands}
    if alpha in bands or any(colours_of(dataset, band) is not None for band in bands):
        return False
    if values == {"None"}:
        return masks in ([{"per_dataset+alpha"}] if alpha else [{"all_valid"}, {"per_dataset"}])
    return not alpha and masks <= {"all_valid", "nodata"} and len(values) == 1 and {*bands} == {*dataset.indexes}


def has_data(
    dataset: DatasetReader, bands: Sequence[int], values: Values, area: Any, nodata: float | None = None
) -> tuple[Mask, Mask]:
    """(bands, h, w) each: where the values of an area are not nodata, and where neither mask nor alpha hides them. An
    alpha band that is itself among the bands is read as one, and hides nothing."""
    alpha = alpha_band(dataset)
    filled, shown = np.ones(values.shape, bool), np.ones(values.shape, bool)
    if alpha and alpha not in bands:
        shown &= dataset.read(alpha, window=area) != 0
    for row, band in enumerate(bands):
        flags, value = dataset.mask_flag_enums[band - 1], nodata_of(dataset, band, nodata)
        if value is not None:
            filled[row] = values[row] != value
        if flags not in ([MaskFlags.all_valid], [MaskFlags.nodata]) and MaskFlags.alpha not in flags:
            shown[row] &= dataset.read_masks(band, window=area) != 0
    return filled, shown


def read_data(
    dataset: DatasetReader, bands: Sequence[int], area: Any = None, nodata: float | None = None
) -> tuple[Values, Mask]:
    """Values (bands, h, w) of an area, rasterio's window, palettes as colours, and which pixels are data (h, w). No
    data is what is nodata in all bands, and what in any band is masked, transparent, NaN or infinite."""
    values = dataset.read(list(bands), window=area)
    filled, shown = has_data(dataset, bands, values, area, nodata)
    valid, layers = filled.any(axis=0) & shown.all(axis=0) & np.isfinite(values).all(axis=0), []
    for band, layer in zip(bands, values, strict=True):
        colours = colours_of(dataset, band)
        if colours is None:
            layers.append(layer)
        else:
            *rgb, alpha = np.moveaxis(colours[np.minimum(layer, len(colours) - 1)], -1, 0)
            layers += rgb
            valid &= alpha > 0
    return np.stack(layers), valid


@contextmanager
def data_view(dataset: DatasetReader, bands: Sequence[int], nodata: float | None = None) -> Iterator[DatasetReader]:
    """Bands, palettes `expanded`, as a file of their own, somewhere, whose only mask is that of `read_data`. The mask
    is held in memory, compressed: less than a bit for most pixels."""
    whole = Grid.pixel_frame(dataset.width, dataset.height)
    profile = geotiff_profile(whole, 1, "uint8", transform=Affine.scale(2, -2))  # without one, GDAL warns
    # Whole blocks of the file, so that each is decoded once, but of large ones only as much as is bearable.
    high, wide = dataset.block_shapes[bands[0] - 1]
    wide = min(wide * -(-2048 // wide), whole.width)
    rows = _AT_ONCE // (wide * len(bands))
    high = max(1, high * (rows // high) or min(high, 4 * rows))
    with MemoryFile(ext=".tif") as memory:
        with memory.open(**profile) as target:
            for row, col in product(range(0, whole.height, high), range(0, whole.width, wide)):
                area = Window(col, row, wide, high).intersect(whole.window).slices()
                target.write(read_data(dataset, sorted(set(bands)), area, nodata)[1] * np.uint8(255), 1, window=area)
        with rasterio.open(_virtual(dataset, bands, memory.name)) as view:
            yield view


def _virtual(dataset: DatasetReader, bands: Sequence[int], mask: str) -> str:
    """GDAL's XML of a virtual raster."""

    def source(dtype: str, name: str, band: int, component: str = "") -> str:
        kind = "ComplexSource" if component else "SimpleSource"
        file = f'<SourceFilename relativeToVRT="0" shared="0">{escape(name)}</SourceFilename>'
        inside = f"<{kind}>{file}<SourceBand>{band}</SourceBand>{component}</{kind}>"
        return f'<VRTRasterBand dataType="{dtype}">{inside}</VRTRasterBand>'

    shown = f"<GeoTransform>0,1,0,0,0,-1</GeoTransform><MaskBand>{source('Byte', mask, 1)}</MaskBand>"
    for place, band in enumerate(bands):
        if colours_of(dataset, band) is None:
            shown += source(typename_fwd[dtype_rev[dataset.dtypes[band - 1]]], dataset.name, band)
        else:
            colour = f"<ColorTableComponent>{bands[:place].count(band) % 3 + 1}</ColorTableComponent>"
            shown += source("Byte", dataset.name, band, colour)
    return f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}">{shown}</VRTDataset>'
