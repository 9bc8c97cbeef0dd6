"""The tables of the SpaceNet 9 paper (Hänsch et al., "Introducing SpaceNet 9", section 4), and what goes beyond them.

    python -m pipelines.studies.sn9_baseline SCENES_DIR [--tables 1,2,3,detectors] [--no-figures]

SCENES_DIR holds scenes in SpaceNet 9's layout (its own `train` folder, or `sn9reg simulate` folders), or tie-point CSVs
with a geotransforms.json and no imagery, which is enough for tables 1 and 2. All distances are means over a scene's
tie-points, unrounded and in optical pixels, exactly as `sn9reg score` counts `mean_px` and `mean_m`. Whole
registrations, by keypoints and by other matchers, are what `python -m pipelines.compare_backends SCENES_DIR` compares.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from pipelines.common import PATH, Command, listed, markdown, out_option
from pipelines.studies.sn9_figures import detect, draw
from sn9reg.errors import InputError
from sn9reg.fit.choose import THRESHOLD_PX
from sn9reg.fit.correspondences import Floats
from sn9reg.fit.warp import GlobalFit, fit_global, least_squares_affine
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.keypoints.matcher import FAITHFUL
from sn9reg.offsets import offsets_between
from sn9reg.raster.grid import Grid, Points
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import PairFiles, open_pair
from sn9reg.score.scoring import metres, reference, sn9_reference
from sn9reg.simulate.given import read_geotransforms
from sn9reg.tiepoints import TiePoints, read_tiepoints
from sn9reg.training.tiles import scene_files

_SIDE = 10**6  # of images that are not there, pixels: how large they were is not known and does not matter
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
    """A scene's tie-points with both images' grids."""

    name: str
    optical: Grid
    sar: Grid
    points: TiePoints
    scene: Any = None  # `SceneFiles`; None where there is no imagery

    def distances(self, move: Move | None = None) -> tuple[Floats, Floats]:
        """(N,) metres and (N,) optical pixels from where `move`, or else the georeference, puts each tie-point."""
        here = self.optical.to_map(self.points.optical_xy)
        there = here if move is None else move(here)
        error = offsets_between(self.optical, here, there) - reference(self.optical, self.sar, self.points)
        return np.hypot(*metres(self.optical, self.points.optical_xy, error).T), np.hypot(*error.T)

    def best_affine(self, ransac: bool) -> GlobalFit:
        """The affine fitted to the tie-points themselves, with or without RANSAC. Raises InputError for too few."""
        source = self.optical.to_map(self.points.optical_xy)
        target = self.sar.map_to_crs(self.sar.to_map(self.points.sar_xy), self.optical.crs)
        if (n := len(source)) < 3:
            raise InputError(f"{self.name}: an affine needs 3 tie-points, there {'is' if n == 1 else 'are'} {n}")
        if not ransac:
            centre = source.mean(axis=0)
            matrix = np.vstack([least_squares_affine(source - centre, target - centre), [0, 0, 1]])
            return GlobalFit(matrix, centre, np.ones(len(source), bool))
        found = fit_global(source, target, "affine", THRESHOLD_PX * self.optical.resolution, "ransac")
        if found is None:
            raise InputError(f"{self.name}: its {n} tie-points do not determine an affine")
        return found


def read_aois(folder: Path) -> list[Aoi]:
    """The scenes of a folder. Raises InputError where there are none, or one cannot be used."""
    if (folder / "geotransforms.json").is_file():
        if tables := sorted(folder.glob("*_tiepoints_*.csv")):
            return [_without_imagery(path) for path in tables]
        raise InputError(f"{folder}: holds a geotransforms.json and no tie-points NN_tiepoints_SPLIT_MM.csv")
    found = []
    for files in scene_files(folder):
        optical, sar = PairFiles(files.optical, files.sar).grids()
        name = files.name if files.optical.parent == folder else f"{files.optical.parent.name}/{files.name}"
        found.append(Aoi(name, optical, sar, read_tiepoints(files.tiepoints, optical, sar), files))
    return found


def _without_imagery(path: Path) -> Aoi:
    geotransforms = path.parent / "geotransforms.json"
    points = read_tiepoints(path)
    transforms = read_geotransforms(geotransforms, path.stem)
    try:
        crs = CRS.from_user_input(json.loads(geotransforms.read_text())[path.stem]["crs"])
    except (KeyError, CRSError) as error:
        raise InputError(f"{geotransforms}: has no usable CRS for {path.stem}") from error
    optical, sar = (Grid(transform, _SIDE, _SIDE, crs) for transform in transforms)
    return Aoi(path.stem.replace("tiepoints_", ""), optical, sar, points)


def table_1(aois: list[Aoi]) -> str:
    rows = []
    for aoi in aois:
        official = np.hypot(*sn9_reference(aoi.optical, aoi.sar, aoi.points).T)
        rows.append((aoi.name, f"{len(aoi.points)}", *_means(*aoi.distances(), official)))
    head = ("AOI", "tie-points", "mean distance, m", "mean distance, px", "as SpaceNet 9's scorer counts, px")
    return markdown(head, rows)


def table_2(aois: list[Aoi]) -> str:
    """Affines fitted to the tie-points: the upper bound of any affine."""
    kinds = product(aois, (("affine without RANSAC", False), ("affine with RANSAC", True)))
    rows = [(aoi.name, what, *_means(*aoi.distances(aoi.best_affine(ransac)))) for aoi, (what, ransac) in kinds]
    return markdown(("AOI", "transformation", "mean distance, m", "mean distance, px"), rows)


def table_3(aois: list[Aoi], weights: dict[str, Any], switches: list[str]) -> str:
    rows = []
    for aoi, name in product(aois, switches):
        matcher = make_matcher("keypoints", **FAITHFUL | SWITCHES[name], **weights)
        start = time.perf_counter()
        with open_pair(aoi.scene.optical, aoi.scene.sar) as pair:
            matches = matcher.match(pair)
            limit = THRESHOLD_PX * pair.grid.resolution
            fit = fit_global(matches.optical_map, matches.sar_map, "affine", limit, "ransac")
            seconds = time.perf_counter() - start
            found = ["none", "no affine", "no affine"]
            if fit is not None:
                found = [f"{int(fit.inliers.sum())}", *_means(*aoi.distances(_through(aoi.optical, pair.grid, fit)))]
        rows.append((aoi.name, name, f"{len(matches)}", *found, f"{seconds:.0f}"))
    distance = ("mean distance, m", "mean distance, px")
    return markdown(("AOI", "detection", "optical keypoints", "inliers", *distance, "time, s"), rows)


def _means(*values: Floats) -> list[str]:
    return [f"{one.mean():.2f}" for one in values]


def _through(optical: Grid, grid: Grid, fit: Move) -> Move:
    """A warp of the common grid's CRS, from and to the optical one's."""
    return lambda xy: grid.map_to_crs(fit(optical.map_to_crs(xy, grid.crs)), optical.crs)


def table_detectors(aois: list[Aoi], weights: dict[str, Any], cache: Path) -> str:
    """How far each detector's keypoint is from the tie-point, on the tiles of the paper."""
    rows = []
    finders: tuple[Modality, ...] = ("sar", "optical")
    for aoi, finds in product(aois, finders):
        found = detect(aoi.scene, finds, weights.get(f"{finds}_weights"), cache)
        cells = ["none"] * 3
        if len(error := found.errors):
            cells = [f"{np.median(error):.2f}", f"{(error <= 13).mean():.2f}", f"{np.median(found.guesses):.1f}"]
        rows.append((aoi.name, finds, f"{len(error)}", f"{found.outside}", *cells))
    sizes = ("median error, px", "within 13 px", "median guess (middle), px")
    return markdown(("AOI", "finds", "tiles", "outside the tile", *sizes), rows)


@click.command(cls=Command)
@click.argument("scenes", metavar="SCENES_DIR", type=PATH)
@out_option("sn9_baseline")
@click.option("--sar-weights", help="Of the SAR detector [default: those that ship].")
@click.option("--optical-weights", help="Of the optical detector [default: those that ship].")
@listed("--tables", ("1", "2", "3", "detectors"))
@listed("--switches", SWITCHES, "Rows of table 3.")
@click.option("--figures/--no-figures", default=True, show_default=True, help="A picture like the paper's, into --out.")
def main(scenes: Path, out: Path, tables: list[str], switches: list[str], figures: bool, **files: str | None) -> None:
    """Print the paper's tables for the scenes in SCENES_DIR."""
    aois, cache = read_aois(scenes), out / "tiles"
    imagery = all(aoi.scene for aoi in aois)
    weights = {name: file for name, file in files.items() if file}
    makers: dict[str, tuple[str, Callable[[], str]]] = {
        "1": ("Table 1: tie-points without transformation", lambda: table_1(aois)),
        "2": ("Table 2: transformations fitted to the tie-points", lambda: table_2(aois)),
        "3": ("Table 3: detected keypoints, RANSAC affine", lambda: table_3(aois, weights, switches)),
        "detectors": ("Detectors", lambda: table_detectors(aois, weights, cache)),
    }
    for name in tables:
        title, make = makers[name]
        if imagery or name in ("1", "2"):
            click.echo(f"\n{title}\n\n{make()}", nl=False)
        else:
            click.echo(f"\n{title}: left out, there is no imagery in {scenes}")
    if figures and imagery:
        draw(aois[0].scene, weights.get("sar_weights"), cache, out / "heatmaps.png")
        click.echo(str(out / "heatmaps.png"))


if __name__ == "__main__":
    main()
