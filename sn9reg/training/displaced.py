"""Keypoint samples out of registered pairs: corners that both images show, one image displaced by a random field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.options import options
from sn9reg.raster.grid import Points
from sn9reg.raster.radiometry import Image, Mask, SarLog, optical_grey
from sn9reg.raster.scene import Patch
from sn9reg.training.config import NotNegative
from sn9reg.training.sample import Sample, Share, augment_optical, augment_sar, dihedral

if TYPE_CHECKING:
    from sn9reg.training.keypoints import KeypointConfig

_APART = 6  # pixels between corners
_CORNERS = 150  # at most, of an image


@options
class Displacement:
    """The random field, in pixels of the tile."""

    reach: NotNegative = 110.0  # the keypoint lies at most this far from the middle, per axis
    near: NotNegative = 20.0  # spread of the distances from the middle that are drawn normally
    far: Share = 0.6  # of samples whose distances are drawn evenly up to `reach`
    gradient: NotNegative = 0.05  # spread of the field's four first derivatives
    bend: NotNegative = 6.0  # largest second order term at half a tile from the keypoint
    anywhere: Share = 0.3  # of keypoints that are no corners
    hidden: Share = 0.08  # of tiles part of which is not valid


def corners(optical: Patch, sar: Patch) -> npt.NDArray[np.int64]:
    """(N, 2) x, y of places where both images of a registered pair have a corner, best first.

    The smaller of both corner measures (least eigenvalue of the structure tensor, Shi and Tomasi), each as a share of
    what its image's strongest corners have; SAR on the logarithm and softened, so that speckle makes none.
    """
    of_optical = _cornerness(optical_grey(optical.values), optical.valid, 1.0)
    of_sar = _cornerness(SarLog.of(sar.values, sar.valid)(sar.values), sar.valid, 2.5)
    strength = np.minimum(of_optical, of_sar)
    peak = strength >= cv2.dilate(strength, np.ones((2 * _APART + 1, 2 * _APART + 1), np.uint8))
    y, x = np.nonzero(peak & (strength > 0.05))
    best = np.argsort(-strength[y, x], kind="stable")[:_CORNERS]
    return np.column_stack([x, y])[best].astype(np.int64)


def _cornerness(image: Image, valid: Mask, soften: float) -> Image:
    smooth = cv2.GaussianBlur(np.where(valid, image, image[valid].mean() if valid.any() else 0), (0, 0), soften)
    strength = cv2.cornerMinEigenVal(smooth.astype(np.float32), 9)
    inside = cv2.erode(valid.astype(np.uint8), np.ones((9, 9), np.uint8), borderValue=1) > 0
    top = float(np.quantile(strength[inside], 0.99)) if inside.any() else 0.0
    return np.where(inside, strength / top, 0).astype(np.float32) if top > 0 else np.zeros_like(strength)


def displaced(
    optical: Patch, sar: Patch, keypoint: Points, zoom: float, config: KeypointConfig, random: np.random.Generator
) -> Sample:
    """A sample whose keypoint is `keypoint` (x, y) of a registered pair, magnified by `zoom`.

    Both images are flipped and turned by quarters alike; the one to be searched is then displaced by a field with the
    keypoint's displacement known exactly.
    """
    side, field = config.tile, config.displacement
    turn = dihedral(side, bool(random.integers(2)), int(random.integers(4)))[:2, :2]
    middle = np.full(2, float(side // 2))
    height, width = optical.valid.shape
    # A tile that reached outside the image would show its border, from which the displacement could be learned.
    half = side / 2 / zoom
    limits = keypoint - np.maximum([width, height] - np.array(half), half), keypoint - half
    shift = np.clip(turn @ _shift(field, random) / zoom, *limits) @ turn * zoom
    place = np.clip(middle + shift, 0, side - 1)
    tile = np.mgrid[:side, :side][::-1].transpose(1, 2, 0).astype(np.float64, order="C")
    away = tile - place
    linear = np.eye(2) + random.normal(0, field.gradient, (2, 2))
    along, to = (np.array([np.cos(a), np.sin(a)]) for a in random.uniform(0, 2 * np.pi, 2))
    bent = random.uniform(0, field.bend) * ((away @ along) / (side / 2)) ** 2
    searched = keypoint + (away @ linear.T + bent[..., None] * to) @ turn.T / zoom
    around = keypoint + (tile - middle) @ turn.T / zoom
    tiles = [(around, middle), (searched, place)]  # where their pixels lie, and where they show the keypoint
    optical, sar = (
        _partly_hidden(_resample(patch, at, zoom), kept, field.hidden, random)
        for patch, (at, kept) in zip((optical, sar), tiles if config.finds == "sar" else tiles[::-1], strict=True)
    )
    optical = Patch(augment_optical(optical.values[0], config.photometry, random)[None], optical.valid)
    sar = Patch(augment_sar(sar.values[0], config.photometry, random)[None], sar.valid)
    return Sample.of(optical, sar, place.astype(np.float32))


def _shift(field: Displacement, random: np.random.Generator) -> Points:
    if random.random() < field.far:
        return random.uniform(-field.reach, field.reach, 2)
    return np.clip(random.normal(0, field.near, 2), -field.reach, field.reach)


def _partly_hidden(patch: Patch, kept: Points, share: float, random: np.random.Generator) -> Patch:
    """In `share` of the cases, without what lies beyond a line at 20 px or more from the place that is kept."""
    if random.random() >= share:
        return patch
    height, width = patch.valid.shape
    y, x = np.mgrid[:height, :width]
    angle = random.uniform(0, 2 * np.pi)
    beyond = (x - kept[0]) * np.cos(angle) + (y - kept[1]) * np.sin(angle) > random.uniform(20, max(20, height / 2))
    return Patch(np.where(beyond, 0, patch.values), patch.valid & ~beyond)


def _resample(patch: Patch, at: Points, zoom: float) -> Patch:
    """(1, h, w) of the grey image at (h, w, 2) places; mirrored outside."""
    low = np.floor(at.min(axis=(0, 1))).astype(int) - 4
    high = np.ceil(at.max(axis=(0, 1))).astype(int) + 5
    height, width = patch.valid.shape
    low, high = np.clip(low, 0, [width - 1, height - 1]), np.clip(high, 1, [width, height])
    part = slice(low[1], high[1]), slice(low[0], high[0])
    grey = patch.values[(slice(None), *part)].astype(np.float32).mean(axis=0)
    if zoom < 0.8:  # what lies between the tile's pixels must not alias
        grey = cv2.GaussianBlur(grey, (0, 0), 0.4 / zoom)
    x, y = (at - low).astype(np.float32).transpose(2, 0, 1)
    values = cv2.remap(grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = patch.valid[part].astype(np.uint8)
    valid = cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101).astype(bool)
    return Patch(np.where(valid, values, 0)[None].astype(np.float32), valid)
