"""Dense networks that nobody trained."""

import torch
from torch import nn

from sn9reg.matchers.dense.networks.branches import build

# By which surface each network is compared in its paper.
SIMILARITY = {"mcgf": "cc", "osmnet": "ssd", "fft-unet": "zncc", "maru-net": "zncc", "slim-unet": "zncc"}
SIMILARITY |= {"wide-unet": "zncc"}


def settle(network, run):
    """The network in eval mode with batch normalisations as training leaves them: nothing is 0 or 1 as at the start,
    and features are neither huge nor gone. run: runs it once."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0
    with torch.no_grad():
        run()
    return network.eval()


def untrained(name, shared=True, **options):
    """A dense network that nobody trained, see `settle`."""
    torch.manual_seed(3)
    network = build(name, shared, **options)
    seen = {"optical": network.channels} if shared else {"optical": network.channels, "sar": 1}
    return settle(network, lambda: [network(torch.randn(2, n, 64, 64), kind) for kind, n in seen.items()])
