"""The two phases of the dual encoder's training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning
from torch.utils.data import DataLoader

from sn9reg.errors import InputError
from sn9reg.raster.files import PathLike
from sn9reg.training.dataset import load
from sn9reg.training.dual_config import DualConfig
from sn9reg.training.dual_data import DualSamples, HeldOutCrops, collate
from sn9reg.training.dual_task import DualTask
from sn9reg.training.loop import Loop, fit, steps_done
from sn9reg.training.run import read_checkpoint

_PHASES = ("pretraining", "finetuning")
_OPTIONAL = ("network.maps.", "network.fusion.")


def train_dual(
    config: DualConfig, out: PathLike, resume: bool = False, progress: bool = True, pretrained: PathLike | None = None
) -> DualTask:
    """Pre-train, fine-tune, and return the task with the best weights of the fine-tuning.

    Into `out`/pretraining and `out`/finetuning go checkpoints and metrics, as in `loop.fit`. resume: go on from the
    last checkpoints. pretrained: a checkpoint of a pre-training to begin with in place of one's own.
    Raises InputError for data or checkpoints that cannot be used, ConfigError for options that make no sense.
    """
    out = Path(out)
    loaded = [(source, *load(source, config.seed, config.geometry.optical)) for source in config.sources]
    held_out = HeldOutCrops(config, [(source, held) for source, _, held in loaded])
    checks = DataLoader(held_out, 8, collate_fn=collate) if len(held_out) else None
    before: Path | None = Path(pretrained) if pretrained else None
    task = DualTask(config, "finetuning")
    for number, name in enumerate(_PHASES):
        phase = getattr(config, name)
        if not phase.steps or (name == "pretraining" and pretrained):
            continue
        lightning.seed_everything(config.seed + number, verbose=False)
        task = DualTask(config, name)  # type: ignore[arg-type]
        if before is not None:
            _begin_with(task, before)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        done = steps_done(folder) if resume else 0
        if done < phase.steps:
            # Neither the other phase nor a resumed run is to see the same samples again.
            seed = config.seed + 7919 * number + done
            # What is turned by quarters already has no rotation to be predicted.
            geometry = replace(config.geometry, quarters=name == "finetuning")
            samples = DualSamples(
                replace(config, geometry=geometry), [(source, pairs) for source, pairs, _ in loaded], seed
            )
            batches = DataLoader(samples, phase.batch, collate_fn=collate, num_workers=config.workers)
            loop = Loop(
                phase.steps, phase.validate_every, "matched", config.precision, phase.accumulate, phase.patience
            )
            fit(task, batches, checks, loop, folder, resume, progress)
        best = checks is not None and (folder / "best.ckpt").exists()
        before = folder / ("best.ckpt" if best else "last.ckpt")
    if before is not None:
        _begin_with(task, before, optional=())
    return task


def _begin_with(task: DualTask, checkpoint: Path, optional: tuple[str, ...] = _OPTIONAL) -> None:
    """Take over a checkpoint's weights. A pre-training may have been without modules for uncertainty, or with them; all
    but what is `optional` must fit. Raises InputError where it does not."""
    state, own = read_checkpoint(checkpoint)["state_dict"], task.state_dict()
    apart = {key for key in own.keys() ^ state.keys() if not key.startswith(optional)}
    try:
        if apart:
            raise RuntimeError(f"it differs in {', '.join(sorted(apart)[:3])}")
        task.load_state_dict(own | {key: value for key, value in state.items() if key in own})
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(f"{checkpoint}: is a checkpoint of another network ({first})") from error
