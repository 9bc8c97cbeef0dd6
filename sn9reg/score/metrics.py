"""How well places were found, how many matches are correct, and whether confidences mean what they say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

RADII = (0, 1, 2, 3, 5)
TOLERANCE = 1e-9  # px: distances between whole pixels come with rounding


def cmr(errors: npt.ArrayLike, radius: float) -> float:
    """Correct match rate: the share of distances ||t - t*||_2 that are at most `radius`. Bertrand et al.,
    "Learning-based SAR-Optical Registration for Navigation", eq. (2). errors: (N,) distances, pixels; infinite where
    nothing was found. Raises ValueError where there are none."""
    return float((_distances(errors) <= radius + TOLERANCE).mean())


def summarise(errors: npt.ArrayLike) -> dict[str, Any]:
    """Number of distances, `cmr` by radius of `RADII`, and mean, rounded to four digits, for JSON; as `cmr`."""
    distances = _distances(errors)
    rates = {str(radius): round(cmr(distances, radius), 4) for radius in RADII}
    return {"n": len(distances), "cmr": rates, "mean_l2_px": round(float(distances.mean()), 4)}


def ncm(errors: npt.ArrayLike, radius: float = 3.0) -> int:
    """Number of correct matches, those less than `radius` off; of (N,) distances, pixels, N = 0 included. He et al.,
    "Deep convolutional network based on attention mechanism for matching optical and SAR images", section 3.2."""
    return len(_correct(errors, radius))


def f_measure(correct: float, matches: float, keypoints: float) -> float:
    """Harmonic mean of precision, correct / matches, and recall, correct / keypoints, in [0, 1]; 0 with none correct.
    He et al., section 3.2, eq. (6), (7). correct: `ncm` of the `matches` that were made of so many keypoints. Raises
    ValueError where they are negative, no numbers, or not 0 <= correct <= matches <= keypoints."""
    if not 0 <= correct <= matches <= keypoints < np.inf:
        raise ValueError(f"{correct} correct of {matches} matches of {keypoints} keypoints do not go together")
    if not correct:
        return 0.0
    precision, recall = correct / matches, correct / keypoints
    return float(2 * precision * recall / (precision + recall))


def rmse(errors: npt.ArrayLike, radius: float = 3.0) -> float:
    """Root of the mean square of the distances that `ncm` counts, pixels; NaN where there are none. He et al., 3.2."""
    correct = _correct(errors, radius)
    return float(np.sqrt((correct**2).mean())) if len(correct) else float("nan")


def mma(errors: Sequence[npt.ArrayLike], radius: float) -> float:
    """Mean matching accuracy as it is usually taken: the share of an image pair's matches that are at most `radius`
    off, averaged over the pairs (Mikolajczyk & Schmid 2005). errors: per pair (N,) distances, pixels; a pair without
    matches counts as 0. Raises ValueError where there are no pairs."""
    return _mean_over_pairs([cmr(e, radius) if np.size(e) else 0.0 for e in errors])


def mma_of_truth(errors: Sequence[npt.ArrayLike], possible: Sequence[int], radius: float) -> float:
    """The MMA, "maximum mean accuracy", of Huang et al., "Uncertainty-aware self-supervised cross-modal SAR-optical
    matching using EfficientDet and Xception", eq. (6): of the correspondences that exist the share that was found at
    the best threshold on confidence. That is the lowest, which drops none, and the value the mean recall of the pairs.
    errors: per pair (N,). possible: how many correspondences each pair has, at least 1 (else ValueError)."""
    if not len(errors) or min(possible) < 1:
        raise ValueError("there are no pairs, or one without a possible correspondence")
    found = [(np.asarray(off, np.float64) <= radius + TOLERANCE).sum() for off in errors]
    return _mean_over_pairs([right / count for right, count in zip(found, possible, strict=True)])


def anm(confidence: Sequence[npt.ArrayLike], threshold: float) -> float:
    """Number of matches whose confidence exceeds `threshold`, averaged over the pairs; Huang et al., eq. (9)."""
    return _mean_over_pairs([(np.asarray(sure, np.float64) > threshold).sum() for sure in confidence])


def reliability(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = 10) -> npt.NDArray[np.float64]:
    """(bins, 3) share of the samples in each of `bins` equally wide bins of confidence, their mean confidence and the
    share that is right; NaN for the latter two in an empty bin. confidence: (N,) in [0, 1], right: (N,). Raises
    ValueError for other shapes or values, or N = 0."""
    sure, good = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if sure.ndim != 1 or sure.shape != good.shape or not len(sure) or not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError(f"confidence must be (N,) from 0 to 1, and right as many, not {sure.shape} and {good.shape}")
    part = np.minimum((sure * bins).astype(int), bins - 1)
    count = np.bincount(part, minlength=bins).astype(np.float64)
    sums = (np.bincount(part, values, minlength=bins) for values in (sure, good))
    means = [np.divide(total, count, out=np.full(bins, np.nan), where=count > 0) for total in sums]
    return np.column_stack([count / len(sure), *means])


def ece(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = 10) -> float:
    """Expected calibration error, how far on average the share of right ones is from the confidence claimed: Huang et
    al., eq. (8), by bins of equal width (Guo et al. 2017). Arguments as in `reliability`."""
    share, sure, good = reliability(confidence, right, bins).T
    return float(np.nansum(share * np.abs(sure - good)))


def auroc(confidence: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Area under the ROC curve: how often a right match is surer than a wrong one, a tie being half; 0.5 where
    confidence knows nothing (Hanley & McNeil 1982). NaN where all are right or none. confidence, right: (N,)."""
    sure, good = np.asarray(confidence, np.float64), np.asarray(right, bool)
    n, m = int(good.sum()), int((~good).sum())
    return float((rankdata(sure)[good].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def risk_coverage(confidence: npt.ArrayLike, right: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(N, 2) for every share of the matches, the surest first, which share of these is wrong (Geifman & El-Yaniv 2017).
    confidence, right: (N,)."""
    order = np.argsort(-np.asarray(confidence, np.float64), kind="stable")
    kept = np.arange(1, len(order) + 1)
    return np.column_stack([kept / max(1, len(order)), np.cumsum(~np.asarray(right, bool)[order]) / kept])


def _mean_over_pairs(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("there are no pairs to average over")
    return float(np.mean(values))


def _correct(errors: npt.ArrayLike, radius: float) -> npt.NDArray[np.float64]:
    """Distances less than the radius; not those that only rounding brings below it."""
    distances = _distances(errors, least=0)
    return distances[distances < radius - TOLERANCE]


def _distances(errors: npt.ArrayLike, least: int = 1) -> npt.NDArray[np.float64]:
    distances = np.asarray(errors, dtype=np.float64)
    if distances.ndim != 1 or len(distances) < least:
        raise ValueError(f"errors must be (N,){' with N > 0' if least else ''}, not {distances.shape}")
    return distances
