"""What Lightning needs to know to train the dual encoder, in both phases."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, normalize

from sn9reg.errors import ConfigError
from sn9reg.matchers.dual_encoder.network import CELL, WIDTHS, DualEncoder, Encoded
from sn9reg.matchers.dual_encoder.pairing import weighted_similarity
from sn9reg.training.dual_config import DualConfig, Phase
from sn9reg.training.dual_data import Crops
from sn9reg.training.dual_losses import contrastive, found, likelihood, matching, placed

_RIGHT = 3 / CELL  # cells


class DualTask(lightning.LightningModule):
    """Validation logs `matched`: the share of SAR cells whose best optical position lies within 3 pixels of the true
    one, of all positions in the crop; and `whole`: the share of SAR crops that lie there as a whole.

    phase: `pretraining` (contrastive loss and rotation prediction) or `finetuning` (matching and uncertainty).
    """

    def __init__(self, config: DualConfig, phase: Literal["pretraining", "finetuning"]) -> None:
        super().__init__()
        self.config, self.name = config, phase
        self.phase: Phase = getattr(config, phase)
        network = DualEncoder(config.aleatoric, config.dropout, config.structure)
        self.network = network.to(memory_format=torch.channels_last)
        # Section 3.3.2: two layers, 256 and 4 wide, for four angles.
        self.rotation = nn.ModuleDict(
            {
                kind: nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 4))
                for kind, width in WIDTHS.items()
            }
        )
        self.scale = nn.Parameter(torch.tensor(3.5))  # ln of it

    def training_step(self, batch: Crops, index: int) -> Tensor:
        loss = self._pretraining(batch) if self.name == "pretraining" else self._finetuning(batch)
        if not torch.isfinite(loss):
            raise ConfigError(f"the loss is {float(loss.detach())} after {self.global_step} steps: lower the rate")
        self.log("loss", loss)
        return loss

    def _pretraining(self, batch: Crops) -> Tensor:
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
        there = [
            (n + offset[:, k, None]).clamp_max(size - 1)
            for n, k, size in zip((rows, cols), (0, 1), optical.shape[-2:], strict=True)
        ]
        pair = torch.arange(count, device=sar.device)[:, None]
        return (
            sar[pair, :, rows, cols].flatten(0, 1),
            optical[pair, :, there[0], there[1]].flatten(0, 1),
        )

    def _finetuning(self, batch: Crops) -> Tensor:
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

    def validation_step(self, batch: Crops, index: int) -> None:
        optical, sar = self.network(batch.optical, "optical"), self.network(batch.sar, "sar")
        similarity, truth, _ = self._compared(optical, sar, batch.place)
        _, xy = found(similarity, tuple(optical.embedding.shape[-2:]), self.config.temperature)
        right = ((xy - truth).norm(dim=-1) <= _RIGHT).float().mean()
        self.log("matched", right, prog_bar=True, batch_size=len(batch.place))
        _, best = self._placed(optical, sar, batch.place)
        near = (best - batch.place.flip(1) / CELL).norm(dim=1) <= _RIGHT
        self.log("whole", near.float().mean(), batch_size=len(batch.place))

    def configure_optimizers(self) -> Any:
        phase = self.phase
        optimiser = torch.optim.Adam(self.parameters(), lr=phase.rate, weight_decay=phase.decay)

        def rate(step: int) -> float:
            falling = (
                0.5 * (1 + math.cos(math.pi * min(1.0, step / phase.steps))) if phase.schedule == "cosine" else 1.0
            )
            return falling * min(1.0, (step + 1) / (phase.warmup + 1))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _turned(images: Tensor, quarter: Tensor) -> Tensor:
    """(B, C, S, S), each turned by its own number of quarters."""
    turned = [torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, quarter, strict=True)]
    return torch.stack(turned).contiguous(memory_format=torch.channels_last)


def _cells(embedding: Tensor) -> Tensor:
    """(1, h w, 2) x, y of all cells."""
    height, width = embedding.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1).to(embedding)[None]
