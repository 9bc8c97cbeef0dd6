"""Pairs that tempt a matcher: what both images share without being ground, mirrored images, parcels on a lattice."""

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.calibrate import Case, Random, saved, shifted
from sn9reg.raster.folders import RegisteredPair
from sn9reg.raster.scene import Patch

BORDER = 24  # pixels
NEAREST, FARTHEST = 7, 15  # displacement of a pair, pixels
PERIOD = 18  # of the lattice of parcels, pixels

Mask = npt.NDArray[np.bool_]  # (height, width) where both images are overwritten


def border(shape: tuple[int, int], _: Random) -> Mask:
    """A frame along all four sides."""
    return np.pad(np.zeros([n - 2 * BORDER for n in shape], bool), BORDER, constant_values=True)


def outline(shape: tuple[int, int], random: Random) -> Mask:
    """All beyond a turned rectangle."""
    (height, width), angle = shape, float(random.uniform(10, 35)) * random.choice([-1, 1])
    box = cv2.boxPoints((((width - 1) / 2, (height - 1) / 2), (0.74 * width, 0.74 * height), angle))
    return cv2.fillConvexPoly(np.ones(shape, np.uint8), np.rint(box).astype(np.int32), 0).astype(bool)


def wedge(shape: tuple[int, int], random: Random) -> Mask:
    """A triangle over one corner."""
    (height, width), (x, y) = shape, random.uniform(0.5, 0.9, 2)
    corners = np.array([[0, 0], [round(x * width), 0], [0, round(y * height)]], np.int32)
    mask = cv2.fillConvexPoly(np.zeros(shape, np.uint8), corners, 1).astype(bool)
    return mask[:: random.choice([-1, 1]), :: random.choice([-1, 1])]


def grid(shape: tuple[int, int], random: Random) -> Mask:
    """Lines of a graticule."""
    mask, step, width = np.zeros(shape, bool), int(random.integers(32, 65)), int(random.integers(1, 4))
    for start in range(int(random.integers(step)), max(shape), step):
        mask[start : start + width] = True
        mask[:, start : start + width] = True
    return mask


def label(shape: tuple[int, int], random: Random) -> Mask:
    """A few lines of text."""
    mask = np.zeros(shape, np.uint8)
    for row in range(int(random.integers(2, 5))):
        words = "".join(random.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789"), 12))
        cv2.putText(mask, words, (8, 36 + 44 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 1, 2)
    return mask.astype(bool)


FRAMES, MARKS = (border, outline, wedge), (grid, label)  # black, and white, in both images; not declared nodata
_FRAMED = 60  # pairs under each frame


def stamped(frames: bool, pairs: list[RegisteredPair], wrong: int, every: int, scratch: Path) -> Iterator[Case]:
    """Both images under the same stamp: frames around one place, or all stamps on about `wrong` pairs of two places."""
    stamps, count = (FRAMES[:2], _FRAMED / every) if frames else (FRAMES + MARKS, wrong / len(FRAMES + MARKS))
    for make in stamps:
        name, value = make.__name__, 0 if make in FRAMES else 255
        random = np.random.default_rng([*name.encode(), frames])
        for k in np.linspace(0, len(pairs) - 1, math.ceil(count)).astype(int):
            other = pairs[k] if frames else pairs[(k + 1 + int(random.integers(len(pairs) - 1))) % len(pairs)]
            *both, shift = moved(pairs[k], other, random)
            mask = make(both[0].valid.shape, random)
            images = [Patch(np.where(mask, np.float32(value), p.values), p.valid | mask) for p in both]
            yield saved(f"{name}_{k}_{pairs[k].name}_{other.name}", images, shift if frames else None, scratch)


def mirrored(pairs: list[RegisteredPair], count: int, scratch: Path) -> Iterator[Case]:
    """Pairs whose SAR image is flipped."""
    random = np.random.default_rng(5)
    for k in np.linspace(0, len(pairs) - 1, count).astype(int):
        optical, sar, _ = moved(pairs[k], pairs[k], random)
        flip = np.s_[:, ::-1] if random.integers(2) else np.s_[:, :, ::-1]
        images = (optical, Patch(sar.values[flip], sar.valid[flip[1:]]))
        yield saved(f"mirrored_{k}_{pairs[k].name}", images, None, scratch)


def lattice(count: int, scratch: Path, side: int = 226) -> Iterator[Case]:
    """Parcels of equal size whose brightness has nothing in common in the two images."""
    for seed in range(count):
        random = np.random.default_rng([6, seed])
        period, phase = int(random.integers(PERIOD - 4, PERIOD + 15)), random.integers(0, PERIOD, (2, 2))
        images = []
        for (x, y), looks in zip(phase, (200.0, 4.0), strict=True):
            ground = np.kron(random.uniform(60, 180, (side // period + 3,) * 2), np.ones((period, period)))
            ground[::period] = ground[:, ::period] = 30
            part = ground[y : y + side, x : x + side] * random.gamma(looks, 1 / looks, (side, side))
            images.append(Patch(np.clip(part, 0, 255).round().astype(np.float32)[None], np.ones((side, side), bool)))
        yield saved(f"lattice_{seed}", images, None, scratch)


def moved(pair: RegisteredPair, other: RegisteredPair, random: Random) -> tuple[Patch, Patch, npt.NDArray[np.int_]]:
    """An optical image and another pair's SAR image, displaced by 7 to 15 pixels, and that shift."""
    angle, length = random.uniform(0, 2 * np.pi), random.uniform(NEAREST, FARTHEST)
    shift = np.rint([length * np.cos(angle), length * np.sin(angle)]).astype(int)
    return *shifted(pair.read()[0], other.read()[1], shift, FARTHEST + 1), shift
