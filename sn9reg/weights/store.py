"""Writing and reading weights of any network. What a network's options are and how it is built, its own folder knows.

A weights file is a safetensors file. Its header says, beside the tensors, of what kind the network is and with which
options it is built: `{"kind": ..., "options": {...}}`. The files that ship stand in manifest.json with their checksum
and their card: data and licences, recipe, seed, commit, measured table.
"""

import hashlib
import json
import textwrap
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sn9reg.errors import ConfigError, InputError, OutputError
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike, atomic_output, check_regular

N = TypeVar("N", bound=nn.Module)

_KEY = "sn9reg"
_PICKLED = "pickled weights can run code and are refused; give a .safetensors file"


@options
class _Header:
    kind: str
    options: dict[str, Any]


def save(path: PathLike, network: nn.Module, kind: str, options: Mapping[str, Any]) -> None:
    """Write a network's state, each tensor in half precision where that does not overflow.

    kind: what the network is, e.g. "keypoint detector". options: what `load` gives to `build`; as JSON has values.
    Raises OutputError where the file cannot be written.
    """
    state = {key: _half(value).contiguous() for key, value in network.state_dict().items()}
    header = json.dumps({"kind": kind, "options": dict(options)})
    with atomic_output(path, overwrite=True) as temporary:
        try:
            save_file(state, str(temporary), metadata={_KEY: header})
        except SafetensorError as error:  # of a full disk, too
            raise OutputError(f"{path}: cannot be written ({error})") from error


def _half(value: torch.Tensor) -> torch.Tensor:
    if not value.dtype.is_floating_point:
        return value
    half = value.half()
    return half if bool(torch.isfinite(half).all()) else value


def load(
    path: PathLike, kind: str, build: Callable[[dict[str, Any]], N], sha256: str | None = None
) -> tuple[N, dict[str, Any]]:
    """The network of a weights file, float32, in evaluation mode, and the options that it was built with.

    build: makes the network, with any weights, from the file's options; raises ConfigError where they make no sense.
    sha256: the checksum that the file must have.
    Raises InputError for a file that is missing, damaged, no safetensors file (pickles are refused: they can run
    code), or of another kind, for another checksum, and for tensors that are not finite or do not fit the network.
    """
    path = Path(path)
    text, state = _read(path, sha256)
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} instead of kind and options")
        header = check(_Header, content, "weights")
        if header.kind != kind:
            raise InputError(f"{path}: holds a {header.kind}, not a {kind}")
        network = build(header.options)
        network.load_state_dict(state)
    except (ValueError, TypeError, ConfigError, RecursionError) as error:
        raise InputError(f"{path}: its header is not one that this version knows ({error})") from error
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        first = textwrap.shorten(first, 160, placeholder=" ...")
        raise InputError(f"{path}: holds no weights of the {kind} that its header describes ({first})") from error
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise InputError(f"{path}: holds weights that are not finite")
    return network.float().eval(), header.options


def _read(path: Path, sha256: str | None) -> tuple[str, dict[str, torch.Tensor]]:
    """A file's header and tensors."""
    check_regular(path)
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{path}: no such weights file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if path.suffix in (".pt", ".pth", ".pkl", ".ckpt", ".bin"):
        raise InputError(f"{path}: {_PICKLED}")
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: its checksum is not that of the manifest: the file is damaged, install sn9reg again")
    try:
        with safe_open(path, "pt") as source:
            header = (source.metadata() or {}).get(_KEY)
            state = {key: source.get_tensor(key) for key in source.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        # Only now: the length with which a good file begins may look like either.
        if content[:2] == b"PK" or content[:1] == b"\x80":
            raise InputError(f"{path}: {_PICKLED}") from error
        raise InputError(f"{path}: is no whole safetensors file ({error})") from error
    if header is None:
        raise InputError(f"{path}: does not say which network it is for; the training pipelines write files that do")
    return header, state


def manifest() -> dict[str, dict[str, Any]]:
    """Name -> card of the weights that ship."""
    cards: dict[str, dict[str, Any]] = json.loads(files("sn9reg.weights").joinpath("manifest.json").read_text())
    return cards


def shipped(
    name: str, kind: str, build: Callable[[dict[str, Any]], N], recipe: str = "", option: str = "weights"
) -> tuple[N, dict[str, Any]]:
    """As `load`, of the weights of that name that ship.

    recipe: what trains such weights, as `pipelines.train` takes it; by default the YAML file of that name.
    option: the matcher's option that takes a file.
    Raises InputError where none ship, or they are damaged.
    """
    cards = manifest()
    if name not in cards:
        how = f"train some, python -m pipelines.train pipelines/training/{recipe or f'{name}.yaml'}"
        raise InputError(f"no weights of {name} ship with sn9reg; {how}, then --matcher-option {option}=FILE")
    path = Path(str(files("sn9reg.weights").joinpath(cards[name]["file"])))
    return load(path, kind, build, cards[name]["sha256"])
