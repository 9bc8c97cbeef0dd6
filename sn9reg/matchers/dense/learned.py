"""Dense matchers with learned features: any network of `networks/table.py`, run over a scene by `TemplateMatcher`."""

import logging
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from sn9reg.errors import InputError
from sn9reg.machine import device
from sn9reg.matchers.batch_norm import fused
from sn9reg.matchers.dense.descent import TemplateMatcher, TemplateOptions
from sn9reg.matchers.dense.described import FeatureExtractor
from sn9reg.matchers.dense.networks.table import module_of
from sn9reg.matchers.dense.weights import load_dense
from sn9reg.options import options
from sn9reg.raster.radiometry import Image, Mask, Modality, SarLog, optical_input, sar_input
from sn9reg.raster.scene import Patch
from sn9reg.weights import store

log = logging.getLogger(__name__)
_SURROUNDINGS = 9  # pixels


@options
class LearnedOptions(TemplateOptions):
    """Options of a dense matcher that runs a network."""

    weights: str | None = None  # a .safetensors file; those that ship if not given


class LearnedMatcher(TemplateMatcher):
    """A subclass gives `network` and `name`. Raises ConfigError for wrong options, InputError as `load_dense`."""

    network: str  # its name in `networks/table.py`
    needs_weights = False
    Options = LearnedOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        weights = self.options.weights
        network, saved = load_dense(weights, self.network)
        if saved.network != self.network:
            raise InputError(f"{weights}: holds weights of {saved.network}, not of {self.network}")
        self.similarity = saved.similarity
        self.margin, self.own_weights = network.margin, weights is not None
        self.channels, self._told = network.channels, False  # of an optical image; whether it was said to have fewer
        self._branches = fused(network).to(memory_format=torch.channels_last)

    def extractor(self, sar: Patch, whole: bool = False) -> FeatureExtractor:
        """As in `TemplateMatcher`; networks learn on whole patches, and know their borders."""
        sar_log, on = SarLog.of(sar.values, sar.valid, sar.decibel), device()
        branches = self._branches.to(on)

        def extract(patch: Patch, modality: Modality) -> Tensor:
            if modality == "optical" and len(patch.values) < self.channels and not self._told:
                self._told = True
                log.warning("%s wants three optical bands; this image has fewer, their mean is repeated", self.name)
            image = sar_input(patch, sar_log) if modality == "sar" else optical_input(patch, self.channels)
            with torch.no_grad():
                features = branches(torch.from_numpy(image)[None].to(on), modality)[0]
            # What a network says of constant surroundings, the same everywhere, must not count as a match.
            seen = np.any([_varies(channel) for channel in image], axis=0)
            return features * torch.from_numpy(seen.astype(np.float32)).to(on)

        return extract


def _varies(image: Image) -> Mask:
    mean, square = (cv2.blur(x, (_SURROUNDINGS, _SURROUNDINGS)) for x in (image, image**2))
    return np.asarray(square - mean**2 > 1e-5)


@cache
def matcher_of(network: str) -> type[LearnedMatcher]:
    """The matcher that runs a network of the table; it has its name, and the first line of its file says what it is."""
    about = (module_of(network).__doc__ or "").split("\n")[0]
    facts = {"name": network, "network": network, "needs_weights": network not in store.manifest(), "__doc__": about}
    return type(f"{network} matcher", (LearnedMatcher,), facts)
