"""Losses on similarity surfaces: those that the papers compare, and one of ours; and a loss on descriptors' distances.
Bertrand et al. is Learning-based SAR-Optical Registration for Navigation, whose Sec. IV-C and Table III pair each loss
with a similarity and a mask of positives; Gazzea et al. is MARU-Net. Where they print no formula or no value, the
docstring says what was taken; "as released" is as in github.com/Simon-Bertrand/SAROPTReg-TranslatModels."""

import math
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from sn9reg.errors import ConfigError
from sn9reg.options import check, options

TEMPERATURES = (1e-3, 1e2)
Start = Annotated[float, Ge(TEMPERATURES[0]), Le(TEMPERATURES[1])]  # of a temperature


class MatchingLoss(nn.Module):
    """The loss of a formula, and the temperature it learns. formula: its fields are the options, `similarity` names
    the surface that it is meant for, and `per_pair` makes (B,) losses of a raw surface, of that divided by the
    temperature, if it has one, and of the true place. The temperature is held as its logarithm, itself clamped to
    `TEMPERATURES`: clamped only where it is used, it would drift outside, where it has no gradient."""

    def __init__(self, formula: Any) -> None:
        super().__init__()
        self.formula, self.temperature = formula, nn.ParameterDict()
        if hasattr(formula, "temperature"):
            start = torch.tensor(math.log(formula.temperature))
            self.temperature["log_temperature"] = nn.Parameter(start, requires_grad=formula.trainable)

    def forward(self, surface: Tensor, place: Tensor) -> Tensor:
        """Mean over the batch, in the surface's type, in float32 at the least. surface: (B, H, W), higher is more
        similar. place: (B, 2) integers, the true (row, col). Raises ValueError where a loss lacks negatives."""
        scores = surface = surface.to(torch.promote_types(surface.dtype, torch.float32))
        for log_temperature in self.temperature.values():
            with torch.no_grad():
                log_temperature.clamp_(*map(math.log, TEMPERATURES))
            scores = surface / log_temperature.exp()
        return self.formula.per_pair(surface, scores, place.long()).mean()


def hardest_in_batch(distance: Tensor, margin: float = 1.0) -> Tensor:
    """The mean of max(0, margin + D(o_i, s_i) - min(D(o_i, s_jmin), D(o_kmin, s_i))) of (N, N) distances of N > 1
    optical to N SAR descriptors; those of one index match, jmin and kmin are the nearest others. L. He et al., "Deep
    convolutional network based on attention mechanism ...", eq. (4), after HardNet (A. Mishchuk et al., 2017)."""
    matches = torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    others = distance.masked_fill(matches, torch.inf)
    nearest = torch.minimum(others.amin(dim=1), others.amin(dim=0))
    return (margin + distance.diagonal() - nearest).clamp_min(0).mean()


def contrastive(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """InfoNCE of (N, D) embeddings of unit length; those of one index show the same place: P. Huang et al.,
    "Uncertainty-aware self-supervised cross-modal SAR-optical matching ...", eqs. (3) and (4), after A. van den Oord et
    al., "Representation learning with contrastive predictive coding", 2018. The mean of both directions, with the
    positive in the denominator as usual, which eq. (4) leaves out."""
    logits = one @ other.T / temperature
    same_place = torch.arange(len(one), device=one.device)
    return (cross_entropy(logits, same_place) + cross_entropy(logits.T, same_place)) / 2


@options
class MCGF:
    """`mcgf`: contrastive on CC; the positives are a cross of five pixels (Bertrand et al., Sec. IV-C and Table III).
    The papers print no formula. Taken: a logistic loss on either side, as released,
        mean over positives of log(1 + exp(-s)) + mean over the `hard_negatives` highest others of log(1 + exp(s))."""

    similarity = "cc"
    hard_negatives: Annotated[int, Ge(1)] = 40

    def per_pair(self, surface: Tensor, scores: Tensor, place: Tensor) -> Tensor:
        positive = _squared_distance(surface, place) <= 1
        values, present = _hardest(surface, ~positive, self.hard_negatives)
        return _masked_mean(softplus(-surface), positive) + _masked_mean(softplus(values), present)


@options
class OSMNet:
    """`osmnet`: a triplet ("circle") loss on SSD, Bertrand et al., Appendix A, eqs. (3) to (12).
    With z = 1 - SSD (eq. 8) and the margin m:
        log(1 + sum over negatives n and positives p of exp(gamma (E_n + E_p))),
        E_n = [z_n + m]+ (z_n - m),    E_p = -[1 + m - z_p]+ (z_p - 1 + m)         (eqs. 6, 7).
    The double sum is a product, so it is computed as softplus(logsumexp_n + logsumexp_p), which does not overflow.
    Each weight [.]+ is a line in the score that it weighs: E_p = SSD_p^2 - m^2 is lowest at SSD_p = 0 (eq. 11), but
    E_n = (1 - SSD_n)^2 - m^2, 0 beyond SSD_n = 1 + m (eq. 12), at SSD_n = 1, to which farther negatives are drawn
    back. With `detach_weights`, as released, a negative is pushed away as far as 1 + m. The values are as released."""

    similarity = "ssd"
    gamma: Annotated[float, Gt(0)] = 32.0
    margin: Annotated[float, Ge(0)] = 0.25
    positive_radius: Annotated[float, Ge(0)] = 1.0
    detach_weights: bool = False

    def per_pair(self, surface: Tensor, scores: Tensor, place: Tensor) -> Tensor:
        positive = _squared_distance(surface, place) <= self.positive_radius**2
        _require_negatives(~positive)
        push, pull = self.energies(1 + surface)
        negatives = (self.gamma * push).masked_fill(positive, -torch.inf).flatten(1).logsumexp(1)
        positives = (self.gamma * pull).masked_fill(~positive, -torch.inf).flatten(1).logsumexp(1)
        return softplus(negatives + positives)

    def energies(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """E_n and E_p of scores z = 1 - SSD, taken as negatives and as positives. Shapes as z."""
        weighing = z.detach() if self.detach_weights else z
        negative_weight = (weighing + self.margin).clamp_min(0)
        positive_weight = (1 + self.margin - weighing).clamp_min(0)
        return negative_weight * (z - self.margin), -positive_weight * (z - 1 + self.margin)


@options
class FFTUNet:
    """`fft-unet`: cross-entropy of softmax(ZNCC / temperature) against the true place (Bertrand et al., Table III).
    The temperature's value is not in the text: 1/96 is as released. `trainable` is Sec. V-C.2's optimised one."""

    similarity = "zncc"
    temperature: Start = 1 / 96
    trainable: bool = False

    def per_pair(self, surface: Tensor, scores: Tensor, place: Tensor) -> Tensor:
        return cross_entropy(scores.flatten(1), _index(surface, place)[:, 0], reduction="none")


@options
class CrossCorrCE(FFTUNet):
    """`cross-corr-ce`: cross-entropy of softmax(CC / temperature) against the true place (Bertrand et al., Sec. V-C.2).
    The paper's has no temperature: its features have any length. For unit length take about 1/30, or train it."""

    similarity = "cc"
    temperature: Start = 1.0


@options
class MARUNet(FFTUNet):
    """`maru-net`: pixelwise binary cross-entropy and a Gaussian-weighted contrast on ZNCC (Gazzea et al., eqs. 2 to 5).
    The cross-entropy (eq. 2, summed over the surface as printed) is of softmax(ZNCC / temperature) over the surface,
    for Sec. II-C speaks of one class among all places. Temperature 1/96 as released (Gazzea et al. has none).
    The contrast acts on the ZNCC itself: loss -Omega, with (eq. 4)
        Omega = mean of the matching region of G * ZNCC - mean of the hard negatives' ZNCC + margin.
    G is a Gaussian around the true place that sums to 1 (eq. 3), so that this first mean, over N_ps pixels as printed,
    weighs 1 / N_ps. Its region is radius <= 2 px: 13 pixels as in Bertrand et al.'s Table III, where eq. 3 prints < 2,
    which makes 9. `sigma` in px; eq. 3 divides by 2 sigma, which is the same at its sigma of 1. `negatives`: Gazzea et
    al. takes the LOWEST non-zero scores outside the region, although the highest ones compete, as released."""

    sigma: Annotated[float, Gt(0)] = 1.0
    radius: Annotated[float, Ge(0)] = 2.0
    hard_negatives: Annotated[int, Ge(1)] = 16
    margin: float = 1.0
    negatives: Literal["highest", "lowest"] = "highest"

    def per_pair(self, surface: Tensor, scores: Tensor, place: Tensor) -> Tensor:
        return binary_cross_entropy(scores, place) - self.omega(surface, place)

    def omega(self, surface: Tensor, place: Tensor) -> Tensor:
        """(B,) Omega of eq. (4), to be maximised."""
        weight = _gaussian(_squared_distance(surface, place), self.sigma, surface.dtype, self.radius)
        values, present = _hardest(surface, weight == 0, self.hard_negatives, self.negatives == "lowest")
        return _masked_mean(weight * surface, weight > 0) - _masked_mean(values, present) + self.margin


def binary_cross_entropy(scores: Tensor, place: Tensor) -> Tensor:
    """(B,) of softmax of the scores over each surface against the true place alone; Gazzea et al., eq. (2)."""
    logits, index = scores.flatten(1), _index(scores, place)
    total = logits.logsumexp(1, keepdim=True)
    log_p = logits - total
    # Only the highest can have p > 1/2, where 1 - p would cancel: there log(1 - p) is that of the others' sum.
    top = logits.argmax(1, keepdim=True)
    log_not = torch.log1p(-log_p.scatter(1, top, -1.0).exp())
    log_not = log_not.scatter(1, top, logits.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True) - total)
    return -log_p.gather(1, index)[:, 0] - log_not.scatter(1, index, 0.0).sum(1)


@options
class SoftCE:
    """`soft-ce`: ours. Cross-entropy of softmax(CC / temperature) against a Gaussian of `sigma` px around the truth,
    which gives the peak the shape that a sub-pixel fit wants. 1/30 is apt for features of unit length."""

    similarity = "cc"
    sigma: Annotated[float, Gt(0)] = 0.7
    temperature: Start = 1 / 30
    trainable: bool = True

    def per_pair(self, surface: Tensor, scores: Tensor, place: Tensor) -> Tensor:
        target = _gaussian(_squared_distance(surface, place), self.sigma, surface.dtype)
        return cross_entropy(scores.flatten(1), target.flatten(1), reduction="none")


LOSSES: dict[str, Any] = {"mcgf": MCGF, "osmnet": OSMNet, "fft-unet": FFTUNet, "maru-net": MARUNet}
LOSSES |= {"cross-corr-ce": CrossCorrCE, "soft-ce": SoftCE}


def make_loss(name: str, **given: Any) -> MatchingLoss:
    """The loss of that name. Raises ConfigError if there is none, or if it does not know or refuses an option."""
    if name not in LOSSES:
        raise ConfigError(f"no loss {name!r}; there are: {', '.join(LOSSES)}")
    return MatchingLoss(check(LOSSES[name], given, f"loss {name!r}"))


def _require_negatives(negative: Tensor) -> None:
    if not bool(negative.flatten(1).any(1).all()):
        raise ValueError(f"surface of {tuple(negative.shape[-2:])} has no pixel that is not a positive")


def _index(surface: Tensor, place: Tensor) -> Tensor:
    """(B, 1) index of the place in a flattened surface."""
    return place[:, :1] * surface.shape[-1] + place[:, 1:]


def _squared_distance(surface: Tensor, place: Tensor) -> Tensor:
    """(B, H, W) integers, px^2, from the place."""
    rows = torch.arange(surface.shape[-2], device=surface.device)[None, :, None] - place[:, 0, None, None]
    cols = torch.arange(surface.shape[-1], device=surface.device)[None, None, :] - place[:, 1, None, None]
    return rows**2 + cols**2


def _gaussian(squared: Tensor, sigma: float, dtype: torch.dtype, radius: float = math.inf) -> Tensor:
    """(B, H, W) of squared distances: sums to 1 over each surface, 0 beyond the radius."""
    weight = torch.exp(-squared.to(dtype) / (2 * sigma**2)) * (squared <= radius**2)
    return weight / weight.sum(dim=(1, 2), keepdim=True)


def _hardest(surface: Tensor, negative: Tensor, count: int, lowest: bool = False) -> tuple[Tensor, Tensor]:
    """(B, k) highest (or lowest) scores of negatives, and which of them there are: some have less than `count`."""
    _require_negatives(negative)
    filled = surface.masked_fill(~negative, torch.inf if lowest else -torch.inf).flatten(1)
    values = filled.topk(min(count, filled.shape[1]), dim=1, largest=not lowest).values
    there = negative.flatten(1).sum(1, keepdim=True)
    return values, torch.arange(values.shape[1], device=surface.device) < there


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) mean of each batch element's values where the mask is set."""
    values, mask = values.flatten(1), mask.flatten(1)
    return torch.where(mask, values, 0).sum(1) / mask.sum(1)
