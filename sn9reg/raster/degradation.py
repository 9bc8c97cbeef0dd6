"""What a SAR sensor in flight does to its image: defocus and speckle. Source: S. Bertrand et al., "Learning-based
SAR-Optical Registration for Navigation", section V-C. Not modelled, there or here: layover, shadow, geometric
distortion, speckle that is not fully developed."""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt
from scipy.ndimage import gaussian_filter

from sn9reg.errors import InputError
from sn9reg.options import options
from sn9reg.raster.radiometry import are_decibels

Values = npt.NDArray[np.float32]  # (..., h, w)


@options
class Degradation:
    """Gaussian blur, then speckle: the paper states no order, but speckle that is blurred has other than L looks."""

    looks: Annotated[float, Gt(0)] | None = None  # L of the speckle; None for no speckle
    blur: Annotated[float, Ge(0)] = 0.0  # sigma of the Gaussian, px; 0 for no blur

    def __call__(self, values: Values, random: np.random.Generator) -> Values:
        """(bands, h, w) -> a new array of that shape. Raises InputError as `speckle`."""
        blurred = blur(values, self.blur)
        return blurred if self.looks is None else speckle(blurred, self.looks, random)


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


# Section V-C: a cross of nine configurations, its two arms sharing the middle, L = 35 and sigma = 0.5.
DEGRADATION_CROSS = (
    *(Degradation(looks, 0.5) for looks in (5, 8, 15, 25, 35, 75)),
    *(Degradation(35, sigma) for sigma in (0.25, 1, 2)),
)
