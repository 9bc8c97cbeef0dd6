"""training.split: which images show the same ground, and which are kept from training."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sn9reg.training.split import ground_components, hold_out

SIDE = 64


def ground(height, width, seed=0):
    """(h, w) uint8 of random ground."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2)
    return np.clip(values / values.std() * 40 + 120, 0, 255).astype(np.uint8)


def cut(image, *corners):
    """Patches of SIDE px whose upper left pixels are these, in half patches."""
    half = SIDE // 2
    return [image[r * half : r * half + SIDE, c * half : c * half + SIDE] for r, c in corners]


@pytest.fixture(scope="module")
def patches():
    """40 places with three images each, which overlap by half, and 40 images that overlap with none."""
    chains = [image for seed in range(40) for image in cut(ground(96, 128, seed), (0, 0), (0, 1), (1, 2))]
    return chains + [ground(SIDE, SIDE, 1000 + seed) for seed in range(40)]


PLACE = np.concatenate([np.repeat(np.arange(40), 3), 40 + np.arange(40)])  # of each of `patches`


def test_all_patches_cut_from_one_image_at_half_their_side_are_one_component():
    image = ground(200, 300)
    labels = ground_components(cut(image, *((r, c) for r in range(5) for c in range(8))))
    assert len(labels) == 40
    assert len(set(labels)) == 1


def test_patches_side_by_side_share_no_ground():
    assert len(set(ground_components(cut(ground(200, 200), (0, 0), (0, 2), (2, 0), (2, 2))))) == 4


@pytest.mark.parametrize("other", [(1, 2), (2, 1), (2, 2), (0, 2), (2, 0)])
def test_overlap_in_any_direction_counts(other):
    labels = ground_components([*cut(ground(200, 200), (1, 1), other), ground(SIDE, SIDE, 5)])
    assert labels[0] == labels[1] != labels[2]


def test_overlap_reaches_through_others():
    """First and last have no pixel in common, but each has some with the one between."""
    labels = ground_components([*cut(ground(64, 128), (0, 0), (0, 1), (0, 2)), ground(SIDE, SIDE, 5)])
    assert labels[0] == labels[1] == labels[2] != labels[3]


def test_brightness_and_contrast_do_not_hide_an_overlap():
    one, other = cut(ground(64, 96).astype(np.float32), (0, 0), (0, 1))
    labels = ground_components([one, 0.3 * other + 50, ground(SIDE, SIDE, 5)])
    assert labels[0] == labels[1] != labels[2]


def test_light_that_falls_off_alike_does_not_make_two_places_one():
    light = 3.0 * np.mgrid[:SIDE, :SIDE].sum(axis=0)
    assert len(set(ground_components([light + 0.5 * ground(SIDE, SIDE, seed) for seed in range(10)]))) == 10


def test_constant_images_are_not_taken_for_one_place():
    labels = ground_components([np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), 9)])
    assert len(set(labels)) == 3


def test_components_are_the_places(patches):
    labels = ground_components(patches)
    assert len(set(labels)) == 80
    assert len({(label, place) for label, place in zip(labels, PLACE, strict=True)}) == 80


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_whole_places_are_held_out_and_about_the_share(patches, share):
    held = hold_out(patches, share)
    assert held.dtype == bool
    assert held.shape == (160,)
    assert not set(PLACE[held]) & set(PLACE[~held])
    assert share * 160 - 3 < held.sum() <= share * 160
    assert len(set(PLACE[held])) > 4, "many places and not one"


def test_the_seed_decides_which(patches):
    first = hold_out(patches, 0.25, seed=3)
    np.testing.assert_array_equal(first, hold_out(patches, 0.25, seed=3))
    assert (first != hold_out(patches, 0.25, seed=4)).any()


@pytest.mark.parametrize("seed", range(6))
def test_a_place_of_more_than_a_quarter_of_what_is_wanted_stays_in_training(seed):
    large = cut(ground(100, 200), *((r, c) for r in range(2) for c in range(5)))
    held = hold_out([*large, *(ground(SIDE, SIDE, 10 + k) for k in range(70))], 0.25, seed)
    assert not held[:10].any()
    assert held[10:].sum() == 20


def test_nothing_is_held_out_of_a_share_of_nothing(patches):
    assert not hold_out(patches, 0.0).any()
