"""`sn9reg align` from the outside: what it writes, prints and takes."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import rasterio
from support.commands import contents, refused, run
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg import register
from sn9reg.cli import COMMANDS
from sn9reg.errors import InputError
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.raster.scene import PairFiles
from sn9reg.tiepoints import read_tiepoints

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def align(*args, out="x.tif", max_offset=10):
    """By a matcher without a network, which is quick."""
    return run("align", *args, "--matcher structure --out", out, "--max-offset", max_offset)


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
    result = run("score --json", aligned.offsets, scene.optical, scene.sar, scene.tiepoints)
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


@pytest.mark.parametrize("name", ["m.geojson", "m.points", "m.csv"])
def test_every_format_of_tiepoints(small_pair, registered_as, name):
    known = registered_as(True).tiepoints()
    assert align("o.tif s.tif --tiepoints-out", name, "--json --threads 1").exit_code == 0
    written = read_tiepoints(name, *small_pair.grids())
    for places, expected in ((written.optical_xy, known.optical_xy), (written.sar_xy, known.sar_xy)):
        np.testing.assert_allclose(places, expected, atol=0.01)


def test_every_option_reaches_the_registration(small_pair, monkeypatch):
    asked = Mock(side_effect=InputError("asked"))
    monkeypatch.setattr("sn9reg.registration.register", asked)
    matching = "--matcher structure --matcher-option spacing=20 --max-offset 5 --ratio-filter"
    fitting = "--model affine --pose none --dem t.csv --threshold 2 --calibration t.csv --device cpu"
    reading = "--optical-bidx 2 --optical-bidx 1 --sar-bidx 1 --optical-nodata 3 --sar-nodata 7 --keep-collar"
    refused(f"align o.tif s.tif --out x.tif --pixel-frame {matching} {fitting} {reading}", "asked")
    asked.assert_called_once_with(
        **vars(PairFiles("o.tif", "s.tif", True, (2, 1), (1,), 3.0, 7.0, True)),
        matcher="structure",
        matcher_options={"spacing": 20, "max_offset": 5.0},
        ratio_filter=True,
        model="affine",
        pose="none",
        dem="t.csv",
        threshold=2.0,
        calibration="t.csv",
        device="cpu",
    )


def test_stdout_in_words_and_creation_options(small_pair, registered_as):
    registered_as(True)
    before = contents()
    result = align("o.tif s.tif --co COMPRESS=LZW --co BLOCKXSIZE=256")
    assert result.exit_code == 0
    assert result.stdout.startswith("x.tif: registered, ")
    assert result.stderr == ""
    assert contents().keys() - before.keys() == {"x.tif"}
    with rasterio.open("x.tif") as offsets:
        assert offsets.descriptions == ("dx", "dy")
        assert (offsets.compression.name, offsets.block_shapes[0][1]) == ("lzw", 256)


def test_an_unregistered_pair_is_json_too_and_says_which_option_helps(small_pair, registered_as):
    """The shift is 5.4 m long."""
    for name, image in zip("os", textures(220, 200), strict=True):
        write_raster(f"{name}.tif", image[None], TEXTURE_TRANSFORM, UTM)
    result = align("o.tif s.tif --json", max_offset=1)
    facts = json.loads(result.stdout)
    assert (result.exit_code, facts["registered"], facts["out"]) == (3, False, None)
    assert result.stderr.startswith("sn9reg: o.tif and s.tif were not registered: ")
    assert "fit best at a shift of 5.4" in result.stderr
    assert " m, and 1 m were looked for: give a larger --max-offset" in result.stderr
    assert not Path("x.tif").exists()
    registered_as(False)
    result = align("o.tif s.tif --json --allow-unregistered --sigma")
    facts = json.loads(result.stdout)
    assert (facts["registered"], facts["out"]) == (False, "x.tif")
    assert "x.tif holds zeros" in result.stderr
    with rasterio.open("x.tif") as offsets:
        assert not offsets.read((1, 2)).any()
        assert np.isnan(offsets.read(3)).all()
        assert offsets.tags()["SN9REG_REGISTERED"] == "no"
        assert offsets.tags()["SN9REG_REASON"]


def test_plain_pixels_have_the_right_sign(small_pair):
    for name, image in zip("os", textures(200, 180), strict=True):
        write_raster(f"{name}.png", image[None])
    result = align("o.png s.png --pixel-frame --sigma")
    assert result.exit_code == 0, result.output
    with rasterio.open("x.tif") as offsets:
        np.testing.assert_allclose(offsets.read((1, 2)).mean(axis=(1, 2)), SHIFT, atol=0.2)
        assert offsets.crs is None
        assert offsets.tags()["SN9REG_FRAME"] == "pixel"


def test_the_same_input_gives_the_same_bytes(small_pair):
    assert align("o.tif s.tif --sigma --tiepoints-out a.csv", out="a.tif").exit_code == 0
    Path("b.tif").write_text("of another run")
    assert align("o.tif s.tif --sigma --tiepoints-out b.csv --overwrite", out="b.tif").exit_code == 0
    assert Path("a.tif").read_bytes() == Path("b.tif").read_bytes()
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_the_list_of_matchers():
    table = json.loads(run("matchers --json").stdout)
    assert table["structure"]["options"]["max_offset"] == 150
    assert table["structure"]["about"]
    text = run("matchers").stdout
    assert all(f"{name}: " in text for name in table)


def test_help_and_version():
    text = run("--help").stdout
    assert all(f"  {name} " in text for name in COMMANDS)
    assert all(run(f"{name} --help").exit_code == 0 for name in COMMANDS)
    assert run("nonesuch").exit_code == 2
    done = subprocess.run([sys.executable, "-m", "sn9reg", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "sn9reg,")


def test_ratio_filter_keeps_fewer_matches(small_files, small_registration):
    known = SimpleNamespace(name="structure", match=lambda _pair: small_registration.matches)
    kept, before = register(*small_files, matcher=known, ratio_filter=True).verdict, small_registration.verdict
    assert 0.2 < kept.matches / before.matches < 0.8
    assert kept.tried == before.tried - (before.matches - kept.matches)
