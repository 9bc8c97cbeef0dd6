"""One family of errors. Each message says what is wrong, with which file, and what to do; each has an exit code."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def printable(text: str) -> str:
    """The text with what would steer a terminal, or is not UTF-8, as Python writes it in its source."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Sn9regError(Exception):
    """Base of every error that sn9reg raises on purpose. Its message is one line that any terminal can show."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(" ".join(super().__str__().split()))


class InputError(Sn9regError):
    """A file, raster or table that cannot be used as it is."""


@contextmanager
def naming(*files: object) -> Iterator[None]:
    """An InputError that is raised inside and names none of these files begins with their names."""
    try:
        yield
    except InputError as error:
        if any(str(file) in str(error) for file in files):
            raise
        raise InputError(f"{' and '.join(map(str, files))}: {error}") from error


class OutputError(Sn9regError):
    """A target that cannot be written: it exists, its folder is missing, or the disk refuses."""


class ConfigError(Sn9regError):
    """An option or a combination of options that makes no sense."""

    exit_code = 2


class NotRegisteredError(Sn9regError):
    """The pair was not registered: the evidence does not carry a warp."""

    exit_code = 3


def interrupt_by(*numbers: int) -> None:
    """From now on these signals, unless somebody has seen to them, break off the work as Ctrl-C does, with their number
    as the argument. Only the first does, so that nothing breaks off the cleaning up. In the main thread alone."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    if threading.current_thread() is not threading.main_thread():
        return

    def interrupt(number: int, _frame: object) -> None:
        for other in ours:
            signal.signal(other, lambda *_: None)
        raise KeyboardInterrupt(number)

    ours = [number for number in numbers if signal.getsignal(number) in usual]
    for number in ours:
        signal.signal(number, interrupt)
