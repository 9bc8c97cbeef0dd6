"""One encoder for optical images, one for SAR: features and their uncertainty on cells of 4 x 4 pixels; weights files.

Huang et al., section 3.1 and figures 2 and 3. The paper counts 1,298 matches in 256 x 256 pixels, so its cells are 4
pixels wide at most; it does not say how. Here the stem and the first Xception block halve the resolution, the others
see farther by dilation; the optical pyramid goes down to 1/16, and BiFPN brings it back to 1/4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Le
from timm.layers import SqueezeExcite
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, normalize

from sn9reg.features.orientation import orientation_features
from sn9reg.matchers.dual_encoder.uncertainty import AT_FUSION, BEFORE_HEADS, EARLY, AdaptiveFusion, AleatoricMap
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike
from sn9reg.raster.radiometry import Modality
from sn9reg.weights import store

KIND = "dual encoder"
CELL = 4  # pixels
_STAGES = (64, 128, 256, 512)


@options
class DualOptions:
    """What a weights file says of its dual encoder."""

    aleatoric: bool = True  # with the modules for the uncertainty of the data
    # Share of the paper's dropout rates: 10, 20 and 15 %. Without dropout there is no epistemic uncertainty.
    dropout: Annotated[float, Ge(0), Le(5)] = 1.0
    structure: bool = False  # with orientation energies beside the encoders; without, it is the paper's


def _separable(before: int, after: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise and pointwise convolution with batch normalisation."""
    depth = nn.Conv2d(before, before, 3, padding=dilation, dilation=dilation, groups=before, bias=False)
    point = nn.Conv2d(before, after, 1, bias=False)
    return nn.Sequential(OrderedDict(depth=depth, point=point, norm=nn.BatchNorm2d(after)))


class XceptionBlock(nn.Module):
    """Two separable convolutions, a residual connection through 1 x 1. halve: pooled by 3 x 3, as in Xception."""

    def __init__(self, before: int, after: int, halve: bool, dilation: int = 1) -> None:
        super().__init__()
        self.first, self.second = _separable(before, after, dilation), _separable(after, after, dilation)
        self.halve = halve
        self.skip = nn.Conv2d(before, after, 1, stride=2 if halve else 1, bias=False)
        self.skip_norm = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(self.first(x).relu())
        pooled = max_pool2d(inner, 3, stride=2, padding=1) if self.halve else inner
        return (pooled + self.skip_norm(self.skip(x))).relu()


class SarEncoder(nn.Module):
    """(B, 1, H, W) -> (B, 512, H / 4, W / 4). `begin` is the part before the first dropout, `finish` that after it."""

    channels = 512

    def __init__(self, dropout: float = EARLY) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(32)
        self.first = XceptionBlock(32, 64, halve=True)
        self.dropout = nn.Dropout2d(dropout)
        rest = [(64, 128, 1), (128, 256, 2), (256, 512, 3)]
        self.rest = nn.Sequential(*(XceptionBlock(a, b, halve=False, dilation=d) for a, b, d in rest))

    def begin(self, image: Tensor) -> Tensor:
        return self.first(self.stem_norm(self.stem(image)).relu())

    def finish(self, begun: Tensor) -> Tensor:
        return self.rest(self.dropout(begun))


class BiFPN(nn.Module):
    """One round down and, unless it is the last, up a pyramid (Tan et al., "EfficientDet", section 3.2)."""

    def __init__(self, width: int, levels: int, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.down = nn.ModuleList([_separable(width, width) for _ in range(levels - 1)])
        self.down_share = nn.Parameter(torch.ones(levels - 1, 2))
        if not last:
            self.up = nn.ModuleList([_separable(width, width) for _ in range(levels - 1)])
            self.up_share = nn.Parameter(torch.ones(levels - 1, 3))

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        """Finest first, in and out; all of one width."""
        between = [pyramid[-1]]
        for k in reversed(range(len(pyramid) - 1)):
            coarser = interpolate(between[0], size=pyramid[k].shape[-2:], mode="nearest")
            between.insert(0, self.down[k](_weighed([pyramid[k], coarser], self.down_share[k])))
        if self.last:
            return between
        out = [between[0]]
        for k in range(1, len(pyramid)):
            finer = max_pool2d(out[-1], 3, stride=2, padding=1)
            out.append(self.up[k - 1](_weighed([pyramid[k], between[k], finer], self.up_share[k - 1])))
        return out


def _weighed(inputs: list[Tensor], share: Tensor) -> Tensor:
    """Fast normalised fusion, EfficientDet eq. (2), and its activation."""
    weight = share.relu() / (share.relu().sum() + 1e-4)
    return torch.stack([w * x for w, x in zip(weight, inputs, strict=True)]).sum(dim=0).relu()


class OpticalEncoder(nn.Module):
    """(B, 3, H, W) -> (B, 128, H / 4, W / 4): 7 x 7 convolution, three layers of EfficientNet's inverted residuals, two
    rounds of BiFPN. `begin` and `finish` as in `SarEncoder`."""

    channels = 128

    def __init__(self, dropout: float = EARLY) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STAGES[0], 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(_STAGES[0])
        steps = zip(_STAGES, _STAGES[1:], (2.0, 4.0, 4.0), strict=False)
        layers = (InvertedResidual(a, b, stride=2, exp_ratio=ratio, se_layer=SqueezeExcite) for a, b, ratio in steps)
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout2d(dropout)
        self.lateral = nn.ModuleList(nn.Conv2d(n, self.channels, 1) for n in _STAGES[1:])
        self.rounds = nn.ModuleList(BiFPN(self.channels, len(self.lateral), last) for last in (False, True))

    def begin(self, image: Tensor) -> Tensor:
        return self.layers[0](self.stem_norm(self.stem(image)).relu())

    def finish(self, begun: Tensor) -> Tensor:
        levels = [self.dropout(begun)]
        for layer in self.layers[1:]:
            levels.append(layer(levels[-1]))
        pyramid = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for fuse in self.rounds:
            pyramid = fuse(pyramid)
        return pyramid[0]


# Channels of either encoder's features.
WIDTHS: dict[Modality, int] = {"optical": OpticalEncoder.channels, "sar": SarEncoder.channels}


class Structure(nn.Module):
    """(B, C, H, W) images -> (B, 128, H / 4, W / 4): orientation energies of a cell and of 5 x 5 cells around it,
    through one linear layer for both sensors. Ours: two encoders that share nothing need days to agree; with this added
    they begin where untrained matching ends."""

    _ORIENTATIONS, _WAVELENGTHS, _RIM = 6, (6.0, 12.0), 16

    def __init__(self) -> None:
        super().__init__()
        channels = 2 * 3 * self._ORIENTATIONS * len(self._WAVELENGTHS)
        self.lift = nn.Conv2d(channels, 128, 1, bias=False)
        nn.init.orthogonal_(self.lift.weight)

    def forward(self, image: Tensor) -> Tensor:
        rim = self._RIM
        grey = nn.functional.pad(image.float().mean(dim=1, keepdim=True), (rim, rim, rim, rim), mode="reflect")[:, 0]
        features = orientation_features(grey, self._ORIENTATIONS, self._WAVELENGTHS)[..., rim:-rim, rim:-rim]
        cells = avg_pool2d(features, CELL)
        # What a whole neighbourhood has says where nothing lies.
        cells = cells - avg_pool2d(cells, 15, stride=1, padding=7, count_include_pad=False)
        around = avg_pool2d(cells, 5, stride=1, padding=2, count_include_pad=False)
        return self.lift(torch.cat([cells, around], dim=1) * 4)


class Projection(nn.Sequential):
    """Two layers, 512 and 128 wide, into the shared space (section 3.3.1). std: of the last layer's first weights."""

    def __init__(self, channels: int, dropout: float, std: float | None = None) -> None:
        last = nn.Conv2d(512, 128, 1)
        if std is not None:
            nn.init.normal_(last.weight, std=std)
            nn.init.zeros_(cast(Tensor, last.bias))
        super().__init__(nn.Dropout2d(dropout), nn.Conv2d(channels, 512, 1), nn.ReLU(), last)


@dataclass(frozen=True)
class Encoded:
    """What a network says of images."""

    features: Tensor  # (B, C, h, w) of the encoder
    embedding: Tensor  # (B, 128, h, w) of unit length, the same space for both sensors
    uncertainty: Tensor  # (B, 1, h, w) of the data, in (0, 1); 0 where the network has no modules for it


class DualEncoder(nn.Module):
    """Both encoders, the projection to the shared space, and the uncertainty of what they say."""

    margin = 40  # pixels within which a cell feels the border; beyond, hardly

    def __init__(self, given: DualOptions) -> None:
        super().__init__()
        early, heads, late = (rate * given.dropout for rate in (EARLY, BEFORE_HEADS, AT_FUSION))
        self.encoders: Any = nn.ModuleDict({"optical": OpticalEncoder(early), "sar": SarEncoder(early)})
        std = 1e-3 if given.structure else None  # what the encoders add to the structure begins at nothing
        self.project = nn.ModuleDict({name: Projection(n, late, std) for name, n in WIDTHS.items()})
        self.aleatoric = given.aleatoric
        if self.aleatoric:
            self.maps = nn.ModuleDict({name: AleatoricMap(name, n, dropout=heads) for name, n in WIDTHS.items()})
            self.fusion = AdaptiveFusion(WIDTHS["optical"], WIDTHS["sar"], dropout=late)
        self.structure = Structure() if given.structure else None
        # ln of the variance, cells squared, of a match without uncertainty, and what uncertainty adds.
        self.log_variance = nn.Parameter(torch.tensor([1.0, 4.0]))

    def begin(self, image: Tensor, modality: Modality) -> tuple[Tensor, Tensor | None]:
        """What comes before all dropout: the first features, and the structure if any. Sides are multiples of 16."""
        structure = None if self.structure is None else self.structure(image)
        return self.encoders[modality].begin(image), structure

    def finish(self, begun: Tensor, structure: Tensor | None, modality: Modality) -> Encoded:
        """The rest, with dropout in training mode."""
        features = self.encoders[modality].finish(begun)
        projected = self.project[modality](features).float()
        embedding = normalize(projected if structure is None else projected + structure, dim=1, eps=1e-6)
        uncertainty = self.maps[modality](features).float() if self.aleatoric else torch.zeros_like(embedding[:, :1])
        return Encoded(features, embedding, uncertainty)

    def forward(self, image: Tensor, modality: Modality) -> Encoded:
        """(B, 3 or 1, H, W) images, sides multiples of 16, of either sensor."""
        return self.finish(*self.begin(image, modality), modality)

    def confidences(self, optical: Encoded, sar: Encoded) -> tuple[Tensor, Tensor]:
        """(B, 1, h, w) of both, in (0, 1]: 1 less the uncertainty, as the pair at hand weighs it."""
        if not self.aleatoric:
            return 1 - optical.uncertainty, 1 - sar.uncertainty
        weight = self.fusion(optical.features, sar.features)[..., None, None, None]
        # Either weight is 2 at most: half of the uncertainty at its most.
        return 1 - weight[:, 0] * optical.uncertainty / 2, 1 - weight[:, 1] * sar.uncertainty / 2


def build(given: Mapping[str, Any]) -> DualEncoder:
    """The network of these `DualOptions`, with new weights. Raises ConfigError for what there is not."""
    return DualEncoder(check(DualOptions, given, KIND))


def load_dual_encoder(path: PathLike | None = None) -> DualEncoder:
    """The dual encoder in a file, or the one that ships. Raises InputError as `store.load` and `store.shipped`."""
    return (store.shipped("dual-encoder", KIND, build) if path is None else store.load(path, KIND, build))[0]
