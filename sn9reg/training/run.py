"""One training run: data, Lightning's trainer, checkpoints, and the weights that come out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from sn9reg.rasters import PathLike
from sn9reg.training.config import TrainingConfig
from sn9reg.training.dataset import Pairs, Source, TrainingSamples, ValidationSamples, collate, load
from sn9reg.training.task import MatchingTask

log = logging.getLogger(__name__)


def train(config: TrainingConfig, out: PathLike, resume: bool = False, progress: bool = True) -> MatchingTask:
    """Train, and return the task with the best weights.

    Into `out` go last.ckpt and best.ckpt, metrics.csv and TensorBoard's events. resume: go on from last.ckpt, if there
    is one. Raises InputError for data that cannot be read, ConfigError for a loss that is no number.
    """
    out = Path(out)
    lightning.seed_everything(config.seed, verbose=False)
    loaded = [(source, *load(source, config.seed)) for source in config.sources]
    task = MatchingTask(config)
    best = ModelCheckpoint(
        out, filename="best", monitor="quality", mode="max", save_last=True, enable_version_counter=False
    )
    has_validation = any(held for _, _, held in loaded)
    if not has_validation:
        best = ModelCheckpoint(out, filename="best", save_last=True, enable_version_counter=False)
    callbacks: list[Callback] = [best]
    if config.patience and has_validation:
        callbacks.append(EarlyStopping("quality", mode="max", patience=config.patience))
    trainer = lightning.Trainer(
        max_steps=config.steps,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.optimiser.clip or None,
        precision=_precision(config.precision),
        # Without epochs in an endless stream of samples: validation by steps alone.
        val_check_interval=min(config.validate_every, config.steps) * config.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if has_validation else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=min(50, config.steps),
        callbacks=callbacks,
        logger=[CSVLogger(out, name="", version="csv"), TensorBoardLogger(str(out), name="", version="tensorboard")],
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=str(out),
    )
    last = out / "last.ckpt"
    trainer.fit(
        task,
        _training_batches(config, [(source, pairs) for source, pairs, _ in loaded]),
        _validation_batches(config, [held for _, _, held in loaded if held]) if has_validation else None,
        ckpt_path=str(last) if resume and last.exists() else None,
        weights_only=False,
    )
    if best.best_model_path:
        task.load_state_dict(torch.load(best.best_model_path, map_location="cpu", weights_only=False)["state_dict"])
    return task


def _precision(name: str) -> Any:
    if name != "auto":
        return name
    return "bf16-mixed" if torch.cuda.is_available() else "32-true"


def _training_batches(config: TrainingConfig, pairs: list[tuple[Source, Pairs]]) -> DataLoader[Any]:
    samples = TrainingSamples(pairs, config.geometry, config.photometry, config.degradation, config.seed)
    size = config.batch // config.accumulate
    return DataLoader(samples, size, collate_fn=collate, num_workers=config.workers)


def _validation_batches(config: TrainingConfig, held: list[Pairs]) -> list[DataLoader[Any]]:
    sets = [ValidationSamples(pairs, config.validation, config.degradation, config.seed) for pairs in held]
    return [DataLoader(samples, 4, collate_fn=collate) for samples in sets]
