"""Train a matcher of any family from one YAML file: `python -m pipelines.train pipelines/training/slim-unet.yaml`. Into
the folder go checkpoints, metrics (CSV and TensorBoard) and, in the end, `weights.safetensors`, which `--matcher NAME
--matcher-option weights=FILE` takes (keypoints: sar_weights or optical_weights)."""

import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import click
import yaml

from pipelines.common import PATH, Command, write
from sn9reg.cli.options import repeated
from sn9reg.errors import ConfigError
from sn9reg.raster.files import make_folder
from sn9reg.training.config import TrainingConfig, as_dict, read
from sn9reg.training.loop import train
from sn9reg.weights.store import save

WEIGHTS_FILE = "weights.safetensors"  # in a training's folder


def parsed(changes: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE texts as values, which are read as YAML. Raises ConfigError for what is none."""
    values = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not name or not equals:
            raise ConfigError(f"--set {change}: write NAME=VALUE")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {change}: its value is not YAML") from error
    return values


changes_option = repeated("--set", "changes", "NAME=VALUE", parsed, "In place of the file's: optimiser.rate=0.01")


@click.command(cls=Command)
@click.argument("config_path", metavar="CONFIG", type=PATH)
@click.option("--out", type=PATH, help="Folder to fill [default: work/training/CONFIG].")
@changes_option
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the folder.")
@click.option("--start-from", type=PATH, help="A checkpoint to begin with.")
def main(config_path: Path, out: Path | None, changes: dict[str, Any], resume: bool, start_from: Path | None) -> None:
    """Train by CONFIG (YAML) and write the weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = read(config_path, **changes)
    finds = getattr(config, "finds", None)
    out = out or Path("work/training") / (f"{config_path.stem}-{finds}" if finds else config_path.stem)
    click.echo(str(run(config, out, resume, start_from)))


def run(config: TrainingConfig, out: Path, resume: bool = False, start_from: Path | None = None) -> Path:
    """Train into a folder; the weights file that came out. Raises as `loop.train`, and OutputError for the folder."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    make_folder(out)
    task = train(config, out, resume=resume, start_from=start_from, progress=sys.stderr.isatty())
    save(out / WEIGHTS_FILE, task.network, task.kind, dataclasses.asdict(task.architecture))
    return out / WEIGHTS_FILE


def trained(config: TrainingConfig, folder: Path) -> Path:
    """The weights file in `folder`, trained by `config` unless it is there; a stopped training by the same goes on.
    `training.json` holds the configuration and the seconds taken. Raises OutputError where no folder can be made."""
    weights, asked = folder / WEIGHTS_FILE, json.loads(json.dumps(as_dict(config)))
    known = {name: value for name, value in noted(folder).items() if name != "seconds"}
    if weights.exists():
        if known != asked:
            click.echo(f"{weights}: kept, though not by this configuration; remove it to train anew", err=True)
        return weights
    make_folder(folder)
    write(folder / "training.json", json.dumps(asked))
    start = time.perf_counter()
    run(config, folder, resume=known == asked)
    write(folder / "training.json", json.dumps(asked | {"seconds": round(time.perf_counter() - start)}))
    return weights


def noted(folder: Path) -> Any:
    """The content of training.json; nothing where there is none."""
    note = folder / "training.json"
    return json.loads(note.read_text()) if note.is_file() else {}


if __name__ == "__main__":
    main()
