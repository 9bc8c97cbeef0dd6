"""weights: every family's files come back as they were saved, anything else is refused in one line and never run."""

import hashlib
import json
import pickle
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from support.networks import SIMILARITY, untrained
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster
from torch import nn

from sn9reg.cli import main
from sn9reg.errors import ConfigError, InputError, OutputError
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.base import make_matcher, matcher_class
from sn9reg.matchers.dense import weights as dense
from sn9reg.matchers.dense.networks.table import NETWORKS
from sn9reg.matchers.dense.weights import DenseOptions
from sn9reg.matchers.descriptors import weights as descriptors
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.matchers.descriptors.weights import DescriptorOptions
from sn9reg.matchers.dual_encoder import weights as dual
from sn9reg.matchers.dual_encoder.weights import DualOptions
from sn9reg.matchers.keypoints import weights as keypoints
from sn9reg.matchers.keypoints.weights import DetectorOptions
from sn9reg.weights import store

ENCODER = "tu-regnetx_002"
DETECTOR = {"optical_encoder": ENCODER, "sar_encoder": ENCODER, "depth": 2, "decoder": [4, 4]}
SMALL = {"width": 0.35, "descriptor": 16}
# Family -> its module, the options of a small network, and how a matcher is given its file.
FAMILIES = {
    "dense": (dense, DenseOptions("mcgf", True), ("mcgf", ("weights",))),
    "keypoints": (keypoints, DetectorOptions("sar", DETECTOR), ("keypoints", ("sar_weights", "optical_weights"))),
    "descriptors": (descriptors, DescriptorOptions(PatchLayout(32, 2.0), SMALL), ("descriptors", ("weights",))),
    "dual-encoder": (dual, DualOptions(), ("dual-encoder", ("weights",))),
}
# Beside these: every family's files with other options.
MORE = [
    *(("dense", DenseOptions(name, shared, SIMILARITY[name])) for name in NETWORKS for shared in (True, False)),
    ("dense", DenseOptions("slim-unet", False, "zncc", {"widths": [8, 8, 16], "out_channels": 3})),
    ("keypoints", DetectorOptions("optical", DETECTOR | {"similarity": [1, 2]})),
    ("descriptors", DescriptorOptions(PatchLayout(32, 1.0, "energy"), SMALL | {"attention": False})),
    ("descriptors", DescriptorOptions(PatchLayout(16, 1.5, "both"), SMALL | {"stem_stride": 1, "cells": 4})),
    ("dual-encoder", DualOptions(aleatoric=False, dropout=0.5)),
    ("dual-encoder", DualOptions(dropout=0.0, structure=True)),
]
every_family = pytest.mark.parametrize("family", FAMILIES)


def settled(module, options):
    """A network whose batch normalisations are not those of the start."""
    torch.manual_seed(3)
    network = module.build(asdict(options))
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.running_mean, std=0.1)
    return network.eval()


def load(module, path):
    return store.load(path, module.KIND, module.build)


def save(module, path, network, options):
    store.save(path, network, module.KIND, asdict(options))
    return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Family -> a file that nobody trained."""
    folder = tmp_path_factory.mktemp("stored")
    return {
        family: save(module, folder / f"{family}.safetensors", settled(module, options), options)
        for family, (module, options, _) in FAMILIES.items()
    }


@pytest.fixture
def changed(stored, tmp_path):
    """(family, changes of its options) -> its tensors under a header with these options."""

    def write(family, change):
        module, options, _ = FAMILIES[family]
        path = tmp_path / "w.safetensors"
        header = json.dumps({"kind": module.KIND, "options": asdict(options) | change})
        save_file(load_file(stored[family]), path, metadata={"sn9reg": header})
        return path

    return write


def refusal(call, path):
    """What it says, in one line."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message


# --- what is saved comes back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "options"), [*((f, FAMILIES[f][1]) for f in FAMILIES), *MORE], ids=str)
def test_a_network_survives_in_half_precision(family, options, tmp_path):
    module = FAMILIES[family][0]
    network = settled(module, options)
    loaded, read = load(module, save(module, tmp_path / "w.safetensors", network, options))
    assert read == json.loads(json.dumps(asdict(options)))
    assert type(loaded) is type(network)
    assert not loaded.training
    state, expected = loaded.state_dict(), network.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert state[key].dtype == value.dtype, key
        assert state[key].equal(value.half().float() if value.is_floating_point() else value), key
    drops = [[m.p for m in n.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)] for n in (loaded, network)]
    assert drops[0] == drops[1]


def test_families_load_their_files_with_their_options(stored):
    assert dense.load_dense(stored["dense"])[1] == FAMILIES["dense"][1]
    assert descriptors.load_descriptor(stored["descriptors"])[1] == FAMILIES["descriptors"][1]
    assert keypoints.load_detector("sar", stored["keypoints"]).finds == "sar"
    assert dual.load_dual_encoder(stored["dual-encoder"]).aleatoric


@every_family
def test_a_file_holds_half_precision_alone(family, stored):
    state = load_file(stored[family])
    assert {value.dtype for key, value in state.items() if "num_batches" not in key} == {torch.float16}


def test_what_half_precision_cannot_hold_is_kept_whole(tmp_path):
    network = untrained("mcgf")
    variance = network.branches["optical"].fine[0][1].running_var
    variance[0] = 1e6
    loaded, _ = load(dense, save(dense, tmp_path / "w.safetensors", network, DenseOptions("mcgf", True)))
    assert torch.equal(loaded.branches["optical"].fine[0][1].running_var, variance)


@pytest.mark.parametrize("error", [SafetensorError("No space left on device"), OSError(28, "No space left on device")])
def test_a_file_is_replaced_whole_or_not_at_all(error, tmp_path, monkeypatch):
    path = save(dense, tmp_path / "w.safetensors", untrained("mcgf"), DenseOptions("mcgf", True))
    before = path.read_bytes()

    def broken(state, name, metadata):
        Path(name).write_bytes(b"half")
        raise error

    monkeypatch.setattr(store, "save_file", broken)
    with pytest.raises(OutputError, match=r"w\.safetensors: cannot be written.*No space left"):
        save(dense, path, untrained("mcgf", False), DenseOptions("mcgf", False))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


# --- what is refused -------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture(scope="module")
def bad(stored, tmp_path_factory):
    """What is wrong -> (file, part of the message), and the mark that an unpickled trap would leave."""
    folder = tmp_path_factory.mktemp("bad")
    good, mark = stored["dense"], folder / "mark"
    whole = good.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    found = {"missing": (folder / "missing.safetensors", "no such weights file"), "a folder": (folder, "no such")}

    def keep(what, part):
        path = folder / f"{len(found)}.safetensors"
        found[what] = (path, part)
        return path

    for length in (0, 1, 7, 8, 9, start - 1, start, start + 1, len(whole) // 2, len(whole) - 1):
        keep(f"cut to {length}", "no whole safetensors file").write_bytes(whole[:length])
    keep("with a tail", "no whole safetensors file").write_bytes(whole + b"x")
    keep("random", "no whole safetensors file").write_bytes(b"\x01" + np.random.default_rng(0).bytes(5000))
    keep("text", "no whole safetensors file").write_text("weights\n" * 100)
    for zipped in (True, False):
        path = keep(f"of torch, zipped {zipped}", "can run code")
        torch.save({"state": Trap(mark)}, path, _use_new_zipfile_serialization=zipped)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        keep(f"pickle {protocol}", "can run code").write_bytes(pickle.dumps(Trap(mark), protocol))
    keep("pickle 0", "no whole safetensors file").write_bytes(pickle.dumps(Trap(mark), 0))
    for suffix in (".pt", ".pth", ".ckpt"):
        path = found[suffix] = (folder / f"good{suffix}", "can run code")
        path[0].write_bytes(whole)
    for metadata in (None, {"format": "pt"}):
        path = keep(f"with metadata {metadata}", "does not say which network")
        save_file(load_file(good), path, metadata=metadata)
    return found, mark


def test_what_is_no_weights_file_is_refused_and_not_run(bad, tmp_path, monkeypatch):
    """By `load`, and by the command line, which writes nothing then."""
    found, mark = bad
    monkeypatch.chdir(tmp_path)
    for name, image in zip("os", textures(80, 80), strict=True):
        write_raster(f"{name}.tif", image[None], TEXTURE_TRANSFORM, UTM)
    for what, (path, part) in found.items():
        assert part in refusal(lambda path=path: load(dense, path), path), what
        arguments = ["align", "o.tif", "s.tif", "--out", "x.tif", "--matcher", "mcgf"]
        result = CliRunner().invoke(main, [*arguments, "--matcher-option", f"weights={path}"])
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1), what
        assert result.stderr.startswith(f"sn9reg: {path}: "), what
        assert part in result.stderr, what
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.tif", "s.tif"]
    assert not mark.exists()
    pickle.loads(found["pickle 2"][0].read_bytes())  # the trap does work
    assert mark.exists()
    mark.unlink()


HEADERS = {
    "no JSON": ("{'kind': 'dense network'", "Expecting property name"),
    "empty": ("", "Expecting value"),
    "a list": ("[1, 2]", "a list instead of kind and options"),
    "nothing": ("null", "a NoneType instead of"),
    "too deep": ("[" * 200_000, "recursion"),
    "without a kind": ('{"options": {}}', "kind is missing"),
    "without options": ('{"kind": "dense network"}', "options is missing"),
    "options that are none": ('{"kind": "dense network", "options": 7}', "options is 7"),
    "with more": ('{"kind": "dense network", "options": {}, "colour": 1}', "there is no option colour"),
}
OPTIONS = [
    ("dense", {"network": "sfcnet"}, "there is no network 'sfcnet'"),
    ("dense", {"network": ["mcgf"]}, "network is ['mcgf']"),
    ("dense", {"options": {"depth": 5}}, "there is no option depth"),
    ("dense", {"similarity": "mi"}, "similarity is 'mi'"),
    ("dense", {"shared": None}, "shared is None"),
    ("keypoints", {"finds": "both"}, "finds is 'both'"),
    ("keypoints", {"colour": "blue"}, "there is no option colour"),
    ("keypoints", {"options": DETECTOR | {"colour": 1}}, "there is no option colour; there are: optical_encoder"),
    ("keypoints", {"options": DETECTOR | {"decoder": [4]}}, "as many decoder widths"),
    ("keypoints", {"options": DETECTOR | {"sar_encoder": "tu-nothing"}}, "no encoder 'tu-nothing'"),
    ("descriptors", {"patch": {"side": 4}}, "patch.side is 4"),
    ("descriptors", {"patch": {"side": 32, "colour": 1}}, "there is no option patch.colour"),
    ("descriptors", {"network": SMALL | {"in_channels": 3}}, "no option in_channels; there are: width, stem_stride"),
    ("descriptors", {"patch": {"side": 40}}, "side is 40, must be a multiple of 32"),
    ("dual-encoder", {"aleatoric": 1}, "aleatoric is 1"),
    ("dual-encoder", {"dropout": 5.1}, "dropout is 5.1"),
    ("dual-encoder", {"dropout": float("nan")}, "dropout is nan"),
    ("dual-encoder", {"structure": "yes"}, "structure is 'yes'"),
]
OTHERS = [
    ("dense", {"network": "osmnet"}, "Missing key"),
    ("dense", {"shared": False}, "branches.sar"),
    ("keypoints", {"options": DETECTOR | {"decoder": [4, 8]}}, "decoder.blocks.1.conv1.0.weight"),
    ("keypoints", {"options": DETECTOR | {"similarity": [2]}}, "similarity.2.scale"),
    ("descriptors", {"patch": {"side": 32, "inputs": "energy"}}, "stem.weight"),
    ("descriptors", {"network": SMALL | {"descriptor": 8}}, "fusion"),
    ("dual-encoder", {"structure": True}, "structure.lift.weight"),
    ("dual-encoder", {"aleatoric": False}, "Unexpected key"),
]


@pytest.mark.parametrize(("content", "part"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_none_is_refused(content, part, stored, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(load_file(stored["dense"]), path, metadata={"sn9reg": content})
    message = refusal(lambda: load(dense, path), path)
    assert "its header is not one that this version knows" in message
    assert part in message


@pytest.mark.parametrize(("family", "change", "part"), OPTIONS, ids=str)
def test_options_that_a_network_does_not_have_are_refused(family, change, part, changed):
    module, options, _ = FAMILIES[family]
    with pytest.raises(ConfigError) as caught:
        module.build(asdict(options) | change)
    assert part in str(caught.value)
    path = changed(family, change)
    assert "its header is not one that this version knows" in refusal(lambda: load(module, path), path)


@pytest.mark.parametrize(("family", "change", "part"), OTHERS, ids=str)
def test_tensors_of_another_network_say_what_does_not_fit(family, change, part, changed):
    module, path = FAMILIES[family][0], changed(family, change)
    message = refusal(lambda: load(module, path), path)
    assert f"holds no weights of the {module.KIND}" in message
    assert part in message


@pytest.mark.parametrize(
    ("value", "part"),
    [(None, "Missing key"), (torch.zeros(7, 3), "size mismatch"), (torch.nan, "not finite"), (-torch.inf, "not finite"),
     (1e300, "not finite")], ids=str,
)  # fmt: skip
@every_family
def test_one_bad_tensor_is_refused(family, value, part, changed):
    module, path = FAMILIES[family][0], changed(family, {})
    state = load_file(path)
    first = next(key for key in sorted(state) if key.endswith("weight"))
    tensor = state.pop(first)
    if value is not None:
        state[first] = value if isinstance(value, torch.Tensor) else torch.full(tensor.shape, value, dtype=torch.double)
    header = json.dumps({"kind": module.KIND, "options": asdict(FAMILIES[family][1])})
    save_file(state, path, metadata={"sn9reg": header})
    assert part in refusal(lambda: load(module, path), path)


@pytest.mark.parametrize("held", FAMILIES)
@every_family
def test_each_kind_is_told_from_the_others(family, held, stored):
    (module, _, (name, given)), path = FAMILIES[family], stored[held]
    if held != family:
        says = f"{path}: holds a {FAMILIES[held][0].KIND}, not a {module.KIND}"
        assert refusal(lambda: load(module, path), path) == says
        assert refusal(lambda: make_matcher(name, **dict.fromkeys(given, str(path))), path) == says


def test_a_detector_of_the_other_modality_is_refused(stored):
    path = stored["keypoints"]
    message = refusal(lambda: keypoints.load_detector("optical", path), path)
    assert message.endswith("holds a detector of sar keypoints, not of optical ones")


def test_a_file_that_begins_as_a_pickle_does_is_told_by_what_is_in_it(stored, tmp_path):
    state, path = load_file(stored["dense"]), tmp_path / "w.safetensors"
    # A file begins with its header's length, here made to end in 0x80; a pickle begins with that.
    for blank in range(300):
        header = json.dumps({"kind": dense.KIND, "options": asdict(FAMILIES["dense"][1])}) + " " * blank
        save_file(state, path, metadata={"sn9reg": header})
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == b"\x80"
    load(dense, path)


def test_a_file_that_must_not_be_read_is_refused(stored, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "cannot be read (Permission denied)" in refusal(lambda: load(dense, stored["dense"]), stored["dense"])


# --- what ships ------------------------------------------------------------------------------------------------------

SHIPPED = {
    **{name: lambda name=name: dense.shipped_dense(name) for name in NETWORKS},
    **{f"keypoints-{finds}": lambda finds=finds: keypoints.load_detector(finds) for finds in ("optical", "sar")},
    "descriptors": descriptors.load_descriptor,
    "dual-encoder": dual.load_dual_encoder,
}
FILES = {"mcgf": "dense", "keypoints-sar": "keypoints", "descriptors": "descriptors", "dual-encoder": "dual-encoder"}
CARD = {"file", "sha256", "data", "licences", "recipe", "seed", "commit", "measured"}
MEGABYTE = 1_000_000


def test_weights_that_ship_have_cards_and_are_small():
    folder, cards = Path(str(files("sn9reg.weights"))), store.manifest()
    assert {card["file"] for card in cards.values()} == {path.name for path in folder.glob("*.safetensors")}
    assert cards.keys() <= SHIPPED.keys()
    assert all(card.keys() >= CARD for card in cards.values())
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 60 * MEGABYTE
    assert (folder / cards[matcher_class(DEFAULT_MATCHER).network]["file"]).stat().st_size <= 5 * MEGABYTE


@pytest.mark.parametrize("name", store.manifest())
def test_what_ships_can_be_loaded(name):
    SHIPPED[name]()  # its checksum is that of its card


@pytest.mark.parametrize("name", SHIPPED)
def test_what_does_not_ship_says_how_to_train_it(name, tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match=f"no weights of {name} ship") as caught:
        SHIPPED[name]()
    message = str(caught.value)
    module, recipe, *others = message.split("python -m ")[1].split(",")[0].split()
    assert module == "pipelines.train"
    assert (Path(__file__).parents[2] / recipe).is_file()
    finds = name.partition("keypoints-")[2]
    assert others == (["--set", f"finds={finds}"] if finds else [])
    assert f"--matcher-option {finds + '_' if finds else ''}weights=FILE" in message


@pytest.mark.parametrize("name", FILES)
def test_weights_that_ship_are_checked_against_their_card(name, stored, tmp_path, monkeypatch):
    content, path = stored[FILES[name]].read_bytes(), tmp_path / "w.safetensors"
    path.write_bytes(content)
    card = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({name: card}))
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    SHIPPED[name]()
    path.write_bytes(content[:-2] + b"xx")
    assert "its checksum is not that of the manifest" in refusal(SHIPPED[name], path)
