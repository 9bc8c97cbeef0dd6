"""The tables of the SpaceNet 9 paper (Hänsch et al., "Introducing SpaceNet 9", section 4), and what goes beyond them.

    python -m pipelines.sn9_baseline SCENES_DIR [--out work/sn9_baseline] [--sar-weights FILE] [--optical-weights FILE]
        [--tables 1,2,3,detectors,better] [--figures]

SCENES_DIR holds scenes in SpaceNet 9's layout (its own `train` folder, or `sn9reg simulate` folders), or tie-point CSVs
with a geotransforms.json and no imagery, which is enough for tables 1 and 2. All distances are means over a scene's
tie-points, unrounded and in optical pixels, exactly as `sn9reg score` counts `mean_px` and `mean_m`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from sn9reg import register
from sn9reg.errors import InputError, Sn9regError
from sn9reg.fit.choose import THRESHOLD_PX
from sn9reg.fit.warp import GlobalFit, fit_global, least_squares_affine
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.keypoints.matcher import FAITHFUL
from sn9reg.offsets import offsets_between
from sn9reg.raster.files import grid_of, open_raster
from sn9reg.raster.grid import Grid, Points
from sn9reg.raster.scene import open_pair
from sn9reg.score.scoring import metres, reference, sn9_reference
from sn9reg.simulate.given import read_geotransforms
from sn9reg.tiepoints import TiePoints, read_tiepoints
from sn9reg.training.tiles import SceneFiles, scene_files

Floats = npt.NDArray[np.float64]
Move = Callable[[Points], Points]  # (N, 2) optical map positions -> (N, 2) SAR map positions, optical CRS

# One step beyond the paper each, then all of them.
SWITCHES: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "+ sub-pixel peak": {"subpixel": True},
    "+ nodes without structure skipped": {"structure": True},
    "+ forward-backward check": {"check": True},
    "+ coarse pass": {"coarse": True},
    "all of them": {"subpixel": True, "structure": True, "check": True, "coarse": True},
}


@dataclass(frozen=True)
class Aoi:
    """A scene's tie-points with both images' grids. files: None where there is no imagery."""

    name: str
    optical: Grid
    sar: Grid
    points: TiePoints
    files: SceneFiles | None = None

    def distances(self, move: Move | None = None) -> tuple[Floats, Floats]:
        """(N,) metres and (N,) optical pixels between each tie-point's SAR place and where `move` puts it; nowhere else
        than the georeference does, without."""
        here = self.optical.to_map(self.points.optical_xy)
        there = here if move is None else move(here)
        error = offsets_between(self.optical, here, there) - reference(self.optical, self.sar, self.points)
        return np.hypot(*metres(self.optical, self.points.optical_xy, error).T), np.hypot(*error.T)

    def best_affine(self, ransac: bool) -> GlobalFit:
        """The affine fitted to the tie-points themselves, with or without RANSAC. Raises InputError for too few."""
        source = self.optical.to_map(self.points.optical_xy)
        target = self.sar.map_to_crs(self.sar.to_map(self.points.sar_xy), self.optical.crs)
        if len(source) < 3:
            raise InputError(f"{self.name}: an affine needs 3 tie-points, there {_are(len(source))}")
        if not ransac:
            centre = source.mean(axis=0)
            matrix = np.vstack([least_squares_affine(source - centre, target - centre), [0, 0, 1]])
            return GlobalFit(matrix, centre, np.ones(len(source), bool))
        found = fit_global(source, target, "affine", THRESHOLD_PX * self.optical.resolution, "ransac")
        if found is None:
            raise InputError(f"{self.name}: its {len(source)} tie-points do not determine an affine")
        return found


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def read_aois(folder: Path) -> list[Aoi]:
    """The scenes of a folder. Raises InputError where there are none, or one cannot be used."""
    if (folder / "geotransforms.json").is_file():
        if tables := sorted(folder.glob("*_tiepoints_*.csv")):
            return [_without_imagery(path) for path in tables]
        raise InputError(f"{folder}: holds a geotransforms.json and no tie-points NN_tiepoints_SPLIT_MM.csv")
    found = []
    for files in scene_files(folder):
        with open_raster(files.optical) as one, open_raster(files.sar) as other:
            optical, sar = grid_of(one), grid_of(other)
        name = files.name if files.optical.parent == folder else f"{files.optical.parent.name}/{files.name}"
        found.append(Aoi(name, optical, sar, read_tiepoints(files.tiepoints, optical, sar), files))
    return found


def _without_imagery(path: Path) -> Aoi:
    geotransforms = path.parent / "geotransforms.json"
    points = read_tiepoints(path)
    optical, sar = read_geotransforms(geotransforms, path.stem)
    try:
        crs = CRS.from_user_input(json.loads(geotransforms.read_text())[path.stem]["crs"])
    except (KeyError, CRSError) as error:
        raise InputError(f"{geotransforms}: has no usable CRS for {path.stem}") from error
    return Aoi(
        path.stem.replace("tiepoints_", ""),
        _around(optical, points.optical_xy, crs),
        _around(sar, points.sar_xy, crs),
        points,
    )


def _around(transform: Affine, xy: Points, crs: CRS) -> Grid:
    """A grid that holds the points; how large the image was is not known and does not matter."""
    width, height = (int(n) + 1 for n in np.ceil(xy.max(axis=0)))
    return Grid(transform, width, height, crs)


def table_1(aois: list[Aoi]) -> list[str]:
    """Tie-points without transformation."""
    rows = [
        "| AOI | tie-points | mean distance, m | mean distance, px | as SpaceNet 9's scorer counts, px |",
        "|---|---|---|---|---|",
    ]
    for aoi in aois:
        m, px = aoi.distances()
        official = np.hypot(*sn9_reference(aoi.optical, aoi.sar, aoi.points).T).mean()
        rows.append(f"| {aoi.name} | {len(aoi.points)} | {m.mean():.2f} | {px.mean():.2f} | {official:.2f} |")
    return rows


def table_2(aois: list[Aoi]) -> list[str]:
    """Affines fitted to the tie-points: the upper bound of any affine."""
    rows = ["| AOI | transformation | mean distance, m | mean distance, px |", "|---|---|---|---|"]
    for aoi in aois:
        for ransac in (False, True):
            m, px = aoi.distances(aoi.best_affine(ransac))
            what = f"affine {'with' if ransac else 'without'} RANSAC"
            rows.append(f"| {aoi.name} | {what} | {m.mean():.2f} | {px.mean():.2f} |")
    return rows


def table_3(aois: list[Aoi], weights: dict[str, Any], switches: list[str]) -> list[str]:
    """Detected keypoints with RANSAC."""
    rows = [
        "| AOI | detection | optical keypoints | inliers | mean distance, m | mean distance, px | time, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for aoi in aois:
        for name in switches:
            matcher = make_matcher("keypoints", **FAITHFUL | SWITCHES[name], **weights)
            start = time.perf_counter()
            with open_pair(aoi.files.optical, aoi.files.sar) as pair:  # type: ignore[union-attr]
                matches = matcher.match(pair)
                limit = THRESHOLD_PX * pair.grid.resolution
                fit = fit_global(matches.optical_map, matches.sar_map, "affine", limit, "ransac")
                seconds = time.perf_counter() - start
                head = f"| {aoi.name} | {name} | {len(matches)} | "
                if fit is None:
                    rows.append(f"{head}none | no affine | no affine | {seconds:.0f} |")
                    continue
                m, px = aoi.distances(_through(aoi.optical, pair.grid, fit))
            rows.append(f"{head}{int(fit.inliers.sum())} | {m.mean():.2f} | {px.mean():.2f} | {seconds:.0f} |")
    return rows


def _through(optical: Grid, grid: Grid, fit: Move) -> Move:
    """A warp of the common grid's CRS, from and to the optical one's."""
    return lambda xy: grid.map_to_crs(fit(optical.map_to_crs(xy, grid.crs)), optical.crs)


def table_models(aois: list[Aoi], weights: dict[str, Any]) -> list[str]:
    """`sn9reg align --matcher keypoints` with an affine and with the model that it chooses itself, beside the best
    possible affine and the default matcher."""
    rows = [
        "| AOI | without | best affine | keypoints, affine | keypoints, auto | default matcher, auto |",
        "|---|---|---|---|---|---|",
    ]
    for aoi in aois:
        cells = [aoi.distances()[1].mean(), aoi.distances(aoi.best_affine(False))[1].mean()]
        runs = []
        for options in (
            {"matcher": "keypoints", "matcher_options": weights, "model": "affine"},
            {"matcher": "keypoints", "matcher_options": weights},
            {},
        ):
            found = register(aoi.files.optical, aoi.files.sar, **options)  # type: ignore[arg-type, union-attr]
            px = aoi.distances(_through(aoi.optical, found.grid, found.warp))[1].mean()
            runs.append(f"{px:.2f}{'' if found.registered else ' (refused)'}")
        rows.append(f"| {aoi.name} | {cells[0]:.2f} | {cells[1]:.2f} | {' | '.join(runs)} |")
    return rows


def table_detectors(aois: list[Aoi], weights: dict[str, Any], cache: Path) -> list[str]:
    """How far each detector's keypoint is from the tie-point, on the tiles of the paper."""
    from pipelines.sn9_figures import detect

    rows = [
        "| AOI | finds | tiles | outside the tile | median error, px | within 13 px | median guess (middle), px |",
        "|---|---|---|---|---|---|---|",
    ]
    for aoi in aois:
        for finds in ("sar", "optical"):
            found = detect(aoi.files, finds, weights.get(f"{finds}_weights"), cache)  # type: ignore[arg-type]
            error, guess = found.errors, found.guesses
            if not len(error):
                rows.append(f"| {aoi.name} | {finds} | 0 | {found.outside} | none | none | none |")
                continue
            rows.append(
                f"| {aoi.name} | {finds} | {len(error)} | {found.outside} | {np.median(error):.2f} | "
                f"{(error <= 13).mean():.2f} | {np.median(guess):.1f} |"
            )
    return rows


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except Sn9regError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


@click.command()
@click.argument("scenes", metavar="SCENES_DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("work/sn9_baseline"), show_default=True)
@click.option("--sar-weights", help="Of the SAR detector [default: those that ship].")
@click.option("--optical-weights", help="Of the optical detector [default: those that ship].")
@click.option("--tables", default="1,2,3,detectors,models", show_default=True)
@click.option("--switches", default=",".join(SWITCHES), show_default=True, help="Rows of table 3.")
@click.option("--figures/--no-figures", default=True, show_default=True, help="Pictures like the paper's, into --out.")
def main(
    scenes: Path, out: Path, sar_weights: str | None, optical_weights: str | None, tables: str, switches: str,
    figures: bool,
) -> None:  # fmt: skip
    """Print the paper's tables for the scenes in SCENES_DIR."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with _clear_errors():
        aois = read_aois(scenes)
        given = {"sar_weights": sar_weights, "optical_weights": optical_weights}
        weights = {name: file for name, file in given.items() if file}
        cache = out / "tiles"
        chosen = switches.split(",")
        if unknown := [name for name in chosen if name not in SWITCHES]:
            raise click.BadParameter(f"no switch {unknown[0]!r}; there are {', '.join(SWITCHES)}")
        imagery = all(aoi.files for aoi in aois)
        makers: dict[str, tuple[str, bool, Callable[[], list[str]]]] = {
            "1": ("Table 1: tie-points without transformation", False, lambda: table_1(aois)),
            "2": ("Table 2: transformations fitted to the tie-points", False, lambda: table_2(aois)),
            "detectors": ("Detectors", True, lambda: table_detectors(aois, weights, cache)),
            "3": ("Table 3: detected keypoints, RANSAC affine", True, lambda: table_3(aois, weights, chosen)),
            "models": ("Mean px by model", True, lambda: table_models(aois, weights)),
        }
        for key in tables.split(","):
            if key not in makers:
                raise click.BadParameter(f"no table {key!r}; there are {', '.join(makers)}")
            title, needs_imagery, make = makers[key]
            if needs_imagery and not imagery:
                click.echo(f"\n{title}: left out, there is no imagery in {scenes}")
                continue
            click.echo(f"\n{title}\n")
            click.echo("\n".join(make()))
        if figures and imagery:
            from pipelines.sn9_figures import draw_all

            for path in draw_all(aois[0].files, weights, cache, out):  # type: ignore[arg-type]
                click.echo(str(path))


if __name__ == "__main__":
    main()
