"""pipelines.studies.cross_season: what is held out, which windows are seen, and tables of an archive whose errors are
known: images say where each pixel lies, and the third optical band by how much its place is missed."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from support.rasters import TEXTURE_TRANSFORM, UTM, write_raster

from pipelines.studies import cross_season as study

pytestmark = pytest.mark.study

SIDE = 90
ERRORS = {2018: 0, 2020: 2}  # pixels, by the year of the optical image


class Decoder:
    """Reads a template's place from its pixels; keeps what it is given."""

    name = "decoder"

    def __init__(self):
        self.seen = []

    def locate(self, optical, sar):
        self.seen.append((optical.values[:2, 0, 0], sar.values))
        code = int(sar.values[0, 0, 0]) - 1
        x, y, error = optical.values[:, 0, 0]
        return np.array([code % 1000 - x + error, code // 1000 - y])


@pytest.fixture
def decoder(monkeypatch):
    made = Decoder()
    monkeypatch.setattr(study, "make_matcher", lambda name, **options: made)
    return made


def archive(folder, years=ERRORS, seasons=("winter", "summer"), longitudes=(5, 15)):
    row, col = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    lines = ["optical,sar,lon,lat,year,season"]
    for lon in longitudes:
        for year in years:
            for season in seasons:
                stem = folder / f"{lon}_{year}_{season}"
                write_raster(f"{stem}_opt.tif", np.stack([col, row, 0 * col + ERRORS[year or 2018]]))
                write_raster(f"{stem}_sar.tif", (1000 * row + col + 1)[None], TEXTURE_TRANSFORM, UTM)
                lines.append(f"{stem}_opt.tif,{stem}_sar.tif,{lon},50,{year or ''},{season}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


def run(folder, *options):
    sides = ("--reference", "40", "--template", "24")
    where = ("--manifest", str(folder / "manifest.csv"), "--out", str(folder / "out"))
    return CliRunner().invoke(study.main, [*where, *sides, *options])


def test_places_and_years_are_held_out_and_counted_by_season_and_year(tmp_path, decoder):
    result = run(archive(tmp_path))
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(tmp_path / "out" / "protocols.csv").set_index(["protocol", "part"])
    windows = {("none", "all"): 32, ("temporal", "test"): 24, ("temporal", "training"): 8}
    assert rows["windows"].to_dict() == windows | {("spatial", "test"): 16, ("spatial", "training"): 16}
    assert rows.loc[("temporal", "test"), ["cmr0", "cmr1", "cmr2"]].tolist() == pytest.approx([1 / 3, 1 / 3, 1])
    assert rows.loc[("temporal", "training"), "cmr0"] == 1, "2018 with 2018"
    assert rows.loc[("spatial", "test"), "cmr0"] == 0.5
    errors = pd.read_csv(tmp_path / "out" / "errors.csv")
    assert set(errors.loc[errors["spatial"] == "test", "lon"]) == {5}
    times = pd.read_csv(tmp_path / "out" / "times.csv")
    assert len(times) == 16 - 4, "both of 2018 are no test"
    assert (times["cmr0"] == (times["optical_year"] == 2018)).all()
    table = (tmp_path / "out" / "table.md").read_text()
    assert result.stdout == table + "\n"
    _, of_sar, of_optical = table.split(study.RATES + " by season")
    assert "| summer | 0.000 / 0.000 / 1.000 | 0.500 / 0.500 / 1.000 |" in of_sar
    assert "| winter | 1.000 / 1.000 / 1.000 | 0.000 / 0.000 / 1.000 |" in of_optical
    assert np.array(Image.open(tmp_path / "out" / "map.png").convert("L")).std() > 5


def test_all_times_of_a_place_are_seen_in_the_same_windows_under_the_degradation(tmp_path, decoder):
    assert run(archive(tmp_path, (2018,)), "--windows", "2", "--protocol", "spatial").exit_code == 0
    plain, decoder.seen = decoder.seen, []
    corners = [tuple(corner.tolist()) for corner, _ in plain]
    assert len(plain) == 2 * 4 * 2
    assert len(set(corners)) == 4, "two of either place"
    assert corners[0::2][:4] == [corners[0]] * 4
    assert all(sar.shape == (1, 24, 24) for _, sar in plain)
    assert run(tmp_path, "--limit", "3", "--looks", "4").exit_code == 0
    assert len(decoder.seen) == 3
    clean = {template.tobytes() for _, template in plain}
    assert not clean & {template.tobytes() for _, template in decoder.seen}


def test_a_manifest_that_knows_no_years_is_measured_all_the_same(tmp_path, decoder):
    result = run(archive(tmp_path, (None,), ("",), (5, 7, 9)))
    assert result.exit_code == 0, result.output
    assert "No temporal separation: the training set is empty: no acquisition's year is known." in result.stdout
    assert "(all pairs)" in result.stdout
    assert "| unknown | 1.000 / 1.000 / 1.000 |" in result.stdout


def test_what_makes_no_sense_is_said(tmp_path):
    archive(tmp_path, (2018,))
    for options, code, words in (
        (("--template", "40"), 2, "--template 40 must be smaller than --reference 40"),
        (("--matcher", "none"), 2, "none"),
        (("--manifest", str(tmp_path / "none.csv")), 1, "none.csv: cannot be read"),
        (("--reference", "100"), 1, "smaller than a window of 100 px"),
    ):
        result = run(tmp_path, *options)
        assert (result.exit_code, words in result.stderr) == (code, True), result.output
    assert not (tmp_path / "out" / "table.md").exists()
