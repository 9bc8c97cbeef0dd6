"""The command line tool as a user runs it, with the time and the memory that a user sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

REFUSED = 3  # exit code of a pair that is not registered


@dataclass(frozen=True)
class Run:
    """seconds: wall clock. memory: peak resident, GiB. registered: False where the tool said no."""

    seconds: float
    memory: float
    registered: bool


@dataclass(frozen=True)
class Row:
    """One line of a table: what is measured, what it must be, what it is."""

    what: str
    must: str
    measured: str


def sn9reg(*arguments: str, may_refuse: bool = False) -> Run:
    """Run the command line tool; raises click.ClickException with its message if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "sn9reg", "-q", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    refused = may_refuse and process.returncode == REFUSED
    if process.returncode and not refused:
        raise click.ClickException(f"sn9reg {' '.join(arguments)} ended with {process.returncode}")
    return Run(time.perf_counter() - start, usage.ru_maxrss / 2**20, not refused)


def align(folder: Path, out: Path, *options: str, may_refuse: bool = False) -> Run:
    """Align the pair of a folder (optical.tif and sar.tif, or SpaceNet 9's names)."""
    optical, sar = scene(folder)
    return sn9reg("align", str(optical), str(sar), "--out", str(out), "--overwrite", *options, may_refuse=may_refuse)


def scene(folder: Path) -> tuple[Path, Path]:
    """Optical and SAR file of a folder."""
    return next(folder.glob("*optical*.tif")), next(folder.glob("*sar*.tif"))


def tiepoints(folder: Path) -> Path:
    """A simulated scene's."""
    return next(folder.glob("*tiepoints*.csv"))


def score(offsets: Path, optical: Path, sar: Path, points: Path, *options: str) -> dict[str, Any]:
    """Errors at the tie-points, as `sn9reg score --json` says them."""
    files = map(str, (offsets, optical, sar, points))
    found: dict[str, Any] = output("score", *files, *options)
    return found


def output(*arguments: str) -> Any:
    """What a command prints with --json."""
    command = [sys.executable, "-m", "sn9reg", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def simulate(work: Path, size: str, seed: int, *options: str, name: str = "") -> Path:
    """The folder of a simulated scene, made once. name: of the folder, where there are options."""
    folder = work / (name or f"scene_{size}_{seed}")
    if not (folder / "02_offsets_train_01.tif").exists():
        sn9reg("simulate", str(folder), "--size", size, "--seed", str(seed), "--overwrite", *options)
    return folder
