"""networks/branches: which weights serve which modality, and padding to the divisor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sn9reg.matchers.dense.networks.branches import Branches


class Strict(nn.Module):
    """One convolution that insists on its divisor."""

    divisor, margin, out_channels = 8, 3, 2

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.seen = None

    def forward(self, image):
        assert image.shape[-2] % 8 == image.shape[-1] % 8 == 0
        self.seen = image
        return self.conv(image)


def test_siamese_has_one_set_of_weights_counted_and_stored_once():
    siamese = Branches(Strict, shared=True)
    assert siamese.sar is siamese.optical
    assert len(list(siamese.parameters())) == len(siamese.state_dict()) == 2
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(siamese(image, "optical"), siamese(image, "sar"))


def test_pseudo_siamese_has_two():
    pseudo = Branches(Strict, shared=False)
    assert pseudo.sar is not pseudo.optical
    assert len(list(pseudo.parameters())) == len(pseudo.state_dict()) == 4
    image = torch.randn(1, 1, 8, 8)
    assert torch.equal(pseudo(image, "optical"), pseudo.optical(image))
    assert torch.equal(pseudo(image, "sar"), pseudo.sar(image))
    assert not torch.equal(pseudo(image, "optical"), pseudo(image, "sar"))


@pytest.mark.parametrize("shared", [True, False])
def test_a_copy_stands_on_its_own(shared):
    branches = Branches(Strict, shared)
    twin = copy.deepcopy(branches)
    assert (twin.sar is twin.optical) is shared
    assert twin.optical is not branches.optical


def test_attributes_are_those_of_the_branch():
    branches = Branches(Strict, shared=True)
    assert (branches.divisor, branches.margin, branches.out_channels, branches.shared) == (8, 3, 2, True)


@pytest.mark.parametrize(("height", "width"), [(8, 16), (9, 15), (13, 8)])
def test_padding_is_a_reflection_and_is_cropped_off(height, width):
    branches, image = Branches(Strict, shared=True), torch.randn(2, 1, height, width)
    features = branches(image, "optical")
    assert torch.allclose(features, branches.optical.conv(image))
    seen = branches.optical.seen
    assert torch.equal(seen[..., :height, :width], image)
    if width % 8:
        assert torch.equal(seen[..., :height, width], image[..., -2])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 40), (12, 2)])
def test_what_is_too_small_to_reflect_is_replicated(height, width):
    branches, image = Branches(Strict, shared=True), torch.randn(1, 1, height, width)
    assert branches(image, "sar").shape == (1, 2, height, width)
    assert torch.equal(branches.optical.seen[..., -1, -1], image[..., -1, -1])
