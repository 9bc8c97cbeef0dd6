"""Writing and reading the weights of dense networks.

A file is a safetensors file whose header says, beside the tensors, which network they belong to. Those that ship stand
in manifest.json with their checksum and their card: data and licences, recipe, seed, commit, measured table.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sn9reg.correlation import Similarity
from sn9reg.errors import ConfigError, InputError, OutputError
from sn9reg.networks.branches import Branches
from sn9reg.networks.table import build
from sn9reg.rasters import PathLike, atomic_output

_HEADER = "sn9reg"


@dataclass(frozen=True)
class Architecture:
    """What a weights file is for. similarity: the surface that the network was trained to be compared by."""

    network: str
    shared: bool
    similarity: Similarity = "cc"
    options: dict[str, Any] = field(default_factory=dict)


def save_weights(path: PathLike, network: Branches, architecture: Architecture) -> None:
    """Write a network's state, each tensor in half precision where that does not overflow. Raises OutputError where the
    file cannot be written."""
    state = {key: _half(value).contiguous() for key, value in network.state_dict().items()}
    with atomic_output(path, overwrite=True) as temporary:
        try:
            save_file(state, str(temporary), metadata={_HEADER: json.dumps(asdict(architecture))})
        except SafetensorError as error:  # of a full disk, too
            raise OutputError(f"{path}: cannot be written ({error})") from error


def _half(value: torch.Tensor) -> torch.Tensor:
    if not value.dtype.is_floating_point:
        return value
    half = value.half()
    return half if bool(torch.isfinite(half).all()) else value


def load_weights(path: PathLike, sha256: str | None = None) -> tuple[Branches, Architecture]:
    """The network of a weights file, float32, ready to be used.

    Raises InputError for a file that is missing, damaged, no safetensors file (pickles are refused: they can run
    code), for another checksum than `sha256`, and for tensors that do not fit the network named in the header.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if content[:2] == b"PK" or content[:1] == b"\x80" or path.suffix in (".pt", ".pth", ".pkl", ".ckpt", ".bin"):
        raise InputError(f"{path}: pickled weights can run code and are refused; give a .safetensors file")
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: its checksum is not that of the manifest: the file is damaged, install sn9reg again")
    try:
        with safe_open(path, "pt") as source:
            header = (source.metadata() or {}).get(_HEADER)
            state = {key: source.get_tensor(key) for key in source.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is no whole safetensors file ({error})") from error
    if header is None:
        raise InputError(f"{path}: does not say which network it is for; pipelines.train_matcher writes such files")
    try:
        architecture = Architecture(**json.loads(header))
        if architecture.similarity not in get_args(Similarity):
            raise ConfigError(f"there is no similarity {architecture.similarity!r}")
        network = build(architecture.network, architecture.shared, **architecture.options)
        network.load_state_dict(state)
    except (ValueError, TypeError, ConfigError, RecursionError) as error:
        raise InputError(f"{path}: its header is not one that this version knows ({error})") from error
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        first = textwrap.shorten(first, 160, placeholder=" ...")
        raise InputError(f"{path}: holds no weights of the network {architecture.network} ({first})") from error
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise InputError(f"{path}: holds weights that are not finite")
    return network.float().eval(), architecture


def manifest() -> dict[str, dict[str, Any]]:
    """Network -> card of the weights that ship."""
    cards: dict[str, dict[str, Any]] = json.loads(files("sn9reg.weights").joinpath("manifest.json").read_text())
    return cards


def shipped(name: str) -> tuple[Branches, Architecture]:
    """The network of that name with the weights that ship. Raises InputError where none do, or they are damaged."""
    cards = manifest()
    if name not in cards:
        raise InputError(
            f"no weights of {name} ship with sn9reg; train them, python -m pipelines.train_matcher "
            f"pipelines/training/{name}.yaml, then --matcher-option weights=FILE"
        )
    return load_weights(Path(str(files("sn9reg.weights").joinpath(cards[name]["file"]))), cards[name]["sha256"])
