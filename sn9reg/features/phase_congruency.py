"""Phase congruency: where the waves that make up an image are in phase, there is an edge, a line or a corner.

P. Kovesi, "Image features from phase congruency", 1999, and "Phase congruency detects corners and edges", 2003; eqs.
(1) and (2) of He et al., "Deep convolutional network based on attention mechanism for matching optical and SAR images".
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sn9reg.features.orientation import log_gabor, polar_frequencies, turns_from

_SPREAD = 50.0  # standard deviation to which the image is brought
_EPSILON = 1e-4  # in its units
# Kovesi's parameters, by his names: nscale, norient, minWaveLength (of the finest scale, pixels), mult (from scale to
# scale), sigmaOnf (width of the log-Gabor), k (standard deviations of the noise above its mean below which nothing
# counts), cutOff and g (share of scales below which a feature is weighted down, and how sharply).
_SCALES, _ORIENTATIONS = 4, 6
_WAVELENGTH, _FACTOR, _SIGMA_ON_F = 3.0, 1.6, 0.75
_NOISE_DEVIATIONS, _CUT_OFF, _SHARPNESS = 1.0, 0.5, 3.0


@dataclass(frozen=True)
class PhaseCongruency:
    """Of B images of H x W pixels."""

    maximum: Tensor  # (B, H, W) 0 to 1, largest moment of the congruency over orientations: the strength of an edge
    minimum: Tensor  # (B, H, W) smallest moment: the strength of a corner
    orientation: Tensor  # (B, H, W) radians in [0, pi), of a feature's normal, from x towards y (down)
    amplitude: Tensor  # (B, 6, H, W) filter amplitudes summed over scales, of orientation k * pi / 6


def phase_congruency(image: Tensor, valid: Tensor | None = None) -> PhaseCongruency:
    """Phase congruency of (B, H, W) float images, on any device, with a noise threshold per image and orientation. They
    wrap around at their borders. valid: (B, H, W) bool; noise is estimated there, and there is no congruency elsewhere,
    nor in an image without contrast."""
    inside = torch.ones_like(image, dtype=torch.bool) if valid is None else valid
    spread = _spread(image, inside)
    image = image * (_SPREAD / spread.clamp_min(1e-30)) * (spread > 0)
    spectrum = torch.fft.fft2(image - image.double().mean(dim=(1, 2), keepdim=True).to(image.dtype))
    radial, angular = (filters.to(image.device) for filters in _bank(*image.shape[-2:]))
    steady = sum(_FACTOR**-n for n in range(_SCALES))  # of the noise's amplitude over scales, from that of the finest
    xx, yy, xy, odd_x, odd_y = (torch.zeros_like(image) for _ in range(5))
    amplitudes = []
    for o in range(_ORIENTATIONS):
        response = torch.fft.ifft2(spectrum[:, None] * (radial * angular[o]))  # (B, scales, H, W)
        even, odd = response.real, response.imag
        amplitude, sum_even, sum_odd = response.abs(), even.sum(dim=1), odd.sum(dim=1)
        total, largest = amplitude.sum(dim=1), amplitude.amax(dim=1)
        length = torch.hypot(sum_even, sum_odd) + _EPSILON
        mean_even, mean_odd = (sum_even / length)[:, None], (sum_odd / length)[:, None]
        # eq. (2): amplitude times phase deviation, the cosine less the sine's modulus
        energy = (even * mean_even + odd * mean_odd - (even * mean_odd - odd * mean_even).abs()).sum(dim=1)
        middle = torch.where(inside, amplitude[:, 0], math.nan).flatten(1).nanmedian(dim=1).values.nan_to_num()
        tau = middle[:, None, None] / math.sqrt(math.log(4)) * steady  # of a Rayleigh distribution
        noise = tau * (math.sqrt(math.pi / 2) + _NOISE_DEVIATIONS * math.sqrt((4 - math.pi) / 2))
        width = (total / (largest + _EPSILON) - 1) / (_SCALES - 1)
        weight = torch.sigmoid(_SHARPNESS * (width - _CUT_OFF))
        above = weight * (energy - noise.clamp_min(_EPSILON)).clamp_min(0)
        here = above / total.clamp_min(_EPSILON)  # eq. (1), of this orientation
        cos, sin = math.cos(o * math.pi / _ORIENTATIONS), math.sin(o * math.pi / _ORIENTATIONS)
        xx += (here * cos) ** 2
        yy += (here * sin) ** 2
        xy += here**2 * (cos * sin)
        odd_x += cos * sum_odd
        odd_y += sin * sum_odd
        amplitudes.append(total)
    xx, yy, xy = (2 / _ORIENTATIONS * moment for moment in (xx, yy, 2 * xy))
    root = torch.hypot(xy, xx - yy)
    return PhaseCongruency(
        maximum=(xx + yy + root) / 2 * inside, minimum=((xx + yy - root) / 2).clamp_min(0) * inside,
        orientation=torch.atan2(odd_y, odd_x) % math.pi, amplitude=torch.stack(amplitudes, dim=1),
    )  # fmt: skip


@lru_cache(maxsize=8)
def _bank(height: int, width: int) -> tuple[Tensor, Tensor]:
    """(scales, H, W) radial and (orientations, H, W) angular parts of the filters; the latter are raised cosines."""
    radius, angle = polar_frequencies(height, width)
    radial = log_gabor(radius, [_WAVELENGTH * _FACTOR**n for n in range(_SCALES)], _SIGMA_ON_F)
    turns = [turn.abs() for turn in turns_from(angle, _ORIENTATIONS)]
    angular = [(torch.cos((turn * _ORIENTATIONS / 2).clamp_max(math.pi)) + 1) / 2 for turn in turns]
    return radial, torch.stack(angular)


def _spread(image: Tensor, inside: Tensor) -> Tensor:
    """(B, 1, 1) standard deviation of the pixels inside; 0 where it is but rounding."""
    values, weight = image.double(), inside.double()
    count = weight.sum(dim=(1, 2), keepdim=True).clamp_min(1)
    mean = (values * weight).sum(dim=(1, 2), keepdim=True) / count
    spread = (((values - mean) ** 2 * weight).sum(dim=(1, 2), keepdim=True) / count).sqrt()
    return torch.where(spread > 1e-6 * mean.abs(), spread, 0.0).to(image.dtype)
