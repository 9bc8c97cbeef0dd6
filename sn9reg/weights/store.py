"""Writing and reading weights of any network. What a network's options are and how it is built, its own folder knows. A
weights file is a safetensors file. Its header says, beside the tensors, of what kind the network is and with which
options it is built: `{"kind": ..., "options": {...}}`. The files that ship stand in manifest.json with their checksum
and their card: data and licences, recipe, seed, commit, measured table."""

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
from sn9reg.raster.files import PathLike, atomic_output, read_file

N = TypeVar("N", bound=nn.Module)
Options = dict[str, Any]  # of a network
Build = Callable[[Options], N]

TRAIN = "python -m pipelines.train pipelines/training"  # the command, up to the folder of its recipes
_KEY = "sn9reg"
_PICKLED = "pickled weights can run code and are refused; give a .safetensors file"


@options
class _Header:
    kind: str
    options: Options


def save(path: PathLike, network: nn.Module, kind: str, options: Mapping[str, Any]) -> None:
    """Write a network's state, in half precision where that does not overflow. kind: e.g. "keypoint detector". options:
    what `load` gives to `build`; as JSON has values. Raises OutputError where the file cannot be written."""
    state = {}
    for key, value in network.state_dict().items():
        half = value.half() if value.dtype.is_floating_point else value
        state[key] = (half if bool(torch.isfinite(half).all()) else value).contiguous()
    header = json.dumps({"kind": kind, "options": dict(options)})
    with atomic_output(path, overwrite=True) as temporary:
        try:
            save_file(state, str(temporary), metadata={_KEY: header})
        except SafetensorError as error:  # of a full disk, too
            raise OutputError(f"{path}: cannot be written ({error})") from error


def load(path: PathLike, kind: str, build: Build[N], sha256: str | None = None) -> tuple[N, Options]:
    """The network of a weights file, float32, in evaluation mode, and its options. build: makes it of them, ConfigError
    where they make no sense. sha256: of the file. Raises InputError for a file that is missing, damaged, of another
    kind or checksum, no safetensors file (pickles can run code), or whose tensors are not finite or do not fit."""
    content = read_file(path)
    if Path(path).suffix in (".pt", ".pth", ".pkl", ".ckpt", ".bin"):
        raise InputError(f"{path}: {_PICKLED}")
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: its checksum is not that of the manifest: the file is damaged, install sn9reg again")
    try:
        with safe_open(path, "pt") as source:
            text = (source.metadata() or {}).get(_KEY)
            state = {key: source.get_tensor(key) for key in source.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        # Only now: the length with which a good file begins may look like either.
        if content[:2] == b"PK" or content[:1] == b"\x80":
            raise InputError(f"{path}: {_PICKLED}") from error
        raise InputError(f"{path}: is no whole safetensors file ({error})") from error
    if text is None:
        raise InputError(f"{path}: does not say which network it is for; the training pipelines write files that do")
    try:
        header = check(_Header, json.loads(text), "weights")
        if header.kind != kind:
            raise InputError(f"{path}: holds a {header.kind}, not a {kind}")
        network = build(header.options)
        network.load_state_dict(state)
    except (ValueError, TypeError, ConfigError, RecursionError) as error:
        raise InputError(f"{path}: its header is not one that this version knows ({error})") from error
    except RuntimeError as error:
        first = textwrap.shorten(str(error).splitlines()[:2][-1], 160, placeholder=" ...")
        raise InputError(f"{path}: holds no weights of the {kind} that its header describes ({first})") from error
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise InputError(f"{path}: holds weights that are not finite")
    return network.float().eval(), header.options


def manifest() -> dict[str, dict[str, Any]]:
    """Name -> card of the weights that ship."""
    return json.loads(files("sn9reg.weights").joinpath("manifest.json").read_text())


def shipped(name: str, kind: str, build: Build[N], recipe: str = "", option: str = "weights") -> tuple[N, Options]:
    """As `load`, of the weights of that name that ship. Raises InputError where none ship, or they are damaged. recipe:
    what `pipelines.train` makes them by [NAME.yaml]. option: the matcher's option that takes a file."""
    if (card := manifest().get(name)) is None:
        how = f"train some, {TRAIN}/{recipe or f'{name}.yaml'}"
        raise InputError(f"no weights of {name} ship with sn9reg; {how}, then --matcher-option {option}=FILE")
    return load(str(files("sn9reg.weights").joinpath(card["file"])), kind, build, card["sha256"])
