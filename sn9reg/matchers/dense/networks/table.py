"""The networks by name. A new one is one file in this folder and one line here."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from sn9reg.errors import ConfigError
from sn9reg.options import check_call

if TYPE_CHECKING:
    from sn9reg.matchers.dense.networks.branches import Branches

# Name -> class, in the module of that name; imported when its network is asked for.
NETWORKS = {
    "mcgf": "MCGF",
    "osmnet": "OSMNet",
    "fft-unet": "FFTUNet",
    "maru-net": "MARUNet",
    "slim-unet": "SlimUNet",
}


def module_of(name: str) -> ModuleType:
    """The module of a network of the table."""
    return import_module(f"{__package__}.{name.replace('-', '_')}")


def build(name: str, shared: bool, **options: object) -> Branches:
    """The network `name`, with new weights, as branches for both modalities; `options` are its constructor's.

    Raises ConfigError for a network that is not in the table, and for an option that it does not have.
    """
    from sn9reg.matchers.dense.networks.branches import Branches  # here, so that the table is read without torch

    if name not in NETWORKS:
        raise ConfigError(f"there is no network {name!r}; there are {', '.join(sorted(NETWORKS))}")
    network = getattr(module_of(name), NETWORKS[name])
    check_call(network, options, f"network {name!r}")
    return Branches(lambda: network(**options), shared)
