"""What holds for the training of every family: one loop, one reader of configurations, one command."""

import hashlib
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from support.dual import BANDS
from support.pairs import write_manifest, write_pairs
from torch import nn
from torch.nn.functional import normalize

from pipelines import train as command
from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.dual_encoder.network import CELL, WIDTHS, Encoded
from sn9reg.training import descriptors, dual_encoder
from sn9reg.training.config import FAMILIES, Optimiser, Plan, as_dict, read
from sn9reg.training.dense import DenseTask
from sn9reg.training.loop import Task, rate, train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning advises on speed

FILES = sorted((Path(__file__).parents[2] / "pipelines" / "training").glob("*.yaml"))
PHASE = {"batch": 2, "accumulate": 1, "validate_every": 2, "optimiser": {"rate": 0.001}}
STEPS = {"batch": 4, "accumulate": 1, "validate_every": 2}
DETECTOR = {"optical_encoder": "tu-test_resnet", "sar_encoder": "tu-test_resnet", "depth": 2, "decoder": [8, 8]}
# What makes any file of a family a matter of seconds.
SMALL = {
    "dense": {"geometry": {"optical": 64, "sar": 32}, "validation": {"optical": 64, "sar": 32}, **STEPS},
    "descriptors": {
        "network": {"width": 0.35, "descriptor": 32}, "patch": {"side": 32}, "stem": None, "image": 64, "rim": 24,
        "places": 2, "apart": 4.0, **STEPS,
    },
    "dual-encoder": {"geometry": {"optical": 48, "sar": 32}, "cells": 8, "pretraining": PHASE, "finetuning": PHASE},
    "keypoints": {
        "network": DETECTOR, "finds": "optical", "tile": 32, "sigma": 5.0, "batch": 2, "samples": 4, "scenes": [],
        "validate": [],
    },
}  # fmt: skip
COMMON = {"sources": [{"folder": "pairs", "held_out": 0.5}], "precision": "32-true", "workers": 0}
NETWORK = {"name": "slim-unet", "options": {"widths": [8, 8]}}
DENSE = {"network": NETWORK, "shared": True, "loss": {"name": "soft-ce"}}


def length(family, steps):
    if family == "dual-encoder":
        return {f"{name}.steps": steps for name in ("pretraining", "finetuning")}
    return {"epochs": steps // 2} if family == "keypoints" else {"steps": steps}


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    """A data root with a few pairs, a manifest, a teacher, and nothing else. Layouts of patches are learned quickly."""
    root = tmp_path_factory.mktemp("data")
    write_pairs(root / "pairs", 6, 72)
    write_manifest(root / "meow", 140)
    (root / "weights").mkdir()
    shipped = FILES[0].parents[2] / "sn9reg" / "weights" / "slim-unet.safetensors"
    shutil.copy(shipped, root / "weights" / "slim-unet-teacher.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SN9REG_DATA", str(root))
        patch.setattr(descriptors, "_FIRST", 2)
        yield root


@pytest.fixture
def configured(tmp_path, root):
    """A small configuration of a family, with changes."""

    def make(family, steps=2, **changes):
        content = COMMON | SMALL[family] | {"train": family} | (DENSE if family == "dense" else {})
        path = tmp_path / f"{family}.yaml"
        path.write_text(yaml.safe_dump(content))
        return read(path, **length(family, steps), **changes)

    return make


class Small(nn.Module):
    """What training needs of a dual encoder."""

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleDict({kind: nn.Conv2d(BANDS[kind], n, CELL, CELL) for kind, n in WIDTHS.items()})
        self.project = nn.ModuleDict({kind: nn.Conv2d(n, 16, 1) for kind, n in WIDTHS.items()})
        self.log_variance = nn.Parameter(torch.tensor([1.0, 4.0]))

    def forward(self, image, modality):
        features = self.encoders[modality](image).relu()
        return Encoded(features, normalize(self.project[modality](features), dim=1), features[:, :1].sigmoid())

    def confidences(self, optical, sar):
        return 1 - optical.uncertainty / 2, 1 - sar.uncertainty / 2


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(dual_encoder, "build", lambda options: Small())


@pytest.fixture
def seen(monkeypatch):
    """The digest of the batch of every step."""
    batches = []
    monkeypatch.setattr(Task, "on_train_batch_start", lambda self, batch, index: batches.append(digest(batch)))
    return batches


def digest(batch):
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in batch)).hexdigest()


def weights(task):
    return {key: value.clone() for key, value in task.network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_that_ships_is_read_also_from_plain_values_and_its_network_and_data_made(path, tmp_path):
    family = yaml.safe_load(path.read_text())["train"]
    source = {"folder": "pairs", "zoom": [0.9, 1.5]}
    if path.stem == "meow":
        source = {"manifest": "meow/manifest.csv", "longitude": 10.0, "held_out": 0.5}
    stage = read(path, sources=[source], workers=0, **SMALL[family], **length(family, 2)).stages()[-1]
    assert next(stage.task(stage.plan).network.parameters()).requires_grad
    assert len(next(iter(stage.batches(stage.plan, 0)))) > 1
    config = read(path)
    assert config.family == family
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(as_dict(config)))
    assert read(tmp_path / "again.yaml") == config


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, "there is no option colour; there are: "),
        ({"seed": "one"}, "seed is 'one'"),
        ({"workers": -1}, "workers is -1"),
        ({"precision": "64"}, "precision is '64'"),
        ({"sources": [{}]}, "either a folder or a manifest"),
        ({"sources": [{"folder": "pairs", "manifest": "m"}]}, "either a folder or a manifest"),
        ({"sources": [{"folder": "pairs", "zoom": [2.0, 1.0]}]}, "smaller number"),
        ({"sources": [{"folder": "pairs", "held_out": 1.0}]}, "sources[0].held_out is 1.0"),
        ({"sources": []}, "there is nothing to train on"),
        ({"sources": [{"folder": "pairs", "weight": 0}]}, "there is nothing to train on"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(family, change, words, configured, tmp_path):
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/{family}\.yaml.*{re.escape(words)}"):
        configured(family, **change)


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        read(tmp_path / "none.yaml")
    for text, error, words in (
        ("a: [", InputError, "is not YAML"),
        ("a: " + "[" * 500, InputError, "is not YAML"),
        ("a: " + "1" * 5000, InputError, "is not YAML"),
        ("train: dense\nseed: " + "1" * 400, ConfigError, "seed|is missing"),
        ("- 1", ConfigError, "not a mapping"),
        ("steps: 2", ConfigError, "train is None, not one of dense, keypoints"),
        ("train: dense", ConfigError, "is missing"),
    ):
        (tmp_path / "file.yaml").write_text(text)
        with pytest.raises(error, match=rf"file\.yaml.*{words}"):
            read(tmp_path / "file.yaml")


def test_the_rate_rises_stays_falls_and_drops():
    def rates(places, steps=8, **how):
        return [rate(n, Plan(steps=steps, validate_every=7, optimiser=Optimiser(**how))) for n in places]

    assert rates((0, 9), 10) == [1, 1]
    assert rates(range(5), 10, warmup=4) == [0.25, 0.5, 0.75, 1, 1]
    assert rates((0, 4, 8), schedule="cosine") == pytest.approx([1, 0.5, 0])
    assert rates([1], schedule="cosine", warmup=4) == pytest.approx([0.5 * rates([1], schedule="cosine")[0]])
    assert rates((0, 209, 210, 699), 700, schedule="drop") == [1, 1, 0.01, 0.01], "a hundredth after 30 validations"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_stage_learns_a_batch_by_heart(family, configured, quick):
    for stage in configured(family).stages():
        torch.manual_seed(0)
        task, batch, losses = stage.task(stage.plan), next(iter(stage.batches(stage.plan, 0))), []
        task.log = lambda *_, **__: None
        optimiser = torch.optim.Adam(task.parameters(), lr=5e-3)
        for _ in range(20):
            optimiser.zero_grad()
            losses.append(task.loss_of(batch))
            losses[-1].backward()
            optimiser.step()
        assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_is_written_reproduced_and_resumed(family, configured, tmp_path, seen, quick):
    out = tmp_path / "out"
    written = command.run(configured(family), out)
    assert written == out / "weights.safetensors"
    first, folder = list(seen), out / "finetuning" if family == "dual-encoder" else out
    assert (folder / "last.ckpt").is_file()
    assert len((folder / "csv" / "metrics.csv").read_text().splitlines()) > 1
    seen.clear()
    assert command.run(configured(family), tmp_path / "again").read_bytes() == written.read_bytes()
    assert seen == first
    seen.clear()
    train(configured(family), out, resume=True, progress=False)
    assert not seen  # it was finished
    train(configured(family, steps=4), out, resume=True, progress=False)
    assert seen
    assert not set(seen) & set(first)
    other = configured(family, seed=1).stages()[0]
    assert digest(next(iter(other.batches(other.plan, 0)))) not in first


@pytest.mark.parametrize("shared", [True, False])
def test_a_network_for_colours_is_trained_and_its_matcher_made_by_the_weights_header(shared, configured, tmp_path):
    changes = {"network.options": {"widths": [8, 8], "in_channels": 3}, "shared": shared}
    matcher = make_matcher("slim-unet", weights=str(command.run(configured("dense", **changes), tmp_path / "out")))
    assert matcher.channels == 3


def test_a_dual_encoder_that_stopped_between_its_phases_begins_the_second_with_the_best(
    configured, tmp_path, seen, quick
):
    config, last = configured("dual-encoder"), tmp_path / "finetuning" / "last.ckpt"
    train(config, tmp_path, progress=False)
    whole, kept = list(seen), torch.load(last, weights_only=True)["state_dict"]
    assert len(set(whole)) == 4, "no sample is seen twice nor in both phases"
    shutil.rmtree(last.parent)
    seen.clear()
    train(config, tmp_path, resume=True, progress=False)
    assert seen == whole[2:]
    assert equal(torch.load(last, weights_only=True)["state_dict"], kept)


@pytest.mark.parametrize("held_out", [0.5, 0.0])
def test_the_best_weights_are_returned_or_the_last_if_nothing_is_held_out(held_out, configured, tmp_path, monkeypatch):
    scores, states = iter([0.1, 0.9, 0.2]), []
    monkeypatch.setattr(DenseTask, "on_validation_epoch_end", lambda self: self.log(self.monitor, next(scores)))
    monkeypatch.setattr(DenseTask, "on_train_batch_end", lambda self, *_: states.append(weights(self)))
    changes = {"steps": 3, "validate_every": 1, "sources": [{"folder": "pairs", "held_out": held_out}]}
    task = train(configured("dense", **changes), tmp_path / "out", progress=False)
    assert equal(weights(task), states[-2] if held_out else states[-1])
    assert (tmp_path / "out" / "best.ckpt").exists() == bool(held_out)


@pytest.mark.parametrize("family", ["dense", "descriptors"])
def test_a_loss_that_is_no_number_ends_the_training(family, configured, tmp_path, monkeypatch):
    monkeypatch.setattr(Task, "checked", lambda self, loss, original=Task.checked: original(self, loss * torch.nan))
    with pytest.raises(ConfigError, match=r"the loss is nan at step 0: lower optimiser\.rate"):
        train(configured(family), tmp_path, progress=False)


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", {"a": 1}, {"global_step": 1, "state_dict": {}, "code": Path("here")}], ids=str
)
def test_checkpoints_that_are_none_are_refused_and_run_no_code(content, configured, tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    for out, options in ((tmp_path, {"resume": True}), (tmp_path / "out", {"start_from": path})):
        with pytest.raises(InputError, match=r"last\.ckpt: is no checkpoint of a training"):
            train(configured("dense"), out, progress=False, **options)


def test_a_checkpoint_of_another_network_is_refused(configured, tmp_path):
    train(configured("dense"), tmp_path / "one", progress=False)
    other = configured("dense", steps=4, **{"network.options": {"widths": [8, 16]}})
    for out, options in (("two", {"start_from": tmp_path / "one" / "last.ckpt"}), ("one", {"resume": True})):
        with pytest.raises(InputError, match="of another network"):
            train(other, tmp_path / out, progress=False, **options)


@pytest.mark.parametrize(
    ("fits", "message", "outcome", "tried"),
    [
        (1, "DefaultCPUAllocator: can't allocate memory", nullcontext(), [4, 2, *[1] * 8]),
        (0, "can't allocate memory", pytest.raises(ConfigError, match="not even one sample fits"), [4, 2, 1]),
        (0, "something else", pytest.raises(RuntimeError, match="something else"), [4]),
    ],
)
def test_a_batch_that_does_not_fit_is_taken_in_smaller_parts_and_other_errors_pass_through(
    fits, message, outcome, tried, configured, tmp_path, monkeypatch
):
    sizes, original = [], Task.training_step

    def training_step(self, batch, index):
        sizes.append(len(batch.optical))
        if sizes[-1] > fits:
            raise RuntimeError(message)
        return original(self, batch, index)

    monkeypatch.setattr(Task, "training_step", training_step)
    with outcome:
        train(configured("dense"), tmp_path, progress=False)
    assert sizes == tried


def test_patience_ends_a_training_that_gains_nothing(configured, tmp_path, monkeypatch, seen):
    monkeypatch.setattr(DenseTask, "on_validation_epoch_end", lambda self: self.log("quality", 0.5))
    train(configured("dense", steps=20, validate_every=1, patience=2), tmp_path, progress=False)
    assert len(seen) == 3


def test_the_command_trains_goes_on_and_says_what_is_wrong(configured, tmp_path):
    configured("dense")
    path, out = str(tmp_path / "dense.yaml"), str(tmp_path / "out")
    done = CliRunner().invoke(command.main, [path, "--out", out, "--set", "steps=1", "--set", "optimiser.rate=0.01"])
    assert (done.exit_code, done.output.strip()) == (0, str(Path(out) / "weights.safetensors")), done.output
    more = CliRunner().invoke(command.main, [path, "--out", out, "--set", "steps=2", "--resume"])
    assert more.exit_code == 0
    assert (Path(out) / "csv-1").is_dir()
    shutil.rmtree(out)
    Path(out).touch()
    for arguments, code, words in [
        (["--set", "steps=0"], 2, "steps is 0"),
        (["--set", "steps"], 2, "NAME=VALUE"),
        (["--set", "steps=1"], 1, "cannot be made"),
    ]:
        failed = CliRunner().invoke(command.main, [path, "--out", out, *arguments])
        assert failed.exit_code == code, failed.output
        assert words in failed.output
