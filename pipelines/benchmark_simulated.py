"""The rows of the benchmark on simulated scenes, whose true offsets are known at every pixel."""

import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from scipy.stats import spearmanr

from pipelines.studies.sn9_baseline import read_aois
from pipelines.user import EXACT, Row, Scene, simulate, sn9reg
from sn9reg.offsets import from_nodes, node_positions, open_offsets
from sn9reg.raster.files import grid_of

SEED = 3
_NEAR = 8 * 0.4 / 0.305  # optical pixels: 8 px of 0.4 m


def simulated(data: Path, work: Path) -> list[Row]:
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
    return [
        Row("simulated 10,000 x 4,000, auto against the best affine", ">= 3x", measured),
        Row("the same, true errors within 1 and 2 sigma (39 %, 86 % if calibrated)", "", f"{within}; rank {rank:.2f}"),
    ]


def spacenet9(data: Path, work: Path) -> list[Row]:
    """Simulated imagery under the displacement that the real tie-points of SpaceNet 9's area 02 show."""
    source, out, rows = data / "sn9_tiepoints", work / "area02.tif", []
    given = ("--field", source / "02_tiepoints_train_01.csv", "--field-geotransforms", source / "geotransforms.json")
    for seed in (SEED, SEED + 1):
        scene = simulate(work, "10041x3204", seed, *given, name=f"area02_{seed}")
        scene.align(out, "--matcher", "structure")
        untrained = scene.errors(out)["mean_px"]
        scene.align(out)
        found = scene.errors(out)
        measured = f"{found['mean_px']:.1f} (untrained {untrained:.1f}, best affine {best_affine(scene):.1f}, "
        measured += f"without {found['without_registration']['mean_px']:.1f})"
        what = f"simulated imagery {seed} under the real displacement of SpaceNet 9 area 02, mean px"
        rows.append(Row(what, "", measured))
    return rows


def best_affine(scene: Scene) -> float:
    """Mean error of the least-squares affine fitted to a simulated scene's tie-points themselves, optical pixels."""
    (aoi,) = read_aois(scene.optical.parent)
    return float(aoi.distances(aoi.best_affine(ransac=False))[1].mean())


def half_empty(data: Path, work: Path) -> list[Row]:
    """Four small scenes, half of whose SAR image lies outside its swath."""
    cells = []
    for seed in range(2, 6):
        scene = simulate(work, "1200x1000", seed, "--empty", "0.5", name=f"half_empty_{seed}")
        _, found = scene.tried(work / "half_empty.tif")
        cells.append(f"{found['mean_px']:.1f}" if found else "refused")
    return [Row("simulated 1,200 x 1,000, SAR half empty, four scenes, mean px", "", ", ".join(cells))]


def city(data: Path, work: Path) -> list[Row]:
    """Cities at full resolution, and chips of one, whose SAR image says of itself that it is a tenth smaller."""
    errors, out = [], work / "city.tif"
    for seed in range(901, 913):
        scene = simulate(work, "3000", seed, "--scene", "city", "--looks", "1", name=f"city_{seed}")
        _, found = scene.tried(out)
        errors.append(f"{found['mean_px']:.1f}" if found else "refused")
    within, registered, points = 0, 0, 0
    for seed in range(931, 971):
        chip = simulate(work, "980", seed, "--scene", "city", "--looks", "1", name=f"chip_{seed}")
        _shrunk(chip.sar, 0.9)
        run, found = chip.tried(out, "--json")
        points += len(np.loadtxt(chip.points, delimiter=",", skiprows=1, ndmin=2))
        registered += run.registered
        within += int((_distances(chip, out) <= _NEAR).sum()) if found else 0
    measured = f"{within / points:.0%} of ground points, {registered} registered"
    return [
        Row("simulated city 3,000 x 3,000, twelve scenes, mean px", "", ", ".join(errors)),
        Row("chips of a city, 980 x 980 px, forty, within 8 px of 0.4 m", ">= 80 %", measured),
    ]


def _shrunk(path: Path, share: float) -> None:
    """Let a raster say that its pixels are so much smaller, around its centre, once."""
    with rasterio.open(path, "r+") as raster:
        if "shrunk" not in raster.tags():
            middle = Affine.translation(raster.width / 2, raster.height / 2)
            raster.transform = raster.transform @ middle @ Affine.scale(share) @ ~middle
            raster.update_tags(shrunk=share)


def _distances(scene: Scene, out: Path) -> npt.NDArray[np.float64]:
    """(N,) optical pixels between where an offset map takes a scene's tie-points and where they lie."""
    sar_row, sar_col, row, col = np.loadtxt(scene.points, delimiter=",", skiprows=1, ndmin=2).T
    with open_offsets(out) as offsets, rasterio.open(scene.sar) as sar:
        found = np.column_stack([col, row]) + offsets.sample(np.column_stack([col, row]))
        there = offsets.grid.to_pixel(grid_of(sar).to_map(np.column_stack([sar_col, sar_row])))
    return np.hypot(*(found - there).T)


def keypoints(data: Path, work: Path) -> list[Row]:
    """The SpaceNet 9 baseline's matcher on scenes that its detectors did not see."""
    rows = []
    for size, seed in (("10000x4000", SEED), ("6000x6000", 21), ("8000x4000", 22)):
        scene = simulate(work, size, seed)
        best = best_affine(scene)
        affine = f"simulated {size}, `--matcher keypoints --model affine` against the best affine"
        for model, what, must in (("affine", affine, "<= 1.15"), ("auto", "the same, `--model auto`", "<= 0.5")):
            run, found = scene.tried(work / "keypoints.tif", "--matcher", "keypoints", "--model", model)
            measured = "refused"
            if found:
                measured = f"{found['mean_px']:.2f} against {best:.2f} px: {found['mean_px'] / best:.2f} of it"
            rows.append(Row(what, must, f"{measured} ({run.seconds:.0f} s)"))
    return rows


def large(data: Path, work: Path) -> list[Row]:
    """Memory, time, floor and growth on simulated scenes of 3,000 to 12,000 px a side."""
    scenes = {side: simulate(work, str(side), SEED) for side in (3000, 6000, 12000)}
    runs = {side: scene.align(work / f"large_{side}.tif") for side, scene in scenes.items()}
    error = scenes[12000].errors(work / "large_12000.tif")["mean_px"]
    exponent = math.log(runs[12000].seconds / runs[3000].seconds) / math.log(16)
    times = ", ".join(f"{side}: {run.seconds:.0f} s" for side, run in runs.items())
    reached = f"{runs[12000].seconds:.0f} s; floor {floor(scenes[12000], work):.0f} s (mean error {error:.1f} px)"
    return [
        Row("peak memory at 12,000 x 12,000, resident", "<= 2.5 GiB", f"{runs[12000].memory:.2f} GiB"),
        Row("time at 12,000 x 12,000, inputs to offsets on disk", "<= 50 s", reached),
        Row("growth of time, exponent in pixels", "<= 1.0", f"{exponent:.2f} ({times})"),
    ]


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


def reported(data: Path, work: Path) -> list[Row]:
    """The report on a scene of 13,000 px a side, of its exact offset map."""
    scene, out = simulate(work, "13000", SEED), work / "report_13000"
    files = (scene.optical.with_name(EXACT), scene.optical, scene.sar)
    run = sn9reg("report", *files, "--tiepoints", scene.points, "--out", out, "--overwrite")
    size = (out / "report.html").stat().st_size / 1e6
    measured = f"{run.seconds:.0f} s, {run.memory:.2f} GiB, page of {size:.1f} MB"
    return [Row("report on 13,000 x 13,000", "<= 60 s, <= 2 GiB, < 10 MB", measured)]
