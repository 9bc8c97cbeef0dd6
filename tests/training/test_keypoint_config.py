"""training.keypoint_config: YAML files of the keypoint detectors' training."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.keypoints.network import HeatmapUNet
from sn9reg.training.config import as_dict, read_as, read_config
from sn9reg.training.dataset import Source
from sn9reg.training.displaced import Displacement
from sn9reg.training.keypoint_config import KeypointConfig
from sn9reg.training.sample import Photometry

ALL = sorted((Path(__file__).parents[2] / "pipelines" / "training").glob("*.yaml"))
FILES = [path for path in ALL if "scenes" in yaml.safe_load(path.read_text())]


@pytest.fixture
def config_file(tmp_path):
    """Writes a text after what every configuration needs."""

    def write(text, before="scenes: [some/where]\n"):
        path = tmp_path / "run.yaml"
        path.write_text(before + text)
        return path

    return write


def read(path):
    return read_as(path, KeypointConfig)


def test_there_are_files_to_test():
    assert {"keypoints", "sn9-baseline"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_that_ships_is_read_and_survives_being_written(path, config_file):
    content, config = yaml.safe_load(path.read_text()), read(path)
    assert list(config.scenes) == content.get("scenes", [])
    assert [source.folder for source in config.pairs] == [pair["folder"] for pair in content.get("pairs", [])]
    for name in content.keys() - {"scenes", "validate", "pairs", "photometry", "displacement"}:
        assert getattr(config, name) == content[name], name
    assert read(config_file(yaml.safe_dump(as_dict(config)), before="")) == config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("finds", ["sar", "optical"])
def test_every_file_that_ships_describes_a_network_for_its_tiles(path, finds):
    config = read(path)
    assert config.tile % HeatmapUNet(finds, **config.network).divisor == 0


def test_defaults_are_the_papers(config_file):
    config = read(config_file(""))
    assert config == KeypointConfig(scenes=("some/where",))
    assert (config.tile, config.sigma, config.held_out) == (256, 13, 0.2)
    assert (config.rate, config.epochs, config.batch) == (1e-4, 100, 16)
    assert (config.schedule, config.drop_after, config.drop) == ("step", 30, 1e-2)
    assert (config.turned, config.pairs, config.samples, config.validate) == (False, (), 0, ())
    assert (config.network, config.photometry, config.displacement) == ({}, Photometry(), Displacement())


def test_everything_survives_being_written_and_read_again(config_file):
    config = KeypointConfig(
        network={"depth": 3, "decoder": [16, 8, 8], "similarity": [2]},
        scenes=("a", "b"),
        validate=("c",),
        pairs=(Source("d", zoom=(0.5, 2.0), weight=0.3), Source(manifest="e.csv")),
        samples=7,
        displacement=Displacement(reach=20, near=3.5, far=0.1, gradient=0.2, bend=1, anywhere=1, hidden=0),
        photometry=Photometry(tone=0.1, gain=0.2),
        turned=True,
        tile=64,
        sigma=5.5,
        held_out=0.0,
        schedule="cosine",
        precision="32-true",
        seed=3,
    )
    again = read(config_file(yaml.safe_dump(as_dict(config)), before=""))
    assert again == config
    for field in dataclasses.fields(config):
        assert type(getattr(again, field.name)) is type(getattr(config, field.name)), field.name
    assert again.pairs[0].zoom == (0.5, 2.0)


def test_whole_numbers_do_for_fractions(config_file):
    config = read(config_file("sigma: 9\nrate: 1\ndisplacement: {reach: 30, hidden: 0}"))
    for value, expected in ((config.sigma, 9), (config.rate, 1), (config.displacement.reach, 30)):
        assert type(value) is float
        assert value == expected


def test_scenes_or_pairs_are_enough(config_file):
    assert read(config_file("")).pairs == ()
    assert read(config_file("pairs: [{folder: a}]\nsamples: 1", before="")).scenes == ()


@pytest.mark.parametrize(
    "text", ["{}", "samples: 5", "pairs: [{folder: a}]", "{pairs: [], samples: 5}", "validate: [a]", "scenes: []",
     "{pairs: [{folder: a, weight: 0}], samples: 5}"],
)  # fmt: skip
def test_nothing_to_train_on_is_said(config_file, text):
    with pytest.raises(ConfigError, match=r"run\.yaml: there is nothing to train on: give scenes, or pairs with a"):
        read(config_file(text, before=""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tile: 0", "tile is 0, must be at least 1"),
        ("epochs: 0", "epochs is 0, must be at least 1"),
        ("batch: -2", "batch is -2, must be at least 1"),
        ("drop_after: 0", "drop_after is 0, must be at least 1"),
        ("samples: -1", "samples is -1, must not be negative"),
        ("workers: -1", "workers is -1, must not be negative"),
        ("seed: -1", "seed is -1, must not be negative"),
        ("sigma: 0", "sigma is 0.0, must be a number above zero"),
        ("rate: -0.1", "rate is -0.1, must be a number above zero"),
        ("rate: .inf", "rate is inf, must be a number above zero"),
        ("seed: 5000000000", "seed is 5000000000, must be below 4294967296"),
        ("precision: foo", "precision: is 'foo', not one of auto, 32-true"),
        ("rate: .nan", "rate is nan, must be a number above zero"),
        ("drop: 0", "drop is 0.0, must be a number above zero"),
        ("held_out: 1", "held_out is 1.0, must be at least 0 and below 1"),
        ("held_out: -0.1", "held_out is -0.1, must be at least 0 and below 1"),
        ("tile: 25.5", "tile: is 25.5, not int"),
        ("turned: 1", "turned: is 1, not bool"),
        ("rate: fast", "rate: is 'fast', not float"),
        ("schedule: linear", "schedule: is 'linear', not one of step, cosine"),
        ("network: resnet18", "network: is 'resnet18', not dict"),
        ("validate: some/where", "validate: is 'some/where', not tuple"),
        ("validate: [1]", "validate[0]: is 1, not str"),
        ("pairs: [{folder: a, zoom: [2, 1]}]", "pairs[0]: a: zoom, weight or held_out is out of range"),
        ("pairs: [{weight: 1}]", "pairs[0]: a source needs either a folder or a manifest"),
        ("displacement: {reach: -1}", "displacement: reach, near, gradient and bend must not be negative"),
        ("displacement: {hidden: 1.5}", "displacement: far, anywhere and hidden are shares, 0 to 1"),
        ("displacement: {shift: 3}", "displacement: knows no shift; there are: reach, near"),
        ("steps: 100", "knows no steps; there are: network, scenes"),
        ("finds: sar", "knows no finds; there are"),
    ],
)
def test_what_is_wrong_is_said_by_file_and_key(config_file, text, message):
    with pytest.raises(ConfigError, match=re.escape(f"run.yaml: {message}")):
        read(config_file(text))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, InputError, r"run\.yaml: cannot be read"),
        ("a: [1", InputError, r"run\.yaml: is not YAML"),
        ("", ConfigError, r"run\.yaml: is None, not a mapping"),
        ("- 1", ConfigError, r"run\.yaml: is \[1\], not a mapping"),
    ],
)
def test_files_that_hold_no_configuration(config_file, tmp_path, text, error, message):
    path = tmp_path / "run.yaml" if text is None else config_file(text, before="")
    with pytest.raises(error, match=message):
        read(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_detectors_file_is_none_of_a_dense_matcher(path):
    with pytest.raises(ConfigError, match=r"knows no .*scenes"):
        read_config(path)
