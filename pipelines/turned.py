"""Register small pairs whose SAR image was turned and scaled, and count how many come out right. Each SAR image is
turned about its middle by a random angle within +-turn and scaled by a random factor from 1 / zoom to zoom, in a frame
of its size. Right is an offset map that is off by at most 5 px in the mean over what both images show."""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import numpy as np

from pipelines.common import PATH, Command
from sn9reg.cli.options import matcher_options
from sn9reg.features.pose import POSES
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.base import Matcher, make_matcher
from sn9reg.raster.folders import pair_files
from sn9reg.raster.scene import Patch
from sn9reg.registration import register
from sn9reg.score.benchmark import save_pair

RIGHT = 5.0  # pixels


class Turned(NamedTuple):
    name: str  # of the pair
    turn: float  # of the SAR image, degrees
    zoom: float  # of the SAR image
    error: float | None  # mean over the optical image, pixels; None where the pair was not registered
    probability: float  # that it is registered, as the verdict has it
    seconds: float  # that its registration took


@click.command(cls=Command)
@click.argument("folder", type=PATH)
@click.option("--turn", default=45.0, show_default=True, help="Largest angle, degrees.")
@click.option("--zoom", default=1.25, show_default=True, help="Largest scale, and its inverse the smallest.")
@click.option("--matcher", "name", default=DEFAULT_MATCHER, show_default=True)
@matcher_options
@click.option("--model", default="affine", show_default=True)
@click.option("--pose", type=click.Choice(POSES), default="auto", show_default=True)
@click.option("--limit", type=click.IntRange(1), help="At most so many pairs, spread over the folder.")
@click.option("--seed", default=0, show_default=True)
@click.option("--others", is_flag=True, help="Pairs that do not belong together.")
@click.option("--json", "as_json", is_flag=True)
def main(folder: Path, name: str, matcher_options: dict[str, Any], as_json: bool, **settings: Any) -> None:
    """Measure and print."""
    found = list(measure(folder, make_matcher(name, **matcher_options), **settings))
    click.echo(json.dumps([one._asdict() for one in found]) if as_json else summary(found))


def measure(
    folder: Path, matcher: Matcher, turn: float, zoom: float, model: str, limit: int | None = None, seed: int = 0,
    others: bool = False, pose: str = "auto",
) -> Iterator[Turned]:  # fmt: skip
    """All pairs of a folder, or `limit` of them; others: with the SAR image of another one. InputError for no pairs."""
    pairs = pair_files(folder)
    for files in pair_files(folder, limit):
        i = pairs.index(files)
        random = np.random.default_rng([seed, i])
        angle, scale = random.uniform(-turn, turn), zoom ** random.uniform(-1, 1)
        if others:
            files = replace(files, sar=pairs[(i + len(pairs) // 2) % len(pairs)].sar, mask=None)
        optical, sar = files.read()
        size = sar.valid.shape[::-1]
        last = np.array(size) - 1
        matrix = cv2.getRotationMatrix2D(tuple((last / 2).tolist()), -angle, scale)  # where a place goes
        given = [*(sar.values * sar.valid), sar.valid.astype(np.float32)]
        *bands, share = (cv2.warpAffine(band, matrix, size, flags=cv2.INTER_LINEAR) for band in given)
        valid = share > 0.5
        turned = Patch(np.where(valid, np.stack(bands) / np.maximum(share, 0.5), 0).astype(np.float32), valid)
        with tempfile.TemporaryDirectory() as scratch:
            saved = save_pair(Path(scratch, "pair"), optical, turned)
            start = time.perf_counter()
            found = register(**vars(saved), matcher=matcher, model=model, pose=pose)
            seconds = time.perf_counter() - start
        error = None
        if found.registered:
            at = np.stack(np.meshgrid(*(np.arange(8.0, side, 16) for side in size)), -1).reshape(-1, 2)
            truth = at @ matrix[:, :2].T + matrix[:, 2]
            seen = ((truth >= 0) & (truth <= last)).all(axis=1)
            there = found.grid.to_pixel(found.warp(found.grid.to_map(at[seen])))
            error = round(float(np.hypot(*(there - truth[seen]).T).mean()), 3)
        sure = round(found.verdict.probability, 4)
        yield Turned(files.name, round(angle, 2), round(scale, 3), error, sure, round(seconds, 2))


def summary(found: list[Turned]) -> str:
    errors = np.array([one.error for one in found if one.error is not None])
    right = int((errors <= RIGHT).sum())
    text = f"{right} of {len(found)} registered within {RIGHT:g} px ({right / len(found):.0%})"
    text += f"; {len(found) - len(errors)} refused"
    if len(errors):
        text += f", {len(errors) - right} wrong; median error {np.median(errors):.2f} px"
    if refused := [one.probability for one in found if one.error is None]:
        text += f"; refused with probabilities of {max(refused):.0%} at most"
    return text + f"; {np.median([one.seconds for one in found]):.1f} s a pair"


if __name__ == "__main__":
    main()
