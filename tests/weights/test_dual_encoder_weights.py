"""weights.store, dual encoders: what is saved comes back, other kinds and damaged files are refused in one line."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.networks import untrained
from torch import nn

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.matchers.dual_encoder.network import DualEncoder
from sn9reg.weights import store
from sn9reg.weights.store import (
    Architecture,
    DescriptorArchitecture,
    DualArchitecture,
    load_descriptor,
    load_dual_encoder,
    load_weights,
    manifest,
    save_weights,
)

PAPER = {"aleatoric": True, "dropout": 1.0, "structure": False}
OTHERS = {
    "dense network": (Architecture("mcgf", True), "network mcgf"),
    "patch descriptor": (
        DescriptorArchitecture(PatchLayout(32, 2.0, "grey"), {"width": 0.35, "descriptor": 16}),
        "patch descriptor",
    ),
}
ARCHITECTURES = {
    "paper": DualArchitecture(),
    "structure": DualArchitecture(structure=True),
    "no data uncertainty": DualArchitecture(aleatoric=False, dropout=0.5),
    "no dropout": DualArchitecture(dropout=0, structure=True),
}


def settled(architecture):
    """A network whose batch normalisations are those of a trained one."""
    torch.manual_seed(3)
    network = architecture.build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A file of a dual encoder as in the paper, and the network."""
    path = tmp_path_factory.mktemp("dual") / "w.safetensors"
    network = settled(DualArchitecture())
    save_weights(path, network, DualArchitecture())
    return path, network


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Kind -> a file of it that nobody trained."""
    folder, paths = tmp_path_factory.mktemp("kinds"), {}
    for kind, (architecture, _) in OTHERS.items():
        paths[kind] = folder / f"{kind}.safetensors"
        network = untrained("mcgf") if kind == "dense network" else architecture.build()
        save_weights(paths[kind], network, architecture)
    return paths


@pytest.fixture
def rewritten(stored, tmp_path):
    """The good file with another header or other tensors, and its path."""

    def write(content=None, change=lambda state: state, raw=None):
        path = tmp_path / "w.safetensors"
        content = PAPER | content if isinstance(content, dict) else content or PAPER
        header = json.dumps(content) if raw is None else raw
        save_file(change(load_file(stored[0])), path, metadata={"sn9reg": header})
        return path

    return write


def refusal(path):
    """What `load_dual_encoder` says, in one line."""
    with pytest.raises(InputError) as caught:
        load_dual_encoder(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 320
    return message


# --- what is saved comes back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_dual_encoder_survives_in_half_precision(architecture, tmp_path):
    network, path = settled(architecture), tmp_path / "w.safetensors"
    save_weights(path, network, architecture)
    loaded, read = load_weights(path, kind=DualArchitecture)
    assert read == architecture
    assert isinstance(loaded, DualEncoder)
    assert not loaded.training
    assert loaded.aleatoric is architecture.aleatoric
    assert (loaded.structure is not None) is architecture.structure
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        rounded = value.half().float() if value.is_floating_point() else value
        assert loaded.state_dict()[key].equal(rounded), key
    drops = [[m.p for m in n.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)] for n in (loaded, network)]
    assert drops[0] == drops[1]


@pytest.mark.parametrize("modality", ["optical", "sar"])
def test_a_loaded_dual_encoder_sees_as_it_did(modality, stored):
    path, network = stored
    loaded = load_dual_encoder(path)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3 if modality == "optical" else 1, 64, 64, generator=generator)
    with torch.no_grad():
        one, other = loaded(image, modality), network(image, modality)
    assert (one.embedding * other.embedding).sum(dim=1).min() > 0.999
    torch.testing.assert_close(one.uncertainty, other.uncertainty, atol=5e-3, rtol=0)


def test_a_file_holds_half_precision_alone_and_what_the_network_says_of_its_kind(stored):
    state = load_file(stored[0])
    assert {value.dtype for key, value in state.items() if "num_batches" not in key} == {torch.float16}
    assert stored[0].stat().st_size < 15e6
    assert DualArchitecture().kind == "dual encoder"


# --- other kinds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", OTHERS)
def test_other_weights_are_no_dual_encoder(held, others):
    assert refusal(others[held]) == f"{others[held]}: holds a {OTHERS[held][1]}, not a dual encoder"


def test_a_dual_encoder_is_nothing_else(stored):
    path, _ = stored
    with pytest.raises(InputError) as caught:
        load_descriptor(path)
    assert str(caught.value) == f"{path}: holds a dual encoder, not a patch descriptor"
    with pytest.raises(InputError) as caught:
        load_weights(path)
    assert str(caught.value) == f"{path}: holds a dual encoder, not a dense network"


def test_matchers_refuse_what_is_not_theirs(stored, others):
    with pytest.raises(InputError, match="holds a dual encoder, not a dense network"):
        make_matcher("mcgf", weights=str(stored[0]))
    with pytest.raises(InputError, match="holds a patch descriptor, not a dual encoder"):
        make_matcher("dual-encoder", weights=str(others["patch descriptor"]))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"aleatoric": 1},
        {"aleatoric": "yes"},
        {"structure": None},
        {"structure": 0},
        {"dropout": -0.1},
        {"dropout": 5.1},
        {"dropout": float("nan")},
        {"dropout": float("inf")},
        {"dropout": "1"},
        {"dropout": None},
        {"dropout": [1]},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, rewritten):
    with pytest.raises(ConfigError, match="there is no dual encoder with "):
        DualArchitecture(**options).build()
    message = refusal(rewritten(options))
    assert "its header is not one that this version knows" in message
    assert "there is no dual encoder with " in message


HEADERS = {
    "with more": ('{"aleatoric": true, "dropout": 1, "structure": false, "colour": "blue"}', "colour"),
    "of something else": ('{"teeth": 32}', "teeth"),
    "a list": ("[true, 1.0, false]", "list"),
    "a number": ("7", "int"),
    "nothing": ("null", "NoneType"),
    "no JSON": ("aleatoric", "Expecting value"),
    "empty": ("", "Expecting value"),
    "deep": ("[" * 100_000, "recursion"),
}


@pytest.mark.parametrize(("raw", "part"), HEADERS.values(), ids=HEADERS)
def test_a_header_of_no_dual_encoder_is_refused(raw, part, rewritten):
    message = refusal(rewritten(raw=raw))
    assert "its header is not one that this version knows" in message
    assert part in message


def test_a_file_without_a_header_is_refused(stored, tmp_path):
    save_file(load_file(stored[0]), tmp_path / "w.safetensors")
    assert "does not say which network it is for" in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("content", "part"),
    [({"structure": True}, "structure.lift.weight"), ({"aleatoric": False}, "Unexpected key")],
    ids=str,
)
def test_weights_of_another_dual_encoder_say_what_does_not_fit(content, part, rewritten):
    message = refusal(rewritten(content))
    assert "holds no weights of the dual encoder" in message
    assert part in message


BIAS = "project.sar.3.bias"
STATES = {
    "one tensor short": (lambda s: {k: v for k, v in s.items() if k != BIAS}, BIAS),
    "one too many": (lambda s: s | {"extra": torch.zeros(2)}, "extra"),
    "another shape": (lambda s: s | {BIAS: torch.zeros(7)}, f"size mismatch for {BIAS}"),
    "empty": (lambda s: {}, "Missing"),
    "a NaN": (lambda s: s | {BIAS: torch.full((128,), torch.nan)}, "not finite"),
    "an infinity": (lambda s: s | {"log_variance": torch.full((2,), torch.inf)}, "not finite"),
}


@pytest.mark.parametrize(("change", "part"), STATES.values(), ids=STATES)
def test_tensors_that_are_not_those_of_the_network_are_refused(change, part, rewritten):
    assert part in refusal(rewritten(change=change))


def test_a_damaged_file_is_refused(stored, tmp_path):
    whole, path = stored[0].read_bytes(), tmp_path / "w.safetensors"
    for damaged in (b"", whole[:9], whole[: len(whole) // 2], whole[:-1], whole + b"x", b"weights\n" * 100):
        path.write_bytes(damaged)
        assert "is no whole safetensors file" in refusal(path)


def test_a_missing_file_and_a_folder_are_said(tmp_path):
    assert refusal(tmp_path / "none.safetensors").endswith("no such weights file")
    assert refusal(tmp_path).endswith("no such weights file")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


WRITERS = {
    "torch": lambda trap, path: torch.save({"state": trap}, path),
    "old torch": lambda trap, path: torch.save({"state": trap}, path, _use_new_zipfile_serialization=False),
    "plain": lambda trap, path: path.write_bytes(pickle.dumps({"state": trap})),
}


@pytest.mark.parametrize("ending", ["safetensors", "pt", "ckpt"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_pickled_dual_encoder_is_refused_and_not_run(write, ending, tmp_path):
    path = tmp_path / f"w.{ending}"
    write(Trap(tmp_path / "mark"), path)
    assert "pickled weights can run code and are refused" in refusal(path)
    assert not (tmp_path / "mark").exists()


# --- what ships ------------------------------------------------------------------------------------------------------


def test_a_dual_encoder_that_does_not_ship_says_how_to_train_one(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    with pytest.raises(InputError) as caught:
        load_dual_encoder()
    message = str(caught.value)
    assert "\n" not in message
    assert "no dual encoder ships with sn9reg" in message
    assert "--matcher-option weights=FILE" in message
    module, recipe = message.split("python -m ")[1].split(",")[0].split()
    root = Path(__file__).parents[2]
    assert (root / recipe).is_file()
    assert (root / f"{module.replace('.', '/')}.py").is_file()


def test_a_dual_encoder_ships_with_weights_or_not_at_all():
    if "dual-encoder" not in manifest():
        with pytest.raises(InputError, match="no dual encoder ships"):
            load_dual_encoder()
        return
    assert not load_dual_encoder().training


def test_a_dual_encoder_that_ships_is_checked_against_its_card(stored, tmp_path, monkeypatch):
    content = stored[0].read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content)
    card = {"file": "w.safetensors", "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"dual-encoder": card}))
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    assert isinstance(load_dual_encoder(), DualEncoder)
    (tmp_path / "w.safetensors").write_bytes(content[:-2] + b"xx")
    with pytest.raises(InputError, match=r"w\.safetensors: its checksum.*install sn9reg again"):
        load_dual_encoder()
