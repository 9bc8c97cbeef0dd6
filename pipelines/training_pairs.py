"""Make folders of registered pairs, NAME_opt.png and NAME_sar.tif, out of scenes, for training matchers. Into
DIR/pairs, which the training configurations name: `sentinel_la`, the Los Angeles pair, its smooth residual of some
pixels removed by the untrained matcher first; `simulated` and `cities`, tiles of simulated scenes, registered by their
exact offsets, at full, half and quarter resolution; `districts`, cities and towns, whole scenes of 600 m at half
resolution, and `districts_held`, four that nothing is trained on; `scenes/full`, `half` and `quarter`, DIR/scenes/aoi,
whole. Into DIR/scenes: scenes with tie-points in SpaceNet 9's layout, `aoi` to train keypoint detectors, `dev` to watch
them."""

import logging
from itertools import product
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import rasterio

from pipelines.common import DATA, Command
from sn9reg import register
from sn9reg.apply import apply_offsets
from sn9reg.offsets import OffsetMap, open_offsets
from sn9reg.raster.files import data_bands, make_folder, open_raster
from sn9reg.raster.radiometry import optical_grey
from sn9reg.simulate import simulate

SIDE = 512
FOLDERS = {1: "full", 2: "half", 4: "quarter"}
FILES = (("opt.png", "uint8", 1), ("sar.tif", "uint16", 1), ("mask.png", "uint8", 255))
DISTRICTS = range(3000, 3072)  # seeds
HELD = 3001, 3002, 3003, 3005
Images = npt.NDArray[np.float32]  # (3, h, w) grey values, radar amplitude and validity of two rasters of one grid


@click.command(cls=Command)
@DATA
def main(data: Path) -> None:
    """Make all folders; those that are there already are kept."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    la, out = (data / name for name in ("sentinel_la", "pairs/sentinel_la"))
    if la.is_dir() and not any(out.glob("*_opt.png")):
        make_folder(out)
        files = la / "optical.tif", la / "sar.tif"
        registration = register(*files, matcher="structure", model="auto")
        tiles(out, "la", registered(out, registration.offsets(), *files, nodata=0), (1,))
    for k in range(12):
        simulated(data / "pairs/simulated", 500 + k, 2 ** (k % 4))
    for k in range(24):
        simulated(data / "pairs/cities", 700 + k, (1, 1, 2, 4)[k % 4], "town" if k % 3 == 0 else "city")
    for seed in DISTRICTS:
        district(data / ("pairs/districts_held" if seed in HELD else "pairs/districts"), seed)
    for seed in range(601, 609):
        whole(data / "pairs/scenes", aoi(data / "scenes/aoi", seed, (5000, 4000)))
    aoi(data / "scenes/dev", 13, (4000, 3000))


def simulated(out: Path, seed: int, looks: float, kind: str = "village") -> None:
    """One simulated scene, registered by its exact offsets, in tiles of three resolutions."""
    if not any(out.glob(f"s{seed}_*_opt.png")):
        files = simulate(out / "scene", 2048, seed=seed, looks=looks, kind=kind, overwrite=True)
        with open_offsets(files.offsets) as offsets:
            tiles(out, f"s{seed}", registered(out, offsets, files.optical, files.sar), tuple(FOLDERS))


def district(out: Path, seed: int) -> None:
    """One simulated scene of a city or a town, registered by its exact offsets, at half resolution."""
    if not (out / f"s{seed}_mask.png").exists():
        kind, looks = "city" if seed % 4 else "town", (1, 1, 2)[seed % 3]
        files = simulate(out / "scene", 2048, seed=seed, looks=looks, kind=kind, overwrite=True)
        with open_offsets(files.offsets) as offsets:
            write_pair(out / f"s{seed}", coarse(registered(out, offsets, files.optical, files.sar), 2))


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
        valid = (one.dataset_mask() > 0) & (other.dataset_mask() > 0)
        images = np.stack([grey, other.read(1, out_dtype="float32"), valid])
    path.unlink()
    return images


def tiles(out: Path, name: str, images: Images, factors: tuple[int, ...]) -> None:
    """Cut a pair into tiles that are mostly valid."""
    for factor in factors:
        coarser = coarse(images, factor)
        for row, col in product(*(range(0, side - SIDE + 1, SIDE) for side in coarser.shape[1:])):
            part = coarser[:, row : row + SIDE, col : col + SIDE]
            if part[2].mean() > 0.9:
                write_pair(out / f"{name}_{factor}_{row}_{col}", part)


def coarse(images: Images, factor: int) -> Images:
    """The mean of neighbours, in intensity for the radar: what a coarser sensor would have seen."""
    height, width = (n // factor * factor for n in images.shape[1:])
    grey, radar, valid = images[:, :height, :width]
    blocks = (height // factor, factor, width // factor, factor)
    grey, power, share = (b.reshape(blocks).mean(axis=(1, 3), dtype=np.float32) for b in (grey, radar**2, valid))
    return np.stack([grey, np.sqrt(power), share > 0.99])


def write_pair(stem: Path, images: Images) -> None:
    """STEM_opt.png, STEM_sar.tif and STEM_mask.png."""
    _, height, width = images.shape
    for (end, dtype, scale), image in zip(FILES, images, strict=True):
        values = np.clip(np.rint(image * np.float32(scale)), 0, np.iinfo(dtype).max).astype(dtype)
        with rasterio.open(f"{stem}_{end}", "w", width=width, height=height, count=1, dtype=dtype) as target:
            target.write(values, 1)


if __name__ == "__main__":
    main()
