"""One training run of a keypoint detector."""

from __future__ import annotations

from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from sn9reg.errors import InputError
from sn9reg.raster.files import PathLike
from sn9reg.raster.radiometry import Modality
from sn9reg.training.keypoint_config import KeypointConfig
from sn9reg.training.keypoint_data import KeypointData
from sn9reg.training.keypoint_task import KeypointTask
from sn9reg.training.run import precision, read_checkpoint


def train_keypoints(
    config: KeypointConfig,
    finds: Modality,
    out: PathLike,
    cache: PathLike,
    resume: bool = False,
    start_from: PathLike | None = None,
    progress: bool = True,
) -> KeypointTask:
    """Train the detector that finds `finds` keypoints; the task with the best weights.

    Into `out` go last.ckpt, best.ckpt where tiles are held out, and the metrics, as in `run.train`. cache: folder for
    the tiles. resume: go on from last.ckpt. start_from: a checkpoint of the other detector, whose weights this one
    begins with.
    Raises InputError for data or a checkpoint that cannot be used, ConfigError for options that make no sense.
    """
    out = Path(out)
    lightning.seed_everything(config.seed, verbose=False)
    task = KeypointTask(KeypointData(config, finds, cache))
    if start_from is not None:
        _begin_with(task, Path(start_from))
    last = out / "last.ckpt" if resume and (out / "last.ckpt").exists() else None
    done = read_checkpoint(last)["epoch"] + 1 if last else 0
    last_one = ModelCheckpoint(out, filename="last", every_n_epochs=1, enable_version_counter=False)
    best = ModelCheckpoint(out, filename="best", monitor="error", mode="min", enable_version_counter=False)
    callbacks: list[Callback] = [last_one, best] if task.data.held_out else [last_one]
    trainer = lightning.Trainer(
        max_epochs=config.epochs,
        precision=precision(config.precision),
        reload_dataloaders_every_n_epochs=1,  # each epoch has samples of its own
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        callbacks=callbacks,
        logger=[
            CSVLogger(out, name="", version=f"csv-{done}" if done else "csv"),
            TensorBoardLogger(str(out), name="", version="tensorboard"),
        ],
        enable_progress_bar=progress,
        enable_model_summary=False,
        default_root_dir=str(out),
    )
    trainer.fit(task, ckpt_path=str(last) if last else None, weights_only=True)
    if best.best_model_path:
        task.load_state_dict(read_checkpoint(Path(best.best_model_path))["state_dict"])
    return task


def _begin_with(task: KeypointTask, path: Path) -> None:
    try:
        task.load_state_dict(read_checkpoint(path)["state_dict"])
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{path}: is no checkpoint of a detector with these encoders ({first})") from error
