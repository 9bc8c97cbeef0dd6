"""The command line tool as a user runs it, with the time and the memory that a user sees."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click


@dataclass(frozen=True)
class Run:
    """One command."""

    seconds: float  # wall clock
    memory: float  # peak resident, GiB
    registered: bool  # False where the tool refused the pair
    printed: str  # its standard output

    @property
    def facts(self) -> Any:
        """What the command printed with --json."""
        return json.loads(self.printed)


class Row(NamedTuple):
    """A line of a table."""

    what: str  # is measured
    must: str  # be
    measured: str


def sn9reg(*arguments: str | Path, may_refuse: bool = False) -> Run:
    """Run the command line tool; raises click.ClickException if it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen([sys.executable, "-m", "sn9reg", "-q", *map(str, arguments)], stdout=printed)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        refused = may_refuse and process.returncode == 3
        if process.returncode and not refused:
            raise click.ClickException(f"sn9reg {' '.join(map(str, arguments))} ended with {process.returncode}")
        printed.seek(0)
        return Run(seconds, usage.ru_maxrss / 2**20, not refused, printed.read())


def align(folder: Path, out: Path, *options: str, may_refuse: bool = False) -> Run:
    """Align the pair of a folder (optical.tif and sar.tif, or SpaceNet 9's names)."""
    return sn9reg("align", *scene(folder), "--out", out, "--overwrite", *options, may_refuse=may_refuse)


def scene(folder: Path) -> tuple[Path, Path]:
    """Optical and SAR file of a folder."""
    return next(folder.glob("*optical*.tif")), next(folder.glob("*sar*.tif"))


def score(offsets: Path, optical: Path, sar: Path, points: Path, *options: str) -> Any:
    """Errors at the tie-points, as `sn9reg score --json` prints them."""
    return sn9reg("score", offsets, optical, sar, points, *options, "--json").facts


def errors(offsets: Path, folder: Path) -> Any:
    """`score` of a simulated scene."""
    return score(offsets, *scene(folder), next(folder.glob("*tiepoints*.csv")))


def simulate(work: Path, size: str, seed: int, *options: str | Path, name: str = "") -> Path:
    """The folder of a simulated scene, made once. name: of the folder, where there are options."""
    folder = work / (name or f"scene_{size}_{seed}")
    if not (folder / "02_offsets_train_01.tif").exists():
        sn9reg("simulate", folder, "--size", size, "--seed", str(seed), "--overwrite", *options)
    return folder
