"""The local model: a smooth field over the robust affine, from locally consistent correspondences.

Real displacement is range parallax over terrain: smooth, not affine, and almost all of it along one direction. The
residual to a robust affine is therefore modelled as two independent Gaussian processes (Rasmussen & Williams 2006,
chapter 2), along and across the direction of largest variance. Far from all correspondences the affine remains.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist

from sn9reg.fit.correspondences import Floats
from sn9reg.fit.warp import least_squares
from sn9reg.raster.grid import Points
from sn9reg.raster.heights import Heights

_SUBSET = 500  # correspondences by which length and noise are chosen; all of them make the field
_CHUNK = 4096  # places computed at once
_FOLDS = 5


@dataclass(frozen=True)
class _Process:
    """One Gaussian process on the plane, with a Matérn 5/2 kernel."""

    source: Points  # (N, 2) places of the correspondences
    amplitude: float  # variance of the process
    length: float  # of the kernel
    noise: float  # variance of a typical correspondence
    _factor: tuple[Floats, bool] = field(repr=False)  # Cholesky factor of the correspondences' covariance
    _alpha: Floats = field(repr=False)  # (N,) weights of the correspondences in the mean

    def mean(self, xy: Points) -> Floats:
        return self.amplitude * _matern(xy, self.source, self.length) @ self._alpha

    def variance(self, xy: Points) -> Floats:
        cross = self.amplitude * _matern(self.source, xy, self.length)
        explained = solve_triangular(self._factor[0], cross, lower=True)
        return np.maximum(self.amplitude - (explained**2).sum(axis=0), 0)


def _matern(a: Points, b: Points, length: float) -> Floats:
    r = cdist(a, b) * (5**0.5 / length)
    return np.asarray((1 + r + r * r / 3) * np.exp(-r))


@dataclass(frozen=True)
class LocalField:
    """The fitted field. Call: (N, 2) optical map positions -> (N, 2) SAR map positions."""

    centre: Floats  # (2,) mean of the correspondences' optical places
    affine: Floats  # (2, 3), relative to centre; where heights are known (2, 4), the last column by height
    axes: Floats  # (2, 2), rows: the main direction and its normal
    processes: tuple[_Process, _Process]  # of the residual along these axes
    heights: Heights | None = None

    def refit(self, source: Points, target: Points, sigma: Floats) -> LocalField:
        """A field with the same lengths and noise on other correspondences, e.g. all but a held-out block."""
        return fit_local(source, target, sigma, 0.0, self.heights, like=self)

    def __call__(self, map_xy: Points) -> Points:
        def moved(xy: Points) -> Points:
            residual = np.column_stack([process.mean(xy) for process in self.processes]) @ self.axes
            return _terms(xy, self.centre, self.heights) @ self.affine.T + self.centre + residual

        return np.concatenate([moved(xy) for xy in self._chunks(map_xy)])

    def error(self, map_xy: Points) -> Floats:
        """(N,) expected error, both axes together, map units."""
        return np.concatenate([np.sqrt(sum(p.variance(xy) for p in self.processes)) for xy in self._chunks(map_xy)])

    def _chunks(self, map_xy: Points) -> list[Points]:
        """Places relative to the centre, a few thousand at a time."""
        return [map_xy[start : start + _CHUNK] - self.centre for start in range(0, max(1, len(map_xy)), _CHUNK)]


def _terms(xy: Points, centre: Floats, heights: Heights | None) -> Floats:
    """(N, 3) x, y and 1 of places relative to the centre, and the height there, if heights are known."""
    return np.column_stack([xy, np.ones(len(xy)), *([] if heights is None else [heights(xy + centre)])])


def fit_local(
    source: Points, target: Points, sigma: Floats, block: float, heights: Heights | None = None,
    like: LocalField | None = None,
) -> LocalField:  # fmt: skip
    """The field through (N, 2) correspondences, which must be consistent already. All lengths are in map units.

    sigma: (N,) expected error per axis. like: a field whose directions, lengths and noise are taken over. block: side
    of the squares held out together when these are chosen, so that matches which share pixels do not vouch for others.
    """
    centre = source.mean(axis=0)
    xy, there = source - centre, target - centre
    weight = 1 / np.maximum(sigma, 1e-9) ** 2
    # The mean of the process: least squares in which outliers lose their weight.
    trust, terms = np.ones(len(xy)), _terms(xy, centre, heights)
    for _ in range(5):
        affine = least_squares(terms, there, trust)
        residual = there - terms @ affine.T
        size = np.linalg.norm(residual, axis=1)
        trust = 1 / (1 + (size / (2 * np.median(size) + 1e-9)) ** 2)
    axes = np.linalg.eigh(np.cov(residual.T, aweights=weight))[1][:, ::-1].T if like is None else like.axes
    relative = np.clip((sigma / np.median(sigma)) ** 2, 0.1, 25.0)
    processes = []
    for k, values in enumerate((residual @ axes.T).T):
        model = None if like is None else like.processes[k]
        chosen = (model.amplitude, model.length, model.noise) if model else _choose(xy, values, relative, block)
        processes.append(_robust_process(xy, values, relative, chosen))
    return LocalField(centre, affine, axes, (processes[0], processes[1]), heights)


def _robust_process(xy: Points, values: Floats, relative: Floats, chosen: tuple[float, float, float]) -> _Process:
    """The process on all correspondences, with Student's t noise of 4 degrees of freedom: outliers count as noisier."""
    amplitude, length, noise = chosen
    base = variances = noise * relative
    covariance = amplitude * _matern(xy, xy, length)
    for _ in range(4):
        factor = cho_factor(covariance + np.diag(variances + 1e-9 * amplitude), lower=True)
        alpha = cho_solve(factor, values)
        variances = base * (4 + (values - covariance @ alpha) ** 2 / base) / 5
    return _Process(xy, amplitude, length, noise, factor, alpha)


def _choose(xy: Points, values: Floats, relative: Floats, block: float) -> tuple[float, float, float]:
    """Amplitude, length and noise variance with the best robust error on held-out blocks."""
    chosen = np.linspace(0, len(xy) - 1, min(len(xy), _SUBSET)).astype(int)
    xy, values, relative = xy[chosen], values[chosen], relative[chosen]
    amplitude = max(float(np.var(values)), float(np.median(np.abs(values)) * 1.4826) ** 2) + 1e-12
    extent = float(np.ptp(xy, axis=0).max()) + 1e-9
    fold = block_folds(xy, block)
    folds = [fold == k for k in np.unique(fold)]
    best = (np.inf, extent, amplitude)
    for length in np.geomspace(max(block / 2, extent / 40), 1.5 * extent, 7):
        kernel = amplitude * _matern(xy, xy, float(length))
        parts = [(kernel[np.ix_(~held, ~held)], kernel[np.ix_(held, ~held)]) for held in folds]
        for share in (0.01, 0.03, 0.1, 0.3, 1.0, 4.0):
            variances = amplitude * share * relative
            error = np.empty(len(xy))
            for held, (gram, cross) in zip(folds, parts, strict=True):
                np.fill_diagonal(gram, amplitude + variances[~held])
                factor = cho_factor(gram, lower=True, check_finite=False)
                error[held] = values[held] - cross @ cho_solve(factor, values[~held], check_finite=False)
            loss = float(np.mean(np.minimum(error**2 / relative, 9 * amplitude)))
            if loss < best[0] * (1 - 1e-3):
                best = (loss, float(length), amplitude * share)
    return amplitude, best[1], max(best[2], 1e-9 * amplitude)


def block_folds(xy: Points, block: float, start: Floats | None = None) -> npt.NDArray[np.int64]:
    """(N,) fold of each point; points of one square of side `block` share a fold, neighbouring squares do not. start:
    corner of a square, by default that of the points."""
    square = np.floor((xy - (xy.min(axis=0) if start is None else start)) / block).astype(np.int64)
    return (square[:, 0] + 2 * square[:, 1]) % _FOLDS
