"""training.dual_config: YAML files of a dual encoder's training."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from sn9reg.training.dataset import Source
from sn9reg.training.dual_config import DualConfig, Phase

from sn9reg.errors import ConfigError
from sn9reg.training.config import as_dict, read_as, read_config
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


def test_there_are_files_to_test():
    assert {"dual-encoder", "uncertainty"} <= {path.stem for path in FILES}


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
def test_every_file_that_ships_takes_its_batches_in_equal_parts(path):
    config = read(path)
    for phase in (config.pretraining, config.finetuning):
        assert phase.batch % phase.accumulate == 0


@every_file
def test_a_dual_encoders_file_is_none_of_a_dense_matcher(path):
    with pytest.raises(ConfigError, match=r"knows no .*finetuning"):
        read_config(path)


@pytest.fixture
def papers():
    return read(next(path for path in FILES if path.stem == "uncertainty"))


def test_the_papers_file_trains_as_the_paper_says(papers):
    """Huang et al., Table 2: rates of both phases, batches, early stopping in fine-tuning alone; else the defaults."""
    assert (papers.pretraining.rate, papers.finetuning.rate) == (1e-4, 5e-5)
    assert (papers.pretraining.patience, papers.finetuning.patience) == (0, 5)
    for phase in (papers.pretraining, papers.finetuning):
        assert (phase.batch, phase.accumulate, phase.decay) == (32, 4, 1e-4)
        assert (phase.schedule, phase.warmup) == ("constant", 0)
    assert papers == DualConfig(papers.sources, papers.pretraining, papers.finetuning)
    assert ["sen12" in source.folder for source in papers.sources] == [True]
    assert papers.finetuning.steps == 30 * papers.finetuning.validate_every, "once an epoch"


def test_the_papers_file_trains_as_many_epochs_as_the_paper(papers):
    for phase, epochs in ((papers.pretraining, 50), (papers.finetuning, 30)):
        assert phase.steps * phase.batch * phase.accumulate == pytest.approx(epochs * 126_463, rel=0.01)


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
        pretraining=Phase(0, 0.1, 0.2, 6, 3, 5, "cosine", 7, 2),
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
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(as_dict(config)))
    again = read(path)
    assert again == config
    for made in (config, config.pretraining, config.finetuning):
        for field in dataclasses.fields(made):
            assert getattr(made, field.name) != field.default, field.name
    for field in dataclasses.fields(config):
        assert type(getattr(again, field.name)) is type(getattr(config, field.name)), field.name


NAN, INF = float("nan"), float("inf")
WRONG = [
    ({"temperature": 0}, "temperature is 0.0, must be a number above zero"),
    ({"temperature": -0.07}, "temperature is -0.07, must be"),
    ({"temperature": INF}, "temperature is inf, must be"),
    ({"temperature": NAN}, "temperature is nan, must be"),
    ({"uncertainty": 0}, "uncertainty is 0.0, must be a number above zero"),
    ({"uncertainty": NAN}, "uncertainty is nan, must be"),
    ({"colours": 1.1}, "colours 1.1 is a share"),
    ({"colours": -0.1}, "colours -0.1 is a share"),
    ({"colours": NAN}, "colours nan is a share"),
    ({"dropout": -0.5}, "colours 0.0 is a share, dropout -0.5 one of"),
    ({"dropout": 5.1}, "colours 0.0 is a share, dropout 5.1 one of"),
    ({"dropout": NAN}, "colours 0.0 is a share, dropout nan one of"),
    ({"window": 0}, "window is 0, must be odd"),
    ({"window": 4}, "window is 4, must be odd"),
    ({"window": -1}, "window is -1, must be odd"),
    ({"cells": 1}, "cells must be at least 2"),
    ({"workers": -1}, "cells must be at least 2, workers"),
    ({"seed": -1}, "cells must be at least 2, workers not negative, seed from 0"),
    ({"seed": 2**32 - 1}, "cells must be at least 2, workers not negative, seed from 0"),
    ({"geometry": {"optical": 40, "sar": 32}}, "geometry: sides (40, 32) must be multiples of 16"),
    ({"geometry": {"optical": 64, "sar": 40}}, "geometry: sides (64, 40) must be multiples of 16"),
    ({"geometry": {"optical": 48, "sar": 16}}, "geometry: sides (48, 16) must be multiples of 16 from 32"),
    ({"geometry": {"optical": 48, "sar": 0}}, "geometry: sides (48, 0)"),
    ({"geometry": {"optical": 48, "sar": 64}}, "geometry: sides (48, 64) must be multiples of 16 from 32, the SAR no"),
    ({"sources": []}, "there is nothing to train on: give sources with a weight"),
    ({"sources": [{"folder": "a", "weight": 0}]}, "there is nothing to train on: give sources with a weight"),
    ({"finetuning": {"steps": 0}}, "finetuning has no steps"),
    ({"contrastive": False, "rotation": False}, "pretraining has steps but neither contrastive nor rotation"),
    ({"temperature": "warm"}, "temperature: is 'warm', not float"),
    ({"structure": 1}, "structure: is 1, not bool"),
    ({"precision": "half"}, "precision: is 'half', not one of auto, 32-true, bf16-mixed, 16-mixed"),
    ({"photometry": {"tone": "much"}}, "photometry: tone: is 'much', not float"),
    ({"geometry": {"side": 48}}, "geometry: knows no side; there are: optical, sar, turn, stretch, tilt, quarters"),
    ({"sources": [{"weight": 1}]}, "sources[0]: a source needs either a folder or"),
    ({"epochs": 50}, "knows no epochs; there are: sources, pretraining"),
]
WRONG_IN_A_PHASE = [
    ({"batch": 0}, "batch is 0, must be at least 1"),
    ({"accumulate": 0}, "accumulate is 0, must be at least 1"),
    ({"validate_every": -3}, "validate_every is -3, must be at least 1"),
    ({"steps": -1}, "steps is -1, must not be negative"),
    ({"warmup": -1}, "warmup is -1, must not be negative"),
    ({"patience": -1}, "patience is -1, must not be negative"),
    ({"decay": -0.1}, "decay is -0.1, must not be negative"),
    ({"decay": INF}, "decay is inf, must not be negative"),
    ({"decay": NAN}, "decay is nan, must not be negative"),
    ({"rate": 0}, "rate is 0.0, must be a number above zero"),
    ({"rate": -0.1}, "rate is -0.1, must be a number above zero"),
    ({"rate": INF}, "rate is inf, must be"),
    ({"rate": NAN}, "rate is nan, must be"),
    ({"schedule": "linear"}, "schedule: is 'linear', not one of constant, cosine"),
    ({"steps": 2.5}, "steps: is 2.5, not int"),
    ({"epochs": 50}, "knows no epochs; there are: steps, rate"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_wrong_is_said_by_file_and_key(config_file, changes, message):
    with pytest.raises(ConfigError, match=re.escape(f"run.yaml: {message}")):
        read(config_file(changes))


@pytest.mark.parametrize("phase", ["pretraining", "finetuning"])
@pytest.mark.parametrize(
    ("changes", "message"), WRONG_IN_A_PHASE, ids=[message[:30] for _, message in WRONG_IN_A_PHASE]
)
def test_what_is_wrong_in_a_phase_is_said_by_file_phase_and_key(config_file, phase, changes, message):
    where = f"run.yaml: {phase}: "
    with pytest.raises(ConfigError, match=re.escape(where + message)):
        read(config_file({phase: changes}))


@pytest.mark.parametrize("missing", ["sources", "pretraining", "finetuning"])
def test_what_has_no_default_must_be_given(tmp_path, missing):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in LEAST.items() if key != missing}))
    with pytest.raises(ConfigError, match=rf"run\.yaml: lacks {missing}$"):
        read(path)


@pytest.mark.parametrize("missing", ["steps", "rate"])
def test_what_has_no_default_in_a_phase_must_be_given(tmp_path, missing):
    path = tmp_path / "run.yaml"
    phase = {key: value for key, value in LEAST["finetuning"].items() if key != missing}
    path.write_text(yaml.safe_dump(LEAST | {"finetuning": phase}))
    with pytest.raises(ConfigError, match=rf"run\.yaml: finetuning: lacks {missing}$"):
        read(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"pretraining": {"steps": 0}, "contrastive": False, "rotation": False},
        {"contrastive": False},
        {"rotation": False},
        {"geometry": {"optical": 48, "sar": 48}},
        {"geometry": {"optical": 32, "sar": 32}},
        {"colours": 1},
        {"dropout": 0},
        {"dropout": 5},
        {"cells": 2},
        {"workers": 0},
        {"seed": 2**32 - 2},
        {"sources": [{"folder": "a", "weight": 0}, {"folder": "b"}]},
        {"finetuning": {"decay": 0, "patience": 0, "warmup": 0, "batch": 1, "accumulate": 1}},
    ],
    ids=str,
)
def test_what_is_at_a_limit_is_taken(config_file, changes):
    config = as_dict(read(config_file(changes)))
    for key, value in changes.items():
        if isinstance(value, dict):
            assert value.items() <= config[key].items()
        elif key != "sources":
            assert config[key] == value


@pytest.mark.parametrize(
    "geometry", [{"tilt": NAN}, {"tilt": -5.0}, {"tilt": INF}, {"turn": NAN}, {"stretch": 1.0}], ids=str
)
def test_angles_and_stretches_must_make_sense(config_file, geometry):
    with pytest.raises(ConfigError, match="geometry"):
        read(config_file({"geometry": {"optical": 48, "sar": 32} | geometry}))
