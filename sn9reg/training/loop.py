"""Lightning's trainer as sn9reg uses it: endless samples, validation by steps, two checkpoints, metrics as CSV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from sn9reg.errors import InputError
from sn9reg.training.run import precision, read_checkpoint


@dataclass(frozen=True)
class Loop:
    """For how long and how. monitor: what validation logs, the higher the better. accumulate: batches a step.
    patience: validations without gain before it stops, 0 for never."""

    steps: int
    validate_every: int
    monitor: str
    precision: str = "auto"
    accumulate: int = 1
    patience: int = 0


def steps_done(out: Path) -> int:
    """Steps behind the last checkpoint of a folder, 0 where there is none. Raises InputError for what is none."""
    last = out / "last.ckpt"
    return int(read_checkpoint(last)["global_step"]) if last.exists() else 0


def fit(
    task: lightning.LightningModule,
    batches: DataLoader[Any],
    checks: DataLoader[Any] | None,
    loop: Loop,
    out: Path,
    resume: bool = False,
    progress: bool = True,
) -> None:
    """Train; in the end the task holds the best weights, or the last where there is nothing to check.

    Into `out` go last.ckpt, best.ckpt where there is something to check, csv/metrics.csv (csv-STEP for a run resumed at
    STEP) and TensorBoard's events. resume: go on from last.ckpt, if there is one.
    Raises InputError for a checkpoint of another network.
    """
    if not resume:  # an earlier run's in the same folder
        for name in ("last.ckpt", "best.ckpt"):
            (out / name).unlink(missing_ok=True)
    last = out / "last.ckpt" if resume and (out / "last.ckpt").exists() else None
    done = steps_done(out) if last else 0
    every = min(loop.validate_every, loop.steps)
    # After each validation, or where there are none.
    last_one = ModelCheckpoint(
        out, filename="last", every_n_train_steps=None if checks else every, enable_version_counter=False
    )
    best = ModelCheckpoint(out, filename="best", monitor=loop.monitor, mode="max", enable_version_counter=False)
    callbacks: list[Callback] = [best, last_one] if checks else [last_one]
    if loop.patience and checks:
        callbacks.append(EarlyStopping(loop.monitor, mode="max", patience=loop.patience))
    trainer = lightning.Trainer(
        max_steps=loop.steps,
        accumulate_grad_batches=loop.accumulate,
        precision=precision(loop.precision),
        # Without epochs in an endless stream of samples: validation by steps alone.
        val_check_interval=every * loop.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, loop.steps),
        callbacks=callbacks,
        logger=[
            CSVLogger(out, name="", version=f"csv-{done}" if done else "csv"),
            TensorBoardLogger(str(out), name="", version="tensorboard"),
        ],
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=str(out),
    )
    try:
        trainer.fit(task, batches, checks, ckpt_path=str(last) if last else None, weights_only=True)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise InputError(f"{last}: is a checkpoint of another network; train into another folder") from error
    trainer.save_checkpoint(out / "last.ckpt")  # steps after the last validation are not to be lost
    if best.best_model_path:
        task.load_state_dict(read_checkpoint(Path(best.best_model_path))["state_dict"])
