"""Cells that belong together: similarity weighed by confidence, mutual nearest neighbours, positions within cells.

P. Huang et al., "Uncertainty-aware self-supervised cross-modal SAR-optical matching using EfficientDet and Xception",
section 1 and figure 1 (the matching head). Positions count in cells, (x, y), integers are centres.
"""

from __future__ import annotations

import torch
from torch import Tensor

_REACH = 2  # cells around the best one that have a say in the position within it


def weighted_similarity(one: Tensor, other: Tensor, one_confidence: Tensor, other_confidence: Tensor) -> Tensor:
    """(B, h w, H W) cosine of all cells with all, times the confidence of both.

    one: (B, C, h, w), other: (B, C, H, W), of unit length; confidences: (B, 1, h, w) and (B, 1, H, W).
    """
    weighed = [(e * c).flatten(2) for e, c in ((one, one_confidence), (other, other_confidence))]
    return weighed[0].transpose(1, 2) @ weighed[1]


def soft_position(weights: Tensor, best: Tensor) -> Tensor:
    """(N, 2) x, y: the weighted mean place around the best cell, at most `_REACH` cells from it.

    weights: (N, H, W), none negative. best: (N, 2) x, y, whole cells.
    """
    height, width = weights.shape[-2:]
    step = torch.arange(-_REACH, _REACH + 1, device=weights.device)
    x, y = best[:, 0, None] + step, best[:, 1, None] + step
    inside = ((x >= 0) & (x < width))[:, None, :] & ((y >= 0) & (y < height))[:, :, None]
    rows, cols = y.clamp(0, height - 1), x.clamp(0, width - 1)
    index = torch.arange(len(weights), device=weights.device)[:, None, None]
    around = weights[index, rows[:, :, None], cols[:, None, :]] * inside
    total = around.sum(dim=(1, 2)).clamp_min(1e-12)
    moved = torch.stack([(around * step[None, None, :]).sum((1, 2)), (around * step[None, :, None]).sum((1, 2))], dim=1)
    return best + moved / total[:, None]
