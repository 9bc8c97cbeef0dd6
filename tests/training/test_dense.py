"""training.dense: random samples for training, fixed ones for validation, the running mean and the scores."""

from itertools import islice

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.tasks import without_trainer
from torch.utils.data import default_collate

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.dense.networks.branches import build
from sn9reg.matchers.dense.weights import DenseOptions, save_dense
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.scene import Patch
from sn9reg.training import dense
from sn9reg.training.data import Samples, Source
from sn9reg.training.dense import Choice, DenseConfig, DenseTask, Imitation
from sn9reg.training.sample import Geometry, Photometry, Sample, finish

GEOMETRY = Geometry(32, 16)
SOURCE = Source("a")


def pairs(count, side=48):
    """Pairs whose images are random, as the files of a folder would be read; SAR is optical reversed."""
    ground = gaussian_filter(np.random.default_rng(0).normal(size=(count, 1, side, side)), (0, 0, 1.5, 1.5))
    images, valid = np.clip(120 + 40 * ground / ground.std(), 1, 255).astype(np.uint8), np.ones((side, side), bool)
    return [(Patch(image, valid), Patch(256 - image.astype(np.float32), valid)) for image in images]


def config(**changes):
    small = {"network": Choice("slim-unet", {"widths": [8, 8, 8]}), "loss": Choice("soft-ce"), "geometry": GEOMETRY}
    return DenseConfig(**small | {"validation": GEOMETRY, "sources": (SOURCE,)} | changes)


def training(count, part, source=SOURCE, **changes):
    return list(islice(Samples([(source, part)], config(**changes).sample, 0), count))


def validating(part, **changes):
    return [dense.Seen(*(side[0] for side in config(**changes).validating(part, [k]))) for k in range(len(part))]


def test_samples_are_finished_images_and_the_template_is_found_at_its_place():
    """At the place the two are opposites."""
    samples = training(20, pairs(3))
    for optical, sar, (row, col), _ in samples:
        part = optical[0, row : row + 16, col : col + 16].flatten()
        assert torch.corrcoef(torch.stack([part, sar.flatten()]))[0, 1] < -0.85  # the logarithm bends
    batch = default_collate(samples)
    assert (batch.optical.shape, batch.sar.shape, batch.place.shape) == ((20, 1, 32, 32), (20, 1, 16, 16), (20, 2))
    assert (batch.optical.dtype, batch.sar.dtype, batch.place.dtype) == (torch.float32, torch.float32, torch.int64)
    for images in (batch.optical, batch.sar):
        torch.testing.assert_close(images.mean(dim=(1, 2, 3)), torch.zeros(20), atol=0.02, rtol=0)
        torch.testing.assert_close(images.std(dim=(1, 2, 3)), torch.ones(20), atol=0.05, rtol=0)


def test_a_network_for_colours_is_given_the_bands_and_of_grey_images_three_times_the_same():
    """The second and third band are those of other pairs; the changes of grey values are the same for all three."""
    network = Choice("slim-unet", {"widths": [8, 8, 8], "in_channels": 3})
    changes = {"network": network, "photometry": Photometry(gain=0.5, tone=0.5, blur=1.0)}
    grey = pairs(3)
    bands = np.concatenate([optical.values for optical, _ in grey])
    colour = [(Patch(np.roll(bands, -k, axis=0), optical.valid), sar) for k, (optical, sar) in enumerate(grey)]
    for made in (training(12, colour, **changes), validating(colour, **changes)):
        batch = default_collate(made)
        assert (batch.optical.shape[1:], batch.sar.shape[1:]) == ((3, 32, 32), (1, 16, 16))
        assert not any(one.equal(other) for one, other in zip(batch.optical[:, 0], batch.optical[:, 1], strict=True))
    for (optical, _), (shown, *_) in zip(colour, validating(colour, **changes), strict=True):
        for band, channel in zip(optical.values[:, 8:40, 8:40], shown, strict=True):
            np.testing.assert_allclose(channel, (band - band.mean()) / band.std(), atol=0.02)
    for shown, *_ in (*training(6, grey, **changes), *validating(grey, **changes)):
        assert shown.equal(shown[:1].repeat(3, 1, 1))
    (plain, *_), (shown, *_) = (training(1, grey, **changes | c)[0] for c in ({"network": config().network}, {}))
    assert plain.equal(shown[:1]), "the draws are those of grey"


def test_photometry_and_degradation_reach_the_samples():
    changes = ({}, {"photometry": Photometry(gain=0.5)}, {"degradation": Degradation(2)})
    one, *others = (training(1, pairs(2), **change)[0] for change in changes)
    same = [[a.equal(b) for a, b in zip(one[:3], other[:3], strict=True)] for other in others]
    assert same[0] == [False, False, True]
    assert same[1][:2] == [True, False]


def test_validation_shows_the_middle_and_the_templates_part_of_it():
    part = pairs(5, side=49)
    samples = validating(part, seed=2)
    for (optical, sar), (shown, template, (row, col), _) in zip(part, samples, strict=True):
        expected = finish(
            Patch(optical.values[:, 8:40, 8:40], np.ones((32, 32), bool)),
            Patch(sar.values[:, 8 + row : 24 + row, 8 + col : 24 + col], np.ones((16, 16), bool)),
        )
        np.testing.assert_array_equal(shown, expected[0])
        np.testing.assert_array_equal(template, expected[1])
    assert len({tuple(sample.place.tolist()) for sample in samples}) > 2


def test_validation_is_degraded_the_same_each_time_and_follows_its_seed():
    worse = Degradation(4, 0.5)
    samples = config(degradation=worse).validating(pairs(3), [2, 0, 1])
    first, other, plain = (validating(pairs(3), **c) for c in ({"degradation": worse}, {"seed": 1}, {}))
    for at, k in enumerate((2, 0, 1)):
        assert all(a[at].equal(b) for a, b in zip(samples, first[k], strict=True))
        assert [a.equal(b) for a, b in zip(plain[k], first[k], strict=True)] == [True, False, True, True]
        assert not other[k].sar.equal(plain[k].sar)


def alone(**changes):
    return without_trainer(DenseTask(config(**changes), config(**changes)))


@pytest.mark.parametrize(("average", "decay"), [(0.09, 0.09), (0.9, 1 / 10)])  # it starts with a short memory
def test_the_running_mean_of_the_weights_follows_each_step(average, decay):
    task = alone(average=average, accumulate=2)
    mean = {key: value.clone() for key, value in task.network.state_dict().items()}
    for index in range(4):
        for value in task.network.state_dict().values():
            value.add_(1 + index)
        task.on_train_batch_end(None, None, index)
        if index % 2:  # every second batch ends a step
            for key, now in task.network.state_dict().items():
                mean[key] = decay * mean[key] + (1 - decay) * now if now.is_floating_point() else now.clone()
        for key, value in task.kept().state_dict().items():
            torch.testing.assert_close(value, mean[key])


def test_the_running_mean_is_validated_and_the_network_trained(monkeypatch):
    task, used = alone(average=0.9), []
    monkeypatch.setattr(task, "surface", lambda network, batch: used.append(network) or torch.randn(2, 17, 17))
    batch = Sample(torch.zeros(2), torch.zeros(2), torch.tensor([[1, 2], [3, 4]]))
    task.loss_of(batch)
    task.validation_step(batch, 0)
    assert used == [task.network, task.mean]
    assert alone().kept().training


def test_the_scores_are_those_of_each_source_and_quality_is_their_mean(monkeypatch):
    """Places of one source are found 0, 1, 2 and 5 px beside them, that of the other 10 px."""
    task, place = alone(), torch.tensor([[2, 3], [4, 5], [6, 7], [0, 1]])
    found = place + torch.tensor([[0, 0], [0, 1], [2, 0], [3, 4]])
    surface, other = torch.zeros(4, 17, 17), torch.zeros(1, 17, 17)
    surface[range(4), found[:, 0], found[:, 1]] = other[0, 2, 13] = 1
    for index, (surfaces, places) in enumerate(((surface, place), (other, place[:1]))):
        monkeypatch.setattr(task, "surface", lambda network, batch, surfaces=surfaces: surfaces)
        task.validation_step(Sample(torch.zeros(1), torch.zeros(1), places), 0, index)
    task.on_validation_epoch_end()
    expected = {"val0/cmr1": 0.5, "val0/cmr3": 0.75, "val0/l2": 2, "val1/cmr1": 0, "val1/cmr3": 0, "val1/l2": 10}
    assert task.logged == pytest.approx(expected | {"quality": ((0.5 + 0.75 + 0.75 + 1) / 4 + 0) / 2})
    assert not task.errors


def test_a_temperature_learns_faster_and_without_decay():
    plain, own = alone(loss=Choice("soft-ce", {"trainable": True})).groups()
    assert (own["lr"], own["weight_decay"]) == (pytest.approx(5 * 5e-4), 0)
    assert len(own["params"]) == 1
    assert "lr" not in plain


def test_an_imitation_learns_the_directions_in_which_its_teachers_features_agree(tmp_path, monkeypatch):
    """Both images are the same, so that all features agree; one of the directions is that of their largest variance."""
    monkeypatch.setenv("SN9REG_DATA", str(tmp_path))
    torch.manual_seed(0)
    teacher = build("slim-unet", True, widths=[8, 8])
    save_dense(tmp_path / "w.safetensors", teacher, DenseOptions("slim-unet", True, "zncc", {"widths": [8, 8]}))
    network = Choice("slim-unet", {"widths": [8, 8], "features": 2, "fold": 2, "weighted": True})
    changed = config(shared=True, teacher="w.safetensors", network=network)
    task = without_trainer(Imitation(changed, changed))
    batch = default_collate(training(8, pairs(3)))
    batch = batch._replace(sar=dense._side_by_side(batch)[:8])
    task.before_training([batch])
    torch.testing.assert_close(task.directions @ task.directions.T, torch.eye(2))
    seen = task.taught(batch.sar).flatten(2).transpose(0, 1)
    seen = (seen - seen.mean(dim=2, keepdim=True)).flatten(1)
    assert (task.directions @ seen).square().sum() > 0.999 * torch.linalg.svdvals(seen)[:2].square().sum()
    optimiser, losses = torch.optim.Adam(task.network.parameters(), 0.01), []
    for _ in range(60):
        optimiser.zero_grad()
        losses.append(task.loss_of(batch))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.3 * losses[0]
    assert not any("teacher" in name for name in task.state_dict())
    for given, words in (({"features": 9}, "9 features and its teacher 8"), ({"in_channels": 3}, "images of one band")):
        wrong = config(shared=True, teacher="w.safetensors", network=Choice("slim-unet", {"widths": [8, 8]} | given))
        with pytest.raises(ConfigError, match=words):
            Imitation(wrong, wrong)


def test_what_learns_beside_a_matcher_is_judged_by_both_together():
    """By that matcher alone, where the network says the same of every place."""
    (optical, sar), *_ = pairs(1)
    made = training(1, [(optical, Patch(optical.values.astype(np.float32), sar.valid))], beside="structure")
    task = without_trainer(alone(beside="structure"))
    known = made[0].known
    assert known.shape == (17, 17)
    assert np.unravel_index(int(known.argmax()), known.shape) == tuple(made[0].place.tolist())
    own = alone().surface(task.network, default_collate(made))
    torch.testing.assert_close(task.surface(task.network, default_collate(made)), (own + known) / 2)


def test_what_makes_no_sense_is_said(monkeypatch):
    for change, words in (
        ({"beside": "sift"}, "'sift', which is no dense matcher"),
        ({"validation": Geometry(32, 32)}, "validation: the SAR side 32 must be smaller than the optical 32"),
        ({"batch": 6, "accumulate": 4}, "batch 6 cannot be taken in 4 equal parts"),
        ({"teacher": "w.safetensors"}, "set shared: true"),
    ):
        with pytest.raises(ConfigError, match=words):
            alone(**change)
    assert validating(pairs(1, side=32))[0].optical.shape == (1, 32, 32)
    held = [(SOURCE, pairs(1)), (SOURCE, pairs(1, side=31))]
    monkeypatch.setattr(dense, "load_all", lambda *_: ([], held))
    with pytest.raises(InputError, match=r"31 x 31 px, smaller than validation\.optical"):
        config().stages()
