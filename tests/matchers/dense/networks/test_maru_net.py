"""networks/maru_net: two resolutions, one set of weights, gates that open and shut."""

from __future__ import annotations

import torch

from sn9reg.matchers.dense.networks.maru_net import AttentionGate, MARUNet


def test_the_last_channels_see_the_copy_at_half_resolution_only():
    """A checkerboard is gone once 2 x 2 pixels are averaged."""
    torch.manual_seed(0)
    network, image = MARUNet().eval(), torch.randn(1, 1, 32, 32)
    board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1.0)[None, None]
    with torch.inference_mode():
        plain, disturbed = network(image), network(image + board)
    assert torch.allclose(plain[:, 4:], disturbed[:, 4:], atol=1e-4)
    assert (plain[:, :4] - disturbed[:, :4]).abs().max() > 1e-2


def test_both_resolutions_go_through_one_unit():
    network = MARUNet().eval()
    assert [name for name, _ in network.named_children()] == ["unit"]
    seen = []
    network.unit.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].shape, output.shape)))
    with torch.inference_mode():
        network(torch.randn(1, 1, 64, 32))
    assert seen == [((1, 1, 64, 32), (1, 4, 64, 32)), ((1, 1, 32, 16), (1, 4, 32, 16))]


def test_a_gate_that_is_shut_lets_nothing_pass():
    gate = AttentionGate(8, 16).eval()
    torch.nn.init.zeros_(gate.score.weight)
    torch.nn.init.zeros_(gate.mix[0].bias)
    fine, coarse = torch.randn(1, 8, 12, 8), torch.randn(1, 16, 6, 4)
    with torch.no_grad():
        gate.score.bias.fill_(-50)
        assert gate(fine, coarse).abs().max() < 1e-6
        gate.score.bias.fill_(50)
        assert torch.allclose(gate(fine, coarse), gate.mix(fine), atol=1e-6)


def test_the_coarse_features_steer_the_gate():
    torch.manual_seed(0)
    gate, fine = AttentionGate(8, 16).eval(), torch.randn(1, 8, 12, 8)
    with torch.no_grad():
        first, second = (gate(fine, torch.randn(1, 16, 6, 4)) for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-4)
