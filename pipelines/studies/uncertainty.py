"""What uncertainty and self-supervision bring: the ablation of the dual encoder, its reliability and its cost. Huang et
al., "Uncertainty-aware self-supervised cross-modal SAR-optical matching using EfficientDet and Xception", Tables 3 and
4. Trains six networks alike but for what the rows name, and matches every cell of a pair with every other;
`reliability` and `modes` are of one network. Writes tables (Markdown, JSON) and the paper's figures 7, 9 and 10: claims
against what is right, what is wrong of the surest, and what is right by land cover, the first word of a file's name."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from pipelines.common import PATH, Command, apart, drawing, listed, markdown, out_option, write
from pipelines.train import trained
from sn9reg.fit.correspondences import Floats
from sn9reg.many.jobs import peak_memory
from sn9reg.matchers.batch_norm import fused
from sn9reg.matchers.dual_encoder.encode import CellEncoder
from sn9reg.matchers.dual_encoder.network import CELL, DualEncoder, load_dual_encoder
from sn9reg.matchers.dual_encoder.pairing import nearest_anywhere
from sn9reg.raster.files import make_folder
from sn9reg.raster.folders import RegisteredPair, data_root, pair_files
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import Patch
from sn9reg.score.metrics import anm, auroc, ece, mma, mma_of_truth, reliability, risk_coverage, rmse
from sn9reg.training.config import read

RIGHT = 3.0  # pixels within which a match counts as right
PASSES = 20
DRAWS = 200  # of pairs, for an interval
SURE = 0.5  # confidence above which a match counts for aNM
PLAIN = {"contrastive": False, "rotation": False, "pretraining.steps": 0}
# Row of the paper's Table 3 -> what it changes in the configuration, and passes of Monte-Carlo dropout.
ROWS: dict[str, tuple[dict[str, Any], int]] = {
    "none": (PLAIN | {"aleatoric": False, "dropout": 0.0}, 0),
    "aleatoric": (PLAIN | {"aleatoric": True, "dropout": 0.0}, 0),
    "epistemic": (PLAIN | {"aleatoric": False, "dropout": 1.0}, PASSES),
    "both": (PLAIN, PASSES),
    "both + contrastive": ({"rotation": False}, PASSES),
    "both + contrastive + rotation": ({}, PASSES),
}


class Matched(NamedTuple):
    """What was found on several pairs, each an entry of these lists."""

    errors: list[Floats]  # (N,) of its matches, pixels
    confidence: list[Floats]  # (N,) of its matches, 0 to 1
    possible: list[int]  # cells that both images show
    cover: list[str]  # of the land, the first word of its name

    def row(self) -> dict[str, float]:
        """The paper's figures, and the usual ones."""
        off, sure = np.concatenate(self.errors), np.concatenate(self.confidence)
        calibrated = cross_calibrated(self.confidence, self.errors)
        return {
            **{f"mma_{r}": mma(self.errors, r) for r in (1, 2, 3)},
            **{f"mma_paper_{r}": mma_of_truth(self.errors, self.possible, r) for r in (1, 2, 3)},
            "matches": float(np.mean([len(e) for e in self.errors])),
            "anm": anm(calibrated, SURE),
            "ece": ece(sure, off <= RIGHT),
            "ece_calibrated": ece(np.concatenate(calibrated), off <= RIGHT),
            "auroc": auroc(sure, off <= RIGHT),
            "spearman": float(spearmanr(sure, off).statistic),
            "rmse": rmse(off, RIGHT),
        }

    def interval(self, of: Callable[[Floats, Floats], Any], chosen: Sequence[int] | None = None) -> Any:
        """(2, ...) within which 95 % of what `of` says of confidence and errors lie, over pairs drawn anew."""
        random, pairs = np.random.default_rng(0), range(len(self.errors)) if chosen is None else chosen
        drawn = (random.choice(pairs, len(pairs)) for _ in range(DRAWS))
        found = [of(*(np.concatenate([x[k] for k in one]) for x in (self.confidence, self.errors))) for one in drawn]
        return np.nanpercentile(found, (2.5, 97.5), axis=0)


def cross_calibrated(confidence: list[Floats], errors: list[Floats]) -> list[Floats]:
    """The confidence of each half of the pairs through the isotonic curve of the other half."""
    result = [np.zeros(0)] * len(errors)
    for half in (0, 1):
        x = np.concatenate(confidence[1 - half :: 2])
        order = np.argsort(x, kind="stable")
        curve = isotonic_regression((np.concatenate(errors[1 - half :: 2]) <= RIGHT)[order].astype(float)).x
        result[half::2] = [np.interp(one, x[order], curve) for one in confidence[half::2]]
    return result


def match_folder(network: DualEncoder, files: list[RegisteredPair], passes: int) -> Matched:
    """Every cell of each pair with every other: registered pairs, so the truth is no displacement."""
    errors, confidence, possible, cover = [], [], [], []
    for pair in files:
        optical, sar = pair.read()
        encoder = CellEncoder(network, SarLog.of(sar.values, sar.valid), passes)
        encoder.weigh(optical, sar)
        one, other = encoder(optical, "optical"), encoder(sar, "sar")
        found = nearest_anywhere(one.weighed, other.weighed)
        errors.append(((found.sar_xy - found.optical_xy).norm(dim=1) * CELL).double().numpy())
        sure = one.confidence.flatten()[found.optical], other.confidence.flatten()[found.sar]
        base, slope = network.log_variance.detach()
        variance = (base + slope * (2 - sure[0] - sure[1])).exp() * CELL**2
        # That a normal deviation of this variance per axis is shorter than what counts as right.
        claimed = 1 - (-(RIGHT**2) / (2 * variance)).exp()
        if not network.aleatoric:  # nothing was trained to claim anything: the similarity, as it is
            claimed = found.similarity.clamp(0, 1)
        confidence.append(claimed.double().numpy())
        possible.append(int((one.valid * other.valid).sum()))
        cover.append(pair.name.split("_")[0])
    return Matched(errors, confidence, possible, cover)


def diagram(matched: Matched, path: Path) -> None:
    """The paper's figures 7, 9 and 10, bands and bars 95 % intervals by bootstrap over the pairs."""
    right, calibrated = np.concatenate(matched.errors) <= RIGHT, cross_calibrated(matched.confidence, matched.errors)
    kinds = {"as the network has it": matched.confidence, "calibrated on other pairs": calibrated}
    with drawing(path, 150, 1, 3, figsize=(14, 4.5)) as (_, [[claims, risks, covers]]):
        claims.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for name, sure in ((name, np.concatenate(confidence)) for name, confidence in kinds.items()):
            bins = reliability(sure, right)
            claims.plot(*bins[bins[:, 0] > 0, 1:].T, marker="o", label=f"{name}, ECE {ece(sure, right):.3f}")
        claims.set(xlabel="probability claimed", ylabel=f"share within {RIGHT:g} px", xlim=(0, 1), ylim=(0, 1))
        claims.set_aspect("equal")
        claims.legend(loc="upper left")
        shares = np.linspace(0.02, 1, 50)

        def risk(sure: Floats, off: Floats) -> Floats:
            return np.interp(shares, *risk_coverage(sure, off <= RIGHT).T)

        risks.plot(shares, risk(*map(np.concatenate, (matched.confidence, matched.errors))))
        risks.fill_between(shares, *matched.interval(risk), alpha=0.3)
        risks.set(xlabel="share of the matches, the surest first", ylabel=f"of these beyond {RIGHT:g} px")
        for place, cover in enumerate(names := sorted(set(matched.cover))):
            own = [k for k, name in enumerate(matched.cover) if name == cover]
            low, high = matched.interval(lambda _, off: np.mean(off <= RIGHT), own)
            share = np.mean(np.concatenate([matched.errors[k] for k in own]) <= RIGHT)
            reach = [[max(0, share - low)], [max(0, high - share)]]
            covers.errorbar(place, share, reach, fmt="o", color="C0", capsize=4)
        covers.set_xticks(range(len(names)), names, rotation=20)
        covers.set(ylabel=f"share within {RIGHT:g} px")


def mode(weights: str | None, uncertain: bool, passes: int) -> dict[str, float]:
    """A row of the paper's Table 4: median milliseconds to encode and match a pair of 256 x 256 px, and peak memory."""
    network = load_dual_encoder(weights)
    network.aleatoric = network.aleatoric and uncertain
    network = fused(network)
    values = np.random.default_rng(0).gamma(2, 50, (1, 256, 256)).astype(np.float32)
    patch = Patch(values, np.ones((256, 256), bool))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        encoder = CellEncoder(network, SarLog.of(patch.values, patch.valid), passes)
        nearest_anywhere(encoder(patch, "optical").weighed, encoder(patch, "sar").weighed)
        seconds.append(time.perf_counter() - start)
    return {"ms": float(np.median(seconds[1:])) * 1e3, "GiB": peak_memory()}


@click.command(cls=Command)
@click.argument("folder", type=PATH, default=lambda: data_root() / "sen12/val")
@click.option("--config", default="pipelines/training/uncertainty-ablation.yaml", show_default=True)
@out_option("uncertainty")
@click.option("--pairs", type=click.IntRange(2), help="At most so many, spread over the folder.")
@click.option("--weights", help="Of the network for reliability and modes [default: the one that ships].")
@listed("--parts", ("ablation", "reliability", "modes"))
def main(folder: Path, config: str, out: Path, pairs: int | None, weights: str | None, parts: list[str]) -> None:
    """Train, match, write tables and a figure."""
    make_folder(out)
    files = pair_files(folder)
    if pairs is not None:
        files = [files[int(k)] for k in np.linspace(0, len(files) - 1, min(pairs, len(files)))]
    tables: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    if "ablation" in parts:
        for name, (changes, passes) in ROWS.items():
            network = fused(load_dual_encoder(trained(read(config, **changes), out / name.replace(" + ", "-"))))
            tables["ablation"][name] = match_folder(network, files, passes).row()
            click.echo(f"{name}: {tables['ablation'][name]}")
    if "reliability" in parts:
        network = fused(load_dual_encoder(weights))
        found = {n: match_folder(network, files, n) for n in (0, PASSES)}
        tables["reliability"] = {f"{n} passes": matched.row() for n, matched in found.items()}
        for matched, row in zip(found.values(), tables["reliability"].values(), strict=True):
            row["auroc_low"], row["auroc_high"] = matched.interval(lambda sure, off: auroc(sure, off <= RIGHT))
        diagram(found[PASSES], out / "reliability.png")
    if "modes" in parts:
        kinds = {"base": (False, 0), "with uncertainty": (True, 0), f"{PASSES} passes": (True, PASSES)}
        tables["modes"] = {name: apart(mode, weights, *kind) for name, kind in kinds.items()}
    for name, table in tables.items():
        head = ["", *next(iter(table.values()))]
        text = markdown(head, [[row, *(f"{values[k]:.3f}" for k in head[1:])] for row, values in table.items()])
        write(out / f"{name}.json", json.dumps(table, indent=1))
        write(out / f"{name}.md", text)
        click.echo(text)


if __name__ == "__main__":
    main()
