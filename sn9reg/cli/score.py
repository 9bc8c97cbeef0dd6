"""`sn9reg score`: how far an offset map is from tie-points."""

import json
from pathlib import Path

import click

from sn9reg.cli import options
from sn9reg.errors import ConfigError, naming
from sn9reg.offsets import OffsetMap, open_offsets
from sn9reg.raster.files import PathLike, atomic_output, check_output, grid_of, open_raster
from sn9reg.score.scoring import Score, score_rows
from sn9reg.score.scoring import score as score_offsets
from sn9reg.tiepoints import read_tiepoints


@click.command()
@click.argument("offsets_path", metavar="OFFSETS")
@click.argument("optical_path", metavar="OPTICAL")
@click.argument("sar_path", metavar="SAR")
@click.argument("tiepoints_path", metavar="TIEPOINTS", type=click.Path(path_type=Path))
@options.as_json
@click.option("--per-point", metavar="CSV", type=click.Path(path_type=Path), help="Write one row per tie-point.")
@options.pixel_frame
@options.overwrite
def score(
    offsets_path: str,
    optical_path: str,
    sar_path: str,
    tiepoints_path: Path,
    as_json: bool,
    per_point: Path | None,
    pixel_frame: bool,
    overwrite: bool,
) -> None:
    """Compare OFFSETS with TIEPOINTS: SpaceNet 9's score, and the unrounded errors in pixels and metres.

    TIEPOINTS is a SpaceNet 9 CSV (sar_row,sar_col,optical_row,optical_col), a .geojson or a QGIS .points file.
    Every tie-point is counted, whatever its inlier flag says.
    """
    if per_point is not None:
        check_output(per_point, overwrite, (offsets_path, optical_path, sar_path, tiepoints_path))
    with open_raster(optical_path) as optical_raster, open_raster(sar_path) as sar_raster:
        optical, sar = grid_of(optical_raster, pixel_frame), grid_of(sar_raster, pixel_frame)
    with open_offsets(offsets_path, optical) as offsets:
        check_frame(offsets_path, offsets, pixel_frame)
        tiepoints = read_tiepoints(tiepoints_path, optical, sar)
        with naming(offsets_path, optical_path, sar_path):
            result = score_offsets(offsets, optical, sar, tiepoints)
    if per_point is not None:
        with atomic_output(per_point, overwrite) as temporary:
            result.per_point().to_csv(temporary, index=False)
    click.echo(json.dumps(result.as_dict(), allow_nan=False) if as_json else _table(result))


def check_frame(path: PathLike, offsets: OffsetMap, pixel_frame: bool) -> None:
    """Raises ConfigError if the map says that it was made in the other frame, pixel or map."""
    made_in = offsets.facts.get("frame")
    if made_in == "pixel" and not pixel_frame:
        raise ConfigError(f"{path}: was made with --pixel-frame; give --pixel-frame here too")
    if made_in not in (None, "pixel") and pixel_frame:
        raise ConfigError(f"{path}: was made from georeferenced images; leave --pixel-frame out")


def _table(result: Score) -> str:
    """Registered and unregistered, side by side."""
    rows = [(f"{result.n} tie-points", "registered", "unregistered"), *score_rows(result)]
    return "\n".join(f"{label:<22}{registered:>12}{unregistered:>14}" for label, registered, unregistered in rows)
