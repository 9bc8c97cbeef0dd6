"""OSMNet: residual blocks at full resolution, early and late features side by side."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation


class OSMNet(nn.Module):
    """(B, in_channels, H, W) -> (B, 9, H, W) features of unit length per pixel: SSD is 2 minus twice the cosine.

    Described in "Learning-based SAR-optical registration for navigation", Sec. IV-B and Appendix A: a convolution to 32
    channels and residual blocks of 32, 64 and 128 channels, none of which reduces the resolution. Fine detail stands
    beside meaning twice: the outputs of the first two blocks, 96 channels, are fused to the 64 that the third begins
    with, and its output and that of the first, 160 channels, are what the last convolution sees, after dropout.

    Readings. The fusion is 1x1, the last convolution 3x3; none has a bias and all have batch normalisation; the first
    block, which keeps its channels, has a plain shortcut, the others one of 1x1. With images of three channels that
    gives 326,610 parameters a branch, with one 326,034: 652,644 for colours and SAR, the 653k of Table III; 652,068 for
    grey and SAR.
    """

    divisor = 1
    margin = 8

    def __init__(self, in_channels: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = Conv2dNormActivation(in_channels, 32, 3)
        self.early, self.middle, self.late = BasicBlock(32, 32), _widening(32, 64), _widening(64, 128)
        self.fuse = Conv2dNormActivation(32 + 64, 64, 1)
        self.dropout = nn.Dropout(dropout)
        self.head = Conv2dNormActivation(32 + 128, 9, 3, activation_layer=None)

    def forward(self, image: Tensor) -> Tensor:
        early = self.early(self.stem(image))
        fused = self.fuse(torch.cat([early, self.middle(early)], dim=1))
        features = self.head(self.dropout(torch.cat([early, self.late(fused)], dim=1)))
        # In a constant area batch normalisation can give zero; the floor bounds the gradient there.
        return normalize(features.float(), dim=1, eps=1e-4)


def _widening(before: int, after: int) -> BasicBlock:
    return BasicBlock(before, after, downsample=Conv2dNormActivation(before, after, 1, activation_layer=None))
