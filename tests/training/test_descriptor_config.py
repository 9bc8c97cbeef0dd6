"""training.descriptor_config: YAML files of a descriptor's training."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from sn9reg.training.dataset import Source
from sn9reg.training.descriptor_config import DescriptorConfig

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.training.config import as_dict, read_as, read_config
from sn9reg.training.sample import Photometry
from sn9reg.weights.store import DescriptorArchitecture

ALL = sorted((Path(__file__).parents[2] / "pipelines" / "training").glob("*.yaml"))
FILES = [path for path in ALL if "patch" in yaml.safe_load(path.read_text())]
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.fixture
def config_file(tmp_path):
    """Writes a text after what every configuration needs."""

    def write(text, before="sources: [{folder: some/where}]\n"):
        path = tmp_path / "run.yaml"
        path.write_text(before + text)
        return path

    return write


def read(path):
    return read_as(path, DescriptorConfig)


def test_there_are_files_to_test():
    assert {"descriptors", "attention-descriptors"} <= {path.stem for path in FILES}


@every_file
def test_every_file_that_ships_is_read_and_survives_being_written(path, config_file):
    content, config = yaml.safe_load(path.read_text()), read(path)
    assert [source.folder for source in config.sources] == [source["folder"] for source in content["sources"]]
    assert content["patch"].items() <= dataclasses.asdict(config.patch).items()
    assert content.get("photometry", {}).items() <= dataclasses.asdict(config.photometry).items()
    for name in content.keys() - {"sources", "patch", "photometry"}:
        assert getattr(config, name) == content[name], name
    assert read(config_file(yaml.safe_dump(as_dict(config)), before="")) == config


@every_file
def test_every_file_that_ships_describes_a_network_for_its_patches(path):
    config = read(path)
    made = DescriptorArchitecture(config.patch, config.network).build()
    assert (made.side, made.stem.in_channels) == (config.patch.side, config.patch.channels)


@every_file
def test_a_descriptors_file_is_none_of_a_dense_matcher(path):
    with pytest.raises(ConfigError, match=r"knows no .*patch"):
        read_config(path)


def test_the_papers_file_trains_as_the_paper_says():
    """He et al., sections 2.2, 2.3 and 3.1: SEN1-2 cropped to 224 px, batches of 256, Adam at 0.001, and eq. (4)."""
    config = read(next(path for path in FILES if path.stem == "attention-descriptors"))
    assert (config.patch, config.image, config.rim) == (PatchLayout(224, 1.0, "grey"), 224, 111)
    assert (config.batch, config.rate, config.schedule, config.margin) == (256, 1e-3, "constant", 1)
    assert ["sen12" in source.folder for source in config.sources] == [True]
    assert (config.photometry, config.shift, config.turn, config.stretch) == (Photometry(), 0, 0, 0)
    made = DescriptorArchitecture(config.patch, config.network).build()
    assert (made.stem.stride, made.fusion.in_channels, made.fusion.out_channels) == ((2, 2), 320, 256)
    assert made.cells == 0
    assert {name.split(".")[0] for name, _ in made.named_parameters()} >= {"attention", "fusion_norm"}


def test_the_file_of_what_ships_takes_all_of_the_data_that_it_names():
    path = next(path for path in FILES if path.stem == "descriptors")
    folders = [source.folder for source in read(path).sources]
    for named in ("sen12", "3mos", "sentinel_la", "simulated"):
        assert sum(named in folder for folder in folders) == 1, named


def test_defaults_are_the_papers(config_file):
    config = read(config_file(""))
    assert config == DescriptorConfig(sources=(Source("some/where"),))
    assert (config.patch, config.network, config.imagenet) == (PatchLayout(224, 1.0, "grey"), {}, None)
    assert (config.batch, config.rate, config.margin, config.schedule) == (256, 1e-3, 1, "constant")
    assert (config.photometry, config.shift, config.turn, config.stretch) == (Photometry(), 0, 0, 0)


def test_everything_survives_being_written_and_read_again(config_file):
    config = DescriptorConfig(
        sources=(Source("a", zoom=(0.5, 2.0), weight=0.3, held_out=0.1), Source(manifest="e.csv")),
        network={"width": 0.5, "cells": 4, "attention": False},
        patch=PatchLayout(64, 2.0, "both"),
        imagenet="mobilenet.safetensors",
        image=128,
        places=8,
        rim=20,
        apart=6.5,
        corners=0.5,
        shift=1.5,
        turn=8.0,
        stretch=0.1,
        photometry=Photometry(tone=0.1, gain=0.2),
        margin=0.5,
        steps=7,
        batch=64,
        chunk=16,
        rate=1e-2,
        schedule="cosine",
        validate_every=3,
        precision="32-true",
        workers=0,
        seed=3,
    )
    again = read(config_file(yaml.safe_dump(as_dict(config)), before=""))
    assert again == config
    for field in dataclasses.fields(config):
        assert getattr(config, field.name) != field.default, field.name
        assert type(getattr(again, field.name)) is type(getattr(config, field.name)), field.name


def test_the_patch_gives_the_network_its_channels_and_side():
    made = DescriptorArchitecture(PatchLayout(64, 1.0, "energy"), {"width": 0.35}).build()
    assert (made.stem.in_channels, made.side) == (12, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image: 0", "image is 0, must be at least 1"),
        ("places: 0", "places is 0, must be at least 1"),
        ("steps: 0", "steps is 0, must be at least 1"),
        ("validate_every: -3", "validate_every is -3, must be at least 1"),
        ("apart: -1", "apart is -1.0, must not be negative"),
        ("shift: -0.5", "shift is -0.5, must not be negative"),
        ("turn: .inf", "turn is inf, must not be negative"),
        ("stretch: .nan", "stretch is nan, must not be negative"),
        ("chunk: -1", "chunk is -1, must not be negative"),
        ("workers: -1", "workers is -1, must not be negative"),
        ("seed: -1", "seed is -1, must not be negative"),
        ("margin: 0", "margin is 0.0, must be a number above zero"),
        ("rate: -0.1", "rate is -0.1, must be a number above zero"),
        ("rate: .inf", "rate is inf, must be a number above zero"),
        ("rate: .nan", "rate is nan, must be a number above zero"),
        ("corners: 1.1", "corners 1.1 and stretch 0.0 are shares, from 0 to 1"),
        ("corners: -0.1", "corners -0.1 and"),
        ("corners: .nan", "corners nan and"),
        ("stretch: 1", "corners 0.0 and stretch 1.0 are shares"),
        ("batch: 1", "batch is 1, must be at least 2 and a multiple of the 1 places"),
        ("{batch: 10, places: 4}", "batch is 10, must be at least 2 and a multiple of the 4 places"),
        ("seed: 5000000000", "seed is 5000000000, must be below 4294967296"),
        ("rim: 128", "rim is 128, must leave something of the 256 px of an image"),
        ("patch: {side: 4}", "patch: a patch's side is 4, not a whole number from 8 to 1024"),
        ("patch: {scale: 0}", "patch: a patch's scale is 0.0, not a number from 0.1 to 10"),
        ("patch: {inputs: colour}", "patch: inputs: is 'colour', not one of grey, energy, both"),
        ("patch: {colour: 3}", "patch: knows no colour; there are: side, scale, inputs"),
        ("photometry: {tone: much}", "photometry: tone: is 'much', not float"),
        ("steps: 2.5", "steps: is 2.5, not int"),
        ("rate: fast", "rate: is 'fast', not float"),
        ("imagenet: 3", "imagenet: is 3, not str"),
        ("schedule: linear", "schedule: is 'linear', not one of constant, cosine"),
        ("precision: half", "precision: is 'half', not one of auto, 32-true"),
        ("network: mobilenet", "network: is 'mobilenet', not dict"),
        ("epochs: 3", "knows no epochs; there are: sources, network"),
    ],
)
def test_what_is_wrong_is_said_by_file_and_key(config_file, text, message):
    if text.startswith("{"):
        path = config_file(text[:-1] + ", sources: [{folder: some/where}]}", before="")
    else:
        path = config_file(text)
    with pytest.raises(ConfigError, match=re.escape(f"run.yaml: {message}")):
        read(path)


@pytest.mark.parametrize("text", ["sources: []", "sources: [{folder: a, weight: 0}]"])
def test_nothing_to_train_on_is_said(config_file, text):
    with pytest.raises(ConfigError, match=r"run\.yaml: there is nothing to train on: give sources with a weight"):
        read(config_file(text, before=""))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, InputError, r"run\.yaml: cannot be read"),
        ("a: [1", InputError, r"run\.yaml: is not YAML"),
        ("", ConfigError, r"run\.yaml: is None, not a mapping"),
        ("{}", ConfigError, r"run\.yaml: lacks sources"),
        ("sources: [{weight: 1}]", ConfigError, r"run\.yaml: sources\[0\]: a source needs either a folder or"),
    ],
)
def test_files_that_hold_no_configuration(config_file, tmp_path, text, error, message):
    path = tmp_path / "run.yaml" if text is None else config_file(text, before="")
    with pytest.raises(error, match=message):
        read(path)
