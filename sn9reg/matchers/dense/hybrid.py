"""Learned and untrained features side by side: either may show what the other misses."""

import math
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le
from torch import Tensor

from sn9reg.features.orientation import orientation_harmonics
from sn9reg.matchers.dense.descent import TemplateMatcher, mirrored
from sn9reg.matchers.dense.described import FeatureExtractor
from sn9reg.matchers.dense.learned import LearnedMatcher, LearnedOptions
from sn9reg.matchers.dense.structure import by_orientation
from sn9reg.options import options
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import Patch

_NEIGHBOURHOOD = 72  # side in pixels, about that of a template


@options
class HybridOptions(LearnedOptions):
    """Options of the hybrid."""

    learned: Annotated[float, Ge(0), Le(1)] = 0.4  # share of the network's features in the similarity


class HybridMatcher(LearnedMatcher):
    """Features of the slim U-Net beside orientation energies. The default.

    A trained network tells apart what untrained features cannot; these are sharper, and do not mind a sensor that
    nobody trained on. Raises as `LearnedMatcher`.
    """

    name = "hybrid"
    network = "slim-unet"
    Options = HybridOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.similarity = "cc"  # whatever the network was trained by, see `locally_standardised`
        self.margin = max(self.margin, TemplateMatcher.margin)

    def extractor(self, sar: Patch, whole: bool = False) -> FeatureExtractor:
        trained, untrained = super().extractor(sar, whole), by_orientation(sar, orientation_harmonics)
        if whole:
            untrained = mirrored(untrained, self.margin)
        one, other = math.sqrt(self.options.learned), math.sqrt(1 - self.options.learned)

        def extract(patch: Patch, modality: Modality) -> Tensor:
            learned = locally_standardised(trained(patch, modality))
            # With these lengths, correlation is the weighted mean of both similarities.
            return torch.cat([learned.mul_(one), untrained(patch, modality).mul_(other)])

        return extract


def locally_standardised(features: Tensor) -> Tensor:
    """(C, h, w) features with mean 0 per channel and mean squared length 1 over the 72 x 72 pixels around each pixel.

    ZNCC does this for the template's area at each position. This is done once, so that plain correlation of the result
    is nearly ZNCC, and can be added to that of other features. Features of length 0 are left out of means and stay 0.
    """
    values = np.ascontiguousarray(features.permute(1, 2, 0).numpy())
    squares = np.einsum("hwc,hwc->hw", values, values)
    present = (squares > 0).astype(np.float32)
    share = np.maximum(_blur(present), 1e-6)
    values = (values - _blur(values) / share[..., None]) * present[..., None]
    variance = _blur(np.einsum("hwc,hwc->hw", values, values)) / share
    # Variance below this floor is the rounding of the means.
    length = np.sqrt(np.where(variance > 1e-6 * squares.max(initial=0), variance, np.inf))
    return torch.from_numpy(np.moveaxis(values / length[..., None], 2, 0))


def _blur(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.blur(image, (_NEIGHBOURHOOD, _NEIGHBOURHOOD), borderType=cv2.BORDER_REFLECT), np.float32)
