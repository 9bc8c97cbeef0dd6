"""Folders of small registered pairs: NAME_opt.* and NAME_sar.*, and NAME_mask.* where not every pixel is valid."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sn9reg.errors import InputError
from sn9reg.raster.files import PathLike, data_bands, open_raster, reading
from sn9reg.raster.scene import Patch
from sn9reg.raster.validity import read_data


@dataclass(frozen=True)
class RegisteredPair:
    """The files of one pair."""

    name: str
    optical: Path
    sar: Path
    mask: Path | None  # a raster, above 0 where both images are valid; None where all pixels are

    def read(self, native: bool = False) -> tuple[Patch, Patch]:
        """Optical and SAR patch; float32, or the file's data type if `native`. Raises InputError where a file cannot be
        read or the mask has another size."""
        return _read(self.optical, self.mask, native), _read(self.sar, self.mask, native)


def data_root() -> Path:
    """The folder that holds the data sets: `$SN9REG_DATA`, or `data`. See data/README.md for what lies where."""
    return Path(os.environ.get("SN9REG_DATA", "data"))


def pair_files(folder: PathLike, limit: int | None = None) -> list[RegisteredPair]:
    """The pairs of a folder, by name; at most `limit`, evenly apart. Raises InputError where there are none."""
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder")
    found = []
    for optical in _rasters(folder, "*_opt"):
        name = optical.stem.removesuffix("_opt")
        sar, mask = (_rasters(folder, f"{glob.escape(name)}_{kind}") for kind in ("sar", "mask"))
        if sar:
            found.append(RegisteredPair(name, optical, sar[0], mask[0] if mask else None))
    if not found:
        raise InputError(f"{folder}: holds no pairs NAME_opt.* and NAME_sar.*")
    return [found[round(k)] for k in np.linspace(0, len(found) - 1, min(limit or len(found), len(found)))]


def _rasters(folder: Path, stem: str) -> list[Path]:
    beside = (".tfw", ".pgw", ".jgw", ".wld", ".prj", ".xml")  # files that may accompany a raster, under its name
    return sorted(path for path in folder.glob(f"{stem}.*") if path.suffix.lower() not in beside)


def _read(path: Path, mask: Path | None, native: bool) -> Patch:
    with open_raster(path) as dataset, reading(path):
        values, valid = read_data(dataset, data_bands(dataset))
    if mask is not None:
        with open_raster(mask) as dataset, reading(mask):
            inside = dataset.read(1) > 0
        if inside.shape != valid.shape:
            raise InputError(f"{mask}: differs in size from {path.name}")
        valid = valid & inside
    values = np.where(valid, values, values.dtype.type(0))
    return Patch(values if native else values.astype(np.float32, copy=False), valid)
