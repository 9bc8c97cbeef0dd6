"""Put trained keypoint detectors into the package, with their cards.

    python -m pipelines.ship_keypoints CONFIG.yaml work/training/keypoints-sar work/training/keypoints-optical
        --scenes work/held_out [--note TEXT]

As `pipelines.ship_weights`, for both detectors; measured by the tiles of scenes that they did not see.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipelines.ship_weights import LICENCES, WEIGHTS, WEIGHTS_FILE, head_commit, sha256_of
from pipelines.sn9_figures import detect
from sn9reg.raster.radiometry import Modality
from sn9reg.training.config import as_dict, read_as
from sn9reg.training.keypoint_config import KeypointConfig
from sn9reg.training.tiles import scene_files


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(exists=True, path_type=Path))
@click.argument("sar_run", type=click.Path(exists=True, path_type=Path))
@click.argument("optical_run", type=click.Path(exists=True, path_type=Path))
@click.option("--scenes", type=click.Path(exists=True, path_type=Path), required=True, help="Scenes not seen.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("work/tiles"), show_default=True)
@click.option("--note", default="", help="What else is to be known of this training.")
def main(config_path: Path, sar_run: Path, optical_run: Path, scenes: Path, cache: Path, note: str) -> None:
    """Ship the detectors in SAR_RUN and OPTICAL_RUN, trained by CONFIG."""
    config = read_as(config_path, KeypointConfig)
    manifest = json.loads((WEIGHTS / "manifest.json").read_text())
    runs: dict[Modality, Path] = {"sar": sar_run, "optical": optical_run}
    for finds, run in runs.items():
        name, source = f"keypoints-{finds}", run / WEIGHTS_FILE
        manifest[name] = card(config, config_path, source, f"{name}.safetensors", measure(source, finds, scenes, cache))
        if note:
            manifest[name]["note"] = note
        shutil.copyfile(source, WEIGHTS / f"{name}.safetensors")
        click.echo(json.dumps(manifest[name]["measured"], indent=1))
    (WEIGHTS / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def measure(weights: Path, finds: Modality, scenes: Path, cache: Path) -> dict[str, Any]:
    """Scene -> how far keypoints lie from the tie-points, and how far the tile's middle does, pixels."""
    measured = {}
    for scene in scene_files(scenes):
        found = detect(scene, finds, str(weights), cache)
        measured[scene.optical.parent.name] = {
            "tiles": len(found.errors),
            "median_error_px": round(float(np.median(found.errors)), 2),
            "within_13_px": round(float((found.errors <= 13).mean()), 3),
            "median_guess_px": round(float(np.median(found.guesses)), 1),
        }
    return measured


def card(config: KeypointConfig, recipe: Path, source: Path, file: str, measured: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of one detector's weights."""
    folders = [Path(s.name).name for s in config.pairs]
    known = {"full": "simulated", "half": "simulated", "quarter": "simulated"}
    kinds = [known.get(folder, folder) for folder in folders] + ["simulated"] * bool(config.scenes)
    if unknown := sorted(set(kinds) - set(LICENCES)):
        raise click.ClickException(f"nothing is known of the licence of {', '.join(unknown)}")
    data = {s.name: f"{s.weight:g} of the registered pairs" for s in config.pairs}
    data |= {folder: "every tie-point, once an epoch" for folder in config.scenes}
    return {
        "file": file,
        "sha256": sha256_of(source),
        "data": data,
        "licences": [LICENCES[kind] for kind in dict.fromkeys(kinds)],
        "recipe": recipe.name,
        "config": as_dict(config),
        "seed": config.seed,
        "commit": head_commit(),
        "measured": measured,
    }


if __name__ == "__main__":
    main()
