"""FFT U-Net: the classic U-Net of three levels, made for correlation by FFT."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torchvision.ops import Conv2dNormActivation


class FFTUNet(nn.Module):
    """(B, in_channels, H, W) -> (B, 4, H, W) features.

    Described in "Learning-based SAR-optical registration for navigation", Sec. IV-B: a classic U-Net (Ronneberger et
    al. 2015), here of 64, 128 and 256 channels, whose features are compared by normalised cross-correlation. The FFT
    is in the correlation, not in the network.

    Readings. Each convolution has a bias and batch normalisation: two of 3x3 with ReLU a level, transposed ones of 2x2
    to go up, and a last one of 3x3 to 4 channels without ReLU. With images of three channels that gives 1,868,044
    parameters, the 1.9M of Table III exactly; with one channel 1,866,892.
    """

    divisor = 4
    margin = 24
    out_channels = 4

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.down = nn.ModuleList([_twice(in_channels, 64), _twice(64, 128), _twice(128, 256)])
        self.rise = nn.ModuleList([_rise(128, 64), _rise(256, 128)])
        self.up = nn.ModuleList([_twice(128, 64), _twice(256, 128)])
        self.head = Conv2dNormActivation(64, self.out_channels, 3, bias=True, activation_layer=None)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.down[0](image)
        middle = self.down[1](max_pool2d(fine, 2))
        coarse = self.down[2](max_pool2d(middle, 2))
        middle = self.up[1](torch.cat([middle, self.rise[1](coarse)], dim=1))
        fine = self.up[0](torch.cat([fine, self.rise[0](middle)], dim=1))
        return self.head(fine)


def _twice(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        Conv2dNormActivation(before, after, 3, bias=True), Conv2dNormActivation(after, after, 3, bias=True)
    )


def _rise(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(before, after, 2, stride=2), nn.BatchNorm2d(after), nn.ReLU(inplace=True))
