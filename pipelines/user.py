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

EXACT = "02_offsets_train_01.tif"  # the offsets of a simulated scene, beside its images


@dataclass(frozen=True)
class Run:
    """One command."""

    seconds: float  # wall clock
    processor: float  # seconds of all processors together
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


def sn9reg(*arguments: str | Path, may_refuse: bool = False, tree: Path | None = None) -> Run:
    """Run the command line tool; raises click.ClickException if it fails. tree: a folder whose code is run, with
    absolute paths."""
    start, where = time.perf_counter(), os.environ | ({"PYTHONPATH": str(tree)} if tree else {})
    with tempfile.TemporaryFile("w+") as printed:
        command = [sys.executable, "-m", "sn9reg", "-q", *map(str, arguments)]
        # Python looks for modules where it stands before it looks anywhere else.
        process = subprocess.Popen(command, stdout=printed, env=where, cwd=tree)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        refused = may_refuse and process.returncode == 3
        if process.returncode and not refused:
            raise click.ClickException(f"sn9reg {' '.join(map(str, arguments))} ended with {process.returncode}")
        printed.seek(0)
        return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, not refused, printed.read())


class Scene(NamedTuple):
    """Two images, and the truth."""

    optical: Path
    sar: Path
    points: Path  # tie-points
    frame: tuple[str, ...] = ()  # --pixel-frame where the images have no georeference

    def align(self, out: Path, *options: str, may_refuse: bool = False) -> Run:
        return sn9reg(
            "align", self.optical, self.sar, "--out", out, "--overwrite", *self.frame, *options, may_refuse=may_refuse
        )

    def errors(self, out: Path) -> Any:
        """At the tie-points, as `sn9reg score --json` prints them."""
        return sn9reg("score", out, self.optical, self.sar, self.points, *self.frame, "--json").facts

    def tried(self, out: Path, *options: str) -> tuple[Run, Any]:
        """`align`, and `errors`; nothing for these where the pair is refused."""
        run = self.align(out, *options, may_refuse=True)
        return run, self.errors(out) if run.registered else None


def simulate(work: Path, size: str, seed: int, *options: str | Path, name: str = "") -> Scene:
    """A simulated scene, made once. name: of its folder, where there are options."""
    folder = work / (name or f"scene_{size}_{seed}")
    if not (folder / EXACT).exists():
        sn9reg("simulate", folder, "--size", size, "--seed", str(seed), "--overwrite", *options)
    names = ("optical_train_01.tif", "sar_train_01.tif", "tiepoints_train_01.csv")
    optical, sar, points = (folder / f"02_{name}" for name in names)
    return Scene(optical, sar, points)
