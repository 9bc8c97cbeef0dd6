"""Pairs that tempt a matcher: what both images share without being ground, and what looks like everything else.

Each part is a list of cases made from patches of a folder of pairs: frames (the same black border, turned outline or
wedge in both images, not declared nodata), marks (the same grid lines or label in both), mirrored images, and
parcels on one lattice.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.calibrate import Case, Random
from sn9reg.raster.folders import RegisteredPair
from sn9reg.raster.scene import Patch
from sn9reg.score.benchmark import save_pair

BORDER = 24  # pixels
NEAREST, FARTHEST = 7, 15  # displacement of a pair, pixels
PERIOD = 18  # of the lattice of parcels, pixels

Mask = npt.NDArray[np.bool_]
# (height, width), random -> where both images are overwritten
Stamp = Callable[[tuple[int, int], Random], Mask]


def border(shape: tuple[int, int], _: Random) -> Mask:
    """A frame along all four sides."""
    mask = np.ones(shape, bool)
    mask[BORDER:-BORDER, BORDER:-BORDER] = False
    return mask


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


STAMPS: dict[str, tuple[Stamp, float]] = {  # name -> mask, and the value that it gives to both images
    "border": (border, 0.0),
    "outline": (outline, 0.0),
    "wedge": (wedge, 0.0),
    "grid": (grid, 255.0),
    "label": (label, 255.0),
}
_FRAMED = 60  # pairs under each frame


def tempting(part: str, pairs: list[RegisteredPair], wrong: int, every: int, scratch: Path) -> Iterator[Case]:
    """The cases of `frames` (all show one place), or of `shared` or `mirrored` (`wrong` cases, none does)."""
    if part == "mirrored":
        yield from mirrored(pairs, wrong, scratch)
    elif part == "frames":
        for name in ("border", "outline"):
            yield from stamped(name, pairs, math.ceil(_FRAMED / every), True, scratch)
    else:
        for name in STAMPS:
            yield from stamped(name, pairs, math.ceil(wrong / len(STAMPS)), False, scratch)


def stamped(part: str, pairs: list[RegisteredPair], count: int, right: bool, scratch: Path) -> Iterator[Case]:
    """`count` pairs whose images bear the same stamp; `right`: and show the same place, 7 to 15 pixels apart."""
    make, value = STAMPS[part]
    random = np.random.default_rng([*part.encode(), right])
    for k in np.linspace(0, len(pairs) - 1, count).astype(int):
        other = pairs[k] if right else pairs[(k + 1 + int(random.integers(len(pairs) - 1))) % len(pairs)]
        name = f"{part}_{k}_{pairs[k].name}_{other.name}"
        optical, sar, shift = cut(pairs[k].read()[0], other.read()[1], random)
        mask = make(optical.valid.shape, random)
        images = [Patch(np.where(mask, np.float32(value), p.values), p.valid | mask) for p in (optical, sar)]
        yield case(name, images, shift if right else None, scratch)


def mirrored(pairs: list[RegisteredPair], count: int, scratch: Path) -> Iterator[Case]:
    """Pairs whose SAR image is flipped."""
    random = np.random.default_rng(5)
    for k in np.linspace(0, len(pairs) - 1, count).astype(int):
        read = pairs[k].read()
        optical, sar, _ = cut(read[0], read[1], random)
        flip = np.s_[:, ::-1] if random.integers(2) else np.s_[:, :, ::-1]
        images = [optical, Patch(sar.values[flip].copy(), sar.valid[flip[1:]].copy())]
        yield case(f"mirrored_{k}_{pairs[k].name}", images, None, scratch)


def lattice(count: int, scratch: Path, side: int = 226) -> Iterator[Case]:
    """Parcels of equal size whose brightness has nothing in common in the two images."""
    for seed in range(count):
        random = np.random.default_rng([6, seed])
        period, phase = int(random.integers(PERIOD - 4, PERIOD + 15)), random.integers(0, PERIOD, (2, 2))
        images = []
        for (x, y), looks in zip(phase, (200.0, 4.0), strict=True):
            parcels = random.uniform(60, 180, (side // period + 3,) * 2)
            ground = np.kron(parcels, np.ones((period, period)))
            ground[::period] = ground[:, ::period] = 30
            part = ground[y : y + side, x : x + side] * random.gamma(looks, 1 / looks, (side, side))
            images.append(Patch(np.clip(part, 0, 255).round().astype(np.float32)[None], np.ones((side, side), bool)))
        yield case(f"lattice_{seed}", images, None, scratch)


def cut(optical: Patch, sar: Patch, random: Random) -> tuple[Patch, Patch, npt.NDArray[np.float64]]:
    """Both images without a rim, the SAR image displaced by 7 to 15 pixels, and that shift from optical to SAR."""
    angle, length = random.uniform(0, 2 * np.pi), random.uniform(NEAREST, FARTHEST)
    shift = np.rint([length * np.cos(angle), length * np.sin(angle)]).astype(int)
    height, width = (min(a, b) - 2 * FARTHEST - 2 for a, b in zip(optical.valid.shape, sar.valid.shape, strict=True))
    parts = []
    for patch, (x, y) in ((optical, (FARTHEST + 1,) * 2), (sar, FARTHEST + 1 - shift)):
        rows, cols = slice(y, y + height), slice(x, x + width)
        parts.append(Patch(patch.values[:, rows, cols].copy(), patch.valid[rows, cols].copy()))
    return parts[0], parts[1], shift.astype(float)


def case(name: str, images: list[Patch], shift: npt.NDArray[np.float64] | None, scratch: Path) -> Case:
    files = save_pair(scratch / name, *images)
    return Case(name, files, None if shift is None else lambda _, xy: xy + shift)
