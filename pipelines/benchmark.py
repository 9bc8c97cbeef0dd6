"""Measure what sn9reg claims, row by row, and print the table of the README.

    python -m pipelines.benchmark [--data DIR] [--work work/benchmark] [--rows vhr,la,...] [--json]

Every alignment runs as a user's command in a process of its own, so that its time and its peak of resident memory
are those a user sees. Rows whose data are missing are left out, with a word on stderr.
"""

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
import rasterio

from pipelines import benchmark_simulated as simulated
from pipelines.common import DATA_OPTION, Command, listed, markdown, out_option
from pipelines.turned import measure, summary
from pipelines.user import Row, Scene, sn9reg
from sn9reg.matchers.base import make_matcher
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import create_raster, geotiff_profile, make_folder
from sn9reg.raster.grid import Grid, Window


def vhr(data: Path, work: Path) -> list[Row]:
    return [
        on_vhr(data, work, "mean px, affine", "<= 6.3", "--model", "affine"),
        on_vhr(data, work, "mean px, auto", "<= 4.6, and better than untrained"),
        on_vhr(data, work, "mean px, auto, untrained (`--matcher structure`)", "<= 4.8", "--matcher", "structure"),
    ]


def keypoints_vhr(data: Path, work: Path) -> list[Row]:
    """The SpaceNet 9 baseline's matcher on real imagery, of a sensor that its detectors did not see."""
    return [on_vhr(data, work, "`--matcher keypoints`, mean px", "< 23.1", "--matcher", "keypoints")]


def on_vhr(data: Path, work: Path, what: str, must: str, *options: str) -> Row:
    """Mean error at the tie-points of vhr_tiepoints, pixels, and the time."""
    folder = data / "vhr_tiepoints"
    pair = Scene(folder / "optical.tif", folder / "sar.tif", folder / "tiepoints_consistent.csv")
    run, found = pair.tried(work / "vhr.tif", *options)
    error = f"{found['mean_px']:.2f}" if found else "refused"
    return Row(f"vhr_tiepoints, {what}", must, f"{error} ({run.seconds:.0f} s)")


def sentinel_la(data: Path, work: Path) -> list[Row]:
    """The SAR scene warped by a known field of up to 20 px: the field found with the warp minus that found without."""
    folder, warped = data / "sentinel_la", work / "la_warped_sar.tif"
    with rasterio.open(folder / "sar.tif") as source:
        image, profile = source.read(1), source.profile
    y, x = np.indices(image.shape, np.float32)
    # The warped image at y shows what the given one shows at y + pull(y): content moves by -pull.
    px, py = pull(x, y)
    moved = cv2.remap(image, x + px, y + py, cv2.INTER_CUBIC)
    with rasterio.open(warped, "w", **profile) as target:
        target.write(moved, 1)
    for sar, out in ((folder / "sar.tif", "la_plain.tif"), (warped, "la_warped.tif")):
        sn9reg("align", folder / "optical.tif", sar, "--out", work / out, "--overwrite")
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


def crops(data: Path, work: Path, side: int = 380, places: int = 14) -> list[Row]:
    """What the verdict says of crops of Los Angeles at places drawn by a seed: each with its own SAR crop, and with
    those of two other places that it shares no ground with."""
    random = np.random.default_rng(0)
    corners = [(int(random.integers(0, 3072 - 600)), int(random.integers(0, 5120 - 600))) for _ in range(places)]
    for kind, (i, corner) in product(("optical", "sar"), enumerate(corners)):
        with rasterio.open(data / "sentinel_la" / f"{kind}.tif") as source:
            values = source.read(window=Window(*corner, side, side).slices())
        grid = Grid.pixel_frame(side, side)
        with create_raster(work / f"{kind}{i}.tif", geotiff_profile(grid, len(values), str(values.dtype))) as target:
            target.write(values)
    apart = [(i, (i + k) % places) for i in range(places) for k in (1, 5)]
    apart = [(i, j) for i, j in apart if np.abs(np.subtract(corners[i], corners[j])).max() > side + 60]
    given, rows = ("--out", work / "crops.tif", "--pixel-frame", "--overwrite", "--json"), []
    for what, must, chosen in (("together", "all", [(i, i) for i in range(places)]), ("apart", "none", apart)):
        files = ((work / f"optical{i}.tif", work / f"sar{j}.tif") for i, j in chosen)
        runs = [sn9reg("align", *pair, *given, may_refuse=True) for pair in files]
        low, high = (f"{of(run.facts['probability'] for run in runs):.3f}" for of in (min, max))
        measured = f"{sum(run.registered for run in runs)} of {len(runs)}; probability {low} to {high}"
        rows.append(Row(f"sentinel_la, crops of {side} px, {what}, registered", must, measured))
    return rows


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
        Row("one 192 in 256 px match", "<= 20 ms", f"{result['ms_per_pair']:.0f} ms"),
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


def marked(data: Path) -> Iterator[tuple[str, str, Scene]]:
    """The small pairs with landmarks that are there: name, the error that the descriptors must reach, and the pair."""
    stems = [(f"landmarks {n}", "<= 4 px", data / "landmarks", f"{n}_") for n in range(1, 5)]
    for name, must, folder, stem in [*stems, ("cfog", "<= 2 px", data / "cfog", "")]:
        if folder.is_dir():
            optical, sar, points = (folder / f"{stem}{end}" for end in ("opt.png", "sar.png", "landmarks.csv"))
            yield name, must, Scene(optical, sar, points, ("--pixel-frame",))


def landmarks(data: Path, work: Path) -> list[Row]:
    """Small pairs without georeference, by the default matcher."""
    rows = []
    for name, _, pair in marked(data):
        _, found = pair.tried(work / "landmarks.tif")
        measured = "refused"
        if found:
            measured = f"{found['mean_px']:.2f} (without {found['without_registration']['mean_px']:.1f})"
        rows.append(Row(f"{name}, `--pixel-frame`, mean px at the landmarks", "", measured))
    return rows


def descriptors(data: Path, work: Path) -> list[Row]:
    """The same pairs by both descriptors; the time of one 500 x 500 pair, as `--json` says it and of the command."""
    rows, out = [], work / "descriptors.tif"
    options = ("--model", "affine", "--json", "--matcher", "descriptors", "--matcher-option")
    for name, must, pair in marked(data):
        found = [pair.tried(out, *options, f"descriptor={kind}")[1] for kind in ("learned", "mim")]
        learned, mim = (f"{errors['rmse_px']:.2f}" if errors else "refused" for errors in found)
        what = f"{name}, `--pixel-frame --model affine`, RMSE at the landmarks"
        rows.append(Row(what, must, f"{learned} ({mim} by `mim`)"))
    _, _, first = next(marked(data))
    runs = [first.align(out, *options, "descriptor=learned", may_refuse=True) for _ in range(5)]
    times = [(sum(run.facts["seconds"].values()), run.seconds) for run in runs]
    measured = "{:.1f} s, {:.1f} s with the program's start".format(*np.median(times, axis=0))
    return [*rows, Row("time, 500 x 500, two cores", "<= 4 s", measured)]


def turned(data: Path, work: Path) -> list[Row]:
    measured = summary(measure(data / "gf3_1m", make_matcher("descriptors"), 45.0, 1.25, "affine"))
    return [Row("gf3_1m, SAR turned by up to 45 degrees, scaled by 0.8 to 1.25", ">= 60 %, aim 80 %", measured)]


ROWS: dict[str, tuple[str | None, Callable[[Path, Path], list[Row]]]] = {
    "vhr": ("vhr_tiepoints", vhr),
    "la": ("sentinel_la", sentinel_la),
    "crops": ("sentinel_la", crops),
    "sen12": ("sen12", sen12),
    "gf3": ("gf3_1m", gf3),
    "landmarks": ("landmarks", landmarks),
    "simulated": (None, simulated.simulated),
    "spacenet9": ("sn9_tiepoints", simulated.spacenet9),
    "city": (None, simulated.city),
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
@listed("--rows", ROWS, "Which parts to measure.")
@click.option("--json", "as_json", is_flag=True, help="JSON in place of the table.")
def main(data: Path, work: Path, rows: list[str], as_json: bool) -> None:
    """Measure and print."""
    make_folder(work)
    table: list[Row] = []
    for name in rows:
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
