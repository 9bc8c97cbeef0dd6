"""The main job on a scene that was simulated for it: align, score, pictures.

    python -m pipelines.demo FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from sn9reg.apply import apply_offsets
from sn9reg.grid import Window
from sn9reg.offsets import open_offsets
from sn9reg.rasters import grid_of, open_raster
from sn9reg.register import register
from sn9reg.scene import Patch, PosedScene, Scene, open_pair
from sn9reg.scoring import score
from sn9reg.simulate import simulate
from sn9reg.tiepoints import read_tiepoints

_SIDE = 2400
_CROP = 700  # common pixels shown of the checkerboard
_TILE = 70


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("demo"))
def main(folder: Path) -> None:
    """Simulate a pair into FOLDER, register it, say how right it is and draw it."""
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"simulating an optical and a SAR scene of about {_SIDE} x {_SIDE} px in {folder} ...")
    files = simulate(folder, _SIDE, _SIDE, seed=1, overwrite=True)
    click.echo("registering ...")
    registration = register(files.optical, files.sar)
    offsets = folder / "offsets.tif"
    registration.offsets(sigma=True).write(offsets, overwrite=True)
    click.echo(f"{offsets}: {registration.warp.model} warp, {registration.verdict.reason}")
    warped = folder / "sar_on_optical.tif"
    with open_offsets(offsets) as found, open_raster(files.optical) as optical, open_raster(files.sar) as sar:
        apply_offsets(found, files.sar, warped, overwrite=True)
        grids = grid_of(optical), grid_of(sar)
        result = score(found, *grids, read_tiepoints(files.tiepoints, *grids)).as_dict()
        field = found.read(found.grid.window)
    draw(folder / "demo.png", (files.optical, files.sar), (files.optical, warped), field)
    before = result["without_registration"]
    click.echo(f"\n{result['n']} tie-points          before    after")
    for label, key in (("mean error, px", "mean_px"), ("median, px", "median_px"), ("SpaceNet 9 score", "sn9_score")):
        click.echo(f"{label:20}{before[key]:10.2f}{result[key]:9.2f}")
    click.echo(f"\npictures: {folder / 'demo.png'} (before, after, offsets)")
    if not registration.registered:
        sys.exit(3)


def draw(path: Path, before: tuple[Path, Path], after: tuple[Path, Path], field: npt.NDArray[np.float32]) -> None:
    """Checkerboards of optical and SAR before and after, and the offsets."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(20, 5.4), constrained_layout=True)
    for axis, pair, title in ((axes[0], before, "before"), (axes[1], after, "after")):
        axis.imshow(checkerboard(*pair))
        axis.set_title(f"{title}: optical and SAR in turns")
    for axis, values, title in ((axes[2], field[0], "dx, px"), (axes[3], field[1], "dy, px")):
        image = axis.imshow(values[::8, ::8], cmap="RdBu_r")
        axis.set_title(title)
        figure.colorbar(image, ax=axis, shrink=0.8)
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def checkerboard(optical: Path, sar: Path) -> npt.NDArray[np.float32]:
    """(h, w, 3) the middle of a pair, tiles of either in turns."""
    with open_pair(optical, sar) as pair:
        window = pair.overlap
        col, row = window.col + (window.width - _CROP) // 2, window.row + (window.height - _CROP) // 2
        part = Window(col, row, _CROP, _CROP)
        optical_rgb, sar_grey = _shown(pair.optical, part), _shown(pair.sar, part)
    y, x = np.indices((_CROP, _CROP)) // _TILE
    return np.where(((x + y) % 2 == 0)[..., None], optical_rgb, sar_grey)


def _shown(scene: Scene | PosedScene, window: Window) -> npt.NDArray[np.float32]:
    """(h, w, 3) in [0, 1], stretched between the 1st and the 99th percentile; SAR as its square root."""
    patch: Patch = scene.read(window)
    values = np.sqrt(np.maximum(patch.values, 0)) if len(patch.values) == 1 else patch.values
    low, high = np.percentile(values[:, patch.valid], (1, 99)) if patch.valid.any() else (0, 1)
    shown = np.clip((values - low) / max(high - low, 1e-9), 0, 1).transpose(1, 2, 0)
    return np.broadcast_to(shown, (*shown.shape[:2], 3)).astype(np.float32)


if __name__ == "__main__":
    main()
