"""Dense template matching, coarse to fine, over a whole scene: what every matcher with dense features shares.

At each pyramid level, a lattice of templates covers the overlap. Their similarity surfaces are computed around the
shift that the coarser level predicts. Neighbours vote, and the smoothed peaks are the next prediction.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import reduce
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from sn9reg import progress
from sn9reg.fit.correspondences import Correspondences
from sn9reg.fit.neighbours import witnesses_agree
from sn9reg.machine import device
from sn9reg.matchers.dense.correlation import Peaks, Similarity, find_peaks, masked_similarity
from sn9reg.matchers.dense.described import FeatureExtractor
from sn9reg.matchers.dense.lattice import Lattice, aggregate, smooth_field
from sn9reg.matchers.dense.search import TILE, Level, Surfaces, search
from sn9reg.options import Count, MaxOffset, Megapixels, check, options
from sn9reg.raster.grid import Points, Window, to_common, to_level
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import Patch, ScenePair

log = logging.getLogger(__name__)

_COARSE_RADIUS = 40  # a coarsest level is one where the largest shift is at most this many pixels ...
_COARSE_SIDE = 96  # ... unless the scene would shrink below this
_VOTERS, _NEAREST_VOTERS = 0.8, 0.6  # width of the vote, in nodes, for the prediction and for the matches
_WIDER = 10 / 3  # a vote this many times as wide shows how stable a match is
_SMALL = 384  # pixels; the first template covers half of a scene whose shorter side is at most this long
_DENSE = 6  # in such a scene, the least number of steps between the outermost templates ...
_CLOSEST = 16  # ... unless a step would be shorter than this many pixels
_VOTERS_OF_SMALL = 2.0  # width of the vote in such a scene, where a displacement hardly changes
_SUPPORTED = 0.5  # of a level's matches must be confirmed for it to replace a coarser one ...
_DESCEND = 0.6  # ... and of this level's for a finer one to be tried, ...
_ENOUGH_PLACES = 100  # ... if this many places were tried at least
_TRIAL = 10  # nodes to a side of the middle of the finest level, which is tried out first ...
_WORTH_A_TRIAL = 3  # ... where the whole has more than this many times the nodes
_FINE_RADIUS = 12  # pixels that every finer level searches around its prediction


@dataclass(frozen=True)
class _Searched:
    """The result of one level's search."""

    lattice: Lattice  # of the templates
    surfaces: Surfaces  # of the templates
    unvoted: Tensor  # `surfaces.centred()`
    small: bool  # whether the scene has room for few templates only

    def prediction(self) -> Callable[[Points], Points]:
        """The smoothed peaks after a wide vote: a function from places to shifts, both (N, 2) in common pixels."""
        level, shape = self.surfaces.level, (self.lattice.ny, self.lattice.nx)
        votes = self._voted(_VOTERS)
        weight = np.where(self.surfaces.usable, votes.score.numpy() + 1e-3, 0.0).reshape(shape)
        shift = (self.surfaces.predicted + votes.xy.numpy() - level.radius).reshape(*shape, 2)
        field = smooth_field(shift, weight, width=0.7) * level.factor
        return lambda common_xy: self.lattice.interpolate(field, to_level(common_xy, level.factor))

    def _voted(self, width: float) -> Peaks:
        """Peaks after a vote of a width in nodes; in a small scene, in steps of half a template if those are longer."""
        if self.small:
            width *= max(1.0, self.surfaces.level.template / 2 / self.lattice.spacing)
        return find_peaks(aggregate(self.unvoted, self.surfaces.usable, self.lattice, width))

    def matches(self, pair: ScenePair) -> Correspondences:
        """Peaks after a vote of the nearest neighbours, of templates whose way back ends near their start."""
        level, voters = self.surfaces.level, _VOTERS_OF_SMALL if self.small else _NEAREST_VOTERS
        peaks, wider, alone = self._voted(voters), self._voted(_WIDER * voters), find_peaks(self.unvoted)
        vote_shift = torch.linalg.vector_norm(wider.xy - peaks.xy, dim=1).double().numpy() * level.factor
        solo = self.surfaces.predicted + alone.xy.numpy() - level.radius
        moved = peaks.xy.numpy() - level.radius
        return self.surfaces.matches(pair.grid, peaks, moved, solo, vote_shift=vote_shift)


@options
class TemplateOptions:
    """Options of every dense matcher."""

    max_offset: MaxOffset = 150.0  # largest shift looked for, metres
    template: Annotated[int, Ge(16), Le(4096)] = 96  # its side, pixels of its level; half of it on the way down
    # Step of the lattice where templates are whole, pixels of its level; by default half a template, less in a small
    # scene.
    spacing: Annotated[float, Ge(1), Le(1e6)] | None = None
    max_templates: Count = 1600  # about, at the last level; half as many on the way down
    work_megapixels: Megapixels = 16.0  # the finest level is the first whose overlap has no more pixels


class TemplateMatcher:
    """Base of the dense matchers. A subclass gives `name` and `extractor`, and `Options` where it has more of them.
    Raises ConfigError for options that make no sense."""

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

        whole: patches have no margin to be cut off, and features have to be good up to the border, see `mirrored`.
        """
        raise NotImplementedError

    def features(self, pair: ScenePair) -> FeatureExtractor:
        """The extractor for a pair, the same one whenever a matcher of these options is asked."""
        key = (self.name, repr(self.options), device())
        if key not in pair.kept:
            pair.kept[key] = self.extractor(pair.overview(pair.sar)[0])
        found: FeatureExtractor = pair.kept[key]
        return found

    def locate(self, optical: Patch, sar: Patch) -> Points:
        """(2,) where the upper left pixel of a SAR template lies in a larger optical patch, whole pixels."""
        extract = self.extractor(sar, whole=True)
        region, template = extract(optical, "optical"), extract(sar, "sar")
        region_mask, mask = (
            torch.from_numpy(p.valid.astype(np.float32))[None].to(region.device) for p in (optical, sar)
        )
        surface = masked_similarity(self.similarity, region[None], region_mask, template[None], mask)[0]
        row, col = np.unravel_index(int(surface.argmax()), surface.shape)
        return np.array([col, row], dtype=np.float64)

    def levels(self, pair: ScenePair) -> list[Level]:
        """Coarsest first."""
        cell, factor = self.cell, self._finest(pair)
        shift = self.options.max_offset / pair.grid.metres_per_pixel / cell
        side = min(pair.overlap.shape) // cell
        if self._small(pair):
            # Small templates would see too little, and over so few pixels a displacement hardly changes.
            whole = self._level(pair, factor * cell, side, math.ceil(shift / factor) + 2)
            return [whole, self._level(pair, whole.factor, self.template, min(_FINE_RADIUS, whole.radius))]
        factors = [factor]
        while shift / factors[-1] > _COARSE_RADIUS and side / factors[-1] / 2 >= _COARSE_SIDE:
            factors.append(factors[-1] * 2)
        levels: list[Level] = []
        for f in reversed(factors):
            radius = _FINE_RADIUS if levels else math.ceil(shift / f) + 2
            # Coarse pixels are large on the ground. Half a template follows a field that a whole one would blur.
            template = self.template if f == factor else min(self.template // 2, side // f // 2 // 2 * 2)
            levels.append(self._level(pair, f * cell, template, radius))
        return levels

    def _finest(self, pair: ScenePair) -> int:
        """Side of the finest level's pixels, in common pixels; where features belong to cells, of the cells' pixels."""
        window, factor = pair.overlap, 1
        while window.width * window.height / factor**2 > self.options.work_megapixels * 1e6:
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
        """Correspondences of the finest level whose matches confirm each other.

        In speckle a template of few metres may find nothing. Where too few matches of a level confirm each other, finer
        levels would find even fewer: that level is then searched once more, with whole templates, and is the last. So
        is the last but one if the middle of the finest says that too few would.
        Raises InputError where a scene cannot be read.
        """
        return self._descend(pair, self.features(pair))

    def _descend(self, pair: ScenePair, extract: FeatureExtractor) -> Correspondences:
        prediction: Callable[[Points], Points] = np.zeros_like  # places -> shifts from optical to SAR, common pixels
        found: list[tuple[float, Correspondences]] = []
        *descent, last = self.levels(pair)
        steps = len(descent) + 2  # the last level has twice the templates
        for k, level in enumerate(descent):
            with progress.part(k / steps, (k + 1) / steps):
                lattice = self._lattice(pair, level, self.options.max_templates // 2)
                searched = self._search(pair, level, lattice, prediction, extract)
                matches, prediction = searched.matches(pair), searched.prediction()
                found.append((_confirmed_share(matches, level), matches))
                stays = found[-1][0] < _DESCEND and matches.tried >= _ENOUGH_PLACES
                if not stays and k == len(descent) - 1 and level.factor > last.factor:
                    stays = self._fails(pair, last, prediction, extract, min(found[-1][0], _SUPPORTED))
            if stays:
                last = self._level(pair, level.factor, self.template, _FINE_RADIUS)
                break
        with progress.part(len(descent) / steps, 1.0):
            lattice = self._lattice(pair, last, self.options.max_templates)
            matches = self._search(pair, last, lattice, prediction, extract).matches(pair)
        found.append((_confirmed_share(matches, last), matches))
        return reduce(lambda best, finer: finer if finer[0] >= min(best[0], _SUPPORTED) else best, found)[1]

    def _fails(
        self,
        pair: ScenePair,
        level: Level,
        predict: Callable[[Points], Points],
        extract: FeatureExtractor,
        least: float,
    ) -> bool:
        """Whether less than a share of the matches in the middle of a level are confirmed; False where that is
        not worth a trial, or few places can be tried."""
        lattice = self._lattice(pair, level, self.options.max_templates)
        middle = lattice.middle(_TRIAL)
        if len(lattice.nodes) <= _WORTH_A_TRIAL * len(middle.nodes):
            return False
        matches = self._search(pair, level, middle, predict, extract, alone=True).matches(pair)
        return _confirmed_share(matches, level) < least and matches.tried >= len(middle.nodes) / 2

    def _lattice(self, pair: ScenePair, level: Level, limit: int) -> Lattice:
        inside = Window(*(n // level.factor for n in astuple(pair.overlap)))
        spacing = (self.options.spacing or self.template / 2) * level.template / self.template
        if self.options.spacing is None and self._small(pair):
            spacing = min(spacing, max(_CLOSEST / self.cell, (min(inside.shape) - level.template) / _DENSE))
        return Lattice.over(inside, level.template, spacing, limit)

    def _search(
        self,
        pair: ScenePair,
        level: Level,
        lattice: Lattice,
        predict: Callable[[Points], Points],
        extract: FeatureExtractor,
        alone: bool = False,
    ) -> _Searched:
        """alone: nobody will need again what is described for it."""
        predicted = predict(to_common(lattice.nodes, level.factor)) / level.factor
        tile = _TRIAL * level.template if alone else TILE
        surfaces = search(pair, level, lattice.nodes, predicted, extract, self.similarity, tile=tile, alone=alone)
        return _Searched(lattice, surfaces, surfaces.centred(), self._small(pair))


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
