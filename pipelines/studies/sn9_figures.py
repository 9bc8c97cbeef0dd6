"""Pictures like those of the SpaceNet 9 paper: a training sample, predicted and reference heatmaps, an offset image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipelines.common import drawing
from sn9reg import register
from sn9reg.errors import InputError
from sn9reg.fit.correspondences import Floats
from sn9reg.matchers.keypoints.heatmap import gaussian, read_keypoints
from sn9reg.matchers.keypoints.weights import load_detector
from sn9reg.raster.files import make_folder
from sn9reg.raster.radiometry import Modality
from sn9reg.training.tiles import SceneFiles, TileSet, tile_set

_BATCH = 16


@dataclass(frozen=True)
class Detections:
    """What a detector found on a scene's tiles."""

    errors: Floats  # (N,) distances of the keypoints to the tie-points, pixels
    guesses: Floats  # (N,) distances of the tiles' middles to the tie-points, pixels
    outside: int  # tie-points without a tile


@torch.inference_mode()
def heatmaps(network: torch.nn.Module, tiles: TileSet, chosen: npt.NDArray[np.intp]) -> torch.Tensor:
    """(n, S, S) of the chosen tiles."""
    images = torch.from_numpy(np.stack([tiles.images(int(i)) for i in chosen]))
    return network(images[:, :1], images[:, 1:])


def detect(scene: SceneFiles, finds: Modality, weights: str | None, cache: Path) -> Detections:
    """Run a detector over the paper's tiles of a scene. weights: a file; None for those that ship."""
    tiles = tile_set(scene, finds, cache=cache)
    network = load_detector(finds, weights)
    parts = [np.arange(start, min(start + _BATCH, len(tiles))) for start in range(0, len(tiles), _BATCH)]
    found = [read_keypoints(heatmaps(network, tiles, part)).xy.double().numpy() for part in parts]
    xy = np.concatenate([np.zeros((0, 2)), *found])
    guesses = np.hypot(*(tiles.place.astype(np.float64) - tiles.values.shape[-1] // 2).T)
    return Detections(np.hypot(*(xy - tiles.place).T), guesses, tiles.outside)


def draw_all(scene: SceneFiles, weights: dict[str, Any], cache: Path, out: Path) -> list[Path]:
    """The three pictures of a scene; their files. Raises InputError where no tie-point has a tile."""
    make_folder(out)
    tiles = tile_set(scene, "sar", cache=cache)
    if not len(tiles):
        raise InputError(f"{scene.tiepoints}: no tie-point lies in its partner's tile, there is nothing to draw")
    chosen = np.linspace(0, len(tiles) - 1, 4).astype(int)[1:3]
    files = [out / f"{name}.png" for name in ("training_sample", "heatmaps", "offsets")]
    _training_sample(files[0], tiles, int(chosen[0]))
    _heatmaps(files[1], tiles, chosen, load_detector("sar", weights.get("sar_weights")))
    _offsets(files[2], scene, weights)
    return files


def _training_sample(path: Path, tiles: TileSet, index: int) -> None:
    """Optical and SAR tile around the optical keypoint, and the label (the paper's figure 2)."""
    middle = tiles.values.shape[-1] // 2
    with drawing(path, 90, columns=3, figsize=(12, 4.3)) as (_, (axes,)):
        _show(axes, tiles, index, label=None)
        axes[0].plot(middle, middle, "rx", markersize=10)
        axes[1].plot(*tiles.place[index], "rx", markersize=10)


def _heatmaps(path: Path, tiles: TileSet, chosen: npt.NDArray[np.intp], network: torch.nn.Module) -> None:
    """Reference (green) and prediction (red), as in the paper's figure 5."""
    predicted, middle = heatmaps(network, tiles, chosen), tiles.values.shape[-1] // 2
    found = read_keypoints(predicted).xy
    with drawing(path, 90, len(chosen), 4, figsize=(15, 4 * len(chosen))) as (_, axes):
        for row, index, heatmap, peak in zip(axes, chosen, predicted, found, strict=True):
            _show(row, tiles, int(index), reference=None, prediction=heatmap)
            row[0].plot(middle, middle, "x", color="lime", markersize=10)
            for axis in row[1:]:
                axis.plot(*tiles.place[index], "x", color="lime", markersize=10)
                axis.plot(*peak.tolist(), "x", color="red", markersize=10)


def _show(axes: Any, tiles: TileSet, index: int, **heatmaps: torch.Tensor | None) -> None:
    """Both images of a tile and heatmaps by their titles; in place of None, the tile's label."""
    optical, sar = tiles.images(index)
    label = gaussian(torch.tensor(tiles.place[index])[None], len(optical))[0]
    for axis, (title, image) in zip(axes, {"optical": optical, "SAR": sar, **heatmaps}.items(), strict=True):
        axis.imshow(np.asarray(label if image is None else image), cmap="magma" if title in heatmaps else "gray")
        axis.set_title(title)
        axis.set_axis_off()


def _offsets(path: Path, scene: SceneFiles, weights: dict[str, Any]) -> None:
    """Both bands of the offset map (the paper's figure 4)."""
    registration = register(scene.optical, scene.sar, matcher="keypoints", matcher_options=weights)
    offsets = registration.offsets()
    step = max(1, max(offsets.grid.shape) // 1000)
    field = offsets.read(offsets.grid.window)[:, ::step, ::step]
    with drawing(path, 90, columns=2, figsize=(14, 5)) as (figure, (axes,)):
        for axis, band, name in zip(axes, field, ("dx", "dy"), strict=False):
            image = axis.imshow(band, cmap="viridis")
            axis.set_title(f"{name}, optical px")
            axis.set_axis_off()
            figure.colorbar(image, ax=axis, shrink=0.8)
