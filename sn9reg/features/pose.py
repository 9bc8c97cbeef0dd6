"""How the SAR image is turned and scaled against the optical one: a search over both, on few pixels.

For every rotation and scale of a grid, FFT correlation of orientation energies finds the shift; around the best ones
again, on finer pixels. Not Fourier-Mellin: the sensors' spectra have little in common. Whoever matches sees the SAR
scene through what is found, see `ScenePair.posed`.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from sn9reg.features.orientation import orientation_features
from sn9reg.raster.grid import Points, coarse_to_common
from sn9reg.raster.radiometry import Image, Mask, SarLog, optical_grey, standardise
from sn9reg.raster.scene import ScenePair

Matrix = npt.NDArray[np.float64]
Posing = Literal["auto", "none", "search"]  # what `register` and the command line have for a choice, see `attempts`
POSES = get_args(Posing)
Looks = tuple[Image, Mask, Image, Mask]  # an overview of the optical scene, its mask, SAR, its mask; standardised

_SIDES = (64, 128)  # pixels of the longer side, first and then around the best
_TURN, _ZOOM = math.radians(10.0), 1.15  # steps of the first search: half of one moves the rim by about a pixel
_FINER = 3  # the second search has steps of a third
_KEPT = 4  # poses of the first search that the second looks at
_WAVELENGTH = 6.0  # pixels
_OVERLAP = 0.25  # of the smaller image's pixels must lie on the other
_RIM = 2  # pixels at the border of what is valid that feel it


@dataclass(frozen=True)
class Pose:
    """How the SAR image lies against the optical one."""

    matrix: Matrix  # (3, 3) optical pixel x, y, 1 -> SAR pixel, a similarity
    turn: float  # rotation from x towards y, radians
    zoom: float  # how much larger things are in the SAR image
    strength: float = math.inf  # how far the correlation stands out, in standard deviations of noise; of none, infinity

    @classmethod
    def between(cls, optical_xy: Points, sar_xy: Points) -> Pose:
        """The similarity that takes (N, 2) places nearest to their counterparts, in the sense of least squares."""
        here, there = (np.asarray(xy) @ [1, 1j] for xy in (optical_xy, sar_xy))
        (mean, target), centred = (here.mean(), there.mean()), here - here.mean()
        factor = complex(np.vdot(centred, there) / max(float(np.vdot(centred, centred).real), 1e-9))
        shift = target - factor * mean
        matrix = [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag], [0, 0, 1]]
        return cls(np.array(matrix), cmath.phase(factor), abs(factor))

    @property
    def degrees(self) -> float:
        """The rotation, from -180 to 180."""
        return math.degrees(math.remainder(self.turn, 2 * math.pi))

    @property
    def steepness(self) -> float:
        """How far the place of something moves by turn and zoom, as a share of its distance from the middle."""
        return abs(cmath.rect(self.zoom, self.turn) - 1)

    def __str__(self) -> str:
        return f"turned by {self.degrees:.1f} degrees and scaled by {self.zoom:.2f}"


def looks_of(pair: ScenePair) -> tuple[Looks, int]:
    """Both scenes by `ScenePair.overview`, and its factor. Raises InputError where a scene cannot be read."""
    (optical, factor), (sar, _) = pair.overview(pair.optical), pair.overview(pair.sar)
    radar = SarLog.of(sar.values, sar.valid, sar.decibel)(sar.values)
    grey = standardise(optical_grey(optical.values), optical.valid)
    return (grey, optical.valid, standardise(radar, sar.valid), sar.valid), factor


def pose_of(pair: ScenePair) -> Pose:
    """`find_pose` of a pair, in pixels of the common grid. Raises InputError where a scene cannot be read."""
    looks, factor = looks_of(pair)
    found = find_pose(*looks)
    return replace(found, matrix=on_common(found.matrix, factor))


def on_common(matrix: Matrix, factor: float) -> Matrix:
    """(3, 3) in pixels of the grid coarsened by `factor` -> in common pixels; with the inverse factor, back."""
    coarse = coarse_to_common(factor)
    return np.asarray(coarse @ matrix @ np.linalg.inv(coarse))


def find_pose(
    optical: Image, optical_valid: Mask, sar: Image, sar_valid: Mask, turn: float = math.pi, zoom: float = 2.0
) -> Pose:
    """The pose of the SAR image, (h, w), against the optical one, (H, W), both standardised; the identity, of strength
    0, where either has nothing to look at. turn: largest rotation, radians. zoom: largest scale, 1 / zoom the least."""
    turns = _steps(turn, _TURN) if turn < math.pi else list(np.arange(0, 2 * math.pi - 1e-9, _TURN))
    scales = [math.exp(z) for z in _steps(math.log(zoom), math.log(_ZOOM))]
    coarse = _Search(optical, optical_valid, sar, sar_valid, _SIDES[0])
    found = _distinct(coarse.try_all((a, s) for s in scales for a in turns))[:_KEPT]
    if not found:
        return Pose(np.eye(3), 0.0, 1.0, 0.0)
    fine = _Search(optical, optical_valid, sar, sar_valid, _SIDES[1])
    around = [k / _FINER for k in range(-1, 2)]
    near = [(p.turn + k * _TURN, p.zoom * _ZOOM**n) for p in found for k in around for n in around]
    asked = [(t, z) for t, z in near if abs(math.remainder(t, 2 * math.pi)) < turn + 1e-9 and 1 / zoom <= z <= zoom]
    return max(fine.try_all(asked or near), key=lambda pose: pose.strength, default=found[0])


def agreement(optical: Image, optical_valid: Mask, sar: Image, sar_valid: Mask, matrix: Matrix) -> float:
    """How well the SAR image fits the optical one, seen through (3, 3) optical pixel -> SAR pixel: the correlation of
    orientation energies, in standard deviations of noise; minus infinity where too little lies on one another."""
    look = _Search(optical, optical_valid, sar, sar_valid, _SIDES[1])
    through = np.linalg.inv(look.to_sar) @ matrix @ look.to_optical
    features, inside = _features(*warped(look.sar, look.sar_valid, through, look.optical.shape))
    both = look.mask * inside
    if both.sum() < max(16.0, _OVERLAP * min(float(look.mask.sum()), float(inside.sum()))):
        return -math.inf
    one, other = look.features * both, features * both
    lengths = one.square().sum() * other.square().sum()
    return float((one * other).sum() * (both.sum() / lengths.clamp_min(1e-6)).sqrt())


def _steps(reach: float, step: float) -> list[float]:
    """From -reach to reach, 0 among them, no farther apart than `step`."""
    count = math.ceil(reach / step - 1e-9)
    return [0.0] if count == 0 else [reach * k / count for k in range(-count, count + 1)]


def _distinct(poses: list[Pose]) -> list[Pose]:
    """By strength, without those that are next to a stronger one."""
    chosen: list[Pose] = []
    for pose in sorted(poses, key=lambda p: -p.strength):
        apart = ((math.remainder(pose.turn - p.turn, 2 * math.pi), math.log(pose.zoom / p.zoom)) for p in chosen)
        if not any(abs(turn) < 1.2 * _TURN and abs(zoom) < 1.2 * math.log(_ZOOM) for turn, zoom in apart):
            chosen.append(pose)
    return chosen


class _Search:
    """Both images at one pixel size, and the spectra of the optical one."""

    def __init__(self, optical: Image, optical_valid: Mask, sar: Image, sar_valid: Mask, side: int) -> None:
        factor = max(1.0, max(*_box(optical_valid)[2:], *_box(sar_valid)[2:]) / side)
        self.optical, valid, self.to_optical = _coarse(optical, optical_valid, factor)
        self.sar, self.sar_valid, self.to_sar = _coarse(sar, sar_valid, factor)
        self.features, self.mask = _features(self.optical, valid)
        self.spectra: dict[tuple[int, int], list[Tensor]] = {}  # of the optical image, by their size

    def try_all(self, poses: Iterable[tuple[float, float]]) -> list[Pose]:
        """The best shift of each rotation and scale; those left out where there is too little to compare."""
        # Transforms this small do not gain by threads of their own, only by being several at once.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                return [found for found in pool.map(lambda pose: self._try(*pose), poses) if found is not None]
        finally:
            torch.set_num_threads(threads)

    def _try(self, turn: float, zoom: float) -> Pose | None:
        sar, valid, back = _turned(self.sar, self.sar_valid, turn, zoom)
        features, mask = _features(sar, valid)
        least = _OVERLAP * min(float(self.mask.sum()), float(mask.sum()))
        if least < 16:
            return None
        (h, w), (height, width) = sar.shape, self.optical.shape
        shape = (next_fast_len(h + height, real=True), next_fast_len(w + width, real=True))
        if shape not in self.spectra:
            parts = (self.features, self.mask, self.features.square().sum(dim=0))
            self.spectra[shape] = [torch.fft.rfft2(part, shape).conj() for part in parts]
        spectrum, cover, energy = self.spectra[shape]
        other, other_cover = torch.fft.rfft2(features, shape), torch.fft.rfft2(mask, shape)
        summed = torch.fft.irfft2((spectrum * other).sum(dim=0), shape)
        count = torch.fft.irfft2(cover * other_cover, shape)
        optical_energy = torch.fft.irfft2(energy * other_cover, shape)
        sar_energy = torch.fft.irfft2(cover * torch.fft.rfft2(features.square().sum(dim=0), shape), shape)
        # The deviation of a correlation coefficient of noise falls with the root of how many pixels it is taken over.
        strength = summed * (count / (optical_energy * sar_energy).clamp_min(1e-6)).clamp_min(0).sqrt()
        strength = torch.where(count >= least, strength, -torch.inf)
        row, col = divmod(int(strength.argmax()), shape[1])
        dx, dy = (col - shape[1] if col >= w else col), (row - shape[0] if row >= h else row)
        shift = np.array([[1.0, 0, dx], [0, 1, dy], [0, 0, 1]])
        matrix = self.to_sar @ back @ shift @ np.linalg.inv(self.to_optical)
        return Pose(matrix, turn, zoom, float(strength[row, col]))


def _features(image: Image, valid: Mask) -> tuple[Tensor, Tensor]:
    """(6, h, w) orientation energies less their mean, 0 where not valid, and (h, w) where they are."""
    found = orientation_features(torch.from_numpy(image)[None], 6, (_WAVELENGTH,), 0.0)[0]
    inside = cv2.erode(np.pad(valid.astype(np.uint8), 1), np.ones((2 * _RIM + 1,) * 2, np.uint8))[1:-1, 1:-1]
    mask = torch.from_numpy(inside.astype(np.float32)) * (found.abs().sum(dim=0) > 0)
    mean = (found * mask).sum(dim=(1, 2), keepdim=True) / mask.sum().clamp_min(1)
    return (found - mean) * mask, mask


def _box(valid: Mask) -> tuple[int, int, int, int]:
    """Left, top, width and height of the rectangle that holds what is valid; of one pixel where nothing is."""
    left, top, width, height = cv2.boundingRect(valid.astype(np.uint8))
    return left, top, max(1, width), max(1, height)


def _coarse(image: Image, valid: Mask, factor: float) -> tuple[Image, Mask, Matrix]:
    """What is valid of the image in pixels `factor` times as large, its mask, and (3, 3) from these to the image's."""
    left, top, width, height = _box(valid)
    image, valid = image[top : top + height, left : left + width], valid[top : top + height, left : left + width]
    size = max(1, round(width / factor)), max(1, round(height / factor))
    share = cv2.resize(valid.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(np.where(valid, image, np.float32(0)), size, interpolation=cv2.INTER_AREA)
    fx, fy = width / size[0], height / size[1]
    matrix = np.array([[fx, 0, left + fx / 2 - 0.5], [0, fy, top + fy / 2 - 0.5], [0, 0, 1]])
    return np.asarray(small / np.maximum(share, 1e-3), np.float32), share > 0.5, matrix


def _turned(image: Image, valid: Mask, turn: float, zoom: float) -> tuple[Image, Mask, Matrix]:
    """The whole image as it would look without its turn and zoom, its mask, and (3, 3) its pixels -> the image's."""
    h, w = image.shape
    cos, sin = math.cos(turn), math.sin(turn)
    width = math.ceil((abs(cos) * w + abs(sin) * h) / zoom)
    height = math.ceil((abs(sin) * w + abs(cos) * h) / zoom)
    matrix = np.eye(3)
    matrix[:2, :2] = zoom * np.array([[cos, -sin], [sin, cos]])
    matrix[:2, 2] = np.array([w - 1, h - 1]) / 2 - matrix[:2, :2] @ (np.array([width - 1, height - 1]) / 2)
    if zoom > 1.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.35 * zoom), np.float32)
    return *warped(image, valid, matrix, (height, width)), matrix


def warped(image: Image, valid: Mask, matrix: Matrix, shape: tuple[int, int]) -> tuple[Image, Mask]:
    """(h, w) image and mask pulled to `shape` through (3, 3) output pixel -> input pixel; mirrored at the border."""
    size, flags = shape[::-1], cv2.WARP_INVERSE_MAP
    out = cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_LINEAR | flags, borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.warpPerspective(valid.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST | flags)
    return np.asarray(out, np.float32), mask.astype(bool)
