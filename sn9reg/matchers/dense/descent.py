"""Dense template matching, coarse to fine, over a whole scene: what every matcher with dense features shares.

At each pyramid level, similarity surfaces of a lattice of templates are computed around the shift that the coarser one
predicts, and the trend of them all is the next prediction. Around the last one, neighbours vote on each match.
"""

import logging
import math
from dataclasses import astuple
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from sn9reg import progress
from sn9reg.fit.choose import fit
from sn9reg.fit.correspondences import Correspondences
from sn9reg.fit.neighbours import witnesses_agree
from sn9reg.machine import device
from sn9reg.matchers.dense.correlation import Similarity, find_peaks, masked_similarity
from sn9reg.matchers.dense.described import FeatureExtractor
from sn9reg.matchers.dense.lattice import Lattice, aggregate
from sn9reg.matchers.dense.search import Level, search, workers
from sn9reg.matchers.dense.trend import Prediction, trend
from sn9reg.options import Count, MaxOffset, Megapixels, check, options
from sn9reg.raster.grid import Points, Window, to_common, to_level
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import Patch, ScenePair

log = logging.getLogger(__name__)

_COARSE_RADIUS = 40  # a coarsest level is one where the largest shift is at most this many pixels ...
_COARSE_SIDE = 160  # ... unless the scene would shrink below this
_FOLLOWED = 24  # pixels around its prediction in which the trend of a finer level is looked for
_RADIUS = 12  # pixels around a prediction in which matches are looked for
_VOTERS = 0.6  # width of the vote for a match, in nodes
_LOOSE = 16.0  # pixels from its prediction that a match is only for a surface a standard deviation higher
_WIDER = 10 / 3  # a vote this many times as wide shows how stable a match is
_SMALL = 384  # pixels: a scene whose shorter side is at most this long has more templates than fit side by side:
_DENSE = 6  # at least so many steps between the outermost ...
_CLOSEST = 16  # ... unless a step would be shorter than this many pixels
_VOTERS_OF_SMALL = 2.0  # width of the vote in such a scene, where a displacement hardly changes
_SUPPORTED = 0.4  # share of a level's matches that must be confirmed for it to be taken without a look at coarser ones


@options
class TemplateOptions:
    """Options of every dense matcher."""

    max_offset: MaxOffset = 150.0  # largest shift looked for, metres
    template: Annotated[int, Ge(16), Le(4096)] = 96  # its side, pixels of its level; half of it on the way down
    # Step of a lattice of whole templates, pixels of its level; by default half a template, less in a small scene.
    spacing: Annotated[float, Ge(1), Le(1e6)] | None = None
    max_templates: Count = 800  # about, at the last level; half as many on the way down
    work_megapixels: Megapixels = 16.0  # the finest level is the first whose overlap has no more pixels


class TemplateMatcher:
    """A subclass gives `name` and `extractor`, and `Options` if it has more. Raises ConfigError for wrong options."""

    name: str
    Options: ClassVar[type[Any]] = TemplateOptions
    margin = 20  # pixels within which a feature feels the border of what it is computed from; beyond, hardly
    similarity: Similarity = "cc"  # by which the features are compared
    cell = 1  # side of what a feature is computed for, pixels: the finest "pixel" of a level

    def __init__(self, **options: Any) -> None:
        self.options = check(self.Options, options, f"matcher {self.name!r}")
        self.template: int = self.options.template // self.cell

    def extractor(self, sar: Patch, whole: bool = False) -> FeatureExtractor:
        """What turns patches into features. sar: a sample of the SAR scene, for settings that all its patches share.
        whole: patches have no margin to be cut off, and features have to be good up to the border, see `mirrored`."""
        raise NotImplementedError

    def features(self, pair: ScenePair) -> FeatureExtractor:
        """The extractor for a pair, the same one whenever a matcher of these options is asked."""
        key = (self.name, repr(self.options), device())
        if key not in pair.kept:
            pair.kept[key] = self.extractor(pair.overview(pair.sar)[0])
        return pair.kept[key]

    def surface(self, optical: Patch, sar: Patch) -> Tensor:
        """(H - h + 1, W - w + 1) similarity of a SAR template to each place of a larger optical patch."""
        extract = self.extractor(sar, whole=True)
        with workers() as pool:  # an image a thread: sooner than both threads for every operation
            region, template = pool.map(extract, (optical, sar), ("optical", "sar"))
        masks = [torch.from_numpy(patch.valid)[None].to(region) for patch in (optical, sar)]
        return masked_similarity(self.similarity, region[None], masks[0], template[None], masks[1])[0]

    def locate(self, optical: Patch, sar: Patch) -> Points:
        """(2,) where the upper left pixel of a SAR template lies in a larger optical patch, whole pixels."""
        surface = self.surface(optical, sar)
        row, col = np.unravel_index(int(surface.argmax()), surface.shape)
        return np.array([col, row], dtype=np.float64)

    def levels(self, pair: ScenePair) -> list[Level]:
        """Coarsest first."""
        cell, factor = self.cell, self._finest(pair)
        shift = self.options.max_offset / pair.grid.metres_per_pixel / cell
        side = min(pair.overlap.shape) // cell
        factors = [factor]
        while shift / factors[-1] > _COARSE_RADIUS and side / factors[-1] / 2 >= _COARSE_SIDE:
            factors.append(factors[-1] * 2)
        levels: list[Level] = []
        for f in reversed(factors):
            # Coarse pixels are large on the ground. Half a template follows a field that a whole one would blur.
            template = self.template if f == factor else self.template // 2
            radius = _FOLLOWED if levels else math.ceil(shift / f) + 2
            levels.append(self._level(pair, f * cell, template, radius))
        return levels

    def _finest(self, pair: ScenePair) -> int:
        """Side of the finest level's pixels, in common pixels; where features belong to cells, of the cells' pixels."""
        pixels, factor = math.prod(pair.overlap.shape), 1
        while pixels / factor**2 > self.options.work_megapixels * 1e6:
            factor *= 2
        return factor

    def _small(self, pair: ScenePair) -> bool:
        """Whether the scene has room for few templates even where its pixels are finest."""
        return min(pair.overlap.shape) // self.cell // self._finest(pair) <= _SMALL // self.cell

    def _level(self, pair: ScenePair, factor: int, template: int, radius: int) -> Level:
        """A level with templates and shifts of these sizes, as far as the overlap has room for them."""
        side = min(pair.overlap.shape) // factor
        template = max(16 // self.cell, min(template, side // 2 * 2))
        return Level(factor, template, min(radius, max(4, side // 2)), self.margin, self.cell)

    def match(self, pair: ScenePair) -> Correspondences:
        """Correspondences of the finest level whose own predict each other better than a coarser level's predict them:
        in speckle a template of few metres may find nothing. Where enough of a level's are confirmed by their
        neighbours, no coarser one is tried. Raises InputError where a scene cannot be read."""
        return self._descend(pair, self.features(pair))

    def _descend(self, pair: ScenePair, extract: FeatureExtractor) -> Correspondences:
        levels = self.levels(pair)
        predictions: list[Prediction] = [_nowhere]
        for k, level in enumerate(levels):
            with progress.part(k / (len(levels) + 1), (k + 1) / (len(levels) + 1)):
                predictions.append(self._followed(pair, level, predictions[-1], extract))
        best: Correspondences | None = None
        for followed, predict in zip(reversed(levels), reversed(predictions), strict=False):
            level = self._level(pair, followed.factor, self.template, min(_RADIUS, followed.radius))
            with progress.part(len(levels) / (len(levels) + 1), 1.0):
                matches = self._matches(pair, level, predict, extract)
            if best is None or _better_predicted(best, matches):
                best = matches
            if _confirmed_share(matches, level) >= _SUPPORTED:
                break
        assert best is not None  # there is at least one level
        return best

    def _followed(self, pair: ScenePair, level: Level, predict: Prediction, extract: FeatureExtractor) -> Prediction:
        """A prediction, and what the trend of a level's templates adds to it."""
        lattice = self._lattice(pair, level, self.options.max_templates // 2)
        expected = predict(to_common(lattice.nodes, level.factor)) / level.factor
        found = search(pair, level, lattice.nodes, expected, extract, self.similarity, way_back=False)
        added = trend(found.centred().numpy(), found.usable, lattice, first=predict is _nowhere)
        return lambda xy: predict(xy) + added(to_level(xy, level.factor)) * level.factor

    def _lattice(self, pair: ScenePair, level: Level, limit: int) -> Lattice:
        inside = Window(*(n // level.factor for n in astuple(pair.overlap)))
        spacing = (self.options.spacing or self.template / 2) * level.template / self.template
        if self.options.spacing is None and self._small(pair):
            spacing = min(spacing, max(_CLOSEST / self.cell, (min(inside.shape) - level.template) / _DENSE))
        return Lattice.over(inside, level.template, spacing, limit)

    def _matches(
        self, pair: ScenePair, level: Level, predict: Prediction, extract: FeatureExtractor
    ) -> Correspondences:
        """Peaks after a vote of the nearest neighbours, of templates whose way back ends near their start."""
        lattice, voters = self._lattice(pair, level, self.options.max_templates), _VOTERS
        if self._small(pair):
            voters = _VOTERS_OF_SMALL * max(1.0, level.template / 2 / lattice.spacing)
        predicted = predict(to_common(lattice.nodes, level.factor)) / level.factor
        surfaces = search(pair, level, lattice.nodes, predicted, extract, self.similarity)
        unvoted = surfaces.centred()
        votes = (aggregate(unvoted, surfaces.usable, lattice, width) for width in (voters, _WIDER * voters))
        voted = map(_near_prediction, votes)
        peaks, wider = map(find_peaks, voted)
        vote_shift = torch.linalg.vector_norm(wider.xy - peaks.xy, dim=1).double().numpy() * level.factor
        solo = surfaces.predicted + find_peaks(unvoted).xy.numpy() - level.radius
        return surfaces.matches(pair.grid, peaks, peaks.xy.numpy() - level.radius, solo, vote_shift=vote_shift)


def _nowhere(xy: Points) -> Points:
    """The prediction of who knows nothing."""
    return np.zeros_like(xy)


def _near_prediction(surfaces: Tensor) -> Tensor:
    """(N, D, D) surfaces, lowered by the square of the distance from their middle: the trend of many templates is more
    often right than one that finds something else. Witnesses choose without this, or they would confirm anything."""
    away = torch.arange(surfaces.shape[-1]) - surfaces.shape[-1] // 2
    squares = (away.square() + away[:, None].square()) / _LOOSE**2
    return surfaces - surfaces.std(dim=(1, 2), keepdim=True) * squares


def mirrored(extract: FeatureExtractor, rim: int) -> FeatureExtractor:
    """The extractor for whole patches: each is mirrored outwards by `rim` pixels, described, and cropped again."""

    def extract_mirrored(patch: Patch, modality: Modality) -> Tensor:
        (height, width), sides = patch.valid.shape, ((rim, rim), (rim, rim))
        values = np.pad(patch.values, ((0, 0), *sides), mode="symmetric")
        features = extract(Patch(values, np.pad(patch.valid, sides, mode="symmetric")), modality)
        return features[:, rim : rim + height, rim : rim + width]

    return extract_mirrored


def _confirmed_share(matches: Correspondences, level: Level) -> float:
    """Share of a level's matches that neighbours confirm; 0 where fewer than 8 are confirmed."""
    confirmed = int(witnesses_agree(matches).sum())
    counts = level.factor, level.template, matches.tried, len(matches), confirmed
    log.info("1/%d, templates of %d px: %d places, %d matches, %d of them confirmed", *counts)
    return confirmed / len(matches) if confirmed >= 8 else 0.0


def _better_predicted(finer: Correspondences, coarser: Correspondences) -> bool:
    """Whether the matches of a coarser level predict those of a finer one better than these predict each other."""
    own, other = fit(finer), fit(coarser)
    if not (own.fitted and other.fitted):
        return other.fitted
    error = min(own.held_out.values())
    distance = np.hypot(*(other.warp(finer.optical_map) - finer.sar_map).T)[own.inliers]
    found = float(np.minimum(distance, _RADIUS * finer.step * finer.grid.resolution).mean())
    log.info("matches are predicted to %.2f map units by coarser ones, to %.2f by each other", found, error)
    return found < error
