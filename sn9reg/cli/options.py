"""Options that several commands share, under rasterio's names."""

from __future__ import annotations

from typing import Any

import click

# A finite number above zero: of a FloatRange without an upper end, inf and NaN are members too.
POSITIVE = click.FloatRange(min=0, max=1e12, min_open=True)

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
