"""Batch normalisation folded into convolutions: the same network, sooner."""

import itertools
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


def fused(network: M) -> M:
    """The network, changed in place: every batch normalisation that follows a convolution is folded into it. What timm
    activates in the same layer still is. For a network in evaluation mode."""
    for module in network.modules():
        children = list(module.named_children())
        for (name, child), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(child, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(child, norm, isinstance(child, nn.ConvTranspose2d)))
                setattr(module, norm_name, getattr(norm, "act", nn.Identity()))
    return network
