"""Heatmaps: the label that a detector learns for a keypoint, and the keypoint that a heatmap shows."""

from dataclasses import dataclass

import torch
from torch import Tensor

SIGMA = 13.0  # standard deviation of a label's Gaussian, pixels (Hänsch et al., section 3.1)
LABEL_SPREAD = 0.466 * SIGMA  # the `spread` of a label itself, see `Keypoints`
_PEAK_RADIUS = 3.0  # radius of what belongs to a peak, in sigmas of a label


def gaussian(place: Tensor, side: int, sigma: float = SIGMA) -> Tensor:
    """(B, side, side) labels: 2-D Gaussians of height 1 at (B, 2) places x, y in pixels, which may lie outside."""
    at = torch.arange(side, device=place.device, dtype=place.dtype)
    x, y = (torch.exp(-((at[None] - place[:, k : k + 1]) ** 2) / (2 * sigma**2)) for k in (0, 1))
    return y[:, :, None] * x[:, None, :]


@dataclass(frozen=True)
class Keypoints:
    """The highest peaks of B heatmaps."""

    xy: Tensor  # (B, 2) place, pixels of the tile
    height: Tensor  # (B,) height of the peak, 0 to 1
    rival: Tensor  # (B,) highest value farther than three sigmas of a label from the peak
    spread: Tensor  # (B,) standard deviation per axis of what exceeds half the peak, pixels; a label has 0.466 sigma


def read_keypoints(heatmap: Tensor, subpixel: bool = True, sigma: float = SIGMA) -> Keypoints:
    """The keypoint of each (B, H, W) heatmap. It is the highest pixel, as in the paper, or, if `subpixel`, the centre
    of gravity of what stands above half the peak, since a regressed peak is broad and flat."""
    height, width = (int(n) for n in heatmap.shape[-2:])
    value, index = heatmap.flatten(1).max(dim=1)
    row, col = index // width, index % width
    ys = torch.arange(height, device=heatmap.device)[None, :, None] - row[:, None, None]
    xs = torch.arange(width, device=heatmap.device)[None, None, :] - col[:, None, None]
    near = xs**2 + ys**2 <= (_PEAK_RADIUS * sigma) ** 2
    mass = (heatmap - value[:, None, None] / 2).clamp_min(0) * near
    total = mass.sum(dim=(1, 2)).clamp_min(1e-12)
    dx, dy = (mass * xs).sum(dim=(1, 2)) / total, (mass * ys).sum(dim=(1, 2)) / total
    squares = (mass * ((xs - dx[:, None, None]) ** 2 + (ys - dy[:, None, None]) ** 2)).sum(dim=(1, 2)) / total
    xy = torch.stack([col, row], dim=1).to(heatmap.dtype)
    if subpixel:
        xy = xy + torch.stack([dx, dy], dim=1)
    rival = heatmap.masked_fill(near, 0).flatten(1).amax(dim=1)
    return Keypoints(xy, value, rival, (squares / 2).sqrt())
