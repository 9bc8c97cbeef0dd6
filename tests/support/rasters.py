"""Small rasters: textures and fields, alone and as pairs of scenes."""

import warnings
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter

from sn9reg.raster.scene import PairFiles

UTM = CRS.from_epsg(32637)
# (dx, dy) from optical to SAR of `textures`, in pixels.
SHIFT = (9, -6)


def write_raster(path, bands, transform=None, crs=None, mask=None, colours=None, **options):
    """(count, h, w) values as a GeoTIFF, or by the extension .png, as a PNG; `mask` inside the file, `colours` of the
    bands."""
    bands = np.asarray(bands)
    profile = {"driver": "PNG" if str(path).endswith(".png") else "GTiff", "count": len(bands), "dtype": bands.dtype}
    profile |= {"height": bands.shape[1], "width": bands.shape[2], "transform": transform, "crs": crs} | options
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile) as target:
            target.write(bands)
            if colours is not None:
                target.colorinterp = colours
            if mask is not None:
                target.write_mask(mask)
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


def turned(side, degrees, zoom=1.0, dx=0.0, dy=0.0):
    """(3, 3) optical pixel -> SAR pixel of images of `side` px: turned and scaled about the middle, then shifted."""
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2,) * 2, -degrees, zoom)
    matrix[:, 2] += dx, dy
    return np.vstack([matrix, [0, 0, 1]])


def seen_through(ground, matrix, side):
    """The (side, side) middle of a larger ground, and what lies at p in it at matrix(p)."""
    rim = (len(ground) - side) // 2
    back = np.array([[1.0, 0, -rim], [0, 1, -rim], [0, 0, 1]])
    moved = cv2.warpPerspective(ground, matrix @ back, (side, side), flags=cv2.INTER_AREA)
    return ground[rim : rim + side, rim : rim + side].copy(), moved


def open_plain(optical, sar, **options):
    """A pair opened with all that it holds: a part of one value is no collar."""
    return PairFiles(optical, sar, keep_collar=True, **options).open()


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
    with open_plain(folder / "optical.tif", folder / "sar.tif") as pair:
        yield pair
