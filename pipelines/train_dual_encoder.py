"""Train the dual encoder from one YAML file.

    python -m pipelines.train_dual_encoder pipelines/training/dual-encoder.yaml [--out work/training/dual-encoder]
        [--resume] [--steps N] [--seed N]

Into the folder go checkpoints and metrics of both phases (CSV and TensorBoard) and, in the end, `weights.safetensors`,
which `--matcher dual-encoder --matcher-option weights=FILE` takes. Stopped runs go on with --resume.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path

import click

from sn9reg.errors import OutputError, Sn9regError
from sn9reg.matchers.dual_encoder.weights import DualOptions, save_dual_encoder
from sn9reg.training.config import read_as
from sn9reg.training.dual_config import DualConfig
from sn9reg.training.dual_run import train_dual


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to fill [default: work/training/CONFIG].")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoints in the folder.")
@click.option("--steps", type=click.IntRange(1), help="Of each phase, in place of the file's; e.g. 2 for a trial.")
@click.option("--seed", type=click.IntRange(0), help="In place of the file's; to see how much is chance.")
def main(config_path: Path, out: Path | None, resume: bool, steps: int | None, seed: int | None) -> None:
    """Train by CONFIG (YAML) and write the weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        config = read_as(config_path, DualConfig)
        if steps is not None:
            phases = {name: getattr(config, name) for name in _PHASES}
            fewer = {name: dataclasses.replace(phase, steps=steps) for name, phase in phases.items() if phase.steps}
            config = dataclasses.replace(config, **fewer)
        if seed is not None:
            config = dataclasses.replace(config, seed=seed)
        out = out or Path("work/training") / config_path.stem
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out}: cannot be made ({error.strerror})") from error
        task = train_dual(config, out, resume, progress=sys.stderr.isatty())
        weights = out / "weights.safetensors"
        save_dual_encoder(weights, task.network, DualOptions(config.aleatoric, config.dropout, config.structure))
        click.echo(str(weights))
    except Sn9regError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


_PHASES = ("pretraining", "finetuning")


if __name__ == "__main__":
    main()
