"""Score submissions as SpaceNet 9's leaderboard does: the mean over the scenes, then the score. SCENES holds scenes in
SpaceNet 9's layout, at any depth. SUBMISSIONS holds one offset map per scene, NN_SPLIT_MM.tif or
NN_anything_SPLIT_MM.tif, or a folder of these for each submission. Writes scores.csv, leaderboard.csv and errors.png
(share of tie-points within a distance). Without a scene, or with a NaN at a tie-point, none is ranked."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from pipelines.common import PATH, Command, drawing, out_option
from sn9reg.errors import InputError, Sn9regError
from sn9reg.fit.correspondences import Floats
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import make_folder, write_csv
from sn9reg.raster.scene import PairFiles
from sn9reg.score.scoring import Score, score
from sn9reg.tiepoints import read_tiepoints
from sn9reg.training.tiles import SceneFiles, scene_files

_COLUMNS = ("sn9_mean_px", "sn9_score", "mean_px", "median_px", "rmse_px", "ce90_px", "mean_m", "n")


def submissions(folder: Path) -> dict[str, Path]:
    """Name -> folder of its offset maps. Raises InputError where there is none."""
    found = [folder] if any(folder.glob("*.tif")) else sorted({path.parent for path in folder.glob("*/*.tif")})
    if not found:
        raise InputError(f"{folder}: holds no offset map (.tif), nor a folder with one")
    return {path.name: path for path in found}


def scored(scene: SceneFiles, folder: Path) -> Score:
    """One scene of a submission. Raises InputError where it has no offset map of it, or more than one."""
    area, _, rest = scene.name.partition("_")
    found = [*{*folder.glob(f"{scene.name}.tif"), *folder.glob(f"{area}_*_{rest}.tif")}]
    if len(found) != 1:
        what = "no offset map" if not found else f"{len(found)} offset maps"
        raise InputError(f"{folder}: holds {what} of scene {scene.name}; it is named {scene.name}.tif")
    return score_file(found[0], scene.optical, scene.sar, scene.tiepoints)


def score_file(path: Path, optical: Path, sar: Path, tiepoints: Path) -> Score:
    """The score of an offset map. Raises InputError for files that cannot be used."""
    grids = PairFiles(optical, sar).grids()
    with open_offsets(path, grids[0]) as offsets:
        return score(offsets, *grids, read_tiepoints(tiepoints, *grids))


def ranked(table: pd.DataFrame, name: str, error: str, **more: Any) -> pd.DataFrame:
    """A row per `name`, best first: mean error over its scenes and the score, none where one is lacking, and `more`."""
    grouped = table.groupby(name, sort=False)
    result = grouped.agg(scenes=(error, "size"), **more, **{error: (error, lambda errors: errors.mean(skipna=False))})
    result["score"] = 100 / (1 + 0.01 * result[error])
    return result.sort_values("score", ascending=False, na_position="last", kind="stable").reset_index()


@click.command(cls=Command)
@click.argument("scenes", type=PATH)
@click.argument("folder", metavar="SUBMISSIONS", type=PATH)
@out_option("score_tiepoints")
def main(scenes: Path, folder: Path, out: Path) -> None:
    """Score, write, print the leaderboard."""
    found, entries = scene_files(scenes), submissions(folder)
    make_folder(out)
    rows: list[dict[str, Any]] = []
    errors: dict[str, list[Floats]] = {name: [] for name in entries}
    for (name, entry), scene in product(entries.items(), found):
        row: dict[str, Any] = {"submission": name, "scene": scene.name, "reason": ""}
        try:
            result = scored(scene, entry)
            row |= {column: getattr(result, column) for column in _COLUMNS}
            if not math.isfinite(result.sn9_mean_px):
                row["reason"] = "holds no value (NaN) at a tie-point"
            length = result.per_point["error_px"].to_numpy()
            errors[name].append(length[np.isfinite(length)])
        except Sn9regError as error:
            row["reason"] = str(error)
        rows.append(row)
    table = pd.DataFrame(rows, columns=["submission", "scene", *_COLUMNS, "reason"])
    write_csv(out / "scores.csv", table)
    failed = table["reason"] != ""
    reasons = (table["scene"] + ": " + table["reason"])[failed].groupby(table["submission"]).agg("; ".join)
    board = ranked(table.assign(mean_px=table["sn9_mean_px"].astype(float).mask(failed)), "submission", "mean_px")
    board["reason"] = reasons.reindex(board["submission"], fill_value="").to_numpy()
    write_csv(out / "leaderboard.csv", board)
    with drawing(out / "errors.png", 130, figsize=(7, 4.5)) as (_, [[axes]]):
        for name, parts in errors.items():
            if len(length := np.concatenate([np.zeros(0), *parts])):
                axes.ecdf(length, label=name)
        axes.set(xscale="symlog", xlabel="error, optical px", ylabel="share of the tie-points within", ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend()
    click.echo(board.to_string(index=False, float_format="%.2f", na_rep="none"))


if __name__ == "__main__":
    main()
