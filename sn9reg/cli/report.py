"""`sn9reg report`: one page that shows whether an offset map is right."""

import shlex
import sys
from typing import Any

import click

from sn9reg.cli import options


def _places(values: tuple[str, ...]) -> list[Any]:
    """('COL,ROW', ...) -> the report's places. Raises click.BadParameter for anything else."""
    from sn9reg.report import Place

    try:
        numbers = [(float(x), float(y)) for x, y in (value.split(",") for value in values)]
    except ValueError:
        raise click.BadParameter("a place is COLUMN,ROW in optical pixels") from None
    return [Place(f"column {x:g}, row {y:g}", x, y) for x, y in numbers]


def typed() -> str:
    """The command as it was typed."""
    return shlex.join(["sn9reg", *sys.argv[1:]])


@click.command()
@click.argument("offsets_path", metavar="OFFSETS")
@click.argument("optical")
@click.argument("sar")
@click.option("--out", required=True, metavar="DIR", help="Folder for the page and its figures.")
@click.option("--tiepoints", metavar="FILE", help="The truth: adds errors and SpaceNet 9's score.")
@click.option("--matches", metavar="FILE", help="What `align --tiepoints-out` wrote: adds inliers and outliers.")
@options.repeated("--at", "places", "COL,ROW", _places, "Place to be shown at full resolution, optical pixels")
@options.reading
@options.overwrite
@options.as_json
def report(
    offsets_path: str, optical: str, sar: str, out: str, tiepoints: str | None, matches: str | None, **given: Any
) -> None:
    """Show what OFFSETS does to OPTICAL and SAR: one HTML page, which needs no network, and its figures as PNG."""
    from sn9reg.offsets import open_offsets
    from sn9reg.report import Run, check_report, write_report
    from sn9reg.tiepoints import read_tiepoints

    check_report(out, given["overwrite"])
    files = options.pair_files(optical, sar, given)
    with files.open():
        pass  # what is damaged where nothing is shown is damaged, too
    grids = files.grids()
    truth, fitted = (read_tiepoints(path, *grids) if path else None for path in (tiepoints, matches))
    with open_offsets(offsets_path, grids[0], files.pixel_frame) as offsets, options.progress_bar("report"):
        more: dict[str, Any] = {name: given[name] for name in ("places", "overwrite")} | {"run": Run(typed())}
        page = write_report(out, files, offsets, tiepoints=truth, matches=fitted, **more)
    options.say({"page": str(page)}, [f"{page}: open it in a browser"])
