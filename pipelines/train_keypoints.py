"""Train the keypoint detectors from one YAML file.

    python -m pipelines.train_keypoints pipelines/training/keypoints.yaml --finds sar [--resume]
        [--scenes DIR] [--out work/training/keypoints-sar] [--epochs N] [--start-from CHECKPOINT]

Into the folder go checkpoints, metrics (CSV and TensorBoard) and, in the end, `weights.safetensors`, which
`--matcher keypoints --matcher-option sar_weights=FILE` (or optical_weights) takes.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path

import click

from sn9reg.errors import OutputError, Sn9regError
from sn9reg.matchers.keypoints.weights import DetectorOptions, save_detector
from sn9reg.raster.radiometry import Modality
from sn9reg.training.config import read_as
from sn9reg.training.keypoint_config import KeypointConfig
from sn9reg.training.keypoint_run import train_keypoints


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--finds", type=click.Choice(["sar", "optical"]), required=True, help="Whose keypoints it is to find.")
@click.option("--scenes", help="Folder of scenes with tie-points, in place of the file's.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to fill [default: work/training/CONFIG-FINDS].")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("work/tiles"), show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder.")
@click.option("--start-from", type=click.Path(path_type=Path), help="Begin with the weights of the other detector.")
@click.option("--epochs", type=click.IntRange(1), help="In place of the file's; e.g. 1 to try whether it runs.")
def main(
    config_path: Path, finds: str, scenes: str | None, out: Path | None, cache: Path, resume: bool,
    start_from: Path | None, epochs: int | None,
) -> None:  # fmt: skip
    """Train by CONFIG (YAML) and write the weights."""
    modality: Modality = "sar" if finds == "sar" else "optical"
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        config = read_as(config_path, KeypointConfig)
        if epochs is not None:
            config = dataclasses.replace(config, epochs=epochs)
        if scenes is not None:
            config = dataclasses.replace(config, scenes=(scenes,))
        out = out or Path("work/training") / f"{config_path.stem}-{finds}"
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out}: cannot be made ({error.strerror})") from error
        task = train_keypoints(config, modality, out, cache, resume, start_from, sys.stderr.isatty())
        save_detector(out / "weights.safetensors", task.network, DetectorOptions(modality, config.network))
        click.echo(str(out / "weights.safetensors"))
    except Sn9regError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
