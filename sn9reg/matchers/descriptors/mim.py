"""A descriptor without training: histograms of which orientation is strongest (the maximum index map)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from sn9reg.features.phase_congruency import PhaseCongruency
from sn9reg.matchers.descriptors.patches import ORIENTATIONS, PatchLayout, sample_patches

LAYOUT = PatchLayout(side=96, scale=1.0, inputs="energy")  # as in RIFT
_CELLS = 6  # a side


def mim_descriptors(maps: Tensor, xy: Tensor, layout: PatchLayout = LAYOUT, angle: Tensor | None = None) -> Tensor:
    """(1 + O, H, W) image and phase congruency amplitudes, (N, 2) places -> (N, 6 * 6 * O) descriptors of length 1.

    J. Li, Q. Hu, M. Ai, "RIFT: multi-modal image matching based on radiation-variation insensitive feature transform",
    2020: in each of 6 x 6 cells around the keypoint a histogram of the orientation whose energy, summed over scales, is
    the largest. angle: (N,) radians to which patches are turned first, with their orientations.
    """
    largest, index = sample_patches(maps, xy, layout, angle).max(dim=1)
    votes = one_hot(index, ORIENTATIONS).to(largest) * (largest > 0)[..., None]
    cell = layout.side // _CELLS
    votes = votes[:, : cell * _CELLS, : cell * _CELLS]
    counts = votes.reshape(len(votes), _CELLS, cell, _CELLS, cell, ORIENTATIONS).sum(dim=(2, 4))
    return normalize(counts.flatten(1), dim=1)


class MimDescriber:
    """Maximum index map, by `mim_descriptors`."""

    def __init__(self, layout: PatchLayout = LAYOUT) -> None:
        self.layout, self.extent = layout, layout.extent

    def maps(self, grey: Tensor, congruency: PhaseCongruency) -> Tensor:
        return torch.cat([grey[None], congruency.amplitude[0]])

    def describe(self, maps: Tensor, xy: Tensor, angle: Tensor | None) -> Tensor:
        return mim_descriptors(maps, xy, self.layout, angle)
