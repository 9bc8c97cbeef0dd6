"""Measuring a matcher on folders of small registered pairs: a SAR template is looked for in an optical patch."""

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sn9reg import progress
from sn9reg.errors import ConfigError, InputError, naming
from sn9reg.fit.warp import fit_global
from sn9reg.matchers.base import Matcher
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.files import PathLike, create_raster, geotiff_profile
from sn9reg.raster.folders import pair_files
from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.raster.resampling import interpolate
from sn9reg.raster.scene import PairFiles, Patch
from sn9reg.score.metrics import summarise


@dataclass(frozen=True)
class PatchResult:
    """What a matcher did on N pairs."""

    matcher: str  # its name
    errors: npt.NDArray[np.float64]  # (N,) distance of the found to the true place, pixels
    seconds: npt.NDArray[np.float64]  # (N,) time that each pair took

    def as_dict(self) -> dict[str, Any]:
        """Correct match rates by threshold, mean error and median time, for JSON."""
        milliseconds = round(float(np.median(self.seconds)) * 1e3, 2)
        return {"matcher": self.matcher, **summarise(self.errors), "ms_per_pair": milliseconds}


def bench_patches(
    folder: PathLike, matcher: Matcher, reference: int = 256, template: int = 192, limit: int | None = None,
    seed: int = 0, degradation: Degradation | None = None, rotate: float = 0.0,
) -> PatchResult:  # fmt: skip
    """Look for a SAR template of `template` px in an optical patch of `reference` px, for every pair of a folder.

    The patch is cut from the middle of the image, the template from a place of the patch drawn by `seed`. Places count
    in whole pixels. limit: at most so many pairs, see `pair_files`. degradation: done to every template. rotate:
    degrees; every template is turned about its centre by an angle drawn from +-rotate, and its true place is that of
    the centre (S. Bertrand et al., "Learning-based SAR-Optical Registration for Navigation", V-C, VI). Neither moves
    the places. Raises InputError for a folder without pairs, images smaller than `reference` or, with speckle, negative
    values; ConfigError where the template is not smaller than the patch, and for a `rotate` not from 0 to 180."""
    if not 0 < template < reference:
        raise ConfigError(f"--template {template} must be smaller than --reference {reference}")
    if not 0 <= rotate <= 180:
        raise ConfigError(f"--rotate {rotate} must lie between 0 and 180 degrees")
    random, pairs = np.random.default_rng(seed), pair_files(folder, limit)
    errors, seconds = [], []
    for index, files in enumerate(pairs):
        corner = random.integers(0, reference - template + 1, 2)
        changes = np.random.default_rng([seed, index, 1])  # of turn and speckle, others than those of the places
        angle = rotate * changes.uniform(-1, 1)
        optical, sar = files.read()
        for path, patch in ((files.optical, optical), (files.sar, sar)):
            height, width = patch.valid.shape
            if min(height, width) < reference:
                raise InputError(f"{path}: is {width} x {height} px, smaller than --reference {reference}")
        middle, of_sar = ((np.array(patch.valid.shape[::-1]) - reference) // 2 for patch in (optical, sar))
        optical, cut = _cut(optical, middle, reference), _cut(sar, of_sar + corner, template, angle)
        if degradation is not None:
            with naming(files.sar):
                cut = Patch(np.where(cut.valid, degradation(cut.values, changes), 0), cut.valid)
        with progress.part(index / len(pairs), (index + 1) / len(pairs)):
            start = time.perf_counter()
            found = locate(matcher, optical, cut)
            seconds.append(time.perf_counter() - start)
            progress.report(1.0)
        errors.append(float(np.hypot(*(np.rint(found) - corner))))
    return PatchResult(matcher.name, np.array(errors), np.array(seconds))


def _cut(patch: Patch, corner: npt.NDArray[np.int64], side: int, angle: float = 0.0) -> Patch:
    """side x side pixels from `corner` (x, y) on, their frame turned about its centre by `angle` degrees, from the
    image's x axis towards its y axis. What lies outside the image is not valid."""
    if not angle:
        part = Window(int(corner[0]), int(corner[1]), side, side).slices()
        return Patch(patch.values[(slice(None), *part)], patch.valid[part])
    half = (side - 1) / 2
    reach = math.ceil((math.sqrt(2) - 1) * half) + 1  # by so much do the turned corners leave the square
    around = ((0, 0), (reach, reach), (reach, reach))
    values, valid = np.pad(patch.values, around), np.pad(np.broadcast_to(patch.valid, patch.values.shape), around)
    down, across = np.mgrid[:side, :side] - half
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = cos * across - sin * down, sin * across + cos * down
    # Cubic, for bilinear would blur as well; but cubic overshoots, and no pixel may become negative by that.
    values, valid = interpolate(values, valid, x + half + reach + corner[0], y + half + reach + corner[1], "cubic")
    return Patch(np.where(valid, np.clip(values, patch.values.min(), patch.values.max()), 0), valid[0])


def locate(matcher: Matcher, optical: Patch, sar: Patch) -> Points:
    """(2,) x, y of a SAR template's upper left pixel in an optical patch: by the matcher's `locate` if it has one, else
    by a translation through its correspondences, infinite where there is none."""
    if own := getattr(matcher, "locate", None):
        return np.asarray(own(optical, sar))
    with tempfile.TemporaryDirectory() as folder, save_pair(Path(folder, "pair"), optical, sar).open() as pair:
        matches = matcher.match(pair)
    fit = fit_global(matches.optical_xy, matches.sar_xy, "translation", 3.0)
    return np.full(2, np.inf) if fit is None else -fit.matrix[:2, 2]


def save_pair(stem: Path, optical: Patch, sar: Patch) -> PairFiles:
    """Write two patches as STEM_opt.tif and STEM_sar.tif in a pixel frame, NaN where they are not valid."""
    files = PairFiles(f"{stem}_opt.tif", f"{stem}_sar.tif", pixel_frame=True)
    for path, patch in ((files.optical, optical), (files.sar, sar)):
        count, height, width = patch.values.shape
        profile = geotiff_profile(Grid.pixel_frame(width, height), count, "float32", nodata=float("nan"))
        with create_raster(path, profile, overwrite=True) as target:
            target.write(np.where(patch.valid, patch.values, np.nan).astype(np.float32))
    return files
