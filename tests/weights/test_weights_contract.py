"""weights: every family's files come back as they were saved, anything else is refused in one line and never run."""

import hashlib
import io
import itertools
import json
import pickle
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialised
from support.networks import SIMILARITY, untrained
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster
from torch import nn

from sn9reg.cli import main
from sn9reg.errors import InputError, OutputError
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.base import make_matcher, matcher_class
from sn9reg.matchers.dense import weights as dense
from sn9reg.matchers.dense.networks.table import NETWORKS
from sn9reg.matchers.dense.weights import DenseOptions
from sn9reg.matchers.descriptors import network as descriptors
from sn9reg.matchers.descriptors.network import DescriptorOptions
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.matchers.dual_encoder import network as dual
from sn9reg.matchers.dual_encoder.network import DualOptions
from sn9reg.matchers.keypoints import network as keypoints
from sn9reg.matchers.keypoints.network import DetectorOptions
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
    *(("dense", DenseOptions(name, False, SIMILARITY[name])) for name in NETWORKS),
    ("dense", DenseOptions("slim-unet", False, "zncc", {"widths": [8], "weighted": True, "features": 3, "fold": 2})),
    ("keypoints", DetectorOptions("optical", DETECTOR | {"similarity": [1, 2]})),
    ("descriptors", DescriptorOptions(PatchLayout(32, 1.0, "energy"), SMALL | {"attention": False})),
    ("descriptors", DescriptorOptions(PatchLayout(64, 1.5, "grey"), SMALL | {"cells": 4})),
    ("dual-encoder", DualOptions(aleatoric=False, dropout=0.5)),
    ("dual-encoder", DualOptions(dropout=0.0, structure=True)),
]


def settled(module, options):
    """A network whose numbers are not those of the start."""
    torch.manual_seed(3)
    network = module.build(asdict(options))
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
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


def header(family, **change):
    module, options, _ = FAMILIES[family]
    return json.dumps({"kind": module.KIND, "options": asdict(options) | change})


@pytest.fixture
def headed(stored, tmp_path):
    """(header, family, tensors) -> a file; by default of the family's tensors."""

    def write(header, family="dense", state=None):
        path = tmp_path / "w.safetensors"
        save_file(load_file(stored[family]) if state is None else state, path, metadata={"sn9reg": header})
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


@pytest.mark.parametrize(("family", "options"), [*((f, FAMILIES[f][1]) for f in FAMILIES), *MORE], ids=str)
def test_a_network_survives_in_half_precision(family, options, tmp_path):
    module = FAMILIES[family][0]
    network = settled(module, options)
    path = save(module, tmp_path / "w.safetensors", network, options)
    loaded, read = load(module, path)
    assert {v.dtype for key, v in load_file(path).items() if "num_batches" not in key} == {torch.float16}
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


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def spoilt(good, trap):
    """Part of the message -> the contents of files that are refused with it."""
    whole, random = good.read_bytes(), np.random.default_rng(0)
    start = 8 + int.from_bytes(whole[:8], "little")
    lengths = (0, 1, 7, 8, 9, start - 1, start, start + 1, len(whole) // 2, len(whole) - 1)
    pickled = [pickle.dumps(trap, protocol) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for zipped in (True, False):
        torch.save({"state": trap}, file := io.BytesIO(), _use_new_zipfile_serialization=zipped)
        pickled.append(file.getvalue())
    others = [whole + b"x", b"\x01" + random.bytes(5000), b"weights\n" * 100, pickle.dumps(trap, 0)]
    return {
        "can run code": pickled,
        "no whole safetensors file": [*(whole[:length] for length in lengths), *others],
        "does not say which network": [serialised(load_file(good), data) for data in (None, {"format": "pt"})],
    }


def test_what_is_no_weights_file_is_refused_and_not_run(stored, tmp_path, tmp_path_factory, monkeypatch):
    """By `load`, and by the command line, which writes nothing then."""
    folder = tmp_path_factory.mktemp("bad")
    trap, good = Trap(folder / "mark"), stored["dense"]
    found = [(folder / "missing.safetensors", "no such file"), (folder, "cannot be read")]
    cases = [(".safetensors", part, content) for part, contents in spoilt(good, trap).items() for content in contents]
    cases += [(suffix, "can run code", good.read_bytes()) for suffix in (".pt", ".pth", ".ckpt")]
    for suffix, part, content in cases:
        found.append((folder / f"{len(found)}{suffix}", part))
        found[-1][0].write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for name, image in zip("os", textures(80, 80), strict=True):
        write_raster(f"{name}.tif", image[None], TEXTURE_TRANSFORM, UTM)
    for path, part in found:
        assert part in refusal(lambda path=path: load(dense, path), path)
        arguments = ["align", "o.tif", "s.tif", "--out", "x.tif", "--matcher", "mcgf"]
        result = CliRunner().invoke(main, [*arguments, "--matcher-option", f"weights={path}"])
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1), path
        assert result.stderr.startswith(f"sn9reg: {path}: ")
        assert part in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.tif", "s.tif"]
    assert not trap.mark.exists()
    pickle.loads(pickle.dumps(trap))  # the trap does work
    assert trap.mark.exists()


HEADERS = {
    "no JSON": ("{'kind': 'dense network'", "Expecting property name"),
    "a list": ("[1, 2]", "cannot convert"),
    "too deep": ("[" * 200_000, "recursion"),
    "without a kind": ('{"options": {}}', "kind is missing"),
    "options that are none": ('{"kind": "dense network", "options": 7}', "options is 7"),
    "with more": ('{"kind": "dense network", "options": {}, "colour": 1}', "there is no option colour"),
}
OPTIONS = [
    ("dense", {"network": "sfcnet"}, "there is no network 'sfcnet'"),
    ("dense", {"network": ["mcgf"]}, "network is ['mcgf']"),
    ("dense", {"options": {"depth": 5}}, "there is no option depth"),
    ("dense", {"similarity": "mi"}, "similarity is 'mi'"),
    ("keypoints", {"finds": "both"}, "finds is 'both'"),
    ("keypoints", {"options": DETECTOR | {"colour": 1}}, "there is no option colour; there are: optical_encoder"),
    ("keypoints", {"options": DETECTOR | {"decoder": [4]}}, "as many decoder widths"),
    ("descriptors", {"patch": {"side": 4}}, "patch.side is 4"),
    ("descriptors", {"patch": {"side": 32, "colour": 1}}, "there is no option patch.colour"),
    ("descriptors", {"network": SMALL | {"in_channels": 3}}, "no option in_channels; there are: backbone, width"),
    ("descriptors", {"patch": {"side": 40}}, "side is 40, must be a multiple of 32"),
    ("dual-encoder", {"dropout": 5.1}, "dropout is 5.1"),
    ("dual-encoder", {"colour": "blue"}, "there is no option colour"),
]
OTHERS = [
    ("dense", {"network": "osmnet"}, "Missing key"),
    ("dense", {"shared": False}, "branches.sar"),
    ("keypoints", {"options": DETECTOR | {"similarity": [2]}}, "similarity.2.scale"),
    ("descriptors", {"patch": {"side": 32, "inputs": "energy"}}, "stem.weight"),
    ("dual-encoder", {"aleatoric": False}, "Unexpected key"),
]


@pytest.mark.parametrize(("content", "part"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_none_is_refused(content, part, headed):
    path = headed(content)
    message = refusal(lambda: load(dense, path), path)
    assert "its header is not one that this version knows" in message
    assert part in message


@pytest.mark.parametrize(("family", "change", "part"), [*OPTIONS, *OTHERS], ids=str)
def test_options_and_tensors_that_do_not_fit_are_refused(family, change, part, headed):
    module, path = FAMILIES[family][0], headed(header(family, **change), family)
    message = refusal(lambda: load(module, path), path)
    known = (family, change, part) in OTHERS
    assert (f"holds no weights of the {module.KIND}" if known else "its header is not one that this") in message
    assert part in message


@pytest.mark.parametrize(
    ("value", "part"),
    [(None, "Missing key"), (torch.zeros(7, 3), "size mismatch"), (torch.nan, "not finite"), (1e300, "not finite")],
    ids=["none", "shape", "nan", "overflow"],
)
def test_one_bad_tensor_is_refused(value, part, stored, headed):
    state = load_file(stored["dense"])
    first = next(key for key in sorted(state) if key.endswith("weight"))
    tensor = state.pop(first)
    if value is not None:
        state[first] = value if isinstance(value, torch.Tensor) else torch.full(tensor.shape, value, dtype=torch.double)
    path = headed(header("dense"), "dense", state)
    assert part in refusal(lambda: load(dense, path), path)


@pytest.mark.parametrize(("family", "held"), list(itertools.permutations(FAMILIES, 2)))
def test_each_kind_is_told_from_the_others(family, held, stored):
    (module, _, (name, given)), path = FAMILIES[family], stored[held]
    says = f"{path}: holds a {FAMILIES[held][0].KIND}, not a {module.KIND}"
    assert refusal(lambda: load(module, path), path) == says
    assert refusal(lambda: make_matcher(name, **dict.fromkeys(given, str(path))), path) == says


def test_a_detector_of_the_other_modality_is_refused(stored):
    path = stored["keypoints"]
    message = refusal(lambda: keypoints.load_detector("optical", path), path)
    assert message.endswith("holds a detector of sar keypoints, not of optical ones")


def test_a_file_that_begins_as_a_pickle_does_is_told_by_what_is_in_it(headed):
    # A file begins with its header's length, here made to end in 0x80; a pickle begins with that.
    for blank in range(300):
        path = headed(header("dense") + " " * blank)
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == b"\x80"
    load(dense, path)


def test_a_file_that_must_not_be_read_is_refused(stored, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert "cannot be read (Permission denied)" in refusal(lambda: load(dense, stored["dense"]), stored["dense"])


SHIPPED = {
    **{name: lambda name=name: dense.load_dense(None, name) for name in NETWORKS},
    **{f"keypoints-{finds}": lambda finds=finds: keypoints.load_detector(finds) for finds in ("optical", "sar")},
    "descriptors": descriptors.load_descriptor,
    "dual-encoder": dual.load_dual_encoder,
}
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


def test_weights_that_ship_are_checked_against_their_card(stored, tmp_path, monkeypatch):
    content, path = stored["dense"].read_bytes(), tmp_path / "w.safetensors"
    path.write_bytes(content)
    card = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"mcgf": card}))
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    SHIPPED["mcgf"]()
    path.write_bytes(content[:-2] + b"xx")
    assert "its checksum is not that of the manifest" in refusal(SHIPPED["mcgf"], path)
