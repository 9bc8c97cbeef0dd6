"""What Lightning needs to know to train a descriptor."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import lightning
import torch
from torch import Tensor

from sn9reg.errors import ConfigError
from sn9reg.matchers.descriptors.network import distances
from sn9reg.matchers.descriptors.weights import DescriptorOptions, build
from sn9reg.training.descriptor_config import DescriptorConfig
from sn9reg.training.descriptor_data import PatchPairs
from sn9reg.training.losses import hardest_in_batch

_SLOWLY = 0.02


class DescriptorTask(lightning.LightningModule):
    """Validation logs `found`, by which the best checkpoint is chosen: the share of optical patches whose nearest SAR
    patch, among all that are held out, is their own."""

    def __init__(self, config: DescriptorConfig) -> None:
        super().__init__()
        self.automatic_optimization = False  # for the cached gradients
        self.config = config
        network = build(asdict(DescriptorOptions(config.patch, config.network)))
        self.network = network.to(memory_format=torch.channels_last)
        self.held_out: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: PatchPairs, index: int) -> None:
        optimiser: Any = self.optimizers()
        optimiser.zero_grad()
        parts = self._parts(batch)
        if len(parts) == 1:
            loss = self._loss(*self._describe(parts[0]))
            self.manual_backward(loss)
        else:
            loss = self._cached(parts)
        if not torch.isfinite(loss):
            raise ConfigError(f"the loss is {loss.item()} at step {self.global_step}: lower the rate")
        optimiser.step()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.log("loss", loss.detach(), prog_bar=True)

    def _parts(self, batch: PatchPairs) -> list[PatchPairs]:
        size = self.config.chunk or len(batch.optical)
        return [PatchPairs(*both) for both in zip(batch.optical.split(size), batch.sar.split(size), strict=True)]

    def _describe(self, pairs: PatchPairs) -> tuple[Tensor, Tensor]:
        """Both at once, so that batch normalisation sees the mixture that it is to work on."""
        patches = torch.cat(pairs).contiguous(memory_format=torch.channels_last)
        optical, sar = self.network(patches).chunk(2)
        return optical, sar

    def _loss(self, optical: Tensor, sar: Tensor) -> Tensor:
        with torch.autocast(optical.device.type, enabled=False):  # distances of a hundredth matter
            return hardest_in_batch(distances(optical.float(), sar.float()), self.config.margin)

    def _cached(self, parts: list[PatchPairs]) -> Tensor:
        """The gradient of the whole batch's loss, with the activations of one part at a time in memory."""
        with torch.no_grad():
            described = [self._describe(part) for part in parts]
        leaves = [torch.cat(both).requires_grad_() for both in zip(*described, strict=True)]
        loss = self._loss(leaves[0], leaves[1])
        loss.backward()
        size = self.config.chunk
        gradients = [leaf.grad.split(size) for leaf in leaves if leaf.grad is not None]
        for part, *gradient in zip(parts, *gradients, strict=True):
            again = self._describe(part)
            self.manual_backward(sum((d * g).sum() for d, g in zip(again, gradient, strict=True)))
        return loss

    def validation_step(self, batch: PatchPairs, index: int) -> None:
        optical, sar = self._describe(batch)
        self.held_out.append((optical.cpu(), sar.cpu()))

    def on_validation_epoch_end(self) -> None:
        optical, sar = (torch.cat(parts) for parts in zip(*self.held_out, strict=True))
        self.held_out.clear()
        nearest = (optical.float() @ sar.float().T).argmax(dim=1)
        self.log("found", (nearest == torch.arange(len(nearest))).double().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        config = self.config
        # The layout begins where it should be; steps as large as those of a new network would only blur it.
        layout = [p for name, p in self.network.named_parameters() if name.startswith("layout.")]
        others = [p for name, p in self.network.named_parameters() if not name.startswith("layout.")]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": layout, "lr": config.rate * _SLOWLY}]
        optimiser = torch.optim.Adam(groups if layout else groups[:1], lr=config.rate)
        warmup = min(50, config.steps // 10 + 1)

        def rate(step: int) -> float:
            falling = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
            return falling * min(1.0, (step + 1) / warmup) if config.schedule == "cosine" else 1.0

        return {"optimizer": optimiser, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimiser, rate)}
