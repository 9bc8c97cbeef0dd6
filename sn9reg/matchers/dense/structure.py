"""The untrained dense matcher: orientation energies of optical grey and SAR logarithm, compared by FFT correlation."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from sn9reg.features.orientation import orientation_features
from sn9reg.machine import device
from sn9reg.matchers.dense.descent import TemplateMatcher, mirrored
from sn9reg.matchers.dense.described import FeatureExtractor
from sn9reg.raster.radiometry import Modality, SarLog, fill_invalid, optical_grey
from sn9reg.raster.scene import Patch


class StructureMatcher(TemplateMatcher):
    """Log-Gabor orientation energies, normalised per pixel. Needs no training."""

    name = "structure"

    def extractor(self, sar: Patch, whole: bool = False) -> FeatureExtractor:
        extract = by_orientation(sar, orientation_features)
        return mirrored(extract, self.margin) if whole else extract


def by_orientation(sar: Patch, describe: Callable[[Tensor], Tensor]) -> FeatureExtractor:
    """The extractor of what `describe` makes of (1, H, W) optical grey and SAR logarithm. sar: a sample of it."""
    sar_log, on = SarLog.of(sar.values, sar.valid, sar.decibel), device()

    def extract(patch: Patch, modality: Modality) -> Tensor:
        image = sar_log(patch.values) if modality == "sar" else optical_grey(patch.values)
        image = fill_invalid(image, patch.valid)
        height, width = image.shape
        # The image is padded to even sides that suit the FFT; other sides cost up to three times as much.
        right, bottom = (2 * next_fast_len(-(-n // 2)) - n for n in (width, height))
        image = np.pad(image, ((0, bottom), (0, right)), mode="symmetric")
        return describe(torch.from_numpy(image)[None].to(on))[0, :, :height, :width]

    return extract
