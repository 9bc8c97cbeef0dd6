"""Training of the dual encoder in two phases: pre-training by contrast and rotation, then fine-tuning by matching. P.
Huang et al., "Uncertainty-aware self-supervised cross-modal SAR-optical matching using EfficientDet and Xception",
whose sections and tables are named below. Of the fine-tuning's losses it gives only the weights."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, field, replace
from functools import partial
from itertools import product
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, normalize
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError
from sn9reg.matchers.dense.correlation import cross_correlation
from sn9reg.matchers.dual_encoder.encode import BANDS
from sn9reg.matchers.dual_encoder.network import CELL, KIND, WIDTHS, DualEncoder, DualOptions, Encoded, build
from sn9reg.matchers.dual_encoder.pairing import soft_position, weighted_similarity
from sn9reg.options import options
from sn9reg.raster.scene import Patch
from sn9reg.training.config import Count, Optimiser, Plan, Positive, TrainingConfig
from sn9reg.training.data import Source, fixed, load_all
from sn9reg.training.loop import Stage, Task
from sn9reg.training.losses import contrastive
from sn9reg.training.sample import Geometry, Photometry, Sample, augment_optical, augment_sar, cut

_RIGHT = 3 / CELL  # cells
_FAR = 10.0  # cells: wrong is wrong, however far
_LEAST = 1e-3  # cells squared, below which a variance does not fall


@options
class PhaseOptimiser(Optimiser):
    """Adam as the paper has it: its decay is part of the gradient."""

    decay: Annotated[float, Ge(0)] = 1e-4
    decoupled: bool = False


@options
class Phase(Plan):
    """One of the two phases; without steps it is left out."""

    _: KW_ONLY
    steps: Count
    batch: Positive = 128
    accumulate: Positive = 4
    validate_every: Positive = 100
    optimiser: PhaseOptimiser


@options
class DualConfig(TrainingConfig):
    """Defaults are the paper's (Table 2 and sections 3.2.4, 3.3 and 4.2), where it says."""

    family: ClassVar[str] = "dual-encoder"
    pretraining: Phase
    finetuning: Phase
    aleatoric: bool = True  # whether there are modules for the uncertainty of the data
    dropout: Annotated[float, Ge(0), Le(5)] = 1.0  # share of the paper's rates
    structure: bool = False  # see `matchers.dual_encoder.network.Structure`
    contrastive: bool = True  # whether the pre-training has the contrastive loss
    rotation: bool = True  # whether the pre-training asks for the rotation
    temperature: Annotated[float, Gt(0)] = 0.07  # of both losses
    cells: Annotated[int, Ge(2)] = 64  # of each pair, drawn for the contrastive loss
    window: Positive = 1  # side of the square of cells whose mean the contrastive loss sees, odd
    uncertainty: Annotated[float, Gt(0)] = 0.5  # weight of that loss in fine-tuning
    geometry: Geometry = field(default_factory=lambda: Geometry(optical=256, sar=240, tilt=30.0))  # of the crops
    photometry: Photometry = field(default_factory=lambda: Photometry(noise=0.01, sar_noise=0.01))
    colours: Annotated[float, Ge(0), Le(1)] = 0.0  # share of samples whose optical bands are changed each by itself

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretraining.steps and not (self.contrastive or self.rotation):
            raise ConfigError("pretraining has steps but neither contrastive nor rotation")
        if not self.finetuning.steps:
            raise ConfigError("finetuning has no steps")
        if self.window % 2 == 0:
            raise ConfigError(f"window is {self.window}, must be odd")
        sides = (self.geometry.optical, self.geometry.sar)
        if any(side % (4 * CELL) or side < 32 for side in sides) or sides[1] > sides[0]:
            raise ConfigError(f"geometry: sides {sides} must be multiples of {4 * CELL} from 32, the SAR no larger")

    def stages(self) -> Sequence[Stage]:
        parts, held = load_all(self.sources, self.seed, self.geometry.optical)
        held_out: Any = fixed(held, partial(self.crops, train=False), self.seed)
        checks = [DataLoader(held_out, 8)] if held_out else []
        stages = []
        for number, name in enumerate(("pretraining", "finetuning")):
            if (plan := getattr(self, name)).steps:
                # What is turned by quarters already has no rotation to be predicted. Each phase has other samples.
                geometry = replace(self.geometry, quarters=name == "finetuning")
                made = replace(self, geometry=geometry, seed=self.seed + 7919 * number)
                task, batches = partial(DualTask, self, name=name), partial(made.batches, parts, made.crops)
                stages.append(Stage(plan, self.seed + number, task, batches, checks, name))
        return stages

    def crops(self, source: Source, optical: Patch, sar: Patch, random: Generator, train: bool = True) -> Sample:
        """One sample of a pair, with three optical bands. train: with the changes of grey values that are asked for."""
        one, other, place = cut(optical, sar, self.geometry, source.drawn_zoom(random), random, bands=True)
        if train:
            apart, drawn = random.random() < self.colours, int(random.integers(1 << 32))
            bands = one.values[:3] if len(one.values) >= 3 else [one.values.mean(axis=0)] * 3
            each = (np.random.default_rng([drawn, k * apart]) for k in range(3))
            seen = [augment_optical(band, self.photometry, own) for band, own in zip(bands, each, strict=True)]
            one = Patch(np.stack(seen), one.valid)
            other = Patch(augment_sar(other.values[0], self.photometry, random)[None], other.valid)
        return Sample.of(one, other, place, BANDS)


class DualTask(Task):
    """Validation logs `matched`, the share of SAR cells placed within 3 pixels, and `whole`, of whole SAR crops."""

    network: DualEncoder
    kind = KIND
    monitor = "matched"

    def __init__(self, config: DualConfig, plan: Plan, name: str) -> None:
        super().__init__(plan, build, DualOptions(config.aleatoric, config.dropout, config.structure))
        self.config, self.name = config, name  # the phase's
        # Section 3.3.2: two layers, 256 and 4 wide, for four angles.
        self.rotation = nn.ModuleDict()
        for kind, n in WIDTHS.items():
            self.rotation[kind] = nn.Sequential(nn.Linear(n, 256), nn.ReLU(), nn.Linear(256, 4))
        self.scale = nn.Parameter(torch.tensor(3.5))  # ln of it

    def loss_of(self, batch: Sample) -> Tensor:
        return self._pretraining(batch) if self.name == "pretraining" else self._finetuning(batch)

    def _pretraining(self, batch: Sample) -> Tensor:
        quarter = torch.randint(4 if self.config.rotation else 1, (len(batch.place),), device=batch.place.device)
        images = ("optical", batch.optical), ("sar", batch.sar)
        seen = [self.network(_turned(image, quarter), kind) for kind, image in images]
        loss = torch.zeros((), device=batch.place.device)
        if self.config.rotation:
            for encoded, (kind, head) in zip(seen, self.rotation.items(), strict=True):
                answer = head(encoded.features.mean(dim=(2, 3)))
                loss = loss + cross_entropy(answer.float(), quarter) / 2
                self.log(f"rotation_{kind}", (answer.argmax(dim=1) == quarter).float().mean())
        if self.config.contrastive:
            optical, sar = (self._pooled(_turned(e.embedding, -quarter)) for e in seen)
            loss = loss + contrastive(*self._drawn(optical, sar, batch.place), self.config.temperature)
        return loss

    def _pooled(self, embedding: Tensor) -> Tensor:
        """The mean of the embeddings around each cell, of unit length."""
        w = self.config.window
        return normalize(avg_pool2d(embedding, w, stride=1, padding=w // 2, count_include_pad=False), dim=1, eps=1e-6)

    def _drawn(self, optical: Tensor, sar: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) embeddings of cells drawn from each SAR crop, and of the optical cells nearest to the same place."""
        count, _, height, width = sar.shape
        rows, cols = (torch.randint(n, (count, self.config.cells), device=sar.device) for n in (height, width))
        offset = (place.float() / CELL).round().long()
        row = (rows + offset[:, :1]).clamp_max(optical.shape[2] - 1)
        col = (cols + offset[:, 1:]).clamp_max(optical.shape[3] - 1)
        pair = torch.arange(count, device=sar.device)[:, None]
        return sar[pair, :, rows, cols].flatten(0, 1), optical[pair, :, row, col].flatten(0, 1)

    def _finetuning(self, batch: Sample) -> Tensor:
        optical, sar = self.network(batch.optical, "optical"), self.network(batch.sar, "sar")
        similarity, truth, back = self._compared(optical, sar, batch.place)
        shapes, t = (optical.embedding.shape[-2:], sar.embedding.shape[-2:]), self.config.temperature
        loss = (matching(similarity, truth, shapes[0], t) + matching(similarity.mT, back, shapes[1], t)) / 2
        whole, _ = self._placed(optical, sar, batch.place)
        self.log_dict({"matching": loss, "placed": whole})
        loss = (loss + whole) / 2
        if self.config.aleatoric:
            with torch.no_grad():
                best, xy = found(similarity, shapes[0], t)
                distance = (xy - truth).norm(dim=-1)
            sides = [1 - c.flatten(1) for c in self.network.confidences(optical, sar)]
            doubt = sides[1] + sides[0].gather(1, best)
            base, slope = self.network.log_variance
            self.log("uncertainty", unsure := likelihood(distance, base + slope * doubt))
            loss = loss + self.config.uncertainty * unsure
        return loss

    def _placed(self, optical: Encoded, sar: Encoded, place: Tensor) -> tuple[Tensor, Tensor]:
        weighed = [e.embedding * c for e, c in zip((optical, sar), self.network.confidences(optical, sar), strict=True)]
        return placed(weighed[0], weighed[1], place.flip(1).float() / CELL, self.scale.exp())

    def _compared(self, optical: Encoded, sar: Encoded, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, O) similarities of all cells, (B, S, 2) where SAR cells lie in the optical map and (B, O, 2) back."""
        confidence = self.network.confidences(optical, sar)
        similarity = weighted_similarity(sar.embedding, optical.embedding, confidence[1], confidence[0])
        shift = place.flip(1).float()[:, None] / CELL
        return similarity, _cells(sar.embedding) + shift, _cells(optical.embedding) - shift

    def validation_step(self, batch: Sample, index: int) -> None:
        optical, sar = self.network(batch.optical, "optical"), self.network(batch.sar, "sar")
        similarity, truth, _ = self._compared(optical, sar, batch.place)
        _, xy = found(similarity, tuple(optical.embedding.shape[-2:]), self.config.temperature)
        right = ((xy - truth).norm(dim=-1) <= _RIGHT).float().mean()
        self.log("matched", right, prog_bar=True, batch_size=len(batch.place))
        _, best = self._placed(optical, sar, batch.place)
        near = (best - batch.place.flip(1) / CELL).norm(dim=1) <= _RIGHT
        self.log("whole", near.float().mean(), batch_size=len(batch.place))


def placed(optical: Tensor, sar: Tensor, truth: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of where the SAR map as a whole lies in the optical one, of which a new network learns sooner than
    of single cells, and (B, 2) x, y of the best place. optical: (B, C, H, W), sar: (B, C, h, w), weighed embeddings.
    truth: (B, 2) x, y of the SAR map's upper left cell. scale: of the cells' mean similarity."""
    surface = cross_correlation(optical, sar) / sar[0, 0].numel()
    height, width = surface.shape[-2:]
    best = surface.flatten(1).argmax(dim=1)
    loss = matching(scale * surface.flatten(1)[:, None], truth[:, None], (height, width), 1.0)
    return loss, torch.stack([best % width, best // width], dim=1)


def matching(similarity: Tensor, truth: Tensor, shape: tuple[int, int], temperature: float) -> Tensor:
    """Cross-entropy of similarities against true places, shared out to the four cells around each.
    similarity: (B, N, H W). truth: (B, N, 2) x, y in cells of an H x W map; places outside the map do not count."""
    height, width = shape
    log_share = (similarity / temperature).log_softmax(dim=-1)
    low = truth.floor()
    shares = 1 - (truth - low), truth - low
    inside = ((truth >= 0) & (truth <= truth.new_tensor([width - 1, height - 1]))).all(dim=-1)
    total = log_share.new_zeros(log_share.shape[:2])
    for dx, dy in product((0, 1), repeat=2):
        x, y = low[..., 0] + dx, low[..., 1] + dy
        weight = shares[dx][..., 0] * shares[dy][..., 1]
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


def _turned(images: Tensor, quarter: Tensor) -> Tensor:
    """(B, C, S, S), each turned by its own number of quarters."""
    turned = [torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, quarter, strict=True)]
    return torch.stack(turned).contiguous(memory_format=torch.channels_last)


def _cells(embedding: Tensor) -> Tensor:
    """(1, h w, 2) x, y of all cells."""
    return torch.cartesian_prod(*map(torch.arange, embedding.shape[-2:])).flip(1).to(embedding)[None]
