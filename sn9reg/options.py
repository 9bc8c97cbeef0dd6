"""Options: declared once as fields of a dataclass, with their types and ranges, and checked by one function. Pydantic
does the checking. Matchers, weights and the YAML files of trainings all go through `check`."""

import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar, dataclass_transform

from annotated_types import Ge, Gt, Le

from sn9reg.errors import ConfigError

T = TypeVar("T")

# Ranges that matchers share: beyond them a number means nothing, or would take all time or memory.
MaxOffset = Annotated[float, Gt(0), Le(1e6)]  # metres
Megapixels = Annotated[float, Ge(0.01), Le(1e6)]
Count = Annotated[int, Ge(1), Le(100_000)]


@dataclass_transform(frozen_default=True, field_specifiers=())
def options(kind: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that `check` builds, and that refuses names it does not have. A range stands
    beside the type: ``count: Annotated[int, Ge(1)] = 600`` (from `annotated_types`)."""
    made = dataclass(frozen=True)(kind)
    made.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return made


def check(kind: type[T], given: Mapping[str, Any], owner: str, strict: bool = True) -> T:
    """An instance of the dataclass `kind` from given values, nested ones included.

    Values are taken as JSON has them, so that YAML, command line and Python mean the same: a whole number serves as a
    float, a list as a tuple, but a text or a truth value is no number. owner: what the error message begins with.
    strict: if not, texts serve as the numbers that they write, for CSV files.
    Raises ConfigError for an unknown name, a missing value, and a value of another type or out of range."""
    from pydantic import TypeAdapter, ValidationError  # here, so that a command without options does not wait for it

    try:
        # What JSON does not have: a path as its text, anything else as Python shows it.
        content = json.dumps(dict(given), default=lambda v: os.fspath(v) if isinstance(v, os.PathLike) else repr(v))
        return TypeAdapter(kind).validate_json(content, strict=strict)
    # Keys that are no texts; numbers too long, and lists too deep.
    except (ValueError, ConfigError, TypeError, OverflowError, RecursionError) as error:
        words = _first_error(error, kind) if isinstance(error, ValidationError) else error
        raise ConfigError(f"{owner}: {words}") from error


def check_call(function: Callable[..., Any], given: Mapping[str, Any], owner: str) -> None:
    """Raises ConfigError for keyword arguments that a callable without declared options does not take."""
    known = list(inspect.signature(function).parameters)
    if unknown := sorted(given.keys() - set(known)):
        raise ConfigError(f"{owner}: there is no option {unknown[0]}; there are: {', '.join(known) or 'none'}")


def _first_error(error: Any, kind: Any) -> str:
    """The first error of a check in one line: where, what stands there, what belongs there."""
    first = error.errors(include_url=False)[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "unexpected_keyword_argument":
        known = ", ".join(field.name for field in fields(kind)) or "none"
        return f"there is no option {where}" + (f"; there are: {known}" if len(first["loc"]) == 1 else "")
    if first["type"] == "json_invalid":
        return "a text is not UTF-8"
    return f"{where} is {repr(first['input'])[:80]}; {first['msg'][:1].lower()}{first['msg'][1:]}"
