"""Several matchers on one pair: one table and the pictures side by side. One that fails is a row with its reason."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sn9reg import progress
from sn9reg.many.jobs import REGISTERED, Job, Result, check_options, finished, run
from sn9reg.matchers.base import matcher_classes
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import make_folder, write_csv, write_file
from sn9reg.raster.scene import PairFiles
from sn9reg.report.page import check_folder, rendered
from sn9reg.report.views import Picture, Place, checkerboard, coarse_field, open_viewer, overview_factor, png, uri
from sn9reg.tiepoints import read_tiepoints
from sn9reg.weights.store import TRAIN

PAGE, TABLE, ROWS = "compare.html", "compare.csv", "compare.json"
_TILES = 8  # of a checkerboard, along its longer side
# Column of the table -> its heading and how its numbers are written.
_COLUMNS = {"name": ("matcher", "{}"), "status": ("", "{}"), "matches": ("matches", "{:d}")}
_COLUMNS |= {"inliers": ("inliers", "{:d}"), "expected_error_px": ("expected error, px", "{:.2f}")}
_COLUMNS |= {"sources": ("shares of the sources", "{}")}
_COLUMNS |= {"error_px": ("error, px", "{:.2f}"), "sn9_score": ("SpaceNet 9 score", "{:.2f}")}
_COLUMNS |= {"seconds": ("seconds", "{:.1f}"), "memory_gib": ("memory, GiB", "{:.2f}"), "reason": ("reason", "{}")}


def installed(extra: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[list[str], list[str]]:
    """The matchers that go by their name alone: those that can be run, and those for which no weights ship and none are
    given. extra: as in `compare`."""
    named = {name: found for name, found in matcher_classes().items() if not getattr(found, "needs_variant", False)}
    given = {name for name, options in (extra or {}).items() if "weights" in options}
    lacking = [name for name, found in named.items() if getattr(found, "needs_weights", False) and name not in given]
    return [name for name in named if name not in lacking], lacking


def said_of(left_out: Sequence[str]) -> str:
    """Which matchers were left out, since no weights of theirs ship, and how to get some, in one line; "" of none."""
    if not left_out:
        return ""
    train = f"{TRAIN}/{left_out[0]}.yaml (see docs/how-it-works.md#training)"
    use = f"--matcher-option {left_out[0]}.weights=FILE"
    return f"left out, since no weights of them ship: {', '.join(left_out)}; to train one: {train}, then {use}"


def compare(
    job: Job,
    matchers: Sequence[str],
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    left_out: Sequence[str] = (),
) -> list[Result]:
    """Register a pair by every matcher, one after the other, each in a process of its own with all processors; results
    in their order. What is finished, from the same inputs and options, is not done again.

    job: what they have in common; its folder gets table, rows and page, and of each matcher the offset map and a
    picture. extra: further options of a matcher, by its name. left_out: what `installed` left out, which page and rows
    say. Raises before any is run: ConfigError for a matcher or
    option that there is not, InputError for files that cannot be read, OutputError where the folder cannot be made."""
    jobs = []
    check_folder(job.folder, "comparison", [PAGE], overwrite=True)
    for name in matchers:
        given = {**job.options.get("matcher_options", {}), **(extra or {}).get(name, {})}
        options = {**job.options, "matcher": name, "matcher_options": given}
        check_options(options)
        jobs.append(replace(job, name=_file_name(name), options=options))
    with job.files.open():
        pass  # an image that cannot be read is no matcher's failure
    if job.tiepoints:
        read_tiepoints(job.tiepoints, *job.files.grids())  # nor are such tie-points
    make_folder(job.folder, parents=False)
    results: list[Result] = []
    for name, each in zip(matchers, jobs, strict=True):
        results.append(replace(finished(each) or run(each), name=name))
        progress.report(len(results) / len(jobs))
    _write(job, jobs, results, left_out)
    return results


def as_dict(results: Sequence[Result], left_out: Sequence[str]) -> dict[str, Any]:
    """A comparison, for JSON."""
    rows = [asdict(result) for result in results]
    return {"results": rows, "left_out": list(left_out), "note": said_of(left_out)}


def _file_name(matcher: str) -> str:
    return re.sub(r"[^\w.+=@]", "-", matcher)


def _write(job: Job, jobs: Sequence[Job], results: Sequence[Result], left_out: Sequence[str]) -> None:
    """Table, rows and pictures; the page last."""
    folder, pair = Path(job.folder), job.files
    absent = set() if job.tiepoints else {"error_px", "sn9_score"}
    absent |= set() if any(result.sources for result in results) else {"sources"}
    columns = [name for name in _COLUMNS if name not in absent]
    table = pd.DataFrame(list(results))[columns].rename(columns={"name": "matcher"})
    pictures = []
    for name, what, picture in _pictures(pair, jobs, results):
        write_file(folder / f"{_file_name(name)}.png", png(picture), overwrite=True)
        pictures.append((name, what, uri(picture)))
    headings, formats = zip(*(_COLUMNS[name] for name in columns), strict=True)
    cells = [[getattr(result, name) for name in columns] for result in results]
    shown = [["" if v is None else f.format(v) for f, v in zip(formats, row, strict=True)] for row in cells]
    title = f"Matchers on {Path(pair.optical).name} and {Path(pair.sar).name}"
    content = {"title": title, "headings": headings, "rows": shown, "pictures": pictures}
    content["note"] = said_of(left_out)
    rows = json.dumps(as_dict(results, left_out), indent=1, allow_nan=False) + "\n"
    write_csv(folder / TABLE, table)
    write_file(folder / ROWS, rows, overwrite=True)
    write_file(folder / PAGE, rendered("compare.html", content), overwrite=True)


def _pictures(pair: PairFiles, jobs: Sequence[Job], results: Sequence[Result]) -> Iterator[tuple[str, str, Picture]]:
    """Name, what it is, and a checkerboard of the same part of the scene: as it lies, then by every map there is."""
    registered = [(job, result) for job, result in zip(jobs, results, strict=True) if result.status == REGISTERED]
    for job, result in registered:
        with open_offsets(job.offsets) as offsets:
            grid = offsets.grid
            with open_viewer(pair, offsets, coarse_field(offsets, overview_factor(grid))) as viewer:
                view = viewer.zoom(Place("the middle", (grid.width - 1) / 2, (grid.height - 1) / 2))
        if job is registered[0][0]:
            yield "without registration", "as the images lie", checkerboard(view, view.before, _TILES)
        about = "" if result.error_px is None else f"{result.error_px:.1f} px at the tie-points"
        yield result.name, about, checkerboard(view, view.after, _TILES)
