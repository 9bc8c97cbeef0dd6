"""The keypoint detector of the SpaceNet 9 baseline: two encoders, one decoder, one heatmap."""

import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from segmentation_models_pytorch.base import SegmentationHead, initialization
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torch.nn.functional import normalize

from sn9reg.errors import ConfigError
from sn9reg.matchers.dense.correlation import cross_correlation
from sn9reg.raster.radiometry import Modality


class HeatmapUNet(nn.Module):
    """Two tiles of one size, (B, 1, H, W) each -> (B, H, W) heatmap in (0, 1) of where the one that `finds` names shows
    what lies at the middle of the other. H and W have to be multiples of `divisor`.

    Hänsch et al., "Introducing SpaceNet 9", section 3.1: an encoder per modality, the outputs of every level
    concatenated, a single decoder to one channel, a sigmoid. Encoders are those of segmentation-models-pytorch, by name
    (`tu-NAME` for timm's), without pretrained weights. The paper does not say which it takes.

    similarity: levels (1 is half resolution) at which the decoder also gets `MiddleSimilarity`; none in the paper,
    whose decoder has to learn to carry the middle's features to every place.
    Raises ConfigError for an unknown encoder, and for a depth, widths and levels that do not fit together.
    """

    def __init__(
        self,
        finds: Modality,
        optical_encoder: str = "resnet18",
        sar_encoder: str = "resnet18",
        depth: int = 5,
        decoder: Sequence[int] = (256, 128, 64, 32, 16),
        similarity: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if finds not in ("optical", "sar"):
            raise ConfigError(f"a detector finds optical or sar keypoints, not {finds!r}")
        if not _whole([depth]) or not _whole(decoder) or len(decoder) != depth:
            raise ConfigError(f"depth {depth!r} wants as many decoder widths, whole numbers from 1, not {decoder!r}")
        if not _whole(similarity) or not all(level <= depth for level in similarity):
            raise ConfigError(f"similarity is asked for at levels {similarity!r}; there are 1 to {depth}")
        self.finds = finds
        self.divisor = 2**depth
        self.optical = _encoder(optical_encoder, depth)
        self.sar = _encoder(sar_encoder, depth)
        widths = list(zip(self.optical.out_channels, self.sar.out_channels, strict=True))
        if any(min(widths[k]) < 1 for k in similarity):
            raise ConfigError(f"not both encoders have an output at each of the levels {list(similarity)}")
        self.similarity = nn.ModuleDict({str(k): MiddleSimilarity(*widths[k], k) for k in sorted(similarity)})
        channels = [sum(pair) + (k in similarity) for k, pair in enumerate(widths)]
        self.decoder = UnetDecoder(channels, decoder, depth)
        self.head = SegmentationHead(decoder[-1], 1, activation=None, kernel_size=3)
        initialization.initialize_decoder(self.decoder)
        initialization.initialize_head(self.head)

    def forward(self, optical: Tensor, sar: Tensor) -> Tensor:
        levels = []
        for k, pair in enumerate(zip(self.optical(optical), self.sar(sar), strict=True)):
            similar = [self.similarity[str(k)](*pair, self.finds)] if str(k) in self.similarity else []
            levels.append(torch.cat([*pair, *similar], dim=1))
        heatmap: Tensor = torch.sigmoid(self.head(self.decoder(levels))[:, 0].float())
        return heatmap


class MiddleSimilarity(nn.Module):
    """(B, C, h, w) features of each modality -> (B, 1, h, w) similarity of each searched place to the other's middle:
    the mean cosine between the surroundings of both, times a learned scale."""

    def __init__(self, optical: int, sar: int, level: int, width: int = 16) -> None:
        super().__init__()
        self.optical, self.sar = nn.Conv2d(optical, width, 1), nn.Conv2d(sar, width, 1)
        self.scale = nn.Parameter(torch.tensor(4.0))
        # About 50 px a side where features are fine, more where they are coarse.
        self.reach = {1: 12, 2: 6, 3: 6}.get(level, 4)

    def forward(self, optical: Tensor, sar: Tensor, finds: Modality) -> Tensor:
        one, other = normalize(self.optical(optical).float(), dim=1), normalize(self.sar(sar).float(), dim=1)
        middle, searched = (one, other) if finds == "sar" else (other, one)
        (h, w), r = middle.shape[-2:], min(self.reach, (min(middle.shape[-2:]) - 1) // 2)
        template = middle[..., h // 2 - r : h // 2 + r + 1, w // 2 - r : w // 2 + r + 1].contiguous()
        around = nn.functional.pad(searched, (r, r, r, r))
        return self.scale * cross_correlation(around, template)[:, None] / (2 * r + 1) ** 2


def _whole(values: Sequence[int]) -> bool:
    """Whether all are whole numbers from 1."""
    return isinstance(values, list | tuple) and all(type(v) is int and v >= 1 for v in values)


def _encoder(name: str, depth: int) -> Any:
    try:
        # With such characters, timm would look for the name on disks and hubs.
        if not isinstance(name, str) or set(name) & set(":/\\"):
            raise ValueError("not the name of one")
        encoder = get_encoder(name, in_channels=1, depth=depth, weights=None)
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError, OSError) as error:
        why = textwrap.shorten(str(error), 80, placeholder=" ...")
        raise ConfigError(f"segmentation-models-pytorch has no encoder {name!r} of depth {depth} ({why})") from error
    for k in range(depth, 5):  # ResNets keep the stages that a smaller depth leaves out
        if hasattr(encoder, f"layer{k}"):
            delattr(encoder, f"layer{k}")
    return encoder
