"""`sn9reg align` from the outside: what it writes, prints and takes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from click.testing import CliRunner
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg.cli import COMMANDS, main
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.raster.files import grid_of, open_raster
from sn9reg.tiepoints import read_tiepoints

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A georeferenced textured pair (o.tif, s.tif) and the same as plain pixels (o.png, s.png)."""
    monkeypatch.chdir(tmp_path)
    for name, image in zip("os", textures(220, 200), strict=True):
        write_raster(f"{name}.tif", image[None], TEXTURE_TRANSFORM, UTM)
        write_raster(f"{name}.png", image[None])
    return tmp_path


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def align(*args, out="x.tif", max_offset="10"):
    """By a matcher without a network, which is quick."""
    return run("align", *args, "--out", out, "--max-offset", max_offset, "--matcher", "structure")


def mean_offset(path="x.tif"):
    with rasterio.open(path) as offsets:
        return offsets.read((1, 2)).mean(axis=(1, 2))


def test_offsets_are_close_to_the_truth_and_the_third_band_says_how_close(scene, aligned):
    with rasterio.open(aligned.offsets) as offsets, rasterio.open(scene.offsets) as truth:
        exact, sigma = truth.read(), offsets.read(3)
        error = np.hypot(*(offsets.read((1, 2)) - exact))
        assert (offsets.shape, offsets.transform, offsets.crs) == (truth.shape, truth.transform, truth.crs)
        assert (offsets.descriptions, offsets.units) == (("dx", "dy", "sigma"), ("px",) * 3)
        assert np.isnan(offsets.nodata)
    assert error.mean() < 0.15 * np.hypot(*exact).mean()
    assert np.percentile(error, 90) < 15
    assert 1 / 3 < np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(sigma**2)) < 3
    assert (sigma > 0).all()
    assert sigma.std() > 0  # it knows where it knows less


def test_the_score_is_far_better_than_without(scene, aligned):
    result = run("score", aligned.offsets, scene.optical, scene.sar, scene.tiepoints, "--json")
    values = json.loads(result.stdout)
    assert values["sn9_score"] > 90
    assert values["sn9_score"] > values["without_registration"]["sn9_score"] + 20
    assert values["mean_m"] < 0.2 * values["without_registration"]["mean_m"]


def test_tags_say_what_was_done(scene, aligned):
    with rasterio.open(aligned.offsets) as offsets:
        tags = {k.removeprefix("SN9REG_"): v for k, v in offsets.tags().items() if k.startswith("SN9REG_")}
    facts = json.loads(aligned.stdout)
    assert (tags["REGISTERED"], tags["FRAME"], tags["MATCHER"]) == ("yes", "map", DEFAULT_MATCHER)
    assert (tags["OPTICAL"], tags["SAR"]) == (scene.optical.name, scene.sar.name)
    assert (tags["MODEL"], tags["REASON"]) == (facts["model"], facts["reason"])
    assert (int(tags["MATCHES"]), int(tags["INLIERS"])) == (facts["matches"], facts["inliers"])
    assert float(tags["EXPECTED_ERROR_PX"]) == pytest.approx(facts["expected_error_px"], abs=1e-3)
    assert tags["VERSION"] in run("--version").stdout


def test_stdout_is_one_json_object_and_stderr_has_the_rest(aligned):
    facts = json.loads(aligned.stdout)
    assert aligned.stdout.count("\n") == 1
    assert facts["registered"] is True
    assert facts["out"] == str(aligned.offsets)
    assert 8 <= facts["inliers"] <= facts["matches"] <= facts["tried"]
    assert set(facts["seconds"]) >= {"open", "match", "fit"}
    assert facts["common_grid"]["crs"] == "EPSG:32637"
    table = pd.read_csv(aligned.tiepoints)
    assert list(table.columns[:4]) == ["sar_row", "sar_col", "optical_row", "optical_col"]
    assert (len(table), table.inlier.sum()) == (facts["matches"], facts["inliers"])


@pytest.mark.parametrize(
    ("name", "model"), [("m.geojson", "affine"), ("m.points", "translation"), ("m.csv", "local")]
)
def test_every_model_and_format_of_tiepoints(pair, name, model):
    result = align("o.tif", "s.tif", "--tiepoints-out", name, "--model", model, "--json", "--threads", "1")
    assert json.loads(result.stdout)["model"] == model
    np.testing.assert_allclose(mean_offset(), SHIFT, atol=0.2)
    with open_raster("o.tif") as optical, open_raster("s.tif") as sar:
        points = read_tiepoints(name, grid_of(optical), grid_of(sar))
    assert len(points) >= 15
    np.testing.assert_allclose(np.median(points.sar_xy - points.optical_xy, axis=0), SHIFT, atol=0.2)


def test_stdout_in_words_and_creation_options(pair):
    result = align("o.tif", "s.tif", "--co", "COMPRESS=LZW", "--co", "BLOCKXSIZE=256")
    assert result.exit_code == 0
    assert result.stdout.startswith("x.tif: registered, ")
    assert result.stderr == ""
    assert {p.name for p in pair.iterdir() if not p.name.endswith(".aux.xml")} == {
        "o.tif", "s.tif", "o.png", "s.png", "x.tif"
    }  # fmt: skip
    with rasterio.open("x.tif") as offsets:
        assert offsets.descriptions == ("dx", "dy")
        assert (offsets.compression.name, offsets.block_shapes[0][1]) == ("lzw", 256)


def test_an_unregistered_pair_is_json_too(pair):
    write_raster("w.tif", textures(220, 200, seed=5)[1][None], TEXTURE_TRANSFORM, UTM)
    result = align("o.tif", "w.tif", "--json")
    facts = json.loads(result.stdout)
    assert (result.exit_code, facts["registered"], facts["out"]) == (3, False, None)
    assert result.stderr.startswith("sn9reg: o.tif and w.tif were not registered: ")
    assert not Path("x.tif").exists()
    result = align("o.tif", "w.tif", "--json", "--allow-unregistered", "--sigma")
    facts = json.loads(result.stdout)
    assert (facts["registered"], facts["out"]) == (False, "x.tif")
    assert "x.tif holds zeros" in result.stderr
    with rasterio.open("x.tif") as offsets:
        assert not offsets.read((1, 2)).any()
        assert np.isnan(offsets.read(3)).all()
        assert offsets.tags()["SN9REG_REGISTERED"] == "no"
        assert offsets.tags()["SN9REG_REASON"]


def test_plain_pixels_have_the_right_sign(pair):
    result = align("o.png", "s.png", "--pixel-frame", "--sigma")
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(mean_offset(), SHIFT, atol=0.2)
    with rasterio.open("x.tif") as offsets:
        assert offsets.crs is None
        assert offsets.tags()["SN9REG_FRAME"] == "pixel"
    # The swapped pair gives the opposite.
    assert align("s.png", "o.png", "--pixel-frame", out="back.tif").exit_code == 0
    np.testing.assert_allclose(mean_offset("back.tif"), -mean_offset(), atol=0.2)


def test_the_same_input_gives_the_same_bytes(pair):
    more = ("--sigma", "--tiepoints-out")
    assert align("o.tif", "s.tif", *more, "a.csv", out="a.tif").exit_code == 0
    Path("b.tif").write_text("of another run")
    assert align("o.tif", "s.tif", *more, "b.csv", "--overwrite", out="b.tif").exit_code == 0
    assert Path("a.tif").read_bytes() == Path("b.tif").read_bytes()
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_a_shift_beyond_max_offset_is_not_found(pair):
    """The shift is 5.4 m long, 4.5 m in x."""
    result = align("o.tif", "s.tif", max_offset="1")
    assert result.exit_code == 3
    assert "fit best at a shift of 5.4 m, and 1 m were looked for: give a larger --max-offset" in result.stderr
    assert not Path("x.tif").exists()


def test_bands_and_nodata_can_be_chosen(pair):
    (optical, sar), (other, _) = textures(220, 200), textures(220, 200, seed=5)
    write_raster("two.tif", np.stack([other, optical]), TEXTURE_TRANSFORM, UTM)
    assert align("two.tif", "s.tif", "--optical-bidx", "2").exit_code == 0
    np.testing.assert_allclose(mean_offset(), SHIFT, atol=0.2)
    assert align("two.tif", "s.tif", "--optical-bidx", "1", out="y.tif").exit_code == 3
    write_raster("all.tif", np.full_like(sar, 7)[None], TEXTURE_TRANSFORM, UTM)
    result = align("o.tif", "all.tif", "--sar-nodata", "7", out="y.tif")
    assert result.exit_code == 1
    assert "no valid pixel" in result.stderr


def test_the_list_of_matchers():
    table = json.loads(run("matchers", "--json").stdout)
    assert table["structure"]["options"]["max_offset"] == 150
    assert table["structure"]["about"]
    text = run("matchers").stdout
    assert all(f"{name}: " in text for name in table)


def test_help_and_version():
    text = run("--help").stdout
    assert all(f"  {name} " in text for name in COMMANDS)
    assert all(run(name, "--help").exit_code == 0 for name in COMMANDS)
    assert run("nonesuch").exit_code == 2
    done = subprocess.run([sys.executable, "-m", "sn9reg", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "sn9reg,")


def test_ratio_filter_keeps_fewer_matches(pair):
    counts = []
    for option in ([], ["--ratio-filter"]):  # on a dense lattice, so that half of the matches still convince
        result = align("o.tif", "s.tif", "--json", "--overwrite", "--matcher-option", "spacing=20", *option)
        assert result.exit_code == 0, result.stderr
        counts.append(json.loads(result.stdout)["matches"])
    assert 0.2 * counts[0] < counts[1] < 0.8 * counts[0]
