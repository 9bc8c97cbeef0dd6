"""pipelines.score_tiepoints and compare_backends: submissions as the leaderboard ranks them, and matchers compared."""

from dataclasses import replace
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


def submit(path, dx=0, dy=0):
    """An offset map that is (dx, dy) off the truth."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    values = np.array([SHIFT[0] + dx, SHIFT[1] + dy], np.float32)[:, None, None]
    OffsetMap(GRID, lambda w: np.broadcast_to(values, (2, *w.shape))).write(path)


@pytest.fixture(autouse=True)
def _scenes(tmp_path, monkeypatch):
    """Two scenes whose true offset is SHIFT everywhere."""
    monkeypatch.chdir(tmp_path)
    for area in ("02", "03"):
        folder = Path("scenes", area)
        folder.mkdir(parents=True)
        for kind, values in zip(("optical", "sar"), textures(), strict=True):
            write_raster(folder / f"{area}_{kind}_train_01.tif", values[None], TEXTURE_TRANSFORM, UTM)
        rows = "".join(f"{y + SHIFT[1]},{x + SHIFT[0]},{y},{x}\n" for x, y in ((50, 60), (100, 80), (200, 150)))
        (folder / f"{area}_tiepoints_train_01.csv").write_text(f"sar_row,sar_col,optical_row,optical_col\n{rows}")
    Path("empty").mkdir()


def run(command, *arguments):
    return CliRunner().invoke(command, [*arguments, "--out", "out"])


def test_submissions_are_ranked_by_the_mean_over_scenes():
    for name, (first, second) in {"good": (0, 0), "fair": (3, 0), "poor": (0, 50)}.items():
        submit(f"entries/{name}/02_train_01.tif", dx=first)
        submit(f"entries/{name}/03_offsets_train_01.tif", dx=second)
    submit("entries/half/02_train_01.tif")
    submit("entries/nan/02_train_01.tif", np.nan)
    submit("entries/nan/03_train_01.tif")
    for name in ("02_train_01", "02_again_train_01", "03_train_01"):
        submit(f"entries/twice/{name}.tif")
    result = run(score_tiepoints.main, "scenes", "entries")
    assert result.exit_code == 0, result.output
    board = pd.read_csv("out/leaderboard.csv", keep_default_na=False, na_values={"mean_px": "", "score": ""})
    assert list(board["submission"][:3]) == ["good", "fair", "poor"]
    np.testing.assert_allclose(board["mean_px"][:3], [0, 1.5, 25])
    np.testing.assert_allclose(board["score"][:3], [100, 100 / 1.015, 80], atol=1e-3)
    reasons = dict(zip(board["submission"], board["reason"], strict=True))
    words = {"half": "holds no offset map of scene 03_train_01", "nan": "NaN", "twice": "holds 2 offset maps"}
    assert all(text in reasons[name] for name, text in words.items())
    assert board["score"][3:].isna().all()
    table = pd.read_csv("out/scores.csv")
    assert len(table) == 12
    assert table.set_index(["submission", "scene"]).loc[("poor", "03_train_01"), "sn9_mean_px"] == 50
    assert Path("out/errors.png").stat().st_size > 5000
    assert run(score_tiepoints.main, "scenes", "entries/good").exit_code == 0
    assert list(pd.read_csv("out/leaderboard.csv")["submission"]) == ["good"]
    for entries in ("none", "empty"):
        result = run(score_tiepoints.main, "scenes", entries)
        assert (result.exit_code, f"{entries}: holds no offset map" in result.stderr) == (1, True)


def test_matchers_are_compared_over_scenes(monkeypatch):
    def compared(job, names, left_out):
        assert Path(job.files.optical).exists()
        assert (names, left_out) == (["dense", "shy", "broken"], [])
        wide = "02" in str(job.files.optical)
        yield Result("dense", REGISTERED, "so", error_px=2.0 if wide else 4.0, seconds=3.0, memory_gib=1.0 + wide)
        yield Result("shy", REFUSED, "no", error_px=90.0, seconds=1.0, memory_gib=0.5)
        broken = Result("broken", FAILED, "why", seconds=0.1, memory_gib=0.1)
        yield broken if wide else replace(broken, status=REGISTERED, error_px=1.0)

    monkeypatch.setattr(compare_backends, "compare", compared)
    result = run(compare_backends.main, "scenes", "--matchers", "dense,shy,broken")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-3:] == [
        "| dense | 2 | 2 | 3.00 | 97.09 | 3.00 | 2.00 |",
        "| shy | 2 | 0 | 90.00 | 52.63 | 1.00 | 0.50 |",
        "| broken | 2 | 1 | none | none | 0.10 | 0.10 |",
    ]
    assert len(pd.read_csv("out/scenes.csv")) == 6
    assert list(pd.read_csv("out/matchers.csv")["failed"]) == [0, 0, 1]
