"""Many pairs from a manifest, on this machine or, with Ray, on many. What is finished is not done again, and a pair
that fails does not stop the others."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sn9reg import progress
from sn9reg.errors import ConfigError, InputError, naming
from sn9reg.machine import gpus
from sn9reg.many.jobs import FAILED, Job, Result, check_options, do, end_running, finished, run
from sn9reg.raster.files import PathLike, beside, make_folder, write_csv
from sn9reg.tiepoints import read_text, table_rows

log = logging.getLogger(__name__)

COLUMNS = ("optical", "sar", "tiepoints", "name")
SUMMARY = "summary.csv"
_RETRIES = 3
Engine = Callable[[Sequence[Job], int], Iterator[Result]]


def read_manifest(path: PathLike, folder: PathLike, template: Job) -> list[Job]:
    """The jobs of a CSV with the columns optical and sar, and perhaps tiepoints and name, one pair a row. Files are
    looked for beside the manifest. Where no name is given it is the optical image's. template: what the jobs have in
    common. Raises InputError for a manifest that cannot be read, lacks a column, names two pairs alike or the same pair
    twice; a file that is missing is that pair's failure."""
    if not (rows := table_rows(path, read_text(path))):
        raise InputError(f"{path}: has a header and no pairs")
    columns = list(next(iter(rows.values())))
    if not set(COLUMNS[:2]) <= set(columns) <= set(COLUMNS):
        found = ", ".join(columns)[:80]
        raise InputError(f"{path}: has the columns {found}; a manifest has optical,sar[,tiepoints][,name]")
    jobs: list[Job] = []
    lines: dict[Any, str] = {}  # of pairs, and of names
    for where, cells in rows.items():
        line = where.rpartition(", ")[2]
        with naming(where):
            jobs.append(_job(Path(path).parent, {name: cell.strip() for name, cell in cells.items()}, folder, template))
            files, name = jobs[-1].files, jobs[-1].name
            if (first := lines.setdefault((files.optical, files.sar), line)) != line:
                raise InputError(f"the same pair stands in {first}")
            if (first := lines.setdefault(name.lower(), line)) != line:
                raise InputError(f"another pair of the name {name} stands in {first}")
    return jobs


def _job(there: Path, row: Mapping[str, str], folder: PathLike, template: Job) -> Job:
    for column in COLUMNS[:2]:
        if not row[column]:
            raise InputError(f"{column} is missing")
    optical, sar = (beside(there, row[column]) for column in COLUMNS[:2])
    tiepoints = beside(there, row["tiepoints"]) if row.get("tiepoints") else None
    name = row.get("name") or Path(row["optical"]).stem
    if not re.fullmatch(r"[\w][\w .+=@-]*", name) or f"{name}.csv" == SUMMARY:
        raise InputError(f"{name!r} cannot be the name of files; use letters, digits, - and _")
    files = replace(template.files, optical=optical, sar=sar)
    return replace(template, name=name, folder=str(folder), files=files, tiepoints=tiepoints)


def do_all(jobs: Sequence[Job], engine: Engine, workers: int) -> list[Result]:
    """Do all jobs that are not finished; results in their order. Raises as `check_options`, and OutputError where the
    folder cannot be written."""
    check_options(jobs[0].options)  # those of all
    folder = Path(jobs[0].folder)
    make_folder(folder)
    results = {job.name: result for job in jobs if (result := finished(job)) is not None}

    def write_summary() -> None:
        rows = [results[job.name] for job in jobs if job.name in results]
        write_csv(folder / SUMMARY, pd.DataFrame(rows, columns=[f.name for f in fields(Result)]))

    write_summary()  # now, so that a folder that cannot be written is known before any work
    if results:
        log.info("%d of %d pairs are finished already", len(results), len(jobs))
    for count, result in enumerate(engine([job for job in jobs if job.name not in results], workers), len(results) + 1):
        results[result.name] = result
        log.info("%s: %s, %s", result.name, result.status, result.reason)
        progress.report(count / len(jobs))
        write_summary()
    return [results[job.name] for job in jobs]


def local(jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """So many jobs at once on this machine, each in a process of its own; every GPU has its share of them."""
    if (there := gpus()) > 1:
        jobs = [replace(job, gpu=number % there) for number, job in enumerate(jobs)]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            end_running()


def on_ray(jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """As many jobs at once as a Ray cluster has room for: the one that RAY_ADDRESS names, else one of so many workers
    on this machine. All machines must see the same files. A job whose worker dies is begun again, up to three times.
    Raises ConfigError where Ray is not installed."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'sn9reg[ray]'") from error
    started = not ray.is_initialized()
    if started:
        where: dict[str, Any] = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False, **where)
    try:
        # A worker ends after its job: memory is that of one pair, and what it leaked is gone.
        task = ray.remote(num_cpus=1, max_calls=1, max_retries=_RETRIES)(_unless_finished)
        pending = {task.remote(job): job for job in jobs}
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:
                yield Result(job.name, FAILED, " ".join(str(error).split())[:500])
    finally:
        if started:
            ray.shutdown()


def _unless_finished(job: Job) -> Result:
    """A job whose worker died after the work and before it said so is not done twice."""
    return finished(job) or do(job)


ENGINES: dict[str, Engine] = {"local": local, "ray": on_ray}
