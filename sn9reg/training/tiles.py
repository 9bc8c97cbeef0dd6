"""Tile sets of SpaceNet 9's baseline: one for the detector that finds SAR keypoints, one for that of optical ones.

Hänsch et al., "Introducing SpaceNet 9", section 3.1: both scenes, aligned, are cropped around the optical keypoint and
the label is where the SAR keypoint lies; for the other detector the other way round.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sn9reg.errors import InputError
from sn9reg.matchers.keypoints.crops import TILE, Cropper
from sn9reg.raster.files import PathLike, atomic_output, make_folder
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import open_pair
from sn9reg.tiepoints import read_tiepoints

log = logging.getLogger(__name__)

_QUANTUM = 127 / 4  # standardised values of -4 to 4 as int8, 0 as 0
_VERSION = 1  # of what stands in the cache


@dataclass(frozen=True)
class SceneFiles:
    """The three files of a scene in SpaceNet 9's layout."""

    name: str  # e.g. 02_train_01
    optical: Path
    sar: Path
    tiepoints: Path


def scene_files(folder: PathLike) -> list[SceneFiles]:
    """The scenes under a folder, at any depth, by path: NN_optical_SPLIT_MM.tif, NN_sar_SPLIT_MM.tif and
    NN_tiepoints_SPLIT_MM.csv side by side.

    Raises InputError where there is no scene, or an optical image has no partner.
    """
    root = Path(folder)
    if not root.is_dir():
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

    values: npt.NDArray[np.int8]  # (N, 2, S, S) optical and SAR, standardised and times 127 / 4
    place: npt.NDArray[np.float32]  # (N, 2) x, y of the keypoint in the tile that is searched
    outside: int  # number of tie-points left out, because their partner lies outside the tile

    def __len__(self) -> int:
        return len(self.place)

    def images(self, index: int) -> npt.NDArray[np.float32]:
        """(2, S, S) optical and SAR."""
        return self.values[index].astype(np.float32) / np.float32(_QUANTUM)


def tile_set(scene: SceneFiles, finds: Modality, side: int = TILE, cache: PathLike | None = None) -> TileSet:
    """The tiles of a scene's tie-points, by window; kept in the folder `cache`, if one is given, and read from there
    without being held in memory.

    finds: the modality whose keypoint is to be found; tiles are centred on that of the other. A tile that reaches over
    a scene's border holds 0 there.
    Raises InputError where a file cannot be used or a tie-point lies outside its image, OutputError for the cache.
    """
    if cache is None:
        return _cut(scene, finds, side)
    make_folder(cache)
    stem = f"{scene.name}_{finds}_{side}_{_fingerprint(scene)}"
    values, facts = Path(cache) / f"{stem}.npy", Path(cache) / f"{stem}.json"
    if not facts.exists():
        made = _cut(scene, finds, side)
        with atomic_output(values, overwrite=True) as temporary, open(temporary, "wb") as target:
            np.save(target, made.values)
        with atomic_output(facts, overwrite=True) as temporary:
            temporary.write_text(json.dumps({"place": made.place.tolist(), "outside": made.outside}))
    content = json.loads(facts.read_text())
    place = np.array(content["place"], np.float32).reshape(-1, 2)
    return TileSet(np.load(values, mmap_mode="r"), place, content["outside"])


def _cut(scene: SceneFiles, finds: Modality, side: int) -> TileSet:
    with open_pair(scene.optical, scene.sar) as pair:
        points = read_tiepoints(scene.tiepoints, pair.optical.grid, pair.sar.grid)
        optical_xy, sar_xy = (  # pixels of the common grid
            pair.grid.to_pixel(grid.map_to_crs(grid.to_map(xy), pair.grid.crs))
            for grid, xy in ((pair.optical.grid, points.optical_xy), (pair.sar.grid, points.sar_xy))
        )
        middle, wanted = (optical_xy, sar_xy) if finds == "sar" else (sar_xy, optical_xy)
        cropper = Cropper(pair, side)
        place = wanted - cropper.corner(middle)
        inside = ((place >= 0) & (place <= side - 1)).all(axis=1)
        values = np.zeros((int(inside.sum()), 2, side, side), np.int8)
        for k, i in enumerate(np.flatnonzero(inside)):
            crop = cropper.read(middle[i], middle[i])
            values[k] = np.rint(np.stack([crop.optical, crop.sar]) * _QUANTUM)
    log.info("%s: %d tiles, %d tie-points outside theirs", scene.name, len(values), int((~inside).sum()))
    return TileSet(values, place[inside].astype(np.float32), int((~inside).sum()))


def _fingerprint(scene: SceneFiles) -> str:
    files = (scene.optical, scene.sar, scene.tiepoints)
    facts = [_VERSION, *((str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
