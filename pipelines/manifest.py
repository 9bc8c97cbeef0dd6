"""Write a manifest of places and times (columns optical, sar, lon, lat, year, season; see `training.geosplit`), which
trainings and `pipelines.studies.cross_season` read: of a folder of tiles, or of scenes that are simulated beside it."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, get_args

import click
import pandas as pd
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from pipelines.common import PATH, Command, write
from sn9reg.apply import apply_offsets
from sn9reg.errors import InputError
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import grid_of, make_folder, open_raster
from sn9reg.raster.folders import pair_files
from sn9reg.simulate import simulate
from sn9reg.training.geosplit import COLUMNS, Season

SEASONS = get_args(Season)
_EDGES = ("left", "bottom", "right", "top")


@click.command(cls=Command)
@click.argument("manifest", type=PATH)
@click.option("--tiles", type=PATH, help="List this folder's NAME_opt.*, NAME_sar.*, of one pixel grid each.")
@click.option("--bounds", type=PATH, help=f"CSV of tiles without georeference: tile (NAME), {', '.join(_EDGES)}.")
@click.option("--crs", default="EPSG:4326", show_default=True, help="Of the bounds.")
@click.option("--year", type=int, help="Of all tiles [default: not known].")
@click.option("--season", type=click.Choice(SEASONS), help="Of all tiles [default: not known].")
@click.option("--places", type=click.IntRange(1), default=6, show_default=True, help="Without --tiles: simulated ones.")
@click.option("--years", type=click.IntRange(1), default=2, show_default=True, help="Of each, from 2018 on.")
@click.option("--side", type=int, default=1000, show_default=True, help="Of each, pixels of 0.305 m.")
def main(manifest: Path, tiles: Path | None, places: int, years: int, side: int, **known: Any) -> None:
    """Write MANIFEST. Simulated scenes that are there already are kept. The simulator knows no seasons: a season of a
    year is another sun, haze, grain and speckle, and nothing else. Its places lie nowhere; theirs are made up."""
    make_folder(manifest.parent)
    rows = listed(tiles, **known) if tiles else simulated(manifest.parent, places, years, side)
    write(manifest, pd.DataFrame(rows, columns=COLUMNS).astype({"year": "Int64"}).to_csv(index=False))


def listed(
    folder: Path, bounds: Path | None, crs: str, year: int | None, season: str | None
) -> Iterator[dict[str, object]]:
    """A row for each pair of a folder, at the middle of its optical image. Raises InputError for one of no place."""
    edges, frame = {}, None
    if bounds:
        try:
            table, frame = pd.read_csv(bounds, dtype={"tile": str}), CRS.from_user_input(crs)
            edges = {row.tile: [float(getattr(row, name)) for name in _EDGES] for row in table.itertuples()}
        except (OSError, ValueError, AttributeError, CRSError) as error:
            raise InputError(f"{bounds}: cannot be read as bounds in {crs} ({error})") from error
    for pair in pair_files(folder):
        if frame is None:
            with open_raster(pair.optical) as dataset:
                grid = grid_of(dataset)
            (x, y), own = grid.centre, grid.crs
        elif pair.name in edges:
            left, bottom, right, top = edges[pair.name]
            x, y, own = (left + right) / 2, (bottom + top) / 2, frame
        else:
            raise InputError(f"{bounds}: has no tile {pair.name}")
        (lon,), (lat,) = transform(own, "EPSG:4326", [x], [y])
        place = {"lon": round(lon, 5), "lat": round(lat, 5), "year": year, "season": season}
        yield {"optical": pair.optical.absolute(), "sar": pair.sar.absolute(), **place}


def simulated(folder: Path, places: int, years: int, side: int) -> Iterator[dict[str, object]]:
    """A row for each place and time, whose SAR image is laid on the optical one by the exact offsets."""
    for place, (time, (year, season)) in product(range(places), enumerate(product(range(years), SEASONS))):
        name = f"{place}_{2018 + year}_{season}"
        optical, sar = (folder / name / file for file in ("02_optical_train_01.tif", "sar.tif"))
        if not sar.exists():
            files = simulate(folder / name, side, seed=900 + place, time=time, overwrite=True)
            with open_offsets(files.offsets) as offsets:
                apply_offsets(offsets, files.sar, sar, resampling="cubic", overwrite=True)
        where = {"lon": 3.0 * (place % 4), "lat": 45.0 + 2 * (place // 4)}
        paths = {"optical": optical.relative_to(folder), "sar": sar.relative_to(folder)}
        yield paths | where | {"year": 2018 + year, "season": season}


if __name__ == "__main__":
    main()
