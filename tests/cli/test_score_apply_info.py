"""`sn9reg score`, `apply` and `info` from the outside: what they print, refuse and leave behind."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner
from rasterio.crs import CRS
from support.rasters import UTM, write_raster

import sn9reg
from sn9reg.cli import main
from sn9reg.cli.info import info
from sn9reg.offsets import OffsetMap
from sn9reg.raster.grid import Grid
from sn9reg.raster.scene import PairFiles

OPTICAL = Grid(Affine(0.5, 0, 435000, 0, -0.5, 4181000), 60, 40, UTM)
FRAME = Grid.pixel_frame(60, 40)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write_image(path, grid, seed=0):
    array = np.random.default_rng(seed).integers(1, 255, (1, *grid.shape)).astype(np.uint8)
    write_raster(path, array, grid.transform if grid.crs else None, grid.crs)


def write_offsets(path, dx=4.0, dy=-2.0, grid=OPTICAL, hole=None, **facts):
    def read(window):
        block = np.stack([np.full(window.shape, v, np.float32) for v in (dx, dy)])
        if hole:
            block[:, hole[1], hole[0]] = np.nan
        return block

    OffsetMap(grid, read, facts=facts).write(path)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a pair, offsets of (4, -2) px, and tie-points that say the same."""
    monkeypatch.chdir(tmp_path)
    write_image("optical.tif", OPTICAL)
    write_image("sar.tif", OPTICAL, seed=1)
    write_image("frame.tif", FRAME)
    write_offsets("offsets.tif", registered="yes", matcher="test")
    points = pd.DataFrame({"optical_row": [10, 20, 30], "optical_col": [10, 20, 30]})
    points = points.assign(sar_row=points.optical_row - 2, sar_col=points.optical_col + 4)
    points.to_csv("t.csv", index=False)
    return tmp_path


def run(*args):
    return CliRunner().invoke(main, args)


def refused(*args, code=1, said=""):
    """One line on stderr that says what, the exit code, and nothing on stdout."""
    before = {p.name for p in Path().iterdir()}
    result = run(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("sn9reg: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert {p.name for p in Path().iterdir()} == before


def test_score_as_a_table(files):
    result = run("score", "offsets.tif", "optical.tif", "sar.tif", "t.csv")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["3", "tie-points", "registered", "unregistered"]
    assert lines[1].split() == ["SpaceNet", "9", "score", "100.00", "95.72"]
    assert len({len(line) for line in lines}) == 1
    assert "CE90, m" in result.stdout


def test_score_as_json_and_per_point(files):
    args = ("score", "offsets.tif", "optical.tif", "sar.tif", "t.csv", "--json", "--per-point", "points.csv")
    values = json.loads(run(*args).stdout)
    assert values["sn9_score"] == 100
    assert values["mean_px"] == pytest.approx(0)
    assert values["without_registration"]["mean_m"] == pytest.approx(np.hypot(4, 2) / 2)
    assert len(pd.read_csv("points.csv")) == 3
    refused(*args, said="--overwrite")
    assert run(*args, "--overwrite").exit_code == 0


def test_score_in_the_pixel_frame(files):
    write_offsets("pixels.tif", grid=FRAME, frame="pixel")
    refused("score", "offsets.tif", "frame.tif", "sar.tif", "t.csv", said="--pixel-frame")
    refused("score", "pixels.tif", "optical.tif", "sar.tif", "t.csv", code=2, said="--pixel-frame")
    result = run("score", "pixels.tif", "frame.tif", "frame.tif", "t.csv", "--pixel-frame", "--json")
    values = json.loads(result.stdout)
    assert values["rmse_px"] == 0
    assert values["rmse_m"] is None
    write_offsets("map.tif", frame="map")
    refused("score", "map.tif", "optical.tif", "sar.tif", "t.csv", "--pixel-frame", code=2, said="leave --pixel-frame")


def test_score_refuses(files):
    write_offsets("small.tif", grid=OPTICAL.crop(OPTICAL.window.grow(-5)))
    refused("score", "none.tif", "optical.tif", "sar.tif", "t.csv", said="none.tif: no such file")
    refused("score", "offsets.tif", "optical.tif", "sar.tif", "none.csv", said="none.csv: no such file")
    refused("score", "offsets.tif", "optical.tif", "sar.tif", "optical.tif", said="not text")
    refused("score", "small.tif", "optical.tif", "sar.tif", "t.csv", said="belong to one optical image")
    refused("score", "optical.tif", "optical.tif", "sar.tif", "t.csv", said="an offset map has dx and dy")
    refused("score", "offsets.tif", "optical.tif", "sar.tif", "t.csv", "--per-point", "no/p.csv", said="folder")


def test_apply_pulls_the_sar_image_onto_the_optical(files):
    result = run("apply", "offsets.tif", "sar.tif", "--out", "o.tif", "--nodata", "0", "--co", "COMPRESS=LZW")
    assert result.exit_code == 0, result.output
    with rasterio.open("o.tif") as out, rasterio.open("sar.tif") as sar:
        np.testing.assert_array_equal(out.read(1)[2:, :-4], sar.read(1)[:-2, 4:])
        assert (out.nodata, out.compression.name, out.transform) == (0, "lzw", OPTICAL.transform)
    refused("apply", "offsets.tif", "sar.tif", "--out", "o.tif", said="--overwrite")
    assert run("apply", "offsets.tif", "sar.tif", "-o", "o.tif", "--overwrite", "--threads", "2").exit_code == 0


def test_apply_with_a_bare_submission(files):
    write_offsets("bare.tif", grid=FRAME)
    refused("apply", "bare.tif", "sar.tif", "-o", "o.tif", said="--optical")
    assert run("apply", "bare.tif", "sar.tif", "-o", "o.tif", "--optical", "optical.tif").exit_code == 0
    with rasterio.open("o.tif") as out:
        assert out.crs == UTM
    assert run("apply", "bare.tif", "frame.tif", "-o", "p.tif", "--pixel-frame").exit_code == 0
    write_offsets("pixels.tif", grid=FRAME, frame="pixel")
    refused("apply", "pixels.tif", "sar.tif", "-o", "q.tif", code=2, said="give --pixel-frame")


def test_apply_refuses(files):
    refused("apply", "offsets.tif", "t.csv", "-o", "o.tif", said="not a raster")
    refused("apply", "offsets.tif", "sar.tif", "-o", "o.tif", "--bidx", "2", said="no band 2")
    refused("apply", "offsets.tif", "sar.tif", "-o", "o.tif", *["--bidx", "1"] * 513, said="513 bands are too many")
    write_image("fine.tif", Grid(Affine(1e-4, 0, 435000, 0, -1e-4, 4181000), 60, 40, UTM))
    refused("apply", "offsets.tif", "fine.tif", "-o", "o.tif", said="5000 times as fine")
    refused("apply", "offsets.tif", "sar.tif", "-o", "no/o.tif", said="folder")
    refused("apply", "offsets.tif", "frame.tif", "-o", "o.tif", said="--pixel-frame")
    refused("apply", "offsets.tif", "sar.tif", "-o", "o.tif", "--nodata", "-1", code=2, said="does not fit")
    assert run("apply", "offsets.tif", "sar.tif").exit_code == 2
    assert run("apply", "offsets.tif", "sar.tif", "-o", "o.tif", "--co", "x").exit_code == 2
    assert not (files / "o.tif").exists()


def test_info(files):
    values = json.loads(run("info", "offsets.tif", "--json").stdout)
    assert (values["width"], values["height"], values["crs"]) == (60, 40, "EPSG:32637")
    assert values["bands"] == ["dx", "dy"]
    assert values["facts"] == {"registered": "yes", "matcher": "test"}
    statistics = values["statistics"]
    assert statistics["mean_px"] == pytest.approx(np.hypot(4, 2))
    assert statistics["mean_m"] == pytest.approx(np.hypot(4, 2) / 2)
    assert statistics["valid_percent"] == 100
    assert "direction" not in statistics  # constant offsets vary along none
    text = run("info", "offsets.tif").stdout
    assert "matcher     test" in text
    assert "length, m" in text
    write_offsets("forged.tif", optical="a\x9b31m\nregistered  yes", expected_error_px="abc")
    assert "optical     a\\x9b31m\\nregistered  yes\n" in run("info", "forged.tif").stdout


def test_rasters_of_archives_and_of_a_network(files):
    with zipfile.ZipFile("a.zip", "w") as target:
        for name in ("offsets.tif", "optical.tif", "sar.tif"):
            target.write(name)
    zipped = [f"/vsizip/{files}/a.zip/{name}.tif" for name in ("offsets", "optical", "sar")]
    assert '"mean_px": 0.0' in run("score", *zipped, "t.csv", "--json").stdout
    assert run("info", zipped[0]).stdout == run("info", "offsets.tif").stdout
    assert run("apply", zipped[0], zipped[2], "-o", "a.tif", "--optical", zipped[1]).exit_code == 0
    refused("apply", "offsets.tif", zipped[2], "-o", "a.zip", "--overwrite", said="inputs are never written")
    url = "http://127.0.0.1:1/a.tif"
    apply, score = ("apply", "offsets.tif", url, "-o", "o.tif"), ("score", "offsets.tif", "optical.tif", url, "t.csv")
    for command in (("info", url), apply, score, ("align", "optical.tif", url, "--out", "o.tif")):
        refused(*command, said="lies on a network")


def test_a_local_crs_is_one_plane(files):
    """Both images in it: all works. One in it, the other not: there is no way between them."""
    mine = replace(OPTICAL, crs=CRS.from_wkt('LOCAL_CS["mine",UNIT["foot",0.3048]]'))
    write_image("o.tif", mine)
    write_image("s.tif", mine, seed=1)
    write_offsets("local.tif", grid=mine)
    values = json.loads(run("score", "local.tif", "o.tif", "s.tif", "t.csv", "--json").stdout)
    assert values["mean_px"] == pytest.approx(0)
    assert values["without_registration"]["mean_m"] == pytest.approx(np.hypot(4, 2) / 2 * 0.3048)
    assert "length, m" in run("info", "local.tif").stdout
    assert run("apply", "local.tif", "s.tif", "-o", "a.tif").exit_code == 0
    with PairFiles("o.tif", "s.tif").open() as pair:
        assert (pair.grid, pair.optical.read(pair.grid.window).valid.all()) == (mine, True)
    refused("score", "offsets.tif", "optical.tif", "s.tif", "t.csv", said="a local CRS has no way to another")
    refused("apply", "local.tif", "sar.tif", "-o", "b.tif", said="a local CRS has no way to another")
    lines = ("--out", "b.tif", "--tiepoints-out", "m.geojson")
    refused("align", "o.tif", "s.tif", *lines, code=2, said="a local CRS has none")


def test_info_finds_the_direction(files):
    ramp = np.linspace(-30, 60, 60 * 40).reshape(1, 40, 60)
    field = np.concatenate([-0.96 * ramp, -0.28 * ramp]).astype(np.float32)
    field[:, 0, 0] = np.nan
    OffsetMap(FRAME, lambda w: field[:, w.row : w.row + w.height, w.col : w.col + w.width]).write("ramp.tif")
    statistics = json.loads(run("info", "ramp.tif", "--json").stdout)["statistics"]
    np.testing.assert_allclose(statistics["direction"], [-0.96, -0.28], atol=1e-3)
    assert statistics["direction_percent"] == pytest.approx(100, abs=0.01)
    assert statistics["valid_percent"] < 100
    assert "mean_m" not in statistics
    assert "(-0.96, -0.28) holds 100 %" in run("info", "ramp.tif").stdout


def test_info_of_nothing(files):
    write_offsets("empty.tif", dx=np.nan)
    assert "valid       0.0 %" in run("info", "empty.tif").stdout
    refused("info", "sar.tif", said="an offset map has dx and dy")


def test_info_alone_is_a_rasterio_plug_in(files):
    assert info.name == "sn9reg"  # rasterio lists it under this name, and has an `info` of its own
    result = CliRunner().invoke(info, ["none.tif"])
    assert result.exit_code == 1
    assert result.stderr == "sn9reg: none.tif: no such file\n"
    assert CliRunner().invoke(info, ["offsets.tif"]).exit_code == 0


def test_warnings_reach_stderr_in_one_line_and_stdout_stays_json(files):
    write_offsets("hole.tif", hole=(10, 10))
    code = "from sn9reg.cli import main; main()"
    call = [sys.executable, "-c", code, "score", "hole.tif", "optical.tif", "sar.tif", "t.csv", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(sn9reg.__file__).parents[1])}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout)["mean_px"] is json.loads(done.stdout)["sn9_mean_px"] is None
    assert "no value" in run("score", "hole.tif", "optical.tif", "sar.tif", "t.csv").stdout
    assert done.stderr.startswith("sn9reg: the offset map holds no value (NaN) at 1 of 3 tie-points")
    assert done.stderr.count("\n") == 1
