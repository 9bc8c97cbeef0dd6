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
from support.commands import refused, run
from support.grids import constant, offsets_of, write
from support.rasters import UTM

import sn9reg
from sn9reg.cli.info import info
from sn9reg.raster.grid import Grid
from sn9reg.raster.scene import PairFiles

OPTICAL = Grid(Affine(0.5, 0, 435000, 0, -0.5, 4181000), 60, 40, UTM)
FRAME = Grid.pixel_frame(60, 40)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write_image(path, grid, seed=0):
    write(path, np.random.default_rng(seed).integers(1, 255, grid.shape).astype(np.uint8), grid)


def write_offsets(path, grid=OPTICAL, **facts):
    constant(grid, 4, -2, facts=facts).write(path)


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


def test_score_as_a_table(files):
    result = run("score offsets.tif optical.tif sar.tif t.csv")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["3", "tie-points", "registered", "unregistered"]
    assert lines[1].split() == ["SpaceNet", "9", "score", "100.00", "95.72"]
    assert len({len(line) for line in lines}) == 1
    assert "CE90, m" in result.stdout


def test_score_as_json_and_per_point(files):
    command = "score offsets.tif optical.tif sar.tif t.csv --json --per-point points.csv"
    values = json.loads(run(command).stdout)
    assert values["sn9_score"] == 100
    assert values["mean_px"] == pytest.approx(0)
    assert values["without_registration"]["mean_m"] == pytest.approx(np.hypot(4, 2) / 2)
    assert len(pd.read_csv("points.csv")) == 3
    refused(command, "--overwrite")
    assert run(command, "--overwrite").exit_code == 0


def test_score_in_the_pixel_frame(files):
    write_offsets("pixels.tif", grid=FRAME, frame="pixel")
    refused("score offsets.tif frame.tif sar.tif t.csv", "--pixel-frame")
    refused("score pixels.tif optical.tif sar.tif t.csv", "--pixel-frame", codes=(2,))
    result = run("score pixels.tif frame.tif frame.tif t.csv --pixel-frame --json")
    values = json.loads(result.stdout)
    assert values["rmse_px"] == 0
    assert values["rmse_m"] is None
    write_offsets("map.tif", frame="map")
    refused("score map.tif optical.tif sar.tif t.csv --pixel-frame", "leave --pixel-frame", codes=(2,))


def test_score_refuses(files):
    write_offsets("small.tif", grid=OPTICAL.crop(OPTICAL.window.grow(-5)))
    refused("score none.tif optical.tif sar.tif t.csv", "none.tif: no such file")
    refused("score offsets.tif optical.tif sar.tif none.csv", "none.csv: no such file")
    refused("score offsets.tif optical.tif sar.tif optical.tif", "not text")
    refused("score small.tif optical.tif sar.tif t.csv", "belong to one optical image")
    refused("score optical.tif optical.tif sar.tif t.csv", "an offset map has dx and dy")
    for row in ("10,10,10,60", "10,sixty,10,10"):
        Path("bad.csv").write_text(f"sar_row,sar_col,optical_row,optical_col\n{row}\n")
        refused("score offsets.tif optical.tif sar.tif bad.csv", "bad.csv", "line 2")


def test_apply_pulls_the_sar_image_onto_the_optical(files):
    result = run("apply offsets.tif sar.tif --out o.tif --nodata 0 --co COMPRESS=LZW")
    assert result.exit_code == 0, result.output
    with rasterio.open("o.tif") as out, rasterio.open("sar.tif") as sar:
        np.testing.assert_array_equal(out.read(1)[2:, :-4], sar.read(1)[:-2, 4:])
        assert (out.nodata, out.compression.name, out.transform) == (0, "lzw", OPTICAL.transform)
    assert run("apply offsets.tif sar.tif -o o.tif --overwrite --threads 2").exit_code == 0


def test_apply_with_a_bare_submission(files):
    write_offsets("bare.tif", grid=FRAME)
    refused("apply bare.tif sar.tif -o o.tif", "--optical")
    assert run("apply bare.tif sar.tif -o o.tif --optical optical.tif").exit_code == 0
    with rasterio.open("o.tif") as out:
        assert out.crs == UTM
    assert run("apply bare.tif frame.tif -o p.tif --pixel-frame").exit_code == 0
    write_offsets("pixels.tif", grid=FRAME, frame="pixel")
    refused("apply pixels.tif sar.tif -o q.tif", "give --pixel-frame", codes=(2,))


def test_apply_refuses(files):
    refused("apply offsets.tif t.csv -o o.tif", "not a raster")
    refused("apply offsets.tif sar.tif -o o.tif --bidx 2", "no band 2")
    refused("apply offsets.tif sar.tif -o o.tif" + " --bidx 1" * 513, "513 bands are too many")
    write_image("fine.tif", Grid(Affine(1e-4, 0, 435000, 0, -1e-4, 4181000), 60, 40, UTM))
    refused("apply offsets.tif fine.tif -o o.tif", "5000 times as fine")
    refused("apply offsets.tif frame.tif -o o.tif", "--pixel-frame")
    refused("apply offsets.tif sar.tif -o o.tif --nodata -1", "does not fit", codes=(2,))
    assert run("apply offsets.tif sar.tif").exit_code == 2
    assert run("apply offsets.tif sar.tif -o o.tif --co x").exit_code == 2
    assert not (files / "o.tif").exists()


def test_info(files):
    values = json.loads(run("info offsets.tif --json").stdout)
    assert (values["width"], values["height"], values["crs"]) == (60, 40, "EPSG:32637")
    assert values["bands"] == ["dx", "dy"]
    assert values["facts"] == {"registered": "yes", "matcher": "test"}
    statistics = values["statistics"]
    assert statistics["mean_px"] == pytest.approx(np.hypot(4, 2))
    assert statistics["mean_m"] == pytest.approx(np.hypot(4, 2) / 2)
    assert statistics["valid_percent"] == 100
    assert "direction" not in statistics  # constant offsets vary along none
    text = run("info offsets.tif").stdout
    assert "matcher     test" in text
    assert "length, m" in text
    write_offsets("forged.tif", optical="a\x9b31m\nregistered  yes", expected_error_px="abc")
    assert "optical     a\\x9b31m\\nregistered  yes\n" in run("info forged.tif").stdout


def test_rasters_of_archives_and_of_a_network(files):
    with zipfile.ZipFile("a.zip", "w") as target:
        for name in ("offsets.tif", "optical.tif", "sar.tif"):
            target.write(name)
    offsets, optical, sar = (f"/vsizip/{files}/a.zip/{name}.tif" for name in ("offsets", "optical", "sar"))
    assert '"mean_px": 0.0' in run(f"score {offsets} {optical} {sar} t.csv --json").stdout
    assert run(f"info {offsets}").stdout == run("info offsets.tif").stdout
    assert run(f"apply {offsets} {sar} -o a.tif --optical {optical}").exit_code == 0
    refused(f"apply offsets.tif {sar} -o a.zip --overwrite", "inputs are never written")
    url = "http://127.0.0.1:1/a.tif"
    apply, score = f"apply offsets.tif {url} -o o.tif", f"score offsets.tif optical.tif {url} t.csv"
    for command in (f"info {url}", apply, score, f"align optical.tif {url} --out o.tif"):
        refused(command, "lies on a network")


def test_a_local_crs_is_one_plane(files):
    """Both images in it: all works. One in it, the other not: there is no way between them."""
    mine = replace(OPTICAL, crs=CRS.from_wkt('LOCAL_CS["mine",UNIT["foot",0.3048]]'))
    write_image("o.tif", mine)
    write_image("s.tif", mine, seed=1)
    write_offsets("local.tif", grid=mine)
    values = json.loads(run("score local.tif o.tif s.tif t.csv --json").stdout)
    assert values["mean_px"] == pytest.approx(0)
    assert values["without_registration"]["mean_m"] == pytest.approx(np.hypot(4, 2) / 2 * 0.3048)
    assert "length, m" in run("info local.tif").stdout
    assert run("apply local.tif s.tif -o a.tif").exit_code == 0
    with PairFiles("o.tif", "s.tif").open() as pair:
        assert (pair.grid, pair.optical.read(pair.grid.window).valid.all()) == (mine, True)
    refused("score offsets.tif optical.tif s.tif t.csv", "a local CRS has no way to another")
    refused("apply local.tif sar.tif -o b.tif", "a local CRS has no way to another")
    refused("align o.tif s.tif --out b.tif --tiepoints-out m.geojson", "a local CRS has none", codes=(2,))


def test_info_finds_the_direction(files):
    ramp = np.linspace(-30, 60, 60 * 40).reshape(1, 40, 60)
    field = np.concatenate([-0.96 * ramp, -0.28 * ramp]).astype(np.float32)
    field[:, 0, 0] = np.nan
    offsets_of(field, FRAME).write("ramp.tif")
    statistics = json.loads(run("info ramp.tif --json").stdout)["statistics"]
    np.testing.assert_allclose(statistics["direction"], [-0.96, -0.28], atol=1e-3)
    assert statistics["direction_percent"] == pytest.approx(100, abs=0.01)
    assert statistics["valid_percent"] < 100
    assert "mean_m" not in statistics
    assert "(-0.96, -0.28) holds 100 %" in run("info ramp.tif").stdout


def test_info_of_nothing(files):
    constant(OPTICAL, np.nan, 0).write("empty.tif")
    assert "valid       0.0 %" in run("info empty.tif").stdout
    refused("info sar.tif", "an offset map has dx and dy")


def test_info_alone_is_a_rasterio_plug_in(files):
    assert info.name == "sn9reg"  # rasterio lists it under this name, and has an `info` of its own
    result = CliRunner().invoke(info, ["none.tif"])
    assert result.exit_code == 1
    assert result.stderr == "sn9reg: none.tif: no such file\n"
    assert CliRunner().invoke(info, ["offsets.tif"]).exit_code == 0


def test_warnings_reach_stderr_in_one_line_and_stdout_stays_json(files):
    holes = np.zeros((2, *OPTICAL.shape))
    holes[:, 10, 10] = np.nan
    offsets_of(holes, OPTICAL).write("hole.tif")
    code = "from sn9reg.cli import main; main()"
    call = [sys.executable, "-c", code, "score", "hole.tif", "optical.tif", "sar.tif", "t.csv", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(sn9reg.__file__).parents[1])}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout)["mean_px"] is json.loads(done.stdout)["sn9_mean_px"] is None
    assert "no value" in run("score hole.tif optical.tif sar.tif t.csv").stdout
    assert done.stderr.startswith("sn9reg: the offset map holds no value (NaN) at 1 of 3 tie-points")
    assert done.stderr.count("\n") == 1
