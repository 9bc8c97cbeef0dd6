"""Measure what sn9reg claims, row by row, and print the table of the README.

    python -m pipelines.benchmark [--data DIR] [--work work/benchmark] [--rows vhr,la,...] [--json]

Every alignment runs as a user's command in a process of its own, so that its time and its peak of resident memory
are those a user sees. Rows whose data are missing are left out, with a word on stderr.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import numpy as np
import numpy.typing as npt
import rasterio

from pipelines import benchmark_simulated as simulated
from pipelines.common import DATA_OPTION, Command, markdown, out_option
from pipelines.turned import measure, summary
from pipelines.user import Row, Run, align, scene, score, sn9reg
from sn9reg.matchers.base import make_matcher
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import make_folder


def vhr(data: Path, work: Path) -> list[Row]:
    return [
        on_vhr(data, work, "mean px, affine", "<= 6.3", "--model", "affine"),
        on_vhr(data, work, "mean px, auto", "<= 4.6, and better than untrained"),
        on_vhr(data, work, "mean px, auto, untrained (`--matcher structure`)", "<= 4.8", "--matcher", "structure"),
    ]


def keypoints_vhr(data: Path, work: Path) -> list[Row]:
    """The SpaceNet 9 baseline's matcher on real imagery, of a sensor that its detectors did not see."""
    what = "`--matcher keypoints`, mean px"
    return [on_vhr(data, work, what, "< 23.1", "--matcher", "keypoints", may_refuse=True)]


def on_vhr(data: Path, work: Path, what: str, must: str, *options: str, may_refuse: bool = False) -> Row:
    """Mean error at the tie-points of vhr_tiepoints, pixels, and the time."""
    folder, out = data / "vhr_tiepoints", work / "vhr.tif"
    run, error = align(folder, out, *options, may_refuse=may_refuse), "refused"
    if run.registered:
        error = f"{score(out, *scene(folder), folder / 'tiepoints_consistent.csv')['mean_px']:.2f}"
    return Row(f"vhr_tiepoints, {what}", must, f"{error} ({run.seconds:.0f} s)")


def sentinel_la(data: Path, work: Path) -> list[Row]:
    """The SAR scene warped by a known field of up to 20 px: the field found with the warp minus that found without."""
    folder, warped = data / "sentinel_la", work / "la_warped_sar.tif"
    optical, sar = scene(folder)
    with rasterio.open(sar) as source:
        image, profile = source.read(1), source.profile
    y, x = np.indices(image.shape, np.float32)
    # The warped image at y shows what the given one shows at y + pull(y): content moves by -pull.
    px, py = pull(x, y)
    moved = cv2.remap(image, x + px, y + py, cv2.INTER_CUBIC)
    with rasterio.open(warped, "w", **profile) as target:
        target.write(moved, 1)
    align(folder, work / "la_plain.tif")
    sn9reg("align", optical, warped, "--out", work / "la_warped.tif", "--overwrite")
    with open_offsets(work / "la_plain.tif") as plain, open_offsets(work / "la_warped.tif") as bent:
        sides = (np.arange(64.0, side - 64, 64) for side in plain.grid.shape[::-1])
        at = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2)
        before, after = plain.sample(at), bent.sample(at)
    # A place p lies at p + before without, and at y with the warp, where y + pull(y) = p + before.
    there = at + before
    for _ in range(20):
        there = at + before - np.stack(pull(*there.T), -1)
    error = np.hypot(*((after - before) - (there - at - before)).T)
    size = np.hypot(*pull(*at.T)).max()
    measured = f"mean {error.mean():.2f}, median {np.median(error):.2f}, 95 % {np.percentile(error, 95):.2f}"
    return [Row(f"sentinel_la, known field of up to {size:.0f} px, px", "mean <= 1.0", measured)]


def pull(x: npt.NDArray, y: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
    """A smooth field of up to 20 px, mostly along one direction, that no affine fits."""
    u = 14 * np.sin(x / 460 + 0.5) * np.cos(y / 610) + 4.5 * np.sin((x + y) / 290)
    v = 5 * np.cos(x / 520) * np.sin(y / 430 + 1) + 2
    return u + 1.0, v


def sen12(data: Path, work: Path) -> list[Row]:
    folder = data / "sen12" / "val"
    result, untrained = patches(folder), patches(folder, "--matcher", "structure")
    worse = patches(folder, "--looks", "8", "--blur", "0.5")
    loss = f"{100 * (result['cmr']['1'] - worse['cmr']['1']):.1f} points (to {worse['cmr']['1']:.3f})"
    return [
        Row("sen12/val, 192 in 256 px, within 1 / 3 / 5 px", ">= 0.62 / 0.94 / 0.97", result["rates"]),
        Row("the same, untrained", ">= 0.36 / 0.82 / 0.94", untrained["rates"]),
        Row("the same, mean L2", "<= 1.5 px", f"{result['mean_l2_px']:.2f} px"),
        Row("the same, under speckle of 8 looks and blur of 0.5 px, within 1 px", "loses < 10 points", loss),
        Row("one 192 in 256 px match", "<= 100 ms", f"{result['ms_per_pair']:.0f} ms"),
    ]


def gf3(data: Path, work: Path) -> list[Row]:
    result, untrained = patches(data / "gf3_1m"), patches(data / "gf3_1m", "--matcher", "structure")
    return [
        Row("gf3_1m, 192 in 256 px, within 1 / 3 / 5 px", ">= 0.50 / 0.92", result["rates"]),
        Row("the same, untrained", "", untrained["rates"]),
    ]


def patches(folder: Path, *options: str) -> Any:
    """What `sn9reg bench patches` measures, and `rates`: the correct match rates at 1, 3 and 5 px as a text."""
    result = sn9reg("bench", "patches", folder, *options, "--json").facts
    return result | {"rates": " / ".join(f"{result['cmr'][t]:.3f}" for t in ("1", "3", "5"))}


class Marked(NamedTuple):
    """A small pair without georeference, with landmarks."""

    name: str
    files: tuple[Path, Path]  # optical and SAR
    points: Path
    must: str  # the error that the descriptors must reach

    def align(self, out: Path, *options: str) -> Run:
        return sn9reg("align", *self.files, "--out", out, "--pixel-frame", "--overwrite", *options, may_refuse=True)

    def errors(self, out: Path, *options: str) -> Any:
        """At the landmarks, as `sn9reg score --json` prints them; nothing where the pair is refused."""
        registered = self.align(out, *options).registered
        return score(out, *self.files, self.points, "--pixel-frame") if registered else None


def marked(data: Path) -> list[Marked]:
    """The pairs with landmarks that are there."""
    stems = [(f"landmarks {n}", data / "landmarks", f"{n}_", "<= 4 px") for n in range(1, 5)]
    return [
        Marked(name, (folder / f"{stem}opt.png", folder / f"{stem}sar.png"), folder / f"{stem}landmarks.csv", must)
        for name, folder, stem, must in [*stems, ("cfog", data / "cfog", "", "<= 2 px")]
        if folder.is_dir()
    ]


def landmarks(data: Path, work: Path) -> list[Row]:
    """Small pairs without georeference, by the default matcher."""
    rows, out = [], work / "landmarks.tif"
    for pair in marked(data):
        measured = "refused"
        if found := pair.errors(out):
            measured = f"{found['mean_px']:.2f} (without {found['without_registration']['mean_px']:.1f})"
        rows.append(Row(f"{pair.name}, `--pixel-frame`, mean px at the landmarks", "", measured))
    return rows


def descriptors(data: Path, work: Path) -> list[Row]:
    """The same pairs by both descriptors; the time of one 500 x 500 pair, as `--json` says it and of the command."""
    rows, out = [], work / "descriptors.tif"
    options = ("--model", "affine", "--json", "--matcher", "descriptors", "--matcher-option")
    for pair in marked(data):
        found = [pair.errors(out, *options, f"descriptor={name}") for name in ("learned", "mim")]
        learned, mim = (f"{errors['rmse_px']:.2f}" if errors else "refused" for errors in found)
        what = f"{pair.name}, `--pixel-frame --model affine`, RMSE at the landmarks"
        rows.append(Row(what, pair.must, f"{learned} ({mim} by `mim`)"))
    runs = [marked(data)[0].align(out, *options, "descriptor=learned") for _ in range(5)]
    times = [(sum(run.facts["seconds"].values()), run.seconds) for run in runs]
    measured = "{:.1f} s, {:.1f} s with the program's start".format(*np.median(times, axis=0))
    return [*rows, Row("time, 500 x 500, two cores", "<= 4 s", measured)]


def turned(data: Path, work: Path) -> list[Row]:
    measured = summary(measure(data / "gf3_1m", make_matcher("descriptors"), 45.0, 1.25, "affine"))
    return [Row("gf3_1m, SAR turned by up to 45 degrees, scaled by 0.8 to 1.25", ">= 60 %, aim 80 %", measured)]


ROWS: dict[str, tuple[str | None, Callable[[Path, Path], list[Row]]]] = {
    "vhr": ("vhr_tiepoints", vhr),
    "la": ("sentinel_la", sentinel_la),
    "sen12": ("sen12", sen12),
    "gf3": ("gf3_1m", gf3),
    "landmarks": ("landmarks", landmarks),
    "simulated": (None, simulated.simulated),
    "spacenet9": ("sn9_tiepoints", simulated.spacenet9),
    "half-empty": (None, simulated.half_empty),
    "keypoints": (None, simulated.keypoints),
    "keypoints-vhr": ("vhr_tiepoints", keypoints_vhr),
    "descriptors": ("landmarks", descriptors),
    "turned": ("gf3_1m", turned),
    "large": (None, simulated.large),
    "report": (None, simulated.reported),
}


@click.command(cls=Command)
@DATA_OPTION
@out_option("benchmark", "--work")
@click.option("--rows", default=",".join(ROWS), show_default=True, help="Which parts to measure.")
@click.option("--json", "as_json", is_flag=True, help="JSON in place of the table.")
def main(data: Path, work: Path, rows: str, as_json: bool) -> None:
    """Measure and print."""
    make_folder(work)
    table: list[Row] = []
    for name in rows.split(","):
        needed, make = ROWS[name]
        if needed and not (data / needed).is_dir():
            click.echo(f"{name}: left out, {data / needed} is not there", err=True)
            continue
        table += make(data, work)
        click.echo(f"{name}: done", err=True)
    text = json.dumps([row._asdict() for row in table]) + "\n" if as_json else markdown(Row._fields, table)
    click.echo(text, nl=False)


if __name__ == "__main__":
    main()
