"""Options that several commands share, under rasterio's names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from sn9reg.errors import ConfigError
from sn9reg.matchers import DEFAULT_MATCHER


class _Positive(click.FloatRange):
    """A finite number above zero; click's own ranges let infinity and NaN in."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


POSITIVE = _Positive()
SEED = click.IntRange(0, 2**63 - 1)

overwrite = click.option("--overwrite", is_flag=True, help="Replace existing files.")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
pixel_frame = click.option(
    "--pixel-frame", is_flag=True, help="Ignore georeference: both images lie on one pixel grid, 1 px = 1 unit."
)
matcher = click.option("--matcher", default=DEFAULT_MATCHER, show_default=True, help="See `sn9reg matchers`.")
matcher_options = click.option(
    "--matcher-option",
    "matcher_options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda _c, _p, values: _parse_matcher_options(values),
    help="Option of the matcher; may be repeated.",
)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def bands_and_nodata(command: _Command) -> _Command:
    """--optical-bidx, --sar-bidx, --optical-nodata, --sar-nodata; see `as_read`."""
    for decorate in (
        click.option("--sar-nodata", type=float, help="Nodata value of the SAR image, in place of its own."),
        click.option("--optical-nodata", type=float, help="Nodata value of the optical image, in place of its own."),
        click.option("--sar-bidx", type=int, multiple=True, help="Band of the SAR image [default: all]."),
        click.option(
            "--optical-bidx", type=int, multiple=True, help="Band of the optical image [default: the first three]."
        ),
    ):
        command = decorate(command)
    return command


def as_read(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `bands_and_nodata` as `scene.open_pair` names them."""
    return {name.replace("bidx", "bands"): value for name, value in given.items()}


# What rasterio.open takes by name beside creation options.
_NO_OPTIONS = {"fp", "mode", "driver", "width", "height", "count", "dtype", "crs", "transform", "nodata", "sharing"}
creation = click.option(
    "--co",
    "creation_options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda _c, _p, values: parse_creation_options(values),
    help="GeoTIFF creation option; may be repeated.",
)


def _parse_matcher_options(values: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs, values as JSON where they are, else as text. Raises ConfigError without an equals sign."""
    result: dict[str, Any] = {}
    for value in values:
        name, content = _name_and_value(value)
        try:
            result[name] = json.loads(content)
        except json.JSONDecodeError:
            result[name] = content
    return result


def parse_creation_options(values: tuple[str, ...]) -> dict[str, Any]:
    """('NAME=VALUE', ...) -> {'name': 'VALUE'}. Raises ConfigError without an equals sign, click.BadParameter for what
    is no creation option but a fact of the raster itself."""
    result = {}
    for value in values:
        name, content = _name_and_value(value)
        key = name.strip().lower()
        if not key or key in _NO_OPTIONS:
            raise click.BadParameter(f"{value!r} is no creation option of a GeoTIFF")
        result[key] = content
    return result


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not NAME=VALUE")
    return name, value
