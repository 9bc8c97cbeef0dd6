"""What a SAR sensor in flight does to its image, defocus and speckle, and what may be done against the latter. Source:
S. Bertrand et al., "Learning-based SAR-Optical Registration for Navigation", section V-C. Not modelled, there or here:
layover, shadow, geometric distortion, speckle that is not fully developed."""

import math
from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt
from scipy.ndimage import gaussian_filter, uniform_filter

from sn9reg.errors import InputError
from sn9reg.options import options
from sn9reg.raster.radiometry import are_decibels

_LEE = 7  # side of the Lee filter's window, pixels

Values = npt.NDArray[np.float32]  # (..., h, w)


@options
class Degradation:
    """Gaussian blur, then speckle: the paper states no order, but speckle that is blurred has other than L looks."""

    looks: Annotated[float, Gt(0)] | None = None  # L of the speckle; None for no speckle
    blur: Annotated[float, Ge(0)] = 0.0  # sigma of the Gaussian, px; 0 for no blur
    lee: Annotated[float, Gt(0)] | None = None  # looks of the speckle that a Lee filter takes out; None for no filter

    def __call__(self, values: Values, random: np.random.Generator) -> Values:
        """(bands, h, w) -> a new array of that shape. Raises InputError as `speckle`."""
        blurred = blur(values, self.blur)
        worse = blurred if self.looks is None else speckle(blurred, self.looks, random)
        return worse if self.lee is None else lee_filtered(worse, self.lee)


def speckle(values: Values, looks: float, random: np.random.Generator) -> Values:
    """Fully developed speckle of L looks, independent in every pixel and band; (..., h, w) -> the same shape.
    Amplitudes are multiplied by the square root of Gamma(L, 1/L), so that their mean square stays. 8-bit products are
    none: those of SEN1-2, decibels under an unknown stretch, get more of it where they are bright and less where they
    are dark than from a sensor. Raises InputError for values that are distributed as decibels are."""
    if are_decibels(values):
        raise InputError("the values look like decibels; speckle multiplies amplitude or intensity: convert first")
    gain = random.standard_gamma(looks, values.shape, dtype=np.float32) / np.float32(looks)
    return np.asarray(values * np.sqrt(gain), np.float32)


def blur(values: Values, sigma: float) -> Values:
    """Gaussian blur of `sigma` px within each band, edges mirrored; (..., h, w) -> a new array of the same shape.
    Pixels that are not valid count like all others."""
    return np.asarray(gaussian_filter(values, (0,) * (values.ndim - 2) + (sigma, sigma)), np.float32)


def lee_filtered(values: Values, looks: float) -> Values:
    """Amplitudes (..., h, w) without speckle of L looks, edges mirrored: where the 7 x 7 pixels around one vary no more
    than speckle does, it becomes their mean; the more they vary, the more of it stays. J.-S. Lee, "Digital image
    enhancement and noise filtering by use of local statistics", 1980, section III."""
    size = (1,) * (values.ndim - 2) + (_LEE, _LEE)
    values = np.asarray(values, np.float64)
    mean, square = uniform_filter(values, size), uniform_filter(values**2, size)
    noise = (4 / math.pi - 1) / looks  # variance of the gain, whose mean is 1
    signal = np.maximum(square / (1 + noise) - mean**2, 0)
    return np.asarray(mean + (values - mean) * signal / np.maximum(signal + noise * mean**2, 1e-12), np.float32)


# Section V-C: a cross of nine configurations, its two arms sharing the middle, L = 35 and sigma = 0.5.
DEGRADATION_CROSS = (
    *(Degradation(looks, 0.5) for looks in (5, 8, 15, 25, 35, 75)),
    *(Degradation(35, sigma) for sigma in (0.25, 1, 2)),
)
