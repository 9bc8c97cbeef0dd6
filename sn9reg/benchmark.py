"""Measuring a matcher on folders of small registered pairs: a SAR template is looked for in an optical patch."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from sn9reg.errors import ConfigError, InputError
from sn9reg.grid import Grid, Points
from sn9reg.matchers.base import Matcher
from sn9reg.rasters import PathLike, data_bands, geotiff_profile, open_raster, reading
from sn9reg.scene import Patch, open_pair
from sn9reg.warp import fit_global

THRESHOLDS = (0, 1, 2, 3, 5)


@dataclass(frozen=True)
class PatchResult:
    """errors: (N,) distance of the found to the true place, pixels. seconds: (N,) per pair."""

    matcher: str
    errors: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """Correct match rates by threshold, mean error and median time, for JSON."""
        return {
            "matcher": self.matcher,
            "n": len(self.errors),
            "cmr": {str(t): round(float((self.errors <= t + 1e-9).mean()), 4) for t in THRESHOLDS},
            "mean_l2_px": round(float(self.errors.mean()), 4),
            "ms_per_pair": round(float(np.median(self.seconds)) * 1e3, 2),
        }


def bench_patches(
    folder: PathLike,
    matcher: Matcher,
    reference: int = 256,
    template: int = 192,
    limit: int | None = None,
    seed: int = 0,
) -> PatchResult:
    """Look for a SAR template of `template` px in an optical patch of `reference` px, for every pair of a folder.

    Pairs are NAME_opt.* and NAME_sar.*, registered; NAME_mask.*, where there is one, holds the valid pixels. The patch
    is cut from the middle of the image, the template from a place of the patch drawn by `seed`. Places count in whole
    pixels.

    Raises InputError for a folder without pairs or with images smaller than `reference`, ConfigError where the
    template is not smaller than the patch.
    """
    if not 0 < template < reference:
        raise ConfigError(f"--template {template} must be smaller than --reference {reference}")
    pairs = _pairs(Path(folder))[:limit]
    random = np.random.default_rng(seed)
    errors, seconds = [], []
    for optical_path, sar_path, mask_path in pairs:
        corner = random.integers(0, reference - template + 1, 2)
        optical, sar = _read(optical_path, mask_path, reference), _read(sar_path, mask_path, reference)
        part = (slice(corner[1], corner[1] + template), slice(corner[0], corner[0] + template))
        cut = Patch(sar.values[:, part[0], part[1]], sar.valid[part])
        start = time.perf_counter()
        found = _locate(matcher, optical, cut)
        seconds.append(time.perf_counter() - start)
        errors.append(float(np.hypot(*(np.rint(found) - corner))))
    return PatchResult(matcher.name, np.array(errors), np.array(seconds))


def _pairs(folder: Path) -> list[tuple[Path, Path, Path | None]]:
    """Optical, SAR and mask file of each pair, by name."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = []
    for optical in sorted(folder.glob("*_opt.*")):
        name = optical.stem[: -len("_opt")]
        sar, mask = (sorted(folder.glob(f"{name}_{kind}.*")) for kind in ("sar", "mask"))
        if sar:
            found.append((optical, sar[0], mask[0] if mask else None))
    if not found:
        raise InputError(f"{folder}: holds no pairs NAME_opt.* and NAME_sar.*")
    return found


def _read(path: Path, mask: Path | None, side: int) -> Patch:
    """The middle of an image, side x side pixels."""
    with open_raster(path) as dataset, reading(path):
        values = dataset.read(data_bands(dataset), out_dtype="float32")
        valid = dataset.dataset_mask() > 0
    if min(valid.shape) < side:
        raise InputError(f"{path}: is {valid.shape[1]} x {valid.shape[0]} px, smaller than --reference {side}")
    if mask is not None:
        with open_raster(mask) as dataset, reading(mask):
            valid = valid & (dataset.read(1) > 0)
    top, left = ((n - side) // 2 for n in valid.shape)
    part = (slice(top, top + side), slice(left, left + side))
    return Patch(np.where(valid, values, 0)[:, part[0], part[1]], valid[part])


def _locate(matcher: Matcher, optical: Patch, sar: Patch) -> Points:
    """(2,) by the matcher's own `locate` if it has one, else by a translation through its correspondences."""
    if hasattr(matcher, "locate"):
        place: Points = matcher.locate(optical, sar)
        return place
    with tempfile.TemporaryDirectory() as folder:
        paths = [_save(Path(folder) / f"{kind}.tif", patch) for kind, patch in (("optical", optical), ("sar", sar))]
        with open_pair(*paths, pixel_frame=True) as pair:
            matches = matcher.match(pair)
    fit = fit_global(matches.optical_xy, matches.sar_xy, "translation", 3.0)
    return np.full(2, np.inf) if fit is None else -fit.matrix[:2, 2]


def _save(path: Path, patch: Patch) -> Path:
    count, height, width = patch.values.shape
    profile = geotiff_profile(Grid.pixel_frame(width, height), count, "float32", nodata=float("nan"))
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.where(patch.valid, patch.values, np.nan).astype(np.float32))
    return path
