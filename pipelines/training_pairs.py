"""Make folders of registered pairs, NAME_opt.png and NAME_sar.tif, out of scenes, for training matchers.

    python -m pipelines.training_pairs [--data ../shared/data] [--out work/pairs]

- `sentinel_la`: the Los Angeles pair, its smooth residual of a few pixels removed by the untrained matcher first.
- `simulated`: simulated scenes of 0.3 m with relief, layover and speckle, registered by their exact offsets, at full,
  half and quarter resolution.
"""

from __future__ import annotations

import logging
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import rasterio

from sn9reg.apply import apply_offsets
from sn9reg.offsets import open_offsets
from sn9reg.radiometry import optical_grey
from sn9reg.rasters import data_bands, open_raster
from sn9reg.register import register
from sn9reg.simulate import simulate

SIDE = 512
SIMULATED = {seed: looks for seed, looks in zip(range(500, 512), (1, 2, 4, 8) * 3, strict=True)}
SCENE = 2048


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("work/pairs"), show_default=True)
def main(data: Path, out: Path) -> None:
    """Both folders; what is there already is kept."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if (data / "sentinel_la").is_dir():
        los_angeles(data / "sentinel_la", out / "sentinel_la")
    for seed, looks in SIMULATED.items():
        simulated(out / "simulated", seed, looks)


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


def _tiles(out: Path, name: str, optical: Path, sar: Path, factors: tuple[int, ...]) -> None:
    """Cut two rasters of one grid into tiles that are mostly valid."""
    with open_raster(optical) as one, open_raster(sar) as other:
        grey = optical_grey(one.read(data_bands(one), out_dtype="float32"))
        radar = other.read(1, out_dtype="float32")
        valid = (one.dataset_mask() > 0) & (other.dataset_mask() > 0)
    for factor in factors:
        # The mean of neighbours, in intensity for the radar: what a coarser sensor would have seen.
        coarse = _mean(grey, factor), np.sqrt(_mean(radar**2, factor)), _mean(valid.astype(np.float32), factor) > 0.99
        height, width = coarse[2].shape
        for row in range(0, height - SIDE + 1, SIDE):
            for col in range(0, width - SIDE + 1, SIDE):
                part = slice(row, row + SIDE), slice(col, col + SIDE)
                if coarse[2][part].mean() > 0.9:
                    stem = out / f"{name}_{factor}_{row}_{col}"
                    _write(stem.with_name(stem.name + "_opt.png"), coarse[0][part], "uint8")
                    _write(stem.with_name(stem.name + "_sar.tif"), coarse[1][part], "uint16")
                    _write(stem.with_name(stem.name + "_mask.png"), coarse[2][part] * 255.0, "uint8")


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
