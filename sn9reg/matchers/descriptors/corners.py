"""Keypoints without training: FAST on the moments of phase congruency, spread evenly."""

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from sn9reg.raster.grid import Points
from sn9reg.raster.radiometry import Image, Mask

_CONTRAST = 4  # grey values of 255 by which a corner must differ from its surroundings
_BRIGHTEST = 99.5  # percentile of the valid pixels that becomes 255; the largest does where that is 0
_ROBUSTNESS = 0.9  # a corner suppresses another one if this share of its strength is still more
_POOL = 8  # of so many times the corners asked for, the strongest, are the evenly spread ones chosen


def fast_corners(strength: Image, valid: Mask) -> tuple[Points, npt.NDArray[np.float64]]:
    """(N, 2) corners x, y of a (H, W) map of feature strength, and (N,) their response, by OpenCV's FAST: E. Rosten,
    T. Drummond, "Machine learning for high-speed corner detection", 2006."""
    seen = strength[valid]
    level = (float(np.percentile(seen, _BRIGHTEST)) or float(seen.max())) if seen.size else 0.0
    if not level > 0:
        return np.zeros((0, 2)), np.zeros(0)
    image = np.clip(strength * (255 / level), 0, 255).astype(np.uint8)
    fast = cv2.FastFeatureDetector_create(_CONTRAST, True)  # type: ignore[attr-defined]
    found = fast.detect(image, valid.astype(np.uint8))
    xy = np.array([point.pt for point in found], np.float64).reshape(-1, 2)
    return xy, np.array([point.response for point in found], np.float64)


def spread_evenly(xy: Points, response: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """Indices of at most `count` points, far from any that are clearly stronger: adaptive non-maximum suppression.

    M. Brown, R. Szeliski, S. Winder, "Multi-image matching using multi-scale oriented patches", 2005: a point's radius
    is its distance to the nearest point of which 0.9 of the strength is still more; those with the largest radii stay.
    """
    order = np.argsort(-response, kind="stable")[: _POOL * count]
    if len(order) <= count:
        return order
    points, strengths = xy[order], response[order]
    radius = np.full(len(order), np.inf)
    # How many at the front of the order are clearly stronger than each.
    stronger = np.searchsorted(-strengths, -strengths / _ROBUSTNESS, side="left")
    tree, k, waiting = cKDTree(points), 4, np.flatnonzero(stronger > 0)
    while len(waiting):  # among more and more neighbours, until each has met a stronger one
        k = min(4 * k, len(points))
        distance, index = tree.query(points[waiting], k=k)
        hit = index < stronger[waiting][:, None]
        radius[waiting] = np.where(hit, distance, np.inf).min(axis=1)
        waiting = waiting[~hit.any(axis=1)]
    return order[np.sort(np.argsort(-radius, kind="stable")[:count])]
