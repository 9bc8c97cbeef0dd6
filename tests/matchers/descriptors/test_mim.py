"""descriptors/mim: histograms of the strongest orientation, which contrast and a known rotation do not change."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sn9reg.features.phase_congruency import phase_congruency
from sn9reg.matchers.descriptors.mim import LAYOUT, MimDescriber, mim_descriptors
from sn9reg.matchers.descriptors.patches import PatchLayout

SIDE = 160
SMALL = PatchLayout(24, 1.0, "energy")
MIDDLE = (SIDE - 1) / 2


def ground(seed=0):
    """(H, W) regions with sharp borders."""
    regions = gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 5, mode="wrap") > 0
    return gaussian_filter(regions.astype(np.float32), 0.7)


def maps_of(image):
    image = torch.from_numpy(np.asarray(image, np.float32))[None]
    return torch.cat([image, phase_congruency(image).amplitude[0]])


def places(*xy):
    return torch.tensor(xy, dtype=torch.float64)


def rotated(image, degrees):
    """The image turned about its middle from x towards y (down)."""
    matrix = cv2.getRotationMatrix2D((MIDDLE, MIDDLE), -degrees, 1)
    return cv2.warpAffine(image, matrix, image.shape[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def flat_maps(strongest):
    """(H, W) orientation that is the strongest, or -1 for none -> maps."""
    strongest = torch.as_tensor(strongest)
    energies = torch.stack([(strongest == k).float() for k in range(6)])
    return torch.cat([torch.zeros_like(energies[:1]), energies])


@pytest.fixture(scope="module")
def maps():
    return maps_of(ground())


def test_descriptors_have_unit_length(maps):
    found = mim_descriptors(maps, places((80, 80), (70.3, 91.8), (5, 150)))
    assert found.shape == (3, 216)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert (found >= 0).all()
    # How strong the strongest orientation is does not matter, nor the image itself.
    weight, xy = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 0.1, places((80, 80), (60, 90))
    changed, layout = weight * maps, PatchLayout(25, 1.0, "energy")
    changed[0] = 5
    torch.testing.assert_close(mim_descriptors(changed, xy, layout), mim_descriptors(maps, xy, layout))


def test_a_descriptor_counts_the_strongest_orientation_of_each_cell():
    strongest = np.random.default_rng(0).integers(0, 6, (40, 50))
    strongest[:, 24:] = -1  # no energy, no vote
    found = mim_descriptors(flat_maps(strongest), places((20.5, 17.5)), SMALL)[0].reshape(6, 6, 6)
    expected = np.zeros((6, 6, 6))
    for y in range(24):
        for x in range(15):
            expected[y // 4, x // 4, strongest[y + 6, x + 9]] += 1
    assert found.numpy() == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


@pytest.mark.parametrize("change", [lambda v: -v, lambda v: 1 - v, lambda v: 40 * v + 7], ids=["-v", "1-v", "40v+7"])
def test_reversed_and_other_contrast_do_not_matter(maps, change):
    xy = places((80, 80), (60, 100))
    found = mim_descriptors(maps_of(change(ground())), xy)
    assert ((found * mim_descriptors(maps, xy)).sum(dim=1) > 0.999).all()


def test_two_places_differ_and_the_same_place_of_a_moved_image_does_not(maps):
    here, there = mim_descriptors(maps, places((70, 80), (95, 66)))
    moved = mim_descriptors(maps_of(np.roll(ground(), (6, -9), (0, 1))), places((61, 86)))[0]
    assert here @ there < 0.8
    assert here @ moved > 0.99


@pytest.mark.parametrize("degrees", [60, -60, 90, 145])
def test_a_turned_image_is_described_as_the_upright_one_if_its_angle_is_given(maps, degrees):
    layout, xy = PatchLayout(72, 1.0, "energy"), places((MIDDLE, MIDDLE))
    upright = mim_descriptors(maps, xy, layout)[0]
    turned = maps_of(rotated(ground(), degrees))
    told = mim_descriptors(turned, xy, layout, torch.tensor([math.radians(degrees)]))[0]
    untold = mim_descriptors(turned, xy, layout)[0]
    assert upright @ told > 0.9
    assert upright @ told > upright @ untold + 0.15


def test_the_describer_describes_as_the_function(maps):
    describer, image = MimDescriber(), torch.from_numpy(ground())
    own = describer.maps(image, phase_congruency(image[None]))
    assert describer.extent == LAYOUT.extent == 96
    assert torch.equal(own, maps)
    xy, angle = places((80, 80), (70, 90)), torch.tensor([0.0, 1.0])
    assert torch.equal(describer.describe(own, xy, angle), mim_descriptors(maps, xy, angle=angle))
