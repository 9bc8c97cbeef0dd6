"""Why a pair may have been refused, and the option that helps. Looked for only once a pair is refused."""

import math
from dataclasses import astuple

import numpy as np
import torch

from sn9reg.judge.evidence import default_features
from sn9reg.matchers.dense.correlation import find_peaks, masked_similarity
from sn9reg.raster.grid import Window
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import Patch, ScenePair

_FEW = 100  # pixels; in less than the square of this side there is little to recognise
_SHARED = 0.25  # share of the overlap in which both scenes should hold data
_SAME = 0.1  # share of a scene's pixels that hold one value, from which they are likely to mean no data
_ALIKE = 0.03  # by which the ratios of two widths and of two heights may differ for one scale
_EDGE = 0.9  # share of the largest shift from which the shift is likely to lie beyond
_CLEAR = 1.0  # by how many standard deviations the best shift must exceed all others


def advice(pair: ScenePair, reach: float | None, posed: bool = False) -> str:
    """The likely causes, each with what to do; empty where the images show none. Raises InputError where a scene cannot
    be read. reach: the largest shift that was looked for, metres (pixels in a pixel frame), if there is a limit. posed:
    whether a pose was looked for already."""
    (optical, factor), (sar, _) = pair.overview(pair.optical), pair.overview(pair.sar)
    causes = [_little_shared(pair, optical, sar, factor), _one_value(optical, "optical"), _one_value(sar, "sar")]
    causes.append("" if posed else _sizes(pair))
    if not any(causes) and reach is not None:
        causes.append(_beyond(pair, factor, reach))
    if not any(causes) and pair.grid.crs is None and not posed:
        causes.append("with --pose none a pixel frame is for images of one scale, upright alike: leave that out")
    return "; ".join(filter(None, causes))


def _little_shared(pair: ScenePair, optical: Patch, sar: Patch, factor: int) -> str:
    height, width = pair.overlap.shape
    size = f"{width} x {height} px" + ("" if pair.grid.crs is None else f" of {pair.grid.metres_per_pixel:.3g} m")
    if width * height < _FEW**2:
        return f"the images share only {size}: give larger ones that share {_FEW} x {_FEW} px"
    share = int((optical.valid & sar.valid).sum()) * factor**2 / (width * height)
    if share * width * height >= max(_FEW**2, _SHARED * width * height):
        return ""
    return f"both hold data in only {share:.0%} of the {size} that they share: check --optical-nodata and --sar-nodata"


def _one_value(patch: Patch, modality: Modality) -> str:
    pixels = patch.values[:, patch.valid]
    values, counts = np.unique(pixels[0], return_counts=True)
    if len(values) < 2 or (share := float((pixels == values[counts.argmax()]).all(axis=0).mean())) < _SAME:
        return ""
    value = values[counts.argmax()]
    number = f"{value if abs(value) < 3e38 else math.copysign(3.4028235e38, value):.9g}"  # a scene clips what is larger
    name = modality.replace("sar", "SAR")
    return f"{share:.0%} of the {name} image is {number}: if that means no data, say --{modality}-nodata {number}"


def _sizes(pair: ScenePair) -> str:
    """A scale that differs, as the sizes of two images of the same ground in a pixel frame show it."""
    optical, sar = (np.array([scene.grid.width, scene.grid.height]) for scene in (pair.optical, pair.sar))
    across, down = sar / optical
    if pair.grid.crs is not None or abs(across / down - 1) > _ALIKE or abs(across - 1) < _ALIKE:
        return ""
    sizes = " and ".join(f"{width} x {height} px" for width, height in (optical, sar))
    ways = f"resize one {across:.3g} times, or leave out --pose none"
    return f"the images have {sizes}: if they show the same ground, {ways}"


def _beyond(pair: ScenePair, factor: int, reach: float) -> str:
    """A shift that was not looked for: the middle of the optical scene is searched for in a wide part of the SAR's."""
    col, row, width, height = (n // factor for n in astuple(pair.overlap))
    half, margin = Window(col + width // 4, row + height // 4, width // 2, height // 2), max(width, height) // 2
    optical, sar = pair.optical.read(half, factor), pair.sar.read(half.grow(margin), factor)
    if not (optical.valid.any() and sar.valid.any()):
        return ""
    extract = default_features(pair)
    one, other = extract(sar, "sar"), extract(optical, "optical")
    masks = [torch.from_numpy(patch.valid.astype(np.float32))[None] for patch in (sar, optical)]
    surface = masked_similarity("cc", one[None], masks[0], other[None], masks[1])
    peak = find_peaks(surface, exclusion=8)
    shift = (peak.xy[0].numpy() - margin) * factor * pair.grid.metres_per_pixel
    if (peak.value - peak.rival)[0] < _CLEAR * surface.std() or np.abs(shift).max() < _EDGE * reach:
        return ""
    unit = "px" if pair.grid.crs is None else "m"
    about = f"the images fit best at a shift of {np.hypot(*shift):.3g} {unit}, and {reach:.3g} {unit} were looked for"
    return f"{about}: give a larger --max-offset"
