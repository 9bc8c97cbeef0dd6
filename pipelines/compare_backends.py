"""Detectors against dense matchers, over a folder of scenes: `sn9reg compare` on each, and the means.

    python -m pipelines.compare_backends SCENES [--matchers hybrid,keypoints,...] [--out work/compare_backends]

SCENES holds scenes in SpaceNet 9's layout, at any depth. Writes OUT/SCENE/compare.html and its like, scenes.csv (a row
per scene and matcher), matchers.csv (a row per matcher), and prints the latter as Markdown. A matcher's score is that
of its mean error over the scenes, as the leaderboard takes it: a pair that it refused counts with zeros, as it would
have to be submitted; one on which it failed leaves it without a score. A stopped run goes on where it was.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pandas as pd

from pipelines.common import PATH, Command, markdown, out_option
from pipelines.score_tiepoints import ranked
from sn9reg.many.compare import compare, installed
from sn9reg.many.jobs import FAILED, REGISTERED, Job
from sn9reg.raster.files import make_folder, write_csv
from sn9reg.raster.scene import PairFiles
from sn9reg.training.tiles import scene_files


def means(table: pd.DataFrame) -> pd.DataFrame:
    """A row per matcher, best first, of a table with one per scene and matcher."""
    registered, failed = (table["status"] == status for status in (REGISTERED, FAILED))
    marked = table.assign(registered=registered, failed=failed, error_px=table["error_px"].mask(failed))
    sums = {name: (name, "sum") for name in ("registered", "failed")}
    return ranked(marked, "matcher", "error_px", **sums, seconds=("seconds", "mean"), memory_gib=("memory_gib", "max"))


@click.command(cls=Command)
@click.argument("scenes", type=PATH)
@click.option("--matchers", help="Which, with commas between them [default: all that are installed].")
@out_option("compare_backends")
def main(scenes: Path, matchers: str | None, out: Path) -> None:
    """Compare, write, print."""
    names = matchers.split(",") if matchers else installed()
    make_folder(out)
    rows: list[dict[str, Any]] = []
    for scene in scene_files(scenes):
        folder = out / "-".join([*scene.optical.parent.relative_to(scenes).parts, scene.name])
        job = Job("", str(folder), PairFiles(scene.optical, scene.sar), scene.tiepoints, sigma=True)
        for result in compare(job, names):
            rows.append({"scene": folder.name, **asdict(result), "matcher": result.name})
            click.echo(f"{folder.name}: {result.name}, {result.status}", err=True)
    table = pd.DataFrame(rows).drop(columns="name")
    write_csv(out / "scenes.csv", table)
    found = means(table)
    write_csv(out / "matchers.csv", found)
    columns = ("matcher", "scenes", "registered", "error_px", "score", "seconds", "memory_gib")
    shown = found[list(columns)].itertuples(index=False)
    cells = [[f"{value:.2f}" if isinstance(value, float) else str(value) for value in row] for row in shown]
    head = ("matcher", "scenes", "registered", "mean error, px", "score", "seconds a scene", "peak, GiB")
    click.echo(markdown(head, cells).replace(" nan ", " none "), nl=False)


if __name__ == "__main__":
    main()
