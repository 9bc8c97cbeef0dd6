"""Large co-registered rasters of many places and times, parted by place or by time, and random windows of them.

For MEOW (4096 px at 10 m, four seasons of four years) or an archive of one's own, listed in a manifest. Source:
S. Bertrand, G. Bourmaud, C. Vacar, L. Bombrun, "Learning-based SAR-Optical Registration for Navigation: Insights from
a Multi-Year, Multi-Season Continental-Scale Dataset", sections III (the dataset) and V-A (the protocols).
"""

import csv
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from rasterio.io import DatasetReader
from rasterio.windows import Window

from sn9reg.errors import ConfigError, InputError
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike, check_bands, data_bands, open_raster, reading
from sn9reg.raster.radiometry import Image, fill_invalid
from sn9reg.raster.validity import read_data

COLUMNS = ("optical", "sar", "lon", "lat", "year", "season")


@options
class Acquisition:
    """One row of a manifest: both sensors' images of one place and time."""

    optical: Path
    sar: Path
    lon: Annotated[float, Ge(-180), Le(180)]  # degrees, of the tile's centre
    lat: Annotated[float, Ge(-90), Le(90)]
    year: int
    season: Literal["winter", "spring", "summer", "autumn"]

    @property
    def place(self) -> tuple[float, float]:
        """What tells locations apart: (lon, lat) rounded to 1e-4 degrees, some 10 m."""
        return round(self.lon, 4), round(self.lat, 4)


Pair = tuple[Acquisition, Acquisition]  # of one place: one whose optical image counts, and one whose SAR image does
Split = tuple[list[Pair], list[Pair]]  # train, test


def read_manifest(path: PathLike) -> list[Acquisition]:
    """The rows of a CSV file with the columns optical, sar, lon, lat, year, season, in its order; others are ignored.

    Files are named relative to the manifest. A place has one row for each time, and a file belongs to one row.

    Raises InputError, with the line, for columns, values or files that are missing or make no sense, and for
    duplicates.
    """
    path, rows = Path(path), []
    lines: dict[object, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}:1: has no column {', '.join(missing)}; it needs {','.join(COLUMNS)}")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                rows.append(_acquisition(row, path.parent, where))
                _refuse_duplicates(rows[-1], lines, where, reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV file ({error})") from error
    if not rows:
        raise InputError(f"{path}: lists no acquisitions")
    return rows


def spatial_split(acquisitions: Iterable[Acquisition], longitude: float) -> Split:
    """Pairs of two areas that share no location: (train, test). In both, every optical with every SAR image of a place.

    longitude: degrees; the test set lies west of it, as the text of section V-A has it (the caption of figure 6 has
    it the other way round; then exchange the two lists).
    Tiles that overlap without having the same centre are not noticed: MEOW's do not overlap.

    Raises ConfigError where either set stays empty.
    """
    return _parted(
        acquisitions,
        lambda optical, sar: optical.place[0] < longitude,
        "all locations lie on one side of the longitude",
    )


def temporal_split(acquisitions: Iterable[Acquisition], year: int = 2018) -> Split:
    """Pairs of the same locations at two times: (train, test), section V-A.

    Train: optical and SAR image both of `year`, of whatever seasons. Test: every other combination of a place's
    optical and SAR images, those with one image of `year` among them.

    Raises ConfigError where either set stays empty.
    """
    why = f"none or all of the acquisitions are of {year}"
    return _parted(acquisitions, lambda optical, sar: not optical.year == sar.year == year, why)


def read_window(pair: Pair, size: int, sar_band: int, random: np.random.Generator) -> tuple[Image, Image]:
    """A window at a random place, of optical and SAR image, (1, size, size) each; nothing else is read.

    In the files' own units: the mean of the first three optical bands, and one SAR band (MEOW: 1 = VV, 2 = VH;
    decibels). Where a pixel is not valid there stands the window's mean, 0 if it has no valid pixel: a network has no
    use for NaN.

    Raises InputError for files that cannot be read, pairs of different size, and rasters smaller than the window.
    """
    files = pair[0].optical, pair[1].sar
    with open_raster(files[0]) as optical, open_raster(files[1]) as sar:
        one, other = (f"{dataset.width} x {dataset.height} px" for dataset in (optical, sar))
        if one != other:
            raise InputError(f"{files[0]} is {one}, {files[1]} {other}: a pair must lie on one pixel grid")
        if min(optical.shape) < size:
            raise InputError(f"{files[0]}: is {one}, smaller than a window of {size} px")
        col, row = (int(random.integers(n - size + 1)) for n in (optical.width, optical.height))
        window = Window(col, row, size, size)
        return _window(optical, data_bands(optical)[:3], window), _window(sar, [sar_band], window)


def _refuse_duplicates(row: Acquisition, lines: dict[object, int], where: str, line: int) -> None:
    """lines: those of the places with their times, and of the files, so far; this row's are added."""
    if (before := lines.setdefault((row.place, row.year, row.season), line)) != line:
        raise InputError(f"{where}: line {before} already has {row.season} {row.year} of this place")
    for file in (row.optical, row.sar):
        if (before := lines.setdefault(file, line)) != line:
            raise InputError(f"{where}: {file} already stands in line {before}, with another place or time")


def _acquisition(row: dict[str, str], folder: Path, where: str) -> Acquisition:
    values = {name: (row[name] or "").strip() for name in COLUMNS}
    if empty := [name for name in COLUMNS if not values[name]]:
        raise InputError(f"{where}: has no {', '.join(empty)}")
    if None in row:
        raise InputError(f"{where}: has more values than there are columns; put quotes around those with a comma")
    for name in ("optical", "sar"):
        values[name] = str(folder / values[name])
        if not Path(values[name]).is_file():
            raise InputError(f"{where}: {values[name]}: no such file")
    try:
        return check(Acquisition, values | {"season": values["season"].lower()}, where, strict=False)
    except ConfigError as error:
        raise InputError(str(error)) from error


def _parted(acquisitions: Iterable[Acquisition], tested: Callable[[Acquisition, Acquisition], bool], why: str) -> Split:
    """Every optical with every SAR image of a place, parted. why: what would make a set empty."""
    places: dict[tuple[float, float], list[Acquisition]] = {}
    for acquisition in acquisitions:
        places.setdefault(acquisition.place, []).append(acquisition)
    pairs = [pair for group in places.values() for pair in product(group, group)]
    train, test = ([pair for pair in pairs if tested(*pair) == wanted] for wanted in (False, True))
    if not train or not test:
        raise ConfigError(f"the {'test' if train else 'training'} set is empty: {why}")
    return train, test


def _window(dataset: DatasetReader, bands: list[int], window: Window) -> Image:
    """(1, h, w) mean of the bands; invalid pixels filled."""
    check_bands(dataset, bands)
    with reading(dataset.name):
        values, valid = read_data(dataset, bands, window)
    grey = np.where(valid, values, 0).astype(np.float32, copy=False).mean(axis=0, dtype=np.float32)
    return fill_invalid(grey, valid)[None]
