"""OffsetMap: for every optical pixel, where its counterpart lies in the SAR image. Render, write, read, sample.

dx(c, r), dy(c, r) = inverse linear part of the optical geotransform times (X_sar - X_opt), both in the optical CRS; for
a north-up image (X_sar - X_opt) / transform.a and (Y_sar - Y_opt) / transform.e: +dx is right and +dy is down.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from sn9reg import progress
from sn9reg.errors import ConfigError, InputError, naming
from sn9reg.raster import files
from sn9reg.raster.files import PathLike
from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.raster.resampling import cubic_weights

Block = npt.NDArray[np.float32]  # (2 or 3, h, w): dx, dy[, sigma] in optical pixels

TAG_PREFIX = "SN9REG_"
# Offsets are stored in steps of 1/1024 px: far below any registration error, and several times faster to compress.
_QUANTUM = np.float32(1024.0)


@dataclass(frozen=True)
class OffsetMap:
    """Offsets on the optical grid, read block by block so that no size is too large."""

    grid: Grid  # the optical one
    read: Callable[[Window], Block]
    sigma: bool = False  # whether there is a third band, the expected error in pixels
    facts: Mapping[str, str] = field(default_factory=dict)  # what the tags of the file say, without their prefix
    name: str = "the offset map"  # in messages

    @property
    def count(self) -> int:
        return 3 if self.sigma else 2

    def sample(self, xy: Points) -> npt.NDArray[np.float64]:
        """(N, 2) optical pixel coordinates -> (N, 2 or 3) offsets, bilinear; at whole pixels exactly the stored values.
        Raises InputError where a coordinate lies outside the optical image."""
        xy = np.asarray(xy, dtype=np.float64)
        width, height = self.grid.width, self.grid.height
        if not self.grid.holds(xy).all():
            raise InputError(f"a point lies outside the optical image of {width} x {height} px")
        result = np.empty((len(xy), self.count))
        for i, (x, y) in enumerate(np.clip(xy, 0, (width - 1, height - 1))):
            col, row = int(x), int(y)
            fx, fy = x - col, y - row
            block = self.read(Window(col, row, 1 if fx == 0 else 2, 1 if fy == 0 else 2)).astype(np.float64)
            across = block[:, :, 0] if fx == 0 else block[:, :, 0] * (1 - fx) + block[:, :, 1] * fx
            result[i] = across[:, 0] if fy == 0 else across[:, 0] * (1 - fy) + across[:, 1] * fy
        return result

    def write(self, path: PathLike, overwrite: bool = False, creation_options: Mapping[str, Any] | None = None) -> None:
        """Write as GeoTIFF, by blocks, whole or not at all. Raises as `atomic_output` and `check_creation`."""
        profile = files.check_creation(path, profile_of(self.grid, self.count), creation_options)
        with files.create_raster(path, profile, overwrite) as target:
            target.update_tags(**{TAG_PREFIX + key.upper(): value for key, value in self.facts.items()})
            target.descriptions, target.units = ("dx", "dy", "sigma")[: self.count], ["px"] * self.count
            # Whole rows of blocks, so that every tile is compressed once and several in parallel.
            for row in range(0, self.grid.height, 512):
                window = Window(0, row, self.grid.width, min(512, self.grid.height - row))
                target.write(np.rint(self.read(window) * _QUANTUM) / _QUANTUM, window=window.slices())
                progress.report((row + window.height) / self.grid.height)


def profile_of(grid: Grid, count: int) -> dict[str, Any]:
    """Creation profile of an offset map of `count` bands."""
    return files.geotiff_profile(grid, count, "float32", nodata=float("nan"), interleave="band")


def from_nodes(grid: Grid, nodes: Block, step: int, facts: Mapping[str, str] | None = None) -> OffsetMap:
    """The map whose value at optical pixel (i * step, j * step) is nodes[:, j, i], cubic in between. nodes: (2 or 3,
    ny, nx) float32 with (nx - 1) * step >= width - 1, likewise ny."""

    def read(window: Window) -> Block:
        x = np.arange(window.col, window.col + window.width, dtype=np.float32) / np.float32(step)
        y = np.arange(window.row, window.row + window.height, dtype=np.float32) / np.float32(step)
        left, top = max(0, int(x[0]) - 2), max(0, int(y[0]) - 2)
        part = nodes[:, top : int(y[-1]) + 4, left : int(x[-1]) + 4]  # the nodes under the window
        # Two matrix products are exact to float32; cv2.remap interpolates by tables of 1/32 px.
        across, down = _cubic_matrix(x - left, part.shape[2]), _cubic_matrix(y - top, part.shape[1])
        return np.stack([(down @ band @ across.T).astype(np.float32) for band in part])

    return OffsetMap(grid, read, sigma=len(nodes) == 3, facts=facts or {})


def _cubic_matrix(t: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.float32]:
    """(len(t), n) weights of n nodes at places t; at the ends linear extrapolation stands for the missing node."""
    if n == 1:
        return np.ones((len(t), 1), np.float32)
    base = np.clip(t.astype(int), 0, n - 2)
    matrix, rows = np.zeros((len(t), n + 2)), np.arange(len(t))
    for k, weight in enumerate(cubic_weights((t - base).astype(np.float64))):
        matrix[rows, np.minimum(base + k, n + 1)] += weight
    for end, first, second in ((0, 1, 2), (n + 1, n, n - 1)):  # node -1 = 2 * node 0 - node 1, likewise at the end
        matrix[:, first] += 2 * matrix[:, end]
        matrix[:, second] -= matrix[:, end]
    return matrix[:, 1 : n + 1].astype(np.float32)


def offsets_between(optical: Grid, optical_map: Points, sar_map: Points) -> npt.NDArray[np.float64]:
    """(N, 2) offsets in optical pixels from map positions of both, in the optical CRS."""
    return optical.less_turns(np.asarray(sar_map) - np.asarray(optical_map)) @ np.linalg.inv(optical.linear).T


def node_positions(grid: Grid, step: int = 32) -> tuple[Points, tuple[int, int]]:
    """Optical pixel coordinates of the nodes for `from_nodes`, row by row, and their (ny, nx)."""
    nx, ny = -(-(grid.width - 1) // step) + 1, -(-(grid.height - 1) // step) + 1
    x, y = np.meshgrid(np.arange(nx) * float(step), np.arange(ny) * float(step))
    return np.column_stack([x.ravel(), y.ravel()]), (ny, nx)


@contextmanager
def open_offsets(path: PathLike, optical: Grid | None = None, pixel_frame: bool | None = None) -> Iterator[OffsetMap]:
    """Open an offset map of any maker: band 1 dx, band 2 dy, optional band 3 sigma, in optical pixels. With `optical`,
    its georeference is taken from there (a submission need not carry one). pixel_frame: in which frame it is to be
    used. Raises InputError if it has fewer than two bands or another size than the optical image, ConfigError if it
    says that it was made in the other frame."""
    with files.open_raster(path) as dataset:
        if dataset.count < 2:
            raise InputError(f"{path}: has {dataset.count} band; an offset map has dx and dy")
        if optical is not None and optical.shape != dataset.shape:
            have, need = (f"{grid.width} x {grid.height} px" for grid in (dataset, optical))
            raise InputError(f"{path}: is {have} and the optical image is {need}; offsets belong to one optical image")
        with naming(path):
            transform, crs = (Affine.identity(), None) if pixel_frame else (dataset.transform, dataset.crs)
            grid = optical or Grid(transform, dataset.width, dataset.height, crs)
        has_sigma = dataset.count > 2 and (dataset.descriptions[2] or "") == "sigma"

        def read(window: Window) -> Block:
            with files.reading(path):
                values: Block = dataset.read([1, 2, 3][: 2 + has_sigma], window=window.slices()).astype(np.float32)
            return values

        facts = {k[len(TAG_PREFIX) :].lower(): v for k, v in dataset.tags().items() if k.startswith(TAG_PREFIX)}
        if "frame" in facts and pixel_frame not in (None, facts["frame"] == "pixel"):
            if pixel_frame:
                raise ConfigError(f"{path}: was made from georeferenced images; leave --pixel-frame out")
            raise ConfigError(f"{path}: was made with --pixel-frame; give --pixel-frame here too")
        yield OffsetMap(grid, read, has_sigma, facts, str(path))
