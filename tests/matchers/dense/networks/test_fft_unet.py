"""networks/fft_unet: what passes by the skips and what comes from below."""

from __future__ import annotations

import torch

from sn9reg.matchers.dense.networks.fft_unet import FFTUNet


def test_skips_and_depth_both_reach_the_features():
    torch.manual_seed(0)
    network, image = FFTUNet(), torch.randn(1, 1, 32, 32)  # normalised by the image itself, as in training
    with torch.no_grad():
        whole = network(image)
        for up in network.up:
            weight = up[0][0].weight
            half = weight.shape[1] // 2
            for part in (weight[:, :half], weight[:, half:]):  # from the skip, from below
                kept = part.clone()
                part.zero_()
                assert (network(image) - whole).abs().mean() > 0.05 * whole.std()
                part.copy_(kept)
        assert torch.allclose(network(image), whole)


def test_features_have_both_signs():
    features = FFTUNet()(torch.randn(1, 1, 32, 32))
    assert (features.amin(dim=(0, 2, 3)) < 0).all()
    assert (features.amax(dim=(0, 2, 3)) > 0).all()
