"""What the verdict says of pairs that belong together and of pairs that do not.

    python -m pipelines.verdict [--data DIR] [--side 380] [--places 14] [--matcher NAME]

Crops of the Los Angeles pair, at places drawn by a seed: each optical crop with its own SAR crop, and with those of two
other places that it shares no ground with. Prints one line per kind.
"""

import tempfile
from pathlib import Path

import click
import numpy as np

from pipelines.common import DATA_OPTION, Command
from sn9reg import register
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.base import make_matcher
from sn9reg.raster.files import create_raster, geotiff_profile, open_raster
from sn9reg.raster.grid import Grid, Window


def crop(path: Path, corner: tuple[int, int], side: int, out: Path) -> Path:
    """A square of a raster as a plain image without georeference."""
    with open_raster(path) as source:
        values = source.read(window=Window(*corner, side, side).slices())
    with create_raster(out, geotiff_profile(Grid.pixel_frame(side, side), len(values), str(values.dtype))) as target:
        target.write(values)
    return out


@click.command(cls=Command)
@DATA_OPTION
@click.option("--side", default=380, show_default=True, help="Of a crop, px.")
@click.option("--places", default=14, show_default=True)
@click.option("--matcher", "name", default=DEFAULT_MATCHER, show_default=True)
def main(data: Path, side: int, places: int, name: str) -> None:
    """Measure and print."""
    folder, matcher = data / "sentinel_la", make_matcher(name)
    random = np.random.default_rng(0)
    corners = [(int(random.integers(0, 3072 - 600)), int(random.integers(0, 5120 - 600))) for _ in range(places)]
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [
            [crop(folder / f"{k}.tif", corner, side, Path(scratch, f"{k}{i}.tif")) for k in ("optical", "sar")]
            for i, corner in enumerate(corners)
        ]
        apart = [
            (pairs[i][0], pairs[j][1])
            for i in range(places)
            for j in ((i + 1) % places, (i + 5) % places)
            if max(abs(a - b) for a, b in zip(corners[i], corners[j], strict=True)) > side + 60
        ]
        for kind, chosen in (("together", pairs), ("apart", apart)):
            found = [register(optical, sar, matcher=matcher, pixel_frame=True).verdict for optical, sar in chosen]
            probability, standing = (sorted(getattr(v, name) for v in found) for name in ("probability", "standing"))
            click.echo(
                f"{side} px, {kind}: {len(found)} pairs, {sum(v.registered for v in found)} registered; probability "
                f"{probability[0]:.3f} to {probability[-1]:.3f}, standing {standing[0]:.1f} to {standing[-1]:.1f}"
            )


if __name__ == "__main__":
    main()
