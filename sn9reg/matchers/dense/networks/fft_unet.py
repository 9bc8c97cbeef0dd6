"""FFT U-Net: the classic U-Net of three levels, made for correlation by FFT."""

from torch import nn
from torchvision.ops import Conv2dNormActivation

from sn9reg.matchers.dense.networks.slim_unet import UNet


class FFTUNet(UNet):
    """(B, in_channels, H, W) -> (B, 4, H, W) features.

    Described in "Learning-based SAR-optical registration for navigation", Sec. IV-B: a classic U-Net (Ronneberger et
    al. 2015), whose features are compared by normalised cross-correlation: there is the FFT, not in the network.

    Readings. Each convolution has a bias and batch normalisation: two of 3x3 with ReLU a level, transposed ones of 2x2
    to go up, and a last one of 3x3 to 4 channels without ReLU. With images of three channels that gives 1,868,044
    parameters, the 1.9M of Table III; with one channel 1,866,892.
    """

    margin = 24

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__(in_channels, (64, 128, 256), _twice, _rise)
        self.head = Conv2dNormActivation(64, 4, 3, bias=True, activation_layer=None)


def _twice(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(*(Conv2dNormActivation(n, after, 3, bias=True) for n in (before, after)))


def _rise(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(before, after, 2, stride=2), nn.BatchNorm2d(after), nn.ReLU(inplace=True))
