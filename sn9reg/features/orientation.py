"""Orientation energies of a log-Gabor bank: the quantity under phase congruency, as dense features.

A log-Gabor filter (Field 1987) passes one band of wavelengths and one of orientations. The modulus of its response is
the local energy of Kovesi's phase congruency ("Image features from phase congruency", 1999), which does not care about
the sign or the kind (line or step) of a contrast. That is what optical and SAR images share.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

# Standard deviation of the radial Gaussian on the logarithm of frequency, as the ratio Kovesi calls sigmaOnf, and of
# the angular Gaussian as a share of the step between orientations. Both were chosen on SEN1-2 training patches.
_SIGMA_ON_F = 0.5
_ANGULAR_SHARE = 0.65


@lru_cache(maxsize=8)
def log_gabor_bank(height: int, width: int, orientations: int, wavelength: float) -> Tensor:
    """(orientations, height, width) one-sided filters, for fft2; complex, which saves the time to make them so.
    Orientation k passes normals at k * 180 / orientations degrees from x towards y (down)."""
    radius, angle = polar_frequencies(height, width)
    sigma = math.pi / orientations * _ANGULAR_SHARE
    angular = [torch.exp(turn.square().mul_(-0.5 / sigma**2)) for turn in turns_from(angle, orientations)]
    return (log_gabor(radius, (wavelength,), _SIGMA_ON_F) * torch.stack(angular)).to(torch.complex64)


def polar_frequencies(height: int, width: int) -> tuple[Tensor, Tensor]:
    """(H, W) radius in cycles per pixel, 1 where there is no frequency, and angle from x towards y, for torch.fft."""
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :]
    radius = torch.hypot(fx, fy)
    radius[0, 0] = 1.0
    return radius, torch.atan2(fy, fx)


def turns_from(angle: Tensor, orientations: int) -> list[Tensor]:
    """Angles in radians as turns from each of evenly spaced orientations, in [-pi, pi]."""
    steps = [k * (math.pi / orientations) for k in range(orientations)]
    return [torch.remainder(angle + (math.pi - step), 2 * math.pi).sub_(math.pi) for step in steps]


def log_gabor(radius: Tensor, wavelengths: Sequence[float], sigma_on_f: float) -> Tensor:
    """(scales, H, W) radial parts of log-Gabor filters, none of which passes the mean (`polar_frequencies` first)."""
    low_pass = 1 / (1 + (radius / 0.45) ** 30)  # no corner of the spectrum that only some orientations reach
    bands = [torch.exp(-(torch.log(radius * w) ** 2) / (2 * math.log(sigma_on_f) ** 2)) * low_pass for w in wavelengths]
    for band in bands:
        band[0, 0] = 0.0
    return torch.stack(bands)


def orientation_response(image: Tensor, orientations: int, wavelengths: Sequence[float]) -> Iterator[Tensor]:
    """(B, H, W) image -> of each scale (B, orientations, H, W) complex log-Gabor responses. The image wraps around
    at its borders: what lies within about a wavelength of them is not to be used."""
    spectrum, (height, width) = torch.fft.fft2(_without_mean(image))[:, None], (int(n) for n in image.shape[-2:])
    for wavelength in wavelengths:
        yield torch.fft.ifft2(spectrum * log_gabor_bank(height, width, orientations, wavelength).to(image.device))


def _without_mean(image: Tensor) -> Tensor:
    """The filters do not pass the mean, but they do pass the rounding of its transform."""
    return (image - image.double().mean(dim=(1, 2), keepdim=True)).to(image.dtype)


def orientation_features(
    image: Tensor, orientations: int = 9, wavelengths: Sequence[float] = (6.0, 12.0), phase: float = 0.3
) -> Tensor:
    """(B, H, W) image -> (B, C, H, W) features of unit length per pixel, C = 3 * scales * orientations.

    With the complex response z of one filter the channels are |z|^2 and `phase` times the real and the imaginary part
    of z^2 (C = scales * orientations for phase 0). Squaring doubles the phase: a contrast and its negative give the
    same value, a line and a step opposite ones. That sharpens the peak and allows contrast to flip between the sensors.
    Per scale all channels of a pixel are brought to one length: contrast, which the sensors do not share, is gone.
    """
    channels = []
    for response in orientation_response(image, orientations, wavelengths):
        real, imaginary = torch.view_as_real(response).unbind(dim=-1)
        even, odd = real.square(), imaginary.square()
        energy = even + odd
        scale = _one_length(energy, len(wavelengths), phase)
        channels.append(energy.mul_(scale))
        if phase:
            channels += [(even - odd).mul_(scale * phase), (real * imaginary).mul_(scale * (2 * phase))]
    return torch.cat(channels, dim=1)


def orientation_harmonics(
    image: Tensor, orientations: int = 6, wavelength: float = 6.0, octaves: int = 2, order: int = 2
) -> Tensor:
    """(B, H, W) image -> (B, 1 + 2 * order, H, W) the energies of `orientation_features` in few channels: their sum
    over scales, as a Fourier series over orientations. On SEN1-2 these are the principal directions of all channels.
    Each scale has twice the wavelength of the one before, and is computed at half of its resolution: sides have to be
    multiples of 2 ** (octaves - 1)."""
    turn = torch.arange(orientations, device=image.device) * (2 * math.pi / orientations)
    waves = [torch.full_like(turn, math.sqrt(0.5))]
    for k in range(1, order + 1):
        waves += [torch.cos(k * turn), torch.sin(k * turn)]
    basis = torch.stack(waves) * math.sqrt(2 / orientations / octaves)
    found = []
    for octave in range(octaves):
        image = _halved(image) if octave else image
        (response,) = orientation_response(image, orientations, (wavelength,))
        real, imaginary = torch.view_as_real(response).unbind(dim=-1)
        energy = real.square().addcmul_(imaginary, imaginary)
        found.append(torch.einsum("ko,bohw->bkhw", basis, energy).mul_(_one_length(energy, octaves, 0.0)))
    total = found.pop()
    while found:
        total = _doubled(total).add_(found.pop())
    return total


def _halved(image: Tensor) -> Tensor:
    """(B, H, W) -> (B, H / 2, W / 2): every second pixel, without the frequencies that these cannot hold."""
    height, width = image.shape[-2] // 2, image.shape[-1] // 2
    spectrum = torch.fft.rfft2(_without_mean(image))[..., : width // 2 + 1]
    rows = torch.fft.fftfreq(height, 1 / height, device=image.device).long()
    return torch.fft.irfft2(spectrum[..., rows, :], s=(height, width)) / 4


def _doubled(image: Tensor) -> Tensor:
    """The image with the mean of both neighbours put between every two pixels, the first ones after the last."""
    height, width = image.shape[-2:]
    around = pad(image, (0, 1, 0, 1), mode="circular")
    wider = interpolate(around, size=(2 * height + 1, 2 * width + 1), mode="bilinear", align_corners=True)
    return wider[..., : 2 * height, : 2 * width]


def _one_length(energy: Tensor, scales: int, phase: float) -> Tensor:
    """(B, 1, H, W) factors that bring all channels of a pixel to one length per scale, and to 1 over all scales; but
    where there is no signal (padding, a constant area), no rounding noise."""
    length = energy.square().sum(dim=1, keepdim=True).mul_(1 + phase**2).sqrt_()
    floor = 1e-4 * length.mean(dim=(2, 3), keepdim=True) + 1e-30
    return 1 / ((length + floor) * math.sqrt(scales))
