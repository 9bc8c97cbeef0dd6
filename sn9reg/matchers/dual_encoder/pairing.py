"""Cells that belong together: similarity weighed by confidence, mutual nearest neighbours, positions within cells.

Huang et al., section 1 and figure 1 (the matching head). Positions count in cells, (x, y), integers are centres.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

_REACH = 2  # cells around the best one that have a say in the position within it
_TEMPERATURE = 0.07  # of the softmax whose mean refines positions


def weighted_similarity(one: Tensor, other: Tensor, one_confidence: Tensor, other_confidence: Tensor) -> Tensor:
    """(B, h w, H W) cosine of all cells with all, times the confidence of both. one: (B, C, h, w), other: (B, C, H, W),
    of unit length; confidences: (B, 1, h, w) and (B, 1, H, W)."""
    return (one * one_confidence).flatten(2).transpose(1, 2) @ (other * other_confidence).flatten(2)


def soft_position(weights: Tensor, best: Tensor) -> Tensor:
    """(N, 2) x, y: mean place around (N, 2) the best cell, by (N, H, W) weights, at most `_REACH` cells from it."""
    step = torch.arange(-_REACH, _REACH + 1, device=weights.device)
    index = torch.arange(len(weights), device=weights.device)[:, None, None]
    x, y = (best[:, k, None] + _REACH + step for k in (0, 1))  # with a rim of zeros
    around = pad(weights, [_REACH] * 4)[index, y[:, :, None], x[:, None, :]]
    total = around.sum(dim=(1, 2)).clamp_min(1e-12)
    moved = torch.stack([(around * step[None, None, :]).sum((1, 2)), (around * step[None, :, None]).sum((1, 2))], dim=1)
    return best + moved / total[:, None]


def shifted_similarity(one: Tensor, other: Tensor, radius: int, window: int = 1) -> Tensor:
    """(D, D, h, w) similarity of each cell with those within `radius` cells of it, D = 2 radius + 1, y before x. one:
    (C, h, w), other: (C, h + 2 radius, w + 2 radius), weighed embeddings; cell (radius, radius) of the other lies on
    cell (0, 0) of the one. window: side of the square of cells around both whose mean similarity it is, odd."""
    height, width = one.shape[-2:]
    size = 2 * radius + 1
    volume = one.new_empty(size, size, height, width)
    for dy, dx in itertools.product(range(size), repeat=2):
        volume[dy, dx] = (one * other[:, dy : dy + height, dx : dx + width]).sum(dim=0)
    return avg_pool2d(volume, window, 1, window // 2, count_include_pad=False)


def mutual(volume: Tensor) -> Tensor:
    """(h, w) whether a cell is the nearest neighbour of its own nearest neighbour, by `shifted_similarity`."""
    size, _, height, width = volume.shape
    best = volume.flatten(0, 1).argmax(dim=0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, col = y + best // size, x + best % size
    # Of every cell of the other: the highest similarity that any cell of the one has with it.
    highest = volume.new_full((height + size - 1, width + size - 1), -torch.inf)
    for dy, dx in itertools.product(range(size), repeat=2):
        part = highest[dy : dy + height, dx : dx + width]
        torch.maximum(part, volume[dy, dx], out=part)
    return volume.flatten(0, 1).amax(dim=0) >= highest[row, col]


class CellPairs(NamedTuple):
    """Mutual nearest neighbours."""

    optical_xy: Tensor  # (N, 2) places in cells
    sar_xy: Tensor  # (N, 2) places in cells, refined
    similarity: Tensor  # (N,) weighed by confidence
    optical: Tensor  # (N,) flat indices of the cells
    sar: Tensor  # (N,) flat indices of the cells


def nearest_anywhere(optical: Tensor, sar: Tensor) -> CellPairs:
    """Of all cells, as the paper matches: (C, h, w), (C, H, W) weighed embeddings, of length 0 where not valid."""
    similarity = optical.flatten(1).T @ sar.flatten(1)
    similarity[optical.flatten(1).norm(dim=0) == 0] = -torch.inf
    similarity[:, sar.flatten(1).norm(dim=0) == 0] = -torch.inf
    forth, back = similarity.argmax(dim=1), similarity.argmax(dim=0)
    own = torch.arange(len(forth))
    chosen = own[(back[forth] == own) & torch.isfinite(similarity[own, forth])]
    there, width = forth[chosen], sar.shape[-1]
    share = (similarity[chosen] / _TEMPERATURE).softmax(dim=1).reshape(len(chosen), *sar.shape[-2:])
    best = torch.stack([there % width, there // width], dim=1)
    here = torch.stack([chosen % optical.shape[-1], chosen // optical.shape[-1]], dim=1)
    return CellPairs(here.float(), soft_position(share, best), similarity[chosen, there], chosen, there)
