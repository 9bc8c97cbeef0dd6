"""Put trained weights into the package, with their card.

    python -m pipelines.ship_weights CONFIG.yaml work/training/CONFIG [--matcher hybrid] [--repeated RUN]

Copies weights.safetensors to sn9reg/weights/ and writes into manifest.json what it is: checksum, data and licences,
recipe, seed, the commit at that time, and correct match rates measured with it on folders that it did not see.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click

from sn9reg.matchers.base import make_matcher
from sn9reg.score.benchmark import bench_patches
from sn9reg.training.config import TrainingConfig, as_dict, read_config

_SIMULATED = ("full", "half", "quarter")  # folders of simulated scenes
WEIGHTS_FILE = "weights.safetensors"  # in a run's folder
WEIGHTS = Path(__file__).parent.parent / "sn9reg" / "weights"
# By the folder's name: what it is, and under which licence it may be used. Other folders may not train what ships.
LICENCES = {
    "train": "SEN1-2 sample (Sentinel-1 VV, Sentinel-2): CC BY 4.0, contains modified Copernicus Sentinel data",
    "3mos": "3MOS sample (GF3, ALOS, Radarsat, Sentinel-1, optical): Apache-2.0",
    "sentinel_la": "Los Angeles, Sentinel-1 VH and Sentinel-2: contains modified Copernicus Sentinel data",
    "simulated": "simulated by sn9reg: Apache-2.0",
}


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(exists=True, path_type=Path))
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--matcher", help="Measure by this matcher [default: the network's own].")
@click.option("--repeated", type=click.Path(path_type=Path), help="Another run of CONFIG: how much is chance?")
@click.option("--note", default="", help="What else is to be known of this training.")
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
def main(config_path: Path, run: Path, matcher: str | None, repeated: Path | None, note: str, data: Path) -> None:
    """Ship the weights in RUN, trained by CONFIG."""
    config = read_config(config_path)
    name = config.network.name
    source, target = run / WEIGHTS_FILE, WEIGHTS / f"{name}.safetensors"
    measured = measure(source, matcher or name, data)
    manifest = json.loads((WEIGHTS / "manifest.json").read_text())
    manifest[name] = card(config, source, target.name, config_path, measured)
    if repeated:
        manifest[name]["repeated"] = measure(repeated / WEIGHTS_FILE, matcher or name, data)
    if note:
        manifest[name]["note"] = note
    shutil.copyfile(source, target)
    (WEIGHTS / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    click.echo(json.dumps(manifest[name], indent=1))


def measure(weights: Path, matcher: str, data: Path) -> dict[str, Any]:
    """Correct match rates by the folders that are there."""
    measured = {
        folder: bench_patches(data / folder, make_matcher(matcher, weights=str(weights))).as_dict()
        for folder in ("sen12/val", "gf3_1m")
        if (data / folder).is_dir()
    }
    for result in measured.values():
        del result["ms_per_pair"]  # of this machine, not of the weights
    return measured


def card(config: TrainingConfig, source: Path, file: str, recipe: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of one network's weights."""
    folders = [Path(s.name).name for s in config.sources]
    if unknown := sorted(set(folders) - set(LICENCES)):
        raise click.ClickException(f"nothing is known of the licence of {', '.join(unknown)}")
    return {
        "file": file,
        "sha256": sha256_of(source),
        "data": {folder: f"{s.weight:g} of the samples" for folder, s in zip(folders, config.sources, strict=True)},
        "licences": [LICENCES[folder] for folder in folders],
        "recipe": recipe.name,
        "config": as_dict(config),
        "seed": config.seed,
        "commit": head_commit(),
        "measured": measured,
    }


def sha256_of(path: Path) -> str:
    """A file's checksum."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def head_commit() -> str:
    """The commit at this time."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def sources_card(name: str, config: Any, recipe: Path, weights: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of weights that were trained on `config.sources`."""
    folders = [Path(source.name).name for source in config.sources]
    kinds = ["simulated" if folder in _SIMULATED else folder for folder in folders]
    if unknown := sorted(set(kinds) - set(LICENCES)):
        raise click.ClickException(f"nothing is known of the licence of {', '.join(unknown)}")
    return {
        "file": f"{name}.safetensors",
        "sha256": sha256_of(weights),
        "data": {source.name: f"{source.weight:g} of the pairs" for source in config.sources},
        "licences": [LICENCES[kind] for kind in dict.fromkeys(kinds)],
        "recipe": recipe.name,
        "config": as_dict(config),
        "seed": config.seed,
        "commit": head_commit(),
        "measured": measured,
    }


def ship(name: str, entry: dict[str, Any], weights: Path) -> None:
    """Put weights and their card into the package."""
    manifest = json.loads((WEIGHTS / "manifest.json").read_text())
    manifest[name] = entry
    shutil.copyfile(weights, WEIGHTS / entry["file"])
    (WEIGHTS / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
