"""What GDAL's own command-line tools see in the files, and whether they warp as `apply` does."""

import json
import shutil
import subprocess

import cv2
import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter
from support.grids import write
from support.rasters import TEXTURE_TRANSFORM, UTM

from sn9reg.apply import apply_offsets
from sn9reg.offsets import OffsetMap, from_nodes, node_positions, open_offsets
from sn9reg.raster.grid import Grid

pytestmark = [
    pytest.mark.gdal,
    pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="GDAL's tools are not there (e.g. gdal-bin)"),
]
OPTICAL = Grid(TEXTURE_TRANSFORM, 240, 200, UTM)
# The SAR raster has other pixels, of 0.6 m, and reaches further.
SAR = Grid(Affine(0.6, 0, 434990, 0, -0.6, 4181012), 260, 230, UTM)
FACTS = {"registered": "yes", "matcher": "structure", "reason": "12 of 14 patches agree; déjà vu"}


def tool(*command) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def gdalinfo(path, *options) -> dict:
    return json.loads(tool("gdalinfo", "-json", *options, path))


def curved(xy):
    """Offsets in optical pixels, (N, 2)."""
    x, y = xy.T / 200
    return np.column_stack([7.3 + 2 * x - 0.8 * y + 2 * x * y - x**2, -4.2 - 1.2 * x + 2.4 * y + 1.5 * y**2 - x * y])


def offset_map(sigma=False) -> OffsetMap:
    xy, (ny, nx) = node_positions(OPTICAL, 16)
    bands = [*curved(xy).T, *([np.full(len(xy), 0.75)] if sigma else [])]
    return from_nodes(OPTICAL, np.stack(bands).reshape(-1, ny, nx).astype(np.float32), 16, FACTS)


@pytest.fixture
def sar(tmp_path):
    """A smooth image: a difference of 1 is some hundredths of a pixel."""
    texture = gaussian_filter(np.random.default_rng(0).normal(size=SAR.shape), 4)
    values = (1000 + 100 * texture / texture.std()).astype(np.float32)
    return write(tmp_path / "sar.tif", values, SAR, nodata=-9999)


def test_gdalinfo_sees_pixels_bands_units_nodata_tiles_and_tags(tmp_path):
    """Predictor and compression are understood by another GDAL than the one that wrote them."""
    offset_map(sigma=True).write(tmp_path / "offsets.tif")
    info = gdalinfo(tmp_path / "offsets.tif", "-stats")
    for band, expected in zip(info["bands"], offset_map(sigma=True).read(OPTICAL.window), strict=True):
        found = [band[key] for key in ("minimum", "maximum", "mean")]
        assert found == pytest.approx([expected.min(), expected.max(), expected.mean()], abs=2e-3)
        assert (band["unit"], band["type"], band["block"]) == ("px", "Float32", [512, 512])
        assert str(band["noDataValue"]).lower() == "nan"
    assert [band["description"] for band in info["bands"]] == ["dx", "dy", "sigma"]
    assert info["metadata"]["IMAGE_STRUCTURE"]["COMPRESSION"] == "DEFLATE"
    assert {f"SN9REG_{key.upper()}": value for key, value in FACTS.items()}.items() <= info["metadata"][""].items()
    assert (info["geoTransform"], info["size"]) == ([435000, 0.5, 0, 4181000, 0, -0.5], [240, 200])


def test_gdalwarp_through_the_same_tie_points_gives_the_same_picture(tmp_path, sar):
    """By a polynomial, which GDAL's own of that order holds exactly; in pixels, by way of the picture's gradient."""
    apply_offsets(offset_map(), sar, tmp_path / "ours.tif", resampling="bilinear")

    x, y = np.meshgrid(np.arange(-20, 261, 40), np.arange(-20, 221, 40))
    optical_xy = np.column_stack([x.ravel(), y.ravel()]).astype(float)
    # GDAL counts pixels from the corner of the first, so that its centre is 0.5.
    sar_xy = SAR.to_pixel(OPTICAL.to_map(optical_xy + curved(optical_xy))) + 0.5
    points = []
    for (column, row), place in zip(sar_xy, OPTICAL.to_map(optical_xy), strict=True):
        points += ["-gcp", f"{column:.9f}", f"{row:.9f}", f"{place[0]:.9f}", f"{place[1]:.9f}"]
    tool("gdal_translate", "-q", "-of", "VRT", "-a_srs", "EPSG:32637", *points, sar, tmp_path / "gcps.vrt")
    extent = ["-te", 435000, 4181000 - 100, 435000 + 120, 4181000, "-ts", 240, 200]
    exactly = ["-et", 0, "-r", "bilinear", "-wo", "XSCALE=1", "-wo", "YSCALE=1"]
    tool("gdalwarp", "-q", "-order", 2, *extent, *exactly, tmp_path / "gcps.vrt", tmp_path / "theirs.tif")

    (band,) = gdalinfo(tmp_path / "ours.tif", "-checksum")["bands"]
    with rasterio.open(tmp_path / "ours.tif") as a, rasterio.open(tmp_path / "theirs.tif") as b:
        assert (band["noDataValue"], band["checksum"]) == (-9999, a.checksum(1))
        assert (a.transform, a.shape, a.crs) == (b.transform, b.shape, b.crs)
        ours, theirs = a.read(1, masked=True), b.read(1, masked=True)
    assert not (ours.mask | theirs.mask).any()
    dy, dx = np.gradient(ours.data)
    slope = np.hypot(dx, dy).mean()
    assert slope > 5  # else the pictures would agree wherever they lay
    difference = np.abs(ours.data - theirs.data)
    assert np.sqrt((difference**2).mean()) / slope < 0.002
    # The check itself: a twentieth of a pixel beside, and they would not agree.
    assert np.abs(theirs.data + 0.05 * dx - ours.data).mean() / slope > 0.001


def test_gdalwarp_through_our_ground_control_points_shows_what_apply_shows(tmp_path, scene, aligned):
    """Tile by tile, to half a pixel, under a displacement of some ten pixels."""
    with open_offsets(aligned.offsets) as offsets:
        apply_offsets(offsets, scene.sar, tmp_path / "ours.tif", resampling="cubic")
        grid = offsets.grid
    (left, bottom), (right, top) = grid.outline().min(axis=0), grid.outline().max(axis=0)
    extent = ["-te", left, bottom, right, top, "-ts", grid.width, grid.height]
    for name, how in (("theirs", ["-tps", aligned.gcps]), ("unmoved", [scene.sar])):
        tool("gdalwarp", "-q", "-r", "cubic", *extent, *how, tmp_path / f"{name}.tif")
    tiles = []
    for name in ("ours", "theirs", "unmoved"):
        with rasterio.open(tmp_path / f"{name}.tif") as dataset:
            image = np.log1p(dataset.read(1).astype(np.float32))
        tiles.append([image[y : y + 200, x : x + 200] for y in range(0, 600, 200) for x in range(0, 600, 200)])
    window = cv2.createHanningWindow((200, 200), cv2.CV_32F)
    shifts = [[np.hypot(*cv2.phaseCorrelate(a, b, window)[0]) for a, b in zip(tiles[0], t, strict=True)] for t in tiles]
    assert max(shifts[1]) < 0.5
    assert np.median(shifts[2]) > 5  # the check itself
