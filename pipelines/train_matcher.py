"""Train a dense matcher from one YAML file.

    python -m pipelines.train_matcher pipelines/training/slim-unet.yaml [--out work/training/slim-unet]
        [--resume] [--steps N] [--seed N]

Into the folder go checkpoints, metrics (CSV and TensorBoard) and, in the end, `weights.safetensors`, which any
`--matcher NAME --matcher-option weights=FILE` takes. Stopped runs go on with --resume.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path

import click

from sn9reg.errors import Sn9regError
from sn9reg.matchers.dense.networks.branches import Branches
from sn9reg.matchers.dense.weights import DenseOptions, save_dense
from sn9reg.training.config import TrainingConfig, read_config
from sn9reg.training.run import train


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to fill [default: work/training/CONFIG].")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder.")
@click.option("--steps", type=click.IntRange(1), help="In place of the file's; e.g. 2 to try whether it runs.")
@click.option("--seed", type=click.IntRange(0), help="In place of the file's; to see how much is chance.")
def main(config_path: Path, out: Path | None, resume: bool, steps: int | None, seed: int | None) -> None:
    """Train by CONFIG (YAML) and write the weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        config = read_config(config_path)
        if steps is not None:
            config = dataclasses.replace(config, steps=steps)
        if seed is not None:
            config = dataclasses.replace(config, seed=seed)
        out = out or Path("work/training") / config_path.stem
        out.mkdir(parents=True, exist_ok=True)
        run(config, out, resume)
    except Sn9regError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


def run(config: TrainingConfig, out: Path, resume: bool = False) -> Path:
    """Train into a folder; the weights file that came out."""
    task = train(config, out, resume, progress=sys.stderr.isatty())
    network = task.kept()
    assert isinstance(network, Branches)
    saved = DenseOptions(config.network.name, config.shared, task.loss.similarity, config.network.options)
    save_dense(out / "weights.safetensors", network, saved)
    click.echo(str(out / "weights.safetensors"))
    return out / "weights.safetensors"


if __name__ == "__main__":
    main()
