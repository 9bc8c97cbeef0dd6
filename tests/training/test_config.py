"""training.config: YAML files of training runs, and what is wrong with them said by file and key."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.degradation import Degradation
from sn9reg.training.config import Choice, Optimiser, TrainingConfig, as_dict, read_config
from sn9reg.training.dataset import Source
from sn9reg.training.sample import Geometry

FOLDER = Path(__file__).parents[2] / "pipelines" / "training"
FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if "\nloss:" in path.read_text()]
MINIMAL = "network: {name: mcgf}\nloss: {name: soft-ce}\nsources: [{folder: some/where}]\n"


@pytest.fixture
def config_file(tmp_path):
    """Writes a text, by default after what every configuration needs."""

    def write(text, before=MINIMAL):
        path = tmp_path / "run.yaml"
        path.write_text(before + text)
        return path

    return write


def test_there_are_files_to_test():
    assert {"hybrids", "meow", "slim-unet"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_that_ships_is_read(path):
    content, config = yaml.safe_load(path.read_text()), read_config(path)
    assert config.network.name == content["network"]["name"]
    names = [source.get("folder", source.get("manifest")) for source in content["sources"]]
    assert [source.name for source in config.sources] == names
    assert content["geometry"].items() <= dataclasses.asdict(config.geometry).items()
    assert (config.steps, config.batch) == (content["steps"], content["batch"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_that_ships_survives_being_written_and_read_again(path, config_file):
    config = read_config(path)
    assert read_config(config_file(yaml.safe_dump(as_dict(config)), before="")) == config


def test_what_is_not_said_has_its_default(config_file):
    config = read_config(config_file(""))
    assert config == TrainingConfig(Choice("mcgf"), Choice("soft-ce"), (Source("some/where"),))
    assert config.geometry == config.validation == Geometry(256, 192)


def test_everything_survives_being_written_and_read_again(config_file):
    config = TrainingConfig(
        Choice("slim-unet", {"widths": [8, 16, 16]}),
        Choice("soft-ce", {"sigma": 1.5, "trainable": False}),
        (Source("a", zoom=(0.5, 2.0), held_out=0.1), Source(manifest="b.csv", longitude=10.0, year=2020, sar_band=2)),
        geometry=Geometry(64, 32, 1.5, 0.1),
        degradation=Degradation(8.0, 0.5, True),
        optimiser=Optimiser(1e-4, schedule="cosine"),
        batch=6,
        accumulate=3,
        average=0.99,
        precision="bf16-mixed",
    )
    read = read_config(config_file(yaml.safe_dump(as_dict(config)), before=""))
    assert read == config
    assert isinstance(read.sources, tuple)
    assert isinstance(read.sources[0].zoom, tuple)
    for field in dataclasses.fields(config):
        assert getattr(read, field.name) == getattr(config, field.name)


def test_whole_numbers_do_for_fractions(config_file):
    config = read_config(config_file("optimiser: {rate: 1}\ndegradation: {looks: 8, blur: 1}\ngeometry: {turn: 2}"))
    for value, expected in ((config.optimiser.rate, 1), (config.degradation.looks, 8), (config.geometry.turn, 2)):
        assert type(value) is float
        assert value == expected
    zoom = read_config(config_file("", MINIMAL.replace("some/where", "a, zoom: [1, 2]"))).sources[0].zoom
    assert zoom == (1.0, 2.0)
    assert all(type(z) is float for z in zoom)


def test_null_is_a_value_where_none_is(config_file):
    assert read_config(config_file("degradation: {looks: null}")).degradation.looks is None
    with pytest.raises(ConfigError, match=r"run\.yaml: steps: is None, not int"):
        read_config(config_file("steps: null"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3", "run.yaml: knows no epochs; there are: network, loss"),
        ("geometry: {side: 3}", "run.yaml: geometry: knows no side; there are: optical, sar, turn, stretch"),
        ("7: 3", "run.yaml: knows no 7"),
        ("steps: many", "run.yaml: steps: is 'many', not int"),
        ("steps: 1.5", "run.yaml: steps: is 1.5, not int"),
        ("steps: true", "run.yaml: steps: is True, not int"),
        ("average: true", "run.yaml: average: is True, not float"),
        ("average: '0.9'", "run.yaml: average: is '0.9', not float"),
        ("shared: 1", "run.yaml: shared: is 1, not bool"),
        ("shared: 'no'", "run.yaml: shared: is 'no', not bool"),
        ("precision: 32", "run.yaml: precision: is 32, not str"),
        ("geometry: 256", "run.yaml: geometry: is 256, not a mapping"),
        ("optimiser: {schedule: linear}", "run.yaml: optimiser: schedule: is 'linear', not one of constant, cosine"),
        ("optimiser: {rate: fast}", "run.yaml: optimiser: rate: is 'fast', not float"),
        ("network: {options: {}}", "run.yaml: network: lacks name"),
        ("network: {name: mcgf, options: [1]}", "run.yaml: network: options: is [1], not dict"),
        ("sources: {folder: a}", "run.yaml: sources: is {'folder': 'a'}, not tuple"),
        ("sources: [a]", "run.yaml: sources[0]: is 'a', not a mapping"),
        ("sources: [{folder: a}, {folder: b, zoom: [1]}]", "run.yaml: sources[1]: zoom: takes 2 values, not 1"),
        ("sources: [{folder: a, zoom: [1, x]}]", "run.yaml: sources[0]: zoom[1]: is 'x', not float"),
        ("sources: [{}]", "run.yaml: sources[0]: a source needs either a folder or a manifest"),
        ("sources: [{folder: a, zoom: [2, 1]}]", "run.yaml: sources[0]: a: zoom, weight or held_out is out of range"),
        ("geometry: {optical: 64, sar: 64}", "run.yaml: geometry: the SAR side 64 must be smaller than the optical 64"),
        ("validation: {optical: 64, sar: 96}", "run.yaml: validation: the SAR side 96 must be smaller"),
        ("geometry: {sar: 0}", "run.yaml: geometry: the SAR side 0"),
        ("degradation: {looks: 0}", "run.yaml: degradation: looks must be a number above 0, not 0.0"),
        ("{batch: 16, accumulate: 3}", "run.yaml: batch 16 cannot be taken in 3 equal parts"),
        ("{batch: 2, accumulate: 4}", "run.yaml: batch 2 cannot be taken in 4 equal parts"),
        ("steps: 0", "run.yaml: steps is 0, must be at least 1"),
        ("batch: -1", "run.yaml: batch is -1, must be at least 1"),
        ("validate_every: 0", "run.yaml: validate_every is 0, must be at least 1"),
        ("accumulate: 0", "run.yaml: accumulate is 0, must be at least 1"),
        ("seed: -1", "run.yaml: seed is -1, must not be negative"),
        ("workers: -1", "run.yaml: workers is -1, must not be negative"),
        ("patience: -1", "run.yaml: patience is -1, must not be negative"),
        ("average: 1.0", "run.yaml: average is 1.0, must be at least 0 and below 1"),
    ],
)
def test_what_is_wrong_is_said_by_file_and_key(config_file, text, message):
    content = {**yaml.safe_load(MINIMAL), **yaml.safe_load(text)}
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_config(config_file(yaml.safe_dump(content), before=""))


@pytest.mark.parametrize("missing", ["network", "loss", "sources"])
def test_what_is_missing_is_said(config_file, missing):
    content = {key: value for key, value in yaml.safe_load(MINIMAL).items() if key != missing}
    with pytest.raises(ConfigError, match=rf"run\.yaml: lacks {missing}$"):
        read_config(config_file(yaml.safe_dump(content), before=""))


@pytest.mark.parametrize(("text", "said"), [("", "None"), ("[1, 2]", r"\[1, 2\]"), ("mcgf", "'mcgf'")])
def test_files_that_hold_no_mapping(config_file, text, said):
    with pytest.raises(ConfigError, match=rf"run\.yaml: is {said}, not a mapping"):
        read_config(config_file(text, before=""))


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1", "!!python/object/apply:os.system [ls]"])
def test_files_that_are_not_yaml(config_file, text):
    with pytest.raises(InputError, match=r"run\.yaml: is not YAML \(") as caught:
        read_config(config_file(text, before=""))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read \(No such file"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x80\x81")
    with pytest.raises(InputError, match=r"binary\.yaml: is not YAML"):
        read_config(tmp_path / "binary.yaml")
