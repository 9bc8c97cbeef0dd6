"""Weights files of dense networks."""

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any

from sn9reg.matchers.dense.correlation import Similarity
from sn9reg.matchers.dense.networks import branches
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike
from sn9reg.weights import store

KIND = "dense network"


@options
class DenseOptions:
    """What a weights file says of its dense network."""

    network: str  # its name in `networks/table.py`
    shared: bool  # whether both modalities go through one set of weights
    similarity: Similarity = "cc"  # the surface that it was trained to be compared by
    options: dict[str, Any] = field(default_factory=dict)  # of the network's constructor


def build(given: Mapping[str, Any]) -> branches.Branches:
    """The network of these `DenseOptions`, with new weights. Raises ConfigError for what there is not."""
    made = check(DenseOptions, given, KIND)
    return branches.build(made.network, made.shared, **made.options)


def save_dense(path: PathLike, network: branches.Branches, options: DenseOptions) -> None:
    """Write a weights file. Raises OutputError where it cannot be written."""
    store.save(path, network, KIND, asdict(options))


def load_dense(path: PathLike | None, name: str = "") -> tuple[branches.Branches, DenseOptions]:
    """The network in a file, or the one of that name that ships. Raises InputError as `store.load`, `store.shipped`."""
    network, given = store.shipped(name, KIND, build) if path is None else store.load(path, KIND, build)
    return network, check(DenseOptions, given, KIND)
