"""From where a place is seen, and how far its ground is displaced between both images: X_sar - X_opt in metres. A SAR
image shows a place at height h nearer to the sensor by h / tan(incidence); a bias and a little across come on top."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates, spline_filter

from sn9reg.errors import InputError
from sn9reg.raster.files import PathLike, read_file
from sn9reg.raster.grid import Grid, Points
from sn9reg.simulate.noise import waves
from sn9reg.tiepoints import read_tiepoints

# Wavelength and standard deviation of the displacement, both in metres: hills of all sizes, gradients of some 10 %.
_OCTAVES = ((4000.0, 17.0), (1600.0, 8.0), (800.0, 4.6), (400.0, 2.3), (200.0, 0.8))
_WOBBLE = ((1200.0, 2.6), (400.0, 0.4))
_SIDE = 10**6  # of images that are not there, pixels
_LATTICE = 10.0
_STEEPEST = 0.4  # gradient that a field from tie-points may have: beyond, ground would near folding


@dataclass(frozen=True)
class Look:
    """From where both images are taken, and where the sun stands. Directions are unit vectors in map axes."""

    sun: Points  # (2,) towards the sun
    sun_slope: float  # tangent of its elevation
    lean: Points  # (2,) metres by which a metre of height is moved in the optical image: away from the sensor
    haze: float  # share of the light that comes from the air, 0 to 1
    towards_sensor: Points  # (2,) towards the SAR sensor
    tan_incidence: float  # of its rays


# As over SpaceNet 9's area 02, from straight above.
_RANGE = np.array([-0.957, 0.290]) / np.hypot(0.957, 0.290)
PLAIN = Look(np.array([0.55, -0.835]), 1 / 0.75, np.zeros(2), 0.0, _RANGE, float(np.tan(np.radians(43.0))))


def any_look(seed: int) -> Look:
    """Sun, optical view and SAR view from anywhere, independent of one another."""
    random = np.random.default_rng([seed, 8])
    sun, view, sensor = (np.array([np.cos(a), np.sin(a)]) for a in random.uniform(0, 2 * np.pi, 3))
    elevation, away, incidence = np.radians([random.uniform(28, 68), random.uniform(2, 30), random.uniform(22, 50)])
    sun = sun * [1, -1 if sun[1] > 0.3 else 1]  # it stands in the south, mostly
    return Look(sun, np.tan(elevation), view * np.tan(away), random.uniform(0, 0.25), sensor, float(np.tan(incidence)))


@dataclass(frozen=True)
class Bounds:
    """A rectangle in map coordinates (metres, y up)."""

    low: Points  # (2,) left, bottom
    high: Points  # (2,) right, top

    @property
    def centre(self) -> Points:
        return (self.low + self.high) / 2

    @property
    def size(self) -> Points:
        return self.high - self.low

    def grow(self, metres: float) -> Bounds:
        return Bounds(self.low - metres, self.high + metres)

    def holds(self, places: Points) -> npt.NDArray[np.bool_]:
        """(N,) whether each place lies inside."""
        return np.asarray(((places >= self.low) & (places <= self.high)).all(axis=1))

    def lattice(self, step: float) -> tuple[Points, tuple[int, int]]:
        """Places every `step` metres, from the lower left, row by row, and their (rows, columns)."""
        x, y = (np.arange(low, high + step, step) for low, high in zip(self.low, self.high, strict=True))
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), (len(y), len(x))


class GroundField:
    """Displacement of the ground, a cubic spline over a lattice."""

    def __init__(self, bounds: Bounds, values: Points, towards_sensor: Points, tan_incidence: float) -> None:
        """values: (2, ny, nx) metres on `bounds.lattice`; outside, the edge's value goes on."""
        self._corner = bounds.low
        self._splines = [spline_filter(band, order=3, mode="nearest") for band in values]
        self._mean_shift = float(values.reshape(2, -1).mean(axis=1) @ towards_sensor)  # metres; stands for height 0
        self.towards_sensor, self.tan_incidence = towards_sensor, tan_incidence

    def at(self, ground: Points) -> Points:
        """(N, 2) map places on the ground -> (N, 2) displacements in metres."""
        where = ((ground - self._corner) / _LATTICE).T[::-1]
        bands = [map_coordinates(band, where, order=3, mode="nearest", prefilter=False) for band in self._splines]
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

    def lift(self, ground: Points) -> npt.NDArray[np.float64]:
        """(N,) metres by which their height moves places towards the sensor."""
        return np.asarray(self.at(ground) @ self.towards_sensor - self._mean_shift)

    def slope(self, ground: Points, direction: Points) -> npt.NDArray[np.float64]:
        """(N,) change of `lift` per metre in a direction (unit vector)."""
        return (self.lift(ground + 5.0 * direction) - self.lift(ground + -5.0 * direction)) / 10.0


def terrain_field(scene: Bounds, bounds: Bounds, seed: int, look: Look) -> GroundField:
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
    towards = look.towards_sensor
    values = along[:, None] * towards + across[:, None] * np.array([-towards[1], towards[0]])
    return GroundField(bounds, values.T.reshape(2, *shape), towards, look.tan_incidence)


def tiepoint_field(
    scene: Bounds, bounds: Bounds, path: PathLike, geotransforms: PathLike | None, pixels: tuple[float, float]
) -> GroundField:
    """The field of given tie-points, centred over `scene`, and stretched where they do not reach as far. They are set
    by hand, some metres off: it is as smooth as it must be to have no gradient above 0.4.

    geotransforms: see `read_geotransforms`; without it both images are taken to have the same origin, and `pixels` of
    these metres. Raises InputError for a file that is not what it should be, fewer than 4 points, or points on a line.
    """
    frames = [Affine(size, 0, 0, 0, -size, 0) for size in pixels]
    given = read_geotransforms(geotransforms, Path(path).stem) if geotransforms is not None else frames
    optical, sar = (Grid(frame, _SIDE, _SIDE) for frame in given)
    points = read_tiepoints(path, optical, sar)
    optical_map, sar_map = optical.to_map(points.optical_xy), sar.to_map(points.sar_xy)
    shifts = sar_map - optical_map
    if len(optical_map) < 4 or np.linalg.matrix_rank(optical_map - optical_map.mean(axis=0), tol=1.0) < 2:
        raise InputError(f"a field needs at least 4 tie-points that do not lie on a line, not {len(optical_map)}")
    extent = np.ptp(optical_map, axis=0)
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
    return GroundField(bounds, values, -axis if axis[0] > 0 else axis, PLAIN.tan_incidence)


def read_geotransforms(path: PathLike, stem: str) -> tuple[Affine, Affine]:
    """Those of both images, in GDAL's order, under the stem of their tie-points' CSV in a JSON {stem: {"optical":
    {"geotransform": [6]}, "sar": {"geotransform": [6]}}}. Raises InputError if it is missing or another thing."""
    try:
        content = json.loads(read_file(path).decode())
        optical, sar = (Affine.from_gdal(*map(float, content[stem][key]["geotransform"])) for key in ("optical", "sar"))
        return optical, sar
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: is not a JSON of geotransforms that has those of {stem} ({error})") from error
