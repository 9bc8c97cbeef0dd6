"""`sn9reg align`: register a pair and write its offset map."""

import logging
import os
from typing import Any

import click

from sn9reg.cli import options
from sn9reg.cli.report import typed
from sn9reg.errors import ConfigError, NotRegisteredError
from sn9reg.gcps import check_gcps, gcps_of, write_gcps
from sn9reg.offsets import profile_of
from sn9reg.progress import part
from sn9reg.raster.files import check_creation, check_output
from sn9reg.raster.grid import Grid, is_plane
from sn9reg.tiepoints import check_format, write_tiepoints

log = logging.getLogger(__name__)


@click.command()
@click.argument("optical")
@click.argument("sar")
@click.option("--out", required=True, help="Offset map to write (GeoTIFF).")
@options.by_one_matcher
@click.option("--sigma", is_flag=True, help="Add a third band: expected error in optical pixels.")
@click.option("--tiepoints-out", metavar="FILE", help="Write the matches as .csv, .geojson or QGIS .points.")
@click.option("--gcps-out", metavar="FILE",
              help="Write SAR as a .vrt with ground control points, for gdalwarp -tps, QGIS and SNAP.")  # fmt: skip
@click.option("--allow-unregistered", is_flag=True, help="Write an offset map of zeros if the pair is not registered.")
@click.option("--report", metavar="DIR", help="Write a page that shows the result, too, registered or not.")
@click.option("--threads", type=options.THREADS,
              help="Processors to use [default: all]. With another number offsets may differ by 0.001 px.")  # fmt: skip
@options.creation
@options.overwrite
@options.as_json
def align(
    optical: str, sar: str, out: str, tiepoints_out: str | None, gcps_out: str | None, report: str | None,
    overwrite: bool, **given: Any,
) -> None:  # fmt: skip
    """Say, for every pixel of OPTICAL, where it lies in SAR; write that as an offset map.

    Exit codes: 0 done, 1 error, 2 usage, 3 the pair was not registered (nothing is written then, unless
    --allow-unregistered).
    """
    files, named = options.pair_files(optical, sar, given), dict[str, str]()
    for option, path in (("--out", out), ("--tiepoints-out", tiepoints_out), ("--gcps-out", gcps_out)):
        if path:
            check_output(path, overwrite, (optical, sar))
            if (other := named.setdefault(os.path.realpath(path), option)) != option:
                raise ConfigError(f"{path}: {other} and {option} are the same file")
    if tiepoints_out:
        check_format(tiepoints_out, any(is_plane(grid.crs) for grid in files.grids()))
    if gcps_out:
        check_gcps(gcps_out, files.grids()[0], sar)
    check_creation(out, profile_of(Grid.pixel_frame(16, 16), 2 + given["sigma"]), given["creation_options"])
    if report:
        from sn9reg.report import Run, check_report, write_report

        check_report(report, overwrite)
    import torch

    from sn9reg.registration import register

    if given["threads"]:
        torch.set_num_threads(min(given["threads"], os.cpu_count() or 1))
    end = 0.9 if report else 1.0  # of registering and writing, as a share of the time
    with options.progress_bar("align"):
        with part(0.0, end - 0.1):
            found = register(**vars(files), **options.as_registering(given))
        written = found.registered or given["allow_unregistered"]
        if written:
            with part(end - 0.1, end, "write"):
                found.offsets(given["sigma"]).write(out, overwrite, given["creation_options"])
            if tiepoints_out:
                write_tiepoints(tiepoints_out, found.tiepoints(), found.optical, found.sar, overwrite)
            if gcps_out and found.registered:
                write_gcps(gcps_out, gcps_of(found), found.optical, sar, overwrite)
        if report:
            offsets, run = found.offsets(sigma=found.registered), Run(typed(), found.seconds)
            with part(end, 1.0):
                page = write_report(report, files, offsets, matches=found.tiepoints(), run=run, overwrite=overwrite)
            log.info("%s: open it in a browser", page)
    facts, reason = {"out": out if written else None} | found.as_dict(), found.verdict.reason
    if not found.registered:
        options.say(facts, [])
        result = f"{out} holds zeros" if written else "Nothing was written"
        raise NotRegisteredError(f"{optical} and {sar} were not registered: {reason}. {result}")
    about = f"{found.warp.model} warp, right to about {found.expected_error_px:.1f} optical px"
    calibrated = "" if found.matches.calibrated else " (not calibrated)"
    options.say(facts, [f"{out}: registered, {about}{calibrated}; {reason}"])
