"""Learned and untrained features side by side: either may show what the other misses."""

import math
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn.functional import avg_pool2d

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

    A trained network tells apart what untrained features cannot; these are sharper, and suit a sensor that nobody
    trained on. Raises as `LearnedMatcher`."""

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
            found = trained(patch, modality)
            # Correlation is the weighted mean of both similarities. What the network takes for ground counts in both.
            weighed = untrained(patch, modality) * other * _weight(found)
            return torch.cat([locally_standardised(found).mul_(one), weighed])

        return extract


def locally_standardised(features: Tensor) -> Tensor:
    """(C, h, w) features with mean 0 per channel and mean squared length 1 over the 72 x 72 pixels around each, which
    count by their length. Plain correlation of these is nearly ZNCC, and can be added to that of other features."""
    values = features.contiguous()
    squares = values.square().sum(dim=0, keepdim=True)
    length = squares.sqrt()
    values = values - length * (_blur(values) / _blur(length).clamp_min(1e-6))
    variance = _blur(values.square().sum(dim=0, keepdim=True)) / _blur((squares > 0).float()).clamp_min(1e-6)
    # Variance below this floor is the rounding of the means.
    return values.div_(torch.where(variance > 1e-6 * squares.max(), variance, torch.inf).sqrt())


def _weight(features: Tensor) -> Tensor:
    """(1, h, w) lengths of (C, h, w) features, of mean square 1 over those around that are not 0."""
    squares = features.square().sum(dim=0, keepdim=True)
    around = _blur(squares) / _blur((squares > 0).float()).clamp_min(1e-6)
    return (squares / around.clamp_min(1e-6)).sqrt()


def _blur(image: Tensor) -> Tensor:
    """(C, h, w) means over the 72 x 72 pixels around each pixel, the image mirrored at its borders."""
    if image.device.type == "cpu":  # OpenCV's running sums are a lot sooner there
        size = (_NEIGHBOURHOOD, _NEIGHBOURHOOD)
        planes = [cv2.blur(plane, size, borderType=cv2.BORDER_REFLECT) for plane in image.numpy()]
        return torch.from_numpy(np.stack(planes))
    return blurred_by_pooling(image)


def blurred_by_pooling(image: Tensor) -> Tensor:
    """What `_blur` gives on any device."""
    before, rows, cols = _NEIGHBOURHOOD // 2, *image.shape[-2:]

    def mirrored(n: int) -> Tensor:
        place = torch.arange(-before, n + _NEIGHBOURHOOD - before - 1, device=image.device) % (2 * n)
        return torch.minimum(place, 2 * n - 1 - place)

    around = image[:, mirrored(rows)][:, :, mirrored(cols)]
    return avg_pool2d(avg_pool2d(around, (_NEIGHBOURHOOD, 1), 1), (1, _NEIGHBOURHOOD), 1)
