"""training.keypoint_run and pipelines.train_keypoints: whole trainings of keypoint detectors, tiny; and their loss."""

import csv
import dataclasses
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from sn9reg.training.dataset import Source
from sn9reg.training.keypoint_config import KeypointConfig
from sn9reg.training.keypoint_run import train_keypoints
from sn9reg.training.keypoint_task import KeypointTask, balanced_mse
from support.pairs import write_pairs

from pipelines import train_keypoints as command
from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.keypoints.heatmap import gaussian
from sn9reg.raster.files import grid_of, open_raster
from sn9reg.training.config import as_dict
from sn9reg.weights.store import DetectorArchitecture, load_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning advises on speed

SIDE = 64
NETWORK = {"optical_encoder": "tu-regnetx_002", "sar_encoder": "tu-regnetx_002", "depth": 3, "decoder": [16, 8, 8]}
OTHER = NETWORK | {"sar_encoder": "resnet18"}


@pytest.fixture(scope="session")
def folder(scene, tmp_path_factory):
    """A small scene whose tie-points are as the georeference has them, up to 20 px away."""
    folder = tmp_path_factory.mktemp("near")
    for path in (scene.optical, scene.sar):
        shutil.copy(path, folder)
    grids = []
    for path in (scene.optical, scene.sar):
        with open_raster(path) as dataset:
            grids.append(grid_of(dataset))
    optical, sar = grids
    points = pd.read_csv(scene.tiepoints).iloc[::2]
    here = sar.to_pixel(optical.to_map(points[["optical_col", "optical_row"]].to_numpy()))
    there = np.rint(here + np.random.default_rng(0).uniform(-20, 20, here.shape)).astype(int)
    inside = ((there >= 0) & (there < [sar.width, sar.height])).all(axis=1)
    points[["sar_col", "sar_row"]] = there
    points[inside].to_csv(folder / scene.tiepoints.name, index=False)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny(folder):
    """A configuration of a second, with changes."""

    def make(**changes):
        small = {"network": NETWORK, "scenes": (str(folder),), "tile": SIDE, "sigma": 5.0, "epochs": 2}
        small |= {"batch": 4, "rate": 1e-3, "precision": "32-true", "workers": 0}
        return KeypointConfig(**small | changes)

    return make


@pytest.fixture
def train(cache):
    """Without a bar, and with tiles of its own."""

    def run(config, out, finds="sar", **options):
        return train_keypoints(config, finds, out, cache, progress=False, **options)

    return run


@pytest.fixture
def seen(monkeypatch):
    """(epoch, batch) of every batch trained on."""
    batches, original = [], KeypointTask.training_step

    def training_step(self, batch, index):
        batches.append((self.current_epoch, batch))
        return original(self, batch, index)

    monkeypatch.setattr(KeypointTask, "training_step", training_step)
    return batches


@pytest.fixture
def states(monkeypatch):
    """The network's state after every batch."""
    copies = []

    def on_train_batch_end(self, outputs, batch, index):
        copies.append(state(self.network))

    monkeypatch.setattr(KeypointTask, "on_train_batch_end", on_train_batch_end)
    return copies


def state(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def metrics(out, name="csv"):
    with (out / name / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def epoch_of(out, name="last"):
    return torch.load(out / f"{name}.ckpt", weights_only=False)["epoch"]


# the loss


def test_loss_is_the_mean_over_the_keypoints_region_and_over_the_rest_in_equal_parts():
    random = np.random.default_rng(0)
    heatmap, place = random.random((3, 40, 40)), np.array([[12, 30], [20.5, 20], [3, 2]])
    y, x = np.mgrid[:40, :40]
    away = np.hypot(x - place[:, 0, None, None], y - place[:, 1, None, None])
    label, near = np.exp(-(away**2) / (2 * 3**2)), away < 9
    error = (heatmap - label) ** 2
    expected = (error[near].mean() + error[~near].mean()) / 2
    made = gaussian(torch.tensor(place), 40, 3.0)
    assert float(balanced_mse(torch.tensor(heatmap), made)) == pytest.approx(expected, rel=1e-6)


def test_an_error_at_the_keypoint_counts_as_much_as_one_everywhere_else():
    label = gaussian(torch.tensor([[25.0, 30.0], [40.0, 12.0]]), SIDE, 5.0)
    near = label > math.exp(-4.5)
    assert near.float().mean() < 0.2
    for part in (near, ~near):
        assert float(balanced_mse(label + 0.3 * part, label)) == pytest.approx(0.3**2 / 2, rel=1e-4)
    assert float(balanced_mse(label + 0.3, label)) == pytest.approx(0.3**2, rel=1e-4)
    assert float(balanced_mse(label, label)) == 0


def test_a_heatmap_of_zeros_is_no_way_out():
    """Half the loss is that of the keypoint's region, however small it is."""
    label = gaussian(torch.tensor([[128.0, 128.0]]), 256)
    balanced = float(balanced_mse(torch.zeros_like(label), label))
    assert balanced > 3 * float((label**2).mean())
    assert balanced == pytest.approx(0.5 * 2 * np.pi * 13**2 / 2 / (np.pi * 39**2), rel=0.02)


def test_a_label_whose_keypoint_is_outside_has_a_loss():
    label = gaussian(torch.tensor([[-500.0, 500.0]]), SIDE, 5.0)
    assert float(balanced_mse(label + 0.5, label)) == pytest.approx(0.125)


# the rate


def dummy(config, length=10, finds="sar"):
    """A task without data."""
    return KeypointTask(SimpleNamespace(config=config, finds=finds, epoch=lambda epoch: range(length), held_out=[]))


def rates(task, steps):
    """Of the first so many steps of the scheduler, and how often it steps."""
    made = task.configure_optimizers()
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]
    assert isinstance(optimiser, torch.optim.Adam)
    used = []
    for _ in range(steps):
        used.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule["scheduler"].step()
    return np.array(used), schedule["interval"]


def test_the_rate_falls_to_a_hundredth_after_30_epochs():
    task = dummy(KeypointConfig(scenes=("a",), network=NETWORK))
    used, interval = rates(task, 45)
    assert interval == "epoch"
    np.testing.assert_allclose(used[:30], 1e-4)
    np.testing.assert_allclose(used[30:], 1e-6)


def test_the_rate_falls_when_and_as_deep_as_asked():
    task = dummy(KeypointConfig(scenes=("a",), network=NETWORK, rate=0.5, drop_after=3, drop=0.1))
    np.testing.assert_allclose(rates(task, 6)[0], [0.5] * 3 + [0.05] * 3)


def test_the_cosine_rises_shortly_and_ends_at_nothing():
    """Of 10 epochs of 5 batches."""
    task = dummy(KeypointConfig(scenes=("a",), network=NETWORK, schedule="cosine", rate=0.5, epochs=10, batch=8), 40)
    used, interval = rates(task, 50)
    assert interval == "step"
    assert used[0] == pytest.approx(0.5 / 6)
    assert 3 <= np.argmax(used) <= 6
    assert 0.48 < used.max() <= 0.5
    assert (np.diff(used[6:]) < 0).all()
    assert used[25] == pytest.approx(0.25)
    assert used[-1] < 0.001


def test_the_rate_is_stepped_once_an_epoch(tiny, train, tmp_path, monkeypatch):
    used, original = [], KeypointTask.training_step

    def training_step(self, batch, index):
        used.append((self.current_epoch, self.optimizers().param_groups[0]["lr"]))
        return original(self, batch, index)

    monkeypatch.setattr(KeypointTask, "training_step", training_step)
    train(tiny(epochs=3, drop_after=2, drop=0.25), tmp_path)
    assert {epoch: rate for epoch, rate in used} == pytest.approx({0: 1e-3, 1: 1e-3, 2: 2.5e-4})
    assert len(set(used)) == 3


# networks and tiles


@pytest.mark.parametrize("finds", ["sar", "optical"])
def test_the_network_is_that_of_the_configuration(finds):
    network = dummy(KeypointConfig(scenes=("a",), network=NETWORK), finds=finds).network
    assert (network.finds, network.divisor) == (finds, 8)


def test_a_tile_that_the_network_cannot_halve_is_refused():
    with pytest.raises(ConfigError, match="a tile of 60 px is no multiple of the 8 of this depth"):
        dummy(KeypointConfig(scenes=("a",), network=NETWORK, tile=60))


# what is left behind


@pytest.mark.parametrize("finds", ["sar", "optical"])
def test_checkpoints_metrics_and_events_are_left_behind(tiny, train, tmp_path, finds):
    task = train(tiny(), tmp_path, finds)
    assert task.network.finds == finds
    assert epoch_of(tmp_path) == 1
    assert epoch_of(tmp_path, "best") in (0, 1)
    rows = [row for row in metrics(tmp_path) if row["error"]]
    assert len(rows) == 2
    for row in rows:
        assert 0 <= float(row["error"]) < SIDE * math.sqrt(2)
        assert 0 <= float(row["within"]) <= 1
    (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert b"error" in events.read_bytes()


def test_validation_says_how_far_the_peak_and_the_middle_are_from_the_keypoint(tiny, train, tmp_path, monkeypatch):
    """The network finds every keypoint 3 px beside it."""
    config = tiny(epochs=1, held_out=0.5)
    task = train(config, tmp_path / "a")
    places = np.array([tiles.place[k] for tiles, k in task.data.held_out])
    calls = iter(torch.tensor(places[start : start + 4]) for start in range(0, len(places), 4))
    original = KeypointTask.validation_step

    def validation_step(self, batch, index):
        label = gaussian(next(calls) + torch.tensor([3.0, 0.0]), SIDE, 2.0)
        monkeypatch.setattr(self.network, "forward", lambda optical, sar: label)
        original(self, batch, index)
        monkeypatch.undo()
        monkeypatch.setattr(KeypointTask, "validation_step", validation_step)

    monkeypatch.setattr(KeypointTask, "validation_step", validation_step)
    train(config, tmp_path / "b")
    (row,) = [row for row in metrics(tmp_path / "b") if row["error"]]
    assert float(row["error"]) == pytest.approx(3, abs=0.1)
    assert float(row["within"]) == 1
    away = np.sort(np.hypot(*(places - SIDE // 2).T))
    assert away[(len(away) - 1) // 2] - 0.01 <= float(row["guess"]) <= away[len(away) // 2] + 0.01


def test_the_best_weights_are_kept_not_the_last(tiny, train, tmp_path, monkeypatch, states):
    errors = iter([9.0, 2.0, 5.0])

    def on_validation_epoch_end(self):
        self.errors.clear()
        self.log("error", next(errors))

    monkeypatch.setattr(KeypointTask, "on_validation_epoch_end", on_validation_epoch_end)
    task = train(tiny(epochs=3), tmp_path)
    assert (epoch_of(tmp_path), epoch_of(tmp_path, "best")) == (2, 1)
    per_epoch = len(states) // 3
    assert equal(state(task.network), states[2 * per_epoch - 1])
    assert not equal(states[2 * per_epoch - 1], states[-1])


def test_without_tiles_held_out_the_last_weights_are_kept(tiny, train, tmp_path, states):
    task = train(tiny(held_out=0.0), tmp_path)
    assert equal(state(task.network), states[-1])
    assert epoch_of(tmp_path) == 1
    assert not (tmp_path / "best.ckpt").exists()


def test_every_epoch_shows_all_tiles_turned_anew_and_other_displaced_pairs(tiny, train, tmp_path, seen):
    pairs = (Source(str(write_pairs(tmp_path / "pairs", 2))),)
    task = train(tiny(turned=True, pairs=pairs, samples=3), tmp_path / "out")
    tiles = len(task.data.training)
    epochs = [[one for epoch, batch in seen if epoch == k for one in batch.optical] for k in (0, 1)]
    assert [len(epoch) for epoch in epochs] == [tiles + 3] * 2
    unchanged = sum(any(a.equal(b) for b in epochs[1]) for a in epochs[0])
    assert unchanged < tiles, "of eight turns, an epoch's is another one"


def test_tiles_are_drawn_in_another_order_each_epoch(tiny, train, tmp_path, seen):
    train(tiny(), tmp_path)
    orders = [[tuple(p.tolist()) for epoch, batch in seen if epoch == k for p in batch.place] for k in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_the_same_configuration_trains_the_same_network(tiny, train, tmp_path):
    one, other, third = (
        train(tiny(epochs=1, seed=seed), tmp_path / name).network for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert equal(state(one), state(other))
    assert not equal(state(one), state(third))


# stopped and gone on with


def test_a_resumed_run_goes_on(tiny, train, tmp_path, seen):
    train(tiny(epochs=1), tmp_path)
    task = train(tiny(epochs=3), tmp_path, resume=True)
    epochs = [epoch for epoch, _ in seen]
    assert sorted(set(epochs)) == [0, 1, 2]
    assert epochs.count(0) == epochs.count(1) == epochs.count(2)
    assert task.global_step == len(epochs)
    assert epoch_of(tmp_path) == 2
    assert metrics(tmp_path), "the first run's are still there"
    assert metrics(tmp_path, "csv-1")


def test_a_resumed_epoch_shows_what_it_would_have_shown(tiny, train, tmp_path, seen):
    def shown():
        """The second epoch's tiles, in any order."""
        return sorted(one.numpy().tobytes() for epoch, batch in seen if epoch == 1 for one in batch.optical)

    config = tiny(turned=True)
    train(config, tmp_path / "whole")
    whole = shown()
    seen.clear()
    train(dataclasses.replace(config, epochs=1), tmp_path / "parts")
    train(config, tmp_path / "parts", resume=True)
    assert shown() == whole


def test_resuming_carries_on_with_the_weights_and_the_rate(tiny, train, tmp_path, states):
    config = tiny(epochs=1, drop_after=1, drop=1e-6)
    train(config, tmp_path)
    count = len(states)
    train(dataclasses.replace(config, epochs=2), tmp_path, resume=True)
    assert len(states) == 2 * count
    key = "head.0.weight"
    torch.testing.assert_close(states[-1][key], states[count - 1][key], rtol=0, atol=1e-6)
    assert not torch.allclose(states[0][key], states[count - 1][key], atol=1e-4)


def test_resuming_a_finished_run_returns_its_best_weights(tiny, train, tmp_path, seen):
    first = train(tiny(), tmp_path)
    count = len(seen)
    again = train(tiny(), tmp_path, resume=True)
    assert len(seen) == count
    assert equal(state(first.network), state(again.network))


def test_resuming_where_nothing_is_starts(tiny, train, tmp_path):
    train(tiny(epochs=1), tmp_path / "new", resume=True)
    assert epoch_of(tmp_path / "new") == 0


def test_without_resuming_a_run_starts_anew(tiny, train, tmp_path, seen):
    train(tiny(), tmp_path)
    count = len(seen)
    train(tiny(epochs=1), tmp_path)
    assert [epoch for epoch, _ in seen[count:]] == [0] * (count // 2)
    assert epoch_of(tmp_path) == 0


# begun with the other detector


def test_a_detector_begins_with_the_weights_of_the_other(tiny, train, tmp_path):
    sar = train(tiny(epochs=1), tmp_path / "sar").network.state_dict()
    still = tiny(epochs=1, rate=1e-12)
    begun = train(still, tmp_path / "begun", "optical", start_from=tmp_path / "sar" / "best.ckpt").network
    fresh = train(still, tmp_path / "fresh", "optical").network.state_dict()
    key = "head.0.weight"
    assert begun.finds == "optical"
    torch.testing.assert_close(begun.state_dict()[key], sar[key], rtol=0, atol=1e-7)
    assert not torch.allclose(fresh[key], sar[key], atol=1e-3)


def test_a_checkpoint_with_other_encoders_is_refused(tiny, train, tmp_path):
    train(tiny(epochs=1), tmp_path / "sar")
    with pytest.raises(InputError, match=r"last\.ckpt: is no checkpoint of a detector with these encoders") as caught:
        train(tiny(network=OTHER), tmp_path / "optical", "optical", start_from=tmp_path / "sar" / "last.ckpt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "optical" / "last.ckpt").exists()


@pytest.mark.parametrize("content", [None, {"weights": 1}], ids=["missing", "other content"])
def test_what_is_no_checkpoint_is_refused(tiny, train, tmp_path, content):
    path = tmp_path / "some.ckpt"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"some\.ckpt: is no checkpoint"):
        train(tiny(), tmp_path / "out", start_from=path)


# what goes wrong


def test_a_loss_that_is_no_number_names_the_step(tiny, train, tmp_path, monkeypatch):
    original = KeypointTask.training_step

    def training_step(self, batch, index):
        broken = batch._replace(place=batch.place * (math.nan if self.global_step == 1 else 1))
        return original(self, broken, index)

    monkeypatch.setattr(KeypointTask, "training_step", training_step)
    with pytest.raises(ConfigError, match="the loss is nan at step 1: lower the rate"):
        train(tiny(), tmp_path)


# does it learn


def test_a_tiny_network_learns_its_tiles_by_heart(tiny, train, tmp_path):
    config = tiny(epochs=1, held_out=0.0)
    task = train(config, tmp_path / "short")
    few = dataclasses.replace(config, epochs=25, rate=5e-3)
    learned = train(few, tmp_path / "long")
    losses = []
    for one in (task, learned):
        one.eval()
        tiles, k = one.data.training[0]
        images = torch.from_numpy(tiles.images(k))
        with torch.no_grad():
            heatmap = one.network(images[None, :1], images[None, 1:])
        losses.append(float(balanced_mse(heatmap, gaussian(torch.from_numpy(tiles.place[k : k + 1]), SIDE, 5.0))))
    assert losses[1] < 0.5 * losses[0]
    logged = [float(row["loss"]) for row in metrics(tmp_path / "long")]
    assert logged[-1] < 0.5 * logged[0]


# the command line


@pytest.fixture
def config_file(tiny, tmp_path):
    """A configuration of 50 epochs as a file."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(as_dict(tiny(epochs=50))))
    return path


def invoke(*arguments):
    return CliRunner().invoke(command.main, list(map(str, arguments)))


@pytest.mark.parametrize("finds", ["sar", "optical"])
def test_command_writes_weights_that_can_be_used(config_file, cache, tmp_path, monkeypatch, finds):
    trained = []

    def keep(*args, **options):
        trained.append(train_keypoints(*args, **options))
        return trained[0]

    monkeypatch.setattr(command, "train_keypoints", keep)
    out = tmp_path / "deep" / "out"
    result = invoke(config_file, "--finds", finds, "--out", out, "--cache", cache, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(out / "weights.safetensors")
    network, architecture = load_weights(out / "weights.safetensors", kind=DetectorArchitecture)
    assert architecture == DetectorArchitecture(finds, NETWORK)
    for key, value in trained[0].network.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert network.state_dict()[key].equal(expected), key


def test_command_goes_on_and_begins_with_the_other_detector(config_file, cache, tmp_path):
    common = (config_file, "--cache", cache)
    sar, optical = tmp_path / "sar", tmp_path / "optical"
    assert invoke(*common, "--finds", "sar", "--out", sar, "--epochs", 1).exit_code == 0
    assert invoke(*common, "--finds", "sar", "--out", sar, "--epochs", 2, "--resume").exit_code == 0
    assert epoch_of(sar) == 1
    start = ("--start-from", sar / "last.ckpt")
    assert invoke(*common, "--finds", "optical", "--out", optical, "--epochs", 1, *start).exit_code == 0
    assert load_weights(optical / "weights.safetensors", kind=DetectorArchitecture)[1].finds == "optical"


def test_command_takes_other_scenes(tiny, folder, cache, tmp_path):
    path = tmp_path / "elsewhere.yaml"
    path.write_text(yaml.safe_dump(as_dict(tiny(scenes=("none",), epochs=1))))
    common = (path, "--finds", "sar", "--cache", cache)
    assert invoke(*common, "--out", tmp_path / "a").exit_code == 1
    assert invoke(*common, "--out", tmp_path / "b", "--scenes", folder).exit_code == 0
    assert (tmp_path / "b" / "weights.safetensors").exists()


def test_command_names_its_folders_by_file_and_detector(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke(config_file, "--finds", "sar", "--epochs", 1).exit_code == 0
    assert (tmp_path / "work" / "training" / "small-sar" / "weights.safetensors").exists()
    assert list((tmp_path / "work" / "tiles").glob("*.npy"))


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (None, 1, "bad.yaml: cannot be read"),
        ("a: [", 1, "bad.yaml: is not YAML"),
        ("epochs: 3", 2, "bad.yaml: there is nothing to train on"),
        ("scenes: [none]", 1, "none: no such folder"),
        ("{scenes: [SCENES], tile: 60, network: NETWORK}", 2, "a tile of 60 px is no multiple of the 8"),
        ("{scenes: [SCENES], tile: 64, network: {depth: 2}}", 2, "as many decoder widths"),
        ("{scenes: [SCENES], tile: 64, network: {sar_encoder: lenet}}", 2, "no encoder 'lenet'"),
        ("{scenes: [SCENES], tile: 64, network: {widths: [3]}}", 2, "a keypoint detector has no option widths"),
        ("{scenes: [SCENES], tile: 64, network: {finds: sar}}", 2, "a keypoint detector has no option finds"),
        ("{scenes: [SCENES], tile: 64, held_out: 0.999}", 2, "leaves none to learn from"),
    ],
    ids=["missing", "no yaml", "nothing", "no folder", "tile", "depth", "encoder", "option", "finds", "held out"],
)
def test_command_says_in_one_line_what_is_wrong(folder, cache, tmp_path, monkeypatch, text, code, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        text = text.replace("SCENES", str(folder)).replace("NETWORK", yaml.safe_dump(NETWORK, default_flow_style=True))
        (tmp_path / "bad.yaml").write_text(text)
    result = invoke("bad.yaml", "--finds", "sar", "--out", "out", "--cache", cache)
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.output
    assert result.stderr.splitlines()[-1] == errors[0]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
@pytest.mark.parametrize("given", ["--start-from", "--resume"])
def test_command_says_that_a_checkpoint_is_none(config_file, cache, tmp_path, content, given):
    out = tmp_path / "out"
    out.mkdir()
    path = out / "last.ckpt"
    path.write_bytes(content)
    options = ("--start-from", path) if given == "--start-from" else ("--resume",)
    result = invoke(config_file, "--finds", "sar", "--out", out, "--cache", cache, *options)
    assert result.exit_code == 1
    assert f"Error: {path}: is no checkpoint" in result.stderr


@pytest.mark.parametrize("which", ["--out", "--cache"])
def test_command_says_that_a_folder_is_a_file(config_file, tmp_path, which):
    (tmp_path / "file").write_text("")
    folders = {"--out": tmp_path / "out", "--cache": tmp_path / "cache"} | {which: tmp_path / "file"}
    given = [part for item in folders.items() for part in item]
    result = invoke(config_file, "--finds", "sar", "--epochs", 1, *given)
    assert result.exit_code == 1
    assert f"Error: {tmp_path / 'file'}: cannot be made" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("--finds", "both"), ("--finds", "sar", "--epochs", 0)])
def test_command_needs_a_detector_and_an_epoch(config_file, tmp_path, arguments):
    result = invoke(config_file, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert ("--epochs" if "--epochs" in arguments else "--finds") in result.stderr
    assert not (tmp_path / "out").exists()
