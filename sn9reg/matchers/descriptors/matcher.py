"""Keypoints of phase congruency, described by a network, matched, and cleared of mismatches coarse to fine.

He et al., "Deep convolutional network based on attention mechanism for matching optical and SAR images". Other options
than `FAITHFUL` go beyond it: partners are looked for near where they are expected, and templates around keypoints are
compared where the warp puts them.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, astuple, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from sn9reg import progress
from sn9reg.errors import ConfigError
from sn9reg.features.orientation import orientation_features
from sn9reg.features.pose import Matrix, agreement, looks_of, on_common
from sn9reg.fit.correspondences import Correspondences, Flags, adaptive_ratio
from sn9reg.fit.warp import GlobalModel, fit_global
from sn9reg.matchers.dense.search import Level, compare_at
from sn9reg.matchers.descriptors.describe import NOTHING, Described, LearnedDescriber, MimDescriber, describe_scene
from sn9reg.matchers.descriptors.nearest import nearest
from sn9reg.matchers.descriptors.network import load_descriptor
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.options import Count, MaxOffset, check, options
from sn9reg.raster.grid import Window, to_common
from sn9reg.raster.radiometry import Modality, SarLog, fill_invalid, optical_grey
from sn9reg.raster.scene import Patch, ScenePair
from sn9reg.raster.view import through

log = logging.getLogger(__name__)

# The paper's options for inference. It does not say how many keypoints there are; its matches and F-measures imply
# 2,300 to 7,300.
FAITHFUL: dict[str, Any] = {"near": False, "refine": False, "threshold": 3.0}
FAITHFUL |= {"apart": 0.0, "max_points": 4800}

_WORK = 12e6  # pixels of the overlap that are matched at most
_FEWEST = 6  # inliers below which there is no warp
_TEMPLATE, _RADIUS, _MARGIN = 64, 12, 20  # of the last comparison, pixels of the level
_COMPARED = 240  # keypoints around which that is done, about
_MORE = 2.0  # times as many SAR as optical keypoints at most, where they are looked for in a larger area
_LEAST_SIGMA = 0.1  # pixels of the level
_LOCALISED = 1.5  # pixels of the level by which keypoints of the two sensors are off


@options
class MatcherOptions:
    """Options of the descriptor matcher."""

    descriptor: Literal["learned", "mim"] = "learned"  # `mim` needs no training
    weights: str | None = None  # a .safetensors file of the learned one; those that ship if not given
    near: bool = True  # partners are looked for within max_offset; else everywhere
    max_offset: MaxOffset = 150.0  # largest shift looked for, metres
    max_points: Count = 600  # optical keypoints, about
    oriented: bool = False  # keypoints are described along their orientations, which survives rotations without a pose
    mutual: bool = False  # a match must be the nearest from either side
    adaptive: bool = True  # matches must pass the adaptive ratio
    apart: Annotated[float, Ge(0)] = 8.0  # pixels of the level within which a SAR keypoint is no rival of another
    threshold: Annotated[float, Gt(0), Le(1e6)] = 5.0  # of RANSAC: an inlier lies no farther off, pixels of the level
    refine: bool = True  # pixels are compared around keypoints, where the warp puts them; else inliers are the matches
    scale: Annotated[float, Ge(0.1), Le(10)] = 1.0  # by which patches are larger than the descriptor has them

    def __post_init__(self) -> None:
        if self.descriptor == "mim" and self.weights is not None:
            raise ConfigError("weights are for the learned descriptor; mim has none")


class DescriptorMatcher:
    """Sparse keypoints, described and matched: for a SAR image that is turned or scaled."""

    name = "descriptors"
    Options = MatcherOptions

    def __init__(self, **options: Any) -> None:
        self.options = check(MatcherOptions, options, f"matcher {self.name!r}")
        self.own_weights = self.options.weights is not None
        self.describer = _describer(self.options)

    def match(self, pair: ScenePair) -> Correspondences:
        """Correspondences at keypoints, possibly none. Raises InputError where a scene cannot be read."""
        factor, radius = self.factor(pair), self.options.max_offset / pair.grid.metres_per_pixel
        optical, sar = self.described(pair, factor, radius)
        putative = self.putative(pair, optical, sar, factor, radius)
        models = self.models(putative)
        counts = [int(inliers.sum()) for _, inliers in models]
        message = "1/%d: %d optical and %d SAR keypoints, %d matches, inliers of an affine and a homography: %s"
        log.info(message, factor, len(optical), len(sar), len(putative), counts)
        if not (self.options.refine and len(optical) and len(sar)):
            return _inliers(putative, models)
        looks, coarse = looks_of(pair)
        warps = [np.eye(3), *(warp for warp, _ in models)]
        matrix = max(warps, key=lambda warp: agreement(*looks, on_common(warp, 1 / coarse)))
        found = _compared(pair.posed(matrix), optical, factor)
        return replace(found, sar_xy=through(matrix, found.sar_xy), solo_xy=through(matrix, found.solo_xy))

    def factor(self, pair: ScenePair) -> int:
        """The first coarsening at which the overlap has few enough pixels."""
        factor, pixels = 1, math.prod(pair.overlap.shape)
        while pixels / factor**2 > _WORK:
            factor *= 2
        return factor

    def described(self, pair: ScenePair, factor: int, radius: float) -> tuple[Described, Described]:
        """The keypoints of the optical scene and those of the SAR scene, at a coarsening."""
        given, (inner, outer, more) = self.options, self.windows(pair, factor, radius)
        if inner.empty or outer.empty:
            return NOTHING, NOTHING
        describe = partial(describe_scene, factor=factor, describer=self.describer, oriented=given.oriented)
        with progress.part(0.1, 0.3):
            optical = describe(pair.optical, optical_grey, "optical", inner, count=given.max_points)
        with progress.part(0.3, 0.6):
            sar = describe(pair.sar, sar_log(pair), "sar", outer, count=round(more * given.max_points))
        return optical, sar

    def windows(self, pair: ScenePair, factor: int, radius: float) -> tuple[Window, Window, float]:
        """Where optical and SAR keypoints are looked for, at a coarsening, and how many times as many of the latter."""
        reach = pair.grid.covering(pair.grid.to_map(pair.sar.outline()))
        inner, whole = (Window(*(n // factor for n in astuple(window))) for window in (pair.overlap, reach))
        outer = inner.grow(math.ceil(radius / factor)).intersect(whole) if self.options.near else whole
        return inner, outer, min(_MORE, math.prod(outer.shape) / max(1, math.prod(inner.shape)))

    def putative(
        self, pair: ScenePair, optical: Described, sar: Described, factor: int, radius: float
    ) -> Correspondences:
        """Every optical keypoint with its nearest neighbour, as far as they pass the filters,."""
        given, where = self.options, optical.xy if self.options.near else None
        found = nearest(optical, sar, where, radius / factor, given.apart)
        common = to_common(sar.xy[found.index] if len(sar) else np.zeros_like(optical.xy), factor)
        matches = Correspondences(
            grid=pair.grid, optical_xy=to_common(optical.xy, factor), sar_xy=common, solo_xy=common,
            score=np.clip(1 - found.distance / np.maximum(found.rival, 1e-9), 0, 1),
            sigma=np.full(len(optical), _LOCALISED * factor), distance=found.distance, rival_distance=found.rival,
            search_radius=radius if given.near else max(pair.grid.shape) / 2,
            step=float(factor), footprint=float(factor), tried=len(optical),
        ).keep(found.found)  # fmt: skip
        ratio = adaptive_ratio(matches) | (not given.adaptive)
        return matches.keep(ratio & (found.mutual[found.found] | (not given.mutual)))

    def models(self, putative: Correspondences, seed: int = 0) -> list[tuple[Matrix, Flags]]:
        """(3, 3) warps in common pixels and their inliers: an affine and a homography, if enough. seed: of RANSAC."""
        found, limit = [], self.options.threshold * putative.step
        kinds: tuple[GlobalModel, ...] = ("affine", "homography")
        for kind in kinds:
            fit = fit_global(putative.optical_xy, putative.sar_xy, kind, limit, seed)
            if fit is not None and fit.inliers.sum() >= _FEWEST:
                to, away = (np.eye(3) + sign * np.pad(fit.centre[:, None], ((0, 1), (2, 0))) for sign in (1, -1))
                found.append((to @ fit.matrix @ away, fit.inliers))
        return found


def _compared(posed: ScenePair, optical: Described, factor: int) -> Correspondences:
    """Templates around the optical keypoints, compared with the SAR scene seen through the warp."""
    logarithm = sar_log(posed)

    def extract(patch: Patch, modality: Modality) -> Tensor:
        image = logarithm(patch.values) if modality == "sar" else optical_grey(patch.values)
        return orientation_features(torch.from_numpy(fill_invalid(image, patch.valid))[None], 6)[0]

    nodes = optical.xy[:: max(1, math.ceil(len(optical) / _COMPARED))]
    with progress.part(0.6, 1.0):
        return compare_at(posed, Level(factor, _TEMPLATE, _RADIUS, _MARGIN), nodes, extract)


def _inliers(putative: Correspondences, models: list[tuple[Matrix, Flags]]) -> Correspondences:
    """Those of the model that has more of them."""
    if not models:
        return putative.keep(np.zeros(len(putative), bool))
    warp, inliers = max(models, key=lambda model: int(model[1].sum()))
    kept = putative.keep(inliers)
    off = kept.sar_xy - through(warp, kept.optical_xy)
    sigma = max(float(np.sqrt((off**2).mean())), _LEAST_SIGMA * putative.step)
    return replace(kept, sigma=np.full(len(kept), sigma), tried=len(putative))


def _describer(given: MatcherOptions) -> LearnedDescriber | MimDescriber:
    """Raises ConfigError where the patches get too small or too large."""
    network, layout = None, MimDescriber.LAYOUT
    if given.descriptor == "learned":
        network, saved = load_descriptor(given.weights)
        layout = saved.patch
    wanted = asdict(layout) | {"scale": layout.scale * given.scale}
    layout = check(PatchLayout, wanted, "matcher 'descriptors', its patches")
    return MimDescriber(layout) if network is None else LearnedDescriber(network, layout)


def sar_log(pair: ScenePair) -> SarLog:
    """The logarithm of the pair's SAR values."""
    overview, _ = pair.overview(pair.sar)
    return SarLog.of(overview.values, overview.valid, overview.decibel)
