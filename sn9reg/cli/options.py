"""Options that several commands share, under rasterio's names."""

from __future__ import annotations

import math
from typing import Any

import click


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


def parse_creation_options(values: tuple[str, ...]) -> dict[str, Any]:
    """('NAME=VALUE', ...) -> {'name': 'VALUE'}. Raises click.BadParameter without an equals sign, and for what is no
    creation option but a fact of the raster itself."""
    result = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        key = name.strip().lower()
        if not key or key in _NO_OPTIONS:
            raise click.BadParameter(f"{value!r} is no creation option of a GeoTIFF")
        result[key] = content
    return result
