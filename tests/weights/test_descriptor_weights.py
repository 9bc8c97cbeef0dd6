"""weights.store, patch descriptors: what is saved comes back, other kinds and damaged files are refused in one line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.networks import untrained
from torch import nn

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.descriptors.network import DenseFusion
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.weights import store
from sn9reg.weights.store import (
    Architecture,
    DescriptorArchitecture,
    DetectorArchitecture,
    load_descriptor,
    load_weights,
    manifest,
    save_weights,
)

SMALL = {"width": 0.35, "descriptor": 16}
PATCH = PatchLayout(32, 2.0, "grey")
DETECTOR = {"optical_encoder": "tu-regnetx_002", "sar_encoder": "tu-regnetx_002", "depth": 2, "decoder": [4, 4]}
KINDS = {
    "dense network": Architecture("mcgf", True),
    "keypoint detector": DetectorArchitecture("sar", DETECTOR),
    "patch descriptor": DescriptorArchitecture(PATCH, SMALL),
}
NAMES = {"dense network": "network mcgf", "keypoint detector": "sar keypoint detector"}


def settled(architecture):
    """A network whose batch normalisations are those of a trained one."""
    torch.manual_seed(3)
    network = architecture.build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return network.eval()


def saved(path, patch=PATCH, **options):
    architecture = DescriptorArchitecture(patch, SMALL | options)
    network = settled(architecture)
    save_weights(path, network, architecture)
    return network, architecture


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Kind -> a file of it that nobody trained."""
    folder, paths = tmp_path_factory.mktemp("kinds"), {}
    for kind, architecture in KINDS.items():
        paths[kind] = folder / f"{kind}.safetensors"
        network = untrained("mcgf") if kind == "dense network" else settled(architecture)
        save_weights(paths[kind], network, architecture)
    return paths


@pytest.fixture
def rewritten(stored, tmp_path):
    """The good descriptor file with another header or other tensors, and its path."""

    def write(content=None, change=lambda state: state):
        path = tmp_path / "w.safetensors"
        content = {"patch": {"side": 32, "scale": 2.0, "inputs": "grey"}, "network": SMALL} | (content or {})
        content = {key: value for key, value in content.items() if value is not None}
        save_file(change(load_file(stored["patch descriptor"])), path, metadata={"sn9reg": json.dumps(content)})
        return path

    return write


def refusal(path):
    """What `load_descriptor` says, in one line."""
    with pytest.raises(InputError) as caught:
        load_descriptor(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 320
    return message


# --- what is saved comes back ----------------------------------------------------------------------------------------


def test_a_descriptor_survives_in_half_precision(tmp_path):
    network, architecture = saved(tmp_path / "w.safetensors")
    loaded, read = load_descriptor(tmp_path / "w.safetensors")
    assert read == architecture
    assert isinstance(loaded, DenseFusion)
    assert not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        rounded = value.half().float() if value.is_floating_point() else value
        assert loaded.state_dict()[key].equal(rounded), key


@pytest.mark.parametrize(
    ("patch", "options"),
    [
        (PATCH, {}),
        (PatchLayout(32, 1.0, "energy"), {"attention": False}),
        (PatchLayout(16, 1.5, "both"), {"stem_stride": 1, "cells": 4}),
    ],
    ids=["grey", "energy", "both"],
)
def test_a_loaded_descriptor_describes_as_it_did(patch, options, tmp_path):
    network, architecture = saved(tmp_path / "w.safetensors", patch, **options)
    loaded, read = load_descriptor(tmp_path / "w.safetensors")
    assert read == architecture
    assert isinstance(read.patch, PatchLayout)
    patches = torch.randn(3, patch.channels, patch.side, patch.side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cosine = (loaded(patches) * network(patches)).sum(dim=1)
        assert loaded(patches).shape == (3, 16)
    assert cosine.min() > 0.999


def test_a_file_holds_half_precision_alone(stored):
    state = load_file(stored["patch descriptor"])
    assert {value.dtype for key, value in state.items() if "num_batches" not in key} == {torch.float16}


# --- other kinds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("held", KINDS)
def test_each_kind_is_told_from_the_others(held, wanted, stored):
    kind = type(KINDS[wanted])
    if held == wanted:
        assert load_weights(stored[held], kind=kind)[1] == KINDS[held]
        return
    with pytest.raises(InputError) as caught:
        load_weights(stored[held], kind=kind)
    assert str(caught.value) == f"{stored[held]}: holds a {NAMES.get(held, held)}, not a {wanted}"


@pytest.mark.parametrize("held", NAMES)
def test_other_weights_are_no_descriptor(held, stored):
    assert refusal(stored[held]).endswith(f"holds a {NAMES[held]}, not a patch descriptor")


@pytest.mark.parametrize("matcher", ["mcgf", "keypoints"])
def test_other_matchers_refuse_a_descriptor(matcher, stored):
    given = ("weights",) if matcher == "mcgf" else ("sar_weights", "optical_weights")
    with pytest.raises(InputError, match="holds a patch descriptor, not a "):
        make_matcher(matcher, **dict.fromkeys(given, str(stored["patch descriptor"])))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["colour", "side", "in_channels"])
def test_a_network_option_that_there_is_not_is_named(option, rewritten):
    known = "width, stem_stride, attention, descriptor, cells"
    message = f"a patch descriptor has no option {option}; it has: {known}"
    with pytest.raises(ConfigError, match=message):
        DescriptorArchitecture(PATCH, SMALL | {option: 3}).build()
    assert message in refusal(rewritten({"network": SMALL | {option: 3}}))


HEADERS = {
    "without a patch": ({"patch": None}, "argument: 'patch'"),
    "with more": ({"colour": "blue"}, "colour"),
    "options that are none": ({"network": 7}, "not iterable"),
    "a patch of no side": ({"patch": {"side": 4}}, "a patch's side is 4"),
    "a patch of unknown inputs": ({"patch": {"side": 32, "inputs": "colour"}}, "inputs are 'colour'"),
    "a patch with more": ({"patch": {"side": 32, "colour": 1}}, "colour"),
    "a side that the network cannot halve": ({"patch": {"side": 40}}, "side is 40, must be a multiple of 32"),
    "a width there is not": ({"network": {"width": 2}}, "width is 2, not one of"),
    "attention in words": ({"network": {"attention": "yes"}}, "attention 'yes'"),
}


@pytest.mark.parametrize(("content", "part"), HEADERS.values(), ids=HEADERS)
def test_a_header_of_no_descriptor_is_refused(content, part, rewritten):
    message = refusal(rewritten(content))
    assert "its header is not one that this version knows" in message
    assert part in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"patch": {"side": 64, "inputs": "grey"}}, "fusion.weight"),
        ({"patch": {"side": 32, "inputs": "energy"}}, "stem.weight"),
        ({"network": SMALL | {"width": 0.5}}, "size mismatch for blocks."),
        ({"network": SMALL | {"descriptor": 8}}, "fusion"),
        ({"network": SMALL | {"cells": 4}}, "layout"),
        ({"network": SMALL | {"attention": False}}, "attention"),
    ],
    ids=str,
)
def test_weights_of_another_descriptor_say_what_does_not_fit(content, part, rewritten):
    message = refusal(rewritten(content))
    assert "holds no weights of the patch descriptor" in message
    assert part in message


STATES = {
    "one tensor short": (lambda s: {k: v for k, v in s.items() if k != "fusion.weight"}, "fusion.weight"),
    "one too many": (lambda s: s | {"extra": torch.zeros(2)}, "extra"),
    "empty": (lambda s: {}, "Missing"),
    "a NaN": (lambda s: s | {"fusion_norm.bias": torch.full((16,), torch.nan)}, "not finite"),
    "an infinity": (lambda s: s | {"norm.running_var": torch.full((16,), torch.inf)}, "not finite"),
}


@pytest.mark.parametrize(("change", "part"), STATES.values(), ids=STATES)
def test_tensors_that_are_not_those_of_the_network_are_refused(change, part, rewritten):
    assert part in refusal(rewritten(change=change))


def test_a_damaged_file_is_refused(stored, tmp_path):
    whole, path = stored["patch descriptor"].read_bytes(), tmp_path / "w.safetensors"
    for damaged in (b"", whole[:9], whole[: len(whole) // 2], whole[:-1], whole + b"x", b"weights\n" * 100):
        path.write_bytes(damaged)
        assert "is no whole safetensors file" in refusal(path)


def test_a_missing_file_is_said(tmp_path):
    assert refusal(tmp_path / "none.safetensors").endswith("no such weights file")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_descriptor_is_refused_and_not_run(zipped, tmp_path):
    path = tmp_path / "w.safetensors"
    torch.save({"state": Trap(tmp_path / "mark")}, path, _use_new_zipfile_serialization=zipped)
    assert "pickled weights can run code and are refused" in refusal(path)
    assert not (tmp_path / "mark").exists()


# --- what ships ------------------------------------------------------------------------------------------------------


def test_a_descriptor_that_does_not_ship_says_how_to_train_one(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    with pytest.raises(InputError) as caught:
        load_descriptor()
    message = str(caught.value)
    assert "\n" not in message
    assert "no descriptor ships with sn9reg" in message
    assert "--matcher-option weights=FILE" in message
    module, recipe = message.split("python -m ")[1].split(",")[0].split()
    root = Path(__file__).parents[2]
    assert (root / recipe).is_file()
    assert (root / f"{module.replace('.', '/')}.py").is_file()


def test_a_descriptor_ships_with_weights_or_not_at_all():
    if "descriptors" not in manifest():
        with pytest.raises(InputError, match="no descriptor ships"):
            load_descriptor()
        return
    network, architecture = load_descriptor()
    assert network.side == architecture.patch.side


def test_a_descriptor_that_ships_is_checked_against_its_card(stored, tmp_path, monkeypatch):
    content = stored["patch descriptor"].read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content)
    card = {"file": "w.safetensors", "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"descriptors": card}))
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    assert load_descriptor()[1] == KINDS["patch descriptor"]
    (tmp_path / "w.safetensors").write_bytes(content[:-2] + b"xx")
    with pytest.raises(InputError, match=r"w\.safetensors: its checksum.*install sn9reg again"):
        load_descriptor()
