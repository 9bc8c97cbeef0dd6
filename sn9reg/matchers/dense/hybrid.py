"""Learned and untrained features side by side: either may show what the other misses."""

import math
from functools import cache, partial
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from sn9reg.features.orientation import orientation_harmonics
from sn9reg.matchers.dense.descent import TemplateMatcher, mirrored
from sn9reg.matchers.dense.described import FeatureExtractor
from sn9reg.matchers.dense.learned import LearnedMatcher, LearnedOptions, matcher_of
from sn9reg.matchers.dense.networks.wide_unet import WideUNet
from sn9reg.matchers.dense.structure import by_orientation
from sn9reg.options import options
from sn9reg.raster.radiometry import Modality
from sn9reg.raster.scene import Patch
from sn9reg.raster.view import averaged

_NEIGHBOURHOOD = 72  # side in pixels, about that of a template


@options
class HybridOptions(LearnedOptions):
    """Options of the hybrid."""

    learned: Annotated[float, Ge(0), Le(1)] = 0.4  # share of the network's features in the similarity
    # Share of the wide U-Net's features, where pixels are known to be as small as it was made for; the rest is shared
    # out as elsewhere.
    wide: Annotated[float, Ge(0), Le(1)] = 0.5


class HybridMatcher(LearnedMatcher):
    """Features of the slim U-Net, orientation energies and, where pixels are small, the wide U-Net's. The default.

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
        wide = cache(partial(_wide_extractor, sar))  # whose weights are read where pixels ask for them

        def extract(patch: Patch, modality: Modality) -> Tensor:
            found = trained(patch, modality)
            # Correlation is the weighted mean of both similarities. What the network takes for ground counts in both.
            weighed = untrained(patch, modality) * other * _weight(found)
            near = torch.cat([locally_standardised(found).mul_(one), weighed])
            if not self.options.wide or patch.metres is None or patch.metres > WideUNet.PIXELS[1]:
                return near
            far = wide()(patch, modality)
            # No local standardisation: that would take back how much each pixel counts.
            length = (far.square().sum() / (far != 0).any(dim=0).sum().clamp_min(1)).sqrt().clamp_min(1e-6)
            return torch.cat([near * math.sqrt(1 - self.options.wide), far * (math.sqrt(self.options.wide) / length)])

        return extract


def _wide_extractor(sar: Patch) -> FeatureExtractor:
    """The wide U-Net's features of patches of known pixels, which are made as large as it knows them, if smaller."""
    extract = matcher_of("wide-unet")().extractor(sar)

    def of_any_size(patch: Patch, modality: Modality) -> Tensor:
        factor = max(1, math.ceil(WideUNet.PIXELS[0] / (patch.metres or math.inf) - 0.01))
        if factor == 1:
            return extract(patch, modality)
        features = extract(averaged(patch, factor), modality)
        height, width = patch.valid.shape
        return interpolate(features[None], scale_factor=factor, mode="bilinear")[0, :, :height, :width].contiguous()

    return of_any_size


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
