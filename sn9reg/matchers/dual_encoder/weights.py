"""Weights files of dual encoders."""

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Le

from sn9reg.matchers.dual_encoder.network import DualEncoder
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike
from sn9reg.weights import store

KIND = "dual encoder"


@options
class DualOptions:
    """What a weights file says of its dual encoder: the options of `DualEncoder`."""

    aleatoric: bool = True  # with the modules for the uncertainty of the data
    dropout: Annotated[float, Ge(0), Le(5)] = 1.0  # share of the paper's dropout rates: 10, 20 and 15 %
    structure: bool = False  # with orientation energies beside the encoders


def build(given: Mapping[str, Any]) -> DualEncoder:
    """The network of these `DualOptions`, with new weights. Raises ConfigError for what there is not."""
    made = check(DualOptions, given, KIND)
    return DualEncoder(made.aleatoric, made.dropout, made.structure)


def load_dual_encoder(path: PathLike | None = None) -> DualEncoder:
    """The dual encoder in a file, or the one that ships. Raises InputError as `store.load` and `store.shipped`."""
    return (store.shipped("dual-encoder", KIND, build) if path is None else store.load(path, KIND, build))[0]
