"""A scene seen as cells: what a trained dual encoder says of three optical bands or SAR's logarithm, window by window.

Huang et al., sections 3.2.3 and 3.2.4: both kinds of uncertainty become one confidence, which weighs embeddings.
"""

from contextlib import ExitStack
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sn9reg.matchers.dual_encoder.network import CELL, DualEncoder, Encoded
from sn9reg.raster.grid import Window
from sn9reg.raster.radiometry import Image, Mask, Modality, SarLog, optical_input, sar_input
from sn9reg.raster.scene import Patch
from sn9reg.raster.view import SceneThrough

BANDS = 3  # of an optical image
_TOGETHER = 5  # passes in memory at once


@dataclass(frozen=True)
class CellMaps:
    """What an encoder says of the cells of a patch."""

    embedding: Tensor  # (128, h, w), of unit length
    confidence: Tensor  # (h, w) in (0, 1]
    doubt: Tensor  # (h, w) uncertainty of the data, from 0 to 1
    spread: Tensor  # (h, w) uncertainty of the network, from 0 to 1
    valid: Tensor  # (h, w) 1 where there is something to see, else 0
    covered: Tensor  # (h, w) 1 where there are pixels, else 0

    @property
    def weighed(self) -> Tensor:
        """(128, h, w) embeddings times confidence, 0 where not valid."""
        return self.embedding * (self.confidence * self.valid)


@dataclass
class CellEncoder:
    """The network in use. The features before the first dropout are computed once for all passes."""

    network: DualEncoder
    log: SarLog  # of the SAR scene
    passes: int = 0  # of Monte-Carlo dropout (section 3.2.4); 0 for a single one without
    # How much the uncertainty of either sensor's data counts, see `weigh`.
    weight: dict[Modality, float] = field(default_factory=lambda: {"optical": 1.0, "sar": 1.0})

    def weigh(self, optical: Patch, sar: Patch) -> None:
        """Learn from patches of a pair how much either sensor's uncertainty is to count (section 3.2.3)."""
        if self.network.aleatoric:
            one = self._encoded(optical_input(optical, BANDS), "optical").features
            other = self._encoded(sar_input(sar, self.log), "sar").features
            with torch.no_grad():
                self.weight["optical"], self.weight["sar"] = self.network.fusion(one, other)[0].tolist()

    def __call__(self, patch: Patch, modality: Modality) -> CellMaps:
        """(bands, h, w) pixels, sides multiples of a cell, to (h / 4, w / 4) cells."""
        rows, cols = (n // CELL for n in patch.valid.shape)
        image = sar_input(patch, self.log) if modality == "sar" else optical_input(patch, BANDS)
        encoded = self._encoded(image, modality)
        mean = encoded.embedding[0, :, :rows, :cols]
        length = mean.norm(dim=0)
        spread = (1 - length).clamp(0, 1)
        doubt = encoded.uncertainty[0, 0, :rows, :cols]
        confidence = (1 - self.weight[modality] * doubt / 2) * (1 - spread)
        masks = (torch.from_numpy(mask).float() for mask in (textured(image, patch.valid), covered(patch.valid)))
        return CellMaps(mean / length.clamp_min(1e-6), confidence, doubt, spread, *masks)

    def _encoded(self, image: Image, modality: Modality) -> Encoded:
        """The mean over the passes; its embedding is the shorter the less they agree."""
        below, right = (max(-n % 16, 32 - n) for n in image.shape[1:])
        padded = nn.functional.pad(torch.from_numpy(image)[None], (0, right, 0, below), "replicate")
        with torch.no_grad():
            begun, structure = self.network.begin(padded.contiguous(memory_format=torch.channels_last), modality)
            if not self.passes:
                return self.network.finish(begun, structure, modality)
            parts = []
            with torch.random.fork_rng(devices=[]), ExitStack() as afterwards:
                torch.manual_seed(0)
                afterwards.callback(self.network.eval)
                for module in self.network.modules():
                    if isinstance(module, nn.Dropout | nn.Dropout2d):
                        module.train()
                for done in range(0, self.passes, _TOGETHER):
                    repeated = begun.expand(min(_TOGETHER, self.passes - done), -1, -1, -1)
                    some = self.network.finish(repeated, structure, modality)
                    parts.append([x.sum(dim=0, keepdim=True) for x in vars(some).values()])
            return Encoded(*(torch.stack(p).sum(dim=0) / self.passes for p in zip(*parts, strict=True)))


@dataclass(frozen=True)
class EncodedScene(SceneThrough):
    """A scene whose pixels are cells: what `dense.search` reads of it are weighed embeddings."""

    encoder: CellEncoder
    modality: Modality

    def read(self, window: Window, factor: int = CELL) -> Patch:
        """(128, h, w) weighed embeddings of a window in cells of `factor` common pixels, a multiple of 4."""
        maps = self.maps(window, factor)
        return Patch(maps.weighed.numpy(), maps.covered.numpy() > 0)

    def maps(self, window: Window, factor: int) -> CellMaps:
        """All that the encoder says of a window, see `read`."""
        pixels = Window(*(n * CELL for n in astuple(window)))
        return self.encoder(self.scene.read(pixels, factor // CELL), self.modality)


def textured(image: Image, valid: Mask) -> Mask:
    """(h // 4, w // 4) cells of an input (C, h, w) that are valid, more than half of them, and not constant."""
    return covered(valid) & (_cells(image).std(axis=(2, 4)) > 1e-3).any(axis=0)


def covered(valid: Mask) -> Mask:
    """(h // 4, w // 4) cells more than half of which are valid."""
    return np.asarray(_cells(valid).mean(axis=(1, 3)) > 0.5)


def _cells(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(..., h, w) as (..., h // 4, 4, w // 4, 4)."""
    height, width = (n // CELL for n in values.shape[-2:])
    return values[..., : height * CELL, : width * CELL].reshape(*values.shape[:-2], height, CELL, width, CELL)
