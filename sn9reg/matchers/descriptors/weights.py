"""Weights files of patch descriptors."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from sn9reg.matchers.descriptors.network import DenseFusion
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.options import check, check_call, options
from sn9reg.raster.files import PathLike
from sn9reg.weights import store

KIND = "patch descriptor"


@options
class DescriptorOptions:
    """What a weights file says of its descriptor."""

    patch: PatchLayout  # what the descriptor sees
    network: dict[str, Any] = field(default_factory=dict)  # the options of `DenseFusion` that `patch` does not give


def build(given: Mapping[str, Any]) -> DenseFusion:
    """The network of these `DescriptorOptions`, with new weights. Raises ConfigError for what there is not."""
    made = check(DescriptorOptions, given, KIND)
    check_call(DenseFusion, made.network, KIND, besides=("in_channels", "side"))
    return DenseFusion(made.patch.channels, made.patch.side, **made.network)


def load_descriptor(path: PathLike | None = None) -> tuple[DenseFusion, DescriptorOptions]:
    """The descriptor in a file, or the one that ships. Raises InputError as `store.load` and `store.shipped`."""
    network, given = store.shipped("descriptors", KIND, build) if path is None else store.load(path, KIND, build)
    return network, check(DescriptorOptions, given, KIND)
