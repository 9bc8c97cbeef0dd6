"""One family of errors. Each message says what is wrong, with which file, and what to do; each has an exit code."""


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


class OutputError(Sn9regError):
    """A target that cannot be written: it exists, its folder is missing, or the disk refuses."""


class ConfigError(Sn9regError):
    """An option or a combination of options that makes no sense."""

    exit_code = 2


class NotRegisteredError(Sn9regError):
    """The pair was not registered: the evidence does not carry a warp."""

    exit_code = 3
