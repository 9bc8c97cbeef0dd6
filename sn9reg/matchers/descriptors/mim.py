"""A descriptor without training: histograms of which orientation is strongest (the maximum index map)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from sn9reg.features.phase_congruency import PhaseCongruency
from sn9reg.matchers.descriptors.patches import ORIENTATIONS, PatchLayout, sample_patches

LAYOUT = PatchLayout(side=96, scale=1.0, inputs="energy")  # as in RIFT
_CELLS = 6  # a side


class MimDescriber:
    """In each of 6 x 6 cells around a keypoint a histogram of the orientation whose energy, summed over scales, is the
    largest.

    J. Li, Q. Hu, M. Ai, "RIFT: multi-modal image matching based on radiation-variation insensitive feature transform",
    2020.
    """

    def __init__(self, layout: PatchLayout = LAYOUT) -> None:
        self.layout, self.extent = layout, layout.extent

    def maps(self, grey: Tensor, congruency: PhaseCongruency) -> Tensor:
        return torch.cat([grey[None], congruency.amplitude[0]])

    def describe(self, maps: Tensor, xy: Tensor, angle: Tensor | None) -> Tensor:
        largest, index = sample_patches(maps, xy, self.layout, angle).max(dim=1)
        votes = one_hot(index, ORIENTATIONS).to(largest) * (largest > 0)[..., None]
        cell = self.layout.side // _CELLS
        votes = votes[:, : cell * _CELLS, : cell * _CELLS]
        counts = votes.reshape(len(votes), _CELLS, cell, _CELLS, cell, ORIENTATIONS).sum(dim=(2, 4))
        return normalize(counts.flatten(1), dim=1)
