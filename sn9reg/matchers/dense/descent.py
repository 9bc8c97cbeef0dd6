"""Dense template matching, coarse to fine, over a whole scene: what every matcher with dense features shares.

A pyramid level lays a lattice of templates over the overlap, computes their similarity surfaces around the shift that
the coarser level predicts, lets neighbours vote, and smooths the peaks to the next prediction. The finest level that
its own evidence supports emits the correspondences: sub-pixel peaks that survive a forward-backward check.
"""

from __future__ import annotations

import inspect
import logging
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sn9reg import progress
from sn9reg.errors import ConfigError
from sn9reg.fit.correspondences import Correspondences
from sn9reg.fit.neighbours import witnesses_agree
from sn9reg.matchers.dense.correlation import Peaks, Similarity, find_peaks, masked_similarity
from sn9reg.matchers.dense.lattice import Field, Lattice, smooth_field
from sn9reg.matchers.dense.search import FeatureExtractor, Level, Surfaces, search
from sn9reg.matchers.dense.votes import aggregate, centred
from sn9reg.raster.grid import Points, Window, to_common, to_level
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import Patch, ScenePair

log = logging.getLogger(__name__)

_COARSE_RADIUS = 40  # a coarsest level is one where the largest shift is at most this many pixels ...
_COARSE_SIDE = 96  # ... unless the scene would shrink below this
_RETURN = 3.0  # a match that does not come back to within this many pixels is dropped
_VOTERS, _NEAREST_VOTERS = 0.8, 0.6  # width of the vote, in nodes, for the prediction and for the matches
_WIDER = 10 / 3  # times as wide a vote shows how settled a match is
_SMALL = 384  # side of a scene, pixels, up to which it is first laid as a whole
_DENSE = 6  # steps at least between the outermost templates, ...
_CLOSEST = 16  # as long as they are so many pixels long
_VOTERS_OF_SMALL = 2.0  # width of the vote there: over so few pixels a displacement hardly changes
_SUPPORTED = 0.5  # of a level's matches must be confirmed for it to replace a coarser one ...
_DESCEND = 0.6  # ... and of this level's for a finer one to be tried, ...
_TELLING = 100  # ... as soon as there are this many places to tell by
_FINE_RADIUS = 12  # search of every finer level around its prediction


@dataclass(frozen=True)
class _Prediction:
    """A displacement field, in pixels of the common grid, on the lattice of a level."""

    lattice: Lattice
    factor: int
    field: Field

    def at(self, common_xy: Points) -> Points:
        """(N, 2) shifts in common pixels at (N, 2) places in common pixels."""
        return self.lattice.interpolate(self.field, to_level(common_xy, self.factor))


@dataclass(frozen=True)
class _Searched:
    """One level's similarity surfaces. predicted: (N, 2) shifts around which they lie, pixels of the level.
    alone: (N, D, D) surfaces relative to these, before any vote. small: whether the scene is, see `_small`."""

    lattice: Lattice
    surfaces: Surfaces
    predicted: Points
    alone: Tensor
    small: bool

    def prediction(self) -> _Prediction:
        """The field that predicts the next level's shifts: peaks after a wide vote, smoothed."""
        level, shape = self.surfaces.level, (self.lattice.ny, self.lattice.nx)
        votes = self._voted(self._width(_VOTERS))
        weight = np.where(self.surfaces.usable, votes.score.numpy() + 1e-3, 0.0).reshape(shape)
        shift = (self.predicted + votes.xy.numpy() - level.radius).reshape(*shape, 2)
        return _Prediction(self.lattice, level.factor, smooth_field(shift, weight, width=0.7) * level.factor)

    def _voted(self, width: float) -> Peaks:
        return find_peaks(aggregate(self.alone, self.surfaces.usable, self.lattice, width))

    def _width(self, nodes: float) -> float:
        """Of a vote, in nodes; in a small scene, whose lattice may be denser, as much ground as half templates are."""
        if not self.small:
            return nodes
        return nodes * max(1.0, self.surfaces.level.template / 2 / self.lattice.spacing)

    def matches(self, pair: ScenePair) -> Correspondences:
        """Peaks after a vote of the nearest neighbours, where the template found its way back."""
        surfaces, level, f = self.surfaces, self.surfaces.level, self.surfaces.level.factor
        here, solo = to_common(self.lattice.nodes, f), find_peaks(self.alone)
        voters = self._width(_VOTERS_OF_SMALL if self.small else _NEAREST_VOTERS)
        peaks, wider = self._voted(voters), self._voted(_WIDER * voters)
        moved = peaks.xy.numpy() - level.radius
        kept = surfaces.usable & (surfaces.returned < _RETURN) & (np.abs(moved).max(axis=1) < level.radius - 0.5)

        def column(values: Tensor) -> npt.NDArray[np.float64]:
            return values.numpy().astype(np.float64)

        return Correspondences(
            grid=pair.grid,
            optical_xy=here,
            sar_xy=here + (self.predicted + moved) * f,
            score=column(peaks.score),
            sigma=column(peaks.sigma) * f,
            distance=1 - column(peaks.value),
            rival_distance=1 - column(peaks.rival),
            solo_xy=here + (self.predicted + solo.xy.numpy() - level.radius) * f,
            search_radius=float(level.radius * f),
            step=float(f),
            footprint=float(level.template * f),
            tried=int(surfaces.usable.sum()),
            vote_shift=column(torch.linalg.vector_norm(wider.xy - peaks.xy, dim=1)) * f,
        ).keep(kept)


class TemplateMatcher:
    """Base of the dense matchers. A subclass gives `name` and `extractor`.

    max_offset: largest shift looked for, metres. template: side of a template, pixels of its level; half of it on the
    way down. spacing: step of the lattice where templates are whole, pixels of its level (default half a template, less
    in a scene of few). max_templates: at most about this many at the last level, half as many on the way down.
    work_megapixels: the finest level is the first whose overlap has no more pixels than this.
    """

    name: str
    __signature__: ClassVar[inspect.Signature]
    margin = 20  # pixels within which a feature feels the border of what it is computed from; beyond, hardly
    similarity: Similarity = "cc"  # by which the features are compared
    cell = 1  # side of what a feature is computed for, pixels: the finest "pixel" of a level

    def __init__(
        self,
        max_offset: float = 150.0,
        template: int = 96,
        spacing: float | None = None,
        max_templates: int = 1600,
        work_megapixels: float = 40.0,
    ) -> None:
        _check_number("max_offset", max_offset)
        _check_number("template", template, 16)
        _check_number("spacing", 1 if spacing is None else spacing)
        _check_number("max_templates", max_templates, 1)
        _check_number("work_megapixels", work_megapixels)
        self.max_offset = max_offset
        self.template = template
        self.spacing = spacing or template / 2
        self.dense = spacing is None  # closer in a scene of few templates
        self.max_templates = max_templates
        self.work_megapixels = work_megapixels

    def __init_subclass__(cls) -> None:
        """What a subclass hands on as **options are options of its own: whoever lists them is to see them all."""
        super().__init_subclass__()
        found: dict[str, inspect.Parameter] = {}
        for kind in cls.__mro__:
            if "__init__" not in vars(kind):
                continue
            parameters = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:]
            handed_on = [p for p in parameters if p.kind is p.VAR_KEYWORD]
            found |= {p.name: p for p in parameters if p not in handed_on and p.name not in found}
            if not handed_on:
                break
        cls.__signature__ = inspect.Signature(list(found.values()))

    def extractor(self, sar: Patch, whole: bool = False) -> FeatureExtractor:
        """What turns patches into features, see `dense.tiles.FeatureExtractor`. sar: a sample of the SAR scene, e.g.
        its overview, for whatever must be the same in all its patches. whole: patches come without surroundings to be
        thrown away, and features are to be good up to the border, see `mirrored`."""
        raise NotImplementedError

    def locate(self, optical: Patch, sar: Patch) -> Points:
        """(2,) where the upper left pixel of a SAR template lies in a larger optical patch, whole pixels."""
        extract = self.extractor(sar, whole=True)
        region, template = extract(optical, "optical"), extract(sar, "sar")
        masks = (torch.from_numpy(patch.valid.astype(np.float32))[None] for patch in (optical, sar))
        region_mask, template_mask = masks
        surface = masked_similarity(self.similarity, region[None], region_mask, template[None], template_mask)[0]
        row, col = np.unravel_index(int(surface.argmax()), surface.shape)
        return np.array([col, row], dtype=np.float64)

    def levels(self, pair: ScenePair) -> list[Level]:
        """Coarsest first."""
        window, cell = pair.overlap, self.cell
        shift = self.max_offset / pair.grid.metres_per_pixel / cell
        factor = self._finest(pair)
        side = min(window.shape) // cell
        if self._small(pair):
            # Few templates see too little each, and over so few pixels a displacement hardly changes.
            radius = min(math.ceil(shift / factor) + 2, max(4, side // factor // 2))
            whole = Level(factor * cell, max(16 // cell, side // factor // 2 * 2), radius, self.margin)
            return [whole, self._last(pair, whole.factor, min(_FINE_RADIUS, radius))]
        factors = [factor]
        while shift / factors[-1] > _COARSE_RADIUS and side / factors[-1] / 2 >= _COARSE_SIDE:
            factors.append(factors[-1] * 2)
        descent = []
        for f in factors[:0:-1]:
            room = side // f
            radius = min(math.ceil(shift / f) + 2, max(4, room // 2)) if f == factors[-1] else _FINE_RADIUS
            # What is coarse is large on the ground: half a template follows a field that a whole one would blur.
            template = max(16 // cell, min(self.template // 2, room // 2 // 2 * 2))
            descent.append(Level(f * cell, template, radius, self.margin))
        radius = _FINE_RADIUS if descent else math.ceil(shift / factors[0]) + 2
        return [*descent, self._last(pair, factors[0] * cell, radius)]

    def _finest(self, pair: ScenePair) -> int:
        """The finest level's pixels, in common pixels (of cells: their pixels)."""
        window, factor = pair.overlap, 1
        while window.width * window.height / factor**2 > self.work_megapixels * 1e6:
            factor *= 2
        return factor

    def _small(self, pair: ScenePair) -> bool:
        """Whether the scene has room for few templates even where its pixels are finest."""
        return min(pair.overlap.shape) // self.cell // self._finest(pair) <= _SMALL // self.cell

    def _last(self, pair: ScenePair, factor: int, radius: int) -> Level:
        """The level that matches are taken from: templates as large as asked for, if the overlap has room for them."""
        side = min(pair.overlap.shape) // factor
        template = max(16 // self.cell, min(self.template, side // 2 * 2))
        return Level(factor, template, min(radius, max(4, side // 2)), self.margin)

    def match(self, pair: ScenePair) -> Correspondences:
        """Correspondences of the finest level that its own evidence supports.

        Finer pixels promise precision, but in speckle a template of few metres may find nothing. Where the matches of
        a level no longer confirm each other, going finer would only lose more: the descent ends, and whole templates
        are laid there.
        Raises InputError where a scene cannot be read.
        """
        return self._descend(pair, self.extractor(pair.overview(pair.sar)[0]))

    def _descend(self, pair: ScenePair, extract: FeatureExtractor) -> Correspondences:
        prediction: _Prediction | None = None
        found: list[tuple[float, Correspondences]] = []
        *descent, last = self.levels(pair)
        steps = len(descent) + 2  # the last level has twice the templates
        for k, level in enumerate(descent):
            with progress.part(k / steps, (k + 1) / steps):
                searched = self._search(pair, level, self.max_templates // 2, prediction, extract)
            matches, prediction = searched.matches(pair), searched.prediction()
            found.append((_confirmed_share(matches, level), matches))
            if found[-1][0] < _DESCEND and matches.tried >= _TELLING:
                last = self._last(pair, level.factor, _FINE_RADIUS)
                break
        with progress.part(len(descent) / steps, 1.0):
            matches = self._search(pair, last, self.max_templates, prediction, extract).matches(pair)
        found.append((_confirmed_share(matches, last), matches))
        best = found[0]
        for candidate in found[1:]:
            if candidate[0] >= min(best[0], _SUPPORTED):
                best = candidate
        return best[1]

    def _lattice(self, pair: ScenePair, level: Level, limit: int) -> Lattice:
        window = pair.overlap
        f = level.factor
        inside = Window(window.col // f, window.row // f, max(1, window.width // f), max(1, window.height // f))
        spacing = self.spacing * level.template / self.template
        if self.dense and self._small(pair):
            spacing = min(spacing, max(_CLOSEST / self.cell, (min(inside.shape) - level.template) / _DENSE))
        return Lattice.over(inside, level.template, spacing, limit)

    def _search(
        self, pair: ScenePair, level: Level, limit: int, prediction: _Prediction | None, extract: FeatureExtractor
    ) -> _Searched:
        lattice = self._lattice(pair, level, limit)
        places = to_common(lattice.nodes, level.factor)
        predicted = np.zeros_like(places) if prediction is None else prediction.at(places) / level.factor
        surfaces = search(pair, level, lattice.nodes, predicted, extract, similarity=self.similarity)
        return _Searched(lattice, surfaces, predicted, centred(surfaces, predicted), self._small(pair))


def mirrored(extract: FeatureExtractor, rim: int) -> FeatureExtractor:
    """The extractor for whole patches: each is mirrored outwards by `rim` pixels, described, and cropped back."""

    def around(patch: Patch, modality: Modality) -> Tensor:
        (height, width), sides = patch.valid.shape, ((rim, rim), (rim, rim))
        values = np.pad(patch.values, ((0, 0), *sides), mode="symmetric")
        features = extract(Patch(values, np.pad(patch.valid, sides, mode="symmetric")), modality)
        return features[:, rim : rim + height, rim : rim + width]

    return around


def _check_number(option: str, value: object, at_least: int = 0) -> None:
    """Raises ConfigError for what is no number above zero or, with `at_least`, no whole number from there on."""
    kinds, kind = ((int,), f"a whole number from {at_least}") if at_least else ((int, float), "a number above zero")
    good = isinstance(value, kinds) and not isinstance(value, bool) and max(0, at_least) <= value < math.inf
    if not good or value == 0:
        raise ConfigError(f"matcher option {option} is {value!r}, not {kind}")


def _confirmed_share(matches: Correspondences, level: Level) -> float:
    """Share of a level's matches that neighbours confirm; 0 where these are too few to mean anything."""
    confirmed = int(witnesses_agree(matches).sum())
    told = "1/%d, templates of %d px: %d places, %d matches, %d of them confirmed"
    log.info(told, level.factor, level.template, matches.tried, len(matches), confirmed)
    return confirmed / len(matches) if confirmed >= 8 else 0.0
