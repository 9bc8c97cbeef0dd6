"""networks/mcgf: the gradients it begins with, and its two scales."""

from __future__ import annotations

import math

import pytest
import torch

from sn9reg.matchers.dense.networks.mcgf import MCGF, ORIENTATIONS, oriented_gradients


def grating(degrees, wavelength=9.0, size=48, phase=0.4):
    """A wave whose normal points at `degrees` from x towards y (down)."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    along = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
    return math.sqrt(2) * torch.sin(2 * math.pi * along / wavelength + phase)[None, None]


@pytest.mark.parametrize("k", range(ORIENTATIONS))
def test_a_channel_responds_to_its_orientation(k):
    strength = oriented_gradients(grating(180 * k / ORIENTATIONS))[0, :, 8:-8, 8:-8].mean(dim=(1, 2))
    assert strength.argmax() == k
    # Four steps away is almost perpendicular: cos 80 degrees.
    assert strength[(k + 4) % ORIENTATIONS] < 0.3 * strength[k]


def test_gradients_do_not_mind_the_sign_of_contrast():
    image = torch.randn(1, 1, 24, 24)
    assert torch.allclose(oriented_gradients(image), oriented_gradients(-image), atol=1e-6)


def test_gradients_lie_between_0_and_1_and_vanish_where_nothing_is():
    assert oriented_gradients(torch.full((1, 1, 16, 16), 5.0)).abs().max() < 1e-4
    strong = oriented_gradients(10 * torch.randn(2, 3, 16, 16))
    assert strong.shape == (2, 3 * ORIENTATIONS, 16, 16)
    assert 0 <= strong.min() <= strong.max() <= 1


def test_both_scales_are_averaged():
    network, image = MCGF().eval(), torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        both = network(image)
        for last in (network.fine[-1], network.coarse[-1]):
            torch.nn.init.zeros_(last[1].weight)  # features of this scale are now zero
            alone = network(image)
            assert not torch.allclose(alone, both, atol=1e-4)
        assert alone.abs().max() == 0


def test_features_have_both_signs():
    features = MCGF()(torch.randn(1, 1, 32, 32))
    assert features.min() < 0 < features.max()
