"""Score submissions as SpaceNet 9's leaderboard does: the mean over the scenes, then the score.

    python -m pipelines.score_tiepoints SCENES SUBMISSIONS [--out work/score_tiepoints]

SCENES holds scenes in SpaceNet 9's layout, at any depth. SUBMISSIONS holds one offset map per scene, NN_SPLIT_MM.tif or
NN_anything_SPLIT_MM.tif, or a folder of these for each submission. Writes scores.csv (a row per submission and scene),
leaderboard.csv (a row per submission) and errors.png (share of the tie-points within a distance). A submission that
lacks a scene, or holds a NaN at a tie-point, has no place on the leaderboard; its row says why.
"""

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
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if any(folder.glob("*.tif")):
        return {folder.name: folder}
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and any(path.glob("*.tif"))}
    if not found:
        raise InputError(f"{folder}: holds no offset map (.tif), nor a folder with one")
    return found


def scored(scene: SceneFiles, folder: Path) -> Score:
    """One scene of a submission. Raises InputError where it has no offset map of it, or more than one."""
    area, _, rest = scene.name.partition("_")
    found = sorted({*folder.glob(f"{scene.name}.tif"), *folder.glob(f"{area}_*_{rest}.tif")})
    if len(found) != 1:
        what = "no offset map" if not found else f"{len(found)} offset maps"
        raise InputError(f"{folder}: holds {what} of scene {scene.name}; it is named {scene.name}.tif")
    optical, sar = PairFiles(scene.optical, scene.sar).grids()
    with open_offsets(found[0], optical) as offsets:
        return score(offsets, optical, sar, read_tiepoints(scene.tiepoints, optical, sar))


def leaderboard(table: pd.DataFrame) -> pd.DataFrame:
    """A row per submission, best first: its mean error over the scenes and the score of that, or why there is none."""
    failed = table["reason"] != ""
    reasons = (table["scene"] + ": " + table["reason"])[failed].groupby(table["submission"]).agg("; ".join)
    result = ranked(table.assign(mean_px=table["sn9_mean_px"].astype(float).mask(failed)), "submission", "mean_px")
    return result.assign(reason=reasons.reindex(result["submission"], fill_value="").to_numpy())


def ranked(table: pd.DataFrame, name: str, error: str, **more: Any) -> pd.DataFrame:
    """A row per `name` of a table with one per scene, best first: its mean error, the score of that, and `more` to be
    aggregated. One that lacks an error has no score, and comes last."""
    grouped = table.groupby(name, sort=False)
    result = grouped.agg(scenes=(error, "size"), **more, **{error: (error, lambda errors: errors.mean(skipna=False))})
    result["score"] = 100 / (1 + 0.01 * result[error])
    return result.sort_values("score", ascending=False, na_position="last", kind="stable").reset_index()


def draw(errors: dict[str, list[Floats]], path: Path) -> None:
    """Share of all tie-points within a distance, per submission."""
    with drawing(path, 130, figsize=(7, 4.5)) as (_, [[axes]]):
        for name, parts in errors.items():
            length = np.sort(np.concatenate(parts)) if parts else np.zeros(0)
            axes.step(length, np.arange(1, len(length) + 1) / max(1, len(length)), where="post", label=name)
        axes.set(xscale="symlog", xlabel="error, optical px", ylabel="share of the tie-points within", ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend()


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
            length = result.per_point()["error_px"].to_numpy()
            errors[name].append(length[np.isfinite(length)])
        except Sn9regError as error:
            row["reason"] = str(error)
        rows.append(row)
    table = pd.DataFrame(rows, columns=["submission", "scene", *_COLUMNS, "reason"])
    write_csv(out / "scores.csv", table)
    board = leaderboard(table)
    write_csv(out / "leaderboard.csv", board)
    draw(errors, out / "errors.png")
    click.echo(board.to_string(index=False, float_format="%.2f", na_rep="none"))


if __name__ == "__main__":
    main()
