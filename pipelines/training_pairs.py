"""Make folders of registered pairs, NAME_opt.png and NAME_sar.tif, out of scenes, for training matchers.

    python -m pipelines.training_pairs [--data DIR]

Into DIR/pairs, which the training configurations name:

- `sentinel_la`: the Los Angeles pair, its smooth residual of a few pixels removed by the untrained matcher first.
- `simulated`: tiles of simulated scenes, registered by their exact offsets, at full, half and quarter resolution;
  `cities` the same of cities and towns.
- `scenes/full`, `half`, `quarter`: the simulated scenes of DIR/scenes/aoi, registered likewise, whole.

Into DIR/scenes: scenes with tie-points in SpaceNet 9's layout, `aoi` to train keypoint detectors, `dev` to watch them.
"""

import logging
from itertools import product
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import rasterio

from pipelines.common import DATA_OPTION, Command
from sn9reg import register
from sn9reg.apply import apply_offsets
from sn9reg.offsets import OffsetMap, open_offsets
from sn9reg.raster.files import data_bands, make_folder, open_raster
from sn9reg.raster.radiometry import optical_grey
from sn9reg.simulate import simulate

SIDE = 512
FOLDERS = {1: "full", 2: "half", 4: "quarter"}
# (h, w) grey values, radar amplitude and validity of two rasters of one grid.
Images = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]


@click.command(cls=Command)
@DATA_OPTION
def main(data: Path) -> None:
    """Make all folders; those that are there already are kept."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = data / "pairs"
    if (data / "sentinel_la").is_dir():
        los_angeles(data / "sentinel_la", out / "sentinel_la")
    for k in range(12):
        simulated(out / "simulated", 500 + k, 2 ** (k % 4))
    for k in range(24):
        simulated(out / "cities", 700 + k, (1, 1, 2, 4)[k % 4], "town" if k % 3 == 0 else "city")
    for seed in range(601, 609):
        whole(out / "scenes", aoi(data / "scenes/aoi", seed, (5000, 4000)))
    aoi(data / "scenes/dev", 13, (4000, 3000))


def los_angeles(folder: Path, out: Path) -> None:
    """The pair, registered by the untrained matcher, in tiles."""
    if any(out.glob("*_opt.png")):
        return
    make_folder(out)
    files = folder / "optical.tif", folder / "sar.tif"
    registration = register(*files, matcher="structure", model="auto")
    tiles(out, "la", registered(out, registration.offsets(), *files, nodata=0), (1,))


def simulated(out: Path, seed: int, looks: float, kind: str = "village") -> None:
    """One simulated scene, registered by its exact offsets, in tiles of three resolutions."""
    if any(out.glob(f"s{seed}_*_opt.png")):
        return
    files = simulate(out / "scene", 2048, seed=seed, looks=looks, kind=kind, overwrite=True)
    with open_offsets(files.offsets) as offsets:
        tiles(out, f"s{seed}", registered(out, offsets, files.optical, files.sar), tuple(FOLDERS))


def aoi(out: Path, seed: int, size: tuple[int, int]) -> Path:
    """The folder of a simulated scene, made once."""
    folder = out / f"s{seed}"
    if not any(folder.glob("*_offsets_*.tif")):
        simulate(folder, *size, seed=seed, overwrite=True)
    return folder


def whole(out: Path, scene: Path) -> None:
    """A simulated scene, registered by its exact offsets, at three resolutions."""
    if (out / FOLDERS[4] / f"{scene.name}_mask.png").exists():
        return
    make_folder(out)
    optical, sar, truth = (next(scene.glob(f"*_{kind}_*.tif")) for kind in ("optical", "sar", "offsets"))
    with open_offsets(truth) as offsets:
        images = registered(out, offsets, optical, sar)
    for factor, folder in FOLDERS.items():
        make_folder(out / folder)
        write_pair(out / folder / scene.name, coarse(images, factor))


def registered(out: Path, offsets: OffsetMap, optical: Path, sar: Path, nodata: float | None = None) -> Images:
    """A pair whose SAR image is resampled by an offset map, in `out` for the time being."""
    path = out / "registered.tif"
    apply_offsets(offsets, sar, path, resampling="cubic", nodata=nodata, overwrite=True)
    with open_raster(optical) as one, open_raster(path) as other:
        grey = optical_grey(one.read(data_bands(one), out_dtype="float32"))
        radar = other.read(1, out_dtype="float32")
        valid = (one.dataset_mask() > 0) & (other.dataset_mask() > 0)
    path.unlink()
    return grey, radar, valid


def tiles(out: Path, name: str, images: Images, factors: tuple[int, ...]) -> None:
    """Cut a pair into tiles that are mostly valid."""
    for factor in factors:
        grey, radar, valid = coarse(images, factor)
        for row, col in product(*(range(0, side - SIDE + 1, SIDE) for side in valid.shape)):
            part = slice(row, row + SIDE), slice(col, col + SIDE)
            if valid[part].mean() > 0.9:
                write_pair(out / f"{name}_{factor}_{row}_{col}", (grey[part], radar[part], valid[part]))


def coarse(images: Images, factor: int) -> Images:
    """The mean of neighbours, in intensity for the radar: what a coarser sensor would have seen."""
    grey, radar, valid = images
    height, width = (n // factor * factor for n in grey.shape)
    blocks = (height // factor, factor, width // factor, factor)
    bands = (image[:height, :width].reshape(blocks) for image in (grey, radar**2, valid.astype(np.float32)))
    grey, power, share = (band.mean(axis=(1, 3), dtype=np.float32) for band in bands)
    return grey, np.sqrt(power), share > 0.99


def write_pair(stem: Path, images: Images) -> None:
    """STEM_opt.png, STEM_sar.tif and STEM_mask.png."""
    (height, width), (grey, radar, valid) = images[0].shape, images
    files = (("opt.png", grey, "uint8"), ("sar.tif", radar, "uint16"), ("mask.png", valid * 255.0, "uint8"))
    for end, image, dtype in files:
        values = np.clip(np.rint(image), 0, np.iinfo(dtype).max).astype(dtype)
        with rasterio.open(f"{stem}_{end}", "w", width=width, height=height, count=1, dtype=dtype) as target:
            target.write(values, 1)


if __name__ == "__main__":
    main()
