"""Uncertainty of features: of the data, by modules of each sensor's own, and how several sources become one.

Huang et al., sections 3.2.1 to 3.2.4. Modules map features (B, C, H, W) to maps of that H, W; uncertainty is in (0, 1).
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from sn9reg.raster.radiometry import Modality

EARLY, BEFORE_HEADS, AT_FUSION = 0.10, 0.20, 0.15  # dropout rates, section 3.2.4


class SpeckleBranch(nn.Sequential):
    """Depthwise convolutions look at each channel alone, two of them, each with ReLU (section 3.2.1)."""

    def __init__(self, channels: int) -> None:
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, groups=channels) for _ in range(2))
        super().__init__(OrderedDict(first=first, relu=nn.ReLU(), second=second, end=nn.ReLU()))


class GeometricBranch(nn.Module):
    """Four convolutions along lines of 0, 45, 90 and 135 degrees, concatenated, ReLU (section 3.2.1). How they are made
    aware of an orientation the paper leaves open; here their 5 x 5 kernels are zero off the line."""

    mask: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.along = nn.Conv2d(channels, channels, 5, padding=2)
        across, diagonal = torch.zeros(5, 5), torch.eye(5)
        across[2] = 1
        lines = torch.stack([across, diagonal.flip(0), across.T, diagonal])
        self.register_buffer("mask", lines.repeat_interleave(channels // 4, dim=0)[:, None], persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        weight = self.along.weight * self.mask
        return nn.functional.conv2d(features, weight, self.along.bias, padding=2).relu()


class ChannelAttention(nn.Module):
    """Convolution, ReLU, global pooling, two linear layers with ReLU between, sigmoid; multiplied back. For backscatter
    in SAR (section 3.2.1) and illumination in optical images (section 3.2.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.squeeze = nn.Linear(channels, max(4, channels // 4))
        self.excite = nn.Linear(max(4, channels // 4), channels)

    def forward(self, features: Tensor) -> Tensor:
        pooled = self.conv(features).relu().mean(dim=(2, 3))
        return features * self.excite(self.squeeze(pooled).relu()).sigmoid()[..., None, None]


class AtmosphericBranch(nn.Module):
    """Spatial attention: convolution, ReLU, average pooling, a map that multiplies (section 3.2.2). Pooling is over the
    channels, as a global one would leave no map, and a wide area, as haze and cloud are wide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.wide = nn.AvgPool2d(9, stride=1, padding=4, count_include_pad=False)

    def forward(self, features: Tensor) -> Tensor:
        return features * self.wide(self.conv(features).relu().mean(dim=1, keepdim=True)).sigmoid()


class SeasonalBranch(nn.Module):
    """Convolution, ReLU, and attention by learned weights that multiply (section 3.2.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        seen = self.conv(features).relu()
        return seen * self.attention(seen).sigmoid()


class AleatoricMap(nn.Module):
    """The uncertainty map (B, 1, H, W) of one sensor: dropout, 1 x 1 convolution to `width` channels, three branches,
    convolution, sigmoid. The paper's ReLU before that is left out: no uncertainty below one half would pass it."""

    def __init__(self, kind: Modality, channels: int, width: int = 32, dropout: float = BEFORE_HEADS) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.squeeze = nn.Conv2d(channels, width, 1)
        branches: dict[Modality, list[nn.Module]] = {
            "sar": [SpeckleBranch(width), GeometricBranch(width), ChannelAttention(width)],
            "optical": [AtmosphericBranch(width), ChannelAttention(width), SeasonalBranch(width)],
        }
        self.branches = nn.ModuleList(branches[kind])
        self.fusion = nn.Conv2d(width * len(self.branches), 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        seen = self.squeeze(self.dropout(features))
        return self.fusion(torch.cat([branch(seen) for branch in self.branches], dim=1)).sigmoid()


class AdaptiveFusion(nn.Module):
    """How much either sensor's uncertainty counts (section 3.2.3): features of both -> (B, 2) weights of sum 2."""

    def __init__(self, optical: int, sar: int, width: int = 32, dropout: float = AT_FUSION) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(optical + sar, width)
        self.weigh = nn.Linear(width, 2)

    def forward(self, optical: Tensor, sar: Tensor) -> Tensor:
        pooled = torch.cat([optical.mean(dim=(2, 3)), sar.mean(dim=(2, 3))], dim=1)
        return 2 * self.weigh(self.hidden(self.dropout(pooled)).relu()).softmax(dim=1)
