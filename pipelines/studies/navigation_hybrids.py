"""The navigation paper's study: four backbones, Siamese or not, five losses, under speckle, blur and rotation.

    python -m pipelines.navigation_hybrids [--grid best|all|NAME,...] [--parts train,cross,rotation,cost]
        [--config pipelines/training/hybrids.yaml] [--out work/hybrids] [--steps N]

A combination is BACKBONE/siamese|pseudo/LOSS, e.g. osmnet/pseudo/cross-corr-ce. `best` are the paper's Table V and the
FFT U-Net and MARU-Net originals. Each is trained alike, by the config; what is there already is not done again, so a
stopped study goes on where it was. Out come results.csv, table.md and figure.png.

Source: S. Bertrand et al., "Learning-based SAR-Optical Registration for Navigation", Tables III to V, Figs. 8 to 14.
The paper trains anew for every degradation; here one training, under the config's degradation, is measured under all.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch

from pipelines.train_matcher import run
from sn9reg.errors import Sn9regError
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.dense.correlation import Similarity, similarity
from sn9reg.matchers.dense.networks.table import NETWORKS, build
from sn9reg.raster.degradation import DEGRADATION_CROSS, Degradation
from sn9reg.score.benchmark import bench_patches
from sn9reg.training.config import Choice, read_config
from sn9reg.training.losses import LOSSES

BACKBONES = ("mcgf", "osmnet", "fft-unet", "maru-net")
PAPER_LOSSES = ("mcgf", "osmnet", "fft-unet", "maru-net", "cross-corr-ce")
BEST = (
    "mcgf/pseudo/mcgf",
    "osmnet/pseudo/cross-corr-ce",
    "fft-unet/pseudo/mcgf",
    "maru-net/pseudo/mcgf",
    "fft-unet/siamese/fft-unet",
    "maru-net/siamese/maru-net",
)
# The paper's section V-C.2 trains the temperature of the first two. The third has none there; but OSMNet's features are
# of unit length, and without one its loss was still 8.2 of log(65^2) = 8.35 after 350 steps here.
LOSS_OPTIONS: dict[str, dict[str, Any]] = {
    "fft-unet": {"trainable": True},
    "maru-net": {"trainable": True},
    "cross-corr-ce": {"temperature": 1 / 30, "trainable": True},
}
PARTS = ("train", "cross", "rotation", "cost")
CENTRE = Degradation(8, 0.5)
TURNS = (0, 2, 5, 10, 20)


@dataclass(frozen=True)
class Hybrid:
    """One combination."""

    backbone: str
    shared: bool
    loss: str

    @classmethod
    def of(cls, name: str) -> Hybrid:
        """From BACKBONE/siamese|pseudo/LOSS."""
        match name.split("/"):
            case [backbone, ("siamese" | "pseudo") as kind, loss] if backbone in NETWORKS and loss in LOSSES:
                return cls(backbone, kind == "siamese", loss)
        raise click.BadParameter(
            f"{name!r} is not BACKBONE/siamese|pseudo/LOSS, of {', '.join(NETWORKS)} and {', '.join(LOSSES)}"
        )

    def __str__(self) -> str:
        return f"{self.backbone}/{'siamese' if self.shared else 'pseudo'}/{self.loss}"

    @property
    def folder(self) -> str:
        return str(self).replace("/", "_")


@click.command()
@click.option("--grid", default="best", show_default=True, help="best, all, or combinations with commas between them.")
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--config", "config_path", default="pipelines/training/hybrids.yaml", show_default=True)
@click.option("--test", default="../shared/data/sen12/val", show_default=True, help="Folder of pairs never trained on.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("work/hybrids"), show_default=True)
@click.option("--steps", type=click.IntRange(1), help="In place of the config's.")
@click.option("--limit", type=click.IntRange(1), help="Measure on so many pairs only, spread over the folder.")
@click.option("--series", type=click.IntRange(1), help="Pairs for the series of degradations and turns [default: all].")
def main(
    grid: str,
    parts: str,
    config_path: str,
    test: str,
    out: Path,
    steps: int | None,
    limit: int | None,
    series: int | None,
) -> None:
    """Train and measure the grid; write table and figure."""
    hybrids = [Hybrid.of(name) for name in BEST] if grid == "best" else []
    if grid == "all":
        hybrids = [Hybrid(*choice) for choice in product(BACKBONES, (True, False), PAPER_LOSSES)]
    hybrids = hybrids or [Hybrid.of(name) for name in grid.split(",")]
    wanted = parts.split(",")
    if unknown := sorted(set(wanted) - set(PARTS)):
        raise click.BadParameter(f"there is no part {', '.join(map(repr, unknown))}; there are {', '.join(PARTS)}")
    try:
        for hybrid in hybrids:
            folder = out / hybrid.folder
            folder.mkdir(parents=True, exist_ok=True)
            if "train" in wanted:
                trained(hybrid, config_path, folder, steps)
            if not (folder / "training.json").exists():
                click.echo(f"{hybrid}: not trained yet", err=True)
                continue
            measured(hybrid, folder, test, wanted, limit, series or limit)
            report(out)
    except Sn9regError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    if "cost" in wanted:
        (out / "cost.md").write_text(cost_table())
        click.echo((out / "cost.md").read_text())
    if (out / "table.md").exists():
        click.echo((out / "table.md").read_text())


def trained(hybrid: Hybrid, config_path: str, folder: Path, steps: int | None) -> None:
    """Train a combination into its folder, unless it is there; a stopped training goes on."""
    if (folder / "training.json").exists():  # the last thing written
        return
    config = dataclasses.replace(
        read_config(config_path),
        network=Choice(hybrid.backbone),
        loss=Choice(hybrid.loss, LOSS_OPTIONS.get(hybrid.loss, {})),
        shared=hybrid.shared,
    )
    if steps is not None:
        config = dataclasses.replace(config, steps=steps)
    start = time.perf_counter()
    run(config, folder, resume=True)
    note = {"steps": config.steps, "batch": config.batch, "seconds": round(time.perf_counter() - start)}
    (folder / "training.json").write_text(json.dumps(note))


def measured(
    hybrid: Hybrid, folder: Path, test: str, parts: list[str], limit: int | None, series: int | None
) -> None:
    """CMR under every condition asked for, kept in results.json as soon as it is known.

    Without and with the central degradation at 192 px in 256; the two series at 128 px in 192, which has as many places
    to choose from at half the cost.
    """
    path = folder / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    matcher = make_matcher(hybrid.backbone, weights=str(folder / "weights.safetensors"))
    conditions: dict[str, tuple[Degradation, float]] = {"clean": (Degradation(), 0.0), "degraded": (CENTRE, 0.0)}
    if "cross" in parts:
        conditions |= {label(degradation): (degradation, 0.0) for degradation in DEGRADATION_CROSS}
    if "rotation" in parts:
        conditions |= {f"turn {turn}": (CENTRE, float(turn)) for turn in TURNS}
    for name, (degradation, turn) in conditions.items():
        if name not in results:
            sides, pairs = ((256, 192), limit) if name in ("clean", "degraded") else ((192, 128), series)
            found = bench_patches(test, matcher, *sides, pairs, degradation=degradation, rotate=turn)
            results[name] = found.as_dict()
            path.write_text(json.dumps(results))


def label(degradation: Degradation) -> str:
    return f"L={degradation.looks:g} blur={degradation.blur:g}"


def report(out: Path) -> None:
    """results.csv, table.md and figure.png of all that has been measured."""
    rows = []
    for path in sorted(out.glob("*/results.json")):
        training = json.loads((path.parent / "training.json").read_text())
        for condition, found in json.loads(path.read_text()).items():
            rates = {f"cmr{r}": found["cmr"][r] for r in ("0", "1", "2", "3", "5")}
            name = path.parent.name.replace("_", "/")
            facts = {"hybrid": name, "condition": condition, "pairs": found["n"]}
            rows.append({**facts, **rates, "l2": found["mean_l2_px"], **training})
    with (out / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    budgets = sorted({f"{row['steps']} steps of {row['batch']} pairs" for row in rows})
    lines = [
        f"Reduced budget: {' or '.join(budgets)}{', the same for all' if len(budgets) == 1 else ''}.",
        "",
        "| backbone / branches / loss | clean: CMR(1) / (3) / (5), L2 | L=8, blur 0.5: CMR(0) / (1) / (2) |",
        "|---|---|---|",
    ]
    for name in dict.fromkeys(row["hybrid"] for row in rows):
        by = {row["condition"]: row for row in rows if row["hybrid"] == name}
        if not {"clean", "degraded"} <= by.keys():  # stopped between the two
            continue
        clean, worse = by["clean"], by["degraded"]
        lines.append(
            f"| {name} | {clean['cmr1']:.3f} / {clean['cmr3']:.3f} / {clean['cmr5']:.3f}, {clean['l2']:.2f} px "
            f"| {worse['cmr0']:.3f} / {worse['cmr1']:.3f} / {worse['cmr2']:.3f} |"
        )
    lines += series_table(rows)
    (out / "table.md").write_text("\n".join(lines) + "\n")
    figure(rows, out / "figure.png")


def series_table(rows: list[dict[str, Any]]) -> list[str]:
    """CMR(1) over the degradation cross and over rotation, for the combinations that were measured so."""
    names = {label(d): f"{d.looks:g} looks, {d.blur:g} px" for d in DEGRADATION_CROSS}
    names |= {f"turn {turn}": f"{turn} degrees" for turn in TURNS}
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["condition"] in names:
            found.setdefault(row["hybrid"], {})[row["condition"]] = row["cmr1"]
    if not found:
        return []
    lines = ["", f"| CMR(1), 128 in 192 px | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for condition, name in names.items():
        rates = (f"{one[condition]:.3f}" if condition in one else "" for one in found.values())
        lines.append(f"| {name} | {' | '.join(rates)} |")
    return lines


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """CMR(1) against looks, blur and rotation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cross = DEGRADATION_CROSS
    looks = sorted(d.looks for d in cross if d.looks and d.blur == 0.5)
    blurs = sorted({d.blur for d in cross if d.looks == 35})
    panels: tuple[tuple[str, list[tuple[float, str]]], ...] = (
        ("looks, blur 0.5 px", [(n, f"L={n:g} blur=0.5") for n in looks]),
        ("blur in px, 35 looks", [(b, f"L=35 blur={b:g}") for b in blurs]),
        ("rotation up to, degrees", [(t, f"turn {t}") for t in TURNS]),
    )
    drawing, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), sharey=True, layout="constrained")
    for axis, (title, points) in zip(axes, panels, strict=True):
        for name in dict.fromkeys(row["hybrid"] for row in rows):
            found = {row["condition"]: row["cmr1"] for row in rows if row["hybrid"] == name}
            known = [(x, found[condition]) for x, condition in points if condition in found]
            if known:
                style = "--" if "siamese" in name else "-"
                axis.plot(*zip(*known, strict=True), style, marker="o", label=name)
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("CMR(1)")
    handles, labels = axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, fontsize=8, ncols=3, loc="outside lower center")
    drawing.savefig(path, dpi=110)
    pyplot.close(drawing)


def cost_table() -> str:
    """The paper's Table III on this machine: parameters, forward and similarity time, memory, at 512 / 128 px."""
    kinds: list[tuple[str, bool, Similarity]] = [
        ("mcgf", False, "cc"),
        ("osmnet", False, "ssd"),
        ("fft-unet", True, "zncc"),
        ("maru-net", True, "zncc"),
        ("slim-unet", True, "zncc"),
    ]
    lines = [
        f"On {torch.get_num_threads()} threads of this CPU, float32, 512 x 512 optical and 128 x 128 SAR, median of 5.",
        "",
        "| network | branches | parameters | forward ms | similarity ms | peak memory MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, shared, kind in kinds:
        # A process of its own, so that its peak of memory is its own.
        code = f"from pipelines.navigation_hybrids import cost; cost({name!r}, {shared}, {kind!r})"
        command = [sys.executable, "-c", code]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        branches = "Siamese" if shared else "pseudo-Siamese"
        lines.append(
            f"| {name} | {branches} | {found['parameters']:,} | {found['forward']:.0f} | {found['similarity']:.0f} "
            f"| {found['memory']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def cost(name: str, shared: bool, kind: Similarity) -> None:
    """One row of `cost_table`, as JSON on stdout. Memory is what the process holds above what it held before."""
    network = build(name, shared).eval()
    optical, sar = torch.randn(1, 1, 512, 512), torch.randn(1, 1, 128, 128)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            features = network(optical, "optical"), network(sar, "sar")
            middle = time.perf_counter()
            similarity(kind, *features)
            times[0].append(middle - start)
            times[1].append(time.perf_counter() - middle)
    facts = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "forward": sorted(times[0])[2] * 1e3,
        "similarity": sorted(times[1])[2] * 1e3,
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }
    click.echo(json.dumps(facts))


if __name__ == "__main__":
    main()
