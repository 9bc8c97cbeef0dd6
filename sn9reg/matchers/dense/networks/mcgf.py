"""MCGF: a shallow network on gradients of many orientations, at two scales."""

import math

import torch
from kornia.filters import gaussian_blur2d, spatial_gradient
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torchvision.ops import Conv2dNormActivation

ORIENTATIONS = 9

_BLUR, _KERNEL = 0.8, 5  # standard deviation in pixels of the spatial smoothing, and its kernel
_FLOOR = 0.1  # length, in deviations of an image, below which a pixel's orientations are not brought to one length


def oriented_gradients(image: Tensor) -> Tensor:
    """(B, C, H, W) images -> (B, 9 * C, H, W) strength of the gradient in nine directions, between 0 and 1. Channel k
    is |gx cos a + gy sin a| with a = 20 k degrees from x towards y (down), as in CFOG (Ye et al. 2019), then smoothed
    in the plane and divided by the pixel's length over the orientations. The images should have a standard deviation
    near 1: what is far weaker is not amplified, so that a constant area gives zero."""
    gradient = spatial_gradient(image, mode="sobel")  # (B, C, 2, H, W)
    angles = torch.arange(ORIENTATIONS, device=image.device, dtype=image.dtype) * (math.pi / ORIENTATIONS)
    directions = torch.stack([angles.cos(), angles.sin()], dim=1)
    strength = torch.einsum("kd,bcdhw->bckhw", directions, gradient).abs()
    planes = strength.flatten(1, 2)
    # Replicated, not reflected: the copy at half resolution may be smaller than the kernel.
    smooth = gaussian_blur2d(planes, _KERNEL, (_BLUR, _BLUR), border_type="replicate").view_as(strength)
    length = (smooth.square().sum(dim=2, keepdim=True) + _FLOOR**2).sqrt()
    return (smooth / length).flatten(1, 2)


class MCGF(nn.Module):
    """Multiscale convolutional gradient features: (B, in_channels, H, W) -> (B, 9, H, W).

    Described in "Learning-based SAR-optical registration for navigation", Sec. IV-B. The gradients of the image and of
    its copy at half resolution go through a stack of three 3x3 convolutions each; both features are averaged.

    Readings. Each convolution has a bias and batch normalisation: 14,619 parameters a scale, 29,238 a branch and 58,476
    for the pseudo-Siamese pair, the 58k of Table III exactly. The last one has no ReLU, since cross-correlation wants
    features of both signs. How gradients are smoothed is left open by the paper; see `oriented_gradients`.
    """

    divisor = 2
    margin = 14

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.fine, self.coarse = (_stack(ORIENTATIONS * in_channels) for _ in range(2))

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(oriented_gradients(image))
        coarse = self.coarse(oriented_gradients(avg_pool2d(image, 2)))
        return (fine + interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)) / 2


def _stack(before: int) -> nn.Sequential:
    first, second = (Conv2dNormActivation(channels, 32, 3, bias=True) for channels in (before, 32))
    return nn.Sequential(first, second, Conv2dNormActivation(32, 9, 3, bias=True, activation_layer=None))
