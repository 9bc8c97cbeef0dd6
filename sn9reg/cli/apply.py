"""`sn9reg apply`: pull a raster from the SAR frame onto the optical grid."""

from pathlib import Path
from typing import Any

import click

from sn9reg.apply import apply_offsets
from sn9reg.cli import options
from sn9reg.errors import InputError, naming
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import check_output, grid_of, open_raster
from sn9reg.raster.resampling import RESAMPLING


@click.command()
@click.argument("offsets_path", metavar="OFFSETS")
@click.argument("raster")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="GeoTIFF to write.")
@click.option("--optical", help="The optical image, if OFFSETS has no georeference.")
@click.option("--resampling", type=click.Choice(RESAMPLING),
              help="Default: nearest for palettes and 64-bit integers, bilinear for all else.")  # fmt: skip
@click.option("--nodata", type=float, help="Value for no data, in OUT and, if it declares none, in RASTER.")
@click.option(
    "-b", "--bidx", "bands", type=int, multiple=True, help="Band of RASTER, from 1; may be repeated. Default: all."
)
@options.creation
@options.pixel_frame
@click.option("--threads", type=options.THREADS, default=1, show_default=True, help="Blocks computed at once.")
@options.overwrite
def apply(
    offsets_path: str, raster: str, out: Path, optical: str | None, pixel_frame: bool, overwrite: bool, **given: Any
) -> None:
    """Write RASTER, which lies in the SAR frame, on the optical grid: every pixel where OFFSETS finds its counterpart.

    RASTER may have any bands, type, pixel size and CRS. For class labels, say --resampling nearest.
    """
    check_output(out, overwrite, (offsets_path, raster, optical))
    grid = None
    if optical is not None:
        with open_raster(optical) as dataset:
            grid = grid_of(dataset, pixel_frame)
    with open_offsets(offsets_path, grid, pixel_frame) as offsets, naming(offsets_path, raster):
        if not pixel_frame and (offsets.grid.crs is None or offsets.grid.transform.is_identity):
            way_out = "give the optical image with --optical, or --pixel-frame"
            raise InputError(f"{offsets_path}: has no georeference; {way_out}")
        with options.progress_bar("apply"):
            apply_offsets(offsets, raster, out, pixel_frame=pixel_frame, overwrite=overwrite, **given)
