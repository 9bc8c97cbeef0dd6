"""How well places were found: correct match rate and mean distance."""

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


def _distances(errors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    distances = np.asarray(errors, dtype=np.float64)
    if distances.ndim != 1 or len(distances) == 0:
        raise ValueError(f"errors must be (N,) with N > 0, not {distances.shape}")
    return distances
