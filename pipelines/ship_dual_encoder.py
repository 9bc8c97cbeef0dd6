"""Put a trained dual encoder into the package, with its card.

    python -m pipelines.ship_dual_encoder pipelines/training/dual-encoder.yaml work/training/dual-encoder
        --pairs ../shared/data/sen12/val [--note TEXT]

As `pipelines.ship_weights`; measured as `pipelines.uncertainty` does, by matching every cell with every other. Then
calibrate the matcher: `python -m pipelines.calibrate --matcher dual-encoder --ship`.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from pipelines.ship_weights import WEIGHTS_FILE, ship, sources_card
from pipelines.uncertainty import match_folder
from sn9reg.matchers.dual_encoder.weights import load_dual_encoder
from sn9reg.matchers.fused import fused
from sn9reg.raster.folders import pair_files
from sn9reg.training.config import read_as
from sn9reg.training.dual_config import DualConfig


@click.command()
@click.argument("config_path", metavar="CONFIG", type=click.Path(exists=True, path_type=Path))
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--pairs", type=click.Path(exists=True, path_type=Path), required=True, help="Registered, not seen.")
@click.option("--note", default="", help="What else is to be known of this training.")
def main(config_path: Path, run: Path, pairs: Path, note: str) -> None:
    """Ship the dual encoder in RUN, trained by CONFIG."""
    config = read_as(config_path, DualConfig)
    found = match_folder(fused(load_dual_encoder(run / WEIGHTS_FILE)), pair_files(pairs), 0).row()
    measured = {pairs.name: {name: round(value, 4) for name, value in found.items()}}
    entry = sources_card("dual-encoder", config, config_path, run / WEIGHTS_FILE, measured)
    ship("dual-encoder", entry | ({"note": note} if note else {}), run / WEIGHTS_FILE)
    click.echo(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
