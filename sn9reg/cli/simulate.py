"""`sn9reg simulate`: a scene that never was."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sn9reg.cli import options


def parse_size(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, int]:
    """'WIDTH' or 'WIDTHxHEIGHT' -> (width, height). Raises click.BadParameter for anything else."""
    width, cross, height = value.lower().partition("x")
    try:
        return int(width), int(height if cross else width)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither WIDTH nor WIDTHxHEIGHT") from None


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--size", default="2000", show_default=True, metavar="WIDTH[xHEIGHT]", callback=parse_size,
              help="Of the optical image, in pixels of 0.305 m.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Another seed, another place.")
@click.option("--scene", "kind", type=click.Choice(["city", "town", "village"]), default="village", show_default=True,
              help="What stands there; cities and towns are seen from any side.")  # fmt: skip
@click.option("--time", default=0, show_default=True, help="Another time, another sun and speckle; the place stays.")
@click.option("--ground-truth", is_flag=True,
              help="Write also what each pixel shows (ground, shadow, tops, sides), and heights.")  # fmt: skip
@click.option("--looks", default=4.0, show_default=True, help="Looks of the SAR image: fewer, more speckle.")
@click.option("--empty", default=0.01, show_default=True, help="Fraction of the SAR image outside its swath (0).")
@click.option("--field", type=click.Path(path_type=Path), metavar="CSV",
              help="Take the displacement from these tie-points instead of from a terrain.")  # fmt: skip
@click.option("--field-geotransforms", type=click.Path(path_type=Path), metavar="JSON",
              help="Geotransforms of the images that --field belongs to by the CSV's name without suffix.")  # fmt: skip
@options.overwrite
@options.as_json
def simulate(folder: Path, size: tuple[int, int], **given: Any) -> None:
    """Write an optical and a SAR image of a place that never was into FOLDER, with tie-points and exact offsets.

    The files carry SpaceNet 9's names, and look to every other command like one of its scenes. The same size and
    seed give the same files.
    """
    from sn9reg.simulate import simulate as simulate_scene

    with options.progress_bar("simulate"):
        scene = simulate_scene(folder, *size, **given)
    files = {name: str(path) for name, path in asdict(scene).items() if path}
    options.say(files, files.values())
