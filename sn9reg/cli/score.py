"""`sn9reg score`: how far an offset map is from tie-points."""

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
@click.argument("offsets")
@click.argument("optical")
@click.argument("sar")
@click.argument("tiepoints", type=click.Path(path_type=Path))
@options.as_json
@click.option("--per-point", metavar="CSV", type=click.Path(path_type=Path), help="Write one row per tie-point.")
@options.pixel_frame
@options.overwrite
def score(
    offsets: str, optical: str, sar: str, tiepoints: Path, per_point: Path | None, pixel_frame: bool, overwrite: bool
) -> None:
    """Compare OFFSETS with TIEPOINTS: SpaceNet 9's score, and the unrounded errors in pixels and metres.

    TIEPOINTS is a SpaceNet 9 CSV (sar_row,sar_col,optical_row,optical_col), a .geojson or a QGIS .points file.
    Every tie-point is counted, whatever its inlier flag says.
    """
    if per_point is not None:
        check_output(per_point, overwrite, (offsets, optical, sar, tiepoints))
    with open_raster(optical) as optical_raster, open_raster(sar) as sar_raster:
        grids = grid_of(optical_raster, pixel_frame), grid_of(sar_raster, pixel_frame)
    with open_offsets(offsets, grids[0]) as opened:
        check_frame(offsets, opened, pixel_frame)
        points = read_tiepoints(tiepoints, *grids)
        with naming(offsets, optical, sar):
            result = score_offsets(opened, *grids, points)
    if per_point is not None:
        with atomic_output(per_point, overwrite) as temporary:
            result.per_point().to_csv(temporary, index=False)
    options.say(result.as_dict(), _table(result))


def check_frame(path: PathLike, offsets: OffsetMap, pixel_frame: bool) -> None:
    """Raises ConfigError if the map says that it was made in the other frame, pixel or map."""
    made_in = offsets.facts.get("frame")
    if made_in == "pixel" and not pixel_frame:
        raise ConfigError(f"{path}: was made with --pixel-frame; give --pixel-frame here too")
    if made_in not in (None, "pixel") and pixel_frame:
        raise ConfigError(f"{path}: was made from georeferenced images; leave --pixel-frame out")


def _table(result: Score) -> list[str]:
    """Registered and unregistered, side by side."""
    rows = [(f"{result.n} tie-points", "registered", "unregistered"), *score_rows(result)]
    return [f"{label:<22}{registered:>12}{unregistered:>14}" for label, registered, unregistered in rows]
