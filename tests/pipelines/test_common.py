"""What holds for every pipeline: it says what it does, and its errors are one line."""

from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipelines.common import Command, listed
from sn9reg.errors import InputError

ROOT = Path(__file__).parents[2]
FILES = [path for path in (ROOT / "pipelines").rglob("*.py") if "@click.command" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_pipeline_says_what_it_does(path):
    command = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)).main
    result = CliRunner().invoke(command, ["--help"])
    assert (result.exit_code, len(result.stdout) > 100, type(command)) == (0, True, Command)


def test_errors_are_one_line():
    @click.command(cls=Command)
    @listed("--parts", ("one", "two"))
    def command(parts):
        assert parts == ["one", "two"]
        raise InputError("x.tif: is no raster")

    wrong = "Invalid value for '--parts': there is no 'six'; there are one, two"
    for arguments, code, message in ((), 1, "x.tif: is no raster"), (("--parts", "two,six"), 2, wrong):
        result = CliRunner().invoke(command, arguments)
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (code, f"Error: {message}")
