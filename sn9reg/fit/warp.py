"""Warp: from the map position of an optical pixel to that of its counterpart in the SAR image, and its expected error;
and the global models (translation, affine, homography). All work in map coordinates of the common grid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from sn9reg.fit.correspondences import Flags, Floats
from sn9reg.raster.grid import Points

GlobalModel = Literal["translation", "affine", "homography"]

_MINIMUM = {"translation": 1, "affine": 3, "homography": 4}
_ITERATIONS = 5000  # of RANSAC: so many draws find 20 % inliers of 4 points with certainty


@dataclass(frozen=True)
class Warp:
    """A fitted warp."""

    model: str
    move: Callable[[Points], Points]  # (N, 2) optical map positions -> (N, 2) SAR map positions
    error: Callable[[Points], Floats]  # (N, 2) optical map positions -> (N,) expected error per axis, map units

    def __call__(self, map_xy: Points) -> Points:
        return self.move(np.asarray(map_xy, dtype=np.float64))


IDENTITY = Warp("identity", lambda xy: xy, lambda xy: np.full(len(xy), np.nan))  # it trusts the georeference


@dataclass(frozen=True)
class GlobalFit:
    """A global model. Call: (N, 2) optical map positions -> (N, 2) SAR map positions."""

    matrix: Floats  # (3, 3), in coordinates relative to `centre`
    centre: Floats  # (2,) mean of the points
    inliers: Flags  # (N,) points within the threshold

    def __call__(self, map_xy: Points) -> Points:
        moved = np.column_stack([map_xy - self.centre, np.ones(len(map_xy))]) @ self.matrix.T
        return moved[:, :2] / moved[:, 2:] + self.centre


def fit_global(
    source: Points, target: Points, model: GlobalModel, threshold: float, seed: int = 0, method: int = cv2.RANSAC
) -> GlobalFit | None:
    """Robust fit of `target` = model(`source`), both (N, 2) in map units; threshold in the same units. None where the
    points do not determine the model.

    An affine by RANSAC, refitted on its inliers, is that of the SpaceNet 9 baseline (Hänsch et al., section 3.2). For
    affines and homographies, method: cv2.RANSAC or another; seed: draws other samples, by another order of the points
    (0 keeps it), since OpenCV's estimators ignore `cv2.setRNGSeed`.
    """
    if len(source) < _MINIMUM[model]:
        return None
    centre = source.mean(axis=0)
    a, b = np.ascontiguousarray(source - centre), np.ascontiguousarray(target - centre)
    if model == "translation":
        return _translation(a, b, threshold, centre)
    estimate = cv2.estimateAffine2D if model == "affine" else cv2.findHomography
    order = np.random.default_rng(seed).permutation(len(a)) if seed else np.arange(len(a))
    a, b = a[order], b[order]
    cv2.setRNGSeed(0)
    try:
        matrix, mask = estimate(
            a, b, method=method, ransacReprojThreshold=threshold, maxIters=_ITERATIONS, confidence=0.999
        )
    except cv2.error:  # all points on one line, say
        return None
    if matrix is None or not np.isfinite(matrix).all():
        return None
    inliers = mask.ravel().astype(bool)
    if on_a_line(a[inliers]):
        return None
    if model == "affine":
        matrix = np.vstack([least_squares_affine(a[inliers], b[inliers]), [0, 0, 1]])
    return GlobalFit(np.asarray(matrix, np.float64), centre, inliers[np.argsort(order)])


def on_a_line(points: Points) -> bool:
    """Whether all of (N, 2) points lie on one line, up to rounding; OpenCV checks this without a tolerance."""
    if len(points) < 3:
        return True
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(spread[1] <= 1e-6 * spread[0])


def least_squares(terms: Floats, target: Points, weight: Floats | None = None) -> Floats:
    """(2, k) matrix that takes (N, k) terms to (N, 2) places with the least weighted squares."""
    root = np.sqrt(np.ones(len(terms)) if weight is None else weight)[:, None]
    return np.asarray(np.linalg.lstsq(terms * root, target * root, rcond=None)[0].T)


def least_squares_affine(source: Points, target: Points, weight: Floats | None = None) -> Floats:
    """(2, 3) matrix of the weighted least-squares affine."""
    return least_squares(np.column_stack([source, np.ones(len(source))]), target, weight)


def _translation(a: Points, b: Points, threshold: float, centre: Floats) -> GlobalFit:
    """The shift with most others within the threshold, refined to a robust mean of these."""
    shift = b - a
    candidates = shift if len(shift) <= 1000 else shift[np.linspace(0, len(shift) - 1, 1000).astype(int)]
    counts = [(np.hypot(*(shift - c).T) < threshold).sum() for c in candidates]
    inliers = np.hypot(*(shift - candidates[int(np.argmax(counts))]).T) < threshold
    mean = np.median(shift[inliers], axis=0)
    for _ in range(10):
        off = np.hypot(*(shift[inliers] - mean).T)
        weight = 1 / (1 + (off / max(2 * float(np.median(off)), 1e-9)) ** 2)
        mean = np.average(shift[inliers], axis=0, weights=weight)
    matrix = np.eye(3)
    matrix[:2, 2] = mean
    return GlobalFit(matrix, centre, inliers)
