"""networks/table: what every network of the table owes its callers, and the errors of `build`."""

from __future__ import annotations

import math

import pytest
import torch
from support.networks import untrained

from sn9reg.errors import ConfigError
from sn9reg.matchers.dense.networks.table import NETWORKS, build, network_class

# Trainable parameters: Table III of the comparison of SAR-optical networks, and how its networks share weights.
PUBLISHED = {
    "mcgf": (58_476, False),
    "osmnet": (653_220, False),
    "fft-unet": (1_868_044, True),
    "maru-net": (8_949_660, True),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_parameters_as_published(name):
    published, shared = PUBLISHED[name]
    count = parameters(build(name, shared))
    print(f"{name}: {count} parameters, published {published}")
    assert count == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("name", ["mcgf", "osmnet", "fft-unet"])
def test_the_reading_of_the_structure_gives_the_published_count_exactly(name):
    """Published with images of three channels, but for MCGF, which begins with the gradients of one."""
    published, shared = PUBLISHED[name]
    assert parameters(build(name, shared, in_channels=1 if name == "mcgf" else 3)) == published


@every_network
def test_size_is_kept_whatever_it_is(name):
    network = untrained(name)
    for height, width in [(64, 32), (45, 71), (5, 7)]:  # multiples of every divisor, none, too small to reflect
        image = torch.randn(2, 1, height, width)
        with torch.inference_mode():
            features = network(image, "optical")
        assert features.shape == (2, network.out_channels, height, width)
        assert features.isfinite().all()


@every_network
def test_attributes(name):
    branch = network_class(name)()
    assert branch.divisor in (1, 2, 4, 8, 16, 32)
    assert 0 < branch.margin <= 48


@every_network
def test_same_input_same_output_in_eval_mode(name):
    network, image = untrained(name), torch.randn(1, 1, 40, 40)
    with torch.inference_mode():
        assert torch.equal(network(image, "sar"), network(image, "sar"))
        torch.manual_seed(0)
        alone, beside = network(image, "sar"), network(torch.cat([image, image + 1]), "sar")
    assert torch.allclose(alone[0], beside[0], atol=1e-4)


@every_network
@pytest.mark.parametrize("shared", [True, False])
def test_gradients_reach_every_parameter(name, shared):
    network = untrained(name, shared)
    image = torch.randn(1, 1, 64, 64, requires_grad=True)
    optical, sar = network(image, "optical"), network(image.flip(3), "sar")
    (optical * torch.randn_like(optical) + sar * torch.randn_like(sar)).sum().backward()
    for where, parameter in network.named_parameters():
        assert parameter.grad is not None, where
        assert parameter.grad.isfinite().all(), where
        assert parameter.grad.abs().max() > 0, where
    assert image.grad.isfinite().all()
    assert image.grad.abs().max() > 0


@every_network
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("level", [0.0, 7.0])
def test_a_constant_image_does_no_harm(name, training, level):
    network = untrained(name).train(training)
    image = torch.full((2, 1, 64, 64), level, requires_grad=True)
    features = network(image, "optical")
    assert features.isfinite().all()
    features.square().sum().backward()
    assert image.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("name", ["mcgf", "osmnet", "fft-unet"])
def test_beyond_the_margin_a_feature_does_not_feel_the_border(name):
    """MARU-Net and the slim U-Net see farther than they notice: their margins are where little is left."""
    network, image = untrained(name), torch.randn(1, 1, 112, 112)
    start, size, margin = 16, 80, network.margin
    with torch.inference_mode():
        whole = network(image, "optical")[..., start : start + size, start : start + size]
        part = network(image[..., start : start + size, start : start + size], "optical")
    difference = (whole - part).abs().amax(dim=1)[0]
    assert difference[margin:-margin, margin:-margin].max() < 1e-4
    assert difference[0].max() > 1e-2


@every_network
@pytest.mark.parametrize("shared", [True, False])
def test_weights_survive_the_state_dict(name, shared):
    network, image = untrained(name, shared), torch.randn(1, 1, 32, 32)
    other = build(name, shared).eval()
    other.load_state_dict(network.state_dict())
    with torch.inference_mode():
        for modality in ("optical", "sar"):
            assert torch.equal(network(image, modality), other(image, modality))


def test_unknown_network_names_the_known():
    with pytest.raises(ConfigError, match="'sfcnet'") as error:
        build("sfcnet", shared=True)
    assert all(name in str(error.value) for name in NETWORKS)


@every_network
def test_unknown_option_names_the_known(name):
    with pytest.raises(ConfigError, match=r"depth.*in_channels"):
        build(name, shared=True, depth=5)


def test_options_reach_the_network():
    assert math.isclose(build("osmnet", shared=True, dropout=0.1).optical.dropout.p, 0.1)
