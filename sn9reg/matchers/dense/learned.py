"""Dense matchers with learned features: any network of `networks/table.py`, run over a scene by `TemplateMatcher`."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.dense.descent import TemplateMatcher
from sn9reg.matchers.dense.search import FeatureExtractor
from sn9reg.matchers.fused import fused
from sn9reg.raster.radiometry import Modality, SarLog, optical_grey, standardise
from sn9reg.raster.scene import Patch
from sn9reg.weights.store import load_weights, shipped

_SURROUNDINGS = 9  # pixels


class LearnedMatcher(TemplateMatcher):
    """A subclass gives `network` and `name`. weights: a .safetensors file; those that ship if not given. Other options
    as in `TemplateMatcher`. Raises InputError where there are no weights or they do not fit."""

    network: str  # its name in `networks/table.py`

    def __init__(self, weights: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(weights, str | None):
            raise ConfigError(f"matcher option weights is {weights!r}, not the name of a file")
        network, architecture = shipped(self.network) if weights is None else load_weights(weights)
        if architecture.network != self.network:
            raise InputError(f"{weights}: holds weights of {architecture.network}, not of {self.network}")
        if architecture.options.get("in_channels", 1) != 1:
            raise InputError(f"{weights}: is for images of several channels; a matcher gives one")
        self.similarity = architecture.similarity
        self.margin, self.own_weights = network.margin, weights is not None
        self._branches = fused(network).to(memory_format=torch.channels_last)

    def extractor(self, sar: Patch, whole: bool = False) -> FeatureExtractor:
        """As in `TemplateMatcher`; networks learn on whole patches, and know their borders."""
        sar_log = SarLog.of(sar.values, sar.valid)

        def extract(patch: Patch, modality: Modality) -> Tensor:
            image = sar_log(patch.values) if modality == "sar" else optical_grey(patch.values)
            image = standardise(image, patch.valid)
            with torch.no_grad():
                features: Tensor = self._branches(torch.from_numpy(image)[None, None], modality)[0]
            return features * torch.from_numpy(_textured(image))

        return extract


def _textured(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(h, w) 0 where the surroundings are constant, 1 else. A network says something of these pixels too, the same
    everywhere; that must not count as a match."""
    mean, square = (cv2.blur(x, (_SURROUNDINGS, _SURROUNDINGS)) for x in (image, image**2))
    return (square - mean**2 > 1e-5).astype(np.float32)


class SlimUNetMatcher(LearnedMatcher):
    """Slim U-Net of sn9reg's own, trained on real pairs; fast."""

    name = network = "slim-unet"


class MCGFMatcher(LearnedMatcher):
    """Multiscale convolutional gradient features."""

    name = network = "mcgf"


class OSMNetMatcher(LearnedMatcher):
    """OSMNet: residual features at full resolution."""

    name = network = "osmnet"


class FFTUNetMatcher(LearnedMatcher):
    """FFT U-Net: a classic U-Net."""

    name = network = "fft-unet"


class MARUNetMatcher(LearnedMatcher):
    """MARU-Net: multiscale attention-gated residual U-Net."""

    name = network = "maru-net"
