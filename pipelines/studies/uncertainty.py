"""What uncertainty and self-supervision bring: the ablation of the dual encoder, its reliability and its cost.

    python -m pipelines.uncertainty [FOLDER] [--config pipelines/training/uncertainty-ablation.yaml]
        [--out work/uncertainty] [--pairs N] [--weights FILE] [--parts ablation,reliability,modes]

Huang et al., "Uncertainty-aware self-supervised cross-modal SAR-optical matching using EfficientDet and Xception",
Tables 3 and 4. Trains six networks alike but for what the rows name, and matches every cell of a pair with every other.
`reliability` and `modes` are of one network, the one that ships if none is given. Writes tables (Markdown, JSON) and a
reliability diagram.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
from scipy.optimize import isotonic_regression

from sn9reg.fit.correspondences import Floats
from sn9reg.many.jobs import peak_memory
from sn9reg.matchers.dual_encoder.encode import CellEncoder
from sn9reg.matchers.dual_encoder.network import CELL, DualEncoder
from sn9reg.matchers.dual_encoder.pairing import nearest_anywhere
from sn9reg.matchers.fused import fused
from sn9reg.raster.folders import RegisteredPair, pair_files
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import Patch
from sn9reg.score.metrics import anm, ece, mma, mma_of_truth, reliability, rmse
from sn9reg.training.config import read_as
from sn9reg.training.dual_config import DualConfig
from sn9reg.training.dual_run import train_dual
from sn9reg.weights.store import DualArchitecture, load_dual_encoder, save_weights

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RIGHT = 3.0  # pixels within which a match counts as right
PASSES = 20
SURE = 0.5  # confidence above which a match counts for aNM
# Row of the paper's Table 3 -> options, passes of Monte-Carlo dropout, what the pre-training asks for.
ROWS: dict[str, tuple[dict[str, Any], int]] = {
    "none": ({"aleatoric": False, "dropout": 0.0, "contrastive": False, "rotation": False}, 0),
    "aleatoric": ({"aleatoric": True, "dropout": 0.0, "contrastive": False, "rotation": False}, 0),
    "epistemic": ({"aleatoric": False, "dropout": 1.0, "contrastive": False, "rotation": False}, PASSES),
    "both": ({"contrastive": False, "rotation": False}, PASSES),
    "both + contrastive": ({"rotation": False}, PASSES),
    "both + contrastive + rotation": ({}, PASSES),
}


@dataclass(frozen=True)
class Matched:
    """Per pair of images: errors in pixels, confidence of the matches from 0 to 1, and how many cells there are."""

    errors: list[Floats]
    confidence: list[Floats]
    possible: list[int]

    def row(self) -> dict[str, float]:
        """The paper's figures, and the usual ones."""
        off, sure = np.concatenate(self.errors), np.concatenate(self.confidence)
        calibrated = cross_calibrated(self.confidence, self.errors)
        return {
            **{f"mma_{r}": mma(self.errors, r) for r in (1, 2, 3)},
            **{f"mma_paper_{r}": mma_of_truth(self.errors, self.confidence, self.possible, r) for r in (1, 2, 3)},
            "matches": float(np.mean([len(e) for e in self.errors])),
            "anm": anm(calibrated, SURE),
            "ece": ece(sure, off <= RIGHT),
            "ece_calibrated": ece(np.concatenate(calibrated), off <= RIGHT),
            "rmse": rmse(off, RIGHT),
        }


def cross_calibrated(confidence: list[Floats], errors: list[Floats]) -> list[Floats]:
    """The confidence of each half of the pairs through the isotonic curve of the other half."""
    result: list[Floats] = [np.zeros(0)] * len(errors)
    for half in (0, 1):
        fitted = [k for k in range(len(errors)) if k % 2 != half]
        x = np.concatenate([confidence[k] for k in fitted])
        y = np.concatenate([errors[k] <= RIGHT for k in fitted]).astype(float)
        order = np.argsort(x, kind="stable")
        curve = isotonic_regression(y[order]).x
        for k in range(half, len(errors), 2):
            result[k] = np.interp(confidence[k], x[order], curve)
    return result


def match_folder(network: DualEncoder, files: list[RegisteredPair], passes: int) -> Matched:
    """Every cell of each pair with every other: registered pairs, so the truth is no displacement."""
    errors, confidence, possible = [], [], []
    for pair in files:
        optical, sar = pair.read()
        encoder = CellEncoder(network, SarLog.of(sar.values, sar.valid), passes)
        encoder.weigh_patches(optical, sar)
        one, other = encoder(optical, "optical"), encoder(sar, "sar")
        found = nearest_anywhere(one.weighed, other.weighed)
        errors.append(((found.sar_xy - found.optical_xy).norm(dim=1) * CELL).double().numpy())
        sure = [m.confidence.flatten()[index] for m, index in ((one, found.optical), (other, found.sar))]
        base, slope = network.log_variance.detach()
        variance = (base + slope * (2 - sure[0] - sure[1])).exp() * CELL**2
        # That a normal deviation of this variance per axis is shorter than what counts as right.
        claimed = 1 - (-(RIGHT**2) / (2 * variance)).exp()
        if not network.aleatoric:  # nothing was trained to claim anything: the similarity, as it is
            claimed = found.similarity.clamp(0, 1)
        confidence.append(claimed.double().numpy())
        possible.append(int((one.valid * other.valid).sum()))
    return Matched(errors, confidence, possible)


def ablation(config: DualConfig, files: list[RegisteredPair], out: Path) -> dict[str, dict[str, float]]:
    """Trains what is not in the folder yet, and matches."""
    table: dict[str, dict[str, float]] = {}
    for name, (options, passes) in ROWS.items():
        chosen = dataclasses.replace(config, pretraining=dataclasses.replace(config.pretraining, steps=0))
        if options.get("contrastive", True):
            chosen = config
        chosen = dataclasses.replace(chosen, **options)
        folder = out / name.replace(" + ", "-")
        weights = folder / "weights.safetensors"
        if not weights.exists():
            folder.mkdir(parents=True, exist_ok=True)
            task = train_dual(chosen, folder, resume=True, progress=False)
            save_weights(weights, task.network, DualArchitecture(chosen.aleatoric, chosen.dropout, chosen.structure))
        table[name] = match_folder(fused(load_dual_encoder(weights)), files, passes).row()
        click.echo(f"{name}: {table[name]}")
    return table


def diagram(matched: Matched, path: Path) -> None:
    """Confidence claimed against the share that is right, as the network has it and through a curve."""
    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    right = np.concatenate(matched.errors) <= RIGHT
    for name, confidence in (
        ("as the network has it", matched.confidence),
        ("calibrated on other pairs", cross_calibrated(matched.confidence, matched.errors)),
    ):
        sure = np.concatenate(confidence)
        share, claimed, good = reliability(sure, right).T
        known = share > 0
        axes.plot(claimed[known], good[known], marker="o", label=f"{name}, ECE {ece(sure, right):.3f}")
    axes.set(xlabel="probability claimed", ylabel=f"share within {RIGHT:g} px", xlim=(0, 1), ylim=(0, 1))
    axes.set_aspect("equal")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def mode(network: DualEncoder, passes: int, repeats: int = 5) -> dict[str, float]:
    """Median milliseconds for a pair of 256 x 256 px, both encoders and the matching, and the process's peak memory."""
    random = np.random.default_rng(0)
    patch = Patch(random.gamma(2, 50, (1, 256, 256)).astype(np.float32), np.ones((256, 256), bool))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        encoder = CellEncoder(network, SarLog.of(patch.values, patch.valid), passes)
        nearest_anywhere(encoder(patch, "optical").weighed, encoder(patch, "sar").weighed)
        seconds.append(time.perf_counter() - start)
    return {"ms": float(np.median(seconds[1:])) * 1e3, "GiB": peak_memory()}


def modes(weights: str | None) -> dict[str, dict[str, float]]:
    """The paper's Table 4, each mode in a process of its own."""
    table = {}
    for name in ("base", "with uncertainty", f"{PASSES} passes"):
        command = [sys.executable, "-m", "pipelines.uncertainty", "--mode", name]
        command += ["--weights", weights] if weights else []
        table[name] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        click.echo(f"{name}: {table[name]}")
    return table


def markdown(table: dict[str, dict[str, float]]) -> str:
    """A table with one row per entry."""
    names = list(next(iter(table.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row, values in table.items():
        lines.append(f"| {row} | " + " | ".join(f"{values[name]:.3f}" for name in names) + " |")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("../shared/data/sen12/val"))
@click.option("--config", "config_path", default="pipelines/training/uncertainty-ablation.yaml", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("work/uncertainty"), show_default=True)
@click.option("--pairs", type=click.IntRange(2), help="At most so many, spread over the folder.")
@click.option("--weights", help="Of the network for reliability and modes [default: the one that ships].")
@click.option("--parts", default="ablation,reliability,modes", show_default=True)
@click.option("--mode", "one_mode", hidden=True)
def main(
    folder: Path, config_path: str, out: Path, pairs: int | None, weights: str | None, parts: str, one_mode: str | None
) -> None:
    """Train, match, write tables and a figure."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if one_mode is not None:
        network = load_dual_encoder(weights)
        network.aleatoric = network.aleatoric and one_mode != "base"
        click.echo(json.dumps(mode(fused(network), PASSES if one_mode == f"{PASSES} passes" else 0)))
        return
    out.mkdir(parents=True, exist_ok=True)
    files = pair_files(folder)
    if pairs is not None:
        files = [files[int(k)] for k in np.linspace(0, len(files) - 1, min(pairs, len(files)))]
    tables: dict[str, dict[str, dict[str, float]]] = {}
    if "ablation" in parts:
        tables["ablation"] = ablation(read_as(config_path, DualConfig), files, out)
    if "reliability" in parts:
        network = fused(load_dual_encoder(weights))
        found = {str(n): match_folder(network, files, n) for n in (0, PASSES)}
        tables["reliability"] = {f"{n} passes": matched.row() for n, matched in found.items()}
        diagram(found[str(PASSES)], out / "reliability.png")
    if "modes" in parts:
        tables["modes"] = modes(weights)
    for name, table in tables.items():
        (out / f"{name}.json").write_text(json.dumps(table, indent=1))
        (out / f"{name}.md").write_text(markdown(table))
        click.echo(markdown(table))


if __name__ == "__main__":
    main()
