"""Put a trained descriptor into the package, with its card.

    python -m pipelines.ship_descriptors pipelines/training/descriptors.yaml work/training/descriptors
        --pairs ../shared/data/sen12/val [--note TEXT]

As `pipelines.ship_weights`; measured by patches of registered pairs that it did not see: how often the nearest SAR
patch among all is an optical patch's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch

from pipelines.ship_weights import WEIGHTS_FILE, ship, sources_card
from sn9reg.matchers.descriptors.weights import load_descriptor
from sn9reg.training.config import read_as
from sn9reg.training.dataset import Source, load
from sn9reg.training.descriptor_config import DescriptorConfig
from sn9reg.training.descriptor_data import HeldOut, collate


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(exists=True, path_type=Path))
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--pairs", type=click.Path(exists=True, path_type=Path), required=True, help="Registered, not seen.")
@click.option("--note", default="", help="What else is to be known of this training.")
def main(config_path: Path, run: Path, pairs: Path, note: str) -> None:
    """Ship the descriptor in RUN, trained by CONFIG."""
    config = read_as(config_path, DescriptorConfig)
    measured = measure(run / WEIGHTS_FILE, config, pairs)
    entry = sources_card("descriptors", config, config_path, run / WEIGHTS_FILE, measured)
    ship("descriptors", entry | ({"note": note} if note else {}), run / WEIGHTS_FILE)
    click.echo(json.dumps(measured, indent=1))


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


if __name__ == "__main__":
    main()
