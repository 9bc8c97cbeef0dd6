"""Detectors against dense matchers, over a folder of scenes: `sn9reg compare` on each, and the means. SCENES holds
scenes in SpaceNet 9's layout, at any depth. Writes OUT/SCENE/compare.html and its like, scenes.csv (a row per scene and
matcher) and matchers.csv (a row per matcher). A matcher's score is that of its mean error over scenes: a pair that it
refused counts with zeros; one on which it failed leaves it without a score. A stopped run goes on."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pandas as pd

from pipelines.common import PATH, Command, markdown, out_option
from pipelines.score_tiepoints import ranked
from sn9reg.many.compare import compare, installed, said_of
from sn9reg.many.jobs import FAILED, REGISTERED, Job
from sn9reg.raster.files import make_folder, write_csv
from sn9reg.raster.scene import PairFiles
from sn9reg.training.tiles import scene_files


@click.command(cls=Command)
@click.argument("scenes", type=PATH)
@click.option("--matchers", help="Which, with commas between them [default: all that have weights].")
@out_option("compare_backends")
def main(scenes: Path, matchers: str | None, out: Path) -> None:
    """Compare, write, print."""
    names, left_out = (matchers.split(","), []) if matchers else installed()
    if left_out:
        click.echo(said_of(left_out), err=True)
    make_folder(out)
    rows: list[dict[str, Any]] = []
    for scene in scene_files(scenes):
        folder = out / "-".join([*scene.optical.parent.relative_to(scenes).parts, scene.name])
        job = Job("", str(folder), PairFiles(scene.optical, scene.sar), scene.tiepoints, sigma=True)
        for result in compare(job, names, left_out=left_out):
            rows.append({"scene": folder.name, **asdict(result), "matcher": result.name})
            click.echo(f"{folder.name}: {result.name}, {result.status}", err=True)
    table = pd.DataFrame(rows).drop(columns="name")
    write_csv(out / "scenes.csv", table)
    registered, failed = (table["status"] == status for status in (REGISTERED, FAILED))
    marked = table.assign(registered=registered, failed=failed, error_px=table["error_px"].mask(failed))
    sums = {"registered": "sum", "failed": "sum", "seconds": "mean", "memory_gib": "max"}
    found = ranked(marked, "matcher", "error_px", **{name: (name, of) for name, of in sums.items()})
    write_csv(out / "matchers.csv", found)
    columns = ["matcher", "scenes", "registered", "error_px", "score", "seconds", "memory_gib"]
    head = ("matcher", "scenes", "registered", "mean error, px", "score", "seconds a scene", "peak, GiB")
    cells = ([f"{v:.2f}" if isinstance(v, float) else str(v) for v in row] for row in found[columns].to_numpy())
    click.echo(markdown(head, cells).replace(" nan ", " none "), nl=False)


if __name__ == "__main__":
    main()
