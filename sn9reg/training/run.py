"""One training run: data, Lightning's trainer, checkpoints, and the weights that come out."""

from __future__ import annotations

import dataclasses
import logging
import textwrap
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.files import PathLike
from sn9reg.training.config import TrainingConfig
from sn9reg.training.dataset import Pairs, Source, TrainingSamples, ValidationSamples, collate, load
from sn9reg.training.task import MatchingTask

log = logging.getLogger(__name__)
Loaded = tuple[Source, Pairs, Pairs]  # for training, held out


def train(config: TrainingConfig, out: PathLike, resume: bool = False, progress: bool = True) -> MatchingTask:
    """Train, and return the task with the best weights.

    Into `out` go last.ckpt, best.ckpt where pairs are held out, csv/metrics.csv (csv-STEP for a run resumed at STEP),
    and TensorBoard's events. resume: go on from last.ckpt, if there is one. A batch that does not fit into memory is
    taken in twice as many parts, and training goes on.
    Raises InputError for data that cannot be read, ConfigError for a loss that is no number, or where even a single
    pair does not fit.
    """
    out = Path(out)
    side = max(config.geometry.optical, config.validation.optical)
    loaded = [(source, *load(source, config.seed, side)) for source in config.sources]
    if not resume:
        (out / "last.ckpt").unlink(missing_ok=True)  # an earlier run's: after a lack of memory it would be gone on from
    while True:
        try:
            return _fit(config, loaded, out, resume, progress)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            config, resume = _in_smaller_parts(config), True


def _fit(config: TrainingConfig, loaded: list[Loaded], out: Path, resume: bool, progress: bool) -> MatchingTask:
    lightning.seed_everything(config.seed, verbose=False)
    task = MatchingTask(config)
    held_out = [held for _, _, held in loaded if held]
    best = ModelCheckpoint(out, filename="best", monitor="quality", mode="max", enable_version_counter=False)
    # One of its own: Lightning's save_last would keep the last best. After each validation, or where there are none.
    every = None if held_out else config.validate_every
    last_one = ModelCheckpoint(out, filename="last", every_n_train_steps=every, enable_version_counter=False)
    callbacks: list[Callback] = [best, last_one] if held_out else [last_one]
    if config.patience and held_out:
        callbacks.append(EarlyStopping("quality", mode="max", patience=config.patience))
    last = out / "last.ckpt" if resume and (out / "last.ckpt").exists() else None
    done = torch.load(last, map_location="cpu", weights_only=False)["global_step"] if last else 0
    table = CSVLogger(out, name="", version=f"csv-{done}" if done else "csv")  # it empties the folder that it gets
    trainer = lightning.Trainer(
        max_steps=config.steps,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optimiser.clip or None,
        precision=precision(config.precision),
        # Without epochs in an endless stream of samples: validation by steps alone.
        val_check_interval=min(config.validate_every, config.steps) * config.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(50, config.steps),
        callbacks=callbacks,
        logger=[table, TensorBoardLogger(str(out), name="", version="tensorboard")],
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=str(out),
    )
    # A resumed run must not see the first run's samples again.
    samples = TrainingSamples(
        [(source, pairs) for source, pairs, _ in loaded],
        config.geometry,
        config.photometry,
        config.degradation,
        config.seed + done,
    )
    trainer.fit(
        task,
        DataLoader(samples, config.batch // config.accumulate, collate_fn=collate, num_workers=config.workers),
        [_validation_batches(config, pairs) for pairs in held_out] or None,
        ckpt_path=str(last) if last else None,
        weights_only=False,
    )
    if best.best_model_path:
        task.load_state_dict(torch.load(best.best_model_path, map_location="cpu", weights_only=False)["state_dict"])
    return task


def _validation_batches(config: TrainingConfig, pairs: Pairs) -> DataLoader[Any]:
    samples = ValidationSamples(pairs, config.validation, config.degradation, config.seed)
    return DataLoader(samples, 4, collate_fn=collate)


def _out_of_memory(error: RuntimeError) -> bool:
    """On a GPU there is a class for it, on a CPU only a message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _in_smaller_parts(config: TrainingConfig) -> TrainingConfig:
    """The batch in at least twice as many parts."""
    finer = [n for n in range(2 * config.accumulate, config.batch + 1) if config.batch % n == 0]
    if not finer:
        raise ConfigError("not even one pair fits into memory: lower geometry.optical")
    log.warning("a batch did not fit into memory; it is taken in %d parts from here on", finer[0])
    return dataclasses.replace(config, accumulate=finer[0])


def precision(name: str) -> Any:
    if name != "auto":
        return name
    return "bf16-mixed" if torch.cuda.is_available() else "32-true"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, without running code from it. Raises InputError for what is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return {name: content[name] for name in ("epoch", "global_step", "state_dict")}
    except (OSError, EOFError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        why = textwrap.shorten(str(error) or "it is empty", 120, placeholder=" ...")
        raise InputError(f"{path}: is no checkpoint of a training ({why})") from error
