"""The command line, called in this process, and commands that are refused."""

import hashlib
from pathlib import Path

from click.testing import CliRunner

from sn9reg.cli import main


def run(*arguments):
    """What comes of a command; an argument may hold several words, with one space in between."""
    return CliRunner().invoke(main, [word for argument in arguments for word in str(argument).split(" ")])


def contents(folder="."):
    """Everything in a folder, and of a file what it holds."""
    return {p.name: p.is_file() and hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).iterdir()}


def refused(command, *said, codes=(1,)):
    """A command ends with one of the exit codes and one line, below the usage where that is wrong, that says each of
    `said`; the folder stays as it was."""
    before = contents()
    result = run(command)
    assert not isinstance(result.exception, Exception), result.exception
    assert result.exit_code in codes, result.output
    assert result.stdout == ""
    *usage, line = (line for line in result.stderr.splitlines() if line.strip())
    assert usage == [] or usage[0].startswith("Usage: ")
    assert line.startswith("Error: " if usage else "sn9reg: ")
    assert [words for words in said if words not in line] == []
    assert contents() == before
