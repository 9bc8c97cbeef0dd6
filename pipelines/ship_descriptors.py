"""Put a trained descriptor into the package, with its card.

    python -m pipelines.ship_descriptors pipelines/training/descriptors.yaml work/training/descriptors
        --pairs ../shared/data/sen12/val [--note TEXT]

As `pipelines.ship_weights`; measured by patches of registered pairs that it did not see: how often the nearest SAR
patch among all is an optical patch's own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
import torch

from pipelines.ship_weights import LICENCES, WEIGHTS, WEIGHTS_FILE, head_commit, sha256_of
from sn9reg.training.config import as_dict, read_as
from sn9reg.training.dataset import Source, load
from sn9reg.training.descriptor_config import DescriptorConfig
from sn9reg.training.descriptor_data import HeldOut, collate
from sn9reg.weights.store import load_descriptor

_SIMULATED = ("full", "half", "quarter")


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(exists=True, path_type=Path))
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--pairs", type=click.Path(exists=True, path_type=Path), required=True, help="Registered, not seen.")
@click.option("--note", default="", help="What else is to be known of this training.")
def main(config_path: Path, run: Path, pairs: Path, note: str) -> None:
    """Ship the descriptor in RUN, trained by CONFIG."""
    config = read_as(config_path, DescriptorConfig)
    manifest = json.loads((WEIGHTS / "manifest.json").read_text())
    card = describe(config, config_path, run / WEIGHTS_FILE, measure(run / WEIGHTS_FILE, config, pairs))
    if note:
        card["note"] = note
    manifest["descriptors"] = card
    shutil.copyfile(run / WEIGHTS_FILE, WEIGHTS / card["file"])
    (WEIGHTS / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    click.echo(json.dumps(card["measured"], indent=1))


@torch.no_grad()
def measure(weights: Path, config: DescriptorConfig, pairs: Path) -> dict[str, Any]:
    """How many patches there are, and the share whose nearest neighbour is their own."""
    network, _ = load_descriptor(weights)
    source = Source(folder=str(pairs))
    patches = collate(list(HeldOut(config, [(source, load(source, config.seed, config.image)[0])]).samples))
    optical, sar = (torch.cat([network(part) for part in side.split(256)]) for side in patches)
    nearest = (optical @ sar.T).argmax(dim=1)
    found = float((nearest == torch.arange(len(nearest))).double().mean())
    return {pairs.name: {"patches": len(nearest), "nearest_is_own": round(found, 3)}}


def describe(config: DescriptorConfig, recipe: Path, weights: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of the descriptor."""
    folders = [Path(source.name).name for source in config.sources]
    kinds = ["simulated" if folder in _SIMULATED else folder for folder in folders]
    if unknown := sorted(set(kinds) - set(LICENCES)):
        raise click.ClickException(f"nothing is known of the licence of {', '.join(unknown)}")
    return {
        "file": "descriptors.safetensors",
        "sha256": sha256_of(weights),
        "data": {source.name: f"{source.weight:g} of the pairs" for source in config.sources},
        "licences": [LICENCES[kind] for kind in dict.fromkeys(kinds)],
        "recipe": recipe.name,
        "config": as_dict(config),
        "seed": config.seed,
        "commit": head_commit(),
        "measured": measured,
    }


if __name__ == "__main__":
    main()
