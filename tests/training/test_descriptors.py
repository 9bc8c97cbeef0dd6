"""training.descriptors: patch pairs of one place, the gradient of a batch in parts, the layout, weights, the score."""

import itertools

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import pdist
from support.tasks import without_trainer
from torch.nn.functional import normalize

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.dense.weights import load_dense
from sn9reg.matchers.descriptors.network import DenseFusion, distances
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.raster.scene import Patch
from sn9reg.training import descriptors
from sn9reg.training.data import Source
from sn9reg.training.descriptors import DescriptorConfig, DescriptorTask, PatchPairs, collate
from sn9reg.training.losses import contrastive, hardest_in_batch
from sn9reg.training.sample import Photometry

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


def test_all_of_the_batch_teach_first_and_the_hardest_later(monkeypatch):
    given = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    task, (one, other) = alone(contrast=0.5, steps=10), normalize(given, dim=-1)
    for step, loss in ((4, contrastive(one, other, 0.07)), (5, hardest_in_batch(distances(one, other)))):
        monkeypatch.setattr(DescriptorTask, "global_step", step)
        torch.testing.assert_close(task._loss(one, other), loss)


def test_patches_show_the_features_of_the_stem_which_training_leaves_as_they_are():
    layout = PatchLayout(32, 1.0, "energy", features=3)
    task, shipped = alone(patch=layout, stem="slim-unet"), load_dense(None, "slim-unet")[0]
    pairs = made(textured(), patch=layout, stem="slim-unet", train=False)
    assert pairs.sar.shape == (4, 15, 32, 32)
    assert pairs.sar[:, 12:].square().sum(dim=1).max() > 0.01
    task.training_step(pairs, 0)
    for key, value in shipped.state_dict().items():
        assert task.network.stems.state_dict()[key].equal(value)
    trained = {id(p) for group in task.groups() for p in group["params"]}
    assert not trained & {id(p) for p in task.network.stems.parameters()}
    with pytest.raises(InputError, match="no weights of resnet ship"):
        alone(stem="resnet")


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
    slow = [*task.network.fusion_norm.parameters(), *task.network.layout.parameters()]
    assert {id(p) for p in layout["params"]} == {id(p) for p in slow}
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
    path.write_bytes(b"no weights")
    for name in (path, tmp_path / "none.safetensors"):
        with pytest.raises(InputError, match=rf"{name}: is no whole safetensors file"):
            alone(imagenet=str(name))


SOURCE = Source("unused")
LAYOUTS = [PatchLayout(32, 1.0, "grey"), PatchLayout(32, 1.0, "three"), PatchLayout(24, 2.0, "energy")]
LAYOUTS += [PatchLayout(16, 1.5, "energy")]


def alike(ground, valid=None, sar_valid=None):
    """A pair of which the networks' inputs are alike: SAR amplitudes are such that their logarithm is the ground."""
    ground = ((ground - np.median(ground)) / ground.std()).astype(np.float32)[None]
    valid = np.ones(ground.shape[1:], bool) if valid is None else valid
    optical = Patch(100 + 20 * ground, valid)
    return optical, Patch(110 * np.exp(0.3 * ground) - 10, valid if sar_valid is None else sar_valid)


def textured(side=96, seed=0, **valid):
    return alike(gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 2), **valid)


def of_96_px(**options):
    return config(**{"image": 96, "places": 4, "apart": 6.0, "patch": LAYOUTS[0]} | options)


def made(pair, seed=0, train=True, source=SOURCE, **options):
    return of_96_px(**options).patch_pairs(source, *pair, np.random.default_rng(seed), train)


@pytest.fixture
def placed(monkeypatch):
    """The places of all that is sampled, optical and SAR in turn."""
    seen, original = [], descriptors.sample_patches

    def sample_patches(maps, xy, *rest):
        seen.append(xy.numpy())
        return original(maps, xy, *rest)

    monkeypatch.setattr(descriptors, "sample_patches", sample_patches)
    return seen


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.inputs)
def test_of_images_that_are_alike_both_patches_are_and_others_are_not(layout):
    optical, sar = made(textured(), patch=layout)
    assert optical.shape == sar.shape == (4, layout.channels, layout.side, layout.side)
    assert optical.dtype == sar.dtype == torch.float32
    assert optical.std() > 0.05
    torch.testing.assert_close(optical, sar, atol=1e-3, rtol=1e-3)
    correlation = np.corrcoef(optical.flatten(1).numpy()) - np.eye(4)
    assert correlation.max() < 0.9


def test_optical_patches_come_from_the_optical_image_and_sar_patches_from_the_sar_image():
    optical, sar = textured()
    one, other = made((optical, Patch(np.full_like(sar.values, 50), sar.valid)))
    assert (one.abs().amax(dim=(1, 2, 3)) > 1).all()
    assert other.abs().max() == 0


def test_images_are_magnified_as_the_source_says_and_at_least_to_the_side_that_is_asked_for(placed):
    """Stripes of 8 px, twice as wide."""
    stripes = alike(np.sin(np.arange(200) * np.pi / 4)[None] * np.ones((200, 1)))
    for zoom in (1.0, 2.0):
        optical, _ = made(stripes, source=Source("unused", zoom=(zoom, zoom)), places=1)
        strength = torch.fft.rfft2(optical[0, 0]).abs()[:17].flatten()
        assert max(divmod(int(strength.argmax()), 17)) == 32 / (8 * zoom)
    placed.clear()
    assert made(textured(60)).optical.shape == (4, 1, 32, 32)
    assert placed[0].max() > 60


def test_sar_patches_are_displaced_no_farther_than_asked(placed):
    for seed in range(4):
        made(textured(), seed, shift=4.0)
    moved = np.concatenate(placed[1::2]) - np.concatenate(placed[::2])
    assert np.all(moved.min(axis=0) < -2)
    assert np.all(moved.max(axis=0) > 2)
    assert np.abs(moved).max() <= 4


@pytest.mark.parametrize("change", [{"turn": 12.0}, {"stretch": 0.4}], ids=["turned", "stretched"])
def test_sar_patches_are_changed_about_their_middle(change):
    optical, sar = made(textured(), places=8, **change)
    difference = (optical - sar).abs().mean(dim=(0, 1))
    assert difference[[0, -1]].mean() > 4 * difference[15:17, 15:17].mean()
    assert difference[[0, -1]].mean() > 0.3


def test_grey_values_are_changed_in_training_alone():
    photometry = Photometry(tone=1.0, gain=0.5, speckle=1.0, blur=2.0, noise=0.5)
    changes = {"photometry": photometry, "shift": 5.0, "turn": 30.0, "stretch": 0.5}
    optical, sar = made(textured(), train=True, **changes)
    assert (optical - sar).abs().mean() > 0.3
    torch.testing.assert_close(*made(textured(), train=False, **changes), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("corners", [0.0, 0.7])
def test_places_are_apart_and_away_from_the_border_and_the_same_in_both_images(corners, placed):
    for seed in range(4):
        made(textured(), seed, corners=corners, apart=12.0, turn=5.0, stretch=0.1)
    for optical, sar in zip(placed[::2], placed[1::2], strict=True):
        np.testing.assert_array_equal(optical, sar)
        assert len(optical) == 4
        assert pdist(optical).min() >= 12
    places = np.concatenate(placed)
    assert 24 <= places.min() <= places.max() <= 95 - 24
    assert np.ptp(places, axis=0).min() > 40


@pytest.mark.parametrize("corners", [0.0, 1.0])
def test_places_are_where_both_images_are_valid(corners, placed):
    """Optical in the middle, SAR all but the very middle, however the images are turned."""
    away = np.abs(np.mgrid[:96, :96] - 47.5).max(axis=0)
    pair = textured(valid=away < 16, sar_valid=away > 8)
    for seed in range(2):
        made(pair, seed, places=2, corners=corners)
    assert len(placed) >= 2
    for places in placed:
        off = np.abs(places - 47.5).max(axis=1)
        assert off.min() > 8
        assert off.max() < 16


@pytest.mark.parametrize(("corners", "least", "most"), [(1.0, 1.0, 1.0), (0.5, 0.3, 0.8), (1e-9, 0.0, 0.2)])
def test_the_share_at_corners_is_as_asked(corners, least, most, placed, monkeypatch):
    found, at_corners, original = [], [], descriptors.fast_corners
    monkeypatch.setattr(descriptors, "fast_corners", lambda *given: found.append(original(*given)) or found[-1])
    for seed in range(3):
        found.clear()
        made(textured(), seed, corners=corners, places=8, apart=4.0)
        there = {tuple(xy) for points, _ in found for xy in points}
        at_corners += [tuple(xy) in there for xy in placed[-1]]
    assert len(at_corners) == 24
    assert least <= np.mean(at_corners) <= most


LEFT = np.arange(96) < np.full((96, 1), 48)
NO_ROOM = {
    "hardly more than border": ({"side": 50}, {"image": 50}),
    "too many places": ({}, {"places": 40, "batch": 40, "apart": 12.0}),
    "too far apart": ({}, {"apart": 100.0}),
    "nowhere valid together": ({"valid": LEFT, "sar_valid": ~LEFT}, {}),
}


@pytest.mark.parametrize(("pair", "options"), NO_ROOM.values(), ids=NO_ROOM)
@pytest.mark.parametrize("corners", [0.0, 1.0])
def test_an_image_without_room_has_no_patches(pair, options, corners):
    assert made(textured(**pair), corners=corners, **options) is None


def test_what_is_held_out_is_the_same_each_time_and_shown_as_it_is():
    nowhere, strong = textured(valid=np.zeros((96, 96), bool)), Photometry(tone=1.0, speckle=1.0)
    pairs = [textured(120, seed) for seed in range(3)]
    changed = of_96_px(photometry=strong, shift=9.0, turn=30.0, stretch=0.5)
    parts = [(SOURCE, [nowhere, *pairs[:2], nowhere]), (SOURCE, pairs[2:])]
    held, again = changed.held_out(parts), changed.held_out(parts)
    assert len(held) == 3, "those without room are left out"
    batch = collate(held)
    assert all(one.equal(other) for one, other in zip(batch, collate(again), strict=True))
    assert all(torch.cat(parts).equal(whole) for parts, whole in zip(zip(*held, strict=True), batch, strict=True))
    assert not held[0].optical.equal(held[2].optical)
    for optical, sar in held:
        torch.testing.assert_close(optical, sar, atol=0.1, rtol=0.1)
