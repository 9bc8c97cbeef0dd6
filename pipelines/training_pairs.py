"""Make folders of registered pairs, NAME_opt.png and NAME_sar.tif, out of scenes, for training matchers.

    python -m pipelines.training_pairs [--data ../shared/data] [--work work]

- `sentinel_la`: the Los Angeles pair, its smooth residual of a few pixels removed by the untrained matcher first.
- `simulated`: simulated scenes of 0.3 m with relief, layover and speckle, registered by their exact offsets, at full,
  half and quarter resolution.
- `scenes/full`, `half`, `quarter`: the simulated scenes of `aoi`, registered likewise, whole.

These go into `pairs`. Beside it: `aoi`, simulated scenes with tie-points in SpaceNet 9's layout, from which keypoint
detectors learn, and `dev`, one by which they are watched.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import rasterio

from sn9reg import register
from sn9reg.apply import apply_offsets
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import data_bands, open_raster
from sn9reg.raster.radiometry import optical_grey
from sn9reg.simulate import simulate

SIDE = 512
SIMULATED = {seed: looks for seed, looks in zip(range(500, 512), (1, 2, 4, 8) * 3, strict=True)}
SCENE = 2048
AOIS, AOI_SIZE = range(601, 609), (5000, 4000)
DEV, DEV_SIZE = 13, (4000, 3000)
FOLDERS = {1: "full", 2: "half", 4: "quarter"}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("work"), show_default=True)
def main(data: Path, work: Path) -> None:
    """All folders; what is there already is kept."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = work / "pairs"
    if (data / "sentinel_la").is_dir():
        los_angeles(data / "sentinel_la", out / "sentinel_la")
    for seed, looks in SIMULATED.items():
        simulated(out / "simulated", seed, looks)
    for seed in AOIS:
        whole(out / "scenes", aoi(work / "aoi", seed, AOI_SIZE), f"s{seed}")
    aoi(work / "dev", DEV, DEV_SIZE)


def los_angeles(folder: Path, out: Path) -> None:
    """The pair, registered by the untrained matcher, in tiles."""
    if any(out.glob("*_opt.png")):
        return
    out.mkdir(parents=True, exist_ok=True)
    registration = register(folder / "optical.tif", folder / "sar.tif", matcher="structure", model="auto")
    registered = out / "registered.tif"
    apply_offsets(registration.offsets(), folder / "sar.tif", registered, resampling="cubic", nodata=0, overwrite=True)
    _tiles(out, "la", folder / "optical.tif", registered, (1,))
    registered.unlink()


def simulated(out: Path, seed: int, looks: float) -> None:
    """One simulated scene, registered by its exact offsets, in tiles of three resolutions."""
    if any(out.glob(f"s{seed}_*_opt.png")):
        return
    files = simulate(out / "scene", SCENE, seed=seed, looks=looks, overwrite=True)
    registered = out / "registered.tif"
    with open_offsets(files.offsets) as offsets:
        apply_offsets(offsets, files.sar, registered, resampling="cubic", overwrite=True)
    _tiles(out, f"s{seed}", files.optical, registered, (1, 2, 4))
    registered.unlink()


def aoi(out: Path, seed: int, size: tuple[int, int]) -> Path:
    """The folder of a simulated scene, made once."""
    folder = out / f"s{seed}"
    if not any(folder.glob("*_offsets_*.tif")):
        simulate(folder, *size, seed=seed, overwrite=True)
    return folder


def whole(out: Path, scene: Path, name: str) -> None:
    """A simulated scene, registered by its exact offsets, at three resolutions."""
    if (out / FOLDERS[4] / f"{name}_mask.png").exists():
        return
    for folder in FOLDERS.values():
        (out / folder).mkdir(parents=True, exist_ok=True)
    registered = out / "registered.tif"
    optical, sar, truth = (next(scene.glob(f"*_{kind}_*.tif")) for kind in ("optical", "sar", "offsets"))
    with open_offsets(truth) as offsets:
        apply_offsets(offsets, sar, registered, resampling="cubic", overwrite=True)
    images = _images(optical, registered)
    for factor, folder in FOLDERS.items():
        _write_pair(out / folder / name, *_coarse(images, factor))
    registered.unlink()


def _tiles(out: Path, name: str, optical: Path, sar: Path, factors: tuple[int, ...]) -> None:
    """Cut two rasters of one grid into tiles that are mostly valid."""
    images = _images(optical, sar)
    for factor in factors:
        coarse = _coarse(images, factor)
        height, width = coarse[2].shape
        for row in range(0, height - SIDE + 1, SIDE):
            for col in range(0, width - SIDE + 1, SIDE):
                part = slice(row, row + SIDE), slice(col, col + SIDE)
                if coarse[2][part].mean() > 0.9:
                    _write_pair(out / f"{name}_{factor}_{row}_{col}", *(image[part] for image in coarse))


def _images(optical: Path, sar: Path) -> tuple[Any, Any, Any]:
    """Grey values, radar amplitude and validity of two rasters of one grid."""
    with open_raster(optical) as one, open_raster(sar) as other:
        grey = optical_grey(one.read(data_bands(one), out_dtype="float32"))
        radar = other.read(1, out_dtype="float32")
        valid = (one.dataset_mask() > 0) & (other.dataset_mask() > 0)
    return grey, radar, valid


def _coarse(images: tuple[Any, Any, Any], factor: int) -> tuple[Any, Any, Any]:
    """The mean of neighbours, in intensity for the radar: what a coarser sensor would have seen."""
    grey, radar, valid = images
    share = _mean(valid.astype(np.float32), factor)
    return _mean(grey, factor), np.sqrt(_mean(radar**2, factor)), share > 0.99


def _write_pair(stem: Path, grey: Any, radar: Any, valid: Any) -> None:
    _write(stem.with_name(stem.name + "_opt.png"), grey, "uint8")
    _write(stem.with_name(stem.name + "_sar.tif"), radar, "uint16")
    _write(stem.with_name(stem.name + "_mask.png"), valid * 255.0, "uint8")


def _mean(image: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    height, width = (n // factor * factor for n in image.shape)
    blocks = image[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _write(path: Path, image: npt.NDArray[np.float32], dtype: str) -> None:
    height, width = image.shape
    top = np.iinfo(dtype).max
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    with rasterio.open(path, "w", driver=driver, width=width, height=height, count=1, dtype=dtype) as target:
        target.write(np.clip(np.rint(image), 0, top).astype(dtype), 1)


if __name__ == "__main__":
    main()
