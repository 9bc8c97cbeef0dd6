"""Similarity surfaces of many templates, computed tile by tile, so that memory does not grow with the scene."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_erosion
from torch import Tensor

from sn9reg import progress
from sn9reg.matchers.dense.correlation import Similarity, masked_similarity
from sn9reg.raster.grid import Points, Window
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import Patch, ScenePair, SceneView

# (patch, modality) -> features (C, h, w), zero where there is nothing to compare
FeatureExtractor = Callable[[Patch, Modality], Tensor]
Corners = npt.NDArray[np.int64]  # (N, 2) x, y of the upper left pixels of boxes

TILE = 320  # about the side of a tile, pixels; larger tiles share more work, smaller ones stay in the cache
_BATCH = 8  # templates correlated at once: their spectra are the largest thing held
_CONSTANT = 0.05  # share of the largest squared length; a shorter feature shows no structure
_NEARLY_ALL = 0.8  # share of a tile that has to be described for it to be described as a whole
_MIN_VALID = 0.4  # share of a template's pixels that must be valid


@dataclass(frozen=True)
class Level:
    """One step from coarse to fine. Lengths are in pixels of the level."""

    factor: int  # side of a pixel of the level, in common pixels
    template: int  # side of a template
    radius: int  # largest shift searched for along each axis
    margin: int  # cut off all around a tile's features, since the tile's border influences them


@dataclass(frozen=True)
class Surfaces:
    """Similarity of N optical templates to the SAR scene, over D x D shifts with D = 2 radius + 1."""

    level: Level  # what templates and shifts are in
    values: npt.NDArray[np.float32]  # (N, D, D); [i, radius + dy, radius + dx] is that of shift `centre[i]` + (dx, dy)
    centre: npt.NDArray[np.int64]  # (N, 2) whole-pixel shift from optical to SAR in the middle of each surface
    usable: npt.NDArray[np.bool_]  # (N,) whether both scenes had enough valid pixels with structure
    # (N,) pixels between a template's place and the place where the SAR template cut at its best shift is found in the
    # optical scene; infinite where that was not computed.
    returned: npt.NDArray[np.float64]


def search(
    pair: ScenePair,
    level: Level,
    nodes: Points,
    predicted: Points,
    extract: FeatureExtractor,
    similarity: Similarity = "cc",
    way_back: bool = True,
    tile: int = TILE,
) -> Surfaces:
    """Similarity surfaces of optical templates, searched for in the SAR scene.

    nodes: (N, 2) centres of the templates in the optical scene, pixels of the level.
    predicted: (N, 2) expected shifts from optical to SAR, pixels of the level.
    similarity: how features are compared.
    way_back: whether `Surfaces.returned` is computed.
    tile: about the side of what is described at once, pixels.
    Raises InputError where a scene cannot be read.
    """
    size = 2 * level.radius + 1
    # Corners of templates and shifts are whole pixels.
    corner = np.rint(nodes - (level.template - 1) / 2).astype(np.int64)
    centre = np.rint(predicted).astype(np.int64)
    values, usable = np.zeros((len(nodes), size, size), np.float32), np.zeros(len(nodes), bool)
    returned = np.full(len(nodes), np.inf)
    span = level.template + 2 * level.radius
    inner = slice(level.radius, level.radius + level.template)
    done = 0
    for group in _groups(corner, level, tile):
        progress.report(done / len(nodes))
        done += len(group)
        optical_corner, sar_corner = corner[group] - level.radius, corner[group] + centre[group] - level.radius
        optical = _Tile.read(pair.optical, "optical", optical_corner, span, level, extract)
        sar = _Tile.read(pair.sar, "sar", sar_corner, span, level, extract)
        if optical is None or sar is None:
            continue
        for part in np.array_split(np.arange(len(group)), math.ceil(len(group) / _BATCH)):
            chosen = group[part]
            around, around_mask = optical.cut(optical_corner[part], span)
            region, region_mask = sar.cut(sar_corner[part], span)
            template, template_mask = around[..., inner, inner], around_mask[:, inner, inner]
            found = masked_similarity(similarity, region, region_mask, template, template_mask)
            values[chosen], enough = found.numpy(), _MIN_VALID * level.template**2
            content = _content(template, template_mask).sum(dim=(1, 2))
            # Half of the template must meet valid pixels with structure when it lies where it is expected.
            expected = (_content(region, region_mask)[:, inner, inner] * template_mask).sum(dim=(1, 2))
            usable[chosen] = ((content > enough) & (expected > enough / 2)).numpy()
            if way_back:
                returned[chosen] = _way_back(found, (region, region_mask), (around, around_mask), level, similarity)
    progress.report(1.0)
    return Surfaces(level, values, centre, usable, returned)


def _content(features: Tensor, mask: Tensor) -> Tensor:
    """(n, h, w) 1 where a pixel is valid and has structure, 0 elsewhere.

    Features have hardly any length where the image is constant, e.g. filled with a value that is not declared nodata.
    """
    length = features.square().sum(dim=1)
    return (length > _CONSTANT * length.amax(dim=(1, 2), keepdim=True)) * mask


def _way_back(
    surface: Tensor, region: tuple[Tensor, Tensor], around: tuple[Tensor, Tensor], level: Level, similarity: Similarity
) -> npt.NDArray[np.float64]:
    """(n,) distance between a template's place and the place where the template cut at its best match is found.

    region, around: features and masks that were searched in, and those of the optical scene.
    """
    boxes = _boxes(_best(surface), level.template)
    template, mask = (torch.stack([p[..., y, x] for p, (y, x) in zip(part, boxes, strict=True)]) for part in region)
    offset = _best(masked_similarity(similarity, *around, template, mask)) - level.radius
    return np.asarray(torch.linalg.vector_norm(offset.double(), dim=1).numpy())


def _best(surface: Tensor) -> Tensor:
    """(n, 2) x, y of the highest pixel of each surface."""
    best, width = surface.flatten(1).argmax(dim=1), surface.shape[-1]
    return torch.stack([best % width, best // width], dim=1)


def _boxes(corner: Tensor | npt.NDArray[Any], side: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the boxes whose upper left pixels are the x, y of `corner`."""
    return [(slice(int(y), int(y) + side), slice(int(x), int(x) + side)) for x, y in corner]


def _groups(corner: Corners, level: Level, tile: int) -> Iterator[npt.NDArray[np.intp]]:
    """Indices of the nodes of each tile."""
    cell = corner // max(1, tile - level.template)
    chosen = np.lexsort((cell[:, 0], cell[:, 1]))
    breaks = np.flatnonzero((np.diff(cell[chosen], axis=0) != 0).any(axis=1)) + 1
    yield from np.split(chosen, breaks)


def _within_valid(patch: Patch, kind: Modality, margin: int, extract: FeatureExtractor) -> Tensor:
    """The features of a patch, computed only for the box around valid pixels and `margin` pixels more; 0 elsewhere."""
    (height, width), spans = patch.valid.shape, []
    for axis, size in ((1, height), (0, width)):
        known = np.flatnonzero(patch.valid.any(axis=axis))
        spans.append(slice(max(0, int(known[0]) - margin), min(size, int(known[-1]) + 1 + margin)))
    rows, cols = spans
    if (rows.stop - rows.start) * (cols.stop - cols.start) > _NEARLY_ALL * height * width:
        return extract(patch, kind)
    part = extract(Patch(patch.values[:, rows, cols], patch.valid[rows, cols]), kind)
    return torch.nn.functional.pad(part, (cols.start, width - cols.stop, rows.start, height - rows.stop))


@dataclass(frozen=True)
class _Tile:
    """Features of a window of a scene."""

    window: Window  # place of the features, pixels of the level
    features: Tensor  # (C, h, w)
    mask: Tensor  # (h, w) float, 1 where the features can be trusted

    @classmethod
    def read(
        cls, scene: SceneView, kind: Modality, corner: Corners, side: int, level: Level, extract: FeatureExtractor
    ) -> _Tile | None:
        """The features under all boxes of `side` px at `corner`; None if nothing there is valid."""
        low, high = corner.min(axis=0), corner.max(axis=0) + side
        window = Window(*low.tolist(), *(high - low).tolist()).grow(level.margin)
        patch = scene.read(window, level.factor)
        if not patch.valid.any():
            return None
        features = _within_valid(patch, kind, level.margin, extract)
        trusted = patch.valid
        if not trusted.all():
            trusted = binary_erosion(patch.valid, iterations=max(1, level.margin // 4), border_value=1)
        return cls(window, features, torch.from_numpy(trusted.astype(np.float32)))

    def cut(self, corner: Corners, side: int) -> tuple[Tensor, Tensor]:
        """(n, C, side, side) features and (n, side, side) masks of the boxes at `corner`."""
        boxes = _boxes(corner - [self.window.col, self.window.row], side)
        return torch.stack([self.features[:, y, x] for y, x in boxes]), torch.stack([self.mask[y, x] for y, x in boxes])
