"""The two scripts over folders of scenes: submissions as the leaderboard takes them, and matchers compared."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, textures, write_raster

from pipelines import compare_backends, score_tiepoints
from sn9reg.many.jobs import FAILED, REFUSED, REGISTERED, Result
from sn9reg.offsets import OffsetMap
from sn9reg.raster.grid import Grid

GRID = Grid(TEXTURE_TRANSFORM, 320, 280, UTM)
HEAD = "sar_row,sar_col,optical_row,optical_col\n"


def submit(path, dx=SHIFT[0], dy=SHIFT[1]):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    values = np.array([dx, dy], np.float32)[:, None, None]
    OffsetMap(GRID, lambda w: np.broadcast_to(values, (2, *w.shape))).write(path)


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """Two scenes whose true offset is SHIFT everywhere."""
    monkeypatch.chdir(tmp_path)
    optical, sar = textures()
    for area in ("02", "03"):
        folder = Path("scenes", area)
        folder.mkdir(parents=True)
        write_raster(folder / f"{area}_optical_train_01.tif", optical[None], TEXTURE_TRANSFORM, UTM)
        write_raster(folder / f"{area}_sar_train_01.tif", sar[None], TEXTURE_TRANSFORM, UTM)
        rows = "".join(f"{y + SHIFT[1]},{x + SHIFT[0]},{y},{x}\n" for x, y in ((50, 60), (100, 80), (200, 150)))
        (folder / f"{area}_tiepoints_train_01.csv").write_text(HEAD + rows)
    return tmp_path


def run(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_submissions_are_ranked_by_the_mean_over_scenes(scenes):
    for name, (first, second) in {"good": (0, 0), "fair": (3, 0), "poor": (0, 50)}.items():
        submit(f"entries/{name}/02_train_01.tif", SHIFT[0] + first)
        submit(f"entries/{name}/03_offsets_train_01.tif", SHIFT[0] + second)
    submit("entries/half/02_train_01.tif")
    submit("entries/nan/02_train_01.tif", np.nan)
    submit("entries/nan/03_train_01.tif")
    result = run(score_tiepoints.main, "scenes", "entries", "--out", "out")
    assert result.exit_code == 0, result.output
    board = pd.read_csv("out/leaderboard.csv", keep_default_na=False, na_values={"mean_px": "", "score": ""})
    assert list(board["submission"][:3]) == ["good", "fair", "poor"]
    np.testing.assert_allclose(board["mean_px"][:3], [0, 1.5, 25])
    np.testing.assert_allclose(board["score"][:3], [100, 100 / 1.015, 80], atol=1e-3)
    reasons = dict(zip(board["submission"], board["reason"], strict=True))
    assert "holds no offset map of scene 03_train_01" in reasons["half"]
    assert "NaN" in reasons["nan"]
    assert board["score"][3:].isna().all()
    table = pd.read_csv("out/scores.csv")
    assert len(table) == 10
    assert table.set_index(["submission", "scene"]).loc[("poor", "03_train_01"), "sn9_mean_px"] == 50
    assert Path("out/errors.png").stat().st_size > 5000


def test_one_folder_of_maps_is_one_submission(scenes):
    for area in ("02", "03"):
        submit(f"mine/{area}_train_01.tif")
    assert run(score_tiepoints.main, "scenes", "mine", "--out", "out").exit_code == 0
    assert list(pd.read_csv("out/leaderboard.csv")["submission"]) == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "entries"], "none: no such folder"),
        (["scenes", "none"], "none: no such folder"),
        (["scenes", "scenes/02/empty"], "holds no offset map"),
    ],
)
def test_folders_that_hold_nothing(scenes, arguments, message):
    Path("scenes/02/empty").mkdir()
    submit("entries/02_train_01.tif")
    result = run(score_tiepoints.main, *arguments, "--out", "out")
    assert result.exit_code == 1
    assert message in result.output


def test_two_maps_of_one_scene_are_one_too_many(scenes):
    submit("mine/02_train_01.tif")
    submit("mine/02_again_train_01.tif")
    submit("mine/03_train_01.tif")
    run(score_tiepoints.main, "scenes", "mine", "--out", "out")
    assert "holds 2 offset maps" in pd.read_csv("out/leaderboard.csv")["reason"][0]


def test_matchers_are_compared_over_scenes(scenes, monkeypatch):
    def compared(job, pair, names):
        assert Path(pair.optical).exists()
        wide = "02" in job.optical
        yield Result("dense", REGISTERED, "so", error_px=2.0 if wide else 4.0, seconds=3.0, memory_gib=1.0 + wide)
        yield Result("shy", REFUSED, "no", error_px=90.0, seconds=1.0, memory_gib=0.5)
        if wide:
            yield Result("broken", FAILED, "why", seconds=0.1)
        else:
            yield Result("broken", REGISTERED, "so", error_px=1.0, seconds=0.1, memory_gib=0.1)

    monkeypatch.setattr(compare_backends, "compare", compared)
    result = run(compare_backends.main, "scenes", "--matchers", "dense,shy,broken", "--out", "out")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[-3] == "| dense | 2 | 2 | 3.00 | 97.09 | 3.00 | 2.00 |"
    assert lines[-2] == "| shy | 2 | 0 | 90.00 | 52.63 | 1.00 | 0.50 |"
    assert lines[-1] == "| broken | 2 | 1 | none | none | 0.10 | 0.10 |"
    assert len(pd.read_csv("out/scenes.csv")) == 6
    assert list(pd.read_csv("out/matchers.csv")["failed"]) == [0, 0, 1]


def test_no_scenes_are_no_comparison(scenes):
    Path("empty").mkdir()
    result = run(compare_backends.main, "empty", "--matchers", "structure", "--out", "out")
    assert result.exit_code == 1
    assert "holds no scene" in result.output
