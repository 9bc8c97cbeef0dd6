"""A small residual U-Net at half resolution: sn9reg's own network, made for two CPU cores."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, normalize, pixel_shuffle, pixel_unshuffle, relu


class _Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.second_norm.weight)  # starts as its shortcut

    def forward(self, x: Tensor) -> Tensor:
        inner = relu(self.first_norm(self.first(x)))
        return relu(self.shortcut(x) + self.second_norm(self.second(inner)))


class ResidualUNet(nn.Module):
    """(B, 1, H, W) -> (B, out_channels, H, W) of unit length per pixel.

    Ours. Everything costly runs at half resolution and below, since a convolution there costs a quarter; 2 x 2 pixels
    become channels on the way in and back on the way out, so that no position is lost.
    """

    divisor = 8
    margin = 24  # the receptive field is wider, but little of what is beyond is felt

    def __init__(
        self,
        in_channels: int = 1,
        widths: tuple[int, int, int] = (32, 64, 128),
        out_channels: int = 12,
    ) -> None:
        super().__init__()
        a, b, c = widths
        self.out_channels = out_channels
        self.stem = nn.Conv2d(4 * in_channels, a, 5, padding=2)
        self.down = nn.ModuleList([_Residual(a, a), _Residual(a, b), _Residual(b, c)])
        self.context = _Residual(c, c)
        self.up = nn.ModuleList([_Residual(b + c, b), _Residual(a + b, a)])
        self.head = nn.Conv2d(a, 4 * out_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.down[0](relu(self.stem(pixel_unshuffle(image, 2))))
        middle = self.down[1](max_pool2d(fine, 2))
        coarse = self.context(self.down[2](max_pool2d(middle, 2)))
        middle = self.up[0](torch.cat([_double(coarse), middle], dim=1))
        fine = self.up[1](torch.cat([_double(middle), fine], dim=1))
        return normalize(pixel_shuffle(self.head(fine), 2).float(), dim=1, eps=1e-6)


def _double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
