"""Folders of registered pairs, and manifests of large rasters."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from support.rasters import TEXTURE_TRANSFORM, UTM, write_raster


def write_pairs(folder, count=6, side=96):
    """Registered pairs of random ground as NAME_opt.png and NAME_sar.png; SAR is optical reversed, with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for k in range(count):
        ground = gaussian_filter(random.normal(size=(side, side)), 1.5)
        optical = np.clip(ground / ground.std() * 40 + 120, 1, 255)
        sar = np.clip((256 - optical) * random.gamma(16, 1 / 16, ground.shape), 1, 255)
        for kind, values in (("opt", optical), ("sar", sar)):
            Image.fromarray(values.astype(np.uint8)).save(folder / f"{k}_{kind}.png")
    return folder


def write_manifest(folder, side=96):
    """A manifest of three places, at 5, 15 and 25 degrees of longitude, in two years. Optical pixels hold their column,
    SAR pixels minus their row and one, in decibels."""
    folder.mkdir(parents=True, exist_ok=True)
    row, col = np.mgrid[:side, :side].astype(np.float32)
    lines = ["optical,sar,lon,lat,year,season"]
    for lon in (5, 15, 25):
        for year in (2018, 2020):
            stem = f"{lon}_{year}"
            write_raster(folder / f"{stem}_opt.tif", col[None], TEXTURE_TRANSFORM, UTM)
            write_raster(folder / f"{stem}_sar.tif", -1 - row[None], TEXTURE_TRANSFORM, UTM)
            lines.append(f"{stem}_opt.tif,{stem}_sar.tif,{lon},50,{year},summer")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder / "manifest.csv"
