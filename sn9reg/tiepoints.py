"""Tie-points in and out: SpaceNet 9 CSV, GeoJSON, QGIS georeferencer .points."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.files import PathLike, read_file, write_file
from sn9reg.raster.grid import LONLAT, Grid, Points, crs_name, is_plane

if TYPE_CHECKING:  # for the types alone: reading and writing tables imports it, and a registration does neither
    import pandas as pd

Floats = npt.NDArray[np.float64]
Rows = dict[str, dict[str, Any]]  # file and line or feature, as messages name them -> what its columns hold

COLUMNS = ("sar_row", "sar_col", "optical_row", "optical_col")
_EXTRA = ("score", "sigma", "inlier")
_TYPES: dict[str, Any] = {"inlier": bool, "source": str}  # of what is no number
_CRS_LINE = "#CRS:"
_PLACES = ("mapX", "mapY", "sourceX", "sourceY")  # columns of QGIS that are needed


@dataclass(frozen=True)
class TiePoints:
    """The same places in both images. Raises InputError if the lengths differ or a coordinate is not finite."""

    optical_xy: Points  # (N, 2) float64, pixels of the optical image
    sar_xy: Points  # (N, 2) float64, pixels of the SAR image
    score: Floats | None = None  # (N,) higher is better
    sigma: Floats | None = None  # (N,) expected error, optical pixels
    inlier: npt.NDArray[np.bool_] | None = None  # (N,) whether the warp agrees
    source: npt.NDArray[np.str_] | None = None  # (N,) the matcher that found it, where there were several; not read

    def __post_init__(self) -> None:
        n = len(self.optical_xy)
        for name, given in vars(self).copy().items():
            if given is None:
                continue
            values = np.asarray(given, dtype=_TYPES.get(name, np.float64))
            shape = (n, 2) if name.endswith("_xy") else (n,)
            if values.shape != shape or (len(shape) == 2 and not np.isfinite(values).all()):
                raise InputError(f"tie-points: {name} of {n} points has the shape {values.shape}, or is not finite")
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.optical_xy)

    def table(self) -> pd.DataFrame:
        """One row per point: SpaceNet 9's columns, then score, sigma, inlier (0 or 1) and source where known."""
        import pandas as pd

        table = pd.DataFrame(np.column_stack([self.sar_xy[:, ::-1], self.optical_xy[:, ::-1]]), columns=list(COLUMNS))
        for name in (*_EXTRA, "source"):
            if (values := getattr(self, name)) is not None:
                table[name] = values.astype(np.int64) if name == "inlier" else values
        return table

    def check_inside(self, optical: Grid, sar: Grid, names: Sequence[str] = ()) -> None:
        """Raises InputError that names the first point outside its image, by its number or one of `names`."""
        for image, xy, grid in (("optical", self.optical_xy, optical), ("SAR", self.sar_xy, sar)):
            if len(outside := np.flatnonzero(~grid.holds(xy))):
                i = int(outside[0])
                point = f"{names[i] if names else f'tie-point {i + 1}'}: row {xy[i, 1]:g}, column {xy[i, 0]:g}"
                size = f"{grid.height} rows and {grid.width} columns"
                raise InputError(f"{point} lies outside the {image} image of {size}")


def read_tiepoints(path: PathLike, optical: Grid, sar: Grid) -> TiePoints:
    """Read tie-points; .geojson (.json) and .points by their extension, anything else as SpaceNet 9 CSV.

    GeoJSON: pixel coordinates from the properties; without those, lines drawn from the optical to the SAR place, in
    longitude and latitude or the CRS that a member `crs` names. QGIS .points: sources are pixels or map coordinates of
    the optical image, see `_source_pixels`. Every point must lie inside its image. Raises InputError that names the
    file, the line (feature) and what is wrong with it."""
    suffix, text = Path(path).suffix.lower(), read_text(path)
    if not text.strip():
        raise InputError(f"{path}: is empty; tie-points have the header {','.join(COLUMNS)}")
    reader = {".geojson": _geojson_rows, ".json": _geojson_rows, ".points": _points_rows}.get(suffix)
    rows = reader(path, text, optical, sar) if reader else table_rows(path, text, COLUMNS)
    if not rows:
        raise InputError(f"{path}: has a header and no tie-points")
    sar_row, sar_col, optical_row, optical_col = (_column(rows, name) for name in COLUMNS)
    known = [name for name in _EXTRA if any(name in row for row in rows.values())]
    extra: dict[str, Any] = {name: _column(rows, name, optional=True) for name in known}
    optical_xy, sar_xy = np.column_stack([optical_col, optical_row]), np.column_stack([sar_col, sar_row])
    tiepoints = TiePoints(optical_xy, sar_xy, **extra)
    tiepoints.check_inside(optical, sar, list(rows))
    return tiepoints


def write_tiepoints(path: PathLike, tiepoints: TiePoints, optical: Grid, sar: Grid, overwrite: bool = False) -> None:
    """Write tie-points by extension, whole or not at all.

    .csv: SpaceNet 9's columns (whole numbers where all of a column are), then score, sigma, inlier, source where known.
    .geojson: RFC 7946, one line from the optical to the SAR place per point, in longitude and latitude, all columns as
    properties. .points: QGIS georeferencer from 3.26 on; source is the place in the optical image's CRS, in a pixel
    frame pixels from the edge and y negative downwards; map is that in the SAR image's CRS, enable the inlier flag.
    Raises ConfigError for another extension and for GeoJSON of a pixel frame, OutputError if it cannot be written."""
    check_format(path, is_plane(optical.crs) or is_plane(sar.crs))
    writers = {".csv": _csv_text, ".geojson": _geojson_text, ".points": _points_text}
    write_file(path, writers[Path(path).suffix.lower()](tiepoints, optical, sar), overwrite)


def check_format(path: PathLike, plane: bool = False) -> None:
    """Raises ConfigError for what `write_tiepoints` refuses: other extensions, and GeoJSON of what lies on a plane."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".geojson", ".points"):
        raise ConfigError(f"{path}: tie-points are written as .csv, .geojson or .points, not {suffix or 'without one'}")
    if suffix == ".geojson" and plane:
        what = "GeoJSON is in longitude and latitude, and a pixel frame or a local CRS has none"
        raise ConfigError(f"{path}: {what}; write .csv or .points")


def read_text(path: PathLike) -> str:
    """The file's text. Raises InputError if it is missing or no text; a stray byte does not make it none."""
    if b"\0" in (data := read_file(path)):
        raise InputError(f"{path}: is not text in UTF-8")
    return data.decode("utf-8-sig", errors="replace")


def table_rows(path: PathLike, text: str, required: tuple[str, ...] = (), line: int = 1) -> Rows:
    """Those of a table of texts, but for empty ones; `line` is the line at which `text` begins. Raises InputError."""
    import pandas as pd

    body = text.lstrip("\r\n")
    line += text[: len(text) - len(body)].count("\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # commas at the end of lines do no harm
            cells: Any = {"dtype": str, "na_filter": False, "skipinitialspace": True}
            table = pd.read_csv(io.StringIO(body), skip_blank_lines=False, index_col=False, **cells)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: is no table with commas between its columns ({error})") from error
    table = table.fillna("").rename(columns=str.strip)
    if missing := [name for name in required if name not in table.columns]:
        raise InputError(f"{path}: has no column {', '.join(missing)}; its header is {', '.join(table.columns)[:80]}")
    rows = [dict(zip(table.columns, cells, strict=True)) for cells in table.to_numpy().tolist()]
    return {f"{path}, line {i}": row for i, row in enumerate(rows, start=line + 1) if any(row.values())}


def _column(rows: Rows, name: str, optional: bool = False) -> Floats:
    """A column's numbers; an empty cell of an optional one is NaN. Raises InputError that names the cell."""
    numbers = []
    for where, row in rows.items():
        value = "" if row.get(name) is None else row[name]
        text = str(value if isinstance(value, (str, int, float)) else type(value).__name__).strip()
        if name == "inlier":
            text = {"true": "1", "false": "0"}.get(text.lower(), text)
        try:
            number = math.nan if optional and not text else float(text)
        except ValueError:
            what = f"is {text[:60]!r}, not a number" if text else "is missing"
            raise InputError(f"{where}: {name} {what}") from None
        if not math.isfinite(number) and not optional:
            raise InputError(f"{where}: {name} is {text[:60]}, not a finite number")
        numbers.append(number)
    return np.array(numbers, dtype=np.float64)


def _csv_text(tiepoints: TiePoints, _optical: Grid, _sar: Grid) -> str:
    table = tiepoints.table()
    for name in COLUMNS:
        if (table[name] == np.rint(table[name])).all():
            table[name] = table[name].astype(np.int64)
    return str(table.to_csv(index=False, lineterminator="\n"))


def _geojson_text(tiepoints: TiePoints, optical: Grid, sar: Grid) -> str:
    lonlat, places = Grid(Affine.identity(), 1, 1, LONLAT), ((optical, tiepoints.optical_xy), (sar, tiepoints.sar_xy))
    start, end = (lonlat.less_turns(grid.map_to_crs(grid.to_map(xy), LONLAT)) for grid, xy in places)
    end = lonlat.less_turns(end, start[:, 0])  # a line over 180 degrees does not go around the Earth
    ends = [np.round(xy, 9).tolist() for xy in (start, end)]  # 9 decimals of a degree are 0.1 mm
    features = []
    for *line, row in zip(*ends, tiepoints.table().to_dict("records"), strict=True):
        known = {str(k): None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        geometry = {"type": "LineString", "coordinates": line}
        features.append({"type": "Feature", "geometry": geometry, "properties": known})
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False) + "\n"


def _geojson_rows(path: PathLike, text: str, optical: Grid, sar: Grid) -> Rows:
    try:
        content = json.loads(text)
        features = {f"{path}, feature {i}": feature for i, feature in enumerate(content["features"], start=1)}
        rows = {where: dict(feature.get("properties") or {}) for where, feature in features.items()}
        name = (content.get("crs") or {"properties": {"name": "EPSG:4326"}})["properties"]["name"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: is no GeoJSON collection of features ({error})") from error
    crs = _named_crs(f"{path}, crs", name)
    for where, row in rows.items():
        if any(row.get(name) is None for name in COLUMNS):
            row |= _ends_of_line(where, features[where], crs, optical, sar)
    return rows


def _ends_of_line(where: str, feature: dict[str, Any], crs: CRS, optical: Grid, sar: Grid) -> dict[str, float]:
    """The pixel coordinates of a line that someone drew from the optical to the SAR place; it may have parts."""
    if optical.crs is None or sar.crs is None:
        raise InputError(f"{where}: has no {', '.join(COLUMNS)}, and its line says nothing without both rasters' CRS")
    try:
        points = feature["geometry"]["coordinates"]
        if feature["geometry"]["type"] == "MultiLineString":
            points = [point for part in points for point in part]
        line = np.array([points[0][:2], points[-1][:2]], dtype=np.float64).reshape(2, 2)
    except (TypeError, KeyError, ValueError, IndexError, OverflowError):
        raise InputError(f"{where}: is no line from the optical to the SAR place") from None
    (u, v), (x, y) = _pixels([where], crs, line[1:], sar)[0], _pixels([where], crs, line[:1], optical)[0]
    return dict(zip(COLUMNS, map(float, (v, u, y, x)), strict=True))


def _named_crs(where: str, name: Any) -> CRS:
    """The CRS of that name. Raises InputError for one that is not known here: none is fetched from a network."""
    text = name if isinstance(name, str) else type(name).__name__
    try:
        if "://" in text and "://www.opengis.net/def/crs/" not in text:
            raise CRSError("it lies on a network")
        return CRS.from_user_input(text)
    except CRSError as error:
        raise InputError(f"{where}: {text[:60]!r} is no CRS that is known") from error


def _pixels(where: Sequence[str], crs: CRS | None, places: Points, grid: Grid) -> Points:
    """(N, 2) pixels of `grid` at places in `crs`. Raises InputError that names, by `where`, the first that is none."""
    try:
        return grid.to_pixel(Grid(Affine.identity(), 1, 1, crs).map_to_crs(places, grid.crs))
    except InputError as error:
        for i in range(len(places) if len(places) > 1 else 0):
            _pixels(where[i : i + 1], crs, places[i : i + 1], grid)
        x, y = places[0]
        lost = f"{where[0]}: {x:.10g}, {y:.10g} in {crs_name(crs)} is no place that exists in {crs_name(grid.crs)}"
        raise InputError(f"{lost}, in which an image lies") from error


def _points_text(tiepoints: TiePoints, optical: Grid, sar: Grid) -> str:
    table = tiepoints.table()[[]]
    table[["mapX", "mapY"]] = sar.to_map(tiepoints.sar_xy)
    xy = tiepoints.optical_xy
    table[["sourceX", "sourceY"]] = (xy + 0.5) * [1, -1] if optical.crs is None else optical.to_map(xy)
    enabled = 1 if tiepoints.inlier is None else tiepoints.inlier.astype(np.int64)
    table = table.assign(enable=enabled, dX=0, dY=0, residual=0)
    # QGIS 3.26 and later read the CRS of the map coordinates from the first line.
    head = f"{_CRS_LINE} {sar.crs.to_wkt()}\n" if sar.crs is not None else ""
    return head + str(table.to_csv(index=False, lineterminator="\n"))


def _points_rows(path: PathLike, text: str, optical: Grid, sar: Grid) -> Rows:
    crs, line = sar.crs, 1
    if text.lstrip().startswith("#"):
        first, _, text = text.lstrip().partition("\n")
        line, name = 2, first.strip().removeprefix(_CRS_LINE).strip()
        crs = _named_crs(f"{path}, line 1", name) if name and first.startswith(_CRS_LINE) else crs
    # Before 3.26, QGIS named the source columns pixelX and pixelY.
    named_pixels = "pixelX,pixelY" in text
    text = text.replace("pixelX,pixelY", "sourceX,sourceY", 1)
    if not (rows := table_rows(path, text, _PLACES, line)):
        return rows
    numbers = np.column_stack([_column(rows, name) for name in _PLACES])
    sar_xy, there = (_pixels(list(rows), crs, numbers[:, :2], grid) for grid in (sar, optical))
    optical_xy = _source_pixels(numbers[:, 2:], named_pixels, optical, there)
    points: list[Any] = TiePoints(optical_xy, sar_xy).table().to_dict("records")
    flags = [{"inlier": row["enable"] or "1"} if "enable" in row else {} for row in rows.values()]
    return {name: point | flag for name, point, flag in zip(rows, points, flags, strict=True)}


def _source_pixels(source: Points, named_pixels: bool, optical: Grid, there: Points) -> Points:
    """(N, 2) optical pixels of QGIS's sources; there: those at which the georeference puts the same points' SAR places.
    For an image with georeference they are map coordinates from 3.26 on. Before, and for one without, they are pixels
    from the edge, y negative downwards. Both occur under either name: that of the columns holds unless the other
    meaning puts the sources at least four times as near to the SAR places, at the median."""
    pixels = source * [1, -1] - 0.5
    if optical.crs is None:
        return pixels
    meanings = [pixels, optical.to_pixel(source)] if named_pixels else [optical.to_pixel(source), pixels]
    named, other = (float(np.median(np.hypot(*(xy - there).T))) for xy in meanings)
    return meanings[4 * other < named]
