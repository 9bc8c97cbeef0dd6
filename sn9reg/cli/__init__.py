"""The command line: one file per command, each thin: parse, call, echo. Logs on stderr, results on stdout."""

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from sn9reg.errors import Sn9regError

# command -> module in this folder; loaded only when called, so that `--help` does not wait for torch.
COMMANDS = ("align", "apply", "batch", "bench", "compare", "info", "matchers", "report", "score", "simulate")


# Signals that ask a process to end; left alone, Python would end without cleaning up.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class _Ended(KeyboardInterrupt):
    """One of `_ENDING` came. The work is broken off as by Ctrl-C."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"sn9reg.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        with errors_in_one_line():
            return super().invoke(ctx)

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            return super().main(*args, **options)
        except OSError as error:  # of files, the commands have said more; a pipe that nobody reads ends in click
            if sys.stdout is sys.__stdout__:  # what could not be printed is tried again in the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What breaks off inside ends in one line on stderr and the error's exit code."""
    try:
        with _ending_signals():
            yield
    except Sn9regError as error:
        _fail(str(error), error.exit_code)
    except MemoryError:
        _fail("out of memory; close other programs or register a smaller part of the scene", 1)
    except KeyboardInterrupt as error:
        number = error.args[0] if isinstance(error, _Ended) else signal.SIGINT
        _fail("interrupted; nothing was left half written", 128 + number)  # as shells count


@contextmanager
def _ending_signals() -> Iterator[None]:
    """Inside, signals that ask the process to end raise `_Ended`, once, unless somebody else has seen to them."""
    ours = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def end(number: int, _frame: object) -> None:
        for other in ours:
            signal.signal(other, lambda *_: None)  # nothing breaks off the cleaning up
        raise _Ended(number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


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
