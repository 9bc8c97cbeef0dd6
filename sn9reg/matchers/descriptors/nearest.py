"""Nearest neighbours among descriptors: by matrix products, restricted to where partners may lie, and filtered."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from sn9reg.fit.correspondences import Flags, Floats
from sn9reg.matchers.descriptors.describe import Described
from sn9reg.raster.grid import Points

_ROWS = 1024  # optical keypoints compared at once
_FAR = 10.0  # distance that no two descriptors have


@dataclass(frozen=True)
class Neighbours:
    """The nearest SAR keypoints of N optical ones, by their descriptors."""

    index: npt.NDArray[np.int64]  # (N,) the SAR keypoint with the nearest descriptor
    distance: Floats  # (N,) from that descriptor
    rival: Floats  # (N,) from the second-nearest descriptor; sqrt(2), as between unrelated ones, where there is none
    mutual: Flags  # (N,) whether, of all optical keypoints, this one is the nearest to its SAR keypoint
    found: Flags  # (N,) whether there was any SAR keypoint to compare with


def nearest(
    optical: Described, sar: Described, expected: Points | None = None, radius: float = 0.0, apart: float = 0.0
) -> Neighbours:
    """The two nearest SAR keypoints of every optical one, by the distance sqrt(2 - 2 o.s) (He et al., section 2.4).
    expected: (N, 2) where the partners are expected in the SAR image, from which they lie at most `radius` pixels away;
    anywhere if not given. apart: a SAR keypoint nearer than this to the nearest one is not its rival."""
    n, m = len(optical), len(sar)
    if not n or not m:
        none = np.zeros(n)
        return Neighbours(none.astype(np.int64), none + _FAR, none + _FAR, none > 0, none > 0)
    index, distance, rival = np.zeros(n, np.int64), np.zeros(n), np.zeros(n)
    back, back_index = torch.full((m,), _FAR), torch.full((m,), -1)
    for start in range(0, n, _ROWS):
        rows = slice(start, min(start + _ROWS, n))
        # The least over the SAR variants: to turn one side is enough.
        cosine = torch.stack([optical.descriptors[0, rows] @ variant.T for variant in sar.descriptors]).amax(dim=0)
        table = (2 - 2 * cosine).clamp_min(0).sqrt()
        if expected is not None:
            table.masked_fill_(~_within(expected[rows], sar.xy, radius), _FAR)
        best, nearer = table.min(dim=1), table.min(dim=0)
        better = nearer.values < back
        back[better], back_index[better] = nearer.values[better], nearer.indices[better] + start
        around = _within(sar.xy[best.indices.numpy()], sar.xy, apart)
        index[rows], distance[rows] = best.indices.numpy(), best.values.numpy()
        rival[rows] = table.masked_fill(around, _FAR).amin(dim=1).clamp_max(2**0.5).numpy()
    found = distance < _FAR
    mutual = found & (back_index.numpy()[index] == np.arange(n))
    return Neighbours(index, distance, np.maximum(rival, distance), mutual, found)


def _within(centres: Points, xy: Points, radius: float) -> Tensor:
    """(n, m) which places lie within a radius of which centres."""
    return torch.from_numpy(cdist(centres, xy, "sqeuclidean") <= radius**2)
