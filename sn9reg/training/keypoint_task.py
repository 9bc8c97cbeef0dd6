"""What Lightning needs to know to train a keypoint detector."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError
from sn9reg.matchers.keypoints.heatmap import gaussian, read_keypoints
from sn9reg.matchers.keypoints.weights import build
from sn9reg.training.displaced import KeypointSample
from sn9reg.training.keypoint_data import KeypointData, TileSamples

_REGION = math.exp(-0.5 * 3**2)  # of a label: what stands above its value at three sigma


def balanced_mse(heatmap: Tensor, label: Tensor) -> Tensor:
    """Squared error of (B, H, W) heatmaps, its mean over the keypoint's region and that over the rest in equal parts.

    Hänsch et al., section 3.1: the loss at the keypoint is given the same importance as that at zero-valued places. The
    region is where the label's Gaussian is not zero, which is taken to be within three sigma.
    """
    region = (label > _REGION).float()
    error = (heatmap - label) ** 2
    return sum((error * w).sum() / w.sum().clamp_min(1) for w in (region, 1 - region)) / 2  # type: ignore[return-value]


class KeypointTask(lightning.LightningModule):
    """Validation logs `error`, the median distance of the heatmap's peak to the keypoint in pixels, by which the best
    checkpoint is chosen, `guess`, that of the tile's middle, and `within`, the share of peaks within sigma."""

    def __init__(self, data: KeypointData) -> None:
        super().__init__()
        self.data, self.config = data, data.config
        network = build({"finds": data.finds, "options": data.config.network})
        if data.config.tile % network.divisor:
            raise ConfigError(f"a tile of {data.config.tile} px is no multiple of the {network.divisor} of this depth")
        self.network = network.to(memory_format=torch.channels_last)
        self.errors: list[Tensor] = []

    def training_step(self, batch: KeypointSample, index: int) -> Tensor:
        label = gaussian(batch.place, self.config.tile, self.config.sigma)
        loss = balanced_mse(self.network(batch.optical, batch.sar), label)
        if not torch.isfinite(loss):
            raise ConfigError(f"the loss is {loss.item()} at step {self.global_step}: lower the rate")
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: KeypointSample, index: int) -> None:
        found = read_keypoints(self.network(batch.optical, batch.sar), sigma=self.config.sigma)
        middle = float(self.config.tile // 2)
        self.errors.append(
            torch.stack([(found.xy - batch.place).norm(dim=1), (batch.place - middle).norm(dim=1)]).double().cpu()
        )

    def on_validation_epoch_end(self) -> None:
        error, guess = torch.cat(self.errors, dim=1)
        self.errors.clear()
        self.log("error", error.median(), prog_bar=True)
        self.log("guess", guess.median())
        self.log("within", (error <= self.config.sigma).double().mean())

    def configure_optimizers(self) -> Any:
        config = self.config
        optimiser = torch.optim.Adam(self.network.parameters(), lr=config.rate)
        if config.schedule == "step":
            schedule: Any = torch.optim.lr_scheduler.MultiStepLR(optimiser, [config.drop_after], config.drop)
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
        steps = config.epochs * math.ceil(len(self.data.epoch(0)) / config.batch)  # type: ignore[arg-type]
        warmup = min(200, steps // 10 + 1)

        def rate(step: int) -> float:
            return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader[KeypointSample]:
        random = torch.Generator().manual_seed(1000 * self.config.seed + self.current_epoch)
        return DataLoader(
            self.data.epoch(self.current_epoch),
            self.config.batch,
            shuffle=True,
            num_workers=self.config.workers,
            generator=random,
        )

    def val_dataloader(self) -> Any:
        return DataLoader(TileSamples(self.data.held_out), self.config.batch) if self.data.held_out else []
