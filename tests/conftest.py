"""What several test modules share: a simulated scene that `align` registers, and its registration, each made once."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import hypothesis
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.networks import SIMILARITY, untrained
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg import register
from sn9reg.cli import main
from sn9reg.matchers.dense.weights import DenseOptions, save_dense
from sn9reg.raster.scene import PairFiles
from sn9reg.registration import Registration
from sn9reg.simulate import SimulatedScene, simulate

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("untimed", deadline=None, max_examples=40)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items):
    """What takes longest comes first, so that in the end no worker waits for another."""
    items.sort(key=lambda item: item.get_closest_marker("notebook") is None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tests run side by side; threads that wait for each other take many times as long."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def scene(tmp_path_factory) -> SimulatedScene:
    """A small simulated pair, with tie-points and exact offsets. Registered with a margin; do not write into it."""
    return simulate(tmp_path_factory.mktemp("scene"), 700, 600, seed=2, looks=8)


@pytest.fixture(scope="session")
def aligned(scene, tmp_path_factory) -> SimpleNamespace:
    """What `sn9reg align --json --sigma --tiepoints-out --gcps-out` made of `scene`: paths, stdout and stderr."""
    folder = tmp_path_factory.mktemp("aligned")
    offsets, tiepoints, gcps = folder / "offsets.tif", folder / "matches.csv", folder / "sar.vrt"
    arguments = ["-v", "align", scene.optical, scene.sar, "--out", offsets, "--sigma", "--tiepoints-out", tiepoints]
    result = CliRunner().invoke(main, [*map(str, arguments), "--gcps-out", str(gcps), "--json"])
    assert result.exit_code == 0, result.output
    paths = {"offsets": offsets, "tiepoints": tiepoints, "gcps": gcps}
    return SimpleNamespace(**paths, stdout=result.stdout, stderr=result.stderr)


@pytest.fixture(scope="session")
def small_files(tmp_path_factory) -> tuple[Path, Path]:
    """The pair of `textures`, 200 x 180 px, as files; do not write into them."""
    folder = tmp_path_factory.mktemp("small")
    paths = folder / "o.tif", folder / "s.tif"
    for path, image in zip(paths, textures(200, 180), strict=True):
        write_raster(path, image[None], TEXTURE_TRANSFORM, UTM)
    return paths


@pytest.fixture
def small_pair(small_files, tmp_path, monkeypatch) -> PairFiles:
    """The working directory is a folder of the test's with that pair, and two of its tie-points in t.csv."""
    monkeypatch.chdir(tmp_path)
    for path in small_files:
        shutil.copy(path, tmp_path)
    Path("t.csv").write_text("sar_row,sar_col,optical_row,optical_col\n50,60,56,51\n150,160,156,151\n")
    return PairFiles("o.tif", "s.tif")


@pytest.fixture
def _blank_figures(monkeypatch):
    """A report's figures are composed, but not drawn, which takes long."""
    blank = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    monkeypatch.setattr("sn9reg.report.figures._png", lambda _figure: blank)


@pytest.fixture(scope="session")
def small_registration(small_files) -> Registration:
    """What `structure` makes of that pair; for tests whose subject is what becomes of a registration."""
    return register(*small_files, matcher="structure", matcher_options={"max_offset": 10.0})


@pytest.fixture
def registered_as(monkeypatch, small_registration):
    """Called with a truth value, it makes `register` say of any pair what that registration is, registered or not."""

    def known(registered=True) -> Registration:
        verdict = replace(small_registration.verdict, registered=registered)
        found = replace(small_registration, verdict=verdict)
        monkeypatch.setattr("sn9reg.registration.register", lambda *_, **__: found)
        return found

    return known


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    """Network -> a file of Siamese weights that nobody trained: what looks alike gets like features."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_dense(path, untrained(name), DenseOptions(name, True, SIMILARITY[name]))
        return path

    return file
