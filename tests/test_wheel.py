"""The wheel has all that a registration needs: it is built, unpacked into an empty environment, and run from there."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import sn9reg
from sn9reg.weights import store

pytestmark = pytest.mark.wheel
ROOT = Path(sn9reg.__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of a copy, by the setuptools that is installed, so that nothing is fetched and nothing left here."""
    pytest.importorskip("setuptools", minversion="77")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "sn9reg", copy / "sn9reg", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    call([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, copy])
    (built,) = out.glob("*.whl")
    return built


def call(command, **options) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [str(part) for part in command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package_and_is_small(wheel):
    """Its size is what the README says."""
    listed = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sn9reg").rglob("*") if path.is_file()}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in listed - held if "__pycache__" not in name} == set()
    assert {f"sn9reg/weights/{card['file']}" for card in store.manifest().values()} <= held
    assert not [name for name in held if not name.startswith(("sn9reg/", "sn9reg-"))]
    (size,) = re.findall(r"a wheel of (\d+) MB", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert abs(wheel.stat().st_size / 1e6 - int(size)) < 1


def test_what_is_installed_of_it_registers_a_pair_elsewhere(wheel, scene, tmp_path):
    """A new environment, which sees the libraries of this one but not the sn9reg that may be installed among them."""
    call([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"])
    python, here = tmp_path / "env" / "bin" / "python", sysconfig.get_paths()["purelib"]
    site = Path(call([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip())
    call([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel])
    (site / "libraries.pth").write_text(f"{here}\n")  # comes after the folder that it lies in; its .pth are not read
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = call([python, "-c", "import sn9reg; print(sn9reg.__file__)"], cwd=elsewhere)
    assert Path(where.strip()).is_relative_to(site)
    pair = [scene.optical, scene.sar]
    said = json.loads(call([python.parent / "sn9reg", "align", *pair, "--out", "x.tif", "--json"], cwd=elsewhere))
    assert (said["registered"], said["calibrated"]) == (True, True)
    assert [path.name for path in elsewhere.iterdir()] == ["x.tif"]
