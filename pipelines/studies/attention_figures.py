"""What the attention study writes: its numbers, a table and a picture, like the paper's table 3 and figure 5."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from sn9reg.raster.files import atomic_output

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_PANELS = {"ncm": "NCM", "f_measure": "F-measure", "rmse": "RMSE, px"}


def report(rows: list[dict[str, Any]], out: Path, about: str, drawn: Sequence[str]) -> None:
    """results.json, table.md and figure.png, which shows the descriptors `drawn`. Raises OutputError where they cannot
    be written."""
    rows = for_json(rows)
    with atomic_output(out / "results.json", overwrite=True) as path:
        path.write_text(json.dumps({"about": about, "rows": rows}, allow_nan=False))
    with atomic_output(out / "table.md", overwrite=True) as path:
        path.write_text(table(rows, about))
    with atomic_output(out / "figure.png", overwrite=True) as path:
        draw(path, [row for row in rows if row["descriptor"] in drawn])


def for_json(value: Any) -> Any:
    """With lists in place of arrays, and nothing (null) in place of NaN."""
    if isinstance(value, dict):
        return {key: for_json(one) for key, one in value.items()}
    if isinstance(value, list | np.ndarray):
        return [for_json(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def table(rows: list[dict[str, Any]], about: str) -> str:
    """Markdown, a line for each descriptor and protocol."""
    lines = [
        f"{about} Correct is a match less than 3 px from its true place; means over pairs and seeds, ± over seeds.",
        "",
        "| descriptor | partners | keypoints | before RANSAC (correct) | matches | NCM | precision | recall "
        "| F-measure | RMSE, px | pairs with 6 (6 correct) | s a pair |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        mean, std = row["mean"], row["std"]
        cells = [
            row["descriptor"],
            row["protocol"],
            f"{mean['keypoints']:.0f}",
            f"{mean['putative']:.1f} ({mean['putative_ncm']:.1f})",
            f"{mean['matches']:.1f}",
            f"{mean['ncm']:.1f} ± {std['ncm']:.1f}",
            f"{mean['precision']:.3f}",
            f"{mean['recall']:.3f}",
            f"{mean['f_measure']:.4f} ± {std['f_measure']:.4f}",
            "none" if mean["rmse"] is None else f"{mean['rmse']:.2f}",
            f"{mean['enough']:.2f} ({mean['enough_ncm']:.2f})",
            f"{row['seconds']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """NCM, F-measure and RMSE of every pair, means over the seeds, a line for each descriptor; panels by protocol."""
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    height = 3.6 * len(protocols) + 0.4
    figure, axes = plt.subplots(len(protocols), 3, figsize=(15, height), layout="constrained", squeeze=False)
    for row in rows:
        for axis, (measure, label) in zip(axes[protocols.index(row["protocol"])], _PANELS.items(), strict=True):
            values = [_mean(pair["trials"][measure]) for pair in row["pairs"]]
            axis.plot(np.arange(1, len(values) + 1), values, marker=".", linewidth=1, label=row["descriptor"])
            axis.set_title(f"partners {row['protocol']}", fontsize=10)
            axis.set_xlabel("pair")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(labels), loc="outside lower center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")
