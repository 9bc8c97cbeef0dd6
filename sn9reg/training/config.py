"""The whole of a training run, from one YAML file."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.files import PathLike
from sn9reg.training.dataset import Source
from sn9reg.training.sample import Geometry, Photometry

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """A thing by its name in a table, with its options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimiser:
    """Adam(W). rate: learning rate at its highest; warmup: steps up to it, in a straight line; schedule: `constant` or
    `cosine` down to nothing at the last step. clip: largest norm of the gradient, 0 for no limit."""

    rate: float = 5e-4
    decay: float = 0.0
    schedule: typing.Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    clip: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """A network, a loss, data, and for how long.

    shared: Siamese. batch: pairs a step, in `accumulate` parts. validate_every: steps between validations; patience:
    validations without gain before it stops, 0 for never. average: decay of the weights' running mean, which is what is
    validated and kept; 0 for none. precision: as Lightning names it, e.g. 32-true or bf16-mixed; `auto` is bf16-mixed
    on a GPU and 32-true else.
    """

    network: Choice
    loss: Choice
    sources: tuple[Source, ...]
    shared: bool = False
    geometry: Geometry = field(default_factory=Geometry)
    validation: Geometry = field(default_factory=Geometry)
    photometry: Photometry = field(default_factory=Photometry)
    degradation: Degradation = field(default_factory=Degradation)
    optimiser: Optimiser = field(default_factory=Optimiser)
    steps: int = 1000
    batch: int = 16
    accumulate: int = 1
    validate_every: int = 250
    patience: int = 0
    average: float = 0.0
    precision: str = "auto"
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "accumulate", "validate_every")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("patience", "workers", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must not be negative")
        if not 0 <= self.average < 1:
            raise ConfigError(f"average is {self.average}, must be at least 0 and below 1")
        for name in ("geometry", "validation"):
            shape = getattr(self, name)
            if not 0 < shape.sar < shape.optical:
                raise ConfigError(f"{name}: the SAR side {shape.sar} must be smaller than the optical {shape.optical}")
        if self.batch % self.accumulate:
            raise ConfigError(f"batch {self.batch} cannot be taken in {self.accumulate} equal parts")


def read_config(path: PathLike) -> TrainingConfig:
    """The training of a dense matcher. Raises as `read_as`."""
    return read_as(path, TrainingConfig)


def read_as(path: PathLike, kind: type[T]) -> T:
    """A YAML file's content as a dataclass.

    Raises InputError where the file cannot be read, ConfigError for what is not in it or does not belong there.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    return _build(kind, content, str(path))


def as_dict(config: Any) -> dict[str, Any]:
    """Plain values, for YAML and for a weights' card."""
    return dataclasses.asdict(config)


def _build(kind: type[T], content: object, where: str) -> T:
    """A dataclass from a mapping, with nothing unknown in it."""
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: is {content!r}, not a mapping")
    hints = typing.get_type_hints(kind)
    if unknown := sorted(str(key) for key in content.keys() - hints.keys()):
        raise ConfigError(f"{where}: knows no {', '.join(unknown)}; there are: {', '.join(hints)}")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in content.items()}
    missing = [
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: lacks {', '.join(missing)}")
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert(hint: Any, value: object, where: str) -> Any:
    """A YAML value as the type that a field asks for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    if origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: takes {len(kinds)} values, not {len(value)}")
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: is {value!r}, not one of {', '.join(map(str, arguments))}")
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _convert(next(a for a in arguments if a is not type(None)), value, where)
    kind = origin or hint
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: is {value!r}, not {kind.__name__}")
    return value
