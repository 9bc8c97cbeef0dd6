"""training.split: which images show the same ground, and which are kept from training."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sn9reg.training.split import ground_components, hold_out

SIDE = 64


def ground(height=SIDE, width=SIDE, seed=0):
    """(h, w) uint8 of random ground."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2)
    return np.clip(values / values.std() * 40 + 120, 0, 255).astype(np.uint8)


def cut(image, *corners):
    """Patches of SIDE px whose upper left pixels are these, in half patches."""
    half = SIDE // 2
    return [image[r * half : r * half + SIDE, c * half : c * half + SIDE] for r, c in corners]


# 40 places with three images each, which overlap by half, and 40 images that overlap with none.
PATCHES = [image for seed in range(40) for image in cut(ground(96, 128, seed), (0, 0), (0, 1), (1, 2))]
PATCHES += [ground(seed=1000 + seed) for seed in range(40)]
PLACE = np.concatenate([np.repeat(np.arange(40), 3), 40 + np.arange(40)])
LIGHT = 3.0 * np.mgrid[:SIDE, :SIDE].sum(axis=0)  # that falls off alike everywhere


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (cut(ground(200, 300), *((r, c) for r in range(5) for c in range(8))), 1),
        (cut(ground(64, 128), (0, 0), (0, 1), (0, 2)), 1),  # first and last overlap with the one between
        (cut(ground(200, 200), (0, 0), (0, 2), (2, 0), (2, 2)), 4),  # side by side
        *((cut(ground(200, 200), (1, 1), other), 1) for other in [(1, 2), (2, 1), (2, 2), (0, 2), (2, 0)]),
        ([ground(64, 96)[:, :64], 0.3 * ground(64, 96)[:, 32:] + 50], 1),  # of other brightness and contrast
        ([LIGHT + 0.5 * ground(seed=seed) for seed in range(10)], 10),
        ([np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), 9)], 3),
        (PATCHES, 80),
    ],
)
def test_images_that_overlap_by_half_are_one_component(images, count):
    labels = ground_components([*images, ground(seed=50)])
    assert len(set(labels[:-1])) == count
    assert labels[-1] not in labels[:-1]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_whole_places_are_held_out_and_about_the_share(share):
    held = hold_out(PATCHES, share, seed=3)
    assert (held.dtype, held.shape) == (bool, (160,))
    assert not set(PLACE[held]) & set(PLACE[~held])
    assert share * 160 - 3 < held.sum() <= share * 160
    if share:
        assert len(set(PLACE[held])) > 4, "many places and not one"
        np.testing.assert_array_equal(held, hold_out(PATCHES, share, seed=3))
        assert (held != hold_out(PATCHES, share, seed=4)).any()


@pytest.mark.parametrize("seed", range(4))
def test_a_place_of_more_than_a_quarter_of_what_is_wanted_stays_in_training(seed):
    large = cut(ground(100, 200), *((r, c) for r in range(2) for c in range(5)))
    held = hold_out([*large, *(ground(seed=10 + k) for k in range(70))], 0.25, seed)
    assert not held[:10].any()
    assert held[10:].sum() == 20
