"""Put trained weights of any family into the package, with their card: `python -m pipelines.ship CONFIG RUN`. Copies
weights.safetensors to sn9reg/weights/ and writes into manifest.json what it is, and what was measured with it on
folders that it did not see. Then calibrate a matcher whose weights changed: `python -m pipelines.calibrate --ship`."""

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from pipelines.common import PATH, Command, write
from pipelines.studies.sn9_baseline import detect
from pipelines.studies.uncertainty import match_folder
from pipelines.train import WEIGHTS_FILE, changes_option
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.batch_norm import fused
from sn9reg.matchers.descriptors.network import load_descriptor
from sn9reg.matchers.dual_encoder.network import load_dual_encoder
from sn9reg.raster.folders import data_root, pair_files
from sn9reg.score.benchmark import bench_patches
from sn9reg.training.config import TrainingConfig, as_dict, read
from sn9reg.training.data import Source, load
from sn9reg.training.dense import DenseConfig
from sn9reg.training.descriptors import DescriptorConfig, collate
from sn9reg.training.dual_encoder import DualConfig
from sn9reg.training.keypoints import KeypointConfig
from sn9reg.training.tiles import SceneFiles, scene_files

WEIGHTS = Path(__file__).parent.parent / "sn9reg" / "weights"
# By the folder's name: what it is, and under which licence it may be used. Other folders may not train what ships.
_SIMULATED = "simulated", "cities", "districts", "full", "half", "quarter", "aoi"
_SEN12 = "SEN1-2 sample (Sentinel-1 VV, Sentinel-2): CC BY 4.0, contains modified Copernicus Sentinel data"
LICENCES = dict.fromkeys(_SIMULATED, "simulated by sn9reg: Apache-2.0") | {
    "train": _SEN12,
    "sen12_more": _SEN12,
    "3mos": "3MOS sample (GF3, ALOS, Radarsat, Sentinel-1, optical): Apache-2.0",
    "sentinel_la": "Los Angeles, Sentinel-1 VH and Sentinel-2: contains modified Copernicus Sentinel data",
}
# What a family is measured on, below the data root; the others on sen12/val.
_UNSEEN = {"dense": ("sen12/val", "gf3_1m"), "keypoints": ("scenes/held_out",)}

# How descriptors are measured, whatever they were trained on: places of an image of the folder
_PATCHES: dict[str, Any] = {"places": 16, "apart": 16.0, "corners": 0.6}


@click.command(cls=Command)
@click.argument("config_path", metavar="CONFIG", type=PATH)
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@changes_option
@click.option("--on", multiple=True, help="Folder of pairs or scenes not seen, below the data root. Repeatable.")
@click.option("--matcher", help="Measure a dense network by this matcher [default: the network's own].")
@click.option("--repeated", type=PATH, help="Another run of CONFIG: how much is chance?")
@click.option("--note", default="", help="What else is to be known of this training.")
def main(config_path: Path, run: Path, changes: dict[str, Any], repeated: Path | None, note: str, **how: Any) -> None:
    """Ship the weights in RUN, trained by CONFIG."""
    config, weights = read(config_path, **changes), run / WEIGHTS_FILE
    scenes = config.scenes if isinstance(config, KeypointConfig) else ()
    folders = [Path(name).name for name in (*(source.name for source in config.sources), *scenes)]
    if unknown := sorted(set(folders) - set(LICENCES)):
        raise click.ClickException(f"nothing is known of the licence of {', '.join(unknown)}")
    data = {source.name: f"{source.weight:g} of the pairs" for source in config.sources}
    entry: dict[str, Any] = {
        "file": f"{known_as(config)}.safetensors",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "data": data | dict.fromkeys(scenes, "every tie-point, once an epoch"),
        "licences": list(dict.fromkeys(LICENCES[folder] for folder in folders)),
        "recipe": config_path.name,
        "config": as_dict(config),
        "seed": config.seed,
        "commit": subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip(),
        "measured": measure(weights, config, **how),
    }
    if repeated:
        entry["repeated"] = measure(repeated / WEIGHTS_FILE, config, **how)
    if note:
        entry["note"] = note
    manifest = json.loads((WEIGHTS / "manifest.json").read_text()) | {known_as(config): entry}
    shutil.copyfile(weights, WEIGHTS / entry["file"])
    write(WEIGHTS / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    click.echo(json.dumps(entry["measured"], indent=1))


def known_as(config: TrainingConfig) -> str:
    """The name under which the weights ship."""
    if isinstance(config, DenseConfig):
        return config.network.name
    return f"keypoints-{config.finds}" if isinstance(config, KeypointConfig) else config.family


def measure(weights: Path, config: TrainingConfig, on: tuple[str, ...], matcher: str | None) -> dict[str, Any]:
    """Folder -> what is measured there; without `on`, in those of the family's folders that are there."""
    named = on or [name for name in _UNSEEN.get(config.family, ("sen12/val",)) if (data_root() / name).is_dir()]
    folders = {name: data_root() / name for name in named}
    match config:
        case DenseConfig():
            used = make_matcher(matcher or config.network.name, weights=str(weights))
            result = {name: bench_patches(at, used).as_dict() for name, at in folders.items()}
            return {name: {k: v for k, v in found.items() if k != "ms_per_pair"} for name, found in result.items()}
        case DescriptorConfig():
            return {name: _nearest(weights, config, at) for name, at in folders.items()}
        case DualConfig():
            network = fused(load_dual_encoder(weights))
            rows = {name: match_folder(network, pair_files(at), 0).row() for name, at in folders.items()}
            return {name: {k: round(value, 4) for k, value in row.items()} for name, row in rows.items()}
        case KeypointConfig():
            return dict(_detected(weights, config, scene) for at in folders.values() for scene in scene_files(at))
    raise AssertionError(config)


@torch.no_grad()
def _nearest(weights: Path, config: DescriptorConfig, folder: Path) -> dict[str, Any]:
    """How many patches there are, and the share whose nearest neighbour shows the same place."""
    network, _ = load_descriptor(weights)
    source, config = Source(folder=str(folder.absolute())), replace(config, **_PATCHES)
    patches = collate(config.held_out([(source, load(source, config.seed, config.image)[0])]))
    optical, sar = (torch.cat([network(part) for part in side.split(256)]) for side in patches)
    nearest = (optical @ sar.T).argmax(dim=1)
    found = float((nearest == torch.arange(len(nearest))).double().mean())
    return {"patches": len(nearest), "nearest_is_own": round(found, 3)}


def _detected(weights: Path, config: KeypointConfig, scene: SceneFiles) -> tuple[str, dict[str, Any]]:
    """A scene's name, and how far keypoints lie from the tie-points, and how far the tile's middle does, pixels."""
    found = detect(scene, config.finds, str(weights), Path(config.cache))
    facts = {name: round(fact, digits) for (name, fact), digits in zip(found.facts.items(), (2, 3, 1), strict=True)}
    return scene.optical.parent.name, {"tiles": len(found.errors), **facts}


if __name__ == "__main__":
    main()
