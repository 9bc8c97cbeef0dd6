"""How well places were found: correct match rate and mean distance; of matches, their number, F-measure and RMSE."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

RADII = (0, 1, 2, 3, 5)
TOLERANCE = 1e-9  # px: distances that are whole by right may come with rounding


def cmr(errors: npt.ArrayLike, radius: float) -> float:
    """Correct match rate: the share of distances ||t - t*||_2 that are at most `radius`.

    Learning-based SAR-Optical Registration for Navigation, eq. (2). errors: (N,) distances, pixels; infinite where
    nothing was found, which counts as wrong. Raises ValueError where there are none.
    """
    return float((_distances(errors) <= radius + TOLERANCE).mean())


def mean_l2(errors: npt.ArrayLike) -> float:
    """Mean of (N,) distances, pixels. Raises ValueError where there are none."""
    return float(_distances(errors).mean())


def summarise(errors: npt.ArrayLike) -> dict[str, Any]:
    """Number of distances, `cmr` by radius of `RADII`, and `mean_l2`, rounded to four digits, for JSON.

    errors as in `cmr`. Raises ValueError where there are none.
    """
    return {
        "n": len(_distances(errors)),
        "cmr": {str(radius): round(cmr(errors, radius), 4) for radius in RADII},
        "mean_l2_px": round(mean_l2(errors), 4),
    }


def ncm(errors: npt.ArrayLike, radius: float = 3.0) -> int:
    """Number of correct matches: those whose distance to the true place is less than `radius`.

    He et al., "Deep convolutional network based on attention mechanism for matching optical and SAR images",
    section 3.2. errors: (N,) distances of N matches, pixels, N = 0 included. Raises ValueError for another shape.
    """
    return len(_correct(errors, radius))


def f_measure(correct: float, matches: float, keypoints: float) -> float:
    """Harmonic mean of precision, correct / matches, and recall, correct / keypoints, in [0, 1]; 0 with none correct.

    He et al., section 3.2, eq. (6), (7). correct: `ncm` of the `matches` that were made of so many keypoints. Raises
    ValueError where they are negative, no numbers, or not 0 <= correct <= matches <= keypoints.
    """
    if not 0 <= correct <= matches <= keypoints < np.inf:
        raise ValueError(f"{correct} correct of {matches} matches of {keypoints} keypoints do not go together")
    if not correct:
        return 0.0
    precision, recall = correct / matches, correct / keypoints
    return float(2 * precision * recall / (precision + recall))


def rmse(errors: npt.ArrayLike, radius: float = 3.0) -> float:
    """Root of the mean square of the distances that are less than `radius`, pixels; NaN where there are none.

    He et al., section 3.2. errors as in `ncm`. Raises ValueError for another shape.
    """
    correct = _correct(errors, radius)
    return float(np.sqrt((correct**2).mean())) if len(correct) else float("nan")


def _correct(errors: npt.ArrayLike, radius: float) -> npt.NDArray[np.float64]:
    """Those of (N,) distances that are less than the radius; not those that only rounding brings below it."""
    distances = np.asarray(errors, dtype=np.float64)
    if distances.ndim != 1:
        raise ValueError(f"errors must be (N,), not {distances.shape}")
    return distances[distances < radius - TOLERANCE]


def _distances(errors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    distances = np.asarray(errors, dtype=np.float64)
    if distances.ndim != 1 or len(distances) == 0:
        raise ValueError(f"errors must be (N,) with N > 0, not {distances.shape}")
    return distances
