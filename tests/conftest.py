"""What several test modules share: a simulated scene that `align` registers, and its registration, each made once."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from click.testing import CliRunner
from PIL import Image
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter
from torch import nn

from sn9reg.cli import main
from sn9reg.networks.table import build
from sn9reg.scene import open_pair
from sn9reg.simulate import SimulatedScene, simulate
from sn9reg.weights.store import Architecture, save_weights

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

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


def fields(side, seed):
    """A texture of blobs with sharp edges, as fields and roofs have, in [0, 1]."""
    random = np.random.default_rng(seed)
    coarse, fine = (gaussian_filter(random.normal(size=(side, side)), width) for width in (14, 4))
    edges = (coarse > 0) * 0.5 + (fine > 0.5 * fine.std()) * 0.35
    return gaussian_filter(edges, 1.0) + 0.1


@contextmanager
def pair_of(folder, shape=(300, 330), shift=(9, -6), looks=4.0, seed=0, empty=None, same=False):
    """Opened: an optical image, and a SAR image of reversed contrast in speckle, its content `shift` px away; if
    `same`, of like contrast, without speckle, and partly negative as decibels are. `empty` (slices) is nodata."""
    rim = max(map(abs, shift)) + 1
    whole = fields(max(shape) + 2 * rim, seed)
    (dx, dy), (height, width) = shift, shape
    optical = whole[rim : rim + height, rim : rim + width]
    sar = whole[rim - dy : rim - dy + height, rim - dx : rim - dx + width].copy()
    if same:
        sar = 10 * (sar - sar.mean() - 1e-3)
    else:
        sar = 500 * (1.1 - sar) * np.random.default_rng(seed + 1).gamma(looks, 1 / looks, sar.shape)
    if empty is not None:
        sar[empty] = 0
    for name, values, nodata in (("optical", 200 * optical + 20, None), ("sar", sar, 0)):
        values = values[None].astype(np.float32)
        write_raster(folder / f"{name}.tif", values, TEXTURE_TRANSFORM, UTM, nodata=nodata)
    with open_pair(folder / "optical.tif", folder / "sar.tif") as pair:
        yield pair


def write_pairs(folder, count=6, side=96, seed=0):
    """Registered pairs of random ground as NAME_opt.png and NAME_sar.png; SAR is optical reversed, with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for k in range(count):
        ground = gaussian_filter(random.normal(size=(side, side)), 1.5)
        optical = np.clip(ground / ground.std() * 40 + 120, 1, 255)
        sar = np.clip((256 - optical) * random.gamma(16, 1 / 16, ground.shape), 1, 255)
        for kind, values in (("opt", optical), ("sar", sar)):
            Image.fromarray(values.astype(np.uint8)).save(folder / f"{k}_{kind}.png")
    return folder


def write_manifest(folder, side=96):
    """A manifest of two places, at 5 and 15 degrees of longitude, in two years. Optical pixels hold their column, SAR
    pixels minus their row and one, in decibels."""
    folder.mkdir(parents=True, exist_ok=True)
    row, col = np.mgrid[:side, :side].astype(np.float32)
    lines = ["optical,sar,lon,lat,year,season"]
    for lon in (5, 15):
        for year in (2018, 2020):
            stem = f"{lon}_{year}"
            write_raster(folder / f"{stem}_opt.tif", col[None], TEXTURE_TRANSFORM, UTM)
            write_raster(folder / f"{stem}_sar.tif", -1 - row[None], TEXTURE_TRANSFORM, UTM)
            lines.append(f"{stem}_opt.tif,{stem}_sar.tif,{lon},50,{year},summer")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder / "manifest.csv"


# By which surface each network is compared in its paper.
SIMILARITY = {"mcgf": "cc", "osmnet": "ssd", "fft-unet": "zncc", "maru-net": "zncc", "slim-unet": "zncc"}


def untrained(name, shared=True, **options):
    """A network in eval mode whose batch normalisations are those of a trained one: nothing is 0 or 1 as at the start,
    and features are neither huge nor gone."""
    torch.manual_seed(3)
    network = build(name, shared, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0
    channels = options.get("in_channels", 1)
    with torch.no_grad():
        for branch in network.branches.values():
            branch(torch.randn(2, channels, 64, 64))
    return network.eval()


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    """Network -> a file of Siamese weights that nobody trained: what looks alike gets like features."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_weights(path, untrained(name), Architecture(name, True, SIMILARITY[name]))
        return path

    return file
