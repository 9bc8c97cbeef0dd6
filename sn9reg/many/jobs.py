"""One pair as a job, registered in a process of its own: whatever happens there ends as a row of a table. The row lies
as JSON in the job's folder, written last. Where it is, with the same inputs and options, the job is done."""

import hashlib
import json
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sn9reg.errors import OutputError, Sn9regError, interrupt_by
from sn9reg.machine import be_quick_and_quiet
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.raster.files import PathLike, disk_file, write_file
from sn9reg.raster.scene import PairFiles

log = logging.getLogger(__name__)
_running: set[BaseProcess] = set()

REGISTERED, REFUSED, FAILED, _BEGUN = "registered", "refused", "failed", "begun"


@dataclass(frozen=True)
class Job:
    """A pair to be registered."""

    name: str  # of the result's files in `folder`: NAME.tif, NAME.json and NAME-report
    folder: str
    files: PairFiles  # the two images and how they are read
    tiepoints: PathLike | None = None  # the truth
    options: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of `register`, plain values
    threads: int | None = None  # of torch; all processors where there is no number
    gpu: int | None = None  # which one to take where `options` leave that open
    sigma: bool = False  # whether the offset map has the third band
    report: bool = False  # whether a page is written
    overwrite: bool = False  # whether files that lie there are replaced

    @property
    def offsets(self) -> Path:
        return Path(self.folder) / f"{self.name}.tif"

    @property
    def row(self) -> Path:
        return Path(self.folder) / f"{self.name}.json"

    @property
    def page(self) -> Path:
        return Path(self.folder) / f"{self.name}-report"

    def key(self) -> str:
        """What the result depends on: the options, and which files there are, by size and time of change."""
        content = {k: v for k, v in asdict(self).items() if k not in ("folder", "threads", "gpu", "overwrite")}
        read = self.files.optical, self.files.sar, self.tiepoints, self.options.get("dem")
        files = []
        for path in filter(None, read):
            state = os.stat(found) if (found := disk_file(path)) else None
            files.append([os.path.abspath(path), *((state.st_size, state.st_mtime_ns) if state else ())])
        return hashlib.sha256(json.dumps([content, files], sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Result:
    """What came of a job; None where there is no such number."""

    name: str  # the job's
    status: str  # `registered`, `refused` or `failed`
    reason: str  # the verdict's, or the error's message
    matcher: str | None = None
    model: str | None = None
    matches: int | None = None
    inliers: int | None = None
    expected_error_px: float | None = None  # of the offset map, optical pixels
    error_px: float | None = None  # mean error at the tie-points, optical pixels; of zero offsets where refused
    sn9_score: float | None = None  # SpaceNet 9's score at the tie-points, likewise
    seconds: float | None = None  # wall clock of the whole process
    memory_gib: float | None = None  # peak of the process's resident memory
    sources: str | None = None  # the share of the inliers that each source gave, where several were run together


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ConfigError for options with which no pair can be registered, InputError for a calibration of no use."""
    from sn9reg.judge.calibration import read_calibration
    from sn9reg.machine import checked_device
    from sn9reg.matchers.base import checked_matchers

    checked_device(options.get("device", "auto"))
    matcher = options.get("matcher", DEFAULT_MATCHER)
    sources = checked_matchers(matcher, options.get("matcher_options", {}))
    if options.get("calibration") is not None:
        read_calibration(options["calibration"], sources)


def finished(job: Job) -> Result | None:
    """The result that lies there, if it is that of this very job and what belongs to it is there, too."""
    stored = _stored(job)
    if stored.get("key") != job.key() or stored.get("status") not in (REGISTERED, REFUSED):
        return None
    if not all(os.path.exists(p) for p in [job.offsets] * (stored["status"] == REGISTERED) + [job.page] * job.report):
        return None
    known = {f.name: stored[f.name] for f in fields(Result) if f.name in stored}
    return Result(**known) if {"name", "status", "reason"} <= set(known) else None


def run(job: Job) -> Result:
    """Do a job in a process of its own and wait for it. Never raises: what goes wrong is a result, too."""
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(job, theirs))
    try:
        process.start()
    except OSError as error:
        return Result(job.name, FAILED, f"no process could be started ({error.strerror})")
    theirs.close()
    _running.add(process)
    try:
        result: Result | None = ours.recv()
    except EOFError:
        result = None
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        ours.close()
        process.join()
        _running.discard(process)
    return result or Result(job.name, FAILED, _ending(process.exitcode), seconds=time.perf_counter() - start)


def end_running() -> None:
    """Ask the processes of all jobs that run to end; they clean up before they do."""
    for process in list(_running):
        process.terminate()


def do(job: Job) -> Result:
    """Do a job in this process. Raises nothing but what nobody expects."""
    start = time.perf_counter()
    try:
        key, there = job.key(), job.row if os.path.exists(job.row) else job.offsets
        if os.path.exists(there) and _stored(job).get("key") != key and not job.overwrite:
            raise OutputError(f"{there}: is of other inputs or options; use --overwrite to replace it")
        _write(job, {"key": key, "status": _BEGUN})
        result = Result(job.name, **_registered(job), seconds=time.perf_counter() - start, memory_gib=peak_memory())
        _write(job, asdict(result) | {"key": key})
        return result
    except (Sn9regError, MemoryError) as error:
        reason = str(error) if isinstance(error, Sn9regError) else "out of memory"
    if _stored(job).get("status") == _BEGUN:
        job.row.unlink(missing_ok=True)
    return Result(job.name, FAILED, reason, seconds=time.perf_counter() - start, memory_gib=peak_memory())


def _registered(job: Job) -> dict[str, Any]:
    """Register, write the offset map (of a refused pair none), score. Raises Sn9regError."""
    import torch

    from sn9reg.registration import register
    from sn9reg.score.scoring import score
    from sn9reg.tiepoints import read_tiepoints

    if job.threads:
        torch.set_num_threads(min(job.threads, os.cpu_count() or 1))
    truth = read_tiepoints(job.tiepoints, *job.files.grids()) if job.tiepoints else None
    options = dict(job.options)
    if job.gpu is not None and options.get("device", "auto") in ("auto", "cuda"):
        options["device"] = f"cuda:{job.gpu}"
    found = register(**vars(job.files), **options)
    offsets = found.offsets(job.sigma and found.registered)
    job.offsets.unlink(missing_ok=True)
    if found.registered:
        offsets.write(job.offsets)
    if job.report:
        from sn9reg.report import Run, write_report

        made = Run(f"sn9reg align {job.files.optical} {job.files.sar} --out {job.offsets}", found.seconds)
        write_report(job.page, job.files, offsets, tiepoints=truth, matches=found.tiepoints(), run=made, overwrite=True)
    known = found.as_dict()
    facts = {name: known[name] for name in ("reason", "matcher", "model", "matches", "inliers")}
    facts["sources"] = found.facts().get("sources")
    facts["status"] = REGISTERED if found.registered else REFUSED
    facts["expected_error_px"] = found.expected_error_px if found.registered else None
    if truth is not None:
        scored = score(offsets, found.optical, found.sar, truth).as_dict()
        facts |= {"error_px": scored["mean_px"], "sn9_score": scored["sn9_score"]}
    return facts


def _send(job: Job, to: Connection) -> None:
    """The process: does the job and sends the result. Whatever is raised is a reason, too."""
    be_quick_and_quiet()
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    _end_when_asked()
    try:
        result = do(job)
    except KeyboardInterrupt:
        return  # what was half written is gone by now; who waited is interrupted, too
    except Exception as error:  # of a matcher that is not ours, anything
        log.debug("%s", job.name, exc_info=True)
        result = Result(job.name, FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")
    to.send(result)
    to.close()


def _end_when_asked() -> None:
    """Signals that ask this process to end are an interrupt. One comes when the process that waits for this one ends:
    else it would go on for nobody."""
    interrupt_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # 1 is PR_SET_PDEATHSIG


def _ending(code: int | None) -> str:
    """What an exit code says where a process said nothing."""
    if code is not None and code < 0:
        killed = signal.Signals(-code).name
        return f"its process was ended by {killed}" + ("; was there enough memory?" if killed == "SIGKILL" else "")
    return f"its process ended with exit code {code} before it had a result"


def peak_memory() -> float:
    """GiB of resident memory of this process at its peak."""
    try:  # what getrusage says may be of the process that this one was forked from
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) / 2**20
    except (OSError, IndexError):
        unit = 2**30 if sys.platform == "darwin" else 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _stored(job: Job) -> dict[str, Any]:
    """What the job's row holds; nothing where there is none."""
    try:
        content = json.loads(job.row.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(job: Job, content: Mapping[str, Any]) -> None:
    write_file(job.row, json.dumps(content, indent=1) + "\n", overwrite=True)
