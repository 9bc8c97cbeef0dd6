"""Radiometry: grey optical, and logarithmic SAR, on which speckle is additive and as strong everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Modality = Literal["optical", "sar"]
Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Share of the median. On 8-bit imagery of median 100 this is the floor of 10 that served best on SEN1-2 patches.
_FLOOR = 0.1


def optical_grey(values: npt.NDArray[np.float32]) -> Image:
    """(bands, h, w) -> (h, w), the mean of the bands."""
    return values.mean(axis=0, dtype=np.float32)


@dataclass(frozen=True)
class SarLog:
    """The logarithm of a SAR scene with one floor for the whole scene, so that all its windows agree."""

    floor: float  # added before the logarithm, so that zeros stay finite and the darkest pixels do not dominate
    decibel: bool  # the scene already is logarithmic: it holds negative values

    @classmethod
    def of(cls, values: npt.NDArray[np.float32], valid: Mask) -> SarLog:
        """Floor and kind measured on (bands, h, w) pixels, e.g. those of an overview."""
        pixels = values[:, valid]
        decibel = bool((pixels < 0).mean() > 0.01) if pixels.size else False
        positive = pixels[pixels > 0]
        return cls(float(np.median(positive)) * _FLOOR if positive.size else 1.0, decibel)

    def __call__(self, values: npt.NDArray[np.float32]) -> Image:
        """(bands, h, w) -> (h, w), the mean of the bands' logarithms."""
        if self.decibel:
            return values.mean(axis=0, dtype=np.float32)
        return np.log(np.maximum(values, 0) + np.float32(self.floor)).mean(axis=0, dtype=np.float32)


def fill_invalid(image: Image, valid: Mask) -> Image:
    """The image with the mean of its valid pixels in place of those that are not valid: no steep edge at the border."""
    if valid.all():
        return image
    level = float(image[valid].mean()) if valid.any() else 0.0
    return np.where(valid, image, np.float32(level))


def standardise(image: Image, valid: Mask) -> Image:
    """As a network sees an image: mean 0 and variance 1 over valid pixels, cut at +-4, 0 elsewhere or if constant."""
    pixels = image[valid].astype(np.float64)  # the squares of large values are too large for float
    if not pixels.size or not (spread := float(pixels.std())) > 1e-6 * max(1.0, abs(float(pixels.mean()))):
        return np.zeros_like(image)
    scaled = np.clip((image - pixels.mean()) / spread, -4.0, 4.0)
    return np.where(valid, scaled, np.float32(0)).astype(np.float32)
