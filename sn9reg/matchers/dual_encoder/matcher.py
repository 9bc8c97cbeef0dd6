"""Cells of two encoders that know how sure they are, mutual nearest neighbours near where coarser looks predict them.

P. Huang et al., "Uncertainty-aware self-supervised cross-modal SAR-optical matching using EfficientDet and Xception".
The paper matches patches of 256 px, every cell with every other (`window` 1, `anywhere`). Over a whole scene that is
neither affordable nor unambiguous: here `TemplateMatcher` lays templates of cells coarse to fine, and nearest
neighbours are looked for around the shift that it predicts, comparing each cell together with those around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, fields
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt
from scipy.spatial import cKDTree
from torch import Tensor

from sn9reg import progress
from sn9reg.errors import ConfigError
from sn9reg.fit.correspondences import Correspondences
from sn9reg.matchers.dense.correlation import find_peaks
from sn9reg.matchers.dense.descent import TemplateMatcher, TemplateOptions
from sn9reg.matchers.dense.search import FeatureExtractor
from sn9reg.matchers.dual_encoder.encode import CellEncoder, CellMaps, EncodedPair, EncodedScene
from sn9reg.matchers.dual_encoder.network import CELL, DualEncoder
from sn9reg.matchers.dual_encoder.pairing import mutual, shifted_similarity
from sn9reg.matchers.dual_encoder.weights import load_dual_encoder
from sn9reg.matchers.fused import fused
from sn9reg.options import options
from sn9reg.raster.grid import Window, to_common
from sn9reg.raster.radiometry import Modality, SarLog
from sn9reg.raster.scene import Patch, ScenePair

_MARGIN = math.ceil(DualEncoder.margin / CELL)  # cells
_TILE = 48  # cells to a side that are matched at once
_RADIUS = 4  # cells around the predicted shift
_FEWEST = 4  # matches of templates below which there is nothing to go by
_GUIDES = 6  # of them nearest to a tile say where its cells lie
_SEEN = 28  # pixels around its own four that a cell sees, about


@options
class DualEncoderOptions:
    """Options of the dual encoder.

    weights: a .safetensors file; those that ship if not given.
    passes: of Monte-Carlo dropout, 20 in the paper; 0 for the uncertainty of the data alone. Each costs a look without.
    window: side of the square of cells that are compared together, odd; 1 is the paper's.
    max_matches: cells tried, about.
    max_offset, work_megapixels: see `TemplateOptions`; what else stands there is fixed.
    """

    weights: str | None = None
    passes: Annotated[int, Ge(0)] = 0
    window: Annotated[int, Ge(1)] = 17
    max_matches: Annotated[int, Ge(1)] = 1600
    max_offset: Annotated[float, Gt(0)] = 150.0
    work_megapixels: Annotated[float, Gt(0)] = 12.0
    template: ClassVar[int] = TemplateOptions.template
    spacing: ClassVar[None] = None
    max_templates: ClassVar[int] = TemplateOptions.max_templates

    def __post_init__(self) -> None:
        if self.window % 2 == 0:
            raise ConfigError(f"window is {self.window}, must be odd")


class DualEncoderMatcher(TemplateMatcher):
    """Dual encoder: cells of 4 px, weighed by their confidence, mutual nearest neighbours.

    Raises InputError where there are no weights or they do not fit, ConfigError for options that make no sense.
    """

    name = "dual-encoder"
    cell = CELL
    margin = _MARGIN
    Options = DualEncoderOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        given = self.options
        self.passes, self.window, self.max_matches = given.passes, given.window, given.max_matches
        self._network = fused(load_dual_encoder(given.weights)).to(memory_format=torch.channels_last)
        self.own_weights = given.weights is not None

    def extractor(self, sar: Patch, whole: bool = False) -> FeatureExtractor:
        """Embeddings of cells, stretched over their pixels."""
        encoder = CellEncoder(self._network, SarLog.of(sar.values, sar.valid), self.passes)

        def extract(patch: Patch, modality: Modality) -> Tensor:
            height, width = patch.valid.shape
            values = np.pad(patch.values, ((0, 0), (0, -height % CELL), (0, -width % CELL)), mode="edge")
            valid = np.pad(patch.valid, ((0, -height % CELL), (0, -width % CELL)))
            cells = encoder(Patch(values, valid), modality).weighed
            stretched = torch.nn.functional.interpolate(cells[None], scale_factor=CELL, mode="bilinear")[0]
            return stretched[:, :height, :width]

        return extract

    def encoded(self, pair: ScenePair) -> EncodedPair:
        """The pair seen as cells."""
        sar, _ = pair.overview(pair.sar)
        encoder = CellEncoder(self._network, SarLog.of(sar.values, sar.valid), self.passes)
        encoder.weigh(pair)
        scenes = EncodedScene(pair.optical, encoder, "optical"), EncodedScene(pair.sar, encoder, "sar")
        return EncodedPair(*scenes, pair.grid)

    def match(self, pair: ScenePair) -> Correspondences:
        """Mutual nearest neighbours of cells around what templates of cells predict.

        Raises InputError where a scene cannot be read.
        """
        seen = self.encoded(pair)
        with progress.part(0.0, 0.5):
            coarse = self._descend(seen, lambda patch, _: torch.from_numpy(patch.values))
        if len(coarse) < _FEWEST:
            return coarse
        with progress.part(0.5, 1.0):
            return self._nearest(seen, coarse)

    def _nearest(self, seen: EncodedPair, coarse: Correspondences) -> Correspondences:
        factor = round(coarse.step)
        shift, tree = coarse.sar_xy - coarse.optical_xy, cKDTree(coarse.optical_xy)
        col, row, width, height = (n // factor for n in astuple(seen.overlap))
        cells = Window(col, row, max(1, width), max(1, height))
        every = max(1, math.ceil(math.sqrt(cells.width * cells.height / self.max_matches)))
        found: list[_Found] = []
        tiles = list(_tiles(cells))
        for done, tile in enumerate(tiles):
            progress.report(done / len(tiles))
            middle = to_common(np.array([[tile.col + tile.width / 2, tile.row + tile.height / 2]]), factor)
            near = tree.query(middle, min(_GUIDES, len(coarse)))[1]
            predicted = np.rint(np.median(shift[near[0]], axis=0) / factor).astype(int)
            found.append(self._tile(seen, tile, predicted, factor, every))
        progress.report(1.0)
        xy, moved, score, sigma, value, rival, tried = (np.concatenate(part) for part in zip(*found, strict=True))
        here = to_common(xy, factor)
        there = here + moved * factor
        # One that meets what templates say by no more than chance has no witness but itself.
        return Correspondences(
            grid=seen.grid,
            optical_xy=here,
            sar_xy=there,
            score=score,
            sigma=sigma * factor,
            distance=1 - value,
            rival_distance=1 - rival,
            solo_xy=there,
            search_radius=float(_RADIUS * factor),
            step=factor / CELL,
            footprint=float(self.window * factor + 2 * _SEEN),
            tried=int(tried.sum()),
        )

    def _tile(
        self, seen: EncodedPair, tile: Window, predicted: npt.NDArray[np.int_], factor: int, every: int
    ) -> _Found:
        """Matches of the lattice's cells in a tile; places and shifts in cells."""
        reach = _RADIUS + self.window // 2  # a neighbour's neighbour is one of the tile's surroundings
        optical = _maps(seen.optical, tile.grow(reach), factor)
        moved = Window(tile.col + int(predicted[0]), tile.row + int(predicted[1]), tile.width, tile.height)
        sar = _maps(seen.sar, moved.grow(reach + _RADIUS), factor)
        volume = shifted_similarity(optical.weighed, sar.weighed, _RADIUS, self.window)
        kept = mutual(volume) & (optical.valid > 0)
        inner = (slice(reach, reach + tile.height), slice(reach, reach + tile.width))
        sides = (tile.row, tile.height), (tile.col, tile.width)
        lattice = torch.meshgrid(*(torch.arange(-start % every, size, every) for start, size in sides), indexing="ij")
        row, col = (n.flatten() for n in lattice)
        tried = (optical.valid[inner][row, col] > 0).numpy()
        chosen = kept[inner][row, col]
        row, col = row[chosen], col[chosen]
        surfaces = volume[:, :, inner[0], inner[1]][:, :, row, col].permute(2, 0, 1)
        peaks = find_peaks(surfaces, exclusion=2.0)
        shift = (peaks.xy - _RADIUS).numpy() + predicted
        best = peaks.xy.round().long() + reach
        there = row + best[:, 1], col + best[:, 0]
        both = optical.confidence[inner][row, col] * sar.confidence[there]
        inside = np.abs(shift - predicted).max(axis=1, initial=0) < _RADIUS - 0.5
        inside &= (sar.valid[there] > 0).numpy()
        places = torch.stack([col + tile.col, row + tile.row], dim=1).numpy().astype(np.float64)
        columns = (peaks.score * both, peaks.sigma / both.clamp_min(0.05), peaks.value, peaks.rival)
        score, sigma, value, rival = (column.double().numpy()[inside] for column in columns)
        return _Found(places[inside], shift.astype(np.float64)[inside], score, sigma, value, rival, tried)


class _Found(NamedTuple):
    """(N, 2) places and shifts in cells, (N,) score, sigma in cells, value and rival; (M,) which cells were tried."""

    xy: npt.NDArray[np.float64]
    moved: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    rival: npt.NDArray[np.float64]
    tried: npt.NDArray[np.bool_]


def _maps(scene: EncodedScene, window: Window, factor: int) -> CellMaps:
    """What the encoder says of a window, without the border's influence."""
    maps = scene.maps(window.grow(_MARGIN), factor)
    inner = slice(_MARGIN, -_MARGIN)
    return CellMaps(*(getattr(maps, f.name)[..., inner, inner] for f in fields(CellMaps)))


def _tiles(window: Window) -> Iterator[Window]:
    for row in range(window.row, window.row + window.height, _TILE):
        for col in range(window.col, window.col + window.width, _TILE):
            height, width = min(_TILE, window.row + window.height - row), min(_TILE, window.col + window.width - col)
            yield Window(col, row, width, height)
