"""The networks by name. A new one is one file in this folder and one line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from sn9reg.errors import ConfigError
from sn9reg.networks.branches import Branches
from sn9reg.networks.fft_unet import FFTUNet
from sn9reg.networks.maru_net import MARUNet
from sn9reg.networks.mcgf import MCGF
from sn9reg.networks.osmnet import OSMNet
from sn9reg.networks.residual_unet import ResidualUNet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mcgf": MCGF,
    "osmnet": OSMNet,
    "fft-unet": FFTUNet,
    "maru-net": MARUNet,
    "residual-unet": ResidualUNet,
}


def build(name: str, shared: bool, **options: object) -> Branches:
    """The network `name`, with new weights, as branches for both modalities.

    `options` go to the network's constructor. Raises ConfigError for a network that is not in the table and for an
    option that the network does not have.
    """
    if name not in NETWORKS:
        raise ConfigError(f"there is no network {name!r}; there are {', '.join(sorted(NETWORKS))}")
    network = NETWORKS[name]
    known = inspect.signature(network).parameters
    if unknown := sorted(options.keys() - known.keys()):
        raise ConfigError(f"the network {name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    return Branches(lambda: network(**options), shared)
