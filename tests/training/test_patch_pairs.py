"""training.patch_pairs: patch pairs show one place, places are where they may be, chance is that of the seed."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import pdist

from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.raster.scene import Patch
from sn9reg.training import patch_pairs as module
from sn9reg.training.data import Source
from sn9reg.training.descriptors import DescriptorConfig
from sn9reg.training.patch_pairs import collate, held_out, patch_pairs
from sn9reg.training.sample import Photometry

SOURCE = Source("unused")
LAYOUTS = [PatchLayout(32, 1.0, "grey"), PatchLayout(24, 2.0, "energy"), PatchLayout(16, 1.5, "both")]


def alike(ground, valid=None, sar_valid=None):
    """A pair of which the networks' inputs are alike: SAR amplitudes are such that their logarithm is the ground."""
    ground = ((ground - np.median(ground)) / ground.std()).astype(np.float32)[None]
    valid = np.ones(ground.shape[1:], bool) if valid is None else valid
    optical = Patch(100 + 20 * ground, valid)
    return optical, Patch(110 * np.exp(0.3 * ground) - 10, valid if sar_valid is None else sar_valid)


def textured(side=96, seed=0, **valid):
    return alike(gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 2), **valid)


def config(**options):
    small = {"image": 96, "places": 4, "batch": 8, "apart": 6.0, "patch": LAYOUTS[0]}
    return DescriptorConfig(**{"sources": (SOURCE,)} | small | options)


def made(pair, seed=0, train=True, source=SOURCE, **options):
    return patch_pairs(source, *pair, np.random.default_rng(seed), config(**options), train)


@pytest.fixture
def placed(monkeypatch):
    """The places of all that is sampled, optical and SAR in turn."""
    seen, original = [], module.sample_patches

    def sample_patches(maps, xy, *rest):
        seen.append(xy.numpy())
        return original(maps, xy, *rest)

    monkeypatch.setattr(module, "sample_patches", sample_patches)
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
    found, at_corners, original = [], [], module.fast_corners
    monkeypatch.setattr(module, "fast_corners", lambda *given: found.append(original(*given)) or found[-1])
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
    changed = config(photometry=strong, shift=9.0, turn=30.0, stretch=0.5)
    parts = [(SOURCE, [nowhere, *pairs[:2], nowhere]), (SOURCE, pairs[2:])]
    held, again = held_out(changed, parts), held_out(changed, parts)
    assert len(held) == 3, "those without room are left out"
    batch = collate(held)
    assert all(one.equal(other) for one, other in zip(batch, collate(again), strict=True))
    assert all(torch.cat(parts).equal(whole) for parts, whole in zip(zip(*held, strict=True), batch, strict=True))
    assert not held[0].optical.equal(held[2].optical)
    for optical, sar in held:
        torch.testing.assert_close(optical, sar, atol=0.1, rtol=0.1)
