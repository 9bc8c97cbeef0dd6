"""pipelines.manifest: rows of tiles with and without georeference, and of scenes that are simulated."""

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from support.rasters import write_raster

from pipelines.manifest import SEASONS, main
from sn9reg.training.geosplit import read_manifest

pytestmark = pytest.mark.study

WEB = rasterio.Affine(10, 0, 1_113_194.9, 0, -10, 6_446_275.8)  # metres of EPSG:3857, at 10 degrees east, 50 north


def run(folder, *options):
    return CliRunner().invoke(main, [str(folder / "new" / "manifest.csv"), *map(str, options)])


def rows(folder):
    return read_manifest(folder / "new" / "manifest.csv")


@pytest.mark.filterwarnings("ignore")  # of images without georeference
def test_tiles_are_listed_at_their_middle(tmp_path):
    for name, how in (("geo/a", {"transform": WEB, "crs": "EPSG:3857"}), ("plain/b", {})):
        (tmp_path / name).parent.mkdir()
        for kind in ("opt", "sar"):
            write_raster(f"{tmp_path / name}_{kind}.tif", np.ones((1, 20, 40), np.uint8), **how)
    (tmp_path / "bounds.csv").write_text("tile,left,bottom,right,top\nb,1113194.9,6446075.8,1113594.9,6446275.8\n")
    bounds = ("--bounds", tmp_path / "bounds.csv", "--crs", "EPSG:3857")
    for options in (("--tiles", tmp_path / "geo"), ("--tiles", tmp_path / "plain", *bounds, "--year", 2019)):
        result = run(tmp_path, *options)
        assert result.exit_code == 0, result.output
        (row,) = rows(tmp_path)
        assert (row.lon, row.lat) == pytest.approx((10 + 0.0018, 50 - 0.0006), abs=1e-4)
        assert (row.year, row.season) == (2019 if "--year" in options else None, None)
    for options, words in (
        (("--tiles", tmp_path / "plain"), "b_opt.tif"),
        (("--tiles", tmp_path / "geo", *bounds), "has no tile a"),
        (("--tiles", tmp_path / "geo", "--bounds", tmp_path / "new" / "manifest.csv"), "cannot be read as bounds"),
    ):
        result = run(tmp_path, *options)
        assert (result.exit_code, words in result.stderr) == (1, True), result.output


def test_simulated_places_have_every_season_on_one_pixel_grid(tmp_path):
    options = ("--places", 1, "--years", 1, "--side", 240)
    assert run(tmp_path, *options).exit_code == 0
    made, seen = rows(tmp_path), set()
    assert [(row.year, row.season) for row in made] == [(2018, season) for season in SEASONS]
    for row in made:
        with rasterio.open(row.optical) as optical, rasterio.open(row.sar) as sar:
            assert (optical.shape, optical.transform) == (sar.shape, sar.transform)
            seen.add(sar.read().tobytes())
    assert len(seen) == len(SEASONS)
    before = made[0].sar.stat().st_mtime_ns
    assert run(tmp_path, *options).exit_code == 0
    assert rows(tmp_path)[0].sar.stat().st_mtime_ns == before
