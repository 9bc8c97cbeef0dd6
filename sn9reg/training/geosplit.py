"""Large co-registered rasters of many places and times, parted by place or by time, and random windows of them.

For MEOW (4096 px at 10 m, four seasons of four years) or an archive of one's own, listed in a manifest. Source:
S. Bertrand, G. Bourmaud, C. Vacar, L. Bombrun, "Learning-based SAR-Optical Registration for Navigation: Insights from
a Multi-Year, Multi-Season Continental-Scale Dataset", sections III (the dataset) and V-A (the protocols).
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from rasterio.io import DatasetReader
from rasterio.windows import Window
from torch import Tensor
from torch.utils.data import Dataset

from sn9reg.errors import ConfigError, InputError
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike, check_bands, data_bands, open_raster, reading
from sn9reg.raster.radiometry import fill_invalid
from sn9reg.raster.validity import read_data

COLUMNS = ("optical", "sar", "lon", "lat", "year", "season")

Time = tuple[int, str]  # year, season
Place = tuple[float, float]  # lon, lat in degrees, rounded


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
    def place(self) -> Place:
        """What tells locations apart: (lon, lat) rounded to 1e-4 degrees, some 10 m."""
        return round(self.lon, 4), round(self.lat, 4)

    @property
    def time(self) -> Time:
        return self.year, self.season


@dataclass(frozen=True, slots=True)
class PairRef:
    """An optical and a SAR image of one place, of the same time or of two."""

    optical: Path
    sar: Path
    lon: float  # degrees, rounded to 1e-4
    lat: float
    optical_time: Time
    sar_time: Time


Split = tuple[list[PairRef], list[PairRef]]  # train, test


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
    return _parted(acquisitions, lambda pair: pair.lon < longitude, "all locations lie on one side of the longitude")


def temporal_split(acquisitions: Iterable[Acquisition], year: int = 2018) -> Split:
    """Pairs of the same locations at two times: (train, test), section V-A.

    Train: optical and SAR image both of `year`, of whatever seasons. Test: every other combination of a place's
    optical and SAR images, those with one image of `year` among them.

    Raises ConfigError where either set stays empty.
    """
    why = f"none or all of the acquisitions are of {year}"
    return _parted(acquisitions, lambda pair: not pair.optical_time[0] == pair.sar_time[0] == year, why)


class GeoSplit(Dataset[tuple[Tensor, Tensor]]):
    """Windows at random places of large rasters, of which nothing else is read; one window for each pair and epoch.

    An item is (optical, sar), (1, size, size) float32 each, in the files' own units: the mean of the first three
    optical bands, and one SAR band (MEOW: 1 = VV, 2 = VH; decibels). Both images of a pair lie on one pixel grid. Where
    a pixel is not valid there stands the window's mean, 0 if it has no valid pixel: a network has no use for NaN.

    The place depends on seed, epoch and index only; call `set_epoch` before each epoch. Items raise InputError for
    files that cannot be read, pairs of different size, and rasters smaller than the window.
    """

    def __init__(self, pairs: Sequence[PairRef], size: int, seed: int = 0, sar_band: int = 1) -> None:
        """Raises ConfigError for a size below 1 px, a negative seed, or no pairs."""
        if size < 1 or seed < 0 or not pairs:
            raise ConfigError(f"needs a size above 0, a seed of 0 or more, and pairs, not {size}, {seed}, {len(pairs)}")
        self.pairs, self.size, self.seed, self.sar_band = pairs, size, seed, sar_band
        # In shared memory, for the loader's worker processes may outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        index = range(len(self))[index]
        pair, random = self.pairs[index], np.random.default_rng([self.seed, int(self._epoch), index])
        with open_raster(pair.optical) as optical, open_raster(pair.sar) as sar:
            one, other = (f"{dataset.width} x {dataset.height} px" for dataset in (optical, sar))
            if one != other:
                raise InputError(f"{pair.optical} is {one}, {pair.sar} {other}: a pair must lie on one pixel grid")
            if min(optical.shape) < self.size:
                raise InputError(f"{pair.optical}: is {one}, smaller than a window of {self.size} px")
            col, row = (int(random.integers(n - self.size + 1)) for n in (optical.width, optical.height))
            window = Window(col, row, self.size, self.size)
            return _window(optical, data_bands(optical)[:3], window), _window(sar, [self.sar_band], window)


def _refuse_duplicates(row: Acquisition, lines: dict[object, int], where: str, line: int) -> None:
    """lines: those of the places with their times, and of the files, so far; this row's are added."""
    if (before := lines.setdefault((row.place, row.time), line)) != line:
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


def _parted(acquisitions: Iterable[Acquisition], tested: Callable[[PairRef], bool], why: str) -> Split:
    """Every optical with every SAR image of a place, parted. why: what would make a set empty."""
    places: dict[Place, list[Acquisition]] = {}
    for acquisition in acquisitions:
        places.setdefault(acquisition.place, []).append(acquisition)
    pairs = [
        PairRef(one.optical, other.sar, *place, one.time, other.time)
        for place, group in places.items()
        for one, other in product(group, group)
    ]
    train, test = ([pair for pair in pairs if tested(pair) == wanted] for wanted in (False, True))
    if not train or not test:
        raise ConfigError(f"the {'test' if train else 'training'} set is empty: {why}")
    return train, test


def _window(dataset: DatasetReader, bands: list[int], window: Window) -> Tensor:
    """(1, h, w) mean of the bands; invalid pixels filled."""
    check_bands(dataset, bands)
    with reading(dataset.name):
        values, valid = read_data(dataset, bands, window)
    grey = np.where(valid, values, 0).astype(np.float32, copy=False).mean(axis=0, dtype=np.float32)
    return torch.from_numpy(fill_invalid(grey, valid))[None]
