"""What a detector of the SpaceNet 9 paper finds on its tiles, and a picture of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipelines.common import drawing
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


def draw(scene: SceneFiles, weights: str | None, cache: Path, path: Path) -> None:
    """A row for each of two tiles of a scene: both images and the label (the paper's figure 2), their keypoints green,
    and what the SAR detector predicts, its keypoint red (figure 5). Raises InputError where no tie-point has a tile."""
    tiles = tile_set(scene, "sar", cache=cache)
    if not len(tiles):
        raise InputError(f"{scene.tiepoints}: no tie-point lies in its partner's tile, there is nothing to draw")
    make_folder(path.parent)
    chosen, side = np.linspace(0, len(tiles) - 1, 4).astype(int)[1:3], tiles.values.shape[-1]
    predicted = heatmaps(load_detector("sar", weights), tiles, chosen)
    titles = ("optical", "SAR", "label", "prediction")
    with drawing(path, 90, len(chosen), len(titles), figsize=(15, 4 * len(chosen))) as (_, axes):
        for row, index, heatmap, found in zip(axes, chosen, predicted, read_keypoints(predicted).xy, strict=True):
            place = tiles.place[index]
            label = gaussian(torch.tensor(place)[None], side)[0]
            for axis, image, title in zip(row, (*tiles.images(int(index)), label, heatmap), titles, strict=True):
                axis.imshow(np.asarray(image), cmap="gray" if title in titles[:2] else "magma")
                axis.plot(*([side // 2] * 2 if title == "optical" else place), "x", color="lime", markersize=10)
                axis.set_title(title)
                axis.set_axis_off()
            row[-1].plot(*found.tolist(), "x", color="red", markersize=10)
