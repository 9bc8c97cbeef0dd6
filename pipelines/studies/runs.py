"""What the studies share: a network that is trained once, and a measurement in a process of its own."""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click

from pipelines.common import make_folder, write
from pipelines.train import WEIGHTS_FILE, run
from sn9reg.training.config import TrainingConfig, as_dict


def trained(config: TrainingConfig, folder: Path) -> Path:
    """The weights file in `folder`, trained by `config` unless it is there already.

    A stopped training goes on if it was one by the same configuration. `training.json` in the folder holds the
    configuration and the seconds that it took. Raises OutputError where the folder cannot be made.
    """
    weights, asked = folder / WEIGHTS_FILE, json.loads(json.dumps(as_dict(config)))
    known = noted(folder)
    known.pop("seconds", None)
    if weights.exists():
        if known != asked:
            click.echo(f"{weights}: kept, though not by this configuration; remove it to train anew", err=True)
        return weights
    make_folder(folder)
    write(folder / "training.json", json.dumps(asked))
    start = time.perf_counter()
    run(config, folder, resume=known == asked, progress=sys.stderr.isatty())
    write(folder / "training.json", json.dumps(asked | {"seconds": round(time.perf_counter() - start)}))
    return weights


def noted(folder: Path) -> dict[str, Any]:
    """The content of training.json; nothing where there is none."""
    note = folder / "training.json"
    found: dict[str, Any] = json.loads(note.read_text()) if note.is_file() else {}
    return found


def apart(measure: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What a function returns in a process of its own, so that its peak of memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()
