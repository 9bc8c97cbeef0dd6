"""The ground's displacement between both images: X_sar - X_opt in metres, from a terrain or from given tie-points.

A SAR image shows a place at height h nearer to the sensor than it is, by h / tan(incidence). Over terrain that is
a smooth field along one direction, ground range; a geocoding bias and a little across that direction come on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates, spline_filter

from sn9reg.errors import InputError
from sn9reg.raster.grid import Points
from sn9reg.simulate.noise import waves

TAN_INCIDENCE = float(np.tan(np.radians(43.0)))
# Towards the sensor, in map axes (y up), as in SpaceNet 9's area 02.
RANGE = np.array([-0.957, 0.290]) / np.hypot(0.957, 0.290)
# Wavelength and standard deviation of the displacement, both in metres: hills of all sizes, gradients of some 10 %.
_OCTAVES = ((4000.0, 17.0), (1600.0, 8.0), (800.0, 4.6), (400.0, 2.3), (200.0, 0.8))
_WOBBLE = ((1200.0, 2.6), (400.0, 0.4))
_LATTICE = 10.0
_STEEPEST = 0.4  # gradient that a field from tie-points may have: beyond, ground would near folding


@dataclass(frozen=True)
class Bounds:
    """A rectangle in map coordinates (metres, y up)."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def centre(self) -> npt.NDArray[np.float64]:
        return np.array([self.left + self.right, self.bottom + self.top]) / 2

    @property
    def size(self) -> npt.NDArray[np.float64]:
        return np.array([self.right - self.left, self.top - self.bottom])

    def grow(self, metres: float) -> Bounds:
        return Bounds(self.left - metres, self.bottom - metres, self.right + metres, self.top + metres)

    def holds(self, places: Points) -> npt.NDArray[np.bool_]:
        """(N,) whether each place lies inside."""
        low, high = [self.left, self.bottom], [self.right, self.top]
        return np.asarray(((places >= low) & (places <= high)).all(axis=1))

    def lattice(self, step: float) -> tuple[Points, tuple[int, int]]:
        """Places every `step` metres, from the lower left, row by row, and their (rows, columns)."""
        sides = ((self.left, self.right), (self.bottom, self.top))
        x, y = (np.arange(low, high + step, step) for low, high in sides)
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), (len(y), len(x))


@dataclass(frozen=True)
class GroundField:
    """Displacement of the ground, a cubic spline over a lattice."""

    bounds: Bounds  # where it is known; outside, the edge's value goes on
    splines: npt.NDArray[np.float64]  # (2, ny, nx) coefficients, metres
    towards_sensor: npt.NDArray[np.float64]  # (2,) unit vector
    mean_shift: float  # metres along it that stand for height 0
    tan_incidence: float = TAN_INCIDENCE

    @classmethod
    def from_values(
        cls,
        bounds: Bounds,
        values: npt.NDArray[np.float64],
        towards_sensor: Points,
        tan_incidence: float = TAN_INCIDENCE,
    ) -> GroundField:
        """From (2, ny, nx) displacements on `bounds.lattice`."""
        splines = np.stack([spline_filter(band, order=3, mode="nearest") for band in values])
        mean = values.reshape(2, -1).mean(axis=1)
        return cls(bounds, splines, towards_sensor, float(mean @ towards_sensor), tan_incidence)

    def at(self, ground: Points) -> Points:
        """(N, 2) map places on the ground -> (N, 2) displacements in metres."""
        where = ((ground - [self.bounds.left, self.bounds.bottom]) / _LATTICE).T[::-1]
        bands = [map_coordinates(band, where, order=3, mode="nearest", prefilter=False) for band in self.splines]
        return np.column_stack(bands)

    def in_sar(self, ground: Points) -> Points:
        """Map places on the ground -> where the SAR image shows them."""
        return ground + self.at(ground)

    def on_ground(self, shown: Points) -> Points:
        """Where the SAR image shows something -> its place on the ground; the inverse of `in_sar`."""
        ground = shown
        for _ in range(26):  # contracts by the gradient, some 0.1 to 0.4, each time
            ground = shown - self.at(ground)
        return ground

    def slope(self, ground: Points, direction: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(N,) change, per metre in a direction (unit vector), of the shift towards the sensor that height causes."""
        ends = (self.at(ground + step * direction) @ self.towards_sensor - self.mean_shift for step in (5.0, -5.0))
        return np.asarray(np.subtract(*ends) / 10.0)


def terrain_field(
    scene: Bounds, bounds: Bounds, seed: int, towards_sensor: Points = RANGE, tan_incidence: float = TAN_INCIDENCE
) -> GroundField:
    """A field of rolling terrain over `bounds`, with the statistics of SpaceNet 9's on average over `scene`."""
    generator = np.random.default_rng([seed, 1])
    places, shape = bounds.lattice(_LATTICE)
    relief = generator.uniform(0.9, 1.4)
    along = relief * np.sum([sigma * waves(seed, length, places) for length, sigma in _OCTAVES], axis=0)
    wobble = generator.uniform(0.8, 1.25)
    across = wobble * np.sum([sigma * waves(seed + 7, length, places) for length, sigma in _WOBBLE], axis=0)
    inside = scene.holds(places)
    along += generator.uniform(23, 30) - along[inside].mean()
    across += generator.choice([-1, 1]) * generator.uniform(3, 9) - across[inside].mean()
    aside = np.array([-towards_sensor[1], towards_sensor[0]])
    values = along[:, None] * towards_sensor + across[:, None] * aside
    return GroundField.from_values(bounds, values.T.reshape(2, *shape), towards_sensor, tan_incidence)


def tiepoint_field(scene: Bounds, bounds: Bounds, optical_map: Points, sar_map: Points) -> GroundField:
    """The field of given tie-points, centred over `scene`, and stretched where they do not reach as far.

    optical_map, sar_map: (N, 2) metres. Tie-points are set by hand, some metres off: the field is as smooth as it must
    be to have no gradient above 0.4. Raises InputError for fewer than 4 tie-points, or if they lie on a line.
    """
    shifts = sar_map - optical_map
    extent = np.ptp(optical_map, axis=0) if len(optical_map) else np.zeros(2)
    if len(optical_map) < 4 or np.linalg.matrix_rank(optical_map - optical_map.mean(axis=0), tol=1.0) < 2:
        raise InputError(f"a field needs at least 4 tie-points that do not lie on a line, not {len(optical_map)}")
    stretch = np.maximum(1.0, scene.size / np.maximum(extent, 1.0))
    known = (optical_map - (optical_map.min(axis=0) + extent / 2)) * stretch + scene.centre
    places, shape = bounds.lattice(_LATTICE)
    nearest = np.clip(places, known.min(axis=0), known.max(axis=0))  # no extrapolation
    for smoothing in 0.002 * 4.0 ** np.arange(12):
        spline = RBFInterpolator(known / 1000, shifts, smoothing=smoothing, kernel="thin_plate_spline")
        values = np.concatenate([spline(part / 1000) for part in np.array_split(nearest, 1 + len(nearest) // 20000)])
        values = values.T.reshape(2, *shape)
        if max(np.abs(np.diff(values, axis=axis)).max() for axis in (1, 2)) < _STEEPEST * _LATTICE:
            break
    axis = np.linalg.eigh(np.cov(shifts.T))[1][:, 1]
    return GroundField.from_values(bounds, values, -axis if axis[0] > 0 else axis)
