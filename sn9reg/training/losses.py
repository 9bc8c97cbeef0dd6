"""Losses on similarity surfaces: those that the papers compare, and one of ours; and a loss on descriptors' distances.

Bertrand et al. is Learning-based SAR-Optical Registration for Navigation, whose Sec. IV-C and Table III pair each loss
with a similarity and a mask of positives; Gazzea et al. is MARU-Net. Where they print no formula or no value, the
docstring says what was taken; "as released" is as in github.com/Simon-Bertrand/SAROPTReg-TranslatModels.
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from sn9reg.errors import ConfigError
from sn9reg.matchers.dense.correlation import Similarity
from sn9reg.options import check, options

TEMPERATURES = (1e-3, 1e2)
Start = Annotated[float, Ge(TEMPERATURES[0]), Le(TEMPERATURES[1])]  # of a temperature


class Formula(ABC):
    """What a loss makes of a raw similarity surface. Its fields are its options."""

    similarity: ClassVar[Similarity]  # of the surface that it is meant for

    @abstractmethod
    def per_pair(self, surface: Tensor, scores: Tensor, place: Tensor) -> Tensor:
        """(B,) of the arguments of `MatchingLoss.forward`. Raises ValueError where all of a surface is positive.

        scores: the surface, divided by the temperature if there is one among the options.
        """


class MatchingLoss(nn.Module):
    """The loss of a formula, and the temperature that it learns."""

    def __init__(self, formula: Any) -> None:
        super().__init__()
        self.formula = formula
        tempered = hasattr(formula, "temperature")
        self.temperature = Temperature(formula.temperature, formula.trainable) if tempered else nn.Identity()

    def forward(self, surface: Tensor, place: Tensor) -> Tensor:
        """Mean over the batch, a scalar in the surface's type, in float32 at the least.

        surface: (B, H, W), higher is more similar. place: (B, 2) integers, (row, col) of the true position in it.
        Raises ValueError where a loss lacks negatives.
        """
        surface = surface.to(torch.promote_types(surface.dtype, torch.float32))
        loss: Tensor = self.formula.per_pair(surface, self.temperature(surface), place.long()).mean()
        return loss


def hardest_in_batch(distance: Tensor, margin: float = 1.0) -> Tensor:
    """The mean quadruplet loss of (N, N) distances of N > 1 optical to N SAR descriptors; those of one index match.

    He et al., "Deep convolutional network based on attention mechanism for matching optical and SAR images", eq. (4),
    after HardNet (A. Mishchuk et al., 2017). For each match the nearest wrong SAR patch of the optical one, and the
    nearest wrong optical patch of the SAR one; the nearer of the two is the triplet's negative:
        max(0, margin + D(o_i, s_i) - min(D(o_i, s_jmin), D(o_kmin, s_i))).
    """
    matches = torch.eye(len(distance), dtype=torch.bool, device=distance.device)
    others = distance.masked_fill(matches, torch.inf)
    negative = torch.minimum(others.amin(dim=1), others.amin(dim=0))
    return (margin + distance.diagonal() - negative).clamp_min(0).mean()


class Temperature(nn.Module):
    """Divides scores by a temperature, held as its logarithm: a parameter if `trainable`, else a buffer.

    The parameter itself is clamped to `TEMPERATURES`: clamped only where it is used, it would drift outside, where it
    has no gradient. Give a trained one no weight decay, which would pull it to 1.
    """

    log_temperature: Tensor

    def __init__(self, start: float, trainable: bool) -> None:
        super().__init__()
        value = torch.tensor(math.log(start))
        if trainable:
            self.log_temperature = nn.Parameter(value)
        else:
            self.register_buffer("log_temperature", value)

    def forward(self, scores: Tensor) -> Tensor:
        with torch.no_grad():
            self.log_temperature.clamp_(math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1]))
        return scores / self.log_temperature.exp()


@options
class MCGF(Formula):
    """`mcgf`: contrastive on CC; the positives are a cross of five pixels (Bertrand et al., Sec. IV-C and Table III).

    The papers print no formula. Taken: a logistic loss on either side, as released,
        mean over positives of log(1 + exp(-s)) + mean over the hardest negatives of log(1 + exp(s)),
    the hardest being the `hard_negatives` highest scores outside the cross, which a border clips; 40 as released.
    """

    similarity = "cc"
    hard_negatives: Annotated[int, Ge(1)] = 40

    def per_pair(self, surface: Tensor, scores: Tensor, place: Tensor) -> Tensor:
        positive = _squared_distance(surface, place) <= 1
        values, present = _hardest(surface, ~positive, self.hard_negatives)
        return _masked_mean(softplus(-surface), positive) + _masked_mean(softplus(values), present)


@options
class OSMNet(Formula):
    """`osmnet`: a triplet ("circle") loss on SSD, Bertrand et al., Appendix A, eqs. (3) to (12).

    With z = 1 - SSD (eq. 8) and the margin m:
        log(1 + sum over negatives n and positives p of exp(gamma (E_n + E_p))),
        E_n = [z_n + m]+ (z_n - m),    E_p = -[1 + m - z_p]+ (z_p - 1 + m)         (eqs. 6, 7).
    The double sum is a product, so it is computed as softplus(logsumexp_n + logsumexp_p), which does not overflow.

    Each weight [.]+ is a line in the score that it weighs, so E is a parabola: E_p = SSD_p^2 - m^2 is lowest at
    SSD_p = 0 (eq. 11), and E_n = (1 - SSD_n)^2 - m^2, 0 beyond SSD_n = 1 + m (eq. 12), at SSD_n = 1, a mean cosine of
    0.5: farther negatives are drawn back to it. With `detach_weights`, as released, no gradient runs through the
    weights: a negative is pushed away with force w_n as far as SSD_n = 1 + m.

    The text gives no values: gamma 32, margin 0.25 and positives within a radius of 1 px (a cross) are as released.
    """

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
class FFTUNet(Formula):
    """`fft-unet`: cross-entropy of softmax(ZNCC / temperature) against the true place (Bertrand et al., Table III).

    The temperature's value is not in the text: 1/96 is as released. `trainable` is Sec. V-C.2's optimised one.
    """

    similarity: ClassVar[Similarity] = "zncc"
    temperature: Start = 1 / 96
    trainable: bool = False

    def per_pair(self, surface: Tensor, scores: Tensor, place: Tensor) -> Tensor:
        return cross_entropy(scores.flatten(1), _index(surface, place)[:, 0], reduction="none")


@options
class CrossCorrCE(FFTUNet):
    """`cross-corr-ce`: cross-entropy of softmax(CC / temperature) against the true place (Bertrand et al., Sec. V-C.2).

    The paper's has no temperature, which is 1.0 here: its features have any length and learn their own. For features of
    unit length, at whose CC in [-1, 1] softmax at 1.0 is almost flat, take about 1/30, or have it trained.
    """

    similarity = "cc"
    temperature: Start = 1.0


@options
class MARUNet(FFTUNet):
    """`maru-net`: pixelwise binary cross-entropy and a Gaussian-weighted contrast on ZNCC (Gazzea et al., eqs. 2 to 5).

    The cross-entropy (eq. 2, summed over the surface as printed) is of softmax(ZNCC / temperature) over the surface,
    for Sec. II-C speaks of one class among all places, and a sigmoid per pixel would have thousands of zeros outweigh
    the true one. Temperature 1/96 as released (Gazzea et al. has none).

    The contrast acts on the ZNCC itself, on whose scale the margin of 1 is: loss -Omega, with (eq. 4)
        Omega = mean of the matching region of G * ZNCC - mean of the hard negatives' ZNCC + margin.
    There is no hinge, so the margin is but a constant. G is a Gaussian around the true place that sums to 1 (eq. 3), so
    that this first mean, over N_ps pixels as printed, weighs 1 / N_ps. Its region is radius <= 2 px, clipped at a
    border: 13 pixels as in Bertrand et al.'s Table III, where eq. 3 prints < 2, which makes 9. `sigma` in px; eq. 3
    divides by 2 sigma, which is the same at its sigma of 1. `negatives`: Gazzea et al. takes the LOWEST non-zero scores
    outside the region as hard ones, although the wrong places that compete are the highest, as released.
    """

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
class SoftCE(Formula):
    """`soft-ce`: ours. Cross-entropy of softmax(CC / temperature) against a Gaussian around the true place.

    The Gaussian of `sigma` px, which sums to 1 at a border, too, says that a neighbour is nearly right, and gives the
    peak the shape that a sub-pixel fit wants. The temperature is trained from 1/30, apt for features of unit length.
    """

    similarity = "cc"
    sigma: Annotated[float, Gt(0)] = 0.7
    temperature: Start = 1 / 30
    trainable: bool = True

    def per_pair(self, surface: Tensor, scores: Tensor, place: Tensor) -> Tensor:
        target = _gaussian(_squared_distance(surface, place), self.sigma, surface.dtype)
        return cross_entropy(scores.flatten(1), target.flatten(1), reduction="none")


LOSSES: dict[str, type[Formula]] = {
    "mcgf": MCGF,
    "osmnet": OSMNet,
    "fft-unet": FFTUNet,
    "maru-net": MARUNet,
    "cross-corr-ce": CrossCorrCE,
    "soft-ce": SoftCE,
}


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
