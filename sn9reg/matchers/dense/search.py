"""Similarity surfaces of many templates, computed tile by tile, so that memory does not grow with the scene, by two
threads: one reads, copies or waits while the other computes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sn9reg import progress
from sn9reg.fit.correspondences import Correspondences
from sn9reg.machine import enough_memory
from sn9reg.matchers.dense.correlation import Peaks, Similarity, find_peaks, masked_similarity
from sn9reg.matchers.dense.described import Described, FeatureExtractor, Features
from sn9reg.raster.grid import Grid, Points, Window, to_common
from sn9reg.raster.scene import ScenePair

Places = npt.NDArray[np.int64]  # (N, 2) x, y in whole pixels
Indices = npt.NDArray[np.intp]
# Indices of n boxes of a window -> their (n, C, side, side) features and (n, side, side) masks.
Cut = Callable[[Indices], Features]
Item = TypeVar("Item")
Asked = TypeVar("Asked")

TILE = 320  # about the side of a tile, pixels; larger tiles share more work, smaller ones stay in the cache
_AHEAD = 2  # tiles that are described while one is compared
_BATCH = 8  # templates correlated at once: their spectra are the largest thing held
_CONSTANT = 0.05  # share of the largest squared length; a shorter feature shows no structure
_CROWDED = 0.7  # share of the ground that has to be described for it to be described as a whole
_MIN_VALID = 0.4  # share of a template's pixels that must be valid
_WORKERS = 2  # more would hold more in memory
_RETURN = 3.0  # pixels; a match whose way back ends farther from its start is dropped


@dataclass(frozen=True)
class Level:
    """One step from coarse to fine. Lengths are in pixels of the level."""

    factor: int  # side of a pixel of the level, in common pixels
    template: int  # side of a template
    radius: int  # largest shift searched for along each axis
    margin: int  # cut off all around a tile's features, since the tile's border influences them
    cell: int = 1  # side of what the matcher takes for a pixel, see `TemplateMatcher.cell`


@dataclass(frozen=True)
class Surfaces:
    """Similarity of N optical templates to the SAR scene, over D x D shifts with D = 2 radius + 1."""

    level: Level  # in whose pixels all lengths are
    nodes: Points  # (N, 2) centres of the templates in the optical scene
    predicted: Points  # (N, 2) expected shifts from optical to SAR
    values: npt.NDArray[np.float32]  # (N, D, D); [i, radius + dy, radius + dx] is that of shift `centre[i]` + (dx, dy)
    usable: npt.NDArray[np.bool_]  # (N,) whether both scenes had enough valid pixels with structure
    # (N,) pixels from a template's place to where the SAR template at its best shift is found; infinite if not computed
    returned: npt.NDArray[np.float64]

    @property
    def centre(self) -> Places:
        """(N, 2) the shift in the middle of each surface."""
        return np.rint(self.predicted).astype(np.int64)

    def centred(self) -> Tensor:
        """(N, D, D) the surfaces, moved to the exact predicted shift, without their median, 0 where not usable."""
        values = torch.from_numpy(self.values).clone()
        size = values.shape[-1]
        fraction = torch.from_numpy(self.predicted - self.centre).float()  # (N, 2), within half a pixel
        base = torch.linspace(-1, 1, size)
        x, y = base + (fraction * 2 / (size - 1)).T[..., None]  # (N, D) each
        grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
        moved = torch.nn.functional.grid_sample(values[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
        moved = moved - moved.flatten(1).median(dim=1).values[:, None, None]
        return moved * torch.from_numpy(self.usable.astype(np.float32))[:, None, None]

    def matches(self, grid: Grid, peaks: Peaks, moved: Points, solo: Points, **more: Any) -> Correspondences:
        """The matches at N peaks off the rim of the search, whose way back ends near their start. moved: how far the
        peaks lie from the predicted shifts. solo: shifts that templates choose without a vote."""
        here, f, radius = to_common(self.nodes, self.level.factor), self.level.factor, self.level.radius
        kept = self.usable & (self.returned < _RETURN) & (np.abs(moved).max(axis=1) < radius - 0.5)
        numbers = (peaks.score, peaks.sigma, peaks.value, peaks.rival)
        score, sigma, value, rival = (number.double().numpy() for number in numbers)
        return Correspondences(
            grid=grid, optical_xy=here, sar_xy=here + (self.predicted + moved) * f, solo_xy=here + solo * f,
            score=score, sigma=sigma * f, distance=1 - value, rival_distance=1 - rival,
            search_radius=float(radius * f), step=float(f), footprint=float(self.level.template * f),
            tried=int(self.usable.sum()), **more,
        ).keep(kept)  # fmt: skip


def search(
    pair: ScenePair, level: Level, nodes: Points, predicted: Points, extract: FeatureExtractor,
    similarity: Similarity = "cc", way_back: bool = True, tile: int = TILE,
) -> Surfaces:  # fmt: skip
    """Similarity surfaces of optical templates around (N, 2) `nodes`, searched for in the SAR scene. Raises InputError
    where a scene cannot be read. nodes, predicted: see `Surfaces`. way_back: whether `Surfaces.returned` is computed.
    tile: about the side of what is compared at once, pixels."""
    size = 2 * level.radius + 1
    values, usable = np.zeros((len(nodes), size, size), np.float32), np.zeros(len(nodes), bool)
    found = Surfaces(level, nodes, predicted, values, usable, np.full(len(nodes), np.inf))
    corner = np.rint(nodes - (level.template - 1) / 2).astype(np.int64) - level.radius
    inner, enough = slice(level.radius, level.radius + level.template), _MIN_VALID * level.template**2
    groups = list(_groups(corner + level.radius, level, tile))
    scenes = Described.both(pair, extract, level.margin, level.cell)
    tiled = sum(_area(corner[group], level) for group in groups) > _CROWDED * _area(corner, level)
    corners = corner, corner + found.centre

    def compare(group: Indices, optical: Cut, sar: Cut, part: Indices) -> None:
        (around, around_mask), (region, region_mask), chosen = optical(part), sar(part), group[part]
        template, template_mask = around[..., inner, inner], around_mask[:, inner, inner]
        surface = masked_similarity(similarity, region, region_mask, template, template_mask)
        values[chosen] = surface.cpu().numpy()
        content = _content(template, template_mask).sum(dim=(1, 2))
        # Half of the template must meet valid pixels with structure when it lies where it is expected.
        expected = (_content(region, region_mask)[:, inner, inner] * template_mask).sum(dim=(1, 2))
        usable[chosen] = ((content > enough) & (expected > enough / 2)).cpu().numpy()
        if way_back:
            best = _best(surface)
            back = _cut(region, best, level.template), _cut(region_mask, best, level.template)
            offset = _best(masked_similarity(similarity, around, around_mask, *back)) - level.radius
            found.returned[chosen] = torch.linalg.vector_norm(offset.double(), dim=1).cpu().numpy()

    with workers() as pool:

        def describe(group: Indices) -> list[Callable[[], Cut | None]]:
            return [_boxes(pool, *side, level, tiled) for side in zip(scenes, (c[group] for c in corners), strict=True)]

        def begin(described: tuple[Indices, list[Callable[[], Cut | None]]]) -> Iterator[None]:
            group, (optical, sar) = described[0], (boxes() for boxes in described[1])
            if optical is None or sar is None:
                return iter(())
            parts = np.array_split(np.arange(len(group)), math.ceil(len(group) / _BATCH))
            return pool.map(partial(in_halves, partial(compare, group, optical, sar)), parts)

        for done, (_, compared) in enumerate(ahead(ahead(groups, describe, _AHEAD), begin, 1)):
            progress.report(done / len(groups))
            deque(compared, maxlen=0)
    progress.report(1.0)
    return found


def compare_at(pair: ScenePair, level: Level, nodes: Points, extract: FeatureExtractor) -> Correspondences:
    """Correspondences of optical templates around (N, 2) `nodes`, searched for around the same SAR places, where a warp
    is known and no neighbour votes. Raises InputError where a scene cannot be read."""
    surfaces = search(pair, level, nodes, np.zeros_like(nodes), extract)
    peaks = find_peaks(surfaces.centred())
    moved = peaks.xy.double().numpy() - level.radius
    return surfaces.matches(pair.grid, peaks, moved, moved)


def _content(features: Tensor, mask: Tensor) -> Tensor:
    """(n, h, w) 1 where a pixel is valid and has structure, 0 elsewhere: features have hardly any length where an image
    is constant, e.g. filled with a value that is not declared nodata."""
    length = features.square().sum(dim=1)
    return (length > _CONSTANT * length.amax(dim=(1, 2), keepdim=True)) * mask


def _best(surface: Tensor) -> Tensor:
    """(n, 2) x, y of the highest pixel of each surface."""
    best, width = surface.flatten(1).argmax(dim=1), surface.shape[-1]
    return torch.stack([best % width, best // width], dim=1)


def _cut(images: Tensor | Sequence[Tensor], corner: Tensor | Places, side: int) -> Tensor:
    """(n, ..., side, side) of each of n images the box whose upper left pixel is the x, y of `corner`."""
    boxes = zip(images, corner.tolist(), strict=True)
    return torch.stack([image[..., y : y + side, x : x + side] for image, (x, y) in boxes])


def _groups(corner: Places, level: Level, tile: int) -> Iterator[Indices]:
    """Indices of the nodes of each tile."""
    cell = corner // max(1, tile - level.template)
    # Along the shorter side first: fewer tiles of features have to be kept.
    chosen = np.lexsort(cell.T if np.ptp(corner[:, 0]) < np.ptp(corner[:, 1]) else cell.T[::-1])
    breaks = np.flatnonzero((np.diff(cell[chosen], axis=0) != 0).any(axis=1)) + 1
    yield from np.split(chosen, breaks)


def _area(corner: Places, level: Level) -> int:
    """Pixels of what has to be described for the boxes there."""
    return math.prod(_window(corner, level).grow(level.margin).shape)


def _window(corner: Places, level: Level) -> Window:
    """Around the boxes whose upper left pixels are `corner`."""
    low, high = corner.min(axis=0), corner.max(axis=0) + level.template + 2 * level.radius
    return Window(*low.tolist(), *(high - low).tolist())


def _boxes(pool: Executor, scene: Described, corner: Places, level: Level, tiled: bool) -> Callable[[], Cut | None]:
    """Have the boxes at upper left pixels described: a function that waits for them, None if nothing there is valid."""
    window, side = _window(corner, level), level.template + 2 * level.radius
    described, at = scene.window(pool, window, level.factor, tiled), corner - np.array([window.col, window.row])

    def boxes() -> Cut | None:
        if (found := described()) is None:
            return None
        features, mask = found
        return lambda n: (_cut([features] * len(n), at[n], side), _cut([mask] * len(n), at[n], side))

    return boxes


@contextmanager
def workers() -> Iterator[Executor]:
    """Threads that share those of torch among themselves; a single one where torch may use one."""
    threads = torch.get_num_threads()
    count = min(_WORKERS, threads)
    pool = ThreadPoolExecutor(count, "tiles", torch.set_num_threads, (threads // count,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a worker says of itself holds for new threads and every FFT, too


def ahead(items: Iterable[Item], ask: Callable[[Item], Asked], count: int) -> Iterator[tuple[Item, Asked]]:
    """Each item with what `ask` returned for it, when it was called for `count` more items."""
    waiting = deque[tuple[Item, Asked]]()
    for item in items:
        waiting.append((item, ask(item)))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def in_halves(work: Callable[[Indices], None], part: Indices) -> None:
    """Do the work on a part, or on its halves where a GPU has no memory for that. Raises as `enough_memory` for one."""
    try:
        with enough_memory() if len(part) == 1 else nullcontext():
            work(part)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        for half in np.array_split(part, 2):
            in_halves(work, half)
