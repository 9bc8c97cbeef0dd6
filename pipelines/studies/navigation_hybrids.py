"""The navigation paper's study: four backbones, Siamese or not, five losses, under speckle, blur and rotation. A
combination is BACKBONE/siamese|pseudo/LOSS, e.g. osmnet/pseudo/cross-corr-ce. `best` are the paper's Table V and its
originals of OSMNet, FFT U-Net and MARU-Net (Table IV; that of MCGF is among Table V). A stopped study goes on where it
was. Writes results.csv, table.md and figure.png.
Source: S. Bertrand et al., "Learning-based SAR-Optical Registration for Navigation", Tables III to V, Figs. 8 to 14.
The paper trains anew for every degradation; here one training, under the config's, is measured under all."""

import json
import time
from itertools import product
from pathlib import Path
from typing import Any, cast

import click
import pandas as pd
import torch

from pipelines.common import PATH, Command, apart, drawing, listed, markdown, out_option, write
from pipelines.train import WEIGHTS_FILE, noted, trained
from sn9reg.many.jobs import peak_memory
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.dense.correlation import Similarity, similarity
from sn9reg.matchers.dense.networks.branches import build
from sn9reg.matchers.dense.networks.table import NETWORKS
from sn9reg.raster.degradation import DEGRADATION_CROSS, Degradation
from sn9reg.raster.folders import data_root
from sn9reg.score.benchmark import bench_patches
from sn9reg.training.config import TrainingConfig, read
from sn9reg.training.losses import LOSSES

BACKBONES = ("mcgf", "osmnet", "fft-unet", "maru-net")  # the losses of their papers have their names
BEST = (  # as `--grid` takes it
    "mcgf/pseudo/mcgf,osmnet/pseudo/cross-corr-ce,fft-unet/pseudo/mcgf,maru-net/pseudo/mcgf,"
    "osmnet/pseudo/osmnet,fft-unet/siamese/fft-unet,maru-net/siamese/maru-net"
)
ALL = ",".join(map("/".join, product(BACKBONES, ("siamese", "pseudo"), (*BACKBONES, "cross-corr-ce"))))
# The paper's section V-C.2 trains the temperature of the first two. The third has none there; but OSMNet's features are
# of unit length, and without one its loss was still 8.2 of log(65^2) = 8.35 after 350 steps here.
LOSS_OPTIONS: dict[str, dict[str, Any]] = {
    "fft-unet": {"trainable": True},
    "maru-net": {"trainable": True},
    "cross-corr-ce": {"temperature": 1 / 30, "trainable": True},
}
CENTRE = Degradation(8, 0.5)
# Condition -> degradation, and largest turn in degrees; the latter two are series.
MAIN = {"clean": (Degradation(), 0.0), "degraded": (CENTRE, 0.0)}
CROSS = {f"{d.looks:g} looks, {d.blur:g} px": (d, 0.0) for d in DEGRADATION_CROSS}
TURNS = {f"{turn} degrees": (CENTRE, float(turn)) for turn in (0, 2, 5, 10, 20)}


@click.command(cls=Command)
@click.option("--grid", default="best", show_default=True, help="best, all, or combinations with commas between them.")
@listed("--parts", ("train", "cross", "rotation", "cost"))
@click.option("--config", default="pipelines/training/hybrids.yaml", show_default=True)
@click.option("--test", type=PATH, help="Pairs not trained on [default: sen12/val of the data].")
@out_option("hybrids")
@click.option("--steps", type=click.IntRange(1), help="In place of the config's.")
@click.option("--limit", type=click.IntRange(1), help="Measure on so many pairs only, spread over the folder.")
@click.option("--series", type=click.IntRange(1), help="Pairs for the series of degradations and turns [default: all].")
def main(grid: str, parts: list[str], config: str, test: Path | None, out: Path, steps: int | None, **how: Any) -> None:
    """Train and measure the grid; write table and figure."""
    hybrids = {"best": BEST, "all": ALL}.get(grid, grid).split(",")
    known = set(product(NETWORKS, ("siamese", "pseudo"), LOSSES))
    if unknown := [name for name in hybrids if tuple(name.split("/")) not in known]:
        words = f"is not BACKBONE/siamese|pseudo/LOSS, of {', '.join(NETWORKS)} and {', '.join(LOSSES)}"
        raise click.BadParameter(f"{unknown[0]!r} {words}")
    for hybrid in hybrids:
        folder = out / hybrid.replace("/", "_")
        if "train" in parts:
            trained(configured(hybrid, config, steps), folder)
        if (folder / WEIGHTS_FILE).exists():
            measured(hybrid, folder, test or data_root() / "sen12/val", parts, **how)
            report(out)
        else:
            click.echo(f"{hybrid}: not trained yet", err=True)
    if "cost" in parts:
        write(out / "cost.md", costs := cost_table())
        click.echo(costs)
    if (out / "table.md").exists():
        click.echo((out / "table.md").read_text())


def configured(hybrid: str, config_path: str, steps: int | None) -> TrainingConfig:
    """The configuration of a combination. steps: in place of the file's."""
    backbone, branches, loss = hybrid.split("/")
    changes = {} if steps is None else {"steps": steps}
    named = {"name": loss, "options": LOSS_OPTIONS.get(loss, {})}
    # The file's options of the network stay, such as in_channels.
    return read(config_path, **{"network.name": backbone}, shared=branches == "siamese", loss=named, **changes)


def measured(hybrid: str, folder: Path, test: Path, parts: list[str], limit: int | None, series: int | None) -> None:
    """CMR under every condition asked for, kept in results.json at once; series at half the cost and as many places."""
    path = folder / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    matcher = make_matcher(hybrid.split("/")[0], weights=str(folder / WEIGHTS_FILE))
    conditions = MAIN | (CROSS if "cross" in parts else {}) | (TURNS if "rotation" in parts else {})
    for name, (degradation, turn) in conditions.items():
        if name not in results:
            sides, pairs = ((256, 192), limit) if name in MAIN else ((192, 128), series or limit)
            found = bench_patches(test, matcher, *sides, pairs, degradation=degradation, rotate=turn)
            results[name] = found.as_dict()
            write(path, json.dumps(results))


def report(out: Path) -> None:
    """results.csv, table.md and figure.png of all that has been measured."""
    rows = []
    for path in sorted(out.glob("*/results.json")):
        note = noted(path.parent)
        training = {name: note.get(name, "?") for name in ("steps", "batch", "seconds")}
        for condition, found in json.loads(path.read_text()).items():
            facts = {"hybrid": path.parent.name.replace("_", "/"), "condition": condition, "pairs": found["n"]}
            facts |= {f"cmr{radius}": rate for radius, rate in found["cmr"].items()}
            rows.append(facts | {"l2": found["mean_l2_px"]} | training)
    frame = pd.DataFrame(rows)
    write(out / "results.csv", frame.to_csv(index=False))
    series = frame.pivot(index="condition", columns="hybrid", values="cmr1")
    figure(series, out / "figure.png")
    # Training budgets, and both main conditions of every combination that was measured under both.
    budgets = sorted({f"{row.steps} steps of {row.batch} pairs" for row in frame.itertuples()})
    cells = []
    for name, found in cast(Any, frame.set_index("condition").groupby("hybrid", sort=False)):
        if set(MAIN) <= set(found.index):
            clean = "{0.cmr1:.3f} / {0.cmr3:.3f} / {0.cmr5:.3f}, {0.l2:.2f} px".format(found.loc["clean"])
            cells.append((name, clean, "{0.cmr0:.3f} / {0.cmr1:.3f} / {0.cmr2:.3f}".format(found.loc["degraded"])))
    head = ("backbone / branches / loss", "clean: CMR(1) / (3) / (5), L2", "L=8, blur 0.5: CMR(0) / (1) / (2)")
    alike = ", the same for all" if len(budgets) == 1 else ""
    text = f"Reduced budget: {' or '.join(budgets)}{alike}.\n\n{markdown(head, cells)}"
    # Over the degradation cross and over rotation, for the combinations that were measured so.
    series = series.reindex([*CROSS, *TURNS]).dropna(axis=1, how="all")
    if not series.empty:
        both = {(row.condition, row.hybrid): f"{row.cmr0:.3f} / {row.cmr1:.3f}" for row in frame.itertuples()}
        cells = [(name, *(both.get((name, hybrid), "") for hybrid in series.columns)) for name in series.index]
        text += "\n" + markdown(("CMR(0) / (1), 128 in 192 px", *series.columns), cells)
    write(out / "table.md", text)


def figure(series: pd.DataFrame, path: Path) -> None:
    panels: dict[str, list[tuple[float, str]]] = {
        "looks, blur 0.5 px": sorted((d.looks, name) for name, (d, _) in CROSS.items() if d.looks and d.blur == 0.5),
        "blur in px, 35 looks": sorted((d.blur, name) for name, (d, _) in CROSS.items() if d.looks == 35),
        "rotation up to, degrees": [(turn, name) for name, (_, turn) in TURNS.items()],
    }
    with drawing(path, 110, columns=3, sharey=True, figsize=(15, 4.5)) as (canvas, (axes,)):
        for axis, (title, points) in zip(axes, panels.items(), strict=True):
            for name, found in series.items():
                style = "--" if "siamese" in str(name) else "-"
                if known := [(x, found[condition]) for x, condition in points if pd.notna(found.get(condition))]:
                    axis.plot(*zip(*known, strict=True), style, marker="o", label=name)
            axis.set_xlabel(title)
            axis.grid(alpha=0.3)
        axes[0].set_ylabel("CMR(1)")
        canvas.legend(*axes[0].get_legend_handles_labels(), fontsize=8, ncols=3, loc="outside lower center")


def cost_table() -> str:
    """The paper's Table III on this machine: parameters, forward and similarity time, memory, at 512 / 128 px."""
    kinds: dict[str, tuple[bool, Similarity]] = {"mcgf": (False, "cc"), "osmnet": (False, "ssd")}
    kinds |= dict.fromkeys(("fft-unet", "maru-net", "slim-unet"), (True, "zncc")) | {"wide-unet": (False, "zncc")}
    cells = []
    for name, (shared, kind) in kinds.items():
        facts = (f"{value:,.0f}" for value in apart(cost, name, shared, kind).values())
        cells.append((name, "Siamese" if shared else "pseudo-Siamese", *facts))
    about = f"On {torch.get_num_threads()} threads of this CPU, float32, 512 x 512 optical, 128 x 128 SAR, median of 5."
    head = ("network", "branches", "parameters", "forward ms", "similarity ms", "peak memory MB")
    return f"{about}\n\n{markdown(head, cells)}"


def cost(name: str, shared: bool, kind: Similarity) -> dict[str, float]:
    """A row of `cost_table`. Memory is what the process holds above what it held before."""
    network = build(name, shared).eval()
    optical, sar = torch.randn(1, 1, 512, 512), torch.randn(1, 1, 128, 128)
    before, times = peak_memory(), []
    with torch.inference_mode():
        for _ in range(5):
            start = time.perf_counter()
            features = network(optical, "optical"), network(sar, "sar")
            middle = time.perf_counter()
            similarity(kind, *features)
            times.append((middle - start, time.perf_counter() - middle))
    forward, matching = (sorted(column)[2] * 1e3 for column in zip(*times, strict=True))
    facts = {"parameters": sum(p.numel() for p in network.parameters()), "forward": forward, "similarity": matching}
    return facts | {"memory": (peak_memory() - before) * 1024}


if __name__ == "__main__":
    main()
