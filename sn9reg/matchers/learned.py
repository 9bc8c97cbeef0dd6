"""Dense matchers with learned features: any network of `networks/table.py`, run over a scene by `TemplateMatcher`."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sn9reg.dense.tiles import FeatureExtractor, Modality
from sn9reg.errors import InputError
from sn9reg.matchers.template import TemplateMatcher
from sn9reg.networks.branches import Branches
from sn9reg.radiometry import SarLog, optical_grey, standardise
from sn9reg.scene import Patch
from sn9reg.weights.store import load_weights, shipped

_SURROUNDINGS = 9  # pixels


class _Learned(TemplateMatcher):
    """A subclass names its network by `name`. weights: a .safetensors file; those that ship if not given. Other options
    as in `TemplateMatcher`. Raises InputError where there are no weights or they do not fit."""

    rim = 0  # networks learn on patches as they are, and know their borders

    def __init__(
        self,
        weights: str | None = None,
        max_offset: float = 150.0,
        template: int = 96,
        spacing: float | None = None,
        max_templates: int = 1600,
        work_megapixels: float = 40.0,
    ) -> None:
        super().__init__(max_offset, template, spacing, max_templates, work_megapixels)
        network, architecture = shipped(self.name) if weights is None else load_weights(weights)
        if architecture.network != self.name:
            raise InputError(f"{weights}: holds weights of {architecture.network}, not of {self.name}")
        self.similarity = architecture.similarity
        self.margin = network.margin
        self._network = _fused(network).to(memory_format=torch.channels_last)

    def extractor(self, sar: Patch) -> FeatureExtractor:
        sar_log = SarLog.of(sar.values, sar.valid)

        def extract(patch: Patch, modality: Modality) -> Tensor:
            image = sar_log(patch.values) if modality == "sar" else optical_grey(patch.values)
            image = standardise(image, patch.valid)
            with torch.no_grad():
                features: Tensor = self._network(torch.from_numpy(image)[None, None], modality)[0]
            return features * torch.from_numpy(_textured(image))

        return extract


def _textured(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(h, w) 0 where the surroundings are constant, 1 else. A network says something of these pixels too, the same
    everywhere; that must not count as a match."""
    mean, square = (cv2.blur(x, (_SURROUNDINGS, _SURROUNDINGS)) for x in (image, image**2))
    return (square - mean**2 > 1e-5).astype(np.float32)


def _fused(network: Branches) -> Branches:
    """Every batch normalisation folded into the convolution before it: the same features, sooner."""
    for module in network.modules():
        children = list(module.named_children())
        for (name, child), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(child, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(child, norm))
                setattr(module, norm_name, nn.Identity())
    return network


class ResidualUNetMatcher(_Learned):
    """Small residual U-Net of sn9reg's own, trained on real pairs; fast."""

    name = "residual-unet"


class MCGFMatcher(_Learned):
    """Multiscale convolutional gradient features."""

    name = "mcgf"


class OSMNetMatcher(_Learned):
    """OSMNet: residual features at full resolution."""

    name = "osmnet"


class FFTUNetMatcher(_Learned):
    """FFT U-Net: a classic U-Net."""

    name = "fft-unet"


class MARUNetMatcher(_Learned):
    """MARU-Net: multiscale attention-gated residual U-Net."""

    name = "maru-net"
