"""The SpaceNet 9 baseline as a matcher (Hänsch et al., "Introducing SpaceNet 9", section 3.2).

At every node of a grid the optical detector looks for the optical keypoint that belongs to the middle of the SAR tile;
around that keypoint both scenes are cropped anew, and the SAR detector finds its partner.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le

from sn9reg import progress
from sn9reg.fit.correspondences import Correspondences, Floats
from sn9reg.matchers.dense.lattice import Lattice, aggregate, smooth_field
from sn9reg.matchers.keypoints.detector import TILE, Cropper, Detector, Found
from sn9reg.matchers.keypoints.heatmap import LABEL_SPREAD, SIGMA, read_keypoints
from sn9reg.matchers.keypoints.network import load_detector
from sn9reg.options import Count, MaxOffset, check, options
from sn9reg.raster.grid import Points, to_common, to_level
from sn9reg.raster.scene import ScenePair

# Options with which the matcher is that of the paper.
FAITHFUL: dict[str, Any] = dict.fromkeys(("coarse", "subpixel", "structure", "check"), False)
FAITHFUL["max_points"] = 100_000  # its grid has a node every 100 m however large the scene is

_REACH = 100  # pixels from a tile's middle up to which the coarse pass looks for keypoints
_COARSE_OVERLAP = 3  # nodes to a tile's side in the coarse pass
_POOL = 4  # the coarse pass averages heatmaps over squares of this side, pixels
_VOTERS = 0.7  # width of the vote, in nodes
_JITTER = 40.0  # largest random shift of a tile per axis, pixels
_RETURN = 10.0  # pixels; a SAR keypoint farther from the place that the optical one was found from is dropped
_HEIGHT = 0.2  # least height of a peak that is kept
_STEP = 3.0  # pixels: regressed peaks are as broad as their label, and neighbours a tile apart
_FEWEST = 64  # least number of nodes; the grid is denser in a scene that would have fewer


@options
class KeypointOptions:
    """Options of the keypoint matcher."""

    max_offset: MaxOffset = 150.0  # largest shift looked for, metres
    spacing: Annotated[float, Gt(0), Le(1e6)] = 100.0  # of the grid, m; less in small scenes, unless `check` is off
    max_points: Count = 1000  # at most about this many nodes
    # A pass over coarser pixels predicts where each tile lies; without it, nothing beyond a tile is found.
    coarse: bool = True
    subpixel: bool = True  # the peak's centre of gravity instead of its highest pixel
    structure: bool = True  # nodes where either image is but noise are left out
    check: bool = True  # a SAR keypoint must lie where the optical one was looked for from, and peaks be high
    batch: Annotated[int, Ge(1), Le(256)] = 16  # tiles at once
    sar_weights: str | None = None  # a .safetensors file of the detector; the one that ships if not given
    optical_weights: str | None = None  # as `sar_weights`


class KeypointMatcher:
    """SpaceNet 9's baseline: heatmap U-Nets find keypoints in either image."""

    name = "keypoints"
    Options = KeypointOptions

    def __init__(self, **options: Any) -> None:
        self.options = given = check(KeypointOptions, options, f"matcher {self.name!r}")
        how = (given.subpixel, given.structure, given.batch)
        self._sar = Detector(load_detector("sar", given.sar_weights), *how)
        self._optical = Detector(load_detector("optical", given.optical_weights), *how)
        self.own_weights = given.sar_weights is not None or given.optical_weights is not None

    def match(self, pair: ScenePair) -> Correspondences:
        """Correspondences at the grid's nodes, possibly none. Raises InputError where a scene cannot be read."""
        cropper, lattice, factor = Cropper(pair), self._lattice(pair), self._coarse_factor(pair)
        start = 0.1 if factor > 1 else 0.0
        with progress.part(0, start):
            predict = self._predict(cropper, factor)
        nodes = np.rint(lattice.nodes)  # the middle of a tile is a whole pixel
        # Detectors prefer a tile's middle a little: random shifts keep tiles that show too little from agreeing on it.
        jitter = np.random.default_rng(0).uniform(-_JITTER, _JITTER, (2, *nodes.shape)) * self.options.coarse
        with progress.part(start, (1 + start) / 2):
            optical = self._optical.find(cropper, nodes + predict(nodes), nodes + jitter[0])
        keypoints = np.rint(np.where(optical.usable[:, None], optical.xy, nodes))
        with progress.part((1 + start) / 2, 1):
            sar = self._sar.find(cropper, keypoints, keypoints + predict(keypoints) + jitter[1])
        usable, lower = optical.usable & sar.usable, np.minimum(optical.height, sar.height)
        kept = usable & (lower > 0)
        if self.options.check:
            kept &= (lower >= _HEIGHT) & (np.hypot(*(sar.xy - optical.middle).T) <= _RETURN)
        kept &= pair.grid.holds(sar.middle)
        return Correspondences(
            grid=pair.grid, optical_xy=sar.middle, sar_xy=sar.xy, solo_xy=sar.xy, score=_score(sar), sigma=_sigma(sar),
            distance=1 - sar.height, rival_distance=1 - np.minimum(sar.rival, sar.height),
            search_radius=_JITTER if self.options.coarse else TILE / 2, step=_STEP, footprint=TILE / 2,
            tried=int(usable.sum()),
        ).keep(kept)

    def _lattice(self, pair: ScenePair, factor: int = 1) -> Lattice:
        """The grid; that of the coarse pass is as dense as its tiles need it."""
        window, spacing = pair.overlap, self.options.spacing / pair.grid.metres_per_pixel
        if factor > 1:
            spacing = max(spacing, factor * TILE / _COARSE_OVERLAP)
        if self.options.check:  # too few nodes would neither confirm each other nor show the field
            spacing = min(spacing, math.sqrt(window.width * window.height / _FEWEST))
        return Lattice.over(window, min(TILE // 4, *window.shape), max(8.0, spacing), self.options.max_points)

    def _coarse_factor(self, pair: ScenePair) -> int:
        """Factor at which a tile holds the largest offset, as far as the scene is large enough; 1: no coarse pass."""
        factor, shift = 1, self.options.max_offset / pair.grid.metres_per_pixel
        while self.options.coarse and shift / factor > _REACH and min(pair.overlap.shape) / factor / 2 >= TILE / 2:
            factor *= 2
        return factor

    def _predict(self, cropper: Cropper, factor: int) -> Callable[[Points], Points]:
        """The smoothed field that coarse tiles show after a vote of neighbours: a function of places, common pixels."""
        if factor == 1:
            return np.zeros_like
        lattice = self._lattice(cropper.pair, factor)
        nodes = np.rint(to_level(lattice.nodes, factor))
        heatmaps, usable = self._sar.heatmaps(cropper, nodes, factor, _POOL)
        voted = read_keypoints(aggregate(heatmaps, usable, lattice, _VOTERS), sigma=SIGMA / _POOL)
        shift = (to_common(voted.xy.double().numpy(), _POOL) - TILE // 2) * factor
        weight, shape = np.where(usable, voted.height.double().numpy() ** 2, 0), (lattice.ny, lattice.nx)
        field = smooth_field(shift.reshape(*shape, 2), weight.reshape(shape), width=0.7, tolerance=4.0 * factor)
        return lambda common_xy: lattice.interpolate(field, common_xy)


def _score(found: Found) -> Floats:
    """(N,) height of the peak, reduced where the peak is broader than a label's."""
    return np.clip(found.height * LABEL_SPREAD / np.maximum(found.spread, LABEL_SPREAD), 0, 1)


def _sigma(found: Found) -> Floats:
    """(N,) expected error per axis, pixels: the mean of labels spread by s has a height of 1 / (1 + (s / SIGMA)^2)."""
    return np.asarray(SIGMA * np.sqrt(1 / np.clip(found.height, 1e-3, 1) - 1 + 0.02))
