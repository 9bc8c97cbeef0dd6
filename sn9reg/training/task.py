"""What the families' tasks share: the step, its optimiser and schedule; and the stages of a training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError
from sn9reg.training.config import Optimiser, Plan


class Task(lightning.LightningModule):
    """A network, its loss and its score."""

    kind: ClassVar[str]  # what a weights file calls the network
    network: nn.Module  # what is trained; after a training it has the best weights
    monitor: ClassVar[str]  # the logged score by which the best checkpoint is chosen
    better: ClassVar[Literal["max", "min"]] = "max"  # whether the largest or the smallest score is the best
    # How names of weights begin that a checkpoint to begin with may lack, or have without need.
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def architecture(self) -> Any:
        """The options of the network in a weights file, a dataclass."""
        raise NotImplementedError

    def loss_of(self, batch: Any) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def before_training(self, batches: DataLoader[Any]) -> None:
        """What is done once, before the first step."""

    def kept(self) -> nn.Module:
        """The network whose weights count."""
        return self.network

    def training_step(self, batch: Any, index: int) -> Tensor | None:
        return self.checked(self.loss_of(batch))

    def checked(self, loss: Tensor) -> Tensor:
        """The loss, logged. Raises ConfigError where it is no number."""
        if not torch.isfinite(loss):
            value, step = float(loss.detach()), self.global_step
            raise ConfigError(f"the loss is {value} at step {step}: lower optimiser.rate, or set optimiser.clip")
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def groups(self) -> list[dict[str, Any]]:
        """Parameters, as the optimiser takes them."""
        return [{"params": list(self.parameters())}]

    def configure_optimizers(self) -> Any:
        wanted = self.plan.optimiser
        kind = torch.optim.AdamW if wanted.decoupled else torch.optim.Adam
        optimiser = kind(self.groups(), lr=wanted.rate, weight_decay=wanted.decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, wanted, self.plan.steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(step: int, optimiser: Optimiser, steps: int) -> float:
    """The learning rate of a step, counted from 0, as a share of the highest."""
    up = min(1.0, (step + 1) / optimiser.warmup) if optimiser.warmup else 1.0
    if optimiser.schedule == "cosine":
        return up * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    dropped = optimiser.schedule == "drop" and step >= optimiser.drop_after * steps
    return up * (optimiser.drop if dropped else 1.0)


@dataclass(frozen=True)
class Stage:
    """One network learning one thing."""

    plan: Plan  # for how long, and how
    seed: int  # of the new weights and of what is random in the network
    task: Callable[[Plan], Task]  # with new weights, by the plan, or by one that takes a batch in smaller parts
    # The endless batches, by a plan and the number of steps done before, whose samples are not to be seen again.
    batches: Callable[[Plan, int], DataLoader[Any]]
    checks: Sequence[DataLoader[Any]]  # batches of what is held out
    folder: str = ""  # under that of the training; empty for that itself
