"""What the neighbours of a place say: about a correspondence there, or about a value that is not known there."""

import math
from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from sn9reg.fit.correspondences import Correspondences, Flags, Floats
from sn9reg.fit.warp import least_squares
from sn9reg.raster.grid import Points

_NEIGHBOURS = 12  # that predict a shift
_ROUNDS = 6  # of reweighting in a robust fit
_STEEP = 0.1  # slope of a shift, pixels per pixel, from which the trend is taken off first
_CANDIDATES = 4_000_000  # pairs of places held in memory at once
_AVERAGED = 24  # nearest places that `local_mean` averages ...
_PRIOR = 4.0  # ... and the weight, in places, of the mean of all
_NEAREST = 6  # nearest places that `distance_to` averages
WITNESS_PX = 4.0  # pixels of the level within which a witness agrees with its neighbours; 3 to 5 do about equally well


def neighbour_prediction(source: Points, shift: Points, scale: float, exclude: float = 0.0) -> Points:
    """(N, 2) the shift of each place as its neighbours predict it: a robust plane through their shifts, with Cauchy's
    weights; a steep trend of all shifts, as a rotation causes, is taken off first. NaN where fewer than four are left.

    source, shift: (N, 2), map units. scale: typical deviation of a good shift. exclude: nearer ones do not count.
    """
    predicted = np.full((len(source), 2), np.nan)
    if len(source) < 5:
        return predicted
    trend = _steep_trend(source, shift)
    shift = shift - trend
    index, counted = _neighbours(source, exclude)
    enough = counted.sum(axis=1) >= 4
    index, counted = index[enough], counted[enough]
    around = shift[index]
    offset = source[index] - source[enough][:, None]
    reach = np.maximum(np.where(counted, np.linalg.norm(offset, axis=2), 0).max(axis=1), 1e-9)
    design = np.concatenate([offset / reach[:, None, None], np.ones((*index.shape, 1))], axis=2)
    start = np.nanmedian(np.where(counted[..., None], around, np.nan), axis=1)
    # A little pull to the median keeps a plane through neighbours on one line from tilting freely.
    ridge = np.diag([0.3, 0.3, 1e-3])
    plane = np.repeat(start[:, None], index.shape[1], axis=1)
    for _ in range(_ROUNDS):
        weight = counted / (1 + (np.linalg.norm(around - plane, axis=2) / (2 * scale)) ** 2)
        gram = np.einsum("nki,nk,nkj->nij", design, weight, design) + ridge
        moment = np.einsum("nki,nk,nkd->nid", design, weight, around)
        moment[:, 2] += ridge[2, 2] * start
        coefficients = np.linalg.solve(gram, moment)
        plane = design @ coefficients
    predicted[enough] = coefficients[:, 2]
    return predicted + trend


def _steep_trend(source: Points, shift: Points) -> Points:
    """(N, 2) a robust affine through the shifts, if it is steep; else 0, since the planes follow a gentle trend."""
    centred = source - source.mean(axis=0)
    reach = max(float(np.abs(centred).max()), 1e-9)
    design = np.column_stack([centred / reach, np.ones(len(source))])
    weight = np.ones(len(source))
    for _ in range(_ROUNDS):
        coefficients = least_squares(design, shift, weight).T
        off = np.linalg.norm(shift - design @ coefficients, axis=1)
        weight = 1 / (1 + (off / max(2 * float(np.median(off)), 1e-9)) ** 2)
    steep = np.linalg.norm(coefficients[:2], ord=2) / reach > _STEEP
    return np.asarray(design @ coefficients) if steep else np.zeros_like(shift)


def local_consistency(source: Points, shift: Points, scale: float) -> Flags:
    """(N,) whether each shift agrees with its neighbours, within three times the typical deviation or `scale`."""
    deviation = np.linalg.norm(shift - neighbour_prediction(source, shift, scale), axis=1)
    known = np.isfinite(deviation)
    if not known.any():
        return np.ones(len(source), bool)
    limit = 3 * max(scale, float(np.median(deviation[known])))
    return np.asarray(~(deviation >= limit))


def witnesses_agree(matches: Correspondences) -> Flags:
    """(N,) whether each match's witness (`Correspondences.solo_xy`) agrees with those of neighbours that share no pixel
    with the match: by chance as rarely as the tolerance's share of the search area."""
    pixel = matches.step * matches.grid.resolution
    shift = matches.grid.to_map(matches.solo_xy) - matches.optical_map
    exclude = 0.999 * matches.footprint * matches.grid.resolution
    predicted = neighbour_prediction(matches.optical_map, shift, pixel, exclude)
    return np.asarray(np.linalg.norm(shift - predicted, axis=1) < WITNESS_PX * pixel)


def _neighbours(source: Points, exclude: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, k) indices of the nearest others beyond `exclude`, and (N, k) which of them exist."""
    tree = cKDTree(source)
    # So many that those within the excluded circle, however dense, can be passed over.
    crowd = int(tree.query_ball_point(source, exclude, return_length=True).max()) if exclude > 0 else 1
    k = min(len(source), crowd + _NEIGHBOURS)
    found = []
    for part in np.array_split(np.arange(len(source)), math.ceil(len(source) * k / _CANDIDATES)):
        distance, index = tree.query(source[part], k)
        distance = np.where((index == part[:, None]) | (distance < exclude), np.inf, distance)
        order = np.argsort(distance, axis=1, kind="stable")[:, :_NEIGHBOURS]
        found.append([np.take_along_axis(index, order, axis=1), np.take_along_axis(distance, order, axis=1)])
    indices, distances = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return indices, np.isfinite(distances)


def local_mean(source: Points, values: Floats) -> Callable[[Points], Floats]:
    """A function from (M, 2) places to the (M,) mean of the (N,) values of the nearest places of `source`, nearer ones
    with more weight. The mean of all values counts as a few more places."""
    tree, count, typical = cKDTree(source), min(len(source), _AVERAGED), float(values.mean())

    def mean(xy: Points) -> Floats:
        distance, index = (np.asarray(part).reshape(len(xy), count) for part in tree.query(xy, count))
        weight = np.exp(-((distance / np.maximum(distance[:, -1:] / 2, 1e-9)) ** 2) / 2)
        summed = (weight * values[index]).sum(axis=1) + _PRIOR * typical
        return np.asarray(summed / (weight.sum(axis=1) + _PRIOR))

    return mean


def distance_to(source: Points) -> Callable[[Points], Floats]:
    """A function from (M, 2) places to the (M,) mean distance of the nearest six places of `source`, or of all."""
    tree, count = cKDTree(source), min(len(source), _NEAREST)
    return lambda xy: np.asarray(tree.query(xy, count)[0]).reshape(len(xy), count).mean(axis=1)
