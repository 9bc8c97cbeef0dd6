"""Options that several commands share, under rasterio's names."""

from __future__ import annotations

from typing import Any

import click

overwrite = click.option("--overwrite", is_flag=True, help="Replace existing files.")
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
pixel_frame = click.option(
    "--pixel-frame", is_flag=True, help="Ignore georeference: both images lie on one pixel grid, 1 px = 1 unit."
)
creation = click.option(
    "--co",
    "creation_options",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda _c, _p, values: parse_creation_options(values),
    help="GeoTIFF creation option; may be repeated.",
)


def parse_creation_options(values: tuple[str, ...]) -> dict[str, Any]:
    """('NAME=VALUE', ...) -> {'name': 'VALUE'}. Raises click.BadParameter without an equals sign."""
    result = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        result[name.strip().lower()] = content
    return result
