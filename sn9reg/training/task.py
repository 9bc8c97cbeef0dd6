"""What Lightning needs to know to train a matcher."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from sn9reg.errors import ConfigError
from sn9reg.matchers.dense.correlation import similarity
from sn9reg.matchers.dense.networks.table import build
from sn9reg.score.metrics import cmr, mean_l2
from sn9reg.training.config import TrainingConfig
from sn9reg.training.dataset import Sample
from sn9reg.training.losses import make_loss

_LOSS_RATE = 5.0  # the loss's own parameters learn faster by this


class MatchingTask(lightning.LightningModule):
    """Features of both, their similarity surface, the loss on it. Validation logs CMR(1), CMR(3) and mean L2, and
    `quality`, by which the best checkpoint is chosen: the mean of CMR at 1, 2, 3 and 5 px."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        network = build(config.network.name, config.shared, **config.network.options)
        self.network = network.to(memory_format=torch.channels_last)
        self.loss = make_loss(config.loss.name, **config.loss.options)
        # The running mean of the weights: what is validated and shipped.
        self.mean = copy.deepcopy(self.network).requires_grad_(False) if config.average else None
        self.errors: dict[int, list[Tensor]] = {}

    def kept(self) -> nn.Module:
        """The network whose weights count."""
        return self.network if self.mean is None else self.mean

    def surface(self, network: nn.Module, batch: Sample) -> Tensor:
        """(B, O - S + 1, O - S + 1) similarity, as the loss wants it."""
        optical, sar = network(batch.optical, "optical"), network(batch.sar, "sar")
        return similarity(self.loss.similarity, optical.float().contiguous(), sar.float().contiguous())

    def training_step(self, batch: Sample, index: int) -> Tensor:
        loss: Tensor = self.loss(self.surface(self.network, batch), batch.place)
        if not torch.isfinite(loss):
            raise ConfigError(
                f"the loss is {loss.item()} at step {self.global_step}: lower optimiser.rate, or set optimiser.clip"
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Sample, index: int) -> None:
        if self.mean is None or (index + 1) % self.config.accumulate:
            return
        decay = min(self.config.average, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            for kept, now in zip(self.mean.state_dict().values(), self.network.state_dict().values(), strict=True):
                if kept.dtype.is_floating_point:
                    kept.lerp_(now, 1 - decay)
                else:
                    kept.copy_(now)

    def validation_step(self, batch: Sample, index: int, dataloader_idx: int = 0) -> None:
        surface = self.surface(self.kept(), batch)
        best = surface.flatten(1).argmax(dim=1)
        found = torch.stack([best // surface.shape[-1], best % surface.shape[-1]], dim=1)
        self.errors.setdefault(dataloader_idx, []).append((found - batch.place).double().norm(dim=1).cpu())

    def on_validation_epoch_end(self) -> None:
        quality = []
        for index, parts in sorted(self.errors.items()):
            errors = torch.cat(parts).numpy()
            for radius in (1, 3):
                self.log(f"val{index}/cmr{radius}", cmr(errors, radius))
            self.log(f"val{index}/l2", mean_l2(errors))
            quality.append(sum(cmr(errors, radius) for radius in (1, 2, 3, 5)) / 4)
        self.errors.clear()
        if quality:
            self.log("quality", sum(quality) / len(quality), prog_bar=True)

    def configure_optimizers(self) -> Any:
        wanted = self.config.optimiser
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if own := list(self.loss.parameters()):  # a temperature: decay would pull it to 1
            groups.append({"params": own, "lr": _LOSS_RATE * wanted.rate, "weight_decay": 0.0})
        optimiser = torch.optim.AdamW(groups, lr=wanted.rate, weight_decay=wanted.decay)
        steps = self.config.steps

        def rate(step: int) -> float:
            up = min(1.0, (step + 1) / wanted.warmup) if wanted.warmup else 1.0
            down = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) if wanted.schedule == "cosine" else 1.0
            return up * down

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
