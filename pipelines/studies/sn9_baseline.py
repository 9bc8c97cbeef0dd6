"""The tables of the SpaceNet 9 paper (Hänsch et al., "Introducing SpaceNet 9", section 4), and what goes beyond them.
SCENES_DIR holds scenes in SpaceNet 9's layout (its own `train` folder, or `sn9reg simulate` folders), or tie-point CSVs
with a geotransforms.json and no imagery, which is enough for tables 1 and 2. All distances are means over a scene's
tie-points, unrounded and in optical pixels, exactly as `sn9reg score` counts `mean_px` and `mean_m`."""

import json
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from rasterio.crs import CRS
from rasterio.errors import CRSError

from pipelines.common import PATH, Command, drawing, listed, markdown, out_option
from sn9reg.errors import InputError
from sn9reg.fit.choose import THRESHOLD_PX
from sn9reg.fit.correspondences import Floats
from sn9reg.fit.warp import IDENTITY, GlobalFit, fit_global
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.keypoints.heatmap import gaussian, read_keypoints
from sn9reg.matchers.keypoints.matcher import FAITHFUL
from sn9reg.matchers.keypoints.network import load_detector
from sn9reg.offsets import offsets_between
from sn9reg.raster.files import make_folder
from sn9reg.raster.grid import Grid, Points
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import PairFiles
from sn9reg.score.scoring import metres, reference, sn9_reference
from sn9reg.simulate.field import read_geotransforms
from sn9reg.tiepoints import TiePoints, read_tiepoints
from sn9reg.training.tiles import SceneFiles, TileSet, scene_files, tile_set

_BATCH = 16
_SIDE = 10**6  # of images that are not there, pixels: how large they were is not known and does not matter
Move = Callable[[Points], Points]  # (N, 2) optical map positions -> (N, 2) SAR map positions, in one CRS

# One step beyond the paper each, then all of them.
SWITCHES: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "+ sub-pixel peak": {"subpixel": True},
    "+ nodes without structure skipped": {"structure": True},
    "+ forward-backward check": {"check": True},
    "+ coarse pass": {"coarse": True},
    "all of them": {"subpixel": True, "structure": True, "check": True, "coarse": True},
}


class Aoi(NamedTuple):
    """A scene's tie-points with both images' grids."""

    name: str
    optical: Grid
    sar: Grid
    points: TiePoints
    scene: Any = None  # `SceneFiles`, where there is imagery

    def distances(self, move: Move = IDENTITY, grid: Grid | None = None) -> tuple[Floats, Floats]:
        """(N,) metres and (N,) optical pixels from where `move`, in the CRS of `grid`, puts each tie-point."""
        grid, here = grid or self.optical, self.optical.to_map(self.points.optical_xy)
        there = grid.map_to_crs(move(self.optical.map_to_crs(here, grid.crs)), self.optical.crs)
        error = offsets_between(self.optical, here, there) - reference(self.optical, self.sar, self.points)
        return np.hypot(*metres(self.optical, self.points.optical_xy, error).T), np.hypot(*error.T)

    def best_affine(self, ransac: bool) -> GlobalFit:
        """The affine fitted to the tie-points themselves, with or without RANSAC. Raises InputError for too few."""
        source = self.optical.to_map(self.points.optical_xy)
        target = self.sar.map_to_crs(self.sar.to_map(self.points.sar_xy), self.optical.crs)
        limit = THRESHOLD_PX * self.optical.resolution if ransac else np.inf  # which makes it that of least squares
        found = fit_global(source, target, "affine", limit)
        if found is None:
            raise InputError(f"{self.name}: its {len(source)} tie-points do not determine an affine")
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
    transforms = read_geotransforms(geotransforms, path.stem)
    try:
        crs = CRS.from_user_input(json.loads(geotransforms.read_text())[path.stem]["crs"])
    except (KeyError, CRSError) as error:
        raise InputError(f"{geotransforms}: has no usable CRS for {path.stem}") from error
    optical, sar = (Grid(transform, _SIDE, _SIDE, crs) for transform in transforms)
    return Aoi(path.stem.replace("tiepoints_", ""), optical, sar, read_tiepoints(path, optical, sar))


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
    """Affines by RANSAC through the matches of detected keypoints."""
    rows = []
    for aoi, name in product(aois, switches):
        matcher = make_matcher("keypoints", **FAITHFUL | SWITCHES[name], **weights)
        start = time.perf_counter()
        with PairFiles(aoi.scene.optical, aoi.scene.sar).open() as pair:
            matches = matcher.match(pair)
            fit = fit_global(matches.optical_map, matches.sar_map, "affine", THRESHOLD_PX * pair.grid.resolution)
            seconds = time.perf_counter() - start
            found = ["none", "no affine", "no affine"]
            if fit is not None:
                found = [f"{int(fit.inliers.sum())}", *_means(*aoi.distances(fit, pair.grid))]
        rows.append((aoi.name, name, f"{len(matches)}", *found, f"{seconds:.0f}"))
    distance = ("mean distance, m", "mean distance, px")
    return markdown(("AOI", "detection", "optical keypoints", "inliers", *distance, "time, s"), rows)


def _means(*values: Floats) -> list[str]:
    return [f"{one.mean():.2f}" for one in values]


class Detections(NamedTuple):
    """What a detector found on a scene's tiles."""

    errors: Floats  # (N,) distances of the keypoints to the tie-points, pixels
    guesses: Floats  # (N,) distances of the tiles' middles to the tie-points, pixels
    outside: int  # tie-points without a tile

    @property
    def facts(self) -> dict[str, float]:
        error, guess = (float(np.median(distances)) for distances in (self.errors, self.guesses))
        return {"median_error_px": error, "within_13_px": float((self.errors <= 13).mean()), "median_guess_px": guess}


@torch.inference_mode()
def heatmaps(network: torch.nn.Module, tiles: TileSet, chosen: Sequence[int]) -> torch.Tensor:
    """(n, S, S) of the chosen tiles."""
    images = torch.from_numpy(np.stack([tiles.images(i) for i in chosen]))
    return network(images[:, :1], images[:, 1:])


def detect(scene: SceneFiles, finds: Modality, weights: str | None, cache: Path) -> Detections:
    """Run a detector over the paper's tiles of a scene. weights: a file; None for those that ship."""
    tiles, network = tile_set(scene, finds, cache=cache), load_detector(finds, weights)
    parts = (range(len(tiles))[start : start + _BATCH] for start in range(0, len(tiles), _BATCH))
    found = [read_keypoints(heatmaps(network, tiles, part)).xy.double().numpy() for part in parts]
    off = np.concatenate([np.zeros((0, 2)), *found]) - tiles.place
    guesses = np.hypot(*(tiles.place.astype(np.float64) - tiles.values.shape[-1] // 2).T)
    return Detections(np.hypot(*off.T), guesses, tiles.outside)


def table_detectors(aois: list[Aoi], weights: dict[str, Any], cache: Path) -> str:
    """How far each detector's keypoint is from the tie-point, on the tiles of the paper."""
    rows = []
    finders: tuple[Modality, ...] = ("sar", "optical")
    for aoi, finds in product(aois, finders):
        found = detect(aoi.scene, finds, weights.get(f"{finds}_weights"), cache)
        cells = "{:.2f} {:.2f} {:.1f}".format(*found.facts.values()).split() if len(found.errors) else ["none"] * 3
        rows.append((aoi.name, finds, f"{len(found.errors)}", f"{found.outside}", *cells))
    sizes = ("median error, px", "within 13 px", "median guess (middle), px")
    return markdown(("AOI", "finds", "tiles", "outside the tile", *sizes), rows)


def draw(scene: SceneFiles, weights: str | None, cache: Path, path: Path) -> None:
    """A row for each of two tiles of a scene: both images and the label (the paper's figure 2), their keypoints green,
    and what the SAR detector predicts, its keypoint red (figure 5). Raises InputError where no tie-point has a tile."""
    tiles = tile_set(scene, "sar", cache=cache)
    if not len(tiles):
        raise InputError(f"{scene.tiepoints}: no tie-point lies in its partner's tile, there is nothing to draw")
    make_folder(path.parent)
    chosen, side = np.linspace(0, len(tiles) - 1, 4).astype(int)[1:3].tolist(), tiles.values.shape[-1]
    predicted = heatmaps(load_detector("sar", weights), tiles, chosen)
    titles = ("optical", "SAR", "label", "prediction")
    with drawing(path, 90, len(chosen), len(titles), figsize=(15, 4 * len(chosen))) as (_, axes):
        for row, index, heatmap, found in zip(axes, chosen, predicted, read_keypoints(predicted).xy, strict=True):
            place = tiles.place[index]
            label = gaussian(torch.tensor(place)[None], side)[0]
            for axis, image, title in zip(row, (*tiles.images(index), label, heatmap), titles, strict=True):
                axis.imshow(np.asarray(image), cmap="gray" if title in titles[:2] else "magma")
                axis.plot(*([side // 2] * 2 if title == "optical" else place), "x", color="lime", markersize=10)
                axis.set_title(title)
                axis.set_axis_off()
            row[-1].plot(*found.tolist(), "x", color="red", markersize=10)


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
