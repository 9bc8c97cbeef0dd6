"""Rasters: messages that say what to do, and files that are whole or not there."""

import gzip
import os
import shutil
import socket
import stat
import subprocess
import sys
import zipfile
from functools import partial

import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from support import grids
from support.rasters import TEXTURE_TRANSFORM, UTM

from sn9reg.errors import InputError, OutputError
from sn9reg.raster.files import (
    alpha_band,
    atomic_output,
    beside,
    check_output,
    data_bands,
    disk_file,
    geotiff_profile,
    grid_of,
    make_folder,
    open_raster,
    write_csv,
)
from sn9reg.raster.grid import Grid

GRID = Grid(TEXTURE_TRANSFORM, 60, 40, UTM)
write = partial(grids.write, grid=GRID)


@pytest.fixture
def raster(tmp_path):
    return write(tmp_path / "r.tif", np.arange(2400, dtype=np.uint16).reshape(GRID.shape))


# Files that cannot be read or have no georeference: tests/cli/test_bad_input.py.


@pytest.fixture
def archives(raster):
    """A zip, a tar and a gz of the raster, beside it."""
    for kind in ("zip", "tar"):
        shutil.make_archive(raster.with_name("a"), kind, raster.parent, "r.tif")
    raster.with_name("r.tif.gz").write_bytes(gzip.compress(raster.read_bytes()))
    return raster.parent


VIRTUAL = {
    "GTIFF_DIR:1:{}/r.tif": "r.tif",
    "/vsizip/{}/a.zip/r.tif": "a.zip",
    "/vsizip/{{{}/a.zip}}/r.tif": "a.zip",
    "zip://{}/a.zip!r.tif": "a.zip",
    "/vsitar/{}/a.tar/r.tif": "a.tar",
    "/vsigzip/{}/r.tif.gz": "r.tif.gz",
    "vrt://{}/r.tif?bands=1": "r.tif",
    "GTIFF_DIR:1:/vsizip/{}/a.zip/r.tif": "a.zip",
}


@pytest.mark.parametrize("name", VIRTUAL)
def test_open_raster_takes_subdatasets_and_archives(archives, name):
    path = name.format(archives)
    with open_raster(path) as dataset:
        assert grid_of(dataset) == GRID
        assert dataset.read(1)[1, 2] == 62
    assert dataset.closed
    assert os.path.samefile(disk_file(path), archives / VIRTUAL[name])
    with pytest.raises(OutputError, match="is an input too"):
        check_output(archives / VIRTUAL[name], True, [path])
    assert beside("folder", path) == path
    missing = path.replace("r.tif", "none.tif")
    with pytest.raises(InputError, match="not a raster that GDAL can read"), open_raster(missing):
        pass


def test_nothing_is_fetched_from_a_network(tmp_path, raster):
    server = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{server.getsockname()[1]}/a.tif"
    names = [url, f"/vsicurl/{url}", f"/vsicurl_streaming/{url}", f"/vsizip//vsicurl/{url}/a.tif", f"zip+{url}!a.tif"]
    names += ["ftp://host/a.tif", "s3://bucket/a.tif", "/vsis3/bucket/a.tif", "/vsigs/bucket/a.tif", "gs://bucket/a"]
    names += [f'NETCDF:"{url}":a', f"GTIFF_DIR:1:/vsicurl/{url}", f"WMS:{url}", "EEDAI:a", f"vrt://{url}"]
    band = '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>{}</SourceFilename></SimpleSource>'
    vrt = f'<VRTDataset rasterXSize="9" rasterYSize="9">{band}</VRTRasterBand></VRTDataset>'
    made_of = url, f"/vsicurl/{url}", url.replace(":", "&#58;"), tmp_path / "0.vrt", tmp_path / "3.vrt"
    service = f'<Service name="VirtualEarth"><ServerUrl>{url}?${{quadkey}}</ServerUrl></Service>'
    wms = f"<GDAL_WMS>{service}</GDAL_WMS>"
    for i, text in enumerate([*map(vrt.format, made_of), wms]):
        names.append(tmp_path / f"{i}.vrt")
        names[-1].write_text(text)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as target:
        target.write(tmp_path / "0.vrt", "0.vrt")
    for name in (*names, f"/vsizip/{tmp_path}/a.zip/0.vrt"):
        with pytest.raises(InputError, match="lies on a network") as caught, open_raster(name):
            pass
        assert str(caught.value).startswith(f"{name}: ")
    server.setblocking(False)
    with server, pytest.raises(BlockingIOError):  # nobody asked
        server.accept()


def test_grid_of_names_the_way_out(raster):
    with rasterio.open(raster, "r+") as target:
        target.transform = Affine(0, 0, 5, 0, 0, 7)
    cannot = pytest.raises(InputError, match=r"r\.tif: the geotransform .* cannot be inverted; use --pixel-frame")
    with open_raster(raster) as dataset, cannot:
        grid_of(dataset)
    write(raster, np.zeros(GRID.shape, np.uint8), grid=Grid.pixel_frame(60, 40))
    with rasterio.open(raster, "r+") as target:
        corners = [(0, 0), (0, 60), (40, 0), (40, 60)]
        target.gcps = ([GroundControlPoint(r, c, 435000 + c, 4181000 - r) for r, c in corners], UTM)
    with open_raster(raster) as dataset:
        with pytest.raises(InputError, match=r"r\.tif: has no CRS; rectify it first .* or use --pixel-frame"):
            grid_of(dataset)
        assert grid_of(dataset, pixel_frame=True) == Grid.pixel_frame(60, 40)


def test_data_bands_are_those_that_are_not_alpha(tmp_path):
    four, colours = np.zeros((4, *GRID.shape), np.uint8), [ColorInterp.alpha, ColorInterp.gray]
    last = write(tmp_path / "last.tif", four, photometric="rgb", alpha="yes")
    first = write(tmp_path / "first.tif", four[:2], colours=colours)
    for path, bands, alpha in ((last, [1, 2, 3], 4), (first, [2], 1)):
        with open_raster(path) as dataset:
            assert (data_bands(dataset), alpha_band(dataset)) == (bands, alpha)
    only = write(tmp_path / "only.tif", four[:1], colours=colours[:1])
    with open_raster(only) as dataset, pytest.raises(InputError, match=r"only\.tif: has no band but alpha"):
        data_bands(dataset)


def test_atomic_output_appears_at_the_end_only_and_not_at_all_when_its_block_fails(tmp_path):
    target = tmp_path / "out.bin"

    def make(content, error=None):
        with atomic_output(target, overwrite=True) as temporary:
            assert temporary.parent.parent == tmp_path  # the same disk, so that it can be renamed
            temporary.write_bytes(content)
            assert target.exists() == (error is not None)
            if error:
                temporary.with_name("out.bin.aux.xml").write_text("statistics")
                raise error

    make(b"whole")
    with pytest.raises(KeyboardInterrupt):
        make(b"half", KeyboardInterrupt)
    assert target.read_bytes() == b"whole"
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_atomic_output_turns_errors_of_the_disk_into_ours_and_does_not_replace_what_appeared_meanwhile(tmp_path):
    full = pytest.raises(OutputError, match=r"out\.tif: cannot be written \(.*No space left")
    with full, atomic_output(tmp_path / "out.tif"):
        raise OSError(28, "No space left on device")
    with pytest.raises(OutputError, match="cannot be written"), atomic_output(tmp_path / "out.tif") as temporary:
        temporary.unlink()  # nothing there to rename
    assert not list(tmp_path.iterdir())
    late = tmp_path / "late.tif"
    with pytest.raises(OutputError, match="appeared while"), atomic_output(late):
        late.write_bytes(b"someone else's")
    assert late.read_bytes() == b"someone else's"


def test_what_lies_beside_a_replaced_raster_goes_with_it(tmp_path, raster):
    for suffix in (".aux.xml", ".ovr", ".msk", ".txt"):
        raster.with_name(raster.name + suffix).write_text("beside the old raster")
    with atomic_output(raster, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert raster.read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.tif", "r.tif.txt"]


def test_check_output_before_any_work(tmp_path):
    target = tmp_path / "out.tif"
    target.touch()
    check_output(target, overwrite=True)
    make_folder(tmp_path / "a" / "b")
    make_folder(str(tmp_path / "a" / "b"))
    with pytest.raises(OutputError, match=r"out\.tif/in: cannot be made \(Not a directory\)"):
        make_folder(target / "in")
    for path, overwrite, message in (
        (target, False, r"out\.tif: exists; use --overwrite"),
        (tmp_path, True, "is a folder"),
        (target / "out.tif", True, "its folder does not exist"),
    ):
        with pytest.raises(OutputError, match=message), atomic_output(path, overwrite):
            pytest.fail("refused too late")


def test_what_a_killed_process_left_is_taken_away_and_what_another_works_on_is_not(tmp_path):
    target, other = tmp_path / ("x" * 251 + ".tif"), tmp_path / "other.tif"
    killed = (
        "import os, sys\nfrom sn9reg.raster.files import atomic_output\n"
        "outputs = [atomic_output(path) for path in sys.argv[1:]]\n"
        "[output.__enter__().write_text('half') for output in outputs]\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", killed, target, other])
    assert done.returncode == -9
    assert len(list(tmp_path.glob(".sn9reg-*/*"))) == 2
    with atomic_output(target) as working:
        assert {path.name for path in tmp_path.glob(".sn9reg-*/*")} == {target.name, other.name}
        check_output(target)
        assert working.exists()
        working.write_text("whole")
    check_output(other)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_no_spreadsheet_computes_a_text(tmp_path):
    texts = ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1", "1-1", "", None]
    write_csv(tmp_path / "t.csv", pd.DataFrame({"text": texts, "number": [-1.5, *range(-7, 1)], "count": range(-9, 0)}))
    table = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert list(table["text"]) == ["'=1+1", "'+1", "'-x", "'@SUM(A1)", "'\t=1", "' =1", "1-1", "", ""]
    assert list(table["number"]) == [-1.5, *range(-7, 1)]
    assert list(table["count"]) == list(range(-9, 0))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_check_output_in_a_folder_that_is_not_writable(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="not writable"):
        check_output(folder / "out.tif")


@pytest.mark.parametrize(
    ("dtype", "count", "predictor", "interleaving"),
    [
        ("uint8", 4, "2", "pixel"),
        ("uint8", 5, "2", "band"),
        ("float64", 2, "3", "band"),
        ("complex64", 2, None, "band"),
    ],
)
def test_geotiff_profile_writes_what_it_promises(tmp_path, dtype, count, predictor, interleaving):
    values = (np.random.default_rng(0).normal(size=(count, *GRID.shape)) * 50 + 100).astype(dtype)
    profile = geotiff_profile(GRID, count, dtype)
    assert profile["bigtiff"] == "if_safer"  # a file does not tell
    with rasterio.open(tmp_path / "out.tif", "w", **profile) as target:
        target.write(values)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        structure = dataset.tags(ns="IMAGE_STRUCTURE")
        assert (structure["COMPRESSION"], structure.get("PREDICTOR")) == ("DEFLATE", predictor)
        assert (dataset.block_shapes, dataset.interleaving.name) == ([(512, 512)] * count, interleaving)
        assert (dataset.crs, dataset.transform) == (UTM, GRID.transform)
        np.testing.assert_array_equal(dataset.read(), values)
