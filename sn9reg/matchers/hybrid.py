"""Learned and untrained features side by side: what one of them misses the other may see."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sn9reg.dense.tiles import FeatureExtractor
from sn9reg.errors import ConfigError
from sn9reg.matchers.learned import LearnedMatcher
from sn9reg.matchers.structure import StructureMatcher
from sn9reg.networks.branches import Modality
from sn9reg.scene import Patch


class HybridMatcher(LearnedMatcher):
    """Features of the small residual U-Net beside orientation energies. The default.

    learned: share of the similarity that the network's features carry, 0 to 1; the rest is that of the untrained
    orientation energies. A trained network tells apart what untrained features cannot; these are the sharper, and do
    not mind a sensor that nobody trained on. Other options as in `LearnedMatcher`.
    Raises ConfigError for a share out of range.
    """

    name = "hybrid"
    network = "residual-unet"
    rim = StructureMatcher.rim

    def __init__(self, learned: float = 0.3, weights: str | None = None, **options: Any) -> None:
        super().__init__(weights, **options)
        if isinstance(learned, bool) or not isinstance(learned, int | float) or not 0 <= learned <= 1:
            raise ConfigError(f"matcher option learned is {learned!r}, not a number from 0 to 1")
        self.learned = learned
        self._structure = StructureMatcher(**options)
        self.margin = max(self.margin, self._structure.margin)

    def extractor(self, sar: Patch) -> FeatureExtractor:
        trained, untrained = super().extractor(sar), self._structure.extractor(sar)
        one, other = math.sqrt(self.learned), math.sqrt(1 - self.learned)

        def extract(patch: Patch, modality: Modality) -> Tensor:
            # Each is of unit length: lengths of these shares make the similarities' weighted mean.
            return torch.cat([trained(patch, modality).mul_(one), untrained(patch, modality).mul_(other)])

        return extract
