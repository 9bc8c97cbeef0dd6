"""Dense networks that nobody trained."""

import torch
from torch import nn

from sn9reg.matchers.dense.networks.table import build

# By which surface each network is compared in its paper.
SIMILARITY = {"mcgf": "cc", "osmnet": "ssd", "fft-unet": "zncc", "maru-net": "zncc", "slim-unet": "zncc"}


def untrained(name, shared=True, **options):
    """A network in eval mode whose batch normalisations are those of a trained one: nothing is 0 or 1 as at the start,
    and features are neither huge nor gone."""
    torch.manual_seed(3)
    network = build(name, shared, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0
    channels = options.get("in_channels", 1)
    with torch.no_grad():
        for branch in network.branches.values():
            branch(torch.randn(2, channels, 64, 64))
    return network.eval()
