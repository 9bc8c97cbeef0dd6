"""What the pipelines share: options of their commands, errors in one line, tables and figures."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sn9reg.errors import Sn9regError
from sn9reg.raster.files import atomic_output
from sn9reg.raster.folders import data_root

PATH = click.Path(path_type=Path)
DATA_OPTION = click.option(
    "--data", type=PATH, default=data_root, show_default="$SN9REG_DATA, or data",
    help="Folder of the data sets, see data/README.md.",
)  # fmt: skip


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


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises OutputError where it cannot be written."""
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_text(text)


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
