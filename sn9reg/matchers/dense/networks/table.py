"""The networks by name. A new one is one file in this folder and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sn9reg.errors import ConfigError
from sn9reg.options import check_call

if TYPE_CHECKING:
    from types import ModuleType

    from sn9reg.matchers.dense.networks.branches import Branches

# Name -> module in this folder and class; imported when its network is asked for.
NETWORKS = {
    "mcgf": "mcgf:MCGF",
    "osmnet": "osmnet:OSMNet",
    "fft-unet": "fft_unet:FFTUNet",
    "maru-net": "maru_net:MARUNet",
    "slim-unet": "slim_unet:SlimUNet",
}


def module_of(name: str) -> ModuleType:
    """The module of a network of the table."""
    return import_module(f"{__package__}.{NETWORKS[name].split(':')[0]}")


def network_class(name: str) -> Any:
    """The class of the network `name`. Raises ConfigError for one that is not in the table."""
    if name not in NETWORKS:
        raise ConfigError(f"there is no network {name!r}; there are {', '.join(sorted(NETWORKS))}")
    return getattr(module_of(name), NETWORKS[name].split(":")[1])


def build(name: str, shared: bool, **options: object) -> Branches:
    """The network `name`, with new weights, as branches for both modalities; `options` are its constructor's.

    Raises ConfigError for a network that is not in the table, and for an option that it does not have.
    """
    from sn9reg.matchers.dense.networks.branches import Branches  # here, so that the table is read without torch

    network = network_class(name)
    check_call(network, options, f"network {name!r}")
    return Branches(lambda: network(**options), shared)
