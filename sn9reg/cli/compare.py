"""`sn9reg compare`: several matchers on one pair."""

import logging
import sys
from pathlib import Path
from typing import Any

import click

from sn9reg.cli import options
from sn9reg.errors import ConfigError

log = logging.getLogger(__name__)


@click.command()
@click.argument("optical")
@click.argument("sar")
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of the comparison.")
@click.option("--tiepoints", type=options.EXISTING, help="The truth: adds errors and SpaceNet 9's score.")
@click.option("--matchers", metavar="A,B,C", help="Which; see `sn9reg matchers` [default: all that have weights].")
@options.repeated("--matcher-option", "extra", "MATCHER.NAME=VALUE", options.by_matcher, "Option of one of them")
@options.registering
@options.overwrite
@options.as_json
def compare(
    optical: str, sar: str, out: Path, tiepoints: str | None, matchers: str | None, extra: dict[str, Any], **given: Any
) -> None:
    """Register OPTICAL to SAR by several matchers, each in a process of its own, and compare them.

    Writes a table (CSV, JSON, HTML with pictures side by side) and each matcher's offset map. A matcher that fails is a
    row with its reason. Where none are named, one line says which were left out for want of weights.

    Exit codes: 0 done, 1 every matcher failed, 2 usage.
    """
    from sn9reg.many.compare import PAGE, as_dict, installed, said_of
    from sn9reg.many.compare import compare as run_all
    from sn9reg.many.jobs import FAILED, Job, Result
    from sn9reg.report import check_installed

    check_installed()
    if matchers is None:
        names, left_out = installed(extra)
    else:
        names, left_out = list(dict.fromkeys(name.strip() for name in matchers.split(",") if name.strip())), []
    if not names:
        raise ConfigError("--matchers names none; leave it out for all that have weights")
    if unknown := sorted(set(extra) - set(names)):
        raise ConfigError(f"--matcher-option: {', '.join(unknown)} is none of the matchers compared")
    files, registering = options.pair_files(optical, sar, given), options.as_registering(given)
    job = Job("", str(out), files, tiepoints, registering, sigma=True, overwrite=given["overwrite"])
    if left_out:
        log.warning("%s", said_of(left_out))
    with options.progress_bar("matchers"):
        results = run_all(job, names, extra, left_out)

    def line(result: Result) -> str:
        error = f"{result.error_px:.2f} px, " if result.error_px is not None and result.matches is not None else ""
        time = f"{result.seconds:.0f} s" if result.seconds is not None else ""
        return f"{result.name:<14}{result.status:<12}{error}{time}; {result.reason}"

    options.say(as_dict(results, left_out), [*map(line, results), f"{out / PAGE}: open it in a browser"])
    sys.exit(int(all(result.status == FAILED for result in results)))
