"""Given tie-points, as map positions: SpaceNet 9's CSV and the geotransforms of its images."""

import csv
import json
from pathlib import Path

import numpy as np
from affine import Affine

from sn9reg.errors import InputError
from sn9reg.raster.files import PathLike, check_regular
from sn9reg.raster.grid import Grid, Points
from sn9reg.tiepoints import COLUMNS


def read_given(path: PathLike, geotransforms: PathLike | None, pixels: tuple[float, float]) -> tuple[Points, Points]:
    """(N, 2) optical and (N, 2) SAR map positions in metres of a tie-point CSV.

    geotransforms: JSON {stem of the CSV: {"optical": {"geotransform": [6]}, "sar": {"geotransform": [6]}}} in GDAL's
    order; without it both images are taken to have the same origin and the sizes `pixels`, optical and SAR.
    Raises InputError if a file is missing or not what it should be.
    """
    check_regular(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as source:
            rows = [[float(row[name]) for name in COLUMNS] for row in csv.DictReader(source)]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: is not a tie-point CSV with the columns {','.join(COLUMNS)}") from error
    values = np.array(rows, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: has a coordinate that is not a number")
    if geotransforms is None:
        optical, sar = (Affine(size, 0, 0, 0, -size, 0) for size in pixels)
    else:
        optical, sar = read_geotransforms(geotransforms, Path(path).stem)
    return Grid(optical, 1, 1).to_map(values[:, [3, 2]]), Grid(sar, 1, 1).to_map(values[:, [1, 0]])


def read_geotransforms(path: PathLike, stem: str) -> tuple[Affine, Affine]:
    """Those of the optical and the SAR image in such a JSON, under `stem`. Raises InputError as `read_given`."""
    check_regular(path)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        optical, sar = (Affine.from_gdal(*map(float, content[stem][key]["geotransform"])) for key in ("optical", "sar"))
        return optical, sar
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except KeyError as error:
        raise InputError(f"{path}: has no entry {error} for {stem}") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: is not a JSON of geotransforms ({error})") from error
