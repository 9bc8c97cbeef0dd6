"""Training of the dual encoder in two phases: pre-training by contrast and rotation, then fine-tuning by matching.

Huang et al.; the sections and tables named below are of that paper.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, normalize
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError
from sn9reg.matchers.dual_encoder.inputs import optical_input, sar_input
from sn9reg.matchers.dual_encoder.network import CELL, WIDTHS, DualEncoder, Encoded
from sn9reg.matchers.dual_encoder.pairing import weighted_similarity
from sn9reg.matchers.dual_encoder.weights import KIND, DualOptions, build
from sn9reg.options import options
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import Patch
from sn9reg.training.config import Count, Optimiser, Plan, Positive, TrainingConfig
from sn9reg.training.data import Samples, Source, fixed, load_all
from sn9reg.training.dual_losses import contrastive, found, likelihood, matching, placed
from sn9reg.training.sample import Geometry, Photometry, Sample, augment_optical, augment_sar, cut
from sn9reg.training.task import Stage, Task

_RIGHT = 3 / CELL  # cells
PhaseName = Literal["pretraining", "finetuning"]


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

    _: KW_ONLY
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
    photometry: Photometry = field(default_factory=lambda: Photometry(noise=0.01))
    colours: Annotated[float, Ge(0), Le(1)] = 0.0  # share of samples whose three optical bands differ

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretraining.steps and not (self.contrastive or self.rotation):
            raise ConfigError("pretraining has steps but neither contrastive nor rotation")
        if not self.finetuning.steps:
            raise ConfigError("finetuning has no steps")
        if self.window % 2 == 0:
            raise ConfigError(f"window is {self.window}, must be odd")
        angles = (self.geometry.tilt, self.geometry.turn)
        if not all(0 <= angle <= 180 for angle in angles) or not 0 <= self.geometry.stretch < 1:
            raise ConfigError(f"geometry: tilt and turn {angles} are degrees up to 180, stretch a share below 1")
        sides = (self.geometry.optical, self.geometry.sar)
        if any(side % (4 * CELL) or side < 32 for side in sides) or sides[1] > sides[0]:
            raise ConfigError(f"geometry: sides {sides} must be multiples of {4 * CELL} from 32, the SAR no larger")

    def stages(self) -> Sequence[Stage]:
        parts, held = load_all(self.sources, self.seed, self.geometry.optical)
        held_out: Any = fixed(held, partial(crops, config=self, train=False), self.seed)
        checks = [DataLoader(held_out, 8)] if held_out else []

        def stage(number: int, name: PhaseName) -> Stage:
            # What is turned by quarters already has no rotation to be predicted.
            geometry = replace(self.geometry, quarters=name == "finetuning")
            make = partial(crops, config=replace(self, geometry=geometry))

            def batches(plan: Plan, done: int) -> DataLoader[Any]:
                samples = Samples(parts, make, self.seed + 7919 * number + done)  # other samples than the other phase's
                return DataLoader(samples, plan.batch // plan.accumulate, num_workers=self.workers)

            plan: Phase = getattr(self, name)
            return Stage(plan, self.seed + number, lambda plan: DualTask(self, plan, name), batches, checks, name)

        return [stage(number, name) for number, name in enumerate(get_args(PhaseName)) if getattr(self, name).steps]


def crops(
    source: Source, optical: Patch, sar: Patch, random: np.random.Generator, config: DualConfig, train: bool = True
) -> Sample:
    """One sample of a pair, with three optical bands. train: with the changes of grey values of the configuration."""
    zoom = max(source.drawn_zoom(random), config.geometry.optical / min(optical.valid.shape))
    one, other, place = cut(optical, sar, config.geometry, zoom, random)
    if train:
        bands = 3 if random.random() < config.colours else 1
        seen = [augment_optical(one.values[0], config.photometry, random) for _ in range(bands)]
        one = Patch(np.stack(seen), one.valid)
        other = Patch(augment_sar(other.values[0], config.photometry, random)[None], other.valid)
    inputs = optical_input(one), sar_input(other, SarLog.of(other.values, other.valid)), place
    return Sample(*map(torch.from_numpy, inputs))


class DualTask(Task):
    """Validation logs `matched`: the share of SAR cells whose best optical position lies within 3 pixels of the true
    one, of all positions in the crop; and `whole`: the share of SAR crops that lie there as a whole. name: the phase.
    """

    network: DualEncoder
    kind = KIND
    monitor = "matched"
    optional = ("network.maps.", "network.fusion.")  # a pre-training may have been without modules for uncertainty

    def __init__(self, config: DualConfig, plan: Plan, name: PhaseName) -> None:
        super().__init__(plan)
        self.config, self.name = config, name
        self.network = build(asdict(self.architecture())).to(memory_format=torch.channels_last)
        # Section 3.3.2: two layers, 256 and 4 wide, for four angles.
        self.rotation = nn.ModuleDict(
            {kind: nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 4)) for kind, width in WIDTHS.items()}
        )
        self.scale = nn.Parameter(torch.tensor(3.5))  # ln of it

    def architecture(self) -> DualOptions:
        return DualOptions(self.config.aleatoric, self.config.dropout, self.config.structure)

    def loss_of(self, batch: Sample) -> Tensor:
        return self._pretraining(batch) if self.name == "pretraining" else self._finetuning(batch)

    def _pretraining(self, batch: Sample) -> Tensor:
        quarter = torch.randint(4 if self.config.rotation else 1, (len(batch.place),), device=batch.place.device)
        images = ((batch.optical, "optical"), (batch.sar, "sar"))
        seen = [self.network(_turned(image, quarter), kind) for image, kind in images]
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
        shapes = optical.embedding.shape[-2:], sar.embedding.shape[-2:]
        t = self.config.temperature
        loss = (matching(similarity, truth, shapes[0], t) + matching(similarity.mT, back, shapes[1], t)) / 2
        self.log("matching", loss)
        whole, _ = self._placed(optical, sar, batch.place)
        self.log("placed", whole)
        loss = (loss + whole) / 2
        if self.config.aleatoric:
            with torch.no_grad():
                best, xy = found(similarity, shapes[0], t)
                distance = (xy - truth).norm(dim=-1)
            sides = [1 - c.flatten(1) for c in self.network.confidences(optical, sar)]
            doubt = sides[1] + sides[0].gather(1, best)
            base, slope = self.network.log_variance
            unsure = likelihood(distance, base + slope * doubt)
            self.log("uncertainty", unsure)
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


def _turned(images: Tensor, quarter: Tensor) -> Tensor:
    """(B, C, S, S), each turned by its own number of quarters."""
    turned = [torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, quarter, strict=True)]
    return torch.stack(turned).contiguous(memory_format=torch.channels_last)


def _cells(embedding: Tensor) -> Tensor:
    """(1, h w, 2) x, y of all cells."""
    return torch.cartesian_prod(*map(torch.arange, embedding.shape[-2:])).flip(1).to(embedding)[None]
