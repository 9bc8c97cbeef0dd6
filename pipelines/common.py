"""What the pipelines share: options of their commands, errors in one line, tables and figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from sn9reg.errors import OutputError, Sn9regError
from sn9reg.raster.files import atomic_output, grid_of, open_raster
from sn9reg.raster.folders import data_root
from sn9reg.raster.grid import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sn9reg.training.tiles import SceneFiles

Option = Callable[[Callable[..., Any]], Callable[..., Any]]

DATA_OPTION: Option = click.option(
    "--data", type=click.Path(path_type=Path), default=data_root, show_default="$SN9REG_DATA, or data",
    help="Folder of the data sets, see data/README.md.",
)  # fmt: skip


def out_option(name: str, flag: str = "--out") -> Option:
    """The option of the folder that a pipeline fills."""
    return click.option(flag, type=click.Path(path_type=Path), default=Path("work") / name, show_default=True)


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the command with the message and the exit code of an error of sn9reg, in place of a traceback."""
    try:
        yield
    except Sn9regError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of the indices 0 to count - 1, evenly apart."""
    indices: list[int] = np.linspace(0, count - 1, min(limit or count, count)).round().astype(int).tolist()
    return indices


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in [head, *rows]]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines) + "\n"


def make_folder(folder: Path) -> None:
    """Make a folder and those that it lies in. Raises OutputError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error


def grids(files: SceneFiles) -> tuple[Grid, Grid]:
    """The grids of an optical and a SAR image. Raises InputError where one cannot be read."""
    with open_raster(files.optical) as optical, open_raster(files.sar) as sar:
        return grid_of(optical), grid_of(sar)


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises OutputError where it cannot be written."""
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_text(text)


@contextmanager
def drawing(
    path: Path, dpi: int, rows: int = 1, columns: int = 1, share_y: bool = False, **options: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure and its (rows, columns) axes to draw on, written to `path` afterwards. options: of the figure.
    Raises OutputError where it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **options)
    yield figure, figure.subplots(rows, columns, sharey=share_y, squeeze=False)
    with atomic_output(path, overwrite=True) as temporary:
        figure.savefig(temporary, dpi=dpi)
