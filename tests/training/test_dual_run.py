"""training.dual_run, loop and pipelines.train_dual_encoder: whole trainings of dual encoders, tiny."""

import csv
import dataclasses
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from sn9reg.training.dataset import Source
from sn9reg.training.dual_config import DualConfig, Phase
from sn9reg.training.dual_data import Crops
from sn9reg.training.dual_run import train_dual
from sn9reg.training.dual_task import DualTask
from support.pairs import write_pairs
from torch import nn
from torch.nn.functional import normalize

from pipelines import train_dual_encoder as command
from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.dual_encoder.network import CELL, WIDTHS, DualEncoder, Encoded
from sn9reg.training import dual_task
from sn9reg.training.config import as_dict
from sn9reg.training.sample import Geometry
from sn9reg.weights.store import DualArchitecture, load_dual_encoder, load_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning advises on speed

BOTH = [("pretraining", 0), ("pretraining", 1), ("finetuning", 0), ("finetuning", 1)]


class Small(nn.Module):
    """A network of a dual encoder's options and parts, that is quick."""

    def __init__(self, aleatoric=True, dropout=1.0, structure=False):
        super().__init__()
        self.encoders = nn.ModuleDict({kind: nn.LazyConv2d(n, CELL, CELL) for kind, n in WIDTHS.items()})
        self.encoders["optical"](torch.zeros(1, 3, CELL, CELL))
        self.encoders["sar"](torch.zeros(1, 1, CELL, CELL))
        self.project = nn.ModuleDict({kind: nn.Conv2d(n, 16, 1) for kind, n in WIDTHS.items()})
        self.aleatoric = aleatoric
        if aleatoric:
            self.maps = nn.ModuleDict({kind: nn.Conv2d(n, 1, 1) for kind, n in WIDTHS.items()})
        self.structure = nn.Conv2d(1, 16, CELL, CELL) if structure else None
        self.log_variance = nn.Parameter(torch.tensor([1.0, 4.0]))

    def forward(self, image, modality):
        features = self.encoders[modality](image).relu()
        embedding = self.project[modality](features)
        if self.structure is not None:
            embedding = embedding + self.structure(image.mean(dim=1, keepdim=True))
        doubt = self.maps[modality](features).sigmoid() if self.aleatoric else torch.zeros_like(features[:, :1])
        return Encoded(features, normalize(embedding, dim=1), doubt)

    def confidences(self, optical, sar):
        return 1 - optical.uncertainty / 2, 1 - sar.uncertainty / 2


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dual_task, "DualEncoder", Small)
        yield


@pytest.fixture
def real(monkeypatch):
    """The network that ships."""
    monkeypatch.setattr(dual_task, "DualEncoder", DualEncoder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four registered pairs of 72 px."""
    return write_pairs(tmp_path_factory.mktemp("pairs"), 4, 72)


def phase(steps, **changes):
    return Phase(**{"steps": steps, "rate": 1e-3, "batch": 2, "accumulate": 1, "validate_every": 1} | changes)


@pytest.fixture(scope="module")
def tiny(folder):
    """A configuration of a second, with changes."""

    def make(held_out=0.5, pretraining=2, finetuning=2, **changes):
        phases = {"pretraining": pretraining, "finetuning": finetuning}
        small = {name: phase(steps) if isinstance(steps, int) else steps for name, steps in phases.items()}
        small |= {"sources": (Source(str(folder), held_out=held_out),), "geometry": Geometry(48, 32), "cells": 8}
        return DualConfig(**small | {"structure": True, "precision": "32-true", "workers": 0} | changes)

    return make


class Step(NamedTuple):
    """What a batch began with; `number` counts steps."""

    phase: str
    number: int
    batch: Crops
    state: dict[str, torch.Tensor]


@contextmanager
def watched():
    """All batches that are trained meanwhile."""
    steps, original = [], DualTask.training_step

    def training_step(self, batch, index):
        steps.append(Step(self.name, self.global_step, batch, state(self)))
        return original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DualTask, "training_step", training_step)
        yield steps


@pytest.fixture
def seen():
    with watched() as steps:
        yield steps


class Finished(NamedTuple):
    config: DualConfig
    out: Path
    steps: list[Step]
    state: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A training of two and two steps. Do not write into its folder."""
    config, out = tiny(), tmp_path_factory.mktemp("finished")
    with watched() as steps:
        task = train(config, out)
    return Finished(config, out, steps, state(task))


@pytest.fixture
def again(finished, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(finished.out, tmp_path / "again")


def train(config, out, **options):
    return train_dual(config, out, progress=False, **options)


def state(task):
    return {key: value.clone() for key, value in task.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def content(out, name="last"):
    """A checkpoint's step, and its task's state."""
    checkpoint = torch.load(out / f"{name}.ckpt", weights_only=True)
    return checkpoint["global_step"], checkpoint["state_dict"]


def metrics(out, name="csv"):
    with (out / name / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def numbers(steps):
    return [(step.phase, step.number) for step in steps]


@contextmanager
def scores(*matched):
    """Validations find these shares, one after the other."""
    left = iter(matched)

    def validation_step(self, batch, index):
        self.log("matched", next(left), batch_size=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DualTask, "validation_step", validation_step)
        yield


# --- a run and what is left behind -----------------------------------------------------------------------------------


def test_checkpoints_metrics_and_events_of_both_phases_are_left_behind(finished):
    for name in ("pretraining", "finetuning"):
        out = finished.out / name
        assert content(out)[0] == 2
        assert content(out, "best")[0] in (1, 2)
        (events,) = (out / "tensorboard").glob("events.out.tfevents.*")
        assert b"matched" in events.read_bytes()
    assert sorted(path.name for path in finished.out.iterdir()) == ["finetuning", "pretraining"]


@pytest.mark.parametrize(
    ("name", "logged"),
    [
        ("pretraining", {"loss", "rotation_optical", "rotation_sar"}),
        ("finetuning", {"loss", "matching", "placed", "uncertainty"}),
    ],
)
def test_validation_logs_matched_and_whole_beside_what_training_logs(finished, name, logged):
    rows = metrics(finished.out / name)
    assert rows[0].keys() == logged | {"epoch", "step", "matched", "whole"}
    for column in ("matched", "whole"):
        shares = [float(row[column]) for row in rows if row[column]]
        assert len(shares) == 2
        assert all(0 <= share <= 1 for share in shares)
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert losses
    assert all(0 < loss < 20 for loss in losses)


def test_first_it_is_pretrained_then_fine_tuned(finished):
    assert numbers(finished.steps) == BOTH
    for step in finished.steps:
        assert step.batch.optical.shape == (2, 3, 48, 48)
        assert step.batch.sar.shape == (2, 1, 32, 32)


def test_no_sample_is_seen_twice_nor_in_both_phases(finished):
    batches = [step.batch.optical for step in finished.steps]
    assert not any(one.equal(other) for k, one in enumerate(batches) for other in batches[:k])


def test_fine_tuning_begins_with_the_best_of_the_pretraining(tiny, tmp_path, seen):
    with scores(0.9, 0.1, 0.1, 0.8):
        task = train(tiny(), tmp_path)
    assert [content(tmp_path / "pretraining", name)[0] for name in ("best", "last")] == [1, 2]
    assert numbers(seen) == BOTH
    assert equal(seen[2].state, content(tmp_path / "pretraining", "best")[1])
    assert not equal(seen[2].state, content(tmp_path / "pretraining")[1])
    assert content(tmp_path / "finetuning", "best")[0] == 2
    assert equal(state(task), content(tmp_path / "finetuning", "best")[1])


def test_the_best_weights_are_returned_not_the_last(tiny, tmp_path):
    with scores(0.2, 0.9, 0.5):
        task = train(tiny(pretraining=0, finetuning=3), tmp_path)
    (step, best), (last_step, last) = (content(tmp_path / "finetuning", name) for name in ("best", "last"))
    assert (step, last_step) == (2, 3)
    assert equal(state(task), best)
    assert not equal(best, last)


def test_without_pairs_held_out_the_last_weights_are_returned(tiny, tmp_path, seen):
    task = train(tiny(held_out=0.0), tmp_path)
    for name in ("pretraining", "finetuning"):
        assert content(tmp_path / name)[0] == 2
        assert not (tmp_path / name / "best.ckpt").exists()
    assert equal(seen[2].state, content(tmp_path / "pretraining")[1])
    assert equal(state(task), content(tmp_path / "finetuning")[1])


def test_the_same_configuration_trains_the_same_network(finished, again, seen):
    task = train(finished.config, again)
    assert numbers(seen) == BOTH
    assert equal(state(task), finished.state)


def test_another_seed_trains_another(finished, tmp_path, seen):
    train(dataclasses.replace(finished.config, seed=5, pretraining=phase(0), finetuning=phase(1)), tmp_path)
    assert not equal(seen[0].state, finished.steps[0].state)
    assert not any(seen[0].batch.optical.equal(step.batch.optical) for step in finished.steps)


def test_what_is_pretrained_is_not_turned_by_quarters_and_what_is_fine_tuned_is(tmp_path, tmp_path_factory, seen):
    """Optical images get brighter from left to right."""
    folder = write_pairs(tmp_path_factory.mktemp("slopes"), 1, 72)
    ramp = torch.arange(72).repeat(72, 1).mul(2).add(50).byte().numpy()
    for kind in ("opt", "sar"):
        Image.fromarray(ramp).save(folder / f"0_{kind}.png")
    phases = {"pretraining": phase(1, batch=16), "finetuning": phase(1, batch=16)}
    small = {"geometry": Geometry(32, 32), "cells": 8, "precision": "32-true", "workers": 0, "structure": True}
    train(DualConfig(sources=(Source(str(folder)),), **phases, **small), tmp_path)
    along = {}
    for step in seen:
        rows, cols = (step.batch.optical[:, 0].diff(dim=dim).abs().mean(dim=(1, 2)) for dim in (1, 2))
        along[step.phase] = (cols > rows).float().mean().item()
    assert along["pretraining"] == 1
    assert 0 < along["finetuning"] < 1


def test_a_step_takes_several_batches(tiny, tmp_path, seen):
    train(tiny(pretraining=0, finetuning=phase(2, batch=2, accumulate=2)), tmp_path)
    assert numbers(seen) == [("finetuning", 0), ("finetuning", 0), ("finetuning", 1), ("finetuning", 1)]
    assert [len(step.batch.place) for step in seen] == [2] * 4
    assert equal_weights(seen[0], seen[1])
    assert not equal_weights(seen[1], seen[2])
    assert content(tmp_path / "finetuning")[0] == 2


def equal_weights(one, other):
    """Parameters alone: batch normalisation counts batches."""
    names = [name for name in one.state if name.endswith(("weight", "bias")) or name == "scale"]
    return len(names) > 9 and all(one.state[name].equal(other.state[name]) for name in names)


def test_it_stops_where_validation_gains_nothing(tiny, tmp_path, seen):
    with scores(0.5, 0.4, 0.4, 0.9):
        train(tiny(pretraining=0, finetuning=phase(9, patience=2)), tmp_path)
    assert numbers(seen) == [("finetuning", 0), ("finetuning", 1), ("finetuning", 2)]
    assert content(tmp_path / "finetuning", "best")[0] == 1


def test_without_uncertainty_it_is_trained_too(real, tiny, tmp_path, seen):
    task = train(tiny(pretraining=1, finetuning=1, aleatoric=False), tmp_path)
    assert numbers(seen) == [("pretraining", 0), ("finetuning", 0)]
    assert not task.network.aleatoric
    assert not any("maps" in name for name in task.state_dict())
    (row,) = [row for row in metrics(tmp_path / "finetuning") if row["loss"]]
    assert "uncertainty" not in row
    assert 0 < float(row["loss"]) < 20


def test_data_without_pairs_to_train_on_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="none: no such folder"):
        train(tiny(sources=(Source(str(tmp_path / "none")),)), tmp_path / "out")


# --- what is trained last --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [0.0, 0.5])
def test_steps_after_the_last_validation_are_kept(tiny, tmp_path, held_out):
    train(tiny(held_out=held_out, pretraining=0, finetuning=phase(3, validate_every=2)), tmp_path)
    assert content(tmp_path / "finetuning")[0] == 3


def test_an_earlier_runs_best_weights_are_not_taken(tiny, again):
    task = train(tiny(held_out=0.0), again)
    assert equal(state(task), content(again / "finetuning")[1])


def test_a_loss_that_is_no_number_ends_the_training(tiny, tmp_path, monkeypatch):
    original = DualTask._finetuning
    monkeypatch.setattr(DualTask, "_finetuning", lambda self, batch: original(self, batch) * float("nan"))
    with pytest.raises(ConfigError, match="loss is nan"):
        train(tiny(held_out=0.0, pretraining=0, finetuning=1), tmp_path)


def test_the_highest_seed_can_be_trained_with(tiny, tmp_path, seen):
    train(tiny(held_out=0.0, pretraining=0, finetuning=1, seed=2**32 - 2), tmp_path)
    assert len(seen) == 1


# --- going on --------------------------------------------------------------------------------------------------------


def test_what_is_done_is_not_trained_again(finished, again, seen):
    task = train(finished.config, again, resume=True)
    assert seen == []
    assert equal(state(task), finished.state)
    for name in ("pretraining", "finetuning"):
        assert equal(content(again / name)[1], content(finished.out / name)[1])


def test_a_resumed_run_goes_on_with_the_weights_and_other_samples(finished, again, seen):
    task = train(dataclasses.replace(finished.config, finetuning=phase(3)), again, resume=True)
    (step,) = seen
    assert (step.phase, step.number) == ("finetuning", 2)
    assert equal(step.state, content(finished.out / "finetuning")[1])
    assert not any(step.batch.optical.equal(before.batch.optical) for before in finished.steps)
    assert content(again / "finetuning")[0] == 3
    assert content(again / "pretraining")[0] == 2
    assert equal(state(task), content(again / "finetuning", "best")[1])
    assert metrics(again / "finetuning"), "the first run's are still there"
    assert metrics(again / "finetuning", "csv-2")


def test_a_run_that_stopped_in_pretraining_goes_on_there(finished, again, seen):
    shutil.rmtree(again / "finetuning")
    changed = dataclasses.replace(finished.config, pretraining=phase(3), finetuning=phase(1))
    train(changed, again, resume=True)
    assert numbers(seen) == [("pretraining", 2), ("finetuning", 0)]
    assert equal(seen[0].state, content(finished.out / "pretraining")[1])


def test_a_run_that_stopped_between_the_phases_begins_the_second(finished, again, seen):
    shutil.rmtree(again / "finetuning")
    train(finished.config, again, resume=True)
    assert numbers(seen) == [("finetuning", 0), ("finetuning", 1)]
    assert equal(seen[0].state, content(finished.out / "pretraining", "best")[1])


def test_where_there_is_nothing_to_go_on_from_it_begins(tiny, tmp_path, seen):
    train(tiny(held_out=0.0, pretraining=1, finetuning=1), tmp_path / "deep" / "new", resume=True)
    assert numbers(seen) == [("pretraining", 0), ("finetuning", 0)]


# --- pretrained ------------------------------------------------------------------------------------------------------


def test_a_training_begins_with_the_checkpoint_that_it_is_given(finished, tmp_path, seen):
    checkpoint = finished.out / "pretraining" / "last.ckpt"
    train(dataclasses.replace(finished.config, finetuning=phase(1), seed=9), tmp_path, pretrained=checkpoint)
    assert numbers(seen) == [("finetuning", 0)]
    assert equal(seen[0].state, content(finished.out / "pretraining")[1])
    assert not (tmp_path / "pretraining").exists()


def test_a_checkpoint_with_uncertainty_begins_a_training_without(finished, tmp_path, seen):
    """The ablation's: all that both have is taken."""
    checkpoint = finished.out / "pretraining" / "last.ckpt"
    changed = dataclasses.replace(finished.config, finetuning=phase(1), aleatoric=False)
    train(changed, tmp_path, pretrained=str(checkpoint))
    begun, given = seen[0].state, content(finished.out / "pretraining")[1]
    assert begun.keys() < given.keys()
    assert all(begun[key].equal(given[key]) for key in begun)


def test_without_steps_the_pretraining_is_left_out(tiny, tmp_path, seen):
    train(tiny(held_out=0.0, pretraining=0, finetuning=1), tmp_path)
    assert numbers(seen) == [("finetuning", 0)]
    assert not (tmp_path / "pretraining").exists()


# --- checkpoints that do not fit -------------------------------------------------------------------------------------


def test_going_on_from_another_networks_checkpoint_is_refused(finished, again):
    for change in ({"structure": False}, {"aleatoric": False}):
        changed = dataclasses.replace(finished.config, finetuning=phase(3), **change)
        with pytest.raises(InputError, match=r"\.ckpt: is a checkpoint of another network"):
            train(changed, again, resume=True)


@pytest.mark.parametrize("change", [{"structure": False}, {"aleatoric": False}], ids=str)
def test_the_finished_training_of_another_network_is_refused(finished, again, change):
    with pytest.raises(InputError, match="another network"):
        train(dataclasses.replace(finished.config, **change), again, resume=True)


@pytest.mark.parametrize("missing", ["everything", "structure", "encoders"])
def test_beginning_with_another_networks_checkpoint_is_refused(finished, tmp_path, missing):
    given = content(finished.out / "pretraining")[1]
    left = {key: value for key, value in given.items() if missing not in key and missing != "everything"}
    path = tmp_path / "other.ckpt"
    torch.save({"epoch": 0, "global_step": 2, "state_dict": left or {"network.stem.weight": torch.zeros(3)}}, path)
    with pytest.raises(InputError, match=r"other\.ckpt"):
        train(dataclasses.replace(finished.config, finetuning=phase(1)), tmp_path / "out", pretrained=path)


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.unlink(), lambda path: path.write_bytes(b""), lambda path: path.write_text("no checkpoint")],
    ids=["missing", "empty", "text"],
)
def test_beginning_with_what_is_no_checkpoint_is_refused(finished, tmp_path, damage):
    path = tmp_path / "some.ckpt"
    path.write_bytes(b"-")
    damage(path)
    with pytest.raises(InputError, match=r"some\.ckpt: is no checkpoint of a training"):
        train(finished.config, tmp_path / "out", pretrained=path)


@pytest.mark.parametrize("name", ["pretraining", "finetuning"])
def test_going_on_from_what_is_no_checkpoint_is_refused(finished, again, name):
    (again / name / "last.ckpt").write_text("no checkpoint")
    with pytest.raises(InputError, match=rf"{name}.last\.ckpt: is no checkpoint of a training"):
        train(finished.config, again, resume=True)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def config_file(tiny, tmp_path):
    """Writes a configuration of 50 steps of each phase, with changes."""

    def write(**changes):
        path = tmp_path / "small.yaml"
        config = as_dict(tiny(**{"held_out": 0.0, "pretraining": 50, "finetuning": 50} | changes))
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def invoke(*arguments):
    return CliRunner().invoke(command.main, list(map(str, arguments)))


def test_command_writes_weights_that_can_be_used(real, config_file, tmp_path, monkeypatch):
    trained = []

    def keep(*args, **options):
        trained.append(train_dual(*args, **options))
        return trained[0]

    monkeypatch.setattr(command, "train_dual", keep)
    out = tmp_path / "deep" / "out"
    result = invoke(config_file(dropout=0.5), "--out", out, "--steps", 1, "--seed", 5)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(out / "weights.safetensors")
    config = trained[0].config
    assert (config.pretraining.steps, config.finetuning.steps, config.seed) == (1, 1, 5)
    assert load_weights(out / "weights.safetensors", kind=DualArchitecture)[1] == DualArchitecture(True, 0.5, True)
    network = load_dual_encoder(out / "weights.safetensors")
    for key, value in trained[0].network.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert network.state_dict()[key].equal(expected), key
    with torch.no_grad():
        assert network(torch.randn(1, 1, 32, 32), "sar").embedding.shape == (1, 128, 8, 8)


def test_command_goes_on_in_the_folder_of_its_file(config_file, tmp_path, monkeypatch, seen):
    monkeypatch.chdir(tmp_path)
    path, out = config_file(aleatoric=False), tmp_path / "work" / "training" / "small"
    assert invoke(path, "--steps", 1, "--resume").exit_code == 0, "there is nothing yet"
    assert invoke(path, "--steps", 1, "--resume").exit_code == 0, "all is done"
    assert numbers(seen) == [("pretraining", 0), ("finetuning", 0)]
    assert invoke(path, "--steps", 2, "--resume").exit_code == 0
    assert numbers(seen)[2:] == [("pretraining", 1), ("finetuning", 1)]
    assert (out / "weights.safetensors").exists()


def test_command_leaves_out_what_the_file_does(config_file, tmp_path, seen):
    assert invoke(config_file(pretraining=0), "--out", tmp_path / "out", "--steps", 1).exit_code == 0
    assert numbers(seen) == [("finetuning", 0)]


PLAIN = "sources: SOURCES, pretraining: {steps: 1, rate: 0.1}, finetuning: {steps: 1, rate: 0.1}"


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (None, 1, "bad.yaml: cannot be read"),
        ("a: [", 1, "bad.yaml: is not YAML"),
        ("", 2, "bad.yaml: is None, not a mapping"),
        ("sources: SOURCES", 2, "bad.yaml: lacks pretraining, finetuning"),
        ("{PLAIN, epochs: 3}", 2, "bad.yaml: knows no epochs"),
        ("{PLAIN, window: 2}", 2, "bad.yaml: window is 2, must be odd"),
        ("{sources: [{folder: none}], PHASES}", 1, "none: no such folder"),
        ("{PLAIN, geometry: {optical: 50}}", 2, "bad.yaml: geometry: sides (50, 192) must be multiples of 16"),
    ],
    ids=["missing", "no yaml", "empty", "no phases", "key", "window", "no folder", "side"],
)
def test_command_says_in_one_line_what_is_wrong(folder, tmp_path, monkeypatch, text, code, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        text = text.replace("PLAIN", PLAIN).replace("PHASES", PLAIN.split(", ", 1)[1])
        (tmp_path / "bad.yaml").write_text(text.replace("SOURCES", f"[{{folder: {folder}}}]"))
    result = invoke("bad.yaml", "--out", "out")
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.output
    assert result.stderr.splitlines()[-1] == errors[0]
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_command_says_that_a_folder_is_a_file(config_file, tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke(config_file(), "--out", tmp_path / "file")
    assert result.exit_code == 1
    assert f"Error: {tmp_path / 'file'}: cannot be made" in result.stderr


@pytest.mark.parametrize("arguments", [("--steps", 0), ("--seed", -1), ("--colour", "blue")])
def test_command_refuses_options_that_make_no_sense(config_file, tmp_path, arguments):
    result = invoke(config_file(), "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr
    assert not (tmp_path / "out").exists()
