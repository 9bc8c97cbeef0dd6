"""training.run and pipelines.train_matcher: whole trainings, tiny; every YAML file that ships is one of them."""

import csv
import dataclasses
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from sn9reg.training.dataset import Source, ValidationSamples, collate, load
from sn9reg.training.run import train
from support.pairs import write_manifest, write_pairs
from torch.utils.data import DataLoader

from pipelines import train_matcher
from sn9reg.errors import ConfigError
from sn9reg.raster.degradation import Degradation
from sn9reg.score.metrics import cmr
from sn9reg.training import task as task_module
from sn9reg.training.config import Choice, Optimiser, TrainingConfig, as_dict, read_config
from sn9reg.training.sample import Geometry
from sn9reg.training.task import MatchingTask
from sn9reg.weights.store import Architecture, load_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning advises on speed

FOLDER = Path(__file__).parents[2] / "pipelines" / "training"
FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if "\nloss:" in path.read_text()]
SMALL = Geometry(64, 32)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Six registered pairs of 72 px."""
    return write_pairs(tmp_path_factory.mktemp("pairs"), side=72)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    """Rasters of 140 px."""
    return write_manifest(tmp_path_factory.mktemp("archive"), side=140)


@pytest.fixture
def tiny(folder):
    """A configuration of a second, with changes."""

    def make(**changes):
        network = Choice("slim-unet", {"widths": [8, 8, 8]})
        held_out = changes.pop("held_out", 0.5)
        return TrainingConfig(
            **{
                "network": network,
                "loss": Choice("soft-ce"),
                "sources": (Source(str(folder), held_out=held_out),),
                "geometry": SMALL,
                "validation": SMALL,
                "steps": 2,
                "batch": 2,
                "validate_every": 1,
                "precision": "32-true",
                "workers": 0,
            }
            | changes
        )

    return make


@pytest.fixture
def seen(monkeypatch):
    """(step, optical images) of every batch trained on."""
    batches, original = [], MatchingTask.training_step

    def training_step(self, batch, index):
        batches.append((self.global_step, batch.optical.clone()))
        return original(self, batch, index)

    monkeypatch.setattr(MatchingTask, "training_step", training_step)
    return batches


@pytest.fixture
def states(monkeypatch):
    """The network's state after every batch."""
    copies, original = [], MatchingTask.on_train_batch_end

    def on_train_batch_end(self, outputs, batch, index):
        copies.append(state(self.network))
        return original(self, outputs, batch, index)

    monkeypatch.setattr(MatchingTask, "on_train_batch_end", on_train_batch_end)
    return copies


def state(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def fail_on(monkeypatch, error, batches):
    """Training raises the error in these batches, counted over all attempts; the sizes of all batches."""
    sizes, original = [], MatchingTask.training_step

    def training_step(self, batch, index):
        sizes.append(len(batch.optical))
        if len(sizes) - 1 in batches:
            raise error
        return original(self, batch, index)

    monkeypatch.setattr(MatchingTask, "training_step", training_step)
    return sizes


def metrics(out, name="csv"):
    with (out / name / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def step_of(out, name="last"):
    return torch.load(out / f"{name}.ckpt", weights_only=False)["global_step"]


# every configuration that ships


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_that_ships_trains_and_its_weights_can_be_used(path, folder, manifest, tmp_path, monkeypatch):
    config, trained = read_config(path), []

    def small(source):
        where = {"folder": str(folder)} if source.folder else {"manifest": str(manifest)}
        return dataclasses.replace(source, **where, held_out=0.5 if source.held_out else 0.0)

    config = dataclasses.replace(
        config,
        sources=tuple(small(source) for source in config.sources),
        geometry=dataclasses.replace(config.geometry, optical=64, sar=32),
        validation=SMALL,
        steps=2,
        batch=2,
        accumulate=1,
        validate_every=1,
        workers=0,
        precision="32-true",
    )

    def keep(*args, **options):
        trained.append(train(*args, **options))
        return trained[0]

    monkeypatch.setattr(train_matcher, "train", keep)
    file = train_matcher.run(config, tmp_path / "out")
    assert file == tmp_path / "out" / "weights.safetensors"
    network, architecture = load_weights(file)
    similarity = trained[0].loss.similarity
    assert architecture == Architecture(config.network.name, config.shared, similarity, config.network.options)
    kept = trained[0].kept().state_dict()
    assert kept.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        expected = kept[key].half().float() if kept[key].is_floating_point() else kept[key]
        assert value.equal(expected), key
    assert trained[0].global_step == 2
    assert 0 <= float(metrics(tmp_path / "out")[-1]["quality"]) <= 1


# what is left behind


def test_checkpoints_metrics_and_events_are_left_behind(tiny, tmp_path):
    task = train(tiny(), tmp_path, progress=False)
    assert task.global_step == 2
    assert step_of(tmp_path) == 2
    assert step_of(tmp_path, "best") in (1, 2)
    rows = metrics(tmp_path)
    assert {"step", "loss", "quality", "val0/cmr1", "val0/cmr3", "val0/l2"} <= rows[0].keys()
    assert sum(row["quality"] != "" for row in rows) == 2
    assert [float(row["loss"]) > 0 for row in rows if row["loss"]] == [True]
    (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert events.stat().st_size > 500


def test_each_source_with_pairs_held_out_is_validated_by_itself(tiny, folder, tmp_path):
    sources = (Source(str(folder)), *(Source(str(folder), held_out=0.5) for _ in range(2)))
    train(tiny(sources=sources, steps=1), tmp_path, progress=False)
    assert {"val0/cmr1", "val1/cmr1"} < metrics(tmp_path)[0].keys()
    assert "val2/cmr1" not in metrics(tmp_path)[0]


def test_the_same_configuration_trains_the_same_network(tiny, tmp_path):
    one, other = (train(tiny(), tmp_path / name, progress=False) for name in "ab")
    assert equal(state(one.kept()), state(other.kept()))
    assert not equal(state(one.kept()), state(train(tiny(seed=1), tmp_path / "c", progress=False).kept()))


def test_the_best_weights_are_kept_not_the_last(tiny, tmp_path, monkeypatch, states):
    qualities = iter([0.2, 0.9, 0.1])
    original = MatchingTask.on_validation_epoch_end

    def on_validation_epoch_end(self):
        now = next(qualities)
        monkeypatch.setattr(task_module, "cmr", lambda errors, radius: now)
        original(self)

    monkeypatch.setattr(MatchingTask, "on_validation_epoch_end", on_validation_epoch_end)
    task = train(tiny(steps=3), tmp_path, progress=False)
    assert (step_of(tmp_path), step_of(tmp_path, "best")) == (3, 2)
    assert equal(state(task.kept()), states[1])
    assert not equal(states[1], states[2])


def test_without_pairs_held_out_the_last_weights_are_kept(tiny, tmp_path, states):
    task = train(tiny(held_out=0.0, steps=3, validate_every=2), tmp_path, progress=False)
    assert equal(state(task.kept()), states[2])
    assert not (tmp_path / "best.ckpt").exists()
    assert step_of(tmp_path) == 2, "every so many steps there is one to go on from"


def test_early_stopping_stops(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(task_module, "cmr", lambda errors, radius: 0.5)  # never a gain
    assert train(tiny(steps=20, patience=2), tmp_path / "a", progress=False).global_step == 3
    assert train(tiny(steps=5, patience=0), tmp_path / "b", progress=False).global_step == 5


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_running_mean_of_the_weights_is_what_is_kept(tiny, tmp_path, states, accumulate):
    """Once a step, in however many parts. The decay is below that of the first steps, 2 / 11 and more."""
    config = tiny(average=0.17, steps=3, accumulate=accumulate, validate_every=3)
    task = train(config, tmp_path, progress=False)
    assert task.kept() is task.mean
    steps = states[accumulate - 1 :: accumulate]
    mean = initial(config)
    assert len(steps) == 3
    for now in steps:
        for key, value in mean.items():
            mean[key] = 0.17 * value + 0.83 * now[key] if value.is_floating_point() else now[key]
    kept = state(task.kept())
    for key, value in mean.items():
        torch.testing.assert_close(kept[key], value, rtol=1e-4, atol=1e-6)
    assert not equal(kept, steps[-1])


def initial(config):
    """The network's state before the first step."""
    lightning.seed_everything(config.seed, verbose=False)
    return state(MatchingTask(config).network)


def test_the_running_mean_is_validated_and_the_network_trained(tiny, tmp_path, monkeypatch):
    used, original = set(), MatchingTask.surface

    def surface(self, network, batch):
        used.add((self.training, network is self.mean))
        return original(self, network, batch)

    monkeypatch.setattr(MatchingTask, "surface", surface)
    train(tiny(average=0.9), tmp_path, progress=False)
    assert used == {(True, False), (False, True)}


def test_the_mean_starts_with_a_short_memory(tiny, tmp_path, states):
    config = tiny(average=0.9, steps=1)
    task, before = train(config, tmp_path, progress=False), initial(tiny(average=0.9))
    key = "branches.optical.head.weight"
    torch.testing.assert_close(task.kept().state_dict()[key], before[key] * 2 / 11 + states[0][key] * 9 / 11)


# stopped and gone on with


def test_a_resumed_run_goes_on_and_sees_other_samples(tiny, tmp_path, seen):
    train(tiny(), tmp_path, progress=False)
    first = list(seen)
    assert [step for step, _ in first] == [0, 1]
    task = train(tiny(steps=4), tmp_path, resume=True, progress=False)
    assert task.global_step == 4
    assert step_of(tmp_path) == 4
    rest = seen[2:]
    assert [step for step, _ in rest] == [2, 3]
    assert not any(a.equal(b) for _, one in first for a in one for _, other in rest for b in other)
    assert metrics(tmp_path), "the first run's are still there"
    assert metrics(tmp_path, "csv-2")


def test_resuming_carries_on_with_the_weights(tiny, tmp_path, states):
    train(tiny(optimiser=Optimiser(rate=1e-9)), tmp_path, progress=False)
    train(tiny(optimiser=Optimiser(rate=1e-9), steps=3, seed=5), tmp_path, resume=True, progress=False)
    key = "branches.optical.head.weight"
    torch.testing.assert_close(states[2][key], states[1][key], rtol=0, atol=1e-6)


def test_the_last_checkpoint_is_the_last_also_when_it_is_not_the_best(tiny, tmp_path, monkeypatch):
    falling = iter(np.linspace(1, 0, 100))
    monkeypatch.setattr(task_module, "cmr", lambda errors, radius: float(next(falling)))
    train(tiny(steps=3), tmp_path, progress=False)
    assert (step_of(tmp_path), step_of(tmp_path, "best")) == (3, 1)


def test_resuming_a_finished_run_returns_its_best_weights(tiny, tmp_path, seen):
    first = train(tiny(), tmp_path, progress=False)
    again = train(tiny(), tmp_path, resume=True, progress=False)
    assert len(seen) == 2
    assert equal(state(first.kept()), state(again.kept()))


def test_resuming_where_nothing_is_starts(tiny, tmp_path):
    assert train(tiny(), tmp_path / "new", resume=True, progress=False).global_step == 2


# what goes wrong


def test_a_loss_that_is_no_number_names_the_step(tiny, tmp_path, monkeypatch):
    original = MatchingTask.surface
    monkeypatch.setattr(
        MatchingTask, "surface", lambda self, *args: original(self, *args) * (np.nan if self.global_step == 1 else 1)
    )
    with pytest.raises(ConfigError, match=r"the loss is nan at step 1: lower optimiser\.rate"):
        train(tiny(held_out=0.0), tmp_path, progress=False)


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
]


@pytest.mark.parametrize("error", MEMORY, ids=["gpu", "cpu"])
def test_a_batch_that_does_not_fit_is_halved_and_training_goes_on(tiny, tmp_path, monkeypatch, error):
    sizes = fail_on(monkeypatch, error, {3})
    task = train(tiny(batch=4, steps=4, validate_every=2), tmp_path, progress=False)
    assert sizes == [4, 4, 4, 4, 2, 2, 2, 2], "from the checkpoint after the second step on, in two parts"
    assert task.global_step == 4
    assert task.config.accumulate == 2
    assert task.config.batch == 4


def test_a_batch_is_halved_until_it_fits(tiny, tmp_path, monkeypatch):
    sizes = fail_on(monkeypatch, MEMORY[0], {0, 1})
    task = train(tiny(batch=6, steps=1), tmp_path, progress=False)
    assert sizes == [6, 3, *[1] * 6]
    assert task.global_step == 1


def test_a_fresh_run_out_of_memory_does_not_go_on_from_an_older_one(tiny, tmp_path, monkeypatch):
    train(tiny(steps=1, network=Choice("mcgf")), tmp_path, progress=False)
    sizes = fail_on(monkeypatch, MEMORY[0], {0})
    assert train(tiny(), tmp_path, progress=False).global_step == 2
    assert sizes == [2, 1, 1, 1, 1]


@pytest.mark.parametrize("error", MEMORY, ids=["gpu", "cpu"])
def test_where_not_even_one_pair_fits_that_is_said(tiny, tmp_path, monkeypatch, error):
    sizes = fail_on(monkeypatch, error, range(100))
    with pytest.raises(ConfigError, match=r"not even one pair fits into memory: lower geometry\.optical"):
        train(tiny(batch=4), tmp_path, progress=False)
    assert sizes == [4, 2, 1]


def test_other_errors_pass_through(tiny, tmp_path, monkeypatch):
    sizes = fail_on(monkeypatch, RuntimeError("the sizes do not match"), {0})
    with pytest.raises(RuntimeError, match="the sizes do not match"):
        train(tiny(), tmp_path, progress=False)
    assert len(sizes) == 1


def test_networks_and_losses_that_are_not_there(tiny, tmp_path):
    with pytest.raises(ConfigError, match="there is no network 'resnet'"):
        train(tiny(network=Choice("resnet")), tmp_path, progress=False)
    with pytest.raises(ConfigError, match="no loss 'dice'"):
        train(tiny(loss=Choice("dice")), tmp_path, progress=False)


# does it learn


def test_a_tiny_network_learns_to_find_a_reversed_and_noisy_template(tmp_path):
    write_pairs(tmp_path / "seen", 30, 72)
    config = TrainingConfig(
        Choice("slim-unet", {"widths": [8, 16, 16]}),
        Choice("soft-ce"),
        (Source(str(tmp_path / "seen")),),
        geometry=SMALL,
        optimiser=Optimiser(rate=4e-3, warmup=5),
        steps=60,
        batch=8,
        validate_every=60,
        precision="32-true",
        workers=0,
    )
    other = load(Source(str(write_pairs(tmp_path / "new", 40, 64, seed=1))), 0, 64)[0]
    (batch,) = DataLoader(ValidationSamples(other, SMALL, Degradation()), 40, collate_fn=collate)
    rates = {}
    for steps in (1, 60):
        task = train(dataclasses.replace(config, steps=steps), tmp_path / str(steps), progress=False).eval()
        with torch.no_grad():
            best = task.surface(task.kept(), batch).flatten(1).argmax(dim=1)
        found = torch.stack([best // 33, best % 33], dim=1)
        rates[steps] = cmr((found - batch.place).double().norm(dim=1).numpy(), 1)
    assert rates[1] < 0.2, "by chance it is 1 in 200"
    assert rates[60] > 0.8


# the command line


@pytest.fixture
def config_file(tiny, tmp_path):
    """A configuration of 50 steps as a file."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(as_dict(tiny(steps=50))))
    return path


def invoke(*arguments):
    return CliRunner().invoke(train_matcher.main, list(map(str, arguments)))


def test_command_trains_for_as_many_steps_as_asked(config_file, tmp_path):
    result = invoke(config_file, "--out", tmp_path / "deep" / "out", "--steps", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(tmp_path / "deep" / "out" / "weights.safetensors")
    assert load_weights(tmp_path / "deep" / "out" / "weights.safetensors")[1].network == "slim-unet"
    assert step_of(tmp_path / "deep" / "out") == 2
    assert invoke(config_file, "--out", tmp_path / "deep" / "out", "--steps", 3, "--resume").exit_code == 0
    assert step_of(tmp_path / "deep" / "out") == 3


def test_command_names_its_folder_by_the_file(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke(config_file, "--steps", 1).exit_code == 0
    assert (tmp_path / "work" / "training" / "small" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (None, 1, "bad.yaml: cannot be read"),
        ("a: [", 1, "bad.yaml: is not YAML"),
        ("steps: 3", 2, "bad.yaml: lacks network, loss, sources"),
        ("{network: {name: x}, loss: {name: y}, sources: [{folder: none}]}", 1, "none: no such folder"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(tmp_path, monkeypatch, text, code, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "bad.yaml").write_text(text)
    result = invoke("bad.yaml", "--out", "out")
    assert result.exit_code == code
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert isinstance(result.exception, SystemExit)


def test_command_takes_no_run_of_no_steps(config_file):
    result = invoke(config_file, "--steps", 0)
    assert result.exit_code == 2
    assert "--steps" in result.stderr


def test_another_seed_is_another_training(config_file, tmp_path):
    for name, options in (("a", ()), ("b", ("--seed", 0)), ("c", ("--seed", 1))):
        assert invoke(config_file, "--out", tmp_path / name, "--steps", 1, *options).exit_code == 0
    first, same, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "abc")
    assert first == same
    assert first != other
