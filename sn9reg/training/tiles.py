"""Tile sets of SpaceNet 9's baseline: one for the detector that finds SAR keypoints, one for that of optical ones.
Hänsch et al., "Introducing SpaceNet 9", section 3.1: both scenes, aligned, are cropped around the optical keypoint and
the label is where the SAR keypoint lies; for the other detector the other way round."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sn9reg.errors import InputError
from sn9reg.matchers.keypoints.detector import TILE, Cropper
from sn9reg.raster.files import PathLike, atomic_output, make_folder
from sn9reg.raster.folders import data_root
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import PairFiles
from sn9reg.tiepoints import read_tiepoints
from sn9reg.training.sample import Sample

log = logging.getLogger(__name__)

_QUANTUM = 127 / 4  # standardised values of -4 to 4 as int8, 0 as 0
_VERSION = 1  # of what stands in the cache


class SceneFiles(NamedTuple):
    """The three files of a scene in SpaceNet 9's layout."""

    name: str  # e.g. 02_train_01
    optical: Path
    sar: Path
    tiepoints: Path


def scene_files(folder: PathLike) -> list[SceneFiles]:
    """The scenes under a folder, at any depth, by path: NN_optical_SPLIT_MM.tif, NN_sar_SPLIT_MM.tif and
    NN_tiepoints_SPLIT_MM.csv side by side. Raises InputError where there is none, or an image has no partner."""
    if not (root := Path(folder)).is_dir():
        raise InputError(f"{root}: no such folder")
    found = []
    for optical in sorted(root.rglob("*_optical_*.tif")):
        area, _, rest = optical.stem.partition("_optical_")
        partners = [optical.with_name(name) for name in (f"{area}_sar_{rest}.tif", f"{area}_tiepoints_{rest}.csv")]
        if missing := [partner.name for partner in partners if not partner.is_file()]:
            raise InputError(f"{optical}: has no partner {missing[0]} beside it")
        found.append(SceneFiles(f"{area}_{rest}", optical, *partners))
    if not found:
        raise InputError(f"{root}: holds no scene NN_optical_SPLIT_MM.tif with its SAR image and tie-points")
    return found


@dataclass(frozen=True)
class TileSet:
    """N tiles around tie-points."""

    values: npt.NDArray[np.int8]  # (N, bands + 1, S, S) optical and SAR, standardised and times 127 / 4
    place: npt.NDArray[np.float32]  # (N, 2) x, y of the keypoint in the tile that is searched
    outside: int  # number of tie-points left out, because their partner lies outside the tile

    def __len__(self) -> int:
        return len(self.place)

    def images(self, index: int) -> npt.NDArray[np.float32]:
        """(bands + 1, S, S): the optical bands, then SAR."""
        return self.values[index].astype(np.float32) / np.float32(_QUANTUM)


Tile = tuple[TileSet, int]


def tile_sample(tile: Tile, seed: Sequence[int] | None = None) -> Sample:
    """A tile; by a seed, flipped and turned at random about pixel S // 2, where a row and column is wrapped around."""
    tiles, k = tile
    images, place = tiles.images(k), tiles.place[k].astype(np.float64)
    if seed is not None:
        random, side = np.random.default_rng(seed), images.shape[-1]
        middle, even = side // 2, 1 - side % 2
        x, y = place - middle
        if random.integers(2):
            images, x = np.roll(images[..., ::-1], even, axis=-1), -x
        if random.integers(2):
            images, y = np.roll(images[..., ::-1, :], even, axis=-2), -y
        if random.integers(2):
            images, x, y = images.swapaxes(-1, -2), y, x
        images, place = np.ascontiguousarray(images), np.clip([middle + x, middle + y], 0, side - 1)
    return Sample(*map(torch.from_numpy, (images[:-1], images[-1:], place.astype(np.float32))))


def split(tiles: Sequence[TileSet], held_out: float, seed: int) -> tuple[list[Tile], list[Tile]]:
    """All tiles, for training and held out at random (Hänsch et al., section 4: 80 / 20)."""
    every = [(one, k) for one in tiles for k in range(len(one))]
    order = np.random.default_rng(seed).permutation(len(every))
    count = round(held_out * len(every))
    return [every[i] for i in sorted(order[count:])], [every[i] for i in sorted(order[:count])]


def load_tiles(folders: Sequence[str], finds: Modality, side: int, cache: PathLike, bands: int = 1) -> list[TileSet]:
    """The tile sets of all scenes in the folders. Raises InputError where there is no tile in any of them."""
    scenes = [scene for folder in folders for scene in scene_files(data_root() / folder)]
    sets = [tile_set(scene, finds, cache, side, bands) for scene in scenes]
    if folders and not sum(map(len, sets)):
        raise InputError(f"{', '.join(folders)}: no tie-point lies in its partner's tile, so there is nothing to learn")
    return sets


def tile_set(scene: SceneFiles, finds: Modality, cache: PathLike, side: int = TILE, bands: int = 1) -> TileSet:
    """The tiles of a scene's tie-points, kept in the folder `cache` and not in memory, 0 beyond the scene's border.
    finds: the modality whose keypoint is to be found; tiles are centred on that of the other. bands: see `layers`.
    Raises InputError where a file cannot be used or a tie-point lies outside its image, OutputError for the cache."""
    make_folder(cache)
    files = ((file.resolve(), file.stat()) for file in (scene.optical, scene.sar, scene.tiepoints))
    known = json.dumps([_VERSION, bands, *((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in files)])
    stem = f"{scene.name}_{finds}_{side}_{hashlib.sha256(known.encode()).hexdigest()[:12]}"
    values, facts = Path(cache) / f"{stem}.npy", Path(cache) / f"{stem}.json"
    if not facts.exists():
        made = _cut(scene, finds, side, bands)
        with atomic_output(values, overwrite=True) as temporary, open(temporary, "wb") as target:
            np.save(target, made.values)
        with atomic_output(facts, overwrite=True) as temporary:
            temporary.write_text(json.dumps({"place": made.place.tolist(), "outside": made.outside}))
    content = json.loads(facts.read_text())
    place = np.array(content["place"], np.float32).reshape(-1, 2)
    return TileSet(np.load(values, mmap_mode="r"), place, content["outside"])


def _cut(scene: SceneFiles, finds: Modality, side: int, bands: int = 1) -> TileSet:
    with PairFiles(scene.optical, scene.sar).open() as pair:
        points = read_tiepoints(scene.tiepoints, pair.optical.grid, pair.sar.grid)
        optical_xy, sar_xy = (  # pixels of the common grid
            pair.grid.to_pixel(grid.map_to_crs(grid.to_map(xy), pair.grid.crs))
            for grid, xy in ((pair.optical.grid, points.optical_xy), (pair.sar.grid, points.sar_xy))
        )
        middle, wanted = (optical_xy, sar_xy) if finds == "sar" else (sar_xy, optical_xy)
        cropper = Cropper(pair, side)
        place = wanted - cropper.corner(middle)
        inside = ((place >= 0) & (place <= side - 1)).all(axis=1)
        values = np.zeros((int(inside.sum()), bands + 1, side, side), np.int8)
        for tile, xy in zip(values, middle[inside], strict=True):
            crop = cropper.read(xy, xy, bands=bands)
            tile[:] = np.rint(np.concatenate([crop.optical, crop.sar]) * _QUANTUM)
    outside = int((~inside).sum())
    log.info("%s: %d tiles, %d tie-points outside theirs", scene.name, len(values), outside)
    return TileSet(values, place[inside].astype(np.float32), outside)
