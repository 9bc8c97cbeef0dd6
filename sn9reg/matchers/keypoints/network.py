"""The keypoint detector of the SpaceNet 9 baseline, two encoders, one decoder, one heatmap, and its weights files."""

import textwrap
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from segmentation_models_pytorch.base import SegmentationHead, initialization
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torch.nn.functional import normalize

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.dense.correlation import cross_correlation
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike
from sn9reg.raster.radiometry import Modality
from sn9reg.weights import store

KIND = "keypoint detector"
Whole = Annotated[int, Ge(1)]


@options
class UNetOptions:
    """Options of `HeatmapUNet`. The paper does not say which encoders it takes: those of segmentation-models-pytorch,
    by name (`tu-NAME` for timm's). Raises ConfigError for a depth, widths and levels that do not fit together."""

    optical_encoder: str = "resnet18"
    sar_encoder: str = "resnet18"
    optical_bands: Literal[1, 3] = 1  # 3 for red, green and blue, as SpaceNet 9's images have them; 1 for their mean
    depth: Whole = 5
    decoder: tuple[Whole, ...] = (256, 128, 64, 32, 16)
    # Levels (1 is half resolution) at which the decoder also gets `MiddleSimilarity`; none in the paper, whose decoder
    # has to learn to carry the middle's features to every place.
    similarity: tuple[Whole, ...] = ()

    def __post_init__(self) -> None:
        if len(self.decoder) != self.depth:
            raise ConfigError(f"depth {self.depth} wants as many decoder widths, not {list(self.decoder)}")
        if any(level > self.depth for level in self.similarity):
            raise ConfigError(f"similarity is asked for at levels {list(self.similarity)}; there are 1 to {self.depth}")


@options
class DetectorOptions:
    """What a weights file says of its detector."""

    finds: Modality  # that it finds keypoints in
    options: dict[str, Any] = field(default_factory=dict)  # `UNetOptions`


class HeatmapUNet(nn.Module):
    """Two tiles of one size, (B, bands, H, W) optical and (B, 1, H, W) SAR -> (B, H, W) heatmap in (0, 1) of where the
    one that `finds` names shows what lies at the middle of the other. H and W have to be multiples of `divisor`. Hänsch
    et al., "Introducing SpaceNet 9", section 3.1: an encoder per modality, each level's outputs concatenated, one
    decoder, a sigmoid. Raises ConfigError for unknown encoders, or those without an output where similarity is asked.
    """

    def __init__(self, finds: Modality, given: UNetOptions) -> None:
        super().__init__()
        self.finds, self.bands, self.divisor = finds, given.optical_bands, 2**given.depth
        self.optical = _encoder(given.optical_encoder, given.depth, given.optical_bands)
        self.sar = _encoder(given.sar_encoder, given.depth, 1)
        widths = list(zip(self.optical.out_channels, self.sar.out_channels, strict=True))
        if any(min(widths[k]) < 1 for k in given.similarity):
            raise ConfigError(f"not both encoders have an output at each of the levels {list(given.similarity)}")
        self.similarity = nn.ModuleDict({str(k): MiddleSimilarity(*widths[k], k) for k in sorted(given.similarity)})
        channels = [sum(pair) + (k in given.similarity) for k, pair in enumerate(widths)]
        self.decoder = UnetDecoder(channels, given.decoder, given.depth)
        self.head = SegmentationHead(given.decoder[-1], 1, activation=None, kernel_size=3)
        initialization.initialize_decoder(self.decoder)
        initialization.initialize_head(self.head)

    def forward(self, optical: Tensor, sar: Tensor) -> Tensor:
        levels = []
        for k, pair in enumerate(zip(self.optical(optical), self.sar(sar), strict=True)):
            similar = [self.similarity[str(k)](*pair, self.finds)] if str(k) in self.similarity else []
            levels.append(torch.cat([*pair, *similar], dim=1))
        return torch.sigmoid(self.head(self.decoder(levels))[:, 0].float())


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


def _encoder(name: str, depth: int, bands: int) -> Any:
    try:
        # With such characters, timm would look for the name on disks and hubs.
        if set(name) & set(":/\\"):
            raise ValueError("not the name of one")
        encoder = get_encoder(name, in_channels=bands, depth=depth, weights=None)
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError, OSError) as error:
        why = textwrap.shorten(str(error), 80, placeholder=" ...")
        raise ConfigError(f"segmentation-models-pytorch has no encoder {name!r} of depth {depth} ({why})") from error
    for k in range(depth, 5):  # ResNets keep the stages that a smaller depth leaves out
        if hasattr(encoder, f"layer{k}"):
            delattr(encoder, f"layer{k}")
    return encoder


def build(given: Mapping[str, Any]) -> HeatmapUNet:
    """The network of these `DetectorOptions`, with new weights. Raises ConfigError for what there is not."""
    made = check(DetectorOptions, given, KIND)
    return HeatmapUNet(made.finds, check(UNetOptions, made.options, KIND))


def load_detector(finds: Modality, path: PathLike | None = None) -> HeatmapUNet:
    """The detector in a file, or that ships. Raises InputError as the store does, and for one of the other modality."""
    if path is None:
        recipe, option = f"keypoints.yaml --set finds={finds}", f"{finds}_weights"
        return store.shipped(f"keypoints-{finds}", KIND, build, recipe, option)[0]
    network, _ = store.load(path, KIND, build)
    if network.finds != finds:
        raise InputError(f"{path}: holds a detector of {network.finds} keypoints, not of {finds} ones")
    return network
