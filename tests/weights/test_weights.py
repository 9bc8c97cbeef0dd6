"""weights.store: what is saved comes back, what is no such file is refused in one line and never run, what ships has
its card."""

from __future__ import annotations

import hashlib
import json
import pickle
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

from sn9reg.cli import main
from sn9reg.errors import InputError, OutputError
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.base import make_matcher, matcher_classes
from sn9reg.matchers.dense.networks.table import NETWORKS, build
from sn9reg.matchers.keypoints.network import HeatmapUNet
from sn9reg.weights import store
from sn9reg.weights.store import (
    Architecture,
    DetectorArchitecture,
    load_weights,
    manifest,
    save_weights,
    shipped,
    shipped_detector,
)

# --- what is saved comes back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_survives_in_half_precision(name, shared, tmp_path):
    network = untrained(name, shared)
    saved = Architecture(name, shared, SIMILARITY[name])
    save_weights(tmp_path / "w.safetensors", network, saved)
    loaded, architecture = load_weights(tmp_path / "w.safetensors")
    assert architecture == saved
    assert loaded.shared is shared
    assert not loaded.training
    state, expected = loaded.state_dict(), network.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert state[key].dtype == value.dtype, key
        rounded = value.half().float() if value.dtype.is_floating_point else value
        assert torch.equal(state[key], rounded), key


def test_a_file_holds_half_precision_alone(random_weights):
    stored = load_file(random_weights("mcgf"))
    assert {value.dtype for key, value in stored.items() if "num_batches" not in key} == {torch.float16}
    parameters = sum(value.numel() for value in stored.values())
    assert random_weights("mcgf").stat().st_size < 2 * parameters + 10_000


def test_options_of_the_network_are_kept(tmp_path):
    saved = Architecture("slim-unet", False, "zncc", {"widths": [8, 8, 16], "out_channels": 3})
    save_weights(tmp_path / "w.safetensors", untrained("slim-unet", False, **saved.options), saved)
    loaded, architecture = load_weights(tmp_path / "w.safetensors")
    assert architecture == saved
    with torch.no_grad():
        assert loaded(torch.zeros(1, 1, 16, 16), "sar").shape == (1, 3, 16, 16)


def test_what_half_precision_cannot_hold_is_kept_whole(tmp_path):
    network = untrained("mcgf")
    variance = network.branches["optical"].fine[0][1].running_var
    variance[0] = 1e6
    save_weights(tmp_path / "w.safetensors", network, Architecture("mcgf", True))
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(loaded.branches["optical"].fine[0][1].running_var, variance)


@pytest.mark.parametrize("error", [SafetensorError("No space left on device"), OSError(28, "No space left on device")])
def test_a_file_is_replaced_whole_or_not_at_all(error, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(path, untrained("mcgf"), Architecture("mcgf", True))
    before = path.read_bytes()

    def broken(state, name, metadata):
        Path(name).write_bytes(b"half")
        raise error

    monkeypatch.setattr(store, "save_file", broken)
    with pytest.raises(OutputError, match=r"w\.safetensors: cannot be written.*No space left"):
        save_weights(path, untrained("mcgf", False), Architecture("mcgf", False))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_folder_that_is_not_there_cannot_be_written_to(tmp_path):
    with pytest.raises(OutputError, match="missing"):
        save_weights(tmp_path / "missing" / "w.safetensors", untrained("mcgf"), Architecture("mcgf", True))


# --- what is refused -------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def header(**changes):
    """A header, with changes; None takes a key out."""
    content = {"network": "mcgf", "shared": True, "similarity": "cc", "options": {}} | changes
    return json.dumps({key: value for key, value in content.items() if value is not None})


def rewritten(path, source, metadata, change=lambda state: state):
    """The tensors of a weights file, changed, under another header."""
    save_file(change(load_file(source)), path, metadata=metadata)


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


FIRST = "branches.optical.fine.0.0.weight"
HEADERS = {
    "of an unknown network": (header(network="sfcnet"), "there is no network 'sfcnet'"),
    "of a network that is no name": (header(network=["mcgf"]), "header"),
    "of an unknown option": (header(options={"depth": 5}), "has no option depth"),
    "with options that are none": (header(options=7), "header"),
    "of an unknown similarity": (header(similarity="mi"), "no similarity 'mi'"),
    "with an unknown key": (header(colour="blue"), "colour"),
    "without a network": (header(network=None), "network"),
    "that is no JSON": ("{'network': 'mcgf'", "header"),
    "that is empty": ("", "header"),
    "that is a list": ("[1, 2]", "header"),
    "that is nothing": ("null", "header"),
    "of too many brackets": ("[" * 200_000, "header"),
}
STATES = {
    "one tensor short": (lambda s: without(s, FIRST), FIRST),
    "with one too many": (lambda s: s | {"extra": torch.zeros(2)}, "extra"),
    "empty": (lambda s: {}, "Missing"),
    "of another shape": (lambda s: s | {FIRST: torch.zeros(32, 9, 5, 5)}, "size mismatch"),
    "with a NaN": (lambda s: s | {FIRST: torch.full_like(s[FIRST], torch.nan)}, "not finite"),
    "with an infinity": (lambda s: s | {FIRST: torch.full_like(s[FIRST], -torch.inf)}, "not finite"),
    "too large for float": (lambda s: s | {FIRST: torch.full(s[FIRST].shape, 1e300, dtype=torch.double)}, "not finite"),
}


@pytest.fixture(scope="module")
def bad(random_weights, tmp_path_factory):
    """What is wrong -> (file, part of the message), and the mark that an unpickled trap would leave."""
    folder = tmp_path_factory.mktemp("bad")
    good, mark = random_weights("mcgf"), folder / "mark"
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
    for seed in range(3):
        noise = np.random.default_rng(seed).bytes(5000)
        keep(f"random {seed}", "no whole safetensors file").write_bytes(b"\x01" + noise)
    keep("text", "no whole safetensors file").write_text("weights\n" * 100)
    for zipped in (True, False):
        path = keep(f"of torch, zipped {zipped}", "can run code")
        torch.save({"state": Trap(mark)}, path, _use_new_zipfile_serialization=zipped)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        keep(f"pickle {protocol}", "can run code").write_bytes(pickle.dumps(Trap(mark), protocol))
    for protocol in range(2):
        keep(f"pickle {protocol}", "no whole safetensors file").write_bytes(pickle.dumps(Trap(mark), protocol))
    for suffix in (".pt", ".pth", ".ckpt"):
        path = found[suffix] = (folder / f"good{suffix}", "can run code")
        path[0].write_bytes(whole)
    for metadata in (None, {"format": "pt"}):
        rewritten(keep(f"with metadata {metadata}", "does not say which network"), good, metadata)
    for what, (content, part) in HEADERS.items():
        rewritten(keep(f"header {what}", part), good, {"sn9reg": content})
    for what, (change, part) in STATES.items():
        rewritten(keep(f"state {what}", part), good, {"sn9reg": header()}, change)
    rewritten(keep("state of osmnet", "no weights of the network mcgf"), random_weights("osmnet"), {"sn9reg": header()})
    rewritten(keep("Siamese as pseudo", "no weights of the network mcgf"), good, {"sn9reg": header(shared=False)})
    return found, mark


def test_what_is_no_weights_file_is_refused_in_one_line_and_not_run(bad):
    found, mark = bad
    for what, (path, part) in found.items():
        with pytest.raises(InputError) as caught:
            load_weights(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: "), what
        assert part in message, what
        assert "\n" not in message, what
        assert len(message) < len(str(path)) + 320, what
    assert not mark.exists()
    pickle.loads(found["pickle 2"][0].read_bytes())  # the trap does work
    assert mark.exists()
    mark.unlink()


def test_align_says_so_in_one_line_and_writes_nothing(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, image in zip("os", textures(80, 80), strict=True):
        write_raster(f"{name}.tif", image[None], TEXTURE_TRANSFORM, UTM)
    for what, (path, part) in bad[0].items():
        arguments = ["align", "o.tif", "s.tif", "--out", "x.tif", "--tiepoints-out", "m.csv", "--matcher", "mcgf"]
        result = CliRunner().invoke(main, [*arguments, "--matcher-option", f"weights={path}"])
        assert result.exit_code == 1, what
        assert isinstance(result.exception, SystemExit), what
        assert result.stderr.count("\n") == 1, what
        assert result.stderr.startswith(f"sn9reg: {path}: "), what
        assert " ".join(part.split()) in result.stderr, what
        assert result.stdout == "", what
        assert sorted(p.name for p in tmp_path.iterdir()) == ["o.tif", "s.tif"], what
    assert not bad[1].exists()


def test_another_checksum_is_refused(random_weights):
    path = random_weights("mcgf")
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_weights(path, right)[1].network == "mcgf"
    with pytest.raises(InputError, match="checksum is not that of the manifest"):
        load_weights(path, right[::-1])


def test_a_file_that_must_not_be_read_is_refused(random_weights, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"mcgf\.safetensors: cannot be read \(Permission denied\)"):
        load_weights(random_weights("mcgf"))


# --- what ships ------------------------------------------------------------------------------------------------------

CARD = {"file", "sha256", "data", "licences", "recipe", "seed", "commit", "measured"}
MEGABYTE = 1_000_000


def complaints(folder):
    """What is wrong with a folder of weights and their manifest."""
    cards = json.loads((folder / "manifest.json").read_text())
    there = {path.name: path for path in folder.glob("*.safetensors")}
    found = [f"{name} stands in no card" for name in sorted(there.keys() - {c.get("file") for c in cards.values()})]
    for network, card in cards.items():
        if lacking := sorted(CARD - card.keys()):
            found.append(f"{network} lacks {', '.join(lacking)}")
        if network not in (*NETWORKS, "keypoints-optical", "keypoints-sar", "descriptors", "dual-encoder"):
            found.append(f"{network} is no network")
        if card.get("file") not in there:
            found.append(f"{network} has no file")
        elif hashlib.sha256(there[card["file"]].read_bytes()).hexdigest() != card.get("sha256"):
            found.append(f"{network} has another checksum")
    if sum(path.stat().st_size for path in there.values()) > 60 * MEGABYTE:
        found.append("all together are too large")
    return found


def test_weights_that_ship_have_cards_and_are_small():
    folder = Path(str(files("sn9reg.weights")))
    assert complaints(folder) == []
    network = getattr(matcher_classes()[DEFAULT_MATCHER], "network", None)
    if network is not None:
        assert (folder / manifest()[network]["file"]).stat().st_size <= 5 * MEGABYTE


def test_cards_that_are_wrong_are_found(random_weights, tmp_path):
    """Else the test above would say nothing while little ships."""
    content = random_weights("mcgf").read_bytes()
    for name in ("mcgf", "orphan", "osmnet"):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    card = dict.fromkeys(CARD, "") | {"file": "mcgf.safetensors", "sha256": hashlib.sha256(content).hexdigest()}
    cards = {
        "mcgf": card,
        "osmnet": card | {"file": "osmnet.safetensors", "sha256": "0"},
        "fft-unet": {k: v for k, v in card.items() if k not in ("licences", "seed")} | {"file": "gone.safetensors"},
        "sfcnet": card,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(cards))
    with (tmp_path / "orphan.safetensors").open("ab") as file:
        file.truncate(61 * MEGABYTE)
    assert complaints(tmp_path) == [
        "orphan.safetensors stands in no card",
        "osmnet has another checksum",
        "fft-unet lacks licences, seed",
        "fft-unet has no file",
        "sfcnet is no network",
        "all together are too large",
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_ships_with_weights_or_says_how_to_get_some(name):
    if name in manifest():
        network, architecture = shipped(name)
        assert architecture.network == name
        assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())
        return
    with pytest.raises(InputError) as caught:
        shipped(name)
    message = str(caught.value)
    assert "\n" not in message
    assert f"no weights of {name} ship" in message
    recipe = message.split("pipelines.train_matcher ")[1].split(",")[0]
    assert (Path(__file__).parents[2] / recipe).is_file()
    assert "--matcher-option weights=FILE" in message


def test_shipped_weights_are_checked_against_their_card(random_weights, tmp_path, monkeypatch):
    content = random_weights("osmnet").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content)
    card = {"file": "w.safetensors", "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"osmnet": card}))
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    network, architecture = shipped("osmnet")
    assert architecture == Architecture("osmnet", True, "ssd")
    assert network.state_dict().keys() == build("osmnet", True).state_dict().keys()
    (tmp_path / "w.safetensors").write_bytes(content[:-2] + b"xx")
    with pytest.raises(InputError, match=r"w\.safetensors: its checksum.*install sn9reg again"):
        shipped("osmnet")
    with pytest.raises(InputError, match="no weights of mcgf ship"):
        shipped("mcgf")


# --- keypoint detectors ----------------------------------------------------------------------------------------------

MODALITIES = ("optical", "sar")
DETECTOR = {"optical_encoder": "resnet18", "sar_encoder": "tu-regnetx_002", "depth": 2, "decoder": [4, 4]}


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    """Modality -> the weights file of a detector that nobody trained."""
    folder, files = tmp_path_factory.mktemp("detectors"), {}
    for finds in MODALITIES:
        torch.manual_seed(0)
        files[finds], architecture = folder / f"{finds}.safetensors", DetectorArchitecture(finds, DETECTOR)
        save_weights(files[finds], architecture.build(), architecture)
    return files


def detector_header(**changes):
    return {"sn9reg": json.dumps({"finds": "sar", "options": DETECTOR | changes})}


@pytest.mark.parametrize("finds", MODALITIES)
@pytest.mark.parametrize("similarity", [[], [1, 2]])
def test_a_detector_survives_in_half_precision(finds, similarity, tmp_path):
    torch.manual_seed(0)
    saved = DetectorArchitecture(finds, DETECTOR | {"similarity": similarity})
    network, tiles = saved.build(), torch.randn(2, 2, 1, 32, 32)
    network(*tiles)  # its normalisations are no longer those of the start
    save_weights(tmp_path / "w.safetensors", network, saved)
    loaded, architecture = load_weights(tmp_path / "w.safetensors", kind=DetectorArchitecture)
    assert architecture == saved
    assert isinstance(loaded, HeatmapUNet)
    assert loaded.finds == finds
    assert not loaded.training
    state, expected = loaded.state_dict(), network.state_dict()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert state[key].dtype == value.dtype, key
        assert torch.equal(state[key], value.half().float() if value.dtype.is_floating_point else value), key
    with torch.no_grad():
        torch.testing.assert_close(loaded(*tiles), network.eval()(*tiles), atol=0.01, rtol=0)


def test_a_detector_is_no_dense_network_and_the_other_way_round(detectors, random_weights):
    for path, kind, what in (
        (detectors["sar"], Architecture, "holds a sar keypoint detector, not a dense network"),
        (random_weights("mcgf"), DetectorArchitecture, "holds a network mcgf, not a keypoint detector"),
    ):
        with pytest.raises(InputError) as caught:
            load_weights(path, kind=kind)
        assert str(caught.value) == f"{path}: {what}"


def test_a_file_that_begins_as_a_pickle_does_is_told_by_what_is_in_it(tmp_path):
    options = {"depth": 2, "decoder": [4, 4]}
    network = HeatmapUNet("sar", **options)
    # A file begins with its header's length, here made to end in 0x80; a pickle begins with that.
    for blank in range(200):
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        header = json.dumps({"finds": "sar", "options": options}) + " " * blank
        save_file(state, str(tmp_path / "w.safetensors"), metadata={"sn9reg": header})
        if (tmp_path / "w.safetensors").read_bytes()[:1] == b"\x80":
            break
    assert (tmp_path / "w.safetensors").read_bytes()[:1] == b"\x80"
    load_weights(tmp_path / "w.safetensors", kind=DetectorArchitecture)


@pytest.mark.parametrize("matcher", ["mcgf", "keypoints"])
def test_a_matcher_refuses_weights_of_the_other_kind(matcher, detectors, random_weights):
    if matcher == "keypoints":
        path, options = random_weights("mcgf"), ("sar_weights", "optical_weights")
        given = {name: str(path) for name in options}
    else:
        path = detectors["optical"]
        given = {"weights": str(path)}
    with pytest.raises(InputError, match=rf"{path.name}: holds a (network mcgf|optical keypoint detector), not a "):
        make_matcher(matcher, **given)


def test_a_detector_of_the_other_modality_is_refused(detectors):
    sar, optical = (str(detectors[finds]) for finds in ("sar", "optical"))
    make_matcher("keypoints", sar_weights=sar, optical_weights=optical)
    with pytest.raises(InputError, match=r"optical\.safetensors: holds a detector of optical keypoints, not of sar"):
        make_matcher("keypoints", sar_weights=optical, optical_weights=optical)
    with pytest.raises(InputError, match=r"sar\.safetensors: holds a detector of sar keypoints, not of optical"):
        make_matcher("keypoints", sar_weights=sar, optical_weights=sar)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"optical_encoder": "tu-regnetx_002"}, "optical.model.stem.conv.weight"),
        ({"sar_encoder": "resnet18"}, "sar.conv1.weight"),
        ({"optical_encoder": "resnet34"}, "optical.layer1.2.conv1.weight"),
        ({"decoder": [4, 8]}, "decoder.blocks.1.conv1.0.weight"),
        ({"similarity": [2]}, "similarity.2.scale"),
        ({"depth": 3, "decoder": [4, 4, 4]}, "optical.layer2.0.conv1.weight"),
    ],
)
def test_weights_of_another_detector_say_what_does_not_fit(changes, part, detectors, tmp_path):
    path = tmp_path / "w.safetensors"
    rewritten(path, detectors["sar"], detector_header(**changes))
    with pytest.raises(InputError) as caught:
        load_weights(path, kind=DetectorArchitecture)
    message = str(caught.value)
    assert message.startswith(f"{path}: holds no weights of the sar keypoint detector")
    assert part in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 320


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"finds": "both", "options": DETECTOR}, "finds optical or sar keypoints, not 'both'"),
        ({"finds": ["sar"], "options": DETECTOR}, "finds optical or sar keypoints"),
        ({"options": DETECTOR}, "finds"),
        ({"finds": "sar", "options": 7}, "header"),
        ({"finds": "sar", "options": DETECTOR, "colour": "blue"}, "colour"),
        ({"finds": "sar", "options": DETECTOR | {"colour": "blue"}}, "colour"),
        ({"finds": "sar", "options": DETECTOR | {"decoder": [4]}}, "as many decoder widths"),
        ({"finds": "sar", "options": DETECTOR | {"similarity": [3]}}, "there are 1 to 2"),
        ({"finds": "sar", "options": DETECTOR | {"sar_encoder": "tu-nothing"}}, "no encoder 'tu-nothing'"),
        ({"finds": "sar", "options": DETECTOR | {"optical_encoder": 18}}, "no encoder 18"),
    ],
)
def test_a_header_of_no_detector_is_refused(content, part, detectors, tmp_path):
    path = tmp_path / "w.safetensors"
    rewritten(path, detectors["sar"], {"sn9reg": json.dumps(content)})
    with pytest.raises(InputError) as caught:
        load_weights(path, kind=DetectorArchitecture)
    message = str(caught.value)
    assert message.startswith(f"{path}: its header is not one that this version knows")
    assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_detector_with_weights_that_are_not_finite_is_refused(value, detectors, tmp_path):
    def spoilt(state):
        return state | {"head.0.bias": torch.full_like(state["head.0.bias"], value)}

    rewritten(tmp_path / "w.safetensors", detectors["sar"], detector_header(), spoilt)
    with pytest.raises(InputError, match="not finite"):
        load_weights(tmp_path / "w.safetensors", kind=DetectorArchitecture)


def test_a_pickled_detector_is_refused_and_not_run(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "w.safetensors"
    for options in ({"_use_new_zipfile_serialization": zipped} for zipped in (True, False)):
        torch.save({"state": Trap(mark)}, path, **options)
        for refuse in (
            lambda: load_weights(path, kind=DetectorArchitecture),
            lambda: make_matcher("keypoints", sar_weights=str(path), optical_weights=str(path)),
        ):
            with pytest.raises(InputError, match="pickled weights can run code and are refused"):
                refuse()
    assert not mark.exists()


@pytest.mark.parametrize("finds", MODALITIES)
def test_a_detector_that_does_not_ship_says_how_to_train_one(finds, tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    with pytest.raises(InputError) as caught:
        shipped_detector(finds)
    message = str(caught.value)
    assert "\n" not in message
    assert f"no detector of {finds} keypoints ships with sn9reg" in message
    assert f"--matcher-option {finds}_weights=FILE" in message
    module, recipe, option, value = message.split("python -m ")[1].split(",")[0].split()
    assert (option, value) == ("--finds", finds)
    root = Path(__file__).parents[2]
    assert (root / recipe).is_file()
    assert '"--finds"' in (root / f"{module.replace('.', '/')}.py").read_text()


@pytest.mark.parametrize("finds", MODALITIES)
def test_a_detector_ships_with_weights_or_not_at_all(finds):
    if f"keypoints-{finds}" in manifest():
        network, architecture = shipped_detector(finds)
        assert network.finds == architecture.finds == finds
        return
    with pytest.raises(InputError, match=f"no detector of {finds} keypoints ships"):
        shipped_detector(finds)


def test_a_matcher_without_detectors_says_which_it_lacks(detectors, tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match="no detector of sar keypoints ships"):
        make_matcher("keypoints", optical_weights=str(detectors["optical"]))
    with pytest.raises(InputError, match="no detector of optical keypoints ships"):
        make_matcher("keypoints", sar_weights=str(detectors["sar"]))


def test_a_detector_that_ships_is_checked_against_its_card(detectors, tmp_path, monkeypatch):
    content = detectors["sar"].read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content)
    card = {"file": "w.safetensors", "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"keypoints-sar": card}))
    monkeypatch.setattr(store, "files", lambda package: tmp_path)
    network, architecture = shipped_detector("sar")
    assert architecture == DetectorArchitecture("sar", DETECTOR)
    assert network.finds == "sar"
    (tmp_path / "w.safetensors").write_bytes(content[:-2] + b"xx")
    with pytest.raises(InputError, match=r"w\.safetensors: its checksum.*install sn9reg again"):
        shipped_detector("sar")
    with pytest.raises(InputError, match="no detector of optical keypoints ships"):
        shipped_detector("optical")
