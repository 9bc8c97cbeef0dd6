"""The one loop by which every family is trained: Lightning's trainer, its checkpoints and its metrics; and what the
families' tasks share. Samples are endless, and validation goes by steps. Into the folder of a training go last.ckpt,
best.ckpt where something is held out, csv/metrics.csv (csv-STEP if resumed at STEP) and TensorBoard's events."""

import logging
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.files import PathLike, make_folder
from sn9reg.training.config import Plan, TrainingConfig

log = logging.getLogger(__name__)


class Task(lightning.LightningModule):
    """A network, its loss and its score. build: makes the network of a weights file's options: `architecture`'s."""

    kind: ClassVar[str]  # what a weights file calls the network
    network: nn.Module  # what is trained; after a training it has the best weights
    monitor: ClassVar[str]  # the logged score by which the best checkpoint is chosen
    better: ClassVar[Literal["max", "min"]] = "max"  # whether the largest or the smallest score is the best

    def __init__(self, plan: Plan, build: Callable[[dict[str, Any]], nn.Module], architecture: Any) -> None:
        super().__init__()
        self.plan, self.architecture = plan, architecture
        self.network = build(asdict(architecture)).to(memory_format=torch.channels_last)

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
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, self.plan))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(step: int, plan: Plan) -> float:
    """The learning rate of a step, counted from 0, as a share of the highest."""
    optimiser = plan.optimiser
    up = min(1.0, (step + 1) / optimiser.warmup) if optimiser.warmup else 1.0
    if optimiser.schedule == "cosine":
        return up * 0.5 * (1 + math.cos(math.pi * min(1.0, step / plan.steps)))
    dropped = optimiser.schedule == "drop" and step >= optimiser.drop_after * plan.validate_every
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


def train(
    config: TrainingConfig, out: PathLike, resume: bool = False, start_from: Path | None = None, progress: bool = True
) -> Task:
    """Train into the folder `out`; the task, whose `network` has the best weights, or the last if nothing is held out.
    resume: go on from the last checkpoint. start_from: one to begin the last stage with. Raises InputError for data or
    checkpoints that cannot be used, ConfigError for senseless options, a loss that is no number, and lack of memory."""
    stages, before = config.stages(), start_from
    for stage in stages[-1:] if before else stages:
        folder = Path(out) / stage.folder
        make_folder(folder)
        last, best = folder / "last.ckpt", folder / "best.ckpt"
        for old in [] if resume else [last, best]:  # those of an earlier training in the same folder
            old.unlink(missing_ok=True)
        task = _fitted(stage, folder, before, config.precision, progress)
        before = best if stage.checks and best.exists() else last
        begin_with(task, before)
    task.network = task.kept()
    return task


def begin_with(task: Task, checkpoint: Path) -> int:
    """Take over a checkpoint's weights, running no code of it; the steps done. Raises InputError for anything else."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state, done = content["state_dict"], int(content["global_step"])
    except (OSError, EOFError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        why = textwrap.shorten(str(error) or "it is empty", 120, placeholder=" ...")
        raise InputError(f"{checkpoint}: is no checkpoint of a training ({why})") from error
    try:
        task.load_state_dict(state)
    except RuntimeError as error:
        why = textwrap.shorten(str(error).splitlines()[-1], 160, placeholder=" ...")
        raise InputError(f"{checkpoint}: is a checkpoint of another network ({why})") from error
    return done


def _fitted(stage: Stage, folder: Path, before: Path | None, precision: str, progress: bool) -> Task:
    """A new task, trained; a batch that does not fit into memory is taken in smaller parts, and training goes on."""
    plan, last = stage.plan, folder / "last.ckpt"
    while True:
        lightning.seed_everything(stage.seed, verbose=False)
        task = stage.task(plan)
        if before is not None:
            begin_with(task, before)
        done = begin_with(task, last) if last.exists() else 0
        try:
            if done < plan.steps:
                _fit(task, stage, folder, done, precision, progress)
            return task
        except RuntimeError as error:  # on a GPU there is a class for it, on a CPU only a message
            if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
                raise
        if not (finer := [n for n in range(2 * plan.accumulate, plan.batch + 1) if plan.batch % n == 0]):
            raise ConfigError("not even one sample fits into memory: make samples or the network smaller")
        log.warning("a batch did not fit into memory; it is taken in %d parts from here on", finer[0])
        plan = replace(plan, accumulate=finer[0])


def _fit(task: Task, stage: Stage, folder: Path, done: int, precision: Any, progress: bool) -> None:
    """Train up to the last step, from last.ckpt if some steps are done."""
    last, plan = folder / "last.ckpt", task.plan
    batches = stage.batches(plan, done)
    if not done:
        task.before_training(batches)
    every = min(plan.validate_every, plan.steps)
    # Lightning's save_last would keep the last best. After each validation, or where there are none.
    checkpoint = partial(ModelCheckpoint, folder, enable_version_counter=False)
    callbacks: list[Callback] = [checkpoint("last", every_n_train_steps=None if stage.checks else every)]
    if stage.checks:
        callbacks.insert(0, checkpoint("best", monitor=task.monitor, mode=task.better))
        if plan.patience:
            callbacks.append(EarlyStopping(task.monitor, mode=task.better, patience=plan.patience))
    by_trainer = task.automatic_optimization  # or else a task does these on its own
    accumulate = plan.accumulate if by_trainer else 1
    if precision == "auto":
        precision = "bf16-mixed" if torch.cuda.is_available() else "32-true"
    how: dict[str, Any] = {"max_steps": plan.steps, "precision": precision, "accumulate_grad_batches": accumulate}
    how["gradient_clip_val"] = plan.optimiser.clip or None if by_trainer else None
    # Without epochs in an endless stream of samples: by steps.
    how |= {"val_check_interval": every * accumulate, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    how |= {"log_every_n_steps": min(10, plan.steps), "enable_progress_bar": progress, "enable_model_summary": False}
    version = f"csv-{done}" if done else "csv"  # it empties the folder that it gets
    loggers = [CSVLogger(folder, "", version), TensorBoardLogger(str(folder), "", "tensorboard")]
    trainer = lightning.Trainer(callbacks=callbacks, logger=loggers, **how)
    trainer.fit(task, batches, list(stage.checks) or None, ckpt_path=str(last) if done else None, weights_only=True)
    trainer.save_checkpoint(last)  # steps after the last validation are not to be lost
