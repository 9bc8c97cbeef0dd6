"""What the attention study writes: its numbers, a table and a picture, like the paper's table 3 and figure 5."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.common import drawing, markdown, write
from sn9reg.fit.correspondences import Floats

_PANELS = {"ncm": "NCM", "f_measure": "F-measure", "rmse": "RMSE, px"}
_COLUMNS = {
    "descriptor": "{descriptor}",
    "partners": "{protocol}",
    "keypoints": "{mean[keypoints]:.0f}",
    "before RANSAC (correct)": "{mean[putative]:.1f} ({mean[putative_ncm]:.1f})",
    "matches": "{mean[matches]:.1f}",
    "NCM": "{mean[ncm]:.1f} ± {std[ncm]:.1f}",
    "precision": "{mean[precision]:.3f}",
    "recall": "{mean[recall]:.3f}",
    "F-measure": "{mean[f_measure]:.4f} ± {std[f_measure]:.4f}",
    "RMSE, px": "{mean[rmse]:.2f}",
    "pairs with 6 (6 correct)": "{mean[enough]:.2f} ({mean[enough_ncm]:.2f})",
    "s a pair": "{seconds:.2f}",
}


def known_mean(values: Floats) -> Floats:
    """Mean over the first axis of what is not NaN; NaN where all is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def report(rows: list[dict[str, Any]], out: Path, about: str, drawn: Sequence[str]) -> None:
    """results.json, table.md and figure.png, which shows the descriptors `drawn`. OutputError if it cannot write."""
    write(out / "results.json", json.dumps({"about": about, "rows": for_json(rows)}, allow_nan=False))
    write(out / "table.md", table(rows, about))
    draw(out / "figure.png", [row for row in rows if row["descriptor"] in drawn])


def for_json(value: Any) -> Any:
    """With lists in place of arrays, and nothing (null) in place of NaN."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()), parse_constant=lambda _: None)


def table(rows: list[dict[str, Any]], about: str) -> str:
    """Markdown, a line for each descriptor and protocol."""
    cells = [[form.format(**row).replace("nan", "none") for form in _COLUMNS.values()] for row in rows]
    correct = "Correct is a match less than 3 px from its true place; means over pairs and seeds, ± over seeds."
    return f"{about} {correct}\n\n{markdown(list(_COLUMNS), cells)}"


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """NCM, F-measure and RMSE of every pair, means over the seeds, a line for each descriptor; panels by protocol."""
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    size = (15, 3.6 * len(protocols) + 0.4)
    with drawing(path, 110, len(protocols), len(_PANELS), figsize=size) as (figure, axes):
        for row in rows:
            for axis, (measure, label) in zip(axes[protocols.index(row["protocol"])], _PANELS.items(), strict=True):
                values = [known_mean(pair["trials"][measure]) for pair in row["pairs"]]
                axis.plot(np.arange(1, len(values) + 1), values, marker=".", linewidth=1, label=row["descriptor"])
                axis.set_title(f"partners {row['protocol']}", fontsize=10)
                axis.set(xlabel="pair", ylabel=label)
                axis.xaxis.get_major_locator().set_params(integer=True)
                axis.grid(alpha=0.3)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, ncols=len(labels), loc="outside lower center")
