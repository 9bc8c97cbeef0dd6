"""What the pipelines share: options, errors in one line, tables, figures, and the tool as a user runs it."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click

from sn9reg.errors import Sn9regError
from sn9reg.raster.files import atomic_output, write_file
from sn9reg.raster.folders import data_root

PATH = click.Path(path_type=Path)
DATA = click.option(
    "--data", type=PATH, default=data_root, show_default="$SN9REG_DATA, or data", help="Data sets, see data/README.md."
)
write = partial(write_file, overwrite=True)
EXACT = "02_offsets_train_01.tif"  # the offsets of a simulated scene, beside its images


def out_option(name: str, flag: str = "--out") -> Callable[[Any], Any]:
    """The option of the folder that a pipeline fills."""
    return click.option(flag, type=PATH, default=Path("work") / name, show_default=True)


def listed(flag: str, known: Iterable[str], about: str | None = None) -> Callable[[Any], Any]:
    """An option that names some of `known` with commas between them, by default all; the command gets a list."""

    def parse(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise click.BadParameter(f"there is no {unknown[0]!r}; there are {', '.join(known)}")
        return names

    return click.option(flag, default=",".join(known), show_default=True, help=about, callback=parse)


class Command(click.Command):
    """A command that an error of sn9reg ends with its message and exit code, in place of a traceback."""

    def main(self, *given: Any, **options: Any) -> Any:
        try:
            return super().main(*given, **options)
        except Sn9regError as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(error.exit_code) from error


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first, *others = (f"| {' | '.join(row)} |\n" for row in [head, *rows])
    return f"{first}{'|---' * len(head)}|\n{''.join(others)}"


def apart(measure: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What a function returns in a process of its own, so that its peak of memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


@contextmanager
def drawing(path: Path, dpi: int, rows: int = 1, columns: int = 1, sharey: bool = False, **size: Any) -> Iterator[Any]:
    """A figure and its (rows, columns) axes, written to `path` afterwards. Raises OutputError where it cannot be."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **size)
    yield figure, figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    with atomic_output(path, overwrite=True) as temporary:
        figure.savefig(temporary, dpi=dpi)


class Run(NamedTuple):
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
    what: str  # is measured
    must: str  # be
    measured: str


def sn9reg(*arguments: str | Path, may_refuse: bool = False, tree: Path | None = None) -> Run:
    """Run the command line tool, or that of `tree` by absolute paths. Raises click.ClickException if it fails."""
    start, where = time.perf_counter(), os.environ | ({"PYTHONPATH": str(tree)} if tree else {})
    with tempfile.TemporaryFile("w+") as printed:
        command = [sys.executable, "-m", "sn9reg", "-q", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=printed, env=where, cwd=tree)  # Python imports from there first
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
        refused = may_refuse and process.returncode == 3
        if process.returncode and not refused:
            raise click.ClickException(f"sn9reg {' '.join(map(str, arguments))} ended with {process.returncode}")
        printed.seek(0)
        return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, not refused, printed.read())


class Scene(NamedTuple):
    optical: Path
    sar: Path
    points: Path  # tie-points
    frame: tuple[str, ...] = ()  # --pixel-frame where the images have no georeference

    def align(self, out: Path, *options: str, **how: Any) -> Run:
        """how: `may_refuse` and `tree` of `sn9reg`."""
        return sn9reg("align", self.optical, self.sar, "--out", out, "--overwrite", *self.frame, *options, **how)

    def errors(self, out: Path) -> Any:
        """At the tie-points, as `sn9reg score --json` prints them."""
        return sn9reg("score", out, self.optical, self.sar, self.points, *self.frame, "--json").facts

    def tried(self, out: Path, *options: str) -> tuple[Run, Any]:
        """`align`, and `errors`; nothing for these where the pair is refused."""
        run = self.align(out, *options, may_refuse=True)
        return run, self.errors(out) if run.registered else None

    def measured(self, form: str, out: Path, *options: str) -> str:
        """The errors in the words of `form`; or that the pair is refused."""
        return said(form, self.tried(out, *options)[1])


def said(form: str, errors: Any) -> str:
    return form.format(**errors) if errors else "refused"


def simulate(work: Path, size: str, seed: int, *options: str | Path, name: str = "") -> Scene:
    """A simulated scene, made once. name: of its folder, where there are options."""
    folder = work / (name or f"scene_{size}_{seed}")
    if not (folder / EXACT).exists():
        sn9reg("simulate", folder, "--size", size, "--seed", str(seed), "--overwrite", *options)
    names = ("optical_train_01.tif", "sar_train_01.tif", "tiepoints_train_01.csv")
    optical, sar, points = (folder / f"02_{name}" for name in names)
    return Scene(optical, sar, points)
