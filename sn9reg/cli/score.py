"""`sn9reg score`: how far an offset map is from tie-points."""

from pathlib import Path

import click

from sn9reg.cli import options
from sn9reg.errors import naming
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import atomic_output, check_output
from sn9reg.raster.scene import PairFiles
from sn9reg.score.scoring import score as score_offsets
from sn9reg.score.scoring import score_rows
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
    grids = PairFiles(optical, sar, pixel_frame).grids()
    with open_offsets(offsets, grids[0], pixel_frame) as opened:
        points = read_tiepoints(tiepoints, *grids)
        with naming(offsets, optical, sar):
            result = score_offsets(opened, *grids, points)
    if per_point is not None:
        with atomic_output(per_point, overwrite) as temporary:
            result.per_point.to_csv(temporary, index=False)
    rows = [(f"{result.n} tie-points", "registered", "unregistered"), *score_rows(result)]
    options.say(result.as_dict(), [f"{label:<22}{one:>12}{other:>14}" for label, one, other in rows])
