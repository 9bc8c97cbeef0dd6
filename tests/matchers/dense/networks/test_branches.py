"""networks/branches: which weights serve which modality, and padding to the divisor."""

import pytest
import torch
from torch import nn

from sn9reg.matchers.dense.networks.branches import Branches


class Strict(nn.Module):
    """One convolution that insists on its divisor."""

    divisor, margin = 8, 3

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1)

    def forward(self, image):
        assert image.shape[-2] % 8 == image.shape[-1] % 8 == 0
        self.seen = image
        return self.conv(image)


@pytest.mark.parametrize("shared", [True, False])
def test_siamese_branches_share_one_set_of_weights_and_pseudo_siamese_have_two(shared):
    branches, image = Branches(Strict, shared), torch.randn(1, 1, 8, 8)
    assert (branches.divisor, branches.margin, branches.shared) == (8, 3, shared)
    assert len(list(branches.parameters())) == len(branches.state_dict()) == (2 if shared else 4)
    for modality in ("optical", "sar"):
        assert torch.equal(branches(image, modality), branches.branches["optical" if shared else modality](image))
    assert torch.equal(branches(image, "optical"), branches(image, "sar")) is shared


@pytest.mark.parametrize("shared", [True, False])
def test_colours_are_seen_by_the_optical_branch_and_sar_is_repeated_for_a_shared_one(shared):
    branches, colours, sar = Branches(Strict, shared, 3), torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)
    branches(colours, "optical")
    assert torch.equal(branches.branches["optical"].seen, colours)
    branches(sar, "sar")
    assert torch.equal(branches.branches["optical" if shared else "sar"].seen, sar.repeat(1, 3 if shared else 1, 1, 1))


@pytest.mark.parametrize(("height", "width"), [(8, 16), (9, 15), (13, 8), (1, 1), (3, 40), (12, 2)])
def test_padding_is_a_reflection_or_where_too_small_a_replication_and_is_cropped_off(height, width):
    branches, image = Branches(Strict, shared=True), torch.randn(2, 1, height, width)
    branch = branches.branches["optical"]
    assert torch.allclose(branches(image, "optical"), branch.conv(image))
    seen = branch.seen
    assert torch.equal(seen[..., :height, :width], image)
    if (height, width) == (9, 15):
        assert torch.equal(seen[..., :height, width], image[..., -2])
    elif min(height, width) < 8:
        assert torch.equal(seen[..., -1, -1], image[..., -1, -1])
