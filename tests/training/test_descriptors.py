"""training.descriptors: the gradient of a batch in parts, the layout of a patch, ImageNet's weights, the score."""

import itertools

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.tasks import without_trainer
from torch.nn.functional import normalize

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.descriptors.network import DenseFusion
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.training import descriptors
from sn9reg.training.data import Source
from sn9reg.training.descriptors import DescriptorConfig, DescriptorTask
from sn9reg.training.patch_pairs import PatchPairs

pytestmark = pytest.mark.filterwarnings("ignore:Detected call")  # the rates are those of no training
NETWORK = {"width": 0.35, "descriptor": 32}


def config(**changes):
    small = {"sources": (Source("unused"),), "network": NETWORK, "patch": PatchLayout(32, 1.0, "grey")}
    return DescriptorConfig(**small | {"image": 64, "places": 2, "apart": 4.0, "batch": 8} | changes)


def batch_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return PatchPairs(*(torch.randn(count, 1, 32, 32, generator=generator) for _ in "os"))


def alone(**changes):
    torch.manual_seed(0)
    made = config(**changes)
    task = without_trainer(DescriptorTask(made, made))
    still = torch.optim.Adam(task.parameters(), lr=0.0)
    task.optimizers, task.manual_backward = lambda: still, torch.Tensor.backward
    task.lr_schedulers = lambda: torch.optim.lr_scheduler.LambdaLR(still, lambda step: 1.0)
    return task


def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole():
    """Batch normalisation, which sees a part at a time, does not normalise here."""
    batch, given = batch_of(8), ([], [])
    whole, parts = alone(), alone(accumulate=2)
    for task, seen in zip((whole, parts), given, strict=True):
        task.network.eval()
        task.network.register_forward_pre_hook(lambda network, args, seen=seen: seen.append(args[0]))
        task.training_step(batch, 0)
    assert [[len(patches) for patches in seen] for seen in given] == [[16], [8] * 4], "no more than a part at once"
    assert given[1][0].equal(torch.cat([batch.optical[:4], batch.sar[:4]])), "optical and SAR together"
    assert parts.logged["loss"] == pytest.approx(whole.logged["loss"], rel=1e-5)
    expected = dict(whole.network.named_parameters())
    assert expected["stem.weight"].grad.abs().max() > 1e-4
    for name, parameter in parts.network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-3, msg=name)
    before = parts.network.fusion.weight.grad.clone()
    parts.training_step(batch, 0)
    torch.testing.assert_close(parts.network.fusion.weight.grad, before)  # those of the step before are forgotten


def test_the_layout_is_fitted_by_the_first_batches_and_learned_slowly(monkeypatch):
    fitted, original = [], DenseFusion.fit_layout
    monkeypatch.setattr(descriptors, "_FIRST", 2)
    monkeypatch.setattr(DenseFusion, "fit_layout", lambda *given: fitted.append(given[1:]) or original(*given))
    task = alone(network=NETWORK | {"cells": 2})
    before, batches = task.network.layout.weight.clone(), [batch_of(4, seed) for seed in range(2)]
    task.before_training(itertools.chain(batches, itertools.repeat(None)))
    (means,) = fitted
    for mean, *patches in zip(means, *batches, strict=True):
        torch.testing.assert_close(mean, task.network.cell_means(torch.cat(patches)))
    assert not task.network.layout.weight.equal(before)
    others, layout = task.groups()
    assert [id(p) for p in layout["params"]] == [id(p) for p in task.network.layout.parameters()]
    assert layout["lr"] == pytest.approx(0.02 * 1e-3)
    assert len(others["params"]) + len(layout["params"]) == len(list(task.network.parameters()))
    plain = alone()
    plain.before_training(None)  # without a layout nothing is asked for
    assert len(plain.groups()) == 1


def test_found_is_the_share_whose_nearest_of_all_that_are_held_out_is_their_own():
    """Three of five; within the second batch alone both would be right."""
    task, sar, optical = alone(), torch.eye(5), torch.eye(5)
    optical[0], optical[3] = normalize(torch.tensor([[0.1, 1, 0, 0, 0], [1, 0, 0, 0.9, 0]]))
    task.held_out = [(optical[:3], sar[:3]), (optical[3:], sar[3:])]
    task.on_validation_epoch_end()
    assert task.logged["found"] == pytest.approx(3 / 5)
    assert task.held_out == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 9}, "batch is 9, must be a multiple of the 2 places"),
        ({"rim": 32}, "rim is 32, must leave something of the 64 px"),
        ({"network": {"width": 0.4}}, "width is 0.4"),
    ],
)
def test_what_makes_no_sense_is_said(change, words):
    with pytest.raises(ConfigError, match=words):
        alone(**change)


def test_a_training_begins_with_the_weights_of_a_timm_file(tmp_path):
    path, name = tmp_path / "mobilenet.safetensors", "blocks.6.0.conv_pwl.weight"
    known = timm.create_model("mobilenetv2_035", pretrained=False).state_dict()
    save_file(known, path)
    assert alone(imagenet=str(path)).network.state_dict()[name].equal(known[name])
    with pytest.raises(InputError, match="no weights of a MobileNetV2 of this width"):
        alone(imagenet=str(path), network={"width": 0.5})


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such weights file"), (b"no weights", "is no whole safetensors file")]
)
def test_a_file_that_holds_no_weights_is_said(tmp_path, content, message):
    path = tmp_path / "weights.safetensors"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"weights\.safetensors: {message}"):
        alone(imagenet=str(path))
