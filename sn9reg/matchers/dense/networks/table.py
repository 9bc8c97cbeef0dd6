"""The networks by name. A new one is one file in this folder and one line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from sn9reg.errors import ConfigError, check_options
from sn9reg.matchers.dense.networks.branches import Branches
from sn9reg.matchers.dense.networks.fft_unet import FFTUNet
from sn9reg.matchers.dense.networks.maru_net import MARUNet
from sn9reg.matchers.dense.networks.mcgf import MCGF
from sn9reg.matchers.dense.networks.osmnet import OSMNet
from sn9reg.matchers.dense.networks.slim_unet import SlimUNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mcgf": MCGF,
    "osmnet": OSMNet,
    "fft-unet": FFTUNet,
    "maru-net": MARUNet,
    "slim-unet": SlimUNet,
}


def build(name: str, shared: bool, **options: object) -> Branches:
    """The network `name`, with new weights, as branches for both modalities.

    `options` go to the network's constructor. Raises ConfigError for a network that is not in the table and for an
    option that the network does not have.
    """
    if name not in NETWORKS:
        raise ConfigError(f"there is no network {name!r}; there are {', '.join(sorted(NETWORKS))}")
    network = NETWORKS[name]
    check_options(f"network {name!r}", options, inspect.signature(network).parameters)
    return Branches(lambda: network(**options), shared)
