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
from pipelines.train import trained
from sn9reg.errors import ConfigError, InputError
from sn9reg.fit.choose import THRESHOLD_PX
from sn9reg.fit.correspondences import Floats
from sn9reg.fit.warp import IDENTITY, GlobalFit, fit_global
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.keypoints.heatmap import gaussian, read_keypoints
from sn9reg.matchers.keypoints.matcher import FAITHFUL
from sn9reg.matchers.keypoints.network import HeatmapUNet, load_detector
from sn9reg.offsets import node_positions, offsets_between
from sn9reg.raster.files import make_folder
from sn9reg.raster.grid import Grid, Points
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import PairFiles
from sn9reg.score.scoring import metres, reference, sn9_reference
from sn9reg.simulate.field import read_geotransforms
from sn9reg.tiepoints import TiePoints, read_tiepoints
from sn9reg.training.config import read
from sn9reg.training.keypoints import KeypointConfig
from sn9reg.training.tiles import SceneFiles, TileSet, scene_files, split, tile_set

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


class Inference(NamedTuple):
    """What the workflow of section 3.2 makes of a scene."""

    aoi: Aoi
    switch: str
    matches: int
    fit: GlobalFit | None  # in the CRS of `grid`
    grid: Grid
    seconds: float


def infer(aois: list[Aoi], weights: dict[str, Any], switches: list[str]) -> list[Inference]:
    """Affines by RANSAC through the matches of detected keypoints."""
    found = []
    for aoi, name in product(aois, switches):
        matcher = make_matcher("keypoints", **FAITHFUL | SWITCHES[name], **weights)
        start = time.perf_counter()
        with PairFiles(aoi.scene.optical, aoi.scene.sar).open() as pair:
            matches = matcher.match(pair)
            fit = fit_global(matches.optical_map, matches.sar_map, "affine", THRESHOLD_PX * pair.grid.resolution)
            found.append(Inference(aoi, name, len(matches), fit, pair.grid, time.perf_counter() - start))
    return found


def table_3(found: list[Inference]) -> str:
    rows = []
    for aoi, name, matches, fit, grid, seconds in found:
        cells = ["none", "no affine", "no affine"]
        if fit is not None:
            cells = [f"{int(fit.inliers.sum())}", *_means(*aoi.distances(fit, grid))]
        rows.append((aoi.name, name, f"{matches}", *cells, f"{seconds:.0f}"))
    distance = ("mean distance, m", "mean distance, px")
    return markdown(("AOI", "detection", "optical keypoints", "inliers", *distance, "time, s"), rows)


def pixel_offsets(found: Inference) -> Floats:
    """(2, ny, nx) x and y shifts, in optical pixels, by the affine of table 3, at every 32nd optical pixel. Raises
    InputError where there is no affine."""
    aoi, fit, grid = found.aoi, found.fit, found.grid
    if fit is None:
        raise InputError(f"{aoi.name}: its {found.matches} matches determine no affine, there is no figure 4")
    xy, shape = node_positions(aoi.optical)
    here = aoi.optical.to_map(xy)
    there = grid.map_to_crs(fit(aoi.optical.map_to_crs(here, grid.crs)), aoi.optical.crs)
    return offsets_between(aoi.optical, here, there).T.reshape(2, *shape)


def figure_4(found: Inference, path: Path) -> None:
    """The paper's pixel-offset image of a scene, x and y. Raises InputError where there is no affine."""
    optical, offsets = found.aoi.optical, pixel_offsets(found)
    make_folder(path.parent)
    with drawing(path, 90, 1, 2, figsize=(13, 5)) as (figure, axes):
        for axis, shift, name in zip(axes[0], offsets, "xy", strict=True):
            shown = axis.imshow(shift, extent=(0, optical.width, optical.height, 0))
            axis.set(title=f"{found.aoi.name}: {name} shift to the SAR image", xlabel="column", ylabel="row")
            figure.colorbar(shown, ax=axis, label="optical pixels", shrink=0.8)


def _means(*values: Floats) -> list[str]:
    return [f"{one.mean():.2f}" for one in values]


class Detections(NamedTuple):
    """What a detector found on a scene's tiles."""

    errors: Floats  # (N,) distances of the keypoints, read to parts of a pixel, to the tie-points, pixels
    whole: Floats  # (N,) as `errors`, of the heatmaps' highest pixels: the paper's argmax
    guesses: Floats  # (N,) distances of the tiles' middles to the tie-points, pixels
    outside: int  # tie-points without a tile

    @property
    def facts(self) -> dict[str, float]:
        error, guess = (float(np.median(distances)) for distances in (self.errors, self.guesses))
        return {"median_error_px": error, "within_13_px": float((self.errors <= 13).mean()), "median_guess_px": guess}


class Finder(NamedTuple):
    """A detector, and which of the scenes' tiles it did not see."""

    network: HeatmapUNet
    held_out: float = 1.0  # share of the tiles of all scenes; a training on these scenes kept them for validation
    seed: int = 0  # of the split

    @property
    def kind(self) -> str:
        """What tells it from the paper's, which has RGB and no similarity."""
        similar = ", with similarity" if len(self.network.similarity) else ""
        return f"{'RGB' if self.network.bands == 3 else 'grey'}{similar}"

    def unseen(self, scenes: Sequence[SceneFiles], cache: Path) -> list[tuple[TileSet, list[int]]]:
        """The tiles of each scene, and the indices of those not seen."""
        sets = [tile_set(scene, self.network.finds, cache, bands=self.network.bands) for scene in scenes]
        _, held = split(sets, self.held_out, self.seed)
        return [(tiles, [k for one, k in held if one is tiles]) for tiles in sets]


@torch.inference_mode()
def heatmaps(network: torch.nn.Module, tiles: TileSet, chosen: Sequence[int]) -> torch.Tensor:
    """(n, S, S) of the chosen tiles."""
    images = torch.from_numpy(np.stack([tiles.images(i) for i in chosen]))
    return network(images[:, :-1], images[:, -1:])


def detect(scene: SceneFiles, finds: Modality, weights: str | None, cache: Path) -> Detections:
    """Run a detector over the paper's tiles of a scene. weights: a file; None for those that ship."""
    finder = Finder(load_detector(finds, weights))
    return detected(finder, *finder.unseen([scene], cache)[0])


def detected(finder: Finder, tiles: TileSet, chosen: Sequence[int]) -> Detections:
    """Run a detector over some tiles of a scene."""
    off: dict[bool, list[Floats]] = {True: [np.zeros((0, 2))], False: [np.zeros((0, 2))]}
    for start in range(0, len(chosen), _BATCH):
        part = chosen[start : start + _BATCH]
        heatmap = heatmaps(finder.network, tiles, part)
        for subpixel, found in off.items():
            found.append(read_keypoints(heatmap, subpixel).xy.double().numpy() - tiles.place[part])
    guesses = tiles.place[chosen].astype(np.float64) - tiles.values.shape[-1] // 2
    errors, whole = (np.hypot(*np.concatenate(off[subpixel]).T) for subpixel in (True, False))
    return Detections(errors, whole, np.hypot(*guesses.T), tiles.outside)


def table_detectors(aois: list[Aoi], finders: dict[Modality, Finder], cache: Path) -> str:
    """How far each detector's keypoint is from the tie-point on the paper's tiles, by argmax and by our own reading."""
    rows = []
    for finds, finder in finders.items():
        for aoi, (tiles, chosen) in zip(aois, finder.unseen([aoi.scene for aoi in aois], cache), strict=True):
            found, cells = detected(finder, tiles, chosen), ["none"] * 5
            if chosen:
                cells = [*_spread(found.whole), *_spread(found.errors), f"{np.median(found.guesses):.1f}"]
            rows.append((aoi.name, finds, finder.kind, f"{len(chosen)}", f"{found.outside}", *cells))
    read = (f"{way}: {what}" for way, what in product(("argmax", "sub-pixel"), ("median error, px", "within 13 px")))
    return markdown(("AOI", "finds", "input", "tiles", "outside the tile", *read, "median guess (middle), px"), rows)


def _spread(errors: Floats) -> list[str]:
    return [f"{np.median(errors):.2f}", f"{(errors <= 13).mean():.2f}"]


def figure_5(finder: Finder, scenes: Sequence[SceneFiles], cache: Path, path: Path) -> None:
    """A row for each of two tiles that were not seen: both images, the label and what the SAR detector predicts. The
    keypoints are green, and the predicted one, by argmax as in the paper, red. Raises InputError for no tile."""
    tiles, chosen = max(finder.unseen(scenes, cache), key=lambda scene: len(scene[1]))
    if not chosen:
        raise InputError(f"{scenes[0].tiepoints}: no tie-point lies in its partner's tile, there is nothing to draw")
    make_folder(path.parent)
    shown, side = [chosen[k] for k in np.linspace(0, len(chosen) - 1, 4).astype(int)[1:3]], tiles.values.shape[-1]
    predicted = heatmaps(finder.network, tiles, shown)
    titles = ("optical", "SAR", "label", "prediction")
    with drawing(path, 90, len(shown), len(titles), figsize=(15, 4 * len(shown))) as (_, axes):
        peaks = read_keypoints(predicted, subpixel=False).xy
        for row, index, heatmap, found in zip(axes, shown, predicted, peaks, strict=True):
            place, images = tiles.place[index], tiles.images(index)
            label = gaussian(torch.tensor(place)[None], side)[0]
            optical = np.clip(images[:-1].transpose(1, 2, 0) / 5 + 0.5, 0, 1)
            for axis, image, title in zip(row, (optical, images[-1], label, heatmap), titles, strict=True):
                axis.imshow(np.asarray(image), cmap="gray" if title in titles[:2] else "magma")
                axis.plot(*([side // 2] * 2 if title == "optical" else place), "x", color="lime", markersize=10)
                axis.set_title(title)
                axis.set_axis_off()
            for axis in (row[1], row[3]):
                axis.plot(*found.tolist(), "x", color="red", markersize=10)


def trained_on(scenes: Path, config: str, epochs: int, finds: Modality, out: Path) -> tuple[str, KeypointConfig]:
    """The weights of a detector trained on the scenes, unless `out` holds some, and the configuration."""
    changes = {"finds": finds, "scenes": [str(scenes.absolute())], "epochs": epochs, "cache": str(out / "tiles")}
    made = read(config, **changes)
    if not isinstance(made, KeypointConfig):
        raise ConfigError(f"{config}: trains {made.family}, not keypoints")
    return str(trained(made, out / finds)), made


@click.command(cls=Command)
@click.argument("scenes", metavar="SCENES_DIR", type=PATH)
@out_option("sn9_baseline")
@click.option("--epochs", type=click.IntRange(1), help="Train both detectors on SCENES_DIR first; 100 as published.")
@click.option("--config", default="pipelines/training/sn9-baseline.yaml", show_default=True, help="Of that training.")
@click.option("--sar-weights", help="Of the SAR detector [default: those that ship].")
@click.option("--optical-weights", help="Of the optical detector [default: those that ship].")
@listed("--tables", ("1", "2", "3", "detectors"))
@listed("--switches", SWITCHES, "Rows of table 3.")
@click.option("--figures/--no-figures", default=True, show_default=True, help="5, and 4 with table 3, into --out.")
def main(
    scenes: Path, out: Path, epochs: int | None, config: str, tables: list[str], switches: list[str], figures: bool,
    **files: str | None,
) -> None:  # fmt: skip
    """Print the paper's tables for the scenes in SCENES_DIR."""
    aois, cache = read_aois(scenes), out / "tiles"
    imagery, finders = all(aoi.scene for aoi in aois), dict[Modality, Finder]()
    weights = {name: file for name, file in files.items() if file}
    kinds: tuple[Modality, ...] = ("sar", "optical")
    for finds in kinds if imagery else ():
        how: dict[str, Any] = {}
        if epochs and f"{finds}_weights" not in weights:
            weights[f"{finds}_weights"], made = trained_on(scenes, config, epochs, finds, out)
            how = {"held_out": made.held_out, "seed": made.seed}
        finders[finds] = Finder(load_detector(finds, weights.get(f"{finds}_weights")), **how)
    found = infer(aois, weights, switches) if imagery and "3" in tables else []
    inputs = "; ".join(f"{finds} detector: {finder.kind}" for finds, finder in finders.items())
    makers: dict[str, tuple[str, Callable[[], str]]] = {
        "1": ("Table 1: tie-points without transformation", lambda: table_1(aois)),
        "2": ("Table 2: transformations fitted to the tie-points", lambda: table_2(aois)),
        "3": (f"Table 3: detected keypoints, RANSAC affine; {inputs}", lambda: table_3(found)),
        "detectors": ("Detectors", lambda: table_detectors(aois, finders, cache)),
    }
    for name in tables:
        title, make = makers[name]
        if imagery or name in ("1", "2"):
            click.echo(f"\n{title}\n\n{make()}", nl=False)
        else:
            click.echo(f"\n{title}: left out, there is no imagery in {scenes}")
    if figures and imagery:
        figure_5(finders["sar"], [aoi.scene for aoi in aois], cache, out / "figure_5.png")
        click.echo(str(out / "figure_5.png"))
    if figures and found:
        figure_4(found[0], out / "figure_4.png")
        click.echo(str(out / "figure_4.png"))


if __name__ == "__main__":
    main()
