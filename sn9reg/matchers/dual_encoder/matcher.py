"""Cells of two encoders that know how sure they are, mutual nearest neighbours near where coarser looks predict them.

Huang et al. match patches of 256 px, every cell with every other (`pairing.nearest_anywhere`). Over a scene that is
neither affordable nor unambiguous: here nearest neighbours are looked for around the shift that templates of cells
predict (`TemplateMatcher`), comparing each cell together with those around it.
"""

import math
from dataclasses import astuple, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le
from scipy.spatial import cKDTree
from torch import Tensor

from sn9reg import progress
from sn9reg.errors import ConfigError
from sn9reg.fit.correspondences import Correspondences, Floats
from sn9reg.matchers.batch_norm import fused
from sn9reg.matchers.dense.correlation import find_peaks
from sn9reg.matchers.dense.descent import TemplateMatcher, TemplateOptions
from sn9reg.matchers.dense.described import FeatureExtractor
from sn9reg.matchers.dual_encoder.encode import CellEncoder, CellMaps, EncodedScene
from sn9reg.matchers.dual_encoder.network import CELL, DualEncoder, load_dual_encoder
from sn9reg.matchers.dual_encoder.pairing import mutual, shifted_similarity
from sn9reg.options import Count, MaxOffset, Megapixels, options
from sn9reg.raster.grid import Window, to_common
from sn9reg.raster.radiometry import Modality, SarLog
from sn9reg.raster.scene import Patch, ScenePair

Scenes = tuple[EncodedScene, EncodedScene]  # optical, SAR

_MARGIN = math.ceil(DualEncoder.margin / CELL)  # cells
_TILE = 48  # cells to a side that are matched at once
_RADIUS = 4  # cells around the predicted shift
_FEWEST = 4  # matches of templates below which there is nothing to go by
_GUIDES = 6  # of them nearest to a tile say where its cells lie
_SEEN = 28  # pixels around its own four that a cell sees, about
_GLANCE = 256  # pixels of each overview that say how the pair's uncertainties are to be weighed


@options
class DualEncoderOptions:
    """Options of the dual encoder. For the last two see `TemplateOptions`; what else stands there is fixed."""

    weights: str | None = None  # a .safetensors file; those that ship if not given
    # Of Monte-Carlo dropout, 20 in the paper; 0 for the uncertainty of the data alone. Each costs a look without.
    passes: Annotated[int, Ge(0), Le(1000)] = 0
    window: Annotated[int, Ge(1), Le(255)] = 17  # side of the square of cells compared together, odd; 1 in the paper
    max_matches: Count = 1600  # cells tried, about
    max_offset: MaxOffset = 150.0
    work_megapixels: Megapixels = 12.0
    template: ClassVar[int] = TemplateOptions.template
    spacing: ClassVar[None] = None
    max_templates: ClassVar[int] = TemplateOptions.max_templates

    def __post_init__(self) -> None:
        if self.window % 2 == 0:
            raise ConfigError(f"window is {self.window}, must be odd")


class DualEncoderMatcher(TemplateMatcher):
    """Dual encoder: cells of 4 px, weighed by their confidence, mutual nearest neighbours."""

    name = "dual-encoder"
    cell = CELL
    margin = _MARGIN
    Options = DualEncoderOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._network = fused(load_dual_encoder(self.options.weights)).to(memory_format=torch.channels_last)
        self.own_weights = self.options.weights is not None

    def _encoder(self, sar: Patch) -> CellEncoder:
        return CellEncoder(self._network, SarLog.of(sar.values, sar.valid, sar.decibel), self.options.passes)

    def extractor(self, sar: Patch, whole: bool = False) -> FeatureExtractor:
        """Embeddings of cells, stretched over their pixels."""
        encoder = self._encoder(sar)

        def extract(patch: Patch, modality: Modality) -> Tensor:
            height, width = patch.valid.shape
            rest = (0, -height % CELL), (0, -width % CELL)
            padded = Patch(np.pad(patch.values, ((0, 0), *rest), mode="edge"), np.pad(patch.valid, rest))
            cells = encoder(padded, modality).weighed
            stretched = torch.nn.functional.interpolate(cells[None], scale_factor=CELL, mode="bilinear")[0]
            return stretched[:, :height, :width]

        return extract

    def match(self, pair: ScenePair) -> Correspondences:
        """Mutual nearest neighbours around what templates predict. Raises InputError where a scene cannot be read."""
        looks = [pair.overview(scene)[0] for scene in (pair.optical, pair.sar)]
        encoder = self._encoder(looks[1])
        encoder.weigh(*map(_middle, looks))
        scenes = EncodedScene(pair.optical, encoder, "optical"), EncodedScene(pair.sar, encoder, "sar")
        with progress.part(0.0, 0.5):
            coarse = self._descend(ScenePair(*scenes, pair.grid), lambda patch, _: torch.from_numpy(patch.values))
        if len(coarse) < _FEWEST:
            return coarse
        with progress.part(0.5, 1.0):
            return self._nearest(pair, scenes, coarse)

    def _nearest(self, pair: ScenePair, scenes: Scenes, coarse: Correspondences) -> Correspondences:
        factor = round(coarse.step)
        shift, tree = coarse.sar_xy - coarse.optical_xy, cKDTree(coarse.optical_xy)
        col, row, width, height = (n // factor for n in astuple(pair.overlap))
        cells = Window(col, row, max(1, width), max(1, height))
        every = max(1, math.ceil(math.sqrt(cells.width * cells.height / self.options.max_matches)))
        tiles = [Window(col + b.col, row + b.row, b.width, b.height) for b in pair.grid.crop(cells).blocks(_TILE)]
        found = []
        for done, tile in enumerate(tiles):
            progress.report(done / len(tiles))
            middle = to_common(np.array([[tile.col + tile.width / 2, tile.row + tile.height / 2]]), factor)
            near = tree.query(middle, min(_GUIDES, len(coarse)))[1]
            predicted = np.rint(np.median(shift[near[0]], axis=0) / factor).astype(int)
            found.append(self._tile(scenes, tile, predicted, factor, every))
        progress.report(1.0)
        table = np.concatenate([matches for matches, _ in found])
        score, sigma, value, rival = table[:, 4:].T
        here = to_common(table[:, :2], factor)
        there = here + table[:, 2:4] * factor
        # One that meets what templates say by no more than chance has no witness but itself.
        return Correspondences(
            grid=pair.grid, optical_xy=here, sar_xy=there, solo_xy=there,
            score=score, sigma=sigma * factor, distance=1 - value, rival_distance=1 - rival,
            search_radius=float(_RADIUS * factor), step=factor / CELL,
            footprint=float(self.options.window * factor + 2 * _SEEN), tried=sum(tried for _, tried in found),
        )  # fmt: skip

    def _tile(
        self, scenes: Scenes, tile: Window, predicted: npt.NDArray[np.int_], factor: int, every: int
    ) -> tuple[Floats, int]:
        """(N, 8) matches of the lattice's cells in a tile, and how many cells were tried. Columns: place x, y and shift
        x, y, in cells; score; sigma, in cells; similarity; that of the next best."""
        reach = _RADIUS + self.options.window // 2  # a neighbour's neighbour is one of the tile's surroundings
        moved = replace(tile, col=tile.col + int(predicted[0]), row=tile.row + int(predicted[1]))
        optical, sar = _maps(scenes[0], tile.grow(reach), factor), _maps(scenes[1], moved.grow(reach + _RADIUS), factor)
        volume = shifted_similarity(optical.weighed, sar.weighed, _RADIUS, self.options.window)
        kept = mutual(volume) & (optical.valid > 0)
        inner = (slice(reach, reach + tile.height), slice(reach, reach + tile.width))
        sides = (tile.row, tile.height), (tile.col, tile.width)
        row, col = torch.cartesian_prod(*(torch.arange(-start % every, size, every) for start, size in sides)).T
        tried, chosen = int((optical.valid[inner][row, col] > 0).sum()), kept[inner][row, col]
        row, col = row[chosen], col[chosen]
        surfaces = volume[:, :, inner[0], inner[1]][:, :, row, col].permute(2, 0, 1)
        peaks = find_peaks(surfaces, exclusion=2.0)
        shift = (peaks.xy - _RADIUS).numpy() + predicted
        best = peaks.xy.round().long() + reach
        there = row + best[:, 1], col + best[:, 0]
        both = optical.confidence[inner][row, col] * sar.confidence[there]
        near = np.abs(shift - predicted).max(axis=1, initial=0) < _RADIUS - 0.5
        inside = near & (sar.valid[there] > 0).numpy()
        sigma = peaks.sigma / both.clamp_min(0.05)
        numbers = (col + tile.col, row + tile.row, *shift.T, peaks.score * both, sigma, peaks.value, peaks.rival)
        return np.column_stack([np.asarray(column, np.float64) for column in numbers])[inside], tried


def _middle(patch: Patch) -> Patch:
    starts = (max(0, (n - _GLANCE) // 2) for n in patch.valid.shape)
    rows, cols = (slice(start, start + _GLANCE) for start in starts)
    return Patch(patch.values[:, rows, cols], patch.valid[rows, cols])


def _maps(scene: EncodedScene, window: Window, factor: int) -> CellMaps:
    """What the encoder says of a window, without the border's influence."""
    inner = slice(_MARGIN, -_MARGIN)
    return CellMaps(*(m[..., inner, inner] for m in vars(scene.maps(window.grow(_MARGIN), factor)).values()))
