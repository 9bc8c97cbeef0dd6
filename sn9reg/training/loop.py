"""The one loop by which every family is trained: Lightning's trainer, its checkpoints and its metrics.

Samples are endless, and validation goes by steps. Into the folder of a training go last.ckpt, best.ckpt where something
is held out, csv/metrics.csv (csv-STEP for a training resumed at STEP) and TensorBoard's events.
"""

import dataclasses
import logging
import textwrap
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.files import PathLike, make_folder
from sn9reg.training.config import TrainingConfig
from sn9reg.training.task import Stage, Task

log = logging.getLogger(__name__)


def train(
    config: TrainingConfig,
    out: PathLike,
    *,
    resume: bool = False,
    start_from: PathLike | None = None,
    progress: bool = True,
) -> Task:
    """Train into the folder `out`; the task, whose `network` has the best weights, or the last if nothing is held out.

    resume: go on from the last checkpoint, if there is one.
    start_from: a checkpoint to begin with; of several stages, only the last is then trained.
    Raises InputError for data or checkpoints that cannot be used, ConfigError for options that make no sense, for a
    loss that is no number, and where not even the smallest part of a batch fits into memory.
    """
    stages = config.stages()
    before = Path(start_from) if start_from else None
    for stage in stages[-1:] if before else stages:
        folder = Path(out) / stage.folder
        make_folder(folder)
        if not resume:  # those of an earlier training in the same folder
            for name in ("last.ckpt", "best.ckpt"):
                (folder / name).unlink(missing_ok=True)
        task = _fitted(stage, folder, before, config.precision, progress)
        best = bool(stage.checks) and (folder / "best.ckpt").exists()
        before = folder / ("best.ckpt" if best else "last.ckpt")
        begin_with(task, before)
    task.network = task.kept()
    return task


def begin_with(task: Task, checkpoint: Path, optional: tuple[str, ...] = ()) -> None:
    """Take over a checkpoint's weights. Raises InputError where they do not fit; those whose names begin as `optional`
    says may be missing."""
    state, present = read_checkpoint(checkpoint)["state_dict"], task.state_dict()
    apart = sorted(key for key in present.keys() ^ state.keys() if not key.startswith(optional))
    try:
        if apart:
            raise RuntimeError(f"it differs in {', '.join(apart[:3])}")
        task.load_state_dict(present | {key: value for key, value in state.items() if key in present})
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(f"{checkpoint}: is a checkpoint of another network ({first})") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, without running code from it. Raises InputError for what is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return {name: content[name] for name in ("global_step", "state_dict")}
    except (OSError, EOFError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        why = textwrap.shorten(str(error) or "it is empty", 120, placeholder=" ...")
        raise InputError(f"{path}: is no checkpoint of a training ({why})") from error


def _fitted(stage: Stage, folder: Path, before: Path | None, precision: str, progress: bool) -> Task:
    """A new task, trained; a batch that does not fit into memory is taken in smaller parts, and training goes on."""
    plan, last = stage.plan, folder / "last.ckpt"
    while True:
        lightning.seed_everything(stage.seed, verbose=False)
        task = stage.task(plan)
        if before is not None:
            begin_with(task, before, task.optional)
        done = int(read_checkpoint(last)["global_step"]) if last.exists() else 0
        try:
            if done < plan.steps:
                _fit(task, stage, folder, done, precision, progress)
            return task
        except RuntimeError as error:  # on a GPU there is a class for it, on a CPU only a message
            if not (isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
                raise
        finer = [n for n in range(2 * plan.accumulate, plan.batch + 1) if plan.batch % n == 0]
        if not finer:
            raise ConfigError("not even one sample fits into memory: make samples or the network smaller")
        log.warning("a batch did not fit into memory; it is taken in %d parts from here on", finer[0])
        plan = dataclasses.replace(plan, accumulate=finer[0])


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
    trainer = lightning.Trainer(
        max_steps=plan.steps,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=plan.optimiser.clip or None if by_trainer else None,
        precision=precision,
        val_check_interval=every * accumulate,  # without epochs in an endless stream of samples: by steps
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, plan.steps),
        callbacks=callbacks,
        logger=[
            CSVLogger(folder, name="", version=f"csv-{done}" if done else "csv"),  # it empties the folder that it gets
            TensorBoardLogger(str(folder), name="", version="tensorboard"),
        ],
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=str(folder),
    )
    try:
        resumed = str(last) if done else None
        trainer.fit(task, batches, list(stage.checks) or None, ckpt_path=resumed, weights_only=True)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise InputError(f"{last}: is a checkpoint of another network; train into another folder") from error
    trainer.save_checkpoint(last)  # steps after the last validation are not to be lost
