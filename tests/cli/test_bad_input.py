"""What cannot work ends in one line that says why, the right exit code, and a folder as it was before."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from scipy.io import netcdf_file
from support.commands import contents, refused, run
from support.grids import constant
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, textures, write_raster

import sn9reg
from sn9reg.cli import errors_in_one_line
from sn9reg.raster.grid import Grid

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
OPTICAL, SAR = textures(220, 200)
ALIGN = "align --out x.tif --max-offset 10 --matcher structure"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(sn9reg.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def write(name, bands, transform=TEXTURE_TRANSFORM, crs=UTM, **options):
    bands = np.asarray(bands)
    return write_raster(name, bands if bands.ndim == 3 else bands[None], transform, crs, **options)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with a pair that registers (o.tif, s.tif), offsets of it and tie-points."""
    path = tmp_path_factory.mktemp("sound")
    write(path / "o.tif", OPTICAL)
    write(path / "s.tif", SAR)
    constant(Grid(TEXTURE_TRANSFORM, 220, 200, UTM), 0, 0).write(path / "offsets.tif")
    (path / "t.csv").write_text("sar_row,sar_col,optical_row,optical_col\n50,60,56,51\n")
    return path


@pytest.fixture
def folder(sound, tmp_path, monkeypatch):
    """A copy of it, the working directory."""
    monkeypatch.chdir(shutil.copytree(sound, tmp_path, dirs_exist_ok=True))
    return tmp_path


# Name of the bad file -> how it is made, and what the line must say.
def truncated(name, share, **options):
    write(name, np.random.default_rng(0).integers(1, 255, (600, 600)).astype(np.uint8), **options)
    data = Path(name).read_bytes()
    Path(name).write_bytes(data[: int(len(data) * share)])


def no_bands(name):
    """A netCDF container: two variables of different shapes are subdatasets, and it has no band itself."""
    with netcdf_file(name, "w") as target:
        for variable, n in (("a", 8), ("b", 9)):
            for axis in "yx":
                target.createDimension(f"{axis}{n}", n)
            target.createVariable(variable, "f4", (f"y{n}", f"x{n}"))[:] = 1


def vrt(name, source, side=200):
    Path(name).write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>EPSG:32637</SRS>'
        "<GeoTransform>435000,0.5,0,4181000,0,-0.5</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="1">'
        f"{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )


FAR = Affine(0.5, 0, 535000, 0, -0.5, 4181000)
LOCAL = CRS.from_wkt('LOCAL_CS["mine",UNIT["metre",1]]')
BAD_FILES = {
    "missing.tif": (lambda name: None, "no such file"),
    f"{'long' * 100}.tif": (lambda name: None, "no such file"),
    "o.tif/x.tif": (lambda name: None, "no such file"),
    "folder.tif": (lambda name: Path(name).mkdir(), "is a folder"),
    "pipe.tif": (os.mkfifo, "is a pipe or a device"),
    "huge.vrt": (lambda name: vrt(name, "s.tif", 200_000), "200000 x 200000 px are too many"),
    "text.tif": (lambda name: Path(name).write_text("no raster"), "not a raster"),
    "empty.tif": (lambda name: Path(name).write_text(""), "not a raster"),
    "header.tif": (lambda name: truncated(name, 0.0003), "not a raster"),
    "truncated.tif": (lambda name: truncated(name, 0.7, tiled=True), "truncated"),
    "lost.vrt": (lambda name: vrt(name, "gone.tif"), "gone.tif"),
    "no_crs.tif": (lambda name: write(name, SAR, crs=None), "no CRS; use --pixel-frame"),
    "no_geotransform.tif": (lambda name: write(name, SAR, None), "no geotransform; use --pixel-frame"),
    "neither.tif": (lambda name: write(name, SAR, None, None), "no CRS; use --pixel-frame"),
    "degenerate.tif": (lambda name: write(name, SAR, Affine(0.5, 0.5, 435000, 0.5, 0.5, 4181000)), "geotransform"),
    "engineering.tif": (lambda name: write(name, SAR, crs=LOCAL), "--pixel-frame"),
    "nowhere.tif": (lambda name: write(name, SAR, Affine(0.01, 0, 10, 0, -0.01, 200), CRS.from_epsg(4326)), "CRS"),
    "far.tif": (lambda name: write(name, SAR, FAR), "do not overlap"),
    "nodata.tif": (lambda name: write(name, np.zeros_like(SAR), nodata=0), "no valid pixel"),
    "nan.tif": (lambda name: write(name, np.full(SAR.shape, np.nan, np.float32)), "no valid pixel"),
    "complex.tif": (lambda name: write(name, SAR.astype(np.complex64)), "amplitude or intensity"),
    "complex_int.tif": (lambda name: write(name, SAR.astype(np.int16), dtype="complex_int16"), "amplitude"),
    "no_bands.nc": (no_bands, "no_bands.nc"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_used(folder, name):
    make, said = BAD_FILES[name]
    make(name)
    refused(f"{ALIGN} o.tif {name}", said, name)
    refused(f"{ALIGN} {name} s.tif", said, name)


def test_two_images_without_a_georeference(folder):
    write("o.png", OPTICAL, None, None)
    write("s.png", SAR, None, None)
    refused(f"{ALIGN} o.png s.png", "o.png: has no CRS; use --pixel-frame")


def test_a_damaged_png(folder):
    truncated("half.png", 0.5)
    refused(f"{ALIGN} o.tif half.png --pixel-frame", "half.png", "truncated")


@pytest.mark.parametrize(
    ("name", "bands", "transform"),
    [
        ("pixel.tif", SAR[:1, :1], TEXTURE_TRANSFORM),
        ("constant.tif", np.full_like(SAR, 7), TEXTURE_TRANSFORM),
        ("edge.tif", SAR, TEXTURE_TRANSFORM @ Affine.translation(217, 197)),
        ("strip.tif", SAR[:, :3], TEXTURE_TRANSFORM),
        ("noise.tif", np.random.default_rng(1).integers(1, 255, SAR.shape).astype(np.uint8), TEXTURE_TRANSFORM),
    ],
)
def test_what_gives_no_evidence_is_not_registered(folder, name, bands, transform):
    write(name, bands, transform)
    refused(f"{ALIGN} o.tif {name}", name, codes=(1, 3))
    refused(f"{ALIGN} {name} s.tif", name, codes=(1, 3))


def test_of_many_bands_the_first_three_are_used_and_nan_and_infinity_are_left_out(folder):
    other = np.random.default_rng(2).integers(1, 125, OPTICAL.shape)
    write("o.tif", np.stack([OPTICAL // 2] * 3 + [other, other // 2]).astype(float))
    sar = (SAR // 2).astype(float)
    sar[40:80, 40:90], sar[100:130, 100:110], sar[200:205] = np.nan, np.inf, -np.inf
    write("s.tif", sar)
    result = run(ALIGN, "o.tif s.tif")
    assert result.exit_code == 0, result.output
    with rasterio.open("x.tif") as offsets:
        np.testing.assert_allclose(offsets.read().mean(axis=(1, 2)), SHIFT, atol=0.2)


@pytest.mark.parametrize("out", ["no/x.tif", "o.tif/x.tif", ".", "/dev/full", "/dev/null"])
def test_a_target_that_cannot_be_written(folder, out):
    score = "score offsets.tif o.tif s.tif t.csv --per-point"
    for command in ("align o.tif s.tif --out", "apply offsets.tif s.tif --out", score):
        refused(f"{command} {out} --overwrite", out)
    assert not Path("/dev/null").is_file()


def test_a_compression_that_cannot_hold_floats(folder, monkeypatch):
    monkeypatch.setattr("sn9reg.registration.register", lambda *_, **__: pytest.fail("too late"))
    refused(f"{ALIGN} o.tif s.tif --co COMPRESS=JPEG", "x.tif: cannot be written")


def test_a_target_that_exists(folder):
    Path("x.tif").write_text("mine")
    Path("m.csv").write_text("mine")
    refused("align o.tif s.tif --out x.tif", "x.tif", "--overwrite")
    refused("align o.tif s.tif --out y.tif --tiepoints-out m.csv", "m.csv")
    refused("apply offsets.tif s.tif -o x.tif", "x.tif", "--overwrite")
    refused("align o.tif s.tif --out y.csv --tiepoints-out ./y.csv", "same file", codes=(2,))


def test_inputs_are_never_written(folder):
    Path("link.tif").symlink_to("s.tif")
    Path("hard.tif").hardlink_to("o.tif")
    for command, targets in (
        ("align o.tif s.tif --out", ("o.tif", "s.tif", "./s.tif", "link.tif", "hard.tif")),
        ("apply offsets.tif s.tif --optical o.tif -o", ("offsets.tif", "s.tif", "o.tif")),
        ("score offsets.tif o.tif s.tif t.csv --per-point", ("offsets.tif", "o.tif", "s.tif", "t.csv")),
    ):
        for target in targets:
            refused(f"{command} {target} --overwrite", "input")


@pytest.mark.parametrize(
    "arguments",
    [
        *(f"--matcher {v}" for v in ("nonesuch", "structure+", "structure+nonesuch", "structure+structure")),
        *(f"--matcher structure+ncc --matcher-option {v}=48" for v in ("template", "sift.template", "ncc.nonesuch")),
        "--model nonesuch",
        "--pose nonesuch",
        "--nonesuch",
        *(f"--matcher-option {v}" for v in ("template", *(f"{n}=1" for n in ("nonesuch", "name", "self", "options")))),
        *(f"--matcher-option template={v}" for v in ("abc", "0", "-5", "9.5", "true", "null", "NaN")),
        *(f"--matcher-option template={v}" for v in ("9" * 400, "9" * 5000, "[" * 100_000)),
        *(f"--matcher-option {v}" for v in ("spacing=1e-9", "max_offset=1e308", "max_offset=Infinity", 'spacing="a"')),
        *(f"--max-offset {v}" for v in ("0", "-1", "nan", "inf", "far", "1e308")),
        *(f"--threshold {v}" for v in ("0", "nan", "1e308")),
        *(f"--threads {v}" for v in ("0", "100000", str(2**31))),
        *(f"--device {v}" for v in ("gpu", "cuda:99", "cuda:x", "CPU", "0")),
        "--calibration none.json",
        *(f"--tiepoints-out {v}" for v in ("m.txt", "m", "m.geojson --pixel-frame")),
        *(f"--co {v}" for v in ("COMPRESS", "=x", "WIDTH=5", "driver=PNG", "dtype=uint8", "crs=EPSG:4326", "gcps=1")),
        *(f"--co {v}" for v in ("COMPRESS=NOPE", "NOPE=1", "ZLEVEL=99", "BLOCKXSIZE=x", "NUM_THREADS=x", "BIGTIFF=x")),
    ],
)
def test_usage_errors_end_with_2(folder, arguments):
    refused(f"{ALIGN} o.tif s.tif {arguments}", codes=(2,))


@pytest.mark.parametrize(
    "command",
    [
        "align o.tif {} --out x.tif",
        "align o.tif s.tif --out {}x",
        "align o.tif s.tif --out x.tif --tiepoints-out {}.csv",
        "align o.tif s.tif --out x.tif --report {}x",
        "apply offsets.tif {} --out x.tif",
        "apply offsets.tif s.tif --out {}x",
        "report offsets.tif o.tif s.tif --out {}x",
        "info {}",
    ],
)
def test_a_name_that_is_not_utf8(folder, command):
    name = os.fsdecode(b"\xff\x1b[31m.tif")
    Path(name).write_bytes(Path("s.tif").read_bytes())
    refused(command.format(name), r"\udcff\x1b[31m.tif", "UTF-8")


@pytest.mark.parametrize(
    "command",
    [
        "info pipe",
        "info /dev/zero",
        "score offsets.tif o.tif s.tif pipe",
        "batch pipe --out out",
        "simulate new --field pipe",
        "align o.tif s.tif --out x.tif --calibration pipe",
        "align o.tif s.tif --out x.tif --matcher-option weights=pipe",
    ],
)
def test_a_pipe_is_not_waited_for(folder, command):
    os.mkfifo("pipe")
    refused(command, "is a pipe or a device")


def test_bands_that_would_fill_the_memory(folder):
    refused(f"{ALIGN} o.tif s.tif" + " --sar-bidx 1" * 65, "s.tif: 65 bands are too many", "--sar-bidx")


def test_a_report_of_a_file_that_is_damaged_where_nothing_is_shown(folder):
    truncated("damaged.tif", 0.7, tiled=True)
    refused("report offsets.tif o.tif damaged.tif --out new", "damaged.tif", "truncated")


# From outside: what a process of its own prints, and signals.


ONE_BY_ONE = """
import sys
from sn9reg.cli import main
for name in sys.argv[1:]:
    pair = ["a.png", "b.png", "--pixel-frame"] if name == "pixels" else ["o.tif", name]
    try:
        main(["align", *pair, "--out", "x.tif", "--overwrite", "--max-offset", "10", "--matcher", "structure"])
    except SystemExit as stop:
        print(stop.code)
"""


def test_gdal_prints_nothing_itself(folder):
    names = ["truncated.tif", "header.tif", "lost.vrt", "no_bands.nc", "text.tif", "nowhere.tif", "engineering.tif"]
    for name in names:
        BAD_FILES[name][0](name)
    write("a.png", OPTICAL, None, None)
    write("b.png", SAR, None, None)
    Path("x.tif").touch()
    before = contents()
    call = [sys.executable, "-c", ONE_BY_ONE, *names, "pixels"]
    done = subprocess.run(call, capture_output=True, text=True, env=ENVIRONMENT, timeout=100)
    assert done.stdout.splitlines()[: len(names)] == ["1"] * len(names)
    assert "registered" in done.stdout.splitlines()[-2]
    assert done.stdout.splitlines()[-1] == "0"
    lines = done.stderr.splitlines()
    assert len(lines) == len(names), lines
    assert all(line.startswith("sn9reg: ") for line in lines), lines
    assert contents().keys() == before.keys()


@pytest.mark.parametrize("command", ["align o.tif s.tif", "apply offsets.tif s.tif"])
def test_a_full_disk(folder, registered_as, capfd, command):
    """A file may grow to 20 kB only, as if the disk were full then. libtiff itself prints that too, once per block."""
    registered_as(True)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))
    try:
        refused(f"{command} --out x.tif --co COMPRESS=NONE --co PREDICTOR=1", "x.tif: cannot be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert [line for line in capfd.readouterr().err.splitlines() if "_tiffWriteProc" not in line] == []


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, a process ignores it
import sn9reg.apply
def slow(function):
    def called(*args, **kwargs):
        print("here", flush=True)
        time.sleep(20)
        return function(*args, **kwargs)
    return called
if "align" in sys.argv:
    import sn9reg.matchers.dense.descent as descent
    descent.search = slow(descent.search)
sn9reg.apply.interpolate = slow(sn9reg.apply.interpolate)
from sn9reg.cli import main
main(prog_name="sn9reg")
"""


@pytest.mark.parametrize(
    ("command", "number"),
    [(f"-v {ALIGN} o.tif s.tif", signal.SIGINT), ("apply offsets.tif s.tif --out x.tif", signal.SIGTERM)],
)
def test_a_signal(folder, command, number):
    """The signal comes when the process says that it is there, and finds it matching or writing. With -v, stderr says
    more."""
    before = contents()
    call = [sys.executable, "-c", SLOW, *command.split()]
    process = subprocess.Popen(call, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "here\n"
        assert len(list(Path().glob(".sn9reg-*/x.tif"))) == ("apply" in command)  # the temporary file
        time.sleep(0.2)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    *lines, last = stderr.splitlines()
    assert last.startswith("sn9reg: interrupted")
    assert all(line.startswith("sn9reg: ") for line in lines)
    assert any(line.startswith("sn9reg: open: ") for line in lines) == ("-v" in command)
    assert contents() == before
    assert not list(Path().glob(".sn9reg-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_comes_once_and_where_nobody_has_seen_to_it(number):
    heard, before = [], signal.signal(number, signal.SIG_DFL)
    stack = ExitStack()
    stack.callback(lambda: heard.append("cleaned up"))
    stack.callback(lambda: signal.raise_signal(number))
    with pytest.raises(SystemExit) as stopped, errors_in_one_line(), stack:
        signal.raise_signal(number)
    assert (heard, stopped.value.code) == (["cleaned up"], 128 + number)
    signal.signal(number, lambda *_: heard.append("somebody else"))
    with errors_in_one_line():
        signal.raise_signal(number)
    signal.signal(number, before)
    assert heard == ["cleaned up", "somebody else"]


@pytest.mark.parametrize("arguments", [["--version"], ["info", "offsets.tif"]])
def test_standard_output_that_cannot_be_written(folder, arguments):
    """A full disk is an error; a pipe that nobody reads any more is how many a pipeline ends."""
    call = [sys.executable, "-m", "sn9reg", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (1, "sn9reg: standard output: No space left on device\n")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(call, stdout=writing, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_files_beside_the_map_have_its_name(folder):
    before = {path.name for path in folder.iterdir()}
    command = "apply offsets.tif s.tif --out x.tif --co TFW=YES"
    assert run(command).exit_code == 0
    assert {path.name for path in folder.iterdir()} - before == {"x.tif", "x.tfw"}
    Path("x.tif").unlink()
    refused(command, "x.tfw: exists; use --overwrite")
    assert run(command, "--overwrite").exit_code == 0


def test_too_little_memory(folder, monkeypatch):
    monkeypatch.setattr("sn9reg.matchers.dense.descent.search", Mock(side_effect=MemoryError))
    refused(f"{ALIGN} o.tif s.tif", "out of memory")
