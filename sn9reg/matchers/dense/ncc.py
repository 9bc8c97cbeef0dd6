"""Normalised cross-correlation of the grey values themselves: the baseline of most tables."""

import torch
from torch import Tensor

from sn9reg.machine import device
from sn9reg.matchers.dense.correlation import Similarity
from sn9reg.matchers.dense.descent import TemplateMatcher
from sn9reg.matchers.dense.described import FeatureExtractor
from sn9reg.raster.radiometry import Modality, SarLog, fill_invalid, optical_grey, standardise
from sn9reg.raster.scene import Patch


class NccMatcher(TemplateMatcher):
    """Plain NCC of optical grey and SAR logarithm, a baseline: reversed contrast misleads it. Needs no training."""

    name = "ncc"
    margin = 1
    similarity: Similarity = "zncc"

    def extractor(self, sar: Patch, whole: bool = False) -> FeatureExtractor:
        sar_log, on = SarLog.of(sar.values, sar.valid, sar.decibel), device()

        def extract(patch: Patch, modality: Modality) -> Tensor:
            image = sar_log(patch.values) if modality == "sar" else optical_grey(patch.values)
            return torch.from_numpy(standardise(fill_invalid(image, patch.valid), patch.valid))[None].to(on)

        return extract
