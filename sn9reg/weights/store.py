"""Writing and reading weights: those of dense networks, of keypoint detectors and of descriptors.

A file is a safetensors file whose header says, beside the tensors, which network they belong to. Those that ship stand
in manifest.json with their checksum and their card: data and licences, recipe, seed, commit, measured table.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import textwrap
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sn9reg.errors import ConfigError, InputError, OutputError, check_options
from sn9reg.matchers.dense.correlation import Similarity
from sn9reg.matchers.dense.networks.branches import Branches
from sn9reg.matchers.dense.networks.table import build
from sn9reg.matchers.descriptors.network import DenseFusion
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.matchers.dual_encoder.network import DualEncoder
from sn9reg.matchers.keypoints.network import HeatmapUNet
from sn9reg.raster.files import PathLike, atomic_output
from sn9reg.raster.radiometry import Modality

_HEADER = "sn9reg"
_PICKLED = "pickled weights can run code and are refused; give a .safetensors file"


@dataclass(frozen=True)
class Architecture:
    """What a dense network's file is for. similarity: the surface that it was trained to be compared by."""

    network: str
    shared: bool
    similarity: Similarity = "cc"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return f"network {self.network}"

    def build(self) -> Branches:
        """The network, with new weights. Raises ConfigError for what there is not."""
        if self.similarity not in get_args(Similarity):
            raise ConfigError(f"there is no similarity {self.similarity!r}")
        return build(self.network, self.shared, **self.options)


@dataclass(frozen=True)
class DetectorArchitecture:
    """What a keypoint detector's file is for: the modality that it finds keypoints in, and its network's options."""

    finds: Modality
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return f"{self.finds} keypoint detector"

    def build(self) -> HeatmapUNet:
        """The network, with new weights. Raises ConfigError for what there is not."""
        known = [name for name in inspect.signature(HeatmapUNet).parameters if name != "finds"]
        check_options("a keypoint detector", self.options, known)
        return HeatmapUNet(self.finds, **self.options)


@dataclass(frozen=True)
class DescriptorArchitecture:
    """What a descriptor's file is for: what it sees, and its network's other options."""

    patch: PatchLayout
    network: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.patch, dict):  # as it stands in a file's header
            object.__setattr__(self, "patch", PatchLayout(**self.patch))
        if not isinstance(self.patch, PatchLayout):
            raise TypeError(f"patch is {self.patch!r}, no layout")

    @property
    def kind(self) -> str:
        return "patch descriptor"

    def build(self) -> DenseFusion:
        """The network, with new weights. Raises ConfigError for what there is not."""
        given = ("in_channels", "side")
        known = [name for name in inspect.signature(DenseFusion).parameters if name not in given]
        check_options("a patch descriptor", self.network, known)
        return DenseFusion(self.patch.channels, self.patch.side, **self.network)


@dataclass(frozen=True)
class DualArchitecture:
    """What a dual encoder's file is for: the options of its network, see `DualEncoder`."""

    aleatoric: bool = True
    dropout: float = 1.0
    structure: bool = False

    @property
    def kind(self) -> str:
        return "dual encoder"

    def build(self) -> DualEncoder:
        """The network, with new weights. Raises ConfigError for what there is not."""
        flags = isinstance(self.aleatoric, bool) and isinstance(self.structure, bool)
        number = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool)
        if not flags or not number or not 0 <= self.dropout <= 5:
            raise ConfigError(f"there is no dual encoder with {self}")
        return DualEncoder(self.aleatoric, self.dropout, self.structure)


A = TypeVar("A", Architecture, DetectorArchitecture, DescriptorArchitecture, DualArchitecture)
_WHAT: dict[Any, str] = {
    Architecture: "dense network",
    DetectorArchitecture: "keypoint detector",
    DescriptorArchitecture: "patch descriptor",
    DualArchitecture: "dual encoder",
}


def save_weights(path: PathLike, network: nn.Module, architecture: Any) -> None:
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


def load_weights(path: PathLike, sha256: str | None = None, kind: type[A] = Architecture) -> tuple[Any, A]:  # type: ignore[assignment]
    """The network of a weights file, float32, ready to be used, and what it is: `Branches` for an `Architecture`, a
    `HeatmapUNet` for a `DetectorArchitecture`, a `DenseFusion` for a `DescriptorArchitecture`, a `DualEncoder` for a
    `DualArchitecture`.

    Raises InputError for a file that is missing, damaged, no safetensors file (pickles are refused: they can run
    code), for another checksum than `sha256`, for another kind of network, and for tensors that do not fit it.
    """
    path = Path(path)
    header, state = _read(path, sha256)
    try:
        content = json.loads(header)
        for other in _WHAT.keys() - {kind}:
            if isinstance(content, dict) and content.keys() == other.__dataclass_fields__.keys():
                raise InputError(f"{path}: holds a {other(**content).kind}, not a {_WHAT[kind]}")
        architecture = kind(**content)
        network = architecture.build()
        network.load_state_dict(state)
    except (ValueError, TypeError, ConfigError, RecursionError) as error:
        raise InputError(f"{path}: its header is not one that this version knows ({error})") from error
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        first = textwrap.shorten(first, 160, placeholder=" ...")
        raise InputError(f"{path}: holds no weights of the {architecture.kind} ({first})") from error
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise InputError(f"{path}: holds weights that are not finite")
    return network.float().eval(), architecture


def _read(path: Path, sha256: str | None) -> tuple[str, dict[str, torch.Tensor]]:
    """A file's header and tensors."""
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if path.suffix in (".pt", ".pth", ".pkl", ".ckpt", ".bin"):
        raise InputError(f"{path}: {_PICKLED}")
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: its checksum is not that of the manifest: the file is damaged, install sn9reg again")
    try:
        with safe_open(path, "pt") as source:
            header = (source.metadata() or {}).get(_HEADER)
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
    """Network -> card of the weights that ship."""
    cards: dict[str, dict[str, Any]] = json.loads(files("sn9reg.weights").joinpath("manifest.json").read_text())
    return cards


def shipped(name: str) -> tuple[Branches, Architecture]:
    """The network of that name with the weights that ship. Raises InputError where none do, or they are damaged."""
    train = f"pipelines.train_matcher pipelines/training/{name}.yaml"
    return _shipped(name, Architecture, f"no weights of {name} ship", train, "weights=FILE")


def load_detector(finds: Modality, weights: PathLike | None = None) -> HeatmapUNet:
    """The detector of that modality's keypoints in a file, or the one that ships. Raises InputError as `load_weights`,
    and for a detector of the other modality."""
    if weights is None:
        return shipped_detector(finds)[0]
    network, architecture = load_weights(weights, kind=DetectorArchitecture)
    if architecture.finds != finds:
        raise InputError(f"{weights}: holds a detector of {architecture.finds} keypoints, not of {finds} ones")
    return network


def shipped_detector(finds: Modality) -> tuple[HeatmapUNet, DetectorArchitecture]:
    """The detector of that modality's keypoints that ships. Raises InputError where none does, or it is damaged."""
    train = f"pipelines.train_keypoints pipelines/training/keypoints.yaml --finds {finds}"
    name, missing = f"keypoints-{finds}", f"no detector of {finds} keypoints ships"
    return _shipped(name, DetectorArchitecture, missing, train, f"{finds}_weights=FILE")


def load_descriptor(weights: PathLike | None = None) -> tuple[DenseFusion, DescriptorArchitecture]:
    """The descriptor in a file, or the one that ships. Raises InputError as `load_weights`, and where none ships."""
    if weights is not None:
        return load_weights(weights, kind=DescriptorArchitecture)
    train = "pipelines.train_descriptors pipelines/training/descriptors.yaml"
    return _shipped("descriptors", DescriptorArchitecture, "no descriptor ships", train, "weights=FILE")


def load_dual_encoder(weights: PathLike | None = None) -> DualEncoder:
    """The dual encoder in a file, or the one that ships. Raises InputError as `load_weights`, and where none ships."""
    if weights is not None:
        return load_weights(weights, kind=DualArchitecture)[0]
    train = "pipelines.train_dual_encoder pipelines/training/dual-encoder.yaml"
    return _shipped("dual-encoder", DualArchitecture, "no dual encoder ships", train, "weights=FILE")[0]


def _shipped(name: str, kind: type[A], missing: str, train: str, option: str) -> tuple[Any, A]:
    cards = manifest()
    if name not in cards:
        raise InputError(f"{missing} with sn9reg; train it, python -m {train}, then --matcher-option {option}")
    path = Path(str(files("sn9reg.weights").joinpath(cards[name]["file"])))
    return load_weights(path, cards[name]["sha256"], kind)
