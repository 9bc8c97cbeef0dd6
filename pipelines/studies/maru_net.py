"""MARU-Net's tables: rivals without training, and what each of its parts brings, trained alike. Source: M. Gazzea et
al., "MARU-Net: Multiscale attention gated residual U-Net with contrastive loss for SAR-optical image matching", Tables
I and II. A stopped study goes on where it was. Writes table.md and results.json."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from skimage.metrics import normalized_mutual_information

from pipelines.common import PATH, Command, listed, markdown, out_option, write
from pipelines.train import WEIGHTS_FILE, trained
from sn9reg.matchers.base import make_matcher
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.files import make_folder
from sn9reg.raster.folders import data_root
from sn9reg.raster.grid import Points
from sn9reg.raster.radiometry import SarLog, optical_grey
from sn9reg.raster.scene import Patch
from sn9reg.score.benchmark import bench_patches
from sn9reg.training.config import read

FILTER = Degradation(lee=4.4)  # of the SAR images, as in the paper; looks of Sentinel-1's product
PLAIN = {"multiscale": False, "attention": False, "residual": False}
CONTRAST = {"name": "maru-net", "options": {"trainable": True}}
# Row of Table II -> what is left out of the network, and the loss.
ROWS: dict[str, tuple[dict[str, bool], dict[str, Any]]] = {
    "U-Net with cross-entropy": (PLAIN, {"name": "fft-unet", "options": {"trainable": True}}),
    "+ contrastive loss": (PLAIN, CONTRAST),
    "+ residual and attention gate": ({"multiscale": False}, CONTRAST),
    "+ multiscale (MARU-Net)": ({}, CONTRAST),
}
COLUMNS = ("<= 1 px", "<= 2 px", "<= 3 px", "<= 5 px", "mean L2, px", "ms a pair")


class MutualInformation:
    """Normalised mutual information at every place, by scikit-image (Studholme et al. 1999): the slow rival."""

    name = "mutual information"

    def locate(self, optical: Patch, sar: Patch) -> Points:
        """(2,) where the upper left pixel of a SAR template lies in a larger optical patch, whole pixels."""
        grey, template = optical_grey(optical.values), SarLog.of(sar.values, sar.valid, sar.decibel)(sar.values)
        windows = sliding_window_view(grey, template.shape)
        found = [[normalized_mutual_information(window, template, bins=32) for window in row] for row in windows]
        row, col = np.unravel_index(int(np.argmax(found)), windows.shape[:2])
        return np.array([col, row], dtype=np.float64)


@click.command(cls=Command)
@click.option("--config", default="pipelines/training/hybrids.yaml", show_default=True, help="The budget of Table II.")
@click.option("--test", type=PATH, help="Pairs not trained on [default: sen12/val of the data].")
@out_option("maru_net")
@listed("--parts", ("ncc", "mi", "ablation"))
@click.option("--limit", type=click.IntRange(1), help="Measure on so many pairs only; `mi` takes seconds for each.")
def main(config: str, test: Path | None, out: Path, parts: list[str], limit: int | None) -> None:
    """Measure 192 in 256 px, the SAR images through a Lee filter."""
    make_folder(out)
    folder, found = test or data_root() / "sen12/val", dict[str, Any]()
    matchers: dict[str, Any] = {"NCC": make_matcher("ncc")} if "ncc" in parts else {}
    if "mi" in parts:
        matchers["MI"] = MutualInformation()
    for name, (without, loss) in ROWS.items() if "ablation" in parts else ():
        network = {"name": "maru-net", "options": without}
        wanted = read(config, network=network, shared=True, loss=loss, degradation={"lee": FILTER.lee})
        run = out / name.strip("+ ").replace(" ", "-")
        trained(wanted, run)
        matchers[name] = make_matcher("maru-net", weights=str(run / WEIGHTS_FILE))
    for name, matcher in matchers.items():
        found[name] = bench_patches(folder, matcher, 256, 192, limit, degradation=FILTER).as_dict()
        click.echo(f"{name}: {found[name]}", err=True)
    rows = []
    for name, one in found.items():
        rates = (f"{one['cmr'][radius]:.3f}" for radius in "1235")
        rows.append((name, *rates, f"{one['mean_l2_px']:.2f}", f"{one['ms_per_pair']:.0f}"))
    write(out / "results.json", json.dumps(found, indent=1))
    write(out / "table.md", text := markdown(("", *COLUMNS), rows))
    click.echo(text)


if __name__ == "__main__":
    main()
