"""Cutting a set of patches in two so that the parts share no ground."""

from collections.abc import Iterator, Sequence
from itertools import product

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_SAME = 0.9  # correlation of two quadrants' thumbnails from which they are taken to show one place


def ground_components(images: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.int64]:
    """(N,) label of each image; images that overlap by half, directly or through others, have the same.

    images: (h, w) grey. Patches of SEN1-2 are cut at half their side, so overlap means that a quadrant of one image is
    another quadrant of the other. The quadrants are compared as thumbnails without their low frequencies.
    """
    thumbnails = np.stack([thumbnail for image in images for thumbnail in _thumbnails(image.astype(np.float32))])
    alike = [
        np.argwhere(thumbnails[start : start + 1024] @ thumbnails.T > _SAME) + np.array([start, 0])
        for start in range(0, len(thumbnails), 1024)  # in parts, to bound the memory
    ]
    i, j = np.concatenate(alike).T // 4
    graph = coo_matrix((np.ones(len(i)), (i, j)), shape=(len(images), len(images)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def hold_out(images: Sequence[npt.NDArray[np.generic]], share: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """(N,) True for images kept from training: about `share` of them, ground that no other image shows.

    Whole components of overlapping images are drawn at random, never one larger than a quarter of what is wanted, so
    that it is many places and not one.
    """
    labels = ground_components(images)
    sizes = np.bincount(labels)
    wanted = share * len(images)
    taken, held = 0, []
    for label in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[label] <= max(1, wanted / 4) and taken + sizes[label] <= wanted:
            held.append(label)
            taken += sizes[label]
    return np.isin(labels, held)


def _thumbnails(image: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """(256,) of each quadrant."""
    height, width = (n // 2 for n in image.shape)
    for row, col in product((0, height), (0, width)):
        small = cv2.resize(image[row : row + height, col : col + width], (16, 16), interpolation=cv2.INTER_AREA)
        small = small - cv2.GaussianBlur(small, (0, 0), 4)
        small -= small.mean()
        yield (small / (np.linalg.norm(small) + 1e-6)).ravel()
