"""Detectors against dense matchers, over a folder of scenes: `sn9reg compare` on each, and the means.

    python -m pipelines.compare_backends SCENES [--matchers hybrid,keypoints,...] [--out work/compare_backends]

SCENES holds scenes in SpaceNet 9's layout, at any depth. Writes OUT/SCENE/compare.html and its like, scenes.csv (a row
per scene and matcher), matchers.csv (a row per matcher), and prints the latter as Markdown. A matcher's score is that
of its mean error over the scenes, as the leaderboard takes it: a pair that it refused counts with zeros, as it would
have to be submitted; one on which it failed leaves it without a score. A stopped run goes on where it was.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pandas as pd

from sn9reg.errors import Sn9regError
from sn9reg.many.compare import compare, installed
from sn9reg.many.jobs import FAILED, REGISTERED, Job
from sn9reg.raster.scene import PairFiles
from sn9reg.training.tiles import scene_files

_MARKDOWN = {
    "matcher": "matcher", "scenes": "scenes", "registered": "registered", "error_px": "mean error, px",
    "score": "score", "seconds": "seconds a scene", "memory_gib": "peak, GiB",
}  # fmt: skip


def means(table: pd.DataFrame) -> pd.DataFrame:
    """A row per matcher, best first, of a table with one per scene and matcher."""
    rows: list[dict[str, Any]] = []
    for name, part in table.groupby("matcher_name", sort=False):
        mean = float(part["error_px"].mean(skipna=False)) if (part["status"] != FAILED).all() else float("nan")
        rows.append(
            {
                "matcher": name,
                "scenes": len(part),
                "registered": int((part["status"] == REGISTERED).sum()),
                "failed": int((part["status"] == FAILED).sum()),
                "error_px": mean,
                "score": 100 / (1 + 0.01 * mean),
                "seconds": float(part["seconds"].mean()),
                "memory_gib": float(part["memory_gib"].max()),
            }
        )
    return pd.DataFrame(rows).sort_values("score", ascending=False, na_position="last", kind="stable")


def markdown(table: pd.DataFrame) -> str:
    """The table of the matchers for a README."""
    lines = ["| " + " | ".join(_MARKDOWN.values()) + " |", "|---" * len(_MARKDOWN) + "|"]
    for row in table.to_dict("records"):
        cells = [row[name] for name in _MARKDOWN]
        shown = ("none" if c != c else f"{c:.2f}" if isinstance(c, float) else str(c) for c in cells)
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


@click.command()
@click.argument("scenes", type=click.Path(path_type=Path))
@click.option("--matchers", help="Which, with commas between them [default: all that are installed].")
@click.option("--out", type=click.Path(path_type=Path), default=Path("work/compare_backends"), show_default=True)
def main(scenes: Path, matchers: str | None, out: Path) -> None:
    """Compare, write, print."""
    names = matchers.split(",") if matchers else installed()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    try:
        for scene in scene_files(scenes):
            own = scene.optical.parent.relative_to(scenes)
            folder = out / "-".join([*own.parts, scene.name])
            job = Job("", str(folder), PairFiles(scene.optical, scene.sar), scene.tiepoints, sigma=True)
            for result in compare(job, names):
                rows.append({"scene": folder.name, "matcher_name": result.name, **asdict(result)})
                click.echo(f"{folder.name}: {result.name}, {result.status}", err=True)
    except Sn9regError as error:
        raise click.ClickException(str(error)) from error
    table = pd.DataFrame(rows).drop(columns=["name", "matcher"])
    table.to_csv(out / "scenes.csv", index=False, float_format="%.4f")
    found = means(table)
    found.to_csv(out / "matchers.csv", index=False, float_format="%.4f")
    click.echo(markdown(found))


if __name__ == "__main__":
    main()
