"""The dual encoder's losses: contrastive, rotation, matching, and the likelihood of a position.

P. Huang et al., "Uncertainty-aware self-supervised cross-modal SAR-optical matching using EfficientDet and Xception",
sections 3.3.1, 3.3.2 and 4.2. Of the fine-tuning's losses the paper gives only the weights; the readings are ours.
"""

from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sn9reg.matchers.dense.correlation import cross_correlation
from sn9reg.matchers.dual_encoder.pairing import soft_position

_FAR = 10.0  # cells: wrong is wrong, however far
_LEAST = 1e-3  # cells squared, below which a variance does not fall


def contrastive(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """InfoNCE, eq. (3) and (4), of (N, D) embeddings of unit length; those of one index show the same place. The mean
    of both directions, with the positive in the denominator as usual, which eq. (4) leaves out."""
    logits = one @ other.T / temperature
    same_place = torch.arange(len(one), device=one.device)
    return (cross_entropy(logits, same_place) + cross_entropy(logits.T, same_place)) / 2


def placed(optical: Tensor, sar: Tensor, truth: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of where the SAR map as a whole lies in the optical one, and (B, 2) x, y of the best place.

    optical: (B, C, H, W), sar: (B, C, h, w), weighed embeddings. truth: (B, 2) x, y of the SAR map's upper left cell.
    scale: by which the mean similarity of the cells is multiplied. Single cells of the two sensors hardly look alike,
    all of them together do: from this a new network learns much sooner.
    """
    surface = cross_correlation(optical, sar) / sar[0, 0].numel()
    height, width = surface.shape[-2:]
    best = surface.flatten(1).argmax(dim=1)
    loss = matching(scale * surface.flatten(1)[:, None], truth[:, None], (height, width), 1.0)
    return loss, torch.stack([best % width, best // width], dim=1)


def matching(similarity: Tensor, truth: Tensor, shape: tuple[int, int], temperature: float) -> Tensor:
    """Cross-entropy of similarities against true places, shared out to the four cells around each.

    similarity: (B, N, H W). truth: (B, N, 2) x, y in cells of an H x W map; places outside the map do not count.
    """
    height, width = shape
    log_share = (similarity / temperature).log_softmax(dim=-1)
    low = truth.floor()
    fraction = truth - low
    inside = ((truth >= 0) & (truth <= truth.new_tensor([width - 1, height - 1]))).all(dim=-1)
    total = log_share.new_zeros(log_share.shape[:2])
    for dx, dy in product((0, 1), repeat=2):
        x, y = low[..., 0] + dx, low[..., 1] + dy
        weight = fraction[..., 0] if dx else 1 - fraction[..., 0]
        weight = weight * (fraction[..., 1] if dy else 1 - fraction[..., 1])
        index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
        total = total - weight * log_share.gather(2, index[..., None])[..., 0]
    return (total * inside).sum() / inside.sum().clamp_min(1)


def found(similarity: Tensor, shape: tuple[int, int], temperature: float) -> tuple[Tensor, Tensor]:
    """(B, N) index of the best cell and (B, N, 2) x, y of the position around it, in cells."""
    height, width = shape
    best = similarity.argmax(dim=-1)
    share = (similarity / temperature).softmax(dim=-1).reshape(-1, height, width)
    xy = torch.stack([best % width, best // width], dim=-1).reshape(-1, 2)
    return best, soft_position(share, xy).reshape(*best.shape, 2)


def likelihood(distance: Tensor, log_variance: Tensor) -> Tensor:
    """Negative log-likelihood of (N,) distances, in cells, under normal errors of variances exp(log_variance) per axis
    (Kendall & Gal, "What uncertainties do we need in Bayesian deep learning for computer vision?", eq. 5)."""
    log_variance = (log_variance.exp() + _LEAST).log()
    return (distance.clamp_max(_FAR).square() / 2 * (-log_variance).exp() + log_variance).mean()
