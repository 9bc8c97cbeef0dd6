"""training.descriptor_task, descriptor_run and pipelines.train_descriptors: whole trainings of descriptors, tiny."""

import csv
import dataclasses
import math
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import timm
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import save_file
from sn9reg.training.dataset import Source
from sn9reg.training.descriptor_config import DescriptorConfig
from sn9reg.training.descriptor_data import PatchPairs
from sn9reg.training.descriptor_run import train_descriptor
from sn9reg.training.descriptor_task import DescriptorTask
from support.pairs import write_pairs
from torch.nn.functional import normalize

from pipelines import train_descriptors as command
from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.descriptors.network import DenseFusion
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.training import descriptor_run
from sn9reg.training.config import as_dict
from sn9reg.weights.store import DescriptorArchitecture, load_descriptor

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning advises on speed

NETWORK = {"width": 0.35, "descriptor": 32}
PATCH = PatchLayout(32, 1.0, "grey")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four registered pairs of 72 px."""
    return write_pairs(tmp_path_factory.mktemp("pairs"), 4, 72)


@pytest.fixture(scope="module")
def tiny(folder):
    """A configuration of a second, with changes."""

    def make(held_out=0.5, **changes):
        small = {"sources": (Source(str(folder), held_out=held_out),), "network": NETWORK, "patch": PATCH}
        small |= {"image": 64, "places": 2, "apart": 4.0, "batch": 4, "steps": 2, "validate_every": 1}
        return DescriptorConfig(**small | {"precision": "32-true", "workers": 0} | changes)

    return make


class Step(NamedTuple):
    """What a training step began with."""

    number: int
    batch: PatchPairs
    rate: float
    state: dict[str, torch.Tensor]


@contextmanager
def watched():
    """All steps that are trained meanwhile."""
    steps, original = [], DescriptorTask.training_step

    def training_step(self, batch, index):
        rate = self.optimizers().param_groups[0]["lr"]
        steps.append(Step(self.global_step, batch, rate, state(self.network)))
        return original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DescriptorTask, "training_step", training_step)
        yield steps


@pytest.fixture
def seen():
    with watched() as steps:
        yield steps


class Finished(NamedTuple):
    config: DescriptorConfig
    out: Path
    steps: list[Step]
    state: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A training of three steps, in chunks, with a falling rate. Do not write into its folder."""
    config, out = tiny(steps=3, chunk=2, schedule="cosine"), tmp_path_factory.mktemp("finished")
    with watched() as steps:
        task = train(config, out)
    return Finished(config, out, steps, state(task.network))


@pytest.fixture
def again(finished, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(finished.out, tmp_path / "again")


def train(config, out, **options):
    return train_descriptor(config, out, progress=False, **options)


def state(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def content(out, name="last"):
    """A checkpoint's step, and its network's state."""
    checkpoint = torch.load(out / f"{name}.ckpt", weights_only=True)
    named = checkpoint["state_dict"].items()
    return checkpoint["global_step"], {key.removeprefix("network."): value for key, value in named}


def metrics(out, name="csv"):
    with (out / name / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


class Alone(DescriptorTask):
    """A task without a trainer, whose optimiser is plain descent; what it logs is kept."""

    def __init__(self, config, rate=0.0):
        super().__init__(config)
        self.logged, self.descent = {}, torch.optim.Adam(self.network.parameters(), lr=rate)

    def optimizers(self):
        return self.descent

    def lr_schedulers(self):
        return torch.optim.lr_scheduler.LambdaLR(self.descent, lambda step: 1.0)

    def manual_backward(self, loss):
        loss.backward()

    def log(self, name, value, **options):
        self.logged[name] = float(value)


def batch_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return PatchPairs(*(torch.randn(count, 1, 32, 32, generator=generator) for _ in "os"))


def alone(config, rate=0.0):
    torch.manual_seed(0)
    return Alone(config, rate)


# --- the gradient of a batch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [3, 7])
def test_a_batch_in_chunks_has_the_loss_and_the_gradients_of_the_whole(tiny, chunk):
    """Batch normalisation, which sees a chunk at a time, does not normalise here."""
    whole, parts = (alone(tiny(batch=8, chunk=size)) for size in (0, chunk))
    for task in (whole, parts):
        task.network.eval()
        task.training_step(batch_of(8), 0)
    assert parts.logged["loss"] == pytest.approx(whole.logged["loss"], rel=1e-5)
    expected = dict(whole.network.named_parameters())
    assert expected["stem.weight"].grad.abs().max() > 1e-4
    for name, parameter in parts.network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-3, msg=name)


def test_chunks_that_are_the_whole_batch_change_nothing(tiny):
    whole, parts = (alone(tiny(batch=8, chunk=size)) for size in (0, 8))
    for task in (whole, parts):
        task.training_step(batch_of(8), 0)
    for one, other in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        assert one.grad.equal(other.grad)


def test_no_more_than_a_chunk_is_described_at_once(tiny):
    task, sizes = alone(tiny(batch=8, chunk=3)), []
    task.network.register_forward_pre_hook(lambda network, given: sizes.append(len(given[0])))
    task.training_step(batch_of(8), 0)
    assert sizes == [6, 6, 4] * 2


def test_a_step_forgets_the_gradients_of_the_one_before(tiny):
    for chunk in (0, 2):
        task = alone(tiny(chunk=chunk))
        task.network.eval()
        gradients = []
        for _ in range(2):
            task.training_step(batch_of(4), 0)
            gradients.append(task.network.fusion.weight.grad.clone())
        torch.testing.assert_close(*gradients)


def test_optical_and_sar_patches_are_normalised_together(tiny):
    task, given = alone(tiny()), []
    task.network.register_forward_pre_hook(lambda network, args: given.append(args[0]))
    batch = batch_of(4)
    task.training_step(batch, 0)
    (together,) = given
    assert together.equal(torch.cat(batch))


def test_a_tiny_network_learns_its_patches_by_heart(tiny):
    task, batch = alone(tiny(), rate=3e-3), batch_of(8)
    losses = []
    for index in range(12):
        task.training_step(batch, index)
        losses.append(task.logged["loss"])
    assert losses[0] > 0.8
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training_before_the_weights_are_spoilt(tiny, chunk, value):
    task, batch = alone(tiny(chunk=chunk), rate=0.1), batch_of(4)
    before = [parameter.clone() for parameter in task.network.parameters()]
    with pytest.raises(ConfigError, match="the loss is nan at step 0: lower the rate"):
        task.training_step(batch._replace(sar=batch.sar * value), 0)
    assert all(one.equal(other) for one, other in zip(before, task.network.parameters(), strict=True))


# --- the rate --------------------------------------------------------------------------------------------------------


def rates(config):
    made = alone(config).configure_optimizers()
    optimiser, scheduler = made["optimizer"], made["lr_scheduler"]
    assert isinstance(optimiser, torch.optim.Adam)
    used = []
    for _ in range(config.steps):
        used.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return np.array(used)


def test_the_rate_is_constant_as_in_the_paper(tiny):
    np.testing.assert_array_equal(rates(tiny(steps=20)), [1e-3] * 20)


def test_the_cosine_rises_shortly_and_ends_at_nothing(tiny):
    used = rates(tiny(steps=50, rate=0.5, schedule="cosine"))
    assert used[0] == pytest.approx(0.5 / 6)
    assert 3 <= np.argmax(used) <= 6
    assert 0.48 < used.max() <= 0.5
    assert (np.diff(used[6:]) < 0).all()
    assert used[25] == pytest.approx(0.25)
    assert used[-1] < 0.001


def test_the_rate_is_stepped_once_a_step(finished):
    assert [step.rate for step in finished.steps] == pytest.approx(rates(finished.config))
    assert len({step.rate for step in finished.steps}) == 3


# --- validation ------------------------------------------------------------------------------------------------------


def test_found_is_the_share_whose_nearest_of_all_that_are_held_out_is_their_own(tiny):
    """Three of five; within the second batch alone both would be right."""
    task, sar = alone(tiny()), torch.eye(5)
    optical = torch.eye(5)
    optical[0], optical[3] = normalize(torch.tensor([[0.1, 1, 0, 0, 0], [1, 0, 0, 0.9, 0]]))
    task.held_out = [(optical[:3], sar[:3]), (optical[3:], sar[3:])]
    task.on_validation_epoch_end()
    assert task.logged["found"] == pytest.approx(3 / 5)
    assert task.held_out == []


def test_validation_logs_found_after_each_so_many_steps(finished):
    found = [float(row["found"]) for row in metrics(finished.out) if row["found"]]
    assert len(found) == 3
    assert all(value in (0, 0.25, 0.5, 0.75, 1) for value in found), "of two pairs with two places each"


def test_the_best_weights_are_kept_not_the_last(tiny, tmp_path, monkeypatch):
    found = iter([0.2, 0.9, 0.5])

    def on_validation_epoch_end(self):
        self.held_out.clear()
        self.log("found", next(found))

    monkeypatch.setattr(DescriptorTask, "on_validation_epoch_end", on_validation_epoch_end)
    task = train(tiny(steps=3), tmp_path)
    (step, best), (last_step, last) = content(tmp_path, "best"), content(tmp_path)
    assert (step, last_step) == (2, 3)
    assert equal(state(task.network), best)
    assert not equal(best, last)


def test_without_pairs_held_out_the_last_weights_are_kept(tiny, tmp_path):
    task = train(tiny(held_out=0.0), tmp_path)
    step, last = content(tmp_path)
    assert step == 2
    assert equal(state(task.network), last)
    assert not (tmp_path / "best.ckpt").exists()


# --- a run and what is left behind -----------------------------------------------------------------------------------


def test_checkpoints_metrics_and_events_are_left_behind(finished):
    assert content(finished.out)[0] == 3
    assert content(finished.out, "best")[0] in (1, 2, 3)
    losses = [float(row["loss"]) for row in metrics(finished.out) if row["loss"]]
    assert losses
    assert all(0 < loss < 3 for loss in losses)
    (events,) = (finished.out / "tensorboard").glob("events.out.tfevents.*")
    assert b"found" in events.read_bytes()


def test_a_step_has_as_many_pairs_of_patches_as_the_batch(finished):
    assert [step.number for step in finished.steps] == [0, 1, 2]
    for step in finished.steps:
        assert step.batch.optical.shape == step.batch.sar.shape == (4, 1, 32, 32)


def test_without_resuming_a_run_starts_anew_and_trains_the_same_network(finished, again, seen):
    task = train(finished.config, again)
    assert [step.number for step in seen] == [0, 1, 2]
    assert equal(state(task.network), finished.state)


def test_a_resumed_run_goes_on_with_the_weights_and_other_samples(finished, again, seen):
    task = train(dataclasses.replace(finished.config, steps=4), again, resume=True)
    (step,) = seen
    assert step.number == 3
    assert equal(step.state, content(finished.out)[1])
    assert not any(step.batch.optical.equal(before.batch.optical) for before in finished.steps)
    assert task.global_step == content(again)[0] == 4
    assert metrics(again), "the first run's are still there"
    assert metrics(again, "csv-3")


def test_the_layout_is_fitted_before_the_training_but_not_when_it_is_resumed(tiny, tmp_path, monkeypatch, seen):
    fitted, original = [], DenseFusion.fit_layout

    def fit_layout(self, optical, sar):
        original(self, optical, sar)
        fitted.append((len(optical), len(sar), self.layout.weight.clone()))

    monkeypatch.setattr(descriptor_run, "_FIRST", 2)
    monkeypatch.setattr(DenseFusion, "fit_layout", fit_layout)
    config = tiny(network=NETWORK | {"cells": 2}, steps=1)
    train(config, tmp_path)
    ((optical, sar, weight),) = fitted
    assert optical == sar == 2 * config.batch
    assert seen[0].state["layout.weight"].equal(weight)
    train(dataclasses.replace(config, steps=2), tmp_path, resume=True)
    assert len(fitted) == 1


# --- ImageNet --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A file with the weights of a timm MobileNetV2 that nobody trained, and its state."""
    path = tmp_path_factory.mktemp("imagenet") / "mobilenet.safetensors"
    torch.manual_seed(9)
    known = timm.create_model("mobilenetv2_035", pretrained=False).state_dict()
    save_file(known, path)
    return path, known


def test_a_training_begins_with_the_weights_of_the_file(tiny, tmp_path, imagenet, seen):
    path, known = imagenet
    train(tiny(imagenet=str(path), steps=1), tmp_path)
    begun = seen[0].state
    torch.testing.assert_close(begun["stem.weight"], known["conv_stem.weight"].sum(dim=1, keepdim=True))
    assert begun["blocks.6.0.conv_pwl.weight"].equal(known["blocks.6.0.conv_pwl.weight"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"weights\.safetensors: no such weights file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"weights\.safetensors: is no whole safetensors file"),
        (lambda path: path.write_bytes(b""), r"weights\.safetensors: is no whole safetensors file"),
        (lambda path: torch.save({}, path), r"weights\.safetensors: is no whole safetensors file"),
    ],
    ids=["missing", "cut", "empty", "pickled"],
)
def test_a_file_that_holds_no_weights_is_said(tiny, tmp_path, imagenet, damage, message):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(imagenet[0].read_bytes())
    damage(path)
    with pytest.raises(InputError, match=message):
        train(tiny(imagenet=str(path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_width_are_refused(tiny, tmp_path, imagenet):
    config = tiny(imagenet=str(imagenet[0]), network={"width": 0.5})
    with pytest.raises(InputError, match="no weights of a MobileNetV2 of this width"):
        train(config, tmp_path)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def config_file(tiny, tmp_path):
    """A configuration of 50 steps as a file."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(as_dict(tiny(steps=50))))
    return path


def invoke(*arguments):
    return CliRunner().invoke(command.main, list(map(str, arguments)))


def test_command_writes_weights_that_can_be_used(config_file, tmp_path, monkeypatch):
    trained = []

    def keep(*args, **options):
        trained.append(train_descriptor(*args, **options))
        return trained[0]

    monkeypatch.setattr(command, "train_descriptor", keep)
    out = tmp_path / "deep" / "out"
    result = invoke(config_file, "--out", out, "--steps", 2, "--seed", 5)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(out / "weights.safetensors")
    assert (trained[0].config.steps, trained[0].config.seed) == (2, 5)
    network, architecture = load_descriptor(out / "weights.safetensors")
    assert architecture == DescriptorArchitecture(PATCH, NETWORK)
    for key, value in trained[0].network.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert network.state_dict()[key].equal(expected), key
    with torch.no_grad():
        assert network(torch.randn(2, 1, 32, 32)).shape == (2, 32)


def test_command_goes_on_in_the_folder_of_its_file(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "work" / "training" / "small"
    assert invoke(config_file, "--steps", 1, "--resume").exit_code == 0, "there is nothing yet"
    assert invoke(config_file, "--steps", 2, "--resume").exit_code == 0
    assert content(out)[0] == 2
    assert (out / "csv-1").is_dir()
    assert (out / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (None, 1, "bad.yaml: cannot be read"),
        ("a: [", 1, "bad.yaml: is not YAML"),
        ("", 2, "bad.yaml: is None, not a mapping"),
        ("steps: 3", 2, "bad.yaml: lacks sources"),
        ("{sources: SOURCES, epochs: 3}", 2, "bad.yaml: knows no epochs"),
        ("{sources: SOURCES, batch: 5, places: 2}", 2, "bad.yaml: batch is 5, must be at least 2 and a multiple"),
        ("{sources: [{folder: none}]}", 1, "none: no such folder"),
        ("{sources: SOURCES, patch: {side: 40}}", 2, "side is 40, must be a multiple of 32"),
        ("{sources: SOURCES, network: {width: 0.4}}", 2, "width is 0.4, not one of"),
        ("{sources: SOURCES, imagenet: none.safetensors}", 1, "none.safetensors: no such weights file"),
    ],
    ids=["missing", "no yaml", "empty", "no sources", "key", "batch", "no folder", "side", "width", "imagenet"],
)
def test_command_says_in_one_line_what_is_wrong(folder, tmp_path, monkeypatch, text, code, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
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
    result = invoke(config_file, "--out", tmp_path / "file")
    assert result.exit_code == 1
    assert f"Error: {tmp_path / 'file'}: cannot be made" in result.stderr


@pytest.mark.parametrize("arguments", [("--steps", 0), ("--seed", -1), ("--colour", "blue")])
def test_command_refuses_options_that_make_no_sense(config_file, tmp_path, arguments):
    result = invoke(config_file, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr
    assert not (tmp_path / "out").exists()
