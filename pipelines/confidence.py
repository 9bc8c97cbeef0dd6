"""Does the confidence mean what it says? Checked on pairs that no calibration was fitted to: each pair of the folders
with its SAR image displaced by up to 20 px, as many as asked for that do not belong together, and simulated scenes of
other seeds. Further parts: frames, shared, mirrored and lattice of `hostile_pairs`; small-scenes, of 200 to 500 px, in
which the displacement varies. Prints, per set and for all, how well the matches' probabilities are calibrated, how
predicted and true errors go together (39 and 86 % of normal deviations in the plane lie within one and two sigma), and
what the verdict and its expected error were worth."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from scipy.stats import spearmanr

from pipelines import hostile_pairs
from pipelines.calibrate import RIGHT, Case, displaced, known_places, scene_cases, small_cases
from pipelines.common import DATA, Command, out_option, write
from sn9reg.fit.correspondences import Floats
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.base import Matcher, make_matcher
from sn9reg.raster.files import make_folder
from sn9reg.raster.folders import pair_files
from sn9reg.registration import register
from sn9reg.score.metrics import ece, mma

# Part -> seeds, sizes, looks and kinds of its scenes.
SCENES = {
    "scenes": [(1001 + k, (1200, 1000), 2 ** (k % 4), "village") for k in range(26)],
    "large-scenes": [(1101 + k, (2400, 2000), 2 ** (k % 4), "village") for k in range(12)],
    "cities": [(1301 + k, (1200, 1000), 1 + k % 2, "city") for k in range(16)],
}
SMALL_SEEDS = range(1201, 1241)
TEMPTED = ("sen12/val", "gf3_1m")  # folders whose pairs are made hostile


class Checked(NamedTuple):
    """A registration against the truth. N matches, M places; all but the first two are in pixels, if not said."""

    belongs: bool  # whether the images show one place
    registered: bool
    off: Floats  # (N,) errors of the matches
    probability: Floats  # (N,) that each match is right, 0 to 1
    sigma: Floats  # (N,) that each match claims
    step: float  # side of the matched pixels, pixels of the common grid
    true: Floats  # (M,) errors of the warp
    claimed: Floats  # (M,) sigma of the warp
    expected: float  # median error that the verdict promised

    @property
    def error(self) -> float:
        return float(np.median(self.true)) if len(self.true) else np.inf


def check(case: Case, matcher: Matcher, calibration: str | None) -> Checked:
    found = register(**vars(case.files), matcher=matcher, calibration=calibration)
    verdict, matches, grid = found.verdict, found.matches, found.grid
    off = true = claimed = np.zeros(0)
    if case.truth is not None:
        with case.files.open() as pair:
            off = np.hypot(*(matches.sar_xy - case.truth(pair, matches.optical_xy)).T)
            places, there = known_places(pair, case.truth, 40)
        here = grid.to_map(places)
        true = np.hypot(*(grid.to_pixel(found.warp(here)) - there).T)
        claimed = found.warp.error(here) / grid.resolution
    of_matches, expected = (off, matches.score, matches.sigma, matches.step), verdict.error / grid.resolution
    return Checked(case.truth is not None, verdict.registered, *of_matches, true, claimed, expected)


def summary(found: list[Checked]) -> dict[str, Any]:
    own, others = [c for c in found if c.belongs], [c for c in found if not c.belongs]
    strangers = {"wrong_pairs": len(others), "wrong_registered": sum(c.registered for c in others)}
    if not own:
        return strangers
    off, probability, sigma = (np.concatenate([getattr(c, k) for c in own]) for k in ("off", "probability", "sigma"))
    right = np.concatenate([c.off <= RIGHT * c.step for c in own])
    good = [c for c in own if c.registered]
    ratio = np.concatenate([c.true / c.claimed for c in good]) if good else np.zeros(1)
    promise = np.array([c.error / c.expected for c in good])
    return {
        "pairs": len(own),
        "ece": ece(np.clip(probability, 0, 1), right),
        "spearman": float(spearmanr(sigma, off)[0]),
        **{f"mma_{radius}": mma([c.off for c in own], radius) for radius in (1, 3)},
        **{f"matches_within_{n}_sigma": float((off < n * sigma).mean()) for n in (1, 2)},
        "registered": sum(c.registered for c in own) / len(own),
        "registered_right": sum(c.registered and c.error <= RIGHT for c in own) / len(own),
        "registered_and_wrong": sum(c.error > RIGHT for c in good),
        "right_but_refused": sum(not c.registered and c.error <= RIGHT for c in own),
        **{f"map_within_{n}_sigma": float((ratio < n).mean()) for n in (1, 2)},
        "true_over_expected_median": float(np.median(promise)) if len(promise) else None,
        "expected_within_factor_2": float(((promise > 0.5) & (promise < 2)).mean()) if len(promise) else None,
        **strangers,
    }


def cases(part: str, data: Path, scratch: Path, wrong: int, every: int) -> Iterator[Case]:
    """The cases of a part; of a folder every pair, displaced, then `wrong` pairs with another place's SAR image."""
    if part in SCENES:
        yield from scene_cases(scratch, SCENES[part], False)
    elif part == "small-scenes":
        yield from small_cases(scratch, SMALL_SEEDS[::every])
    elif part == "lattice":
        yield from hostile_pairs.lattice(wrong, scratch)
    elif part in ("frames", "shared", "mirrored"):
        pairs = [pair for both in zip(*(pair_files(data / name) for name in TEMPTED), strict=False) for pair in both]
        if part == "mirrored":
            yield from hostile_pairs.mirrored(pairs, wrong, scratch)
        else:
            yield from hostile_pairs.stamped(part == "frames", pairs, wrong, every, scratch)
    else:
        files, random = pair_files(data / part), np.random.default_rng(1)
        for pair in files[::every]:
            yield displaced(pair.name, pair, pair, scratch, random)
        for k in np.linspace(0, len(files) - 1, wrong).astype(int):
            other = files[(k + 1 + int(random.integers(len(files) - 1))) % len(files)]
            yield displaced(f"{files[k].name}_{other.name}", files[k], other, scratch, random)


def show(name: str, part: str, found: list[Checked], out: Path) -> None:
    result = summary(found)
    write(out / f"{name}_{part.replace('/', '_')}.json", json.dumps(result, indent=1))
    click.echo(f"{name}, {part}: {json.dumps(result)}")


@click.command(cls=Command)
@click.option("--matcher", "name", default=DEFAULT_MATCHER, show_default=True)
@DATA
@click.option("--parts", default="sen12/val,gf3_1m,scenes,large-scenes", show_default=True)
@click.option("--wrong", default=100, show_default=True, help="Pairs of each folder that do not belong together.")
@click.option("--every", default=1, show_default=True, help="Of N pairs of a folder, only the first.")
@out_option("confidence")
@click.option("--calibration", help="A calibration file [default: the one that ships].")
@click.option("--weights", help="A matcher's own weights; then name their calibration, too.")
def main(
    name: str, data: Path, parts: str, out: Path, calibration: str | None, weights: str | None, **how: int
) -> None:
    """Register, compare, print."""
    make_folder(out)
    matcher = make_matcher(name, **({"weights": weights} if weights else {}))
    together: list[Checked] = []
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts.split(","):
            found = [check(case, matcher, calibration) for case in cases(part, data, Path(scratch), **how)]
            together += found
            show(name, part, found, out)
    show(name, "all", together, out)


if __name__ == "__main__":
    main()
