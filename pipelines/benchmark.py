"""Measure what sn9reg claims, row by row, and print the table of the README: `python -m pipelines.benchmark`. Every
alignment runs as a user's command in a process of its own, so that its time and its peak of resident memory are those a
user sees. Rows whose data are missing are left out, with a word on stderr."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from scipy.stats import spearmanr

from pipelines.common import DATA, EXACT, Command, Row, Scene, listed, markdown, out_option, said, simulate, sn9reg
from pipelines.score_tiepoints import score_file
from pipelines.studies.sn9_baseline import read_aois
from pipelines.turned import measure, summary
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.base import make_matcher
from sn9reg.offsets import from_nodes, node_positions, open_offsets
from sn9reg.raster.files import create_raster, geotiff_profile, grid_of, make_folder
from sn9reg.raster.grid import Grid, Window

SEED = 3  # of simulated scenes
_NEAR = 8 * 0.4 / 0.305  # optical pixels: 8 px of 0.4 m
VHR = (
    ("mean px, affine", "<= 6.3", "--model", "affine"),
    ("mean px, auto", "<= 4.6, and better than untrained"),
    ("mean px, auto, untrained (`--matcher structure`)", "<= 4.8", "--matcher", "structure"),
)
KEYPOINTS = [("`--matcher keypoints`, mean px", "< 23.1", "--matcher", "keypoints")]


def on_vhr(rows: Iterable[tuple[str, ...]], data: Path, work: Path) -> Iterator[Row]:
    """Mean error at the tie-points of vhr_tiepoints, pixels, and the time. rows: what, what it must be, and options."""
    folder = data / "vhr_tiepoints"
    pair = Scene(folder / "optical.tif", folder / "sar.tif", folder / "tiepoints_consistent.csv")
    for what, must, *options in rows:
        run, found = pair.tried(work / "vhr.tif", *options)
        yield Row(f"vhr_tiepoints, {what}", must, f"{said('{mean_px:.2f}', found)} ({run.seconds:.0f} s)")


def sentinel_la(data: Path, work: Path) -> Iterator[Row]:
    """The SAR scene warped by a known field of up to 20 px: the field found with the warp minus that found without."""
    folder, warped = data / "sentinel_la", work / "la_warped_sar.tif"
    with rasterio.open(folder / "sar.tif") as source:
        image, profile = source.read(1), source.profile
    y, x = np.indices(image.shape, np.float32)
    # The warped image at y shows what the given one shows at y + pull(y): content moves by -pull.
    px, py = pull(x, y)
    with rasterio.open(warped, "w", **profile) as target:
        target.write(cv2.remap(image, x + px, y + py, cv2.INTER_CUBIC), 1)
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
    yield Row(f"sentinel_la, known field of up to {size:.0f} px, px", "mean <= 1.0", measured)


def pull(x: npt.NDArray, y: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
    """A smooth field of up to 20 px, mostly along one direction, that no affine fits."""
    u = 14 * np.sin(x / 460 + 0.5) * np.cos(y / 610) + 4.5 * np.sin((x + y) / 290)
    v = 5 * np.cos(x / 520) * np.sin(y / 430 + 1) + 2
    return u + 1.0, v


def crops(data: Path, work: Path, side: int = 380, places: int = 14) -> Iterator[Row]:
    """The verdict on crops of Los Angeles: each with its own SAR crop, and with those of two places elsewhere."""
    random, grid = np.random.default_rng(0), Grid.pixel_frame(side, side)
    corners = [(int(random.integers(0, 3072 - 600)), int(random.integers(0, 5120 - 600))) for _ in range(places)]
    for kind, (i, corner) in product(("optical", "sar"), enumerate(corners)):
        with rasterio.open(data / "sentinel_la" / f"{kind}.tif") as source:
            values = source.read(window=Window(*corner, side, side).slices())
        profile = geotiff_profile(grid, len(values), str(values.dtype))
        with create_raster(work / f"{kind}{i}.tif", profile, overwrite=True) as target:
            target.write(values)
    apart = [(i, (i + k) % places) for i in range(places) for k in (1, 5)]
    apart = [(i, j) for i, j in apart if np.abs(np.subtract(corners[i], corners[j])).max() > side + 60]
    given = ("--out", work / "crops.tif", "--pixel-frame", "--overwrite", "--json")
    for what, must, chosen in (("together", "all", [(i, i) for i in range(places)]), ("apart", "none", apart)):
        files = ((work / f"optical{i}.tif", work / f"sar{j}.tif") for i, j in chosen)
        runs = [sn9reg("align", *pair, *given, may_refuse=True) for pair in files]
        low, high = (f"{of(run.facts['probability'] for run in runs):.3f}" for of in (min, max))
        measured = f"{sum(run.registered for run in runs)} of {len(runs)}; probability {low} to {high}"
        yield Row(f"sentinel_la, crops of {side} px, {what}, registered", must, measured)


def sen12(data: Path, work: Path) -> Iterator[Row]:
    folder = data / "sen12" / "val"
    result, untrained = patches(folder), patches(folder, "--matcher", "structure")
    best, worse = (found["cmr"]["1"] for found in (result, patches(folder, "--looks", "8", "--blur", "0.5")))
    yield Row("sen12/val, 192 in 256 px, within 1 / 3 / 5 px", ">= 0.62 / 0.94 / 0.97", result["rates"])
    yield Row("the same, untrained", ">= 0.36 / 0.82 / 0.94", untrained["rates"])
    yield Row("the same, mean L2", "<= 1.5 px", f"{result['mean_l2_px']:.2f} px")
    loss = f"{100 * (best - worse):.1f} points (to {worse:.3f})"
    yield Row("the same, under speckle of 8 looks and blur of 0.5 px, within 1 px", "loses < 10 points", loss)
    yield Row("one 192 in 256 px match", "<= 20 ms", f"{result['ms_per_pair']:.0f} ms")


def gf3(data: Path, work: Path) -> Iterator[Row]:
    yield Row("gf3_1m, 192 in 256 px, within 1 / 3 / 5 px", ">= 0.50 / 0.92", patches(data / "gf3_1m")["rates"])
    yield Row("the same, untrained", "", patches(data / "gf3_1m", "--matcher", "structure")["rates"])


def patches(folder: Path, *options: str) -> Any:
    """What `sn9reg bench patches` measures, and `rates`: the correct match rates at 1, 3 and 5 px as a text."""
    result = sn9reg("bench", "patches", folder, *options, "--json").facts
    return result | {"rates": " / ".join(f"{result['cmr'][t]:.3f}" for t in ("1", "3", "5"))}


def marked(data: Path) -> Iterator[tuple[str, str, Scene]]:
    """The small pairs with landmarks that are there: name, the error that must be reached, and the pair."""
    stems = [(f"landmarks {n}", "<= 4 px", data / "landmarks", f"{n}_") for n in range(1, 5)]
    for name, must, folder, stem in [*stems, ("cfog", "<= 2 px", data / "cfog", "")]:
        if folder.is_dir():
            optical, sar, points = (folder / f"{stem}{end}" for end in ("opt.png", "sar.png", "landmarks.csv"))
            yield name, must, Scene(optical, sar, points, ("--pixel-frame",))


def landmarks(data: Path, work: Path) -> Iterator[Row]:
    """Small pairs without georeference, by the default matcher."""
    form = "{rmse_px:.2f}; mean {mean_px:.2f} (without {without_registration[mean_px]:.1f})"
    for name, must, pair in marked(data):
        yield Row(f"{name}, `--pixel-frame`, RMSE at the landmarks", must, pair.measured(form, work / "landmarks.tif"))


def descriptors(data: Path, work: Path) -> Iterator[Row]:
    """The same pairs by both descriptors; the time of one 500 x 500 pair, as `--json` says it and of the command."""
    out = work / "descriptors.tif"
    options = ("--model", "affine", "--json", "--matcher", "descriptors", "--matcher-option")
    for name, must, pair in marked(data):
        found = (pair.measured("{rmse_px:.2f}", out, *options, f"descriptor={kind}") for kind in ("learned", "mim"))
        what = f"{name}, `--pixel-frame --model affine`, RMSE at the landmarks"
        yield Row(what, must, "{} ({} by `mim`)".format(*found))
    _, _, first = next(marked(data))
    runs = [first.align(out, *options, "descriptor=learned", may_refuse=True) for _ in range(5)]
    times = [(sum(run.facts["seconds"].values()), run.seconds) for run in runs]
    measured = "{:.1f} s, {:.1f} s with the program's start".format(*np.median(times, axis=0))
    yield Row("time, 500 x 500, two cores", "<= 4 s", measured)


def turned(data: Path, work: Path) -> Iterator[Row]:
    """By the default matcher and by descriptors."""
    what = "gf3_1m, SAR turned by up to 45 degrees, scaled by 0.8 to 1.25"
    for name, must in ((DEFAULT_MATCHER, ">= 86 %"), ("descriptors", ">= 60 %, aim 80 %")):
        measured = summary(list(measure(data / "gf3_1m", make_matcher(name), 45.0, 1.25, "affine")))
        yield Row(f"{what}, `{name}`", must, measured)


def simulated(data: Path, work: Path) -> Iterator[Row]:
    scene, out = simulate(work, "10000x4000", SEED), work / "simulated.tif"
    scene.align(out, "--sigma")
    error, affine = scene.errors(out)["mean_px"], best_affine(scene)
    measured = f"{error:.2f} against {affine:.2f} px: {affine / error:.1f}x"
    with rasterio.open(scene.optical.with_name(EXACT)) as known, rasterio.open(out) as found:
        exact, (dx, dy, expected) = known.read((1, 2))[:, 32::64, 32::64], found.read()[:, 32::64, 32::64]
    true = np.hypot(dx - exact[0], dy - exact[1]).astype(np.float64)
    true, sigma = true[np.isfinite(true)], expected[np.isfinite(true)].astype(np.float64)
    within = ", ".join(f"{100 * (true <= n * sigma).mean():.0f} %" for n in (1, 2))
    rank = spearmanr(true, sigma).statistic
    yield Row("simulated 10,000 x 4,000, auto against the best affine", ">= 3x", measured)
    yield Row("the same, true errors within 1 and 2 sigma (39 %, 86 % if calibrated)", "", f"{within}; rank {rank:.2f}")


def spacenet9(data: Path, work: Path) -> Iterator[Row]:
    """Simulated imagery under the displacement that the real tie-points of SpaceNet 9's area 02 show."""
    source, out = data / "sn9_tiepoints", work / "area02.tif"
    given = ("--field", source / "02_tiepoints_train_01.csv", "--field-geotransforms", source / "geotransforms.json")
    for seed in (SEED, SEED + 1):
        scene = simulate(work, "10041x3204", seed, *given, name=f"area02_{seed}")
        scene.align(out, "--matcher", "structure")
        untrained = scene.errors(out)["mean_px"]
        scene.align(out)
        found = scene.errors(out)
        measured = f"{found['mean_px']:.1f} (untrained {untrained:.1f}, best affine {best_affine(scene):.1f}, "
        measured += f"without {found['without_registration']['mean_px']:.1f})"
        yield Row(f"simulated imagery {seed} under the real displacement of SpaceNet 9 area 02, mean px", "", measured)


def best_affine(scene: Scene) -> float:
    """Mean error of the least-squares affine fitted to a simulated scene's tie-points themselves, optical pixels."""
    (aoi,) = read_aois(scene.optical.parent)
    return float(aoi.distances(aoi.best_affine(ransac=False))[1].mean())


def half_empty(data: Path, work: Path) -> Iterator[Row]:
    """Four small scenes, half of whose SAR image lies outside its swath."""
    half = ("--empty", "0.5")
    scenes = (simulate(work, "1200x1000", seed, *half, name=f"half_empty_{seed}") for seed in range(2, 6))
    measured = ", ".join(scene.measured("{mean_px:.1f}", work / "half_empty.tif") for scene in scenes)
    yield Row("simulated 1,200 x 1,000, SAR half empty, four scenes, mean px", "", measured)


def city(data: Path, work: Path) -> Iterator[Row]:
    """Cities at full resolution, and chips of one, whose SAR image says of itself that it is a tenth smaller."""
    given, out = ("--scene", "city", "--looks", "1"), work / "city.tif"
    scenes = (simulate(work, "3000", seed, *given, name=f"city_{seed}") for seed in range(901, 913))
    errors = ", ".join(scene.measured("{mean_px:.1f}", out) for scene in scenes)
    yield Row("simulated city 3,000 x 3,000, twelve scenes, mean px", "", errors)
    within, registered, points = 0, 0, 0
    for seed in range(931, 971):
        chip = simulate(work, "980", seed, *given, name=f"chip_{seed}")
        with rasterio.open(chip.sar, "r+") as raster:
            if "shrunk" not in raster.tags():
                middle = Affine.translation(raster.width / 2, raster.height / 2)
                raster.transform = raster.transform @ middle @ Affine.scale(0.9) @ ~middle
                raster.update_tags(shrunk=0.9)
        points += len(chip.points.read_text().splitlines()) - 1
        if chip.align(out, "--json", may_refuse=True).registered:
            registered += 1
            within += int((score_file(out, *chip[:3]).per_point["error_px"] <= _NEAR).sum())
    measured = f"{within / points:.0%} of ground points, {registered} registered"
    yield Row("chips of a city, 980 x 980 px, forty, within 8 px of 0.4 m", ">= 80 %", measured)


def keypoints(data: Path, work: Path) -> Iterator[Row]:
    """The SpaceNet 9 baseline's matcher on scenes that its detectors did not see."""
    for size, seed in (("10000x4000", SEED), ("6000x6000", 21), ("8000x4000", 22)):
        scene = simulate(work, size, seed)
        best = best_affine(scene)
        affine = f"simulated {size}, `--matcher keypoints --model affine` against the best affine"
        for model, what, must in (("affine", affine, "<= 1.15"), ("auto", "the same, `--model auto`", "<= 0.5")):
            run, found = scene.tried(work / "keypoints.tif", "--matcher", "keypoints", "--model", model)
            share = found["mean_px"] / best if found else math.nan
            measured = said(f"{{mean_px:.2f}} against {best:.2f} px: {share:.2f} of it", found)
            yield Row(what, must, f"{measured} ({run.seconds:.0f} s)")


def large(data: Path, work: Path) -> Iterator[Row]:
    """Memory, time, floor and growth on simulated scenes of 3,000 to 12,000 px a side."""
    scenes = {side: simulate(work, str(side), SEED) for side in (3000, 6000, 12000)}
    runs = {side: scene.align(work / f"large_{side}.tif") for side, scene in scenes.items()}
    error = scenes[12000].errors(work / "large_12000.tif")["mean_px"]
    exponent = math.log(runs[12000].seconds / runs[3000].seconds) / math.log(16)
    times = ", ".join(f"{side}: {run.seconds:.0f} s" for side, run in runs.items())
    reached = f"{runs[12000].seconds:.0f} s; floor {floor(scenes[12000], work):.0f} s (mean error {error:.1f} px)"
    yield Row("peak memory at 12,000 x 12,000, resident", "<= 2.5 GiB", f"{runs[12000].memory:.2f} GiB")
    yield Row("time at 12,000 x 12,000, inputs to offsets on disk", "<= 50 s", reached)
    yield Row("growth of time, exponent in pixels", "<= 1.0", f"{exponent:.2f} ({times})")


def floor(scene: Scene, work: Path) -> float:
    """Seconds to read both inputs once and to write an offset map of that size."""
    start = time.perf_counter()
    for path in (scene.sar, scene.optical):
        with rasterio.open(path) as dataset:
            for row in range(0, dataset.height, 512):
                dataset.read(window=((row, min(row + 512, dataset.height)), (0, dataset.width)))
            grid = grid_of(dataset)
    places, shape = node_positions(grid)
    waves = np.stack([np.sin(places[:, 0] / 900), np.cos(places[:, 1] / 700)]) * 50
    from_nodes(grid, waves.reshape(2, *shape).astype(np.float32), 32).write(work / "floor.tif", overwrite=True)
    return time.perf_counter() - start


def reported(data: Path, work: Path) -> Iterator[Row]:
    """The report on a scene of 13,000 px a side, of its exact offset map."""
    scene, out = simulate(work, "13000", SEED), work / "report_13000"
    files = (scene.optical.with_name(EXACT), scene.optical, scene.sar)
    run = sn9reg("report", *files, "--tiepoints", scene.points, "--out", out, "--overwrite")
    size = (out / "report.html").stat().st_size / 1e6
    measured = f"{run.seconds:.0f} s, {run.memory:.2f} GiB, page of {size:.1f} MB"
    yield Row("report on 13,000 x 13,000", "<= 60 s, <= 2 GiB, < 10 MB", measured)


ROWS: dict[str, tuple[str | None, Callable[[Path, Path], Iterable[Row]]]] = {
    "vhr": ("vhr_tiepoints", partial(on_vhr, VHR)),
    "la": ("sentinel_la", sentinel_la),
    "crops": ("sentinel_la", crops),
    "sen12": ("sen12", sen12),
    "gf3": ("gf3_1m", gf3),
    "landmarks": ("landmarks", landmarks),
    "simulated": (None, simulated),
    "spacenet9": ("sn9_tiepoints", spacenet9),
    "city": (None, city),
    "half-empty": (None, half_empty),
    "keypoints": (None, keypoints),
    # The SpaceNet 9 baseline's matcher on real imagery, of a sensor that its detectors did not see.
    "keypoints-vhr": ("vhr_tiepoints", partial(on_vhr, KEYPOINTS)),
    "descriptors": ("landmarks", descriptors),
    "turned": ("gf3_1m", turned),
    "large": (None, large),
    "report": (None, reported),
}


@click.command(cls=Command)
@DATA
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
