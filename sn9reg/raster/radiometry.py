"""Radiometry: grey optical, and logarithmic SAR, on which speckle is additive and as strong everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader

from sn9reg.raster.view import Patch

Modality = Literal["optical", "sar"]
Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Share of the median. On 8-bit imagery of median 100 this is the floor of 10 that served best on SEN1-2 patches.
_FLOOR = 0.1
_DECIBEL, _LINEAR = {"db", "decibel", "decibels"}, {"linear", "intensity", "amplitude", "power"}
_NO_SCALE = re.compile("software|path|file|name$", re.IGNORECASE)  # tags that say nothing of the values


def optical_grey(values: npt.NDArray[np.float32]) -> Image:
    """(bands, h, w) -> (h, w), the mean of the bands."""
    return values.mean(axis=0, dtype=np.float32)


def says_decibel(dataset: DatasetReader, bands: Sequence[int]) -> bool | None:
    """Whether a file calls the values of these bands decibels: by their units, else their names, else its tags. None
    where it says nothing, as do tags that name programs and files, and numbers of dB."""
    tags = {**dataset.tags(), **{f"{band}:{name}": text for band in bands for name, text in dataset.tags(band).items()}}
    tags = {name: re.sub(r"(?i)\d\s*db", "", text) for name, text in tags.items() if not _NO_SCALE.search(name)}
    units = [dataset.units[band - 1] for band in bands] + [tags[name] for name in tags if "unit" in name.lower()]
    names = [dataset.descriptions[band - 1] for band in bands]
    for texts, linear in ((units, _LINEAR), (names, {"linear"}), (tags.values(), {"linear"})):
        said = [{*re.split("[^a-z]+", text.lower())} for text in texts if text and len(text) < 100]
        said = [words for words in said if not ("linear" in words and _DECIBEL & words)]
        for kind, answer in ((_DECIBEL, True), (linear, False)):
            if any(kind & words for words in said):
                return answer
    return None


def are_decibels(pixels: npt.NDArray[np.float32]) -> bool:
    """Whether values are distributed as decibels are: with negative ones, and without a long tail of large ones. Linear
    intensities of which the noise was subtracted may be negative, too. From their median to the highest percent it is
    twice as far and more as to the lowest, and where the median itself is noise, further by far."""
    if not pixels.size or not (pixels < 0).mean() > 0.01:
        return False
    low, middle, high = np.quantile(pixels.astype(np.float64), [0.01, 0.5, 0.99])
    return bool(high - middle <= 1.5 * (middle - low) if middle > 0 else high <= -6 * low)


@dataclass(frozen=True)
class SarLog:
    """The logarithm of a SAR scene with one floor for the whole scene, so that all its windows agree."""

    floor: float  # added before the logarithm, so that zeros stay finite and the darkest pixels do not dominate
    decibel: bool  # the scene already is logarithmic

    @classmethod
    def of(cls, values: npt.NDArray[np.float32], valid: Mask, decibel: bool | None = None) -> SarLog:
        """Floor and kind measured on (bands, h, w) pixels, e.g. those of an overview. decibel: what the file says."""
        pixels = values[:, valid]
        positive = pixels[pixels > 0]
        floor = float(np.median(positive)) * _FLOOR if positive.size else 1.0
        return cls(floor, are_decibels(pixels) if decibel is None else decibel)

    def __call__(self, values: npt.NDArray[np.float32]) -> Image:
        """(bands, h, w) -> (h, w), the mean of the bands' logarithms."""
        if self.decibel:
            return values.mean(axis=0, dtype=np.float32)
        return np.log(np.maximum(values, 0) + np.float32(self.floor)).mean(axis=0, dtype=np.float32)


def fill_invalid(image: Image, valid: Mask) -> Image:
    """The image with the mean of its valid pixels in place of those that are not valid: no steep edge at the border."""
    if valid.all():
        return image
    return np.where(valid, image, np.float32(image[valid].mean() if valid.any() else 0))


def standardise(image: Image, valid: Mask) -> Image:
    """(h, w) with mean 0 and variance 1 over valid pixels, cut at +-4, 0 elsewhere or if constant."""
    pixels = image[valid].astype(np.float64)  # the squares of large values are too large for float
    if not pixels.size or not (spread := float(pixels.std())) > 1e-6 * max(1.0, abs(float(pixels.mean()))):
        return np.zeros_like(image)
    return np.where(valid, np.clip((image - pixels.mean()) / spread, -4.0, 4.0), np.float32(0)).astype(np.float32)


def optical_layers(values: Image, channels: int) -> Image:
    """(any number, h, w) bands -> (channels, h, w) float32: for 1 the mean; for 3 the first three, or, where there are
    fewer, three times their mean."""
    if channels == 1 or len(values) < 3:
        return np.repeat(optical_grey(values)[None], channels, axis=0)
    return values[:3].astype(np.float32, copy=False)


def optical_input(patch: Patch, channels: int) -> Image:
    """(channels, h, w) as a network sees an optical patch: `optical_layers`, each standardised by itself."""
    return np.stack([standardise(layer, patch.valid) for layer in optical_layers(patch.values, channels)])


def sar_input(patch: Patch, log: SarLog) -> Image:
    """(1, h, w) as a network sees a SAR patch: its standardised logarithm."""
    return standardise(log(patch.values), patch.valid)[None]
