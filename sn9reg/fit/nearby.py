"""What is known at scattered places, elsewhere: values on average, and how far away they are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from sn9reg.fit.correspondences import Floats
from sn9reg.raster.grid import Points

_AROUND, _PRIOR = 24, 4.0  # places that count nearby; the mean of all counts as so many
_NEAREST = 6


def local_mean(source: Points, values: Floats) -> Callable[[Points], Floats]:
    """(M, 2) places -> (M,) mean of the (N,) values of the places of `source` around, the nearer the more, drawn a
    little towards the mean of all."""
    tree, count = cKDTree(source), min(len(source), _AROUND)
    typical = float(values.mean())

    def mean(xy: Points) -> Floats:
        distance, index = (np.asarray(part).reshape(len(xy), count) for part in tree.query(xy, count))
        weight = np.exp(-((distance / np.maximum(distance[:, -1:] / 2, 1e-9)) ** 2) / 2)
        summed = (weight * values[index]).sum(axis=1) + _PRIOR * typical
        return np.asarray(summed / (weight.sum(axis=1) + _PRIOR))

    return mean


def distance_to(source: Points) -> Callable[[Points], Floats]:
    """(M, 2) places -> (M,) mean distance of the nearest six of (N, 2) `source`, or of all if they are fewer."""
    tree, count = cKDTree(source), min(len(source), _NEAREST)
    return lambda xy: np.asarray(tree.query(xy, count)[0]).reshape(len(xy), count).mean(axis=1)
