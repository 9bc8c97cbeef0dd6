"""Large co-registered rasters of many places and times, parted by place or by time, and random windows of them. For
MEOW (4096 px at 10 m, four seasons of four years) or an archive of one's own, listed in a manifest. Source: S.
Bertrand, G. Bourmaud, C. Vacar, L. Bombrun, "Learning-based SAR-Optical Registration for Navigation: Insights from a
Multi-Year, Multi-Season Continental-Scale Dataset", sections III (the dataset) and V-A (the protocols)."""

import csv
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from rasterio.windows import Window

from sn9reg.errors import ConfigError, InputError
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike, check_bands, data_bands, open_raster, reading
from sn9reg.raster.radiometry import Image, fill_invalid
from sn9reg.raster.validity import read_data

Season = Literal["winter", "spring", "summer", "autumn"]
COLUMNS = ("optical", "sar", "lon", "lat", "year", "season")
_MAY_LACK = ("year", "season")  # their values; the columns have to be there


@options
class Acquisition:
    """One row of a manifest: both sensors' images of one place and time."""

    optical: Path
    sar: Path
    lon: Annotated[float, Ge(-180), Le(180)]  # degrees, of the tile's centre
    lat: Annotated[float, Ge(-90), Le(90)]
    year: int | None = None  # None where it is not known, as for the season
    season: Season | None = None

    @property
    def place(self) -> tuple[float, float]:
        """What tells locations apart: (lon, lat) rounded to 1e-4 degrees, some 10 m."""
        return round(self.lon, 4), round(self.lat, 4)


Pair = tuple[Acquisition, Acquisition]  # of one place: one whose optical image counts, and one whose SAR image does


def read_manifest(path: PathLike) -> list[Acquisition]:
    """The rows of a CSV file with the columns optical, sar (relative to it), lon, lat, year, season, and others. A year
    or season that is not known is left empty. Raises InputError, with the line, for what is missing or makes no sense,
    and for a place's time or a file that is twice."""
    path, rows = Path(path), []
    lines: dict[object, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise InputError(f"{path}:1: has no column {', '.join(missing)}; it needs {','.join(COLUMNS)}")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                made = _acquisition(row, path.parent, where)
                time = [(made.place, made.year, made.season)] if made.year and made.season else []
                for known in (*time, made.optical, made.sar):
                    if (before := lines.setdefault(known, reader.line_num)) != reader.line_num:
                        what = known if isinstance(known, Path) else f"{made.season} {made.year} of this place"
                        raise InputError(f"{where}: line {before} already has {what}")
                rows.append(made)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV file ({error})") from error
    if not rows:
        raise InputError(f"{path}: lists no acquisitions")
    return rows


def paired(acquisitions: Sequence[Acquisition]) -> list[Pair]:
    """Each place's optical images with each of its SAR images."""
    places: dict[tuple[float, float], list[Acquisition]] = {}
    for acquisition in acquisitions:
        places.setdefault(acquisition.place, []).append(acquisition)
    return [pair for group in places.values() for pair in product(group, group)]


def parted(acquisitions: Sequence[Acquisition], longitude: float | None, year: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs of one place each, an optical with a SAR image: (train, test), by place or by time as in section V-A.
    Tiles that overlap without one centre are not noticed (MEOW has none). longitude: degrees; the test set lies west of
    it, as the text has it (not the caption of figure 6). year: without a longitude, trained on are images both of
    `year`, tested on a place's other combinations; images of no known year are in neither set. Raises ConfigError where
    either set stays empty."""
    train, test = list[Pair](), list[Pair]()
    for optical, sar in paired(acquisitions):
        if longitude is None and None in (optical.year, sar.year):
            continue
        known = optical.year == sar.year == year if longitude is None else not optical.place[0] < longitude
        (train if known else test).append((optical, sar))
    if not train or not test:
        known_years = {acquisition.year for acquisition in acquisitions} - {None}
        by_year = f"none or all are of {year}" if known_years else "no acquisition's year is known"
        why = by_year if longitude is None else "all locations lie on one side of the longitude"
        raise ConfigError(f"the {'test' if train else 'training'} set is empty: {why}")
    return train, test


def read_window(pair: Pair, size: int, sar_band: int, random: np.random.Generator) -> tuple[Image, Image]:
    """A random window of optical and SAR image, (bands, size, size) and (1, size, size), in the files' own units: the
    first three optical bands, and one SAR band (MEOW: 1 = VV, 2 = VH; decibels); the band's mean, or 0, where not
    valid. Raises InputError for files that cannot be read, pairs of different size, and rasters that are too small."""
    files = pair[0].optical, pair[1].sar
    with open_raster(files[0]) as optical, open_raster(files[1]) as sar:
        one, other = (f"{dataset.width} x {dataset.height} px" for dataset in (optical, sar))
        if one != other:
            raise InputError(f"{files[0]} is {one}, {files[1]} {other}: a pair must lie on one pixel grid")
        if min(optical.shape) < size:
            raise InputError(f"{files[0]}: is {one}, smaller than a window of {size} px")
        col, row = (int(random.integers(n - size + 1)) for n in (optical.width, optical.height))
        window, images = Window(col, row, size, size), []
        for dataset, bands in ((optical, data_bands(optical)[:3]), (sar, [sar_band])):
            check_bands(dataset, bands)
            with reading(dataset.name):
                values, valid = read_data(dataset, bands, window)
            known = np.where(valid, values, 0).astype(np.float32, copy=False)
            images.append(np.stack([fill_invalid(band, valid) for band in known]))
    return images[0], images[1]


def _acquisition(row: dict[str, str], folder: Path, where: str) -> Acquisition:
    values: dict[str, str | None] = {name: (row[name] or "").strip() or None for name in COLUMNS}
    if empty := [name for name in COLUMNS if not values[name] and (row[name] is None or name not in _MAY_LACK)]:
        raise InputError(f"{where}: has no {', '.join(empty)}")
    if None in row:
        raise InputError(f"{where}: has more values than there are columns; put quotes around those with a comma")
    files = {name: folder / str(values[name]) for name in ("optical", "sar")}
    if absent := [path for path in files.values() if not path.is_file()]:
        raise InputError(f"{where}: {absent[0]}: no such file")
    values |= {name: str(path) for name, path in files.items()} | {"season": (values["season"] or "").lower() or None}
    try:
        return check(Acquisition, values, where, strict=False)
    except ConfigError as error:
        raise InputError(str(error)) from error
