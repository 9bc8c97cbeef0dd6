"""networks/osmnet: unit length, and early features that reach the end."""

from __future__ import annotations

import torch

from sn9reg.matchers.dense.networks.osmnet import OSMNet


def test_features_are_of_unit_length():
    network = OSMNet()
    for module in (network.train(), network.eval()):
        length = module(torch.randn(2, 1, 20, 24)).norm(dim=1)
        assert torch.allclose(length, torch.ones_like(length), atol=1e-5)


def test_each_block_reaches_the_features():
    torch.manual_seed(0)
    network, image = OSMNet().eval(), torch.randn(1, 1, 16, 16)
    weight = network.head[0].weight
    assert weight.shape == (9, 32 + 64 + 128, 3, 3)
    with torch.no_grad():
        whole = network(image)
        for first, last in [(0, 32), (32, 96), (96, 224)]:
            kept = weight[:, first:last].clone()
            weight[:, first:last] = 0
            assert not torch.allclose(network(image), whole, atol=1e-3)
            weight[:, first:last] = kept


def test_dropout_is_for_training_only():
    image = torch.randn(1, 1, 16, 16)
    network = OSMNet(dropout=0.5)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))
