"""One training sample: an optical patch, a SAR template from inside it, and where it lies."""

from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from sn9reg.options import options
from sn9reg.raster.degradation import blur, speckle
from sn9reg.raster.grid import Window
from sn9reg.raster.radiometry import Image, SarLog, optical_input, sar_input
from sn9reg.raster.scene import Patch
from sn9reg.training.config import NotNegative, Positive

Fraction = Annotated[float, Ge(0), Le(1)]
Degrees = Annotated[float, Ge(0), Le(180)]


@options
class Geometry:
    """Sides of a sample's two images, and how they are turned."""

    optical: Positive = 256  # side, pixels
    sar: Positive = 192  # side, pixels
    turn: Degrees = 0.0  # the SAR image is turned by up to this about its centre, the optical one is not
    stretch: Annotated[float, Ge(0), Lt(1)] = 0.0  # and stretched by up to this share
    tilt: Degrees = 0.0  # both are turned alike by up to this, and magnified where the images have no room for that
    quarters: bool = True  # both are turned alike by any number of quarters of a turn
    flips: bool = True  # both are mirrored alike, or not


@options
class Photometry:
    """Strength of what is done to grey values; 0 is nothing."""

    tone: Fraction = 0.0  # of samples with a random tone curve, which in the optical image may fall
    gain: NotNegative = 0.0  # spread of the logarithm of gamma
    speckle: Fraction = 0.0  # of samples with added speckle of 2 to 64 looks
    blur: NotNegative = 0.0  # largest sigma, pixels
    noise: NotNegative = 0.0  # largest sigma of white noise on the optical image, in its standard deviations
    sar_noise: NotNegative = 0.0  # the same on the logarithm of the SAR image


class Sample(NamedTuple):
    """Both images as a network sees them; in a batch each field has a leading dimension."""

    optical: Tensor  # (bands, O, O) float32
    sar: Tensor  # (1, S, S) float32
    # (2,) row, col of the SAR template in the optical patch. In tiles around a keypoint, which in one of them is in
    # pixel S // 2: x, y of the keypoint in the other, float32.
    place: Tensor

    @classmethod
    def of(cls, optical: Patch, sar: Patch, place: Any, channels: int = 1) -> "Sample":
        """channels: of the optical image, see `finish`."""
        return cls(*map(torch.from_numpy, (*finish(optical, sar, channels), np.asarray(place))))


def cut(
    optical: Patch, sar: Patch, geometry: Geometry, zoom: float, random: np.random.Generator, bands: bool = False
) -> tuple[Patch, Patch, npt.NDArray[np.int64]]:
    """Optical patch, SAR template and the (row, col) of its upper left pixel in the patch: a random place of the pair,
    magnified by `zoom`, or more if it has no room for the patch, flipped, turned and tilted at random, both alike.
    bands: whether the optical patch keeps its bands; their mean otherwise."""
    side, (height, width) = geometry.optical, optical.valid.shape
    tilt = np.deg2rad(random.uniform(-1, 1) * geometry.tilt) if geometry.tilt else 0.0
    room = abs(np.cos(tilt)) + abs(np.sin(tilt))
    zoom = max(zoom, side * room / min(height, width))
    need = side / zoom * room
    corner = random.uniform(0, 1, 2) * np.maximum([width - need, height - need], 0)
    if zoom == 1 and not tilt:
        corner = np.floor(corner)
    # cv2 pixel centres are integers: output p shows input corner + (p + 0.5) / zoom - 0.5
    start = corner + (need - side / zoom) / 2 + 0.5 / zoom - 0.5
    base = np.array([[1 / zoom, 0, start[0]], [0, 1 / zoom, start[1]], [0, 0, 1]])
    flip, quarter = bool(random.integers(2)), int(random.integers(4))
    flip, quarter = flip and geometry.flips, quarter if geometry.quarters else 0
    base = base @ _about(np.full(2, (side - 1) / 2), symmetry(flip, quarter))
    if tilt:
        base = base @ _about(np.full(2, (side - 1) / 2), _turning(tilt))
    place = random.integers(0, side - geometry.sar + 1, 2)
    middle = np.asarray(place[::-1] + (geometry.sar - 1) / 2, np.float64)
    turned = _turning(np.deg2rad(random.uniform(-1, 1) * geometry.turn))
    stretch = 1 + random.uniform(-1, 1) * geometry.stretch
    template = base @ _about(middle, stretch * turned) @ np.array([[1, 0, place[1]], [0, 1, place[0]], [0, 0, 1]])
    seen = (Patch(band[None], optical.valid) for band in optical.values) if bands else [optical]
    shown = [_resample(each, base, side, zoom) for each in seen]
    patch = Patch(np.concatenate([each.values for each in shown]), shown[0].valid)
    return patch, _resample(sar, template, geometry.sar, zoom), place.astype(np.int64)


def part(patch: Patch, window: Window) -> Patch:
    """What the patch holds in a window of it."""
    rows, cols = window.slices()
    return Patch(patch.values[:, rows, cols], patch.valid[rows, cols])


def symmetry(flip: bool, quarter: int) -> npt.NDArray[np.float64]:
    """(2, 2) one of a square's eight symmetries: about its middle, output pixel -> pixel of the upright patch."""
    return np.rint(_turning(quarter * np.pi / 2)) @ np.diag([-1.0 if flip else 1.0, 1.0])


def _turning(angle: float) -> npt.NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _about(middle: npt.NDArray[np.float64], linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(3, 3) of a linear map about `middle`, which stays where it is."""
    return np.block([[linear, (middle - linear @ middle)[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


def _resample(patch: Patch, matrix: npt.NDArray[np.float64], side: int, zoom: float) -> Patch:
    """(1, side, side) through output pixel -> input pixel."""
    nearest, cubic = (kind | cv2.WARP_INVERSE_MAP for kind in (cv2.INTER_NEAREST, cv2.INTER_CUBIC))
    flags, size = nearest if np.allclose(matrix, np.rint(matrix), atol=1e-9) else cubic, (side, side)
    grey = softened(patch.values, zoom)
    image = cv2.warpAffine(grey, matrix[:2], size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    valid = np.ones(size, bool)
    if not patch.valid.all():
        valid = cv2.warpAffine(patch.valid.astype(np.uint8), matrix[:2], size, flags=nearest).astype(bool)
    return Patch(np.maximum(image, 0)[None], valid)


def softened(values: npt.NDArray[Any], zoom: float) -> Image:
    """(h, w) mean of the bands, without what would alias when it is resampled at `zoom`."""
    grey = values.mean(axis=0, dtype=np.float32)
    return cv2.GaussianBlur(grey, (0, 0), 0.4 / zoom) if zoom < 0.8 else grey


def augment_optical(image: Image, photometry: Photometry, random: np.random.Generator) -> Image:
    """(..., h, w) of any scale -> another picture of the same ground; bands are changed alike."""
    if random.random() < photometry.tone:
        image = _tone_curve(image, random, monotone=bool(random.integers(2)))
    image = _gamma(image, photometry.gain, random)
    if photometry.blur and random.random() < 0.3:
        image = blur(image, float(random.uniform(0, photometry.blur)))
    if photometry.noise:
        scale = random.uniform(0, photometry.noise) * float(image.std())
        image = image + scale * random.standard_normal(image.shape, dtype=np.float32)
    return image


def augment_sar(image: Image, photometry: Photometry, random: np.random.Generator) -> Image:
    """(h, w) amplitude of any scale -> another picture of the same ground."""
    image = blur(image, float(random.uniform(0, photometry.blur))) if photometry.blur else image
    if random.random() < photometry.speckle:
        image = speckle(image, float(np.exp2(random.uniform(1, 6))), random)
    if random.random() < photometry.tone / 2:
        image = _tone_curve(image, random, monotone=True)
    image = _gamma(image, photometry.gain, random)
    if photometry.sar_noise:
        logarithm = np.log(np.maximum(image, 1e-3 * float(image.mean()) + 1e-12))
        scale = random.uniform(0, photometry.sar_noise) * float(logarithm.std())
        image = image * np.exp(scale * random.standard_normal(image.shape, dtype=np.float32))
    return image


def _gamma(image: Image, spread: float, random: np.random.Generator) -> Image:
    if not spread:
        return image
    top = float(image.max()) or 1.0
    power = np.float32(np.exp(random.uniform(-spread, spread)))
    return np.asarray((np.maximum(image, 0) / top) ** power * top, np.float32)


def _tone_curve(image: Image, random: np.random.Generator, monotone: bool) -> Image:
    """A piecewise linear curve over the image's quantiles."""
    knots = np.quantile(image, np.linspace(0, 1, 6)) + np.arange(6) * 1e-6
    values = np.sort(random.random(6)) if monotone else random.random(6)
    return np.interp(image, knots, values * float(knots[-1])).astype(np.float32)


def finish(optical: Patch, sar: Patch, channels: int = 1) -> tuple[Image, Image]:
    """(channels, h, w) and (1, h, w) network inputs of both, exactly as the matcher makes them."""
    return optical_input(optical, channels), sar_input(sar, SarLog.of(sar.values, sar.valid))
