"""A regular lattice of templates over a scene, displacement fields on it, and votes of its neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter, generic_filter, map_coordinates
from torch import Tensor

from sn9reg.raster.grid import Points, Window

Field = npt.NDArray[np.float64]  # (ny, nx, 2), x then y


@dataclass(frozen=True)
class Lattice:
    """Nodes at (x0 + i * spacing, y0 + j * spacing) for i < nx and j < ny, in pixels of one pyramid level."""

    x0: float
    y0: float
    spacing: float
    nx: int  # number of columns
    ny: int  # number of rows

    @classmethod
    def over(cls, window: Window, template: int, spacing: float, limit: int) -> Lattice:
        """At most about `limit` nodes that cover `window` evenly with templates; opposite margins are equal."""
        free = np.maximum(np.array([window.width, window.height], float) - template, 0)
        spacing = max(spacing, math.sqrt(float(free[0] * free[1]) / limit), float(free.sum()) / limit)
        nx, ny = (int(n // spacing) + 1 for n in free)
        margin = (free - (np.array([nx, ny]) - 1) * spacing) / 2
        start = np.array([window.col, window.row]) + (template - 1) / 2 + margin
        return cls(float(start[0]), float(start[1]), float(spacing), nx, ny)

    @property
    def nodes(self) -> Points:
        """(ny * nx, 2) x, y of all nodes, row by row."""
        x, y = np.meshgrid(np.arange(self.nx), np.arange(self.ny))
        return np.column_stack([x.ravel(), y.ravel()]) * self.spacing + [self.x0, self.y0]

    def interpolate(self, field: Field, xy: Points) -> Points:
        """(N, 2) values of a field at (N, 2) places of the same level, bilinear, held constant outside."""
        at = (np.asarray(xy) - [self.x0, self.y0]).T[::-1] / self.spacing
        return np.column_stack([map_coordinates(field[..., k], at, order=1, mode="nearest") for k in (0, 1)])


def smooth_field(field: Field, weight: npt.NDArray[np.float64], width: float = 1.0, tolerance: float = 2.0) -> Field:
    """A displacement field (ny, nx, 2) without its outliers and gaps; weight: (ny, nx), 0 where it is not known. A node
    farther than `tolerance` pixels, and than three times the typical deviation, from the median of its 5 x 5 neighbours
    loses its weight. The field is convolved with a Gaussian of `width` nodes, wider where no node near has a weight."""
    if not (weight > 0).any():
        return np.zeros_like(field)
    known = np.where(weight[..., None] > 0, field, np.nan)

    def median(near: Field) -> float:  # NaN where nothing is known
        return float(np.median(near[~np.isnan(near)])) if not np.isnan(near).all() else math.nan

    off = field - generic_filter(known, median, (5, 5, 1), mode="constant", cval=np.nan)
    deviation = np.hypot(off[..., 0], off[..., 1])
    typical = np.nanmedian(np.where(weight > 0, deviation, np.nan))
    weight = np.where(deviation <= max(tolerance, 3 * float(typical)), weight, 0.0)[..., None]
    weighted, total, mass = np.where(weight > 0, field, 0) * weight, np.zeros_like(field), np.zeros_like(weight)
    # Each wider kernel matters only where the narrower ones find no weight.
    for scale, share in ((1, 1.0), (2, 1e-2), (4, 1e-4), (16, 1e-7), (1e3, 1e-12)):
        sigma = min(width * scale, 4.0 * max(weight.shape))
        for sums, values in ((total, weighted), (mass, weight)):
            sums += share * gaussian_filter(values, sigma, mode="constant", truncate=4.0, axes=(0, 1))
    return total / np.maximum(mass, 1e-300)


def aggregate(surfaces: Tensor, usable: npt.NDArray[np.bool_], lattice: Lattice, width: float) -> Tensor:
    """(N, D, D) surfaces averaged over neighbours by a Gaussian of `width` nodes: like larger templates, soft-edged."""
    shape = (lattice.ny, lattice.nx)
    volume, voters = surfaces.numpy().reshape(*shape, *surfaces.shape[1:]), usable.reshape(shape).astype(np.float32)
    summed = gaussian_filter(volume, sigma=(width, width, 0, 0), mode="constant", truncate=3.0)
    mass = gaussian_filter(voters, sigma=width, mode="constant", truncate=3.0)
    summed /= np.maximum(mass, 1e-6)[..., None, None]
    return torch.from_numpy(summed.reshape(surfaces.shape))
