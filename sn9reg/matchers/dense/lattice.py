"""A regular lattice of templates over a scene, and displacement fields on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, generic_filter, map_coordinates

from sn9reg.raster.grid import Points, Window

Field = npt.NDArray[np.float64]  # (ny, nx, 2), x then y


@dataclass(frozen=True)
class Lattice:
    """Nodes at (x0 + i * spacing, y0 + j * spacing) for i < nx and j < ny, in pixels of one pyramid level."""

    x0: float  # of the first node
    y0: float  # of the first node
    spacing: float  # distance between neighbouring nodes
    nx: int  # number of columns
    ny: int  # number of rows

    @classmethod
    def over(cls, window: Window, template: int, spacing: float, limit: int) -> Lattice:
        """A lattice of at most about `limit` nodes that covers `window` evenly with templates: the space that does not
        fill a step is divided equally between opposite edges."""
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
        at = (np.asarray(xy) - [self.x0, self.y0]) / self.spacing
        return np.column_stack([map_coordinates(f, at.T[::-1], order=1, mode="nearest") for f in _planes(field)])


def _planes(field: Field) -> npt.NDArray[np.float64]:
    """(2, ny, nx) x and y of a field."""
    return np.moveaxis(field, -1, 0)


def smooth_field(field: Field, weight: npt.NDArray[np.float64], width: float = 1.0, tolerance: float = 2.0) -> Field:
    """A displacement field (ny, nx, 2) without its outliers and gaps; weight: (ny, nx), 0 where it is not known.

    A node farther than `tolerance` pixels, and than three times the typical deviation, from the median of its 5 x 5
    neighbours loses its weight. Then the field is convolved with a Gaussian of `width` nodes, normalised by the
    weights. The Gaussian is wider where no node near has a weight.
    """
    weight = weight.copy()
    known = np.where(weight[..., None] > 0, field, np.nan)
    if not (weight > 0).any():
        return np.zeros_like(field)
    around = dict(size=5, mode="constant", cval=np.nan)
    medians = np.stack([generic_filter(plane, _nanmedian, **around) for plane in _planes(known)])
    deviation = np.hypot(*(_planes(field) - medians))
    typical = np.nanmedian(np.where(weight > 0, deviation, np.nan))
    weight[~(deviation <= max(tolerance, 3 * float(typical)))] = 0
    total, mass = np.zeros_like(field), np.zeros_like(weight)
    # Each wider kernel matters only where the narrower ones find no weight.
    for scale, share in ((1, 1.0), (2, 1e-2), (4, 1e-4), (16, 1e-7), (1e3, 1e-12)):
        sigma = min(width * scale, 4.0 * max(weight.shape))
        blur = dict(sigma=sigma, mode="constant", truncate=4.0)
        mass += share * gaussian_filter(weight, **blur)
        for k in (0, 1):
            total[..., k] += share * gaussian_filter(np.where(weight > 0, field[..., k], 0) * weight, **blur)
    return total / np.maximum(mass, 1e-300)[..., None]


def _nanmedian(values: npt.NDArray[np.float64]) -> float:
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")
