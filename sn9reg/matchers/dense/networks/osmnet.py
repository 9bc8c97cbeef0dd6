"""OSMNet: residual blocks at full resolution, early and late features side by side."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation


class OSMNet(nn.Module):
    """(B, in_channels, H, W) -> (B, 9, H, W) features of unit length per pixel: SSD is 2 minus twice the cosine.

    Described in "Learning-based SAR-optical registration for navigation", Sec. IV-B and Appendix A: a convolution to 32
    channels and residual blocks of 32, 64 and 128 channels, none of which reduces the resolution. The outputs of the
    three blocks are concatenated, so that fine detail stands beside meaning; then dropout and a 3x3 convolution.

    Readings. Convolutions have no bias and each, those 1x1 of the shortcuts (in all three blocks) and the last one
    included, has batch normalisation. With images of three channels that gives 326,610 parameters a branch and 653,220
    for the pseudo-Siamese pair, the 653k of Table III exactly; with one channel 326,034 and 652,068.
    """

    divisor = 1
    margin = 8

    def __init__(self, in_channels: int = 1, dropout: float = 0.3) -> None:
        super().__init__()
        self.stem = Conv2dNormActivation(in_channels, 32, 3)
        self.early, self.middle, self.late = _residual(32, 32), _residual(32, 64), _residual(64, 128)
        self.dropout = nn.Dropout(dropout)
        self.head = Conv2dNormActivation(32 + 64 + 128, 9, 3, activation_layer=None)

    def forward(self, image: Tensor) -> Tensor:
        early = self.early(self.stem(image))
        middle = self.middle(early)
        features = self.head(self.dropout(torch.cat([early, middle, self.late(middle)], dim=1)))
        # In a constant area batch normalisation can give zero; the floor bounds the gradient there.
        return normalize(features.float(), dim=1, eps=1e-4)


def _residual(before: int, after: int) -> BasicBlock:
    return BasicBlock(before, after, downsample=Conv2dNormActivation(before, after, 1, activation_layer=None))
