"""The rows of the benchmark for `--matcher descriptors`: pairs that are turned, scaled or far apart."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.turned import measure, summary
from pipelines.user import REFUSED, Row, score
from sn9reg.matchers.base import make_matcher

_RUNS = 5  # of which the median time is told


def descriptors(data: Path, work: Path) -> list[Row]:
    """Landmarks of small pairs without georeference, by both descriptors; the time of one pair."""
    rows = []
    sets = [(f"landmarks {n}", data / "landmarks", f"{n}_", f"{n}_landmarks.csv", "<= 4 px") for n in range(1, 5)]
    for name, folder, prefix, points, must in [*sets, ("cfog", data / "cfog", "", "landmarks.csv", "<= 2 px")]:
        if not folder.is_dir():
            continue
        told = {}
        for descriptor in ("learned", "mim"):
            files, out = [folder / f"{prefix}{kind}.png" for kind in ("opt", "sar")], work / "descriptors.tif"
            found, _ = _align(files, out, descriptor)
            told[descriptor] = "refused"
            if found["registered"]:
                error = score(out, files[0], files[1], folder / points, "--pixel-frame")
                told[descriptor] = f"{error['rmse_px']:.2f}"
        what = f"{name}, `--pixel-frame --model affine`, RMSE at the landmarks"
        rows.append(Row(what, must, f"{told['learned']} ({told['mim']} by `mim`)"))
    return [*rows, *times(data / "landmarks", work)]


def turned(data: Path, work: Path) -> list[Row]:
    """SAR images turned and scaled at random."""
    told = summary(measure(data / "gf3_1m", make_matcher("descriptors"), 45.0, 1.25, "affine"))
    return [Row("gf3_1m, SAR turned by up to 45 degrees, scaled by 0.8 to 1.25", ">= 60 %, aim 80 %", told)]


def times(folder: Path, work: Path) -> list[Row]:
    """One 500 x 500 pair: what `--json` says of it, and the whole command with its start."""
    files = [folder / f"1_{kind}.png" for kind in ("opt", "sar")]
    runs = [_align(files, work / "descriptors.tif", "learned") for _ in range(_RUNS)]
    inside = np.median([sum(found["seconds"].values()) for found, _ in runs])
    whole = np.median([seconds for _, seconds in runs])
    return [Row("time, 500 x 500, two cores", "<= 4 s", f"{inside:.1f} s, {whole:.1f} s with the program's start")]


def _align(files: list[Path], out: Path, descriptor: str) -> tuple[dict[str, Any], float]:
    """What `sn9reg align --json` says of a pair, and how long the command took."""
    command = [sys.executable, "-m", "sn9reg", "-q", "align", *map(str, files), "--out", str(out), "--overwrite"]
    command += ["--pixel-frame", "--model", "affine", "--json"]
    command += ["--matcher", "descriptors", "--matcher-option", f"descriptor={descriptor}"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, REFUSED):
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout), time.perf_counter() - start
