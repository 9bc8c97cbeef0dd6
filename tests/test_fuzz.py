"""Damaged files, hundreds of them: whatever reads one does, or says in one line that names it why it cannot."""

import hashlib
import json
import random
import shutil
import signal
from pathlib import Path

import pytest
import rasterio.shutil
from click.testing import CliRunner
from support.grids import constant
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster

import sn9reg
from sn9reg.cli import main
from sn9reg.errors import InputError, Sn9regError
from sn9reg.judge.calibration import calibration_for
from sn9reg.many.batch import read_manifest
from sn9reg.many.jobs import Job
from sn9reg.matchers.dense.weights import load_dense
from sn9reg.raster.grid import Grid
from sn9reg.raster.scene import PairFiles
from sn9reg.simulate.field import read_geotransforms
from sn9reg.tiepoints import read_tiepoints, write_tiepoints
from sn9reg.training.config import read

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore")]
ROOT = Path(sn9reg.__file__).parents[1]
SECONDS = 20  # that a mutant may take
MUTANTS = 50  # of each file
WORDS = [b"-1", b"0", b"1e999", b"nan", b"9" * 400, b"null", b"[" * 3000, b'"', b",", b"\n", b"\xff", b"\0", b"{}"]
POINTS = ("10,12,11,13,.5,1", "30,40,31.5,41,0,0", "20,50,22,59,1,1", "5,6,6,3,1,1")
CSV = "\n".join(["sar_row,sar_col,optical_row,optical_col,score,inlier", *POINTS])

# What reads a file: a command, with MUTANT for its name, or a function of it.
QUICK = "--matcher structure --max-offset 10 --out x.tif"
RASTERS = (
    f"align o.tif MUTANT {QUICK}", f"align MUTANT s.tif {QUICK}", "apply f.tif MUTANT --out x.tif",
    "score f.tif o.tif MUTANT t.csv",
)  # fmt: skip
READERS = {
    **dict.fromkeys(("o.tif", "s.tif", "s.vrt"), RASTERS),
    "o.png": (f"align MUTANT s.tif --pixel-frame {QUICK}",),
    "f.tif": ("info MUTANT", "score MUTANT o.tif s.tif t.csv", "apply MUTANT s.tif --out x.tif"),
    **dict.fromkeys(("t.csv", "t.geojson", "t.points"), ("score f.tif o.tif s.tif MUTANT --per-point x.csv",)),
    "c.json": (lambda name: calibration_for("hybrid", path=name),),
    "w.safetensors": (load_dense,),
    "y.yaml": (read,),
    "m.csv": (lambda name: read_manifest(name, "out", Job("", "", PairFiles("", ""))),),
    "g.json": (lambda name: read_geotransforms(name, "g"),),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder of the files that are damaged, and of those that are read beside them."""
    folder, (optical, sar), weights = tmp_path_factory.mktemp("sound"), textures(64, 56), ROOT / "sn9reg" / "weights"
    grid = Grid(TEXTURE_TRANSFORM, 64, 56, UTM)
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    write_raster(folder / "o.tif", optical[None], grid.transform, UTM, nodata=0, **tiles)
    write_raster(folder / "s.tif", sar[None], grid.transform, UTM, compress="deflate", blockysize=8)
    rasterio.shutil.copy(folder / "s.tif", folder / "s.vrt", driver="VRT")
    write_raster(folder / "o.png", optical[None])
    constant(grid, 1.0, 1.0, facts={"frame": "map"}).write(folder / "f.tif")
    calibration = json.loads((weights / "calibration.json").read_text())["matchers"]["structure"]
    transforms = {kind: {"geotransform": [0, 0.3, 0, 0, 0, -0.3]} for kind in ("optical", "sar")}
    pairs = "optical,sar,tiepoints,name\no.tif,s.tif,t.csv,a\no.tif,s.vrt,,b\n"
    for name, text in (("t.csv", CSV), ("m.csv", pairs)):
        (folder / name).write_text(text)
    for name, content in (("c.json", calibration), ("g.json", {"g": transforms})):
        (folder / name).write_text(json.dumps(content))
    for name in ("t.geojson", "t.points"):
        write_tiepoints(folder / name, read_tiepoints(folder / "t.csv", grid, grid), grid, grid)
    shutil.copy(weights / "slim-unet.safetensors", folder / "w.safetensors")
    shutil.copy(ROOT / "pipelines" / "training" / "slim-unet.yaml", folder / "y.yaml")
    return folder


def damaged(data, chance):
    """Bytes flipped, left out, cut off, swapped, repeated, or a word in their place: one to four times."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        size = max(1, len(result))
        at = chance.randrange(min(size, chance.choice((64, 400, size))))  # a header is where most can go wrong
        part, other = slice(at, at + chance.choice((1, 4, 30))), chance.randrange(size)
        how = chance.randrange(6)
        if how == 0 and result:
            result[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            del result[part]
        elif how == 2:
            del result[other:]
        elif how == 3:
            result[part] = chance.choice(WORDS)
        elif how == 4:
            result[part] = result[other : other + part.stop - at]
        else:
            result[at:at] = result[part]
    return bytes(result)


def read_by(reader, name):
    """Raises what ends the reading, an InputError where a command ends with a line that says why."""
    if not isinstance(reader, str):
        reader(name)
        return
    result = CliRunner().invoke(main, [name if word == "MUTANT" else word for word in reader.split()])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2, 3), f"exit code {result.exit_code}: {result.stderr}"
    if result.exit_code in (1, 2):
        (line,) = (line for line in result.stderr.splitlines() if line.strip())
        raise InputError(line)


@pytest.mark.parametrize("name", READERS)
def test_damaged(sound, tmp_path, monkeypatch, name):
    monkeypatch.chdir(shutil.copytree(sound, tmp_path / "work"))
    before_alarm = signal.signal(signal.SIGALRM, signal.default_int_handler)
    mutant, faults = Path(f"mutant{Path(name).suffix}"), []

    def contents():
        return {p.name: hashlib.sha256(p.read_bytes()).digest() for p in Path().iterdir() if p.stem != "x"}

    for number in range(MUTANTS):
        chance = random.Random(f"{name} {number}")
        mutant.write_bytes(damaged(Path(name).read_bytes(), chance))
        reader, before = chance.choice(READERS[name]), contents()
        signal.alarm(SECONDS)
        try:
            read_by(reader, str(mutant))
        except Sn9regError as error:
            if mutant.name not in str(error):
                faults.append((number, reader, str(error)))
        except (Exception, KeyboardInterrupt) as error:
            faults.append((number, reader, repr(error)))
        finally:
            signal.alarm(0)
        if contents() != before:
            faults.append((number, reader, "changed files"))
        for target in Path().glob("x.*"):
            target.unlink()
    signal.signal(signal.SIGALRM, before_alarm)
    assert not faults, "\n".join(map(str, faults))
