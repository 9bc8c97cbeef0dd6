"""Ground control points: where they lie, how dense they are, and a VRT that finds the SAR image from anywhere."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.rpc import RPC
from support.commands import refused, run
from support.grids import write
from support.rasters import UTM

from sn9reg.errors import ConfigError, InputError, NotRegisteredError, OutputError
from sn9reg.gcps import gcps_of, write_gcps
from sn9reg.raster.grid import LONLAT, Grid
from sn9reg.tiepoints import TiePoints

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
OPTICAL = Grid(Affine(5e-6, 1e-6, 38.25, 1e-6, -5e-6, 37.7), 200, 180, LONLAT)
TURNED = Grid(Affine.translation(435000, 4181000) * Affine.rotation(30) * Affine.scale(0.5, -0.5), 40, 30, UTM)
POINTS = TiePoints([[0, 0], [199.5, -0.5], [20, 170.25], [7, 8]], [[0, 0], [-3.25, 2], [39, 29], [1.5, 44]])
ONES = [1.0] * 20
VALUES = np.arange(2400, dtype=np.uint16).reshape(2, 30, 40)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two folders, of which one has a turned SAR image of two bands, an archive of it and a VRT; we are beside both."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("out").mkdir()
    sar = write("data/sar.tif", VALUES, TURNED, nodata=7)
    with rasterio.open(sar, "r+") as target:
        target.descriptions = ("VV", "VH")
        target.rpcs = RPC(1, 1, 1, 1, ONES, ONES, 1, 1, 1, 1, ONES, ONES, 1, 1)
    shutil.make_archive("data/sar", "zip", "data", "sar.tif")
    rasterio.shutil.copy("data/sar.tif", "data/sar.vrt", driver="VRT")
    return tmp_path


@pytest.mark.parametrize("sar", ["data/sar.tif", "/vsizip/data/sar.zip/sar.tif", "data/sar.vrt", "out/link.tif"])
def test_the_vrt_shows_the_image_and_ties_it_to_the_map_and_to_nothing_else(folder, monkeypatch, sar):
    Path("out/link.tif").symlink_to("../data/sar.tif")
    write_gcps("out/sar.vrt", POINTS, OPTICAL, sar)
    monkeypatch.chdir("/")
    with rasterio.open(folder / "out/sar.vrt") as vrt:
        points, crs = vrt.gcps
        np.testing.assert_array_equal(vrt.read(), VALUES)
        assert (vrt.nodata, vrt.descriptions) == (7, ("VV", "VH"))
        assert (vrt.crs, vrt.transform, vrt.rpcs) == (None, Affine.identity(), None)
    assert crs == LONLAT
    np.testing.assert_allclose([(p.col, p.row) for p in points], POINTS.sar_xy + 0.5, atol=1e-9)
    np.testing.assert_allclose([(p.x, p.y) for p in points], OPTICAL.to_map(POINTS.optical_xy), atol=1e-12)


def test_the_vrt_may_move_with_its_image(folder):
    write_gcps(folder / "out" / "sar.vrt", POINTS, OPTICAL, folder / "data" / "sar.tif")
    assert str(folder) not in Path("out/sar.vrt").read_text()
    Path("elsewhere").mkdir()
    for name in ("data", "out"):
        Path(name).rename(f"elsewhere/{name}")
    with rasterio.open("elsewhere/out/sar.vrt") as vrt:
        np.testing.assert_array_equal(vrt.read(), VALUES)


def test_a_vrt_that_is_there_is_replaced_only_when_asked(folder):
    Path("out/sar.vrt").write_text("mine")
    with pytest.raises(OutputError, match="overwrite"):
        write_gcps("out/sar.vrt", POINTS, OPTICAL, "data/sar.tif")
    write_gcps("out/sar.vrt", POINTS, OPTICAL, "data/sar.tif", overwrite=True)
    assert "GCPList" in Path("out/sar.vrt").read_text()


def test_what_no_vrt_can_say(folder):
    for error, said, path, optical in (
        (ConfigError, "written as .vrt", "out/sar.tif", OPTICAL),
        (ConfigError, "a pixel frame has none", "out/sar.vrt", Grid.pixel_frame(9, 9)),
    ):
        with pytest.raises(error, match=said):
            write_gcps(path, POINTS, optical, "data/sar.tif")
    with rasterio.MemoryFile(Path("data/sar.tif").read_bytes()) as memory, pytest.raises(InputError, match="no disk"):
        write_gcps("out/sar.vrt", POINTS, OPTICAL, memory.name)
    assert not list(Path("out").iterdir())


# --- where they lie --------------------------------------------------------------------------------------------------


def test_the_points_are_the_offset_map_on_a_lattice(small_registration):
    """Of a SAR image in another CRS, turned, with other pixels."""
    there = CRS.from_epsg(32636)
    (x, y), *_ = small_registration.optical.map_to_crs(np.array([[435000.0, 4181000.0]]), there)
    turned = Grid(Affine.translation(x, y) * Affine.rotation(5) * Affine.scale(0.3, -0.3), 700, 700, there)
    points = gcps_of(replace(small_registration, sar=turned))
    assert 380 <= len(points) <= 460
    inside = (points.optical_xy >= 0).all(axis=1) & (points.optical_xy <= [199, 179]).all(axis=1)
    assert inside.sum() > 0.7 * len(points)
    xy, optical = points.optical_xy[inside], small_registration.optical
    shown = optical.to_map(xy + small_registration.offsets().sample(xy))
    np.testing.assert_allclose(turned.map_to_crs(turned.to_map(points.sar_xy[inside]), UTM), shown, atol=0.005)


def test_they_cover_what_both_images_show(small_registration):
    part = small_registration.sar.crop(replace(small_registration.sar.window, col=100, width=40))
    found = gcps_of(replace(small_registration, sar=part)).optical_xy
    np.testing.assert_allclose((found[:, 0].min(), found[:, 0].max()), (100, 140), atol=12)  # 9 px are its offset
    whole = gcps_of(small_registration).optical_xy
    np.testing.assert_allclose([whole.min(axis=0), whole.max(axis=0)], [[-0.5, -0.5], [199.5, 179.5]])


def test_a_warp_that_no_spline_follows_is_said_to_be_one(small_registration, caplog):
    assert not caplog.messages
    waves = replace(small_registration.warp, move=lambda xy: xy + np.sin(xy))  # 13 px of 0.5 m are a wave
    gcps_of(replace(small_registration, fit=replace(small_registration.fit, warp=waves)))
    (said,) = caplog.messages
    assert 0.5 < float(re.search(r"up to ([\d.]+) optical px", said)[1]) < 8


def test_a_pair_that_was_not_registered_has_none(registered_as):
    with pytest.raises(NotRegisteredError, match="were not registered"):
        gcps_of(registered_as(False))


# --- the command -----------------------------------------------------------------------------------------------------


COMMAND = "align o.tif s.tif --out x.tif --gcps-out"


def test_the_command_writes_them_for_a_registered_pair_alone(small_pair, registered_as):
    registered_as(False)
    refused(f"{COMMAND} s.vrt", "were not registered", codes=(3,))
    assert run(COMMAND, "s.vrt --allow-unregistered").exit_code == 3
    assert (Path("x.tif").exists(), Path("s.vrt").exists()) == (True, False)
    registered_as(True)
    assert run(COMMAND, "s.vrt --overwrite").exit_code == 0
    with rasterio.open("s.vrt") as vrt, rasterio.open("s.tif") as sar:
        np.testing.assert_array_equal(vrt.read(), sar.read())
        assert len(vrt.gcps[0]) > 300


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("t.csv", 1, "t.csv: exists; use --overwrite"),
        ("s.tif --overwrite", 1, "s.tif: is an input too"),
        ("gcps.txt", 2, "gcps.txt: ground control points are written as .vrt"),
        ("./x.tif", 2, "--out and --gcps-out are the same file"),
        ("none/s.vrt", 1, "its folder does not exist"),
        ("s.vrt --pixel-frame", 2, "a pixel frame has none"),
    ],
)
def test_what_cannot_work_is_known_before_anything_is_done(small_pair, monkeypatch, arguments, code, said):
    monkeypatch.setattr("sn9reg.registration.register", lambda *_, **__: pytest.fail("too late"))
    refused(f"{COMMAND} {arguments}", said, codes=(code,))
