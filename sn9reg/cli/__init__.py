"""The command line: one file per command, each thin: parse, call, echo. Logs on stderr, results on stdout."""

import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from sn9reg.errors import Sn9regError, interrupt_by
from sn9reg.machine import be_quick_and_quiet

# Modules in this folder, each loaded only when called, so that `--version` does not wait for torch.
COMMANDS = (
    "align", "apply", "batch", "bench", "compare", "info", "matchers", "pipelines", "report", "score", "simulate",
)  # fmt: skip


class OneLine(click.Command):
    """A command whose errors end in one line, as `errors_in_one_line` has them."""

    def invoke(self, ctx: click.Context) -> Any:
        with errors_in_one_line():
            return super().invoke(ctx)


class _Commands(OneLine, click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Any:
        return getattr(importlib.import_module(f"sn9reg.cli.{cmd_name}"), cmd_name) if cmd_name in COMMANDS else None

    def main(self, *args: Any, **options: Any) -> Any:
        be_quick_and_quiet()
        with errors_in_one_line():  # of what is printed before there is a command, too
            return super().main(*args, **options)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What breaks off inside ends in one line on stderr and the error's exit code."""
    interrupt_by(signal.SIGTERM, signal.SIGHUP)
    try:
        yield
    except Sn9regError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        raise  # click ends without a word
    except OSError as error:  # a command says more of its files
        if sys.stdout is sys.__stdout__:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python prints once more what it could not print
        _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    except MemoryError:
        _fail("out of memory; close other programs or register a smaller part of the scene", 1)
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        _fail("interrupted; nothing was left half written", 128 + number)  # as shells count


def run() -> None:
    """The command line as a program. It ends without taking apart what is loaded: that takes torch half a second."""
    try:
        main(prog_name="sn9reg")
    except SystemExit as end:
        with suppress(OSError):  # nothing is left to be printed, as `click.echo` leaves nothing
            sys.stdout.flush()
        os._exit(int(end.code or 0))


def _fail(message: str, exit_code: int) -> None:
    with suppress(OSError):  # where stderr cannot be written either, there is still the exit code
        click.echo("sn9reg: " + " ".join(message.split()), err=True)
    sys.exit(exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sn9reg")
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for details.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")
def main(verbose: int, quiet: bool) -> None:
    """Say, for every pixel of an optical satellite image, where it lies in a SAR image."""
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, stream=sys.stderr, format="sn9reg: %(message)s")
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
