"""MARU-Net: a residual U-Net with attention gates, which sees the image at two resolutions."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, elu, interpolate, max_pool2d, relu
from torchvision.ops import Conv2dNormActivation

_WIDTHS = (32, 64, 128, 256, 512)


class MARUNet(nn.Module):
    """(B, in_channels, H, W) -> (B, 8, H, W) features: 4 from the image, 4 from its copy at half resolution. Switches
    for the ablation of its Table II: `multiscale` off leaves the first 4, `residual` and `attention` off a plain U-Net.

    "MARU-Net: Multiscale attention gated residual U-Net" (Gazzea et al. 2023), Sec. II-A. One unit, with one set of
    weights, runs on both resolutions; the coarse features are upsampled and put beside the fine ones.

    Readings. "Four layers" of 32 to 256 channels on the way down and on the way up, with 512 channels between them:
    nothing shallower comes near the 8.9M parameters of "Learning-based SAR-optical registration for navigation", Table
    III. Convolutions have biases; the shortcut of a residual block is one 1x1 convolution without batch normalisation;
    ELU follows the sum; upsampling has no parameters. That gives 8,900,456 parameters, 0.5 % below the 8,949,660
    published. Both resolutions (and, when Siamese, both modalities) share running statistics of batch normalisation.
    """

    divisor = 32
    # The receptive field is several times as wide: untrained, a quarter of a feature is still the border's doing here.
    margin = 48

    def __init__(
        self, in_channels: int = 1, multiscale: bool = True, attention: bool = True, residual: bool = True
    ) -> None:
        super().__init__()
        self.unit, self.multiscale = AttentionUNet(in_channels, attention, residual), multiscale

    def forward(self, image: Tensor) -> Tensor:
        fine = self.unit(image)
        return torch.cat([fine, _double(self.unit(avg_pool2d(image, 2)))], dim=1) if self.multiscale else fine


class AttentionUNet(nn.Module):
    """One unit of MARU-Net: (B, in_channels, H, W), H and W multiples of 16 -> (B, 4, H, W)."""

    def __init__(self, in_channels: int, attention: bool = True, residual: bool = True) -> None:
        super().__init__()
        below, block = list(pairwise(_WIDTHS)), partial(Residual, shortcut=residual)
        self.first = block(in_channels, _WIDTHS[0])
        self.down = nn.ModuleList([block(fine, coarse) for fine, coarse in below])
        self.gates = nn.ModuleList([AttentionGate(fine, coarse) if attention else _Open() for fine, coarse in below])
        self.up = nn.ModuleList([block(fine + coarse, fine) for fine, coarse in below])
        self.head = nn.Conv2d(_WIDTHS[0], 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        levels = [self.first(image)]
        for down in self.down:
            levels.append(down(max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for gate, up in zip(reversed(self.gates), reversed(self.up), strict=True):
            x = up(torch.cat([gate(levels.pop(), x), _double(x)], dim=1))
        return self.head(x)


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation and ELU around a shortcut of one convolution, or none."""

    def __init__(self, before: int, after: int, shortcut: bool = True) -> None:
        super().__init__()
        first = Conv2dNormActivation(before, after, 3, bias=True, activation_layer=nn.ELU)
        self.inner = nn.Sequential(first, Conv2dNormActivation(after, after, 3, bias=True, activation_layer=None))
        self.shortcut = nn.Conv2d(before, after, 1) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        return elu(self.inner(x) if self.shortcut is None else self.inner(x) + self.shortcut(x))


class AttentionGate(nn.Module):
    """Additive attention on a grid (Schlemper et al. 2018). Fine (B, fine, H, W) and coarse (B, coarse, H/2, W/2) ->
    (B, fine, H, W): fine features times a weight in [0, 1] per coarse pixel, mixed by a 1x1 convolution."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.from_fine = nn.Conv2d(fine, fine, 2, stride=2, bias=False)  # the other one brings the bias
        self.from_coarse = nn.Conv2d(coarse, fine, 1)
        self.score = nn.Conv2d(fine, 1, 1)
        self.mix = Conv2dNormActivation(fine, fine, 1, bias=True, activation_layer=None)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        score = self.score(relu(self.from_fine(fine) + self.from_coarse(coarse)))
        return self.mix(fine * _double(torch.sigmoid(score)))


class _Open(nn.Module):
    """A gate that lets all through."""

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return fine


def _double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
