"""What a SAR sensor in flight does to its image: defocus and speckle.

Source: S. Bertrand et al., "Learning-based SAR-Optical Registration for Navigation", section V-C. Not modelled, there
or here: layover, shadow, geometric distortion, speckle that is not fully developed.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from sn9reg.errors import ConfigError, InputError
from sn9reg.options import options
from sn9reg.raster.radiometry import are_decibels

Values = npt.NDArray[np.float32]  # (..., h, w)


@options
class Degradation:
    """Gaussian blur, then speckle. Raises ConfigError for numbers that are not finite, looks <= 0 and blur < 0.

    The paper states no order. Blur stands for errors of the focusing, which act on the scene; speckle that is blurred
    would no longer be that of L looks.
    """

    looks: float | None = None  # L of the speckle; None for no speckle
    blur: float = 0.0  # sigma of the Gaussian, px; 0 for no blur
    intensity: bool = False  # see `speckle`

    def __post_init__(self) -> None:
        if self.looks is not None and not 0 < self.looks < math.inf:
            raise ConfigError(f"looks must be a number above 0, not {self.looks}")
        if not 0 <= self.blur < math.inf:
            raise ConfigError(f"blur must be a number of pixels, 0 or more, not {self.blur}")

    def __call__(self, values: Values, random: np.random.Generator) -> Values:
        """(bands, h, w) -> a new array of that shape. Raises InputError as `speckle`."""
        blurred = blur(values, self.blur)
        return blurred if self.looks is None else speckle(blurred, self.looks, random, self.intensity)


def speckle(values: Values, looks: float, random: np.random.Generator, intensity: bool = False) -> Values:
    """Fully developed speckle of L looks, independent in every pixel and band; (..., h, w) -> the same shape.

    intensity: the values are intensities (power), and are multiplied by Gamma(L, 1/L), of mean 1 and variance 1 / L.
    Otherwise they are amplitudes, and are multiplied by its square root: their mean square stays.

    8-bit products are neither: those of SEN1-2 are decibels under an unknown stretch. Amplitudes are nearer to them,
    but their bright pixels get more speckle than a sensor would give them, and their dark ones less.

    Raises InputError for values that are distributed as decibels are.
    """
    if are_decibels(values):
        raise InputError("the values look like decibels; speckle multiplies amplitude or intensity: convert first")
    gain = random.standard_gamma(looks, values.shape, dtype=np.float32) / np.float32(looks)
    return np.asarray(values * (gain if intensity else np.sqrt(gain)), np.float32)


def blur(values: Values, sigma: float) -> Values:
    """Gaussian blur of `sigma` px within each band, edges mirrored; (..., h, w) -> a new array of the same shape.

    Pixels that are not valid count like all others.
    """
    return np.asarray(gaussian_filter(values, (0,) * (values.ndim - 2) + (sigma, sigma)), np.float32)


# Section V-C: a cross of nine configurations, its two arms sharing the middle, L = 35 and sigma = 0.5.
DEGRADATION_CROSS = (
    *(Degradation(looks, 0.5) for looks in (5, 8, 15, 25, 35, 75)),
    *(Degradation(35, sigma) for sigma in (0.25, 1, 2)),
)
