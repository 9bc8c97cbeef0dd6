"""Batch normalisation folded into convolutions: the same network, sooner."""

import itertools
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


def fused(network: M) -> M:
    """The network, in evaluation mode, changed in place: batch normalisation after a convolution is folded into it."""
    for module in network.modules():
        for (name, child), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(child, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(child, norm, isinstance(child, nn.ConvTranspose2d)))
                setattr(module, norm_name, getattr(norm, "act", nn.Identity()))  # timm activates in the same layer
    return network
