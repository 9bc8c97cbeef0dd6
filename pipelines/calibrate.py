"""Calibrate a matcher: from what it says of itself to probabilities and errors, and the verdict on a pair. Matches
pairs whose truth is known, and others that do not belong together: patches of SEN1-2 on which no shipped network was
trained, and of 3MOS, displaced by up to 20 px; simulated scenes with terrain; many strangers, for few are ever alike by
chance. The result of each pair is kept, so that a stopped run goes on. Writes OUT/MATCHER.json, for `sn9reg align
--calibration`; --ship puts it among the weights, and of the default matcher the verdict's model, too."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.enums import Resampling

from pipelines.common import DATA, Command, listed, out_option, write
from sn9reg.fit.choose import fit
from sn9reg.judge.calibration import Linear, PairModel
from sn9reg.judge.evidence import NO_EVIDENCE, default_features, gather
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.base import Matcher, make_matcher
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import create_raster, geotiff_profile, make_folder, open_raster
from sn9reg.raster.folders import RegisteredPair, pair_files
from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.raster.scene import PairFiles, Patch, ScenePair
from sn9reg.score.benchmark import save_pair
from sn9reg.simulate import simulate
from sn9reg.training.calibrate import Sample, fit_matcher, fit_pair
from sn9reg.training.data import hold_out
from sn9reg.training.sample import part

SHIFT = 20  # pixels
RIGHT = 3.0  # matched pixels of median error up to which a warp is right; ten times that of a scene with terrain
LOOKS = (1, 2, 4, 8, 1, 2, 4, 8, 2, 4)
SIZES = (
    *[(1100, 1000)] * 10,
    *[(1300, 1100), (900, 1300), (1600, 1500), (1200, 1200), (2200, 2000)] * 2,
    *[(1000, 1000), (1500, 1000), (1400, 1400), (1200, 900), (3000, 2600)] * 2,
    *[(4000, 3000), (3600, 3600), (5000, 2500)],
    *[(1200, 1000), (1000, 1400), (2400, 2000), (1200, 1200), (1100, 900), (1800, 1500), (1300, 1000)] * 4,
)
Scene = tuple[int, tuple[int, int], int, str]  # seed, size, looks, kind
Random = np.random.Generator
SCENES = tuple((501 + k, size, LOOKS[k % len(LOOKS)], "village") for k, size in enumerate(SIZES))
_CITY_SIZES = (1000, 1000), (1500, 1200), (1200, 1000), (2400, 2000)
CITIES = tuple((801 + k, _CITY_SIZES[k % 4], (1, 1, 2)[k % 3], ("city", "town")[k // 4 % 2]) for k in range(24))
CHIPS = tuple((851 + k, (980, 980), 1, "city") for k in range(16))
_SHRUNK = 0.85, 1.15  # range of the size that a chip's SAR image says its pixels have, of the true one
_LIGHT = 0.3  # weight of the pairs of 3MOS and of small scenes
_WEIGHTS = Path("sn9reg/weights/calibration.json")

# Where (N, 2) optical places of the common grid, in pixels, have their counterparts.
Truth = Callable[[ScenePair, Points], Points]


class Case(NamedTuple):
    name: str
    files: PairFiles
    truth: Truth | None  # where its optical places lie in the SAR image; None where they lie nowhere
    tolerance: float = RIGHT  # median error, matched pixels, up to which its warp is right
    weight: float = 1.0  # how much it counts in the calibration


def observe(case: Case, matcher: Matcher) -> Sample:
    """What a matcher makes of a pair, and the truth."""
    with case.files.open() as pair:
        matches = matcher.match(pair)
        fitted = fit(matches)
        evidence = gather(pair, fitted.warp, matches.step, default_features(pair)) if fitted.fitted else NO_EVIDENCE
        right, off, field = False, np.full(len(matches), np.inf), (np.zeros((0, 2)), np.zeros(0), np.zeros(0))
        if case.truth is not None:
            off = np.hypot(*(matches.sar_xy - case.truth(pair, matches.optical_xy)).T) / matches.step
            places, there = known_places(pair, case.truth, 20)
            here, pixel = pair.grid.to_map(places), matches.step * pair.grid.resolution
            error = np.hypot(*(fitted.warp(here) - pair.grid.to_map(there)).T) / pixel
            right = fitted.fitted and float(np.median(error)) <= case.tolerance
            field = here, fitted.warp.error(here) / pixel, error
        return Sample.of(right, (matches, fitted, evidence), off, field, case.weight)


def known_places(pair: ScenePair, truth: Truth, count: int) -> tuple[Points, Points]:
    """The middles of count x count equal parts of the overlap, pixels, that have counterparts, and these."""
    sides = ((pair.overlap.col, pair.overlap.width), (pair.overlap.row, pair.overlap.height))
    x, y = (start - 0.5 + size * (np.arange(count) + 0.5) / count for start, size in sides)
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    there = truth(pair, places)
    known = np.isfinite(there).all(axis=1)
    return places[known], there[known]


def folder_cases(name: str, files: list[RegisteredPair], scratch: Path, strangers: bool = False) -> Iterator[Case]:
    """Every optical image with its own SAR image and another's, displaced; `strangers`: two others' and it mirrored."""
    random = np.random.default_rng(int(strangers))
    for k, pair in enumerate(files):
        for quarter in (1, 3) if strangers else (0, 2):
            other = files[(k + quarter * len(files) // 4) % len(files)]
            yield displaced(f"{name}_{pair.name}_{other.name}", pair, other, scratch, random)
        if strangers:
            yield displaced(f"{name}_{pair.name}_mirrored", pair, pair, scratch, random, mirrored=True)


def displaced(
    name: str, pair: RegisteredPair, other: RegisteredPair, scratch: Path, random: Random, mirrored: bool = False
) -> Case:
    """The optical image of a pair and the SAR image of the same or another, displaced at random, without a rim."""
    shift = random.integers(-SHIFT, SHIFT + 1, 2)
    optical, sar = shifted(pair.read()[0], other.read()[1], shift, SHIFT)
    if mirrored:
        sar = Patch(sar.values[:, :, ::-1], sar.valid[:, ::-1])
    return saved(name, (optical, sar), None if mirrored or pair is not other else shift, scratch)


def shifted(optical: Patch, sar: Patch, shift: npt.NDArray[np.int_], rim: int) -> tuple[Patch, Patch]:
    """Both images without a rim; where the optical image shows a place, the SAR image shows it `shift` from there."""
    height, width = (min(a, b) - 2 * rim for a, b in zip(optical.valid.shape, sar.valid.shape, strict=True))
    x, y = (rim - shift).tolist()
    return part(optical, Window(rim, rim, width, height)), part(sar, Window(x, y, width, height))


def saved(name: str, images: Sequence[Patch], shift: npt.NDArray[np.int_] | None, scratch: Path) -> Case:
    """A case of two patches; `shift` (x, y), pixels, takes optical to SAR places, if there are any."""
    return Case(name, save_pair(scratch / name, *images), None if shift is None else lambda _, xy: xy + shift)


def tile_cases(files: list[RegisteredPair], scratch: Path) -> Iterator[Case]:
    """Parts of tiles, small and large, with parts of the SAR images of others."""
    random = np.random.default_rng(2)
    for k, pair in enumerate(files):
        optical = pair.read()[0]
        for third, side in ((1, int(random.integers(300, 600))), (2, int(random.integers(600, 1000)))):
            other = files[(k + third * len(files) // 3) % len(files)]
            images = []
            for patch in (optical, other.read()[1]):
                row, col = random.integers(0, np.array(patch.valid.shape) - side + 1)
                images.append(part(patch, Window(col, row, side, side)))
            yield saved(f"tile_{pair.name}_{other.name}_{side}", images, None, scratch)


def scene_cases(scratch: Path, scenes: Iterable[Scene], wrong: bool = True) -> Iterator[Case]:
    """Simulated scenes, each with its own SAR image and, if `wrong`, with that of the one before."""
    before: Path | None = None
    for seed, size, looks, kind in scenes:
        scene = simulate(scratch / f"scene{seed}", *size, seed=seed, looks=looks, kind=kind)
        yield Case(f"scene{seed}", PairFiles(scene.optical, scene.sar), partial(by_offsets, scene.offsets), 10 * RIGHT)
        if wrong and before is not None:
            yield Case(f"scene{seed}_wrong", PairFiles(scene.optical, before, pixel_frame=True), None)
        before = scene.sar


def chip_cases(scratch: Path, chips: Iterable[Scene]) -> Iterator[Case]:
    """Chips of cities, each with its own SAR image, which says that its pixels are larger or smaller than they are, and
    with that of the one before."""
    before: Path | None = None
    for seed, size, looks, kind in chips:
        chip = simulate(scratch / f"chip{seed}", *size, seed=seed, looks=looks, kind=kind)
        with rasterio.open(chip.sar, "r+") as raster:
            middle = Affine.translation(raster.width / 2, raster.height / 2)
            size_said = float(np.random.default_rng(seed).uniform(*_SHRUNK))
            said = raster.transform @ middle @ Affine.scale(size_said) @ ~middle
            moved, raster.transform = said @ ~raster.transform, said
        truth = partial(by_offsets, chip.offsets, moved=moved)
        yield Case(f"chip{seed}", PairFiles(chip.optical, chip.sar), truth, 3 * RIGHT)
        if before is not None:
            yield Case(f"chip{seed}_wrong", PairFiles(chip.optical, before, pixel_frame=True), None)
        before = chip.sar


def small_cases(scratch: Path, seeds: Iterable[int]) -> Iterator[Case]:
    """Simulated scenes, the optical image averaged down to 200 to 500 px, in which the displacement varies as much."""
    for seed in seeds:
        random = np.random.default_rng(seed)
        times, looks = int(random.choice([4, 8, 16])), float(random.choice([1, 2, 4, 8]))
        width, height = (times * int(side) for side in random.integers(200, min(500, 3200 // times) + 1, 2))
        scene = simulate(scratch / f"small{seed}", width, height, seed=seed, looks=looks)
        with open_raster(scene.optical) as source:
            grid = Grid(source.transform * Affine.scale(times), width // times, height // times, source.crs)
            values = source.read(out_shape=(source.count, *grid.shape), resampling=Resampling.average)
        optical = scratch / f"small{seed}_optical.tif"
        with create_raster(optical, geotiff_profile(grid, len(values), str(values.dtype)), overwrite=True) as target:
            target.write(values)
        yield Case(f"small{seed}", PairFiles(optical, scene.sar), partial(by_offsets, scene.offsets), 2 * RIGHT)


def by_offsets(path: Path, pair: ScenePair, xy: Points, moved: Affine | None = None) -> Points:
    """The truth of a simulated scene by its exact offset map; NaN outside of the optical image. moved: what has become
    of the SAR image's map positions since."""
    with open_offsets(path) as exact:
        grid = exact.grid
        here = grid.to_pixel(pair.grid.map_to_crs(pair.grid.to_map(xy), grid.crs))
        inside = grid.holds(here)
        there = np.full_like(here, np.nan)
        there[inside] = here[inside] + exact.sample(here[inside])[:, :2]
    on_map = grid.map_to_crs(grid.to_map(there), pair.sar.grid.crs)
    if moved is not None:
        on_map = np.column_stack(moved @ tuple(on_map.T))
    return pair.grid.to_pixel(pair.sar.grid.map_to_crs(on_map, pair.grid.crs))


def cases(part: str, data: Path, scratch: Path, every: int) -> Iterator[Case]:
    """The cases of a part, their files made on the way."""

    def sen12() -> list[RegisteredPair]:
        """The pairs that the shipped networks' recipes hold out."""
        files = pair_files(data / "sen12/train")
        held = hold_out([pair.read(native=True)[0].values.mean(axis=0) for pair in files], 0.08, 0)
        return [pair for pair, out in zip(files, held, strict=True) if out][::every]

    def light(found: Iterator[Case]) -> Iterator[Case]:
        return (case._replace(weight=_LIGHT) for case in found)

    mos = pair_files(data / "3mos")[:: 4 * every] if part in ("3mos", "strangers") else []
    if part == "sen12":
        yield from folder_cases("sen12", sen12(), scratch)
    elif part == "3mos":
        yield from light(folder_cases("3mos", mos, scratch))
    elif part == "strangers":
        yield from folder_cases("sen12", sen12(), scratch, strangers=True)
        yield from light(folder_cases("3mos", mos, scratch, strangers=True))
        yield from tile_cases(pair_files(data / "la_tiles")[::every], scratch)
    elif part == "chips":
        yield from chip_cases(scratch, CHIPS[::every])
    elif part == "small-scenes":
        yield from light(small_cases(scratch, range(601, 601 + 60, every)))
    else:
        yield from scene_cases(scratch, {"scenes": SCENES, "cities": CITIES}[part][::every])


def collect(found: Iterator[Case], matcher: Matcher, folder: Path) -> list[Sample]:
    """Samples of the cases; those that lie in the folder already are read from there."""
    samples = []
    for case in found:
        kept = folder / f"{case.name}.npz"
        if not kept.exists():
            np.savez(kept, **vars(observe(case, matcher)))
        with np.load(kept) as content:
            samples.append(Sample(**{name: v if v.ndim else v.item() for name, v in content.items()}))
    return samples


@click.command(cls=Command)
@click.option("--matcher", "name", default=DEFAULT_MATCHER, show_default=True)
@listed("--parts", ("sen12", "3mos", "small-scenes", "scenes", "cities", "chips", "strangers"))
@DATA
@out_option("calibration")
@click.option("--every", default=1, show_default=True, help="Of N pairs of a folder, only the first.")
@click.option("--weights", help="A matcher's own weights.")
@click.option("--ship", is_flag=True, help="Put the result among the weights.")
def main(name: str, parts: list[str], data: Path, out: Path, every: int, weights: str | None, ship: bool) -> None:
    """Collect, fit, write."""
    make_folder(out / name)
    matcher = make_matcher(name, **({"weights": weights} if weights else {}))
    with tempfile.TemporaryDirectory() as scratch:
        found = {part: collect(cases(part, data, Path(scratch), every), matcher, out / name) for part in parts}
    # Strangers beyond those among the other parts say nothing of matches; small scenes all belong together, and do not
    # tell what speaks for that.
    samples = [sample for part, kept in found.items() if part != "strangers" for sample in kept]
    of_pairs = [sample for part, kept in found.items() if part != "small-scenes" for sample in kept]
    if not any(sample.right for sample in samples):
        raise click.ClickException(f"{name} registered none of {len(samples)} pairs: there is nothing to calibrate by")
    stored: dict[str, Any] = json.loads(_WEIGHTS.read_text()) if _WEIGHTS.exists() else {"pair": None, "matchers": {}}
    if name == DEFAULT_MATCHER:
        stored["pair"] = asdict(fit_pair(of_pairs))
    counts = {"right": sum(s.right for s in samples), "matches": sum(len(s.off) for s in samples)}
    facts = {"pairs": len(samples), **counts, "parts": ",".join(parts)}
    pair = PairModel(*(Linear(**stored["pair"][size]) for size in ("small", "large")))
    calibration = asdict(fit_matcher(name, samples, pair, facts))
    write(out / f"{name}.json", json.dumps(calibration, indent=1))
    click.echo(f"{out / name}.json: {facts}")
    if ship:
        stored["matchers"][name] = calibration
        write(_WEIGHTS, json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
