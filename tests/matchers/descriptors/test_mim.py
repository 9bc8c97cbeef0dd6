"""MimDescriber: histograms of the strongest orientation, which contrast and a known rotation do not change."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.rasters import turned

from sn9reg.features.phase_congruency import phase_congruency
from sn9reg.matchers.descriptors.describe import MimDescriber
from sn9reg.matchers.descriptors.patches import PatchLayout

SIDE = 160


def ground(seed=0):
    """(H, W) regions with sharp borders."""
    regions = gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 5, mode="wrap") > 0
    return gaussian_filter(regions.astype(np.float32), 0.7)


def maps_of(image):
    image = torch.from_numpy(np.asarray(image, np.float32))
    return MimDescriber().maps(image, phase_congruency(image[None]))


def describe(maps, *xy, side=96, angle=None):
    layout = PatchLayout(side, 1.0, "energy")
    return MimDescriber(layout).describe(maps, torch.tensor(xy, dtype=torch.float64), angle)


def flat_maps(strongest):
    """(H, W) orientation that is the strongest, or -1 for none -> maps."""
    strongest = torch.as_tensor(strongest)
    energies = torch.stack([(strongest == k).float() for k in range(6)])
    return torch.cat([torch.zeros_like(energies[:1]), energies])


@pytest.fixture(scope="module")
def maps():
    return maps_of(ground())


def test_descriptors_have_unit_length_and_do_not_change_with_how_strong_the_strongest_orientation_is(maps):
    assert MimDescriber().extent == 96
    found = describe(maps, (80, 80), (70.3, 91.8), (5, 150))
    assert found.shape == (3, 216)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert (found >= 0).all()
    changed = (torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 0.1) * maps
    changed[0] = 5  # nor with the image itself
    torch.testing.assert_close(*(describe(m, (80, 80), (60, 90), side=25) for m in (changed, maps)))


def test_a_descriptor_counts_the_strongest_orientation_of_each_cell():
    strongest = np.random.default_rng(0).integers(0, 6, (40, 50))
    strongest[:, 24:] = -1  # no energy, no vote
    found = describe(flat_maps(strongest), (20.5, 17.5), side=24)[0].reshape(6, 6, 6)
    expected = np.zeros((6, 6, 6))
    for y in range(24):
        for x in range(15):
            expected[y // 4, x // 4, strongest[y + 6, x + 9]] += 1
    assert found.numpy() == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


@pytest.mark.parametrize("change", [lambda v: -v, lambda v: 1 - v, lambda v: 40 * v + 7], ids=["-v", "1-v", "40v+7"])
def test_reversed_and_other_contrast_do_not_matter(maps, change):
    changed, plain = (describe(m, (80, 80), (60, 100)) for m in (maps_of(change(ground())), maps))
    assert ((changed * plain).sum(dim=1) > 0.999).all()


def test_two_places_differ_and_the_same_place_of_a_moved_image_does_not(maps):
    here, there = describe(maps, (70, 80), (95, 66))
    moved = describe(maps_of(np.roll(ground(), (6, -9), (0, 1))), (61, 86))[0]
    assert here @ there < 0.8
    assert here @ moved > 0.99


@pytest.mark.parametrize("degrees", [60, -60, 90, 145])
def test_a_turned_image_is_described_as_the_upright_one_if_its_angle_is_given(maps, degrees):
    middle = ((SIDE - 1) / 2,) * 2
    image = cv2.warpAffine(
        ground(), turned(SIDE, degrees)[:2], (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    upright, rotated = describe(maps, middle, side=72)[0], maps_of(image)
    informed = describe(rotated, middle, side=72, angle=torch.tensor([math.radians(degrees)]))[0]
    assert upright @ informed > 0.9
    assert upright @ informed > upright @ describe(rotated, middle, side=72)[0] + 0.15
