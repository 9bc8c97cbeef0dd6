"""`sn9reg batch`: register many pairs."""

import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sn9reg.cli import options

log = logging.getLogger(__name__)


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--jobs", "workers", type=click.IntRange(1, 1024), default=1, show_default=True, help="Pairs at once.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="This machine, or a Ray cluster (RAY_ADDRESS; started here where that is not set).")  # fmt: skip
@options.by_one_matcher
@click.option("--sigma", is_flag=True, help="Add a third band to each map: expected error in optical pixels.")
@click.option("--report", is_flag=True, help="Write a page for each pair.")
@click.option("--threads", type=options.THREADS, help="Of each pair, as in `align` [default: all, shared out].")
@options.overwrite
@options.as_json
def batch(
    manifest: Path, out: Path, workers: int, engine: str, report: bool, threads: int | None, **given: Any
) -> None:
    """Register every pair of MANIFEST, a CSV with the columns optical,sar and perhaps tiepoints,name.

    Writes NAME.tif for each pair and summary.csv for all of them. What is finished is not done again: after an
    interruption give the same command. One pair that fails does not stop the others.

    Exit codes: 0 all are registered, 1 a pair failed, 2 usage, 3 none failed but some were not registered.
    """
    from sn9reg.many.batch import ENGINES, SUMMARY, do_all, read_manifest
    from sn9reg.many.jobs import FAILED, REFUSED, Job, Result
    from sn9reg.report import check_installed

    if report:
        check_installed()
    cores = os.cpu_count() or 1
    if engine == "local" and workers > cores:
        log.warning("--jobs %d: this machine has %d processors, and pairs wait for each other", workers, cores)
    each = threads or max(1, cores // workers)
    files, registering = options.pair_files("", "", given), options.as_registering(given)
    template = Job("", "", files, None, registering, each, None, given["sigma"], report, given["overwrite"])
    with options.progress_bar("pairs"):
        results = do_all(read_manifest(manifest, out, template), ENGINES[engine], workers)

    def line(result: Result) -> str:
        error = result.expected_error_px
        about = f", right to about {error:.1f} px" if error else f"; {result.reason}"
        return f"{result.name}: {result.status}{about}"

    options.say([asdict(result) for result in results], [*map(line, results), f"{out / SUMMARY}: {len(results)} pairs"])
    states = {result.status for result in results}
    sys.exit(1 if FAILED in states else 3 if REFUSED in states else 0)
