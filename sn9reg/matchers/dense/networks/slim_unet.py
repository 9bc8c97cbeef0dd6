"""A slim U-Net at full resolution: sn9reg's own network, made for two CPU cores."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, normalize, pixel_shuffle, pixel_unshuffle

Part = Callable[[int, int], nn.Module]  # from channels before and after


class UNet(nn.Module):
    """(B, in_channels, H, W) -> what a subclass's `head` makes of (B, widths[0], H, W): a U-Net of one level per width.
    twice, rise: what a level is made of, and what doubles the resolution."""

    head: nn.Module

    def __init__(self, in_channels: int, widths: tuple[int, ...], twice: Part, rise: Part) -> None:
        super().__init__()
        self.divisor = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList([twice(before, after) for before, after in pairwise((in_channels, *widths))])
        self.rise = nn.ModuleList([rise(below, here) for here, below in pairwise(widths)])
        self.up = nn.ModuleList([twice(2 * here, here) for here in widths[:-1]])

    def forward(self, image: Tensor) -> Tensor:
        levels = [self.down[0](image)]
        for down in self.down[1:]:
            levels.append(down(max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for rise, up in zip(reversed(self.rise), reversed(self.up), strict=True):
            x = up(torch.cat([levels.pop(), rise(x)], dim=1))
        return self.head(x)


class SlimUNet(UNet):
    """(B, in_channels, H, W) -> (B, features, H, W) features of unit length per pixel, or, `weighted`, of a length from
    0 to 1: how much the pixel counts. Walls and shadows lie elsewhere in the other image, and ought not to. Ours: the
    shape of `FFTUNet` with 3/8 of its channels, or fewer. fold: squares of so many pixels a side are one pixel to the
    network, with a channel for each. Networks at half resolution that learned to match found much less than those at
    full resolution; one that imitates these (`training.dense.Imitation`) finds as much in a quarter of the time."""

    margin = 20  # it sees 24 px far, but features are those of a larger patch from 4 px on

    def __init__(
        self, in_channels: int = 1, widths: tuple[int, ...] = (24, 48, 96), weighted: bool = False,
        features: int = 8, fold: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(in_channels * fold**2, widths, _twice, _rise)
        self.head = nn.Conv2d(widths[0], (features + weighted) * fold**2, 3, padding=1)
        self.features, self.fold, self.divisor = features, fold, self.divisor * fold

    def forward(self, image: Tensor) -> Tensor:
        found = pixel_shuffle(super().forward(pixel_unshuffle(image, self.fold)), self.fold).float()
        features, weight = normalize(found[:, : self.features], dim=1, eps=1e-6), found[:, self.features :]
        return features * weight.sigmoid() if weight.shape[1] else features


def _twice(before: int, after: int) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    for name, channels in (("first", before), ("second", after)):
        layers[name] = nn.Conv2d(channels, after, 3, padding=1, bias=False)
        layers[f"{name}_norm"], layers[f"{name}_relu"] = nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _rise(before: int, after: int) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(before, after, 2, stride=2, bias=False)
    return nn.Sequential(OrderedDict(rise=convolution, norm=nn.BatchNorm2d(after), relu=nn.ReLU(inplace=True)))
