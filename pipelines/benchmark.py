"""Measure what sn9reg claims, row by row, and print the table of the README.

    python pipelines/benchmark.py [--data ../shared/data] [--work work/benchmark] [--rows vhr,la,...] [--json]

Every alignment runs as a user's command in a process of its own, so that its time and its peak of resident memory
are those a user sees. Rows whose data is not there say so and are left out.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
import rasterio
from scipy.stats import spearmanr

from pipelines.descriptor_rows import descriptors, turned
from pipelines.user import Row, align, output, scene, score, simulate, sn9reg, tiepoints
from sn9reg.fit.warp import least_squares_affine
from sn9reg.offsets import from_nodes, node_positions, open_offsets
from sn9reg.raster.files import grid_of, open_raster
from sn9reg.raster.grid import Grid
from sn9reg.score.scoring import reference
from sn9reg.tiepoints import read_tiepoints

SEED = 3


def vhr(data: Path, work: Path) -> list[Row]:
    folder = data / "vhr_tiepoints"
    rows = []
    for what, must, options in (
        ("affine", "<= 6.3", ("--model", "affine")),
        ("auto", "<= 4.6, and better than untrained", ()),
        ("auto, untrained (`--matcher structure`)", "<= 4.8", ("--matcher", "structure")),
    ):
        run = align(folder, work / "vhr.tif", *options)
        error = score(work / "vhr.tif", *scene(folder), folder / "tiepoints_consistent.csv")
        rows.append(Row(f"vhr_tiepoints, mean px, {what}", must, f"{error['mean_px']:.2f} ({run.seconds:.0f} s)"))
    return rows


def sentinel_la(data: Path, work: Path) -> list[Row]:
    """The SAR scene warped by a known field of up to 20 px: the field found with the warp minus that found without."""
    folder, warped = data / "sentinel_la", work / "la_warped"
    optical, sar = scene(folder)
    warped.mkdir(exist_ok=True)
    with rasterio.open(sar) as source:
        image, profile = source.read(1), source.profile
    x, y = np.meshgrid(np.arange(image.shape[1], dtype=np.float32), np.arange(image.shape[0], dtype=np.float32))
    # The warped image at y shows what the given one shows at y + pull(y): content moves by -pull.
    px, py = pull(x, y)
    moved = cv2.remap(image, x + px, y + py, cv2.INTER_CUBIC)
    with rasterio.open(warped / "sar.tif", "w", **profile) as target:
        target.write(moved, 1)
    (warped / "optical.tif").unlink(missing_ok=True)
    (warped / "optical.tif").symlink_to(optical.resolve())
    align(folder, work / "la_plain.tif")
    align(warped, work / "la_warped.tif")
    with open_offsets(work / "la_plain.tif") as plain, open_offsets(work / "la_warped.tif") as bent:
        height, width = plain.grid.shape
        at = np.stack(np.meshgrid(np.arange(64, width - 64, 64), np.arange(64, height - 64, 64)), -1).reshape(-1, 2)
        before, after = plain.sample(at.astype(np.float64)), bent.sample(at.astype(np.float64))
    # A place p lies at p + before without, and at y with the warp, where y + pull(y) = p + before.
    there = at + before
    for _ in range(20):
        there = at + before - np.stack(pull(*there.T), -1)
    error = np.hypot(*((after - before) - (there - at - before)).T)
    size = float(np.hypot(*np.stack(pull(*at.T.astype(np.float64)))).max())
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
        Row("sen12/val, 192 in 256 px, within 1 / 3 / 5 px", ">= 0.62 / 0.94 / 0.97", rates(result)),
        Row("the same, untrained", ">= 0.36 / 0.82 / 0.94", rates(untrained)),
        Row("the same, mean L2", "<= 1.5 px", f"{result['mean_l2_px']:.2f} px"),
        Row("the same, under speckle of 8 looks and blur of 0.5 px, within 1 px", "loses < 10 points", loss),
        Row("one 192 in 256 px match", "<= 100 ms", f"{result['ms_per_pair']:.0f} ms"),
    ]


def gf3(data: Path, work: Path) -> list[Row]:
    result, untrained = patches(data / "gf3_1m"), patches(data / "gf3_1m", "--matcher", "structure")
    return [
        Row("gf3_1m, 192 in 256 px, within 1 / 3 / 5 px", ">= 0.50 / 0.92", rates(result)),
        Row("the same, untrained", "", rates(untrained)),
    ]


def patches(folder: Path, *options: str) -> dict[str, Any]:
    """What `sn9reg bench patches` measures."""
    found: dict[str, Any] = output("bench", "patches", str(folder), *options)
    return found


def rates(result: dict[str, Any]) -> str:
    """Correct match rates at 1, 3 and 5 px."""
    return " / ".join(f"{result['cmr'][t]:.3f}" for t in ("1", "3", "5"))


def simulated(data: Path, work: Path) -> list[Row]:
    folder, out = simulate(work, "10000x4000", SEED), work / "simulated.tif"
    align(folder, out, "--sigma")
    error, affine = score(out, *scene(folder), tiepoints(folder))["mean_px"], best_affine(folder)
    measured = f"{error:.2f} against {affine:.2f} px: {affine / error:.1f}x"
    errors, sigma = errors_and_sigma(folder, out)
    within = ", ".join(f"{100 * (errors <= n * sigma).mean():.0f} %" for n in (1, 2))
    rank = spearmanr(errors, sigma).statistic
    return [
        Row("simulated 10,000 x 4,000, auto against the best affine", ">= 3x", measured),
        Row("the same, true errors within 1 and 2 sigma (39 %, 86 % if calibrated)", "", f"{within}; rank {rank:.2f}"),
    ]


def errors_and_sigma(folder: Path, offsets: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """True errors and the band that expects them, pixels, on a grid of 64 px over a simulated scene."""
    with rasterio.open(next(folder.glob("*offsets*.tif"))) as truth, rasterio.open(offsets) as found:
        exact, (dx, dy, sigma) = truth.read((1, 2))[:, 32::64, 32::64], found.read()[:, 32::64, 32::64]
    errors = np.hypot(dx - exact[0], dy - exact[1]).astype(np.float64)
    known = np.isfinite(errors)
    return errors[known], sigma[known].astype(np.float64)


def spacenet9(data: Path, work: Path) -> list[Row]:
    """Simulated imagery under the displacement that the real tie-points of SpaceNet 9's area 02 show."""
    source = data / "sn9_tiepoints"
    given = ("--field", str(source / "02_tiepoints_train_01.csv"))
    frames = ("--field-geotransforms", str(source / "geotransforms.json"))
    rows = []
    for seed in (SEED, SEED + 1):
        folder, out = simulate(work, "10041x3204", seed, *given, *frames, name=f"area02_{seed}"), work / "area02.tif"
        align(folder, out, "--matcher", "structure")
        untrained = score(out, *scene(folder), tiepoints(folder))["mean_px"]
        align(folder, out)
        found = score(out, *scene(folder), tiepoints(folder))
        others = {"untrained": untrained, "best affine": best_affine(folder)}
        others["without"] = found["without_registration"]["mean_px"]
        told = ", ".join(f"{name} {error:.1f}" for name, error in others.items())
        what = f"simulated imagery {seed} under the real displacement of SpaceNet 9 area 02, mean px"
        rows.append(Row(what, "", f"{found['mean_px']:.1f} ({told})"))
    return rows


def best_affine(folder: Path) -> float:
    """Mean error of the least-squares affine fitted to a simulated scene's tie-points themselves, optical pixels."""
    grids = []
    for path in scene(folder):
        with open_raster(path) as dataset:
            grids.append(grid_of(dataset))
    points = read_tiepoints(tiepoints(folder), *grids)
    truth = reference(grids[0], grids[1], points)
    xy = points.optical_xy
    centred = np.column_stack([xy - xy.mean(axis=0), np.ones(len(xy))])
    residual = truth - centred @ least_squares_affine(xy - xy.mean(axis=0), truth).T
    return float(np.hypot(*residual.T).mean())


def half_empty(data: Path, work: Path) -> list[Row]:
    """Four small scenes, half of whose SAR image lies outside its swath."""
    told = []
    for seed in range(2, 6):
        folder = simulate(work, "1200x1000", seed, "--empty", "0.5", name=f"half_empty_{seed}")
        out = work / "half_empty.tif"
        if align(folder, out, may_refuse=True).registered:
            told.append(f"{score(out, *scene(folder), tiepoints(folder))['mean_px']:.1f}")
        else:
            told.append("refused")
    return [Row("simulated 1,200 x 1,000, SAR half empty, four scenes, mean px", "", ", ".join(told))]


def landmarks(data: Path, work: Path) -> list[Row]:
    """Small pairs without georeference, as somebody new to the tool would run them."""
    sets = [(f"landmarks {n}", data / "landmarks", f"{n}_", f"{n}_landmarks.csv") for n in range(1, 5)]
    rows = []
    for name, folder, prefix, points in [*sets, ("cfog", data / "cfog", "", "landmarks.csv")]:
        if not folder.is_dir():
            continue
        optical, sar, out = folder / f"{prefix}opt.png", folder / f"{prefix}sar.png", work / "landmarks.tif"
        files = (str(optical), str(sar), "--out", str(out))
        if sn9reg("align", *files, "--pixel-frame", "--overwrite", may_refuse=True).registered:
            found = score(out, optical, sar, folder / points, "--pixel-frame")
            measured = f"{found['mean_px']:.2f} (without {found['without_registration']['mean_px']:.1f})"
        else:
            measured = "refused"
        rows.append(Row(f"{name}, `--pixel-frame`, mean px at the landmarks", "", measured))
    return rows


def keypoints(data: Path, work: Path) -> list[Row]:
    """The SpaceNet 9 baseline's matcher on scenes that its detectors did not see."""
    rows, out = [], work / "keypoints.tif"
    for size, seed in (("10000x4000", SEED), ("6000x6000", 21), ("8000x4000", 22)):
        folder = simulate(work, size, seed)
        best, told = best_affine(folder), {}
        for model in ("affine", "auto"):
            run = align(folder, out, "--matcher", "keypoints", "--model", model, may_refuse=True)
            if run.registered:
                error = score(out, *scene(folder), tiepoints(folder))["mean_px"]
                told[model] = f"{error:.2f} against {best:.2f} px: {error / best:.2f} of it"
            else:
                told[model] = "refused"
        what = f"simulated {size}, `--matcher keypoints --model affine` against the best affine"
        rows += [
            Row(what, "<= 1.15", told["affine"]),
            Row("the same, `--model auto`", "<= 0.5", f"{told['auto']} ({run.seconds:.0f} s)"),
        ]
    return rows


def keypoints_vhr(data: Path, work: Path) -> list[Row]:
    """That matcher on real imagery, of a sensor that its detectors did not see."""
    folder, out = data / "vhr_tiepoints", work / "vhr_keypoints.tif"
    run = align(folder, out, "--matcher", "keypoints", may_refuse=True)
    what, measured = "vhr_tiepoints, `--matcher keypoints`, mean px", "refused"
    if run.registered:
        measured = f"{score(out, *scene(folder), folder / 'tiepoints_consistent.csv')['mean_px']:.2f}"
    return [Row(what, "< 23.1", f"{measured} ({run.seconds:.0f} s)")]


def large(data: Path, work: Path) -> list[Row]:
    """Memory, time, floor and growth on simulated scenes of 3,000 to 12,000 px a side."""
    runs = {}
    for side in (3000, 6000, 12000):
        folder = simulate(work, str(side), SEED)
        runs[side] = align(folder, work / f"large_{side}.tif")
    error = score(work / "large_12000.tif", *scene(folder), tiepoints(folder))["mean_px"]
    exponent = math.log(runs[12000].seconds / runs[3000].seconds) / math.log(16)
    times = ", ".join(f"{side}: {run.seconds:.0f} s" for side, run in runs.items())
    return [
        Row("peak memory at 12,000 x 12,000, resident", "<= 3 GiB", f"{runs[12000].memory:.2f} GiB"),
        Row(
            "time at 12,000 x 12,000, inputs to offsets on disk",
            "<= 150 s",
            f"{runs[12000].seconds:.0f} s; floor {floor(folder, work):.0f} s (mean error {error:.1f} px)",
        ),
        Row("growth of time, exponent in pixels", "<= 1.0", f"{exponent:.2f} ({times})"),
    ]


def floor(folder: Path, work: Path) -> float:
    """Seconds to read both inputs once and to write an offset map of that size."""
    start = time.perf_counter()
    for path in scene(folder):
        with rasterio.open(path) as dataset:
            for row in range(0, dataset.height, 512):
                dataset.read(window=((row, min(row + 512, dataset.height)), (0, dataset.width)))
            if "optical" in path.name:
                grid = Grid(dataset.transform, dataset.width, dataset.height, dataset.crs)
    places, (ny, nx) = node_positions(grid)
    waves = np.stack([np.sin(places[:, 0] / 900), np.cos(places[:, 1] / 700)]) * 50
    from_nodes(grid, waves.reshape(2, ny, nx).astype(np.float32), 32).write(work / "floor.tif", overwrite=True)
    return time.perf_counter() - start


def reported(data: Path, work: Path) -> list[Row]:
    """The report on a scene of 13,000 px a side, of its exact offset map."""
    folder, out = simulate(work, "13000", SEED), work / "report_13000"
    offsets = next(folder.glob("*offsets*.tif"))
    run = sn9reg("report", str(offsets), *map(str, scene(folder)), "--tiepoints", str(tiepoints(folder)),
                 "--out", str(out), "--overwrite")  # fmt: skip
    size = (out / "report.html").stat().st_size / 1e6
    measured = f"{run.seconds:.0f} s, {run.memory:.2f} GiB, page of {size:.1f} MB"
    return [Row("report on 13,000 x 13,000", "<= 60 s, <= 2 GiB, < 10 MB", measured)]


ROWS: dict[str, tuple[str | None, Callable[[Path, Path], list[Row]]]] = {
    "vhr": ("vhr_tiepoints", vhr),
    "la": ("sentinel_la", sentinel_la),
    "sen12": ("sen12", sen12),
    "gf3": ("gf3_1m", gf3),
    "landmarks": ("landmarks", landmarks),
    "simulated": (None, simulated),
    "spacenet9": ("sn9_tiepoints", spacenet9),
    "half-empty": (None, half_empty),
    "keypoints": (None, keypoints),
    "keypoints-vhr": ("vhr_tiepoints", keypoints_vhr),
    "descriptors": ("landmarks", descriptors),
    "turned": ("gf3_1m", turned),
    "large": (None, large),
    "report": (None, reported),
}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("work/benchmark"), show_default=True)
@click.option("--rows", default=",".join(ROWS), show_default=True, help="Which parts to measure.")
@click.option("--json", "as_json", is_flag=True, help="JSON in place of the table.")
def main(data: Path, work: Path, rows: str, as_json: bool) -> None:
    """Measure and print."""
    work.mkdir(parents=True, exist_ok=True)
    table: list[Row] = []
    for name in rows.split(","):
        needed, measure = ROWS[name]
        if needed and not (data / needed).is_dir():
            click.echo(f"{name}: left out, {data / needed} is not there", err=True)
            continue
        table += measure(data, work)
        click.echo(f"{name}: done", err=True)
    if as_json:
        click.echo(json.dumps([vars(row) for row in table]))
        return
    click.echo("| what | must | measured |\n|---|---|---|")
    for row in table:
        click.echo(f"| {row.what} | {row.must} | {row.measured} |")


if __name__ == "__main__":
    main()
