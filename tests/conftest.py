"""What several test modules share: a simulated scene that `align` registers, and its registration, each made once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from click.testing import CliRunner
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter

from sn9reg.cli import main
from sn9reg.simulate import SimulatedScene, simulate

UTM = CRS.from_epsg(32637)
# (dx, dy) from optical to SAR of `textures`, in pixels.
SHIFT = (9, -6)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Two cores are shared with others here; threads that wait for each other take many times as long."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def scene(tmp_path_factory) -> SimulatedScene:
    """A small simulated pair, with tie-points and exact offsets. Registered with a margin; do not write into it."""
    return simulate(tmp_path_factory.mktemp("scene"), 700, 600, seed=2, looks=8)


@dataclass(frozen=True)
class Aligned:
    """What `sn9reg align --json --sigma --tiepoints-out` made of `scene`."""

    offsets: Path
    tiepoints: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def aligned(scene, tmp_path_factory) -> Aligned:
    folder = tmp_path_factory.mktemp("aligned")
    offsets, tiepoints = folder / "offsets.tif", folder / "matches.csv"
    arguments = ["-v", "align", scene.optical, scene.sar, "--out", offsets, "--sigma", "--tiepoints-out", tiepoints]
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return Aligned(offsets, tiepoints, result.stdout, result.stderr)


def write_raster(path, bands, transform=None, crs=None, **options):
    """(count, h, w) values as a GeoTIFF, or by the extension .png, as a PNG."""
    bands = np.asarray(bands)
    driver = "PNG" if str(path).endswith(".png") else "GTiff"
    profile = {"driver": driver, "count": len(bands), "dtype": options.pop("dtype", bands.dtype)}
    profile |= {"height": bands.shape[1], "width": bands.shape[2], "crs": crs} | options
    if transform is not None:
        profile["transform"] = transform
    with rasterio.open(path, "w", **profile) as target:
        target.write(bands)
    return Path(path)


def textures(width=320, height=280, seed=0):
    """(h, w) uint8 optical and SAR of one texture; what optical shows at (x, y), SAR shows at (x, y) + SHIFT."""
    random = np.random.default_rng(seed)
    whole = gaussian_filter(random.normal(size=(height + 80, width + 80)), 2.5)
    whole = np.clip(whole / whole.std() * 40 + 120, 1, 255)
    (dx, dy), margin = SHIFT, 40
    optical = whole[margin : margin + height, margin : margin + width]
    sar = whole[margin - dy : margin - dy + height, margin - dx : margin - dx + width]
    return optical.astype(np.uint8), sar.astype(np.uint8)


TEXTURE_TRANSFORM = Affine(0.5, 0, 435000, 0, -0.5, 4181000)
