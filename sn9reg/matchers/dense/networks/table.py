"""The networks by name. A new one is one file in this folder and one entry here."""

from importlib import import_module
from types import ModuleType

# Name -> class, in the module of that name; imported when its network is asked for.
NETWORKS = {"mcgf": "MCGF", "osmnet": "OSMNet", "fft-unet": "FFTUNet", "maru-net": "MARUNet", "slim-unet": "SlimUNet"}
NETWORKS |= {"wide-unet": "WideUNet"}


def module_of(name: str) -> ModuleType:
    """The module of a network of the table."""
    return import_module(f"{__package__}.{name.replace('-', '_')}")
