"""One training run of a descriptor."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import lightning
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.files import PathLike
from sn9reg.training.dataset import load
from sn9reg.training.descriptor_config import DescriptorConfig
from sn9reg.training.descriptor_data import DescriptorSamples, HeldOut, PatchPairs, collate
from sn9reg.training.descriptor_task import DescriptorTask
from sn9reg.training.loop import Loop, fit, steps_done

_FIRST = 80  # batches by which the layout of a patch is learned before the training


def train_descriptor(
    config: DescriptorConfig, out: PathLike, resume: bool = False, progress: bool = True
) -> DescriptorTask:
    """Train, and return the task with the best weights, or the last where no pairs are held out.

    Into `out` go last.ckpt, best.ckpt where pairs are held out, and the metrics, as in `run.train`. resume: go on from
    last.ckpt, if there is one.
    Raises InputError for data or weights that cannot be read, ConfigError for options that make no sense and for a loss
    that is no number.
    """
    out = Path(out)
    lightning.seed_everything(config.seed, verbose=False)
    task = DescriptorTask(config)
    if config.imagenet is not None:
        state = _state(Path(config.imagenet))
        try:
            task.network.start_from(state)
        except ConfigError as error:
            raise InputError(f"{config.imagenet}: {error}") from error
    loaded = [(source, *load(source, config.seed, config.image)) for source in config.sources]
    held_out = HeldOut(config, [(source, held) for source, _, held in loaded])
    done = steps_done(out) if resume else 0
    # A resumed run must not see the first run's samples again.
    samples = DescriptorSamples(config, [(source, pairs) for source, pairs, _ in loaded], config.seed + done)
    batches = DataLoader(samples, config.batch // config.places, collate_fn=collate, num_workers=config.workers)
    checks = DataLoader(held_out, max(1, 256 // config.places), collate_fn=collate) if len(held_out) else None
    if task.network.cells and not done:
        _fit_layout(task, batches)
    loop = Loop(config.steps, config.validate_every, "found", config.precision)
    fit(task, batches, checks, loop, out, resume, progress)
    return task


def _fit_layout(task: DescriptorTask, batches: DataLoader[PatchPairs]) -> None:
    means = [[task.network.cell_means(patches) for patches in batch] for batch in islice(batches, _FIRST)]
    task.network.fit_layout(*(torch.cat(part) for part in zip(*means, strict=True)))


def _state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is no whole safetensors file ({error})") from error
