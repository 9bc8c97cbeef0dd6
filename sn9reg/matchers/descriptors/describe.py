"""Keypoints of a scene, corners of phase congruency spread evenly, and their descriptors, tile by tile, each once."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import next_fast_len
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from sn9reg import progress
from sn9reg.features.phase_congruency import PhaseCongruency, phase_congruency
from sn9reg.machine import device
from sn9reg.matchers.batch_norm import fused
from sn9reg.matchers.descriptors.network import DenseFusion, seen
from sn9reg.matchers.descriptors.patches import ORIENTATIONS, PatchLayout, sample_patches
from sn9reg.raster.grid import Points, Window
from sn9reg.raster.radiometry import Image, Mask, Modality, fill_invalid, standardise
from sn9reg.raster.scene import Patch, SceneView

_TILE = 512  # side of what is described at once, without its margin
_FELT = 12  # pixels from the border of what is valid within which phase congruency feels it
_INSIDE = 6  # pixels from there that keypoints keep
_VALID = 0.6  # share of a patch's surroundings that must be valid
_BATCH = 256  # patches in memory at once
_HISTOGRAMS = 6  # of a patch, a side
_CONTRAST = 4  # grey values of 255 by which a corner must differ from its surroundings
_BRIGHTEST = 99.5  # percentile of the valid pixels that becomes 255; the largest does where that is 0
_ROBUSTNESS = 0.9  # a corner suppresses another one if this share of its strength is still more
_POOL = 8  # of so many times the corners asked for, the strongest, are the evenly spread ones chosen

Band = Callable[[npt.NDArray[np.float32]], Image]  # one band of (bands, h, w) values


@dataclass(frozen=True)
class Described:
    """N keypoints of a scene and their descriptors."""

    xy: Points  # (N, 2) pixels of the coarsened grid
    # (V, N, D) of length 1. V is 2, for both directions, where a keypoint is described along an orientation.
    descriptors: Tensor

    def __len__(self) -> int:
        return len(self.xy)


NOTHING = Described(np.zeros((0, 2)), torch.zeros((1, 0, 1)))


class LearnedDescriber:
    """A trained network on patches of a layout."""

    def __init__(self, network: DenseFusion, layout: PatchLayout) -> None:
        self.device = device()
        self.network = fused(network.eval()).to(self.device).to(memory_format=torch.channels_last)
        self.layout, self.extent = layout, layout.extent

    def maps(self, grey: Tensor, congruency: PhaseCongruency, modality: Modality) -> Tensor:
        """(H, W) standardised image and its phase congruency -> (C, H, W) from which keypoints are described."""
        return seen(grey[None].to(self.device), self.layout, self.network.stems, modality)[0]

    @torch.no_grad()
    def describe(self, maps: Tensor, xy: Tensor, angle: Tensor | None) -> Tensor:
        """(N, D) descriptors at (N, 2) places, with patches turned to (N,) angles."""
        patches = sample_patches(maps, xy, self.layout, angle).contiguous(memory_format=torch.channels_last)
        return self.network(patches).cpu()


class MimDescriber:
    """Without training: in each of 6 x 6 cells around a keypoint a histogram of the orientation whose energy, summed
    over scales, is the largest (the maximum index map). J. Li, Q. Hu, M. Ai, "RIFT: multi-modal image matching based on
    radiation-variation insensitive feature transform"."""

    LAYOUT = PatchLayout(side=96, scale=1.0, inputs="energy")  # as in RIFT

    def __init__(self, layout: PatchLayout = LAYOUT) -> None:
        self.layout, self.extent = layout, layout.extent

    def maps(self, grey: Tensor, congruency: PhaseCongruency, modality: Modality) -> Tensor:
        return congruency.amplitude[0]

    def describe(self, maps: Tensor, xy: Tensor, angle: Tensor | None) -> Tensor:
        largest, index = sample_patches(maps, xy, self.layout, angle).max(dim=1)
        votes = one_hot(index, ORIENTATIONS).to(largest) * (largest > 0)[..., None]
        cell = self.layout.side // _HISTOGRAMS
        votes = votes[:, : cell * _HISTOGRAMS, : cell * _HISTOGRAMS]
        counts = votes.reshape(len(votes), _HISTOGRAMS, cell, _HISTOGRAMS, cell, ORIENTATIONS).sum(dim=(2, 4))
        return normalize(counts.flatten(1), dim=1)


Describer = LearnedDescriber | MimDescriber


def describe_scene(
    scene: SceneView, grey: Band, modality: Modality, window: Window, factor: int, describer: Describer, count: int,
    oriented: bool = False,
) -> Described:  # fmt: skip
    """About `count` keypoints of a window of a scene, in pixels of the common grid coarsened by `factor`, described; if
    `oriented`, each along its own orientation. Raises InputError where the scene cannot be read."""
    margin = math.ceil(describer.extent * (math.sqrt(0.5) if oriented else 0.5)) + _FELT
    places, described, parts = [], [], tiles(window)
    for k, tile in enumerate(parts):
        progress.report(k / len(parts))
        share = max(1, round(count * tile.width * tile.height / (window.width * window.height)))
        around = tile.grow(margin)
        found = _describe(scene.read(around, factor), grey, modality, margin, describer, share, oriented)
        if len(found):
            places.append(found.xy + np.array([around.col, around.row]))
            described.append(found.descriptors)
    progress.report(1.0)
    return Described(np.concatenate(places), torch.cat(described, dim=1)) if places else NOTHING


def tiles(window: Window) -> list[Window]:
    """Windows of about equal size that make up a window."""
    edges = (np.linspace(0, n, max(1, round(n / _TILE)) + 1).astype(int).tolist() for n in window.shape)
    sides = itertools.product(*map(itertools.pairwise, edges))
    return [Window(window.col + c, window.row + r, right - c, bottom - r) for (r, bottom), (c, right) in sides]


def _describe(
    patch: Patch, grey: Band, modality: Modality, margin: int, describer: Describer, count: int, oriented: bool
) -> Described:
    """Keypoints in the middle of a patch, without the margin, in its pixels."""
    inside = _keypoint_mask(patch.valid, margin, describer.extent)
    if not inside.any():
        return NOTHING
    image = standardise(fill_invalid(grey(patch.values), patch.valid), patch.valid)
    height, width = image.shape
    # To sides that the FFT likes, and mirrored, since it takes images for periodic.
    right, bottom = (next_fast_len(n + _FELT, real=True) - n for n in (width, height))
    padded = torch.from_numpy(np.pad(image, ((0, bottom), (0, right)), mode="symmetric"))
    valid = torch.from_numpy(np.pad(patch.valid, ((0, bottom), (0, right))))
    congruency = phase_congruency(padded[None], valid[None])
    xy = _keypoints(congruency, inside, count)
    if not len(xy):
        return NOTHING
    maps = describer.maps(padded, congruency, modality)[:, :height, :width]
    angle = orientations(congruency, xy) if oriented else None
    angles: list[Tensor | None] = [None] if angle is None else [angle, angle + math.pi]
    parts = [slice(k, k + _BATCH) for k in range(0, len(xy), _BATCH)]
    places = torch.from_numpy(xy)
    described = [[describer.describe(maps, places[p], None if a is None else a[p]) for p in parts] for a in angles]
    return Described(xy, torch.stack([torch.cat(variant) for variant in described]))


def _keypoint_mask(valid: Mask, margin: int, extent: float) -> Mask:
    """(h, w) where keypoints may lie: not in the margin, nor near what is not valid, nor with too little around."""
    mask, middle = np.zeros_like(valid), tuple(slice(margin, side - margin) for side in valid.shape)
    share = cv2.blur(valid.astype(np.float32), (int(extent) | 1,) * 2, borderType=cv2.BORDER_CONSTANT)
    element = np.ones((2 * _INSIDE + 1,) * 2, np.uint8)
    inner = cv2.erode(valid.astype(np.uint8), element, borderValue=0).astype(bool)
    mask[middle] = (inner & (share > _VALID / 2))[middle]
    return mask


def _keypoints(congruency: PhaseCongruency, inside: Mask, count: int) -> Points:
    """(N, 2) corners of the minimum and the maximum moment, spread evenly."""
    height, width = inside.shape
    moments = (congruency.minimum, congruency.maximum)
    found = [fast_corners(np.ascontiguousarray(m[0, :height, :width].numpy()), inside) for m in moments]
    xy, response = (np.concatenate(parts) for parts in zip(*found, strict=True))
    first = np.sort(np.unique(xy, axis=0, return_index=True)[1])  # corners of both moments once
    return xy[first][spread_evenly(xy[first], response[first], count)]


def orientations(congruency: PhaseCongruency, xy: Points) -> Tensor:
    """(N,) the orientation that prevails around each place, radians in [0, pi): the direction of the mean of doubled
    orientations, weighted with the maximum moment of the phase congruency and a Gaussian of 8 px."""
    double, weight = 2 * congruency.orientation[0].numpy(), congruency.maximum[0].numpy()
    x, y = (cv2.GaussianBlur(weight * part, (0, 0), 8.0) for part in (np.cos(double), np.sin(double)))
    col, row = np.rint(xy).astype(int).T
    return torch.from_numpy(np.arctan2(y[row, col], x[row, col]) / 2 % math.pi)


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
    """Indices of at most `count` points, far from any that are clearly stronger. M. Brown, R. Szeliski, S. Winder,
    "Multi-image matching using multi-scale oriented patches", 2005: a point's radius is its distance to the nearest
    point of which 0.9 of the strength is still more; those with the largest radii stay."""
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
