"""Many pairs from a manifest, on this machine or, with Ray, on many. What is finished is not done again, and a pair
that fails does not stop the others."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sn9reg.errors import ConfigError, InputError
from sn9reg.machine import gpus
from sn9reg.many.jobs import FAILED, Job, Result, check_options, do, end_running, finished, run
from sn9reg.raster.files import PathLike, beside, check_regular, make_folder, write_csv

log = logging.getLogger(__name__)

COLUMNS = ("optical", "sar", "tiepoints", "name")
SUMMARY = "summary.csv"
_RETRIES = 3
Engine = Callable[[Sequence[Job], int], Iterator[Result]]


def read_manifest(path: PathLike, folder: PathLike, template: Job) -> list[Job]:
    """The jobs of a CSV with the columns optical and sar, and perhaps tiepoints and name, one pair a row.

    Files are looked for beside the manifest. Where no name is given it is the optical image's. template: what the jobs
    have in common. Raises InputError for a manifest that cannot be read, lacks a column, names two pairs alike or the
    same pair twice; a file that is missing is that pair's failure.
    """
    check_regular(path)
    try:
        table = pd.read_csv(path, dtype=str, na_filter=False, skipinitialspace=True, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no table with commas between its columns ({error})") from error
    table = table.rename(columns=str.strip)
    if missing := [name for name in COLUMNS[:2] if name not in table.columns]:
        raise InputError(f"{path}: has no column {', '.join(missing)}; a manifest has optical,sar[,tiepoints][,name]")
    if unknown := [name for name in table.columns if name not in COLUMNS]:
        raise InputError(f"{path}: has a column {', '.join(unknown)}; a manifest has {', '.join(COLUMNS)}")
    if table.empty:
        raise InputError(f"{path}: has a header and no pairs")
    rows = [{str(k): str(v).strip() for k, v in row.items()} for row in table.to_dict("records")]
    jobs = [_job(path, line, row, folder, template) for line, row in enumerate(rows, start=2)]
    _check_distinct(path, jobs)
    return jobs


def _job(path: PathLike, line: int, row: Mapping[str, str], folder: PathLike, template: Job) -> Job:
    for column in COLUMNS[:2]:
        if not row[column]:
            raise InputError(f"{path}, line {line}: {column} is missing")
    there = Path(path).parent
    optical, sar = (beside(there, row[column]) for column in COLUMNS[:2])
    files = replace(template.files, optical=optical, sar=sar)
    tiepoints = beside(there, row["tiepoints"]) if row.get("tiepoints") else None
    name = row.get("name") or Path(row["optical"]).stem
    if not re.fullmatch(r"[\w][\w .+=@-]*", name) or f"{name}.csv" == SUMMARY:
        raise InputError(f"{path}, line {line}: {name!r} cannot be the name of files; use letters, digits, - and _")
    return replace(template, name=name, folder=str(folder), files=files, tiepoints=tiepoints)


def _check_distinct(path: PathLike, jobs: Sequence[Job]) -> None:
    """Raises InputError for a pair given twice, and for two pairs of one name."""
    lines: dict[Any, int] = {}
    for line, job in enumerate(jobs, start=2):
        if (first := lines.setdefault((job.files.optical, job.files.sar), line)) != line:
            raise InputError(f"{path}, line {line}: the same pair stands in line {first}")
    for line, job in enumerate(jobs, start=2):
        if (first := lines.setdefault(job.name.lower(), line)) != line:
            raise InputError(f"{path}, line {line}: another pair of the name {job.name} stands in line {first}")


def do_all(
    jobs: Sequence[Job], engine: Engine, workers: int, done: Callable[[int, Result], None] = lambda _n, _r: None
) -> list[Result]:
    """Do all jobs that are not finished; results in their order. done: called after each, with how many are done.
    Raises as `check_options`, and OutputError where the folder cannot be written."""
    check_options(jobs[0].options)  # those of all
    summary = Path(jobs[0].folder) / SUMMARY
    make_folder(summary.parent)
    results = {job.name: result for job in jobs if (result := finished(job)) is not None}
    _write_summary(summary, results.values())  # now, so that a folder that cannot be written is known before any work
    if results:
        log.info("%d of %d pairs are finished already", len(results), len(jobs))
    for count, result in enumerate(engine([job for job in jobs if job.name not in results], workers), len(results) + 1):
        results[result.name] = result
        log.info("%s: %s, %s", result.name, result.status, result.reason)
        done(count, result)
        _write_summary(summary, (results[job.name] for job in jobs if job.name in results))
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


def _write_summary(path: Path, results: Iterable[Result]) -> None:
    table = pd.DataFrame([asdict(result) for result in results], columns=[f.name for f in fields(Result)])
    write_csv(path, table)
