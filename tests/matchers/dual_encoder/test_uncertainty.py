"""Each branch looks where its name says, maps lie between 0 and 1, dropout only when asked."""

import pytest
import torch
from torch import nn

from sn9reg.matchers.dual_encoder.uncertainty import (
    AdaptiveFusion,
    AleatoricMap,
    AtmosphericBranch,
    ChannelAttention,
    GeometricBranch,
    SeasonalBranch,
    SpeckleBranch,
)

CHANNELS = 8
ORIENTATIONS = (0, 45, 90, 135)
both_kinds = pytest.mark.parametrize("kind", ["sar", "optical"])


def made(module, *arguments, **options):
    torch.manual_seed(0)
    return module(*arguments, **options).eval()


def features(batch=2, channels=CHANNELS, height=12, width=10, seed=1):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def test_speckle_looks_at_5_x_5_pixels_of_each_channel_alone():
    branch, seen = made(SpeckleBranch, CHANNELS), features(1, height=11, width=11).requires_grad_()
    for conv in (branch.first, branch.second):  # no channel is silent
        nn.init.constant_(conv.weight, 0.1)
        nn.init.constant_(conv.bias, 5)
    branch(seen)[0, 3, 5, 5].backward()
    expected = torch.zeros(CHANNELS, 11, 11, dtype=torch.bool)
    expected[3, 3:8, 3:8] = True
    assert (seen.grad[0] != 0).equal(expected)


def line(degrees, side=11):
    """(side, side), 1 on a line through the middle that rises to the right, for 45 degrees."""
    drawn, along, middle = torch.zeros(side, side), torch.arange(side), side // 2
    rows, cols = {0: (middle, along), 45: (side - 1 - along, along), 90: (along, middle), 135: (along, along)}[degrees]
    drawn[rows, cols] = 1
    return drawn


@pytest.mark.parametrize("degrees", ORIENTATIONS)
def test_a_line_is_seen_most_by_the_kernels_of_its_orientation(degrees):
    branch = made(GeometricBranch, CHANNELS)
    nn.init.ones_(branch.along.weight)
    nn.init.zeros_(branch.along.bias)
    with torch.no_grad():
        response = branch(line(degrees).expand(1, CHANNELS, -1, -1))[0, :, 5, 5]
    response = response.reshape(4, -1)  # two channels for each orientation, in their order
    one = ORIENTATIONS.index(degrees)
    assert response[one].tolist() == pytest.approx([5 * CHANNELS] * 2)
    # Of the line the others see the cell in the middle alone.
    assert response[torch.arange(4) != one].flatten().tolist() == pytest.approx([CHANNELS] * 6)


def test_off_the_line_kernels_are_zero_and_stay_so():
    branch = made(GeometricBranch, CHANNELS)
    nn.init.constant_(branch.along.bias, 5)  # nothing is cut
    seen = features()
    before = branch(seen)
    before.square().sum().backward()
    gradient, on_line = branch.along.weight.grad, branch.mask.expand_as(branch.along.weight) > 0
    assert on_line.sum() == 5 * CHANNELS * CHANNELS
    assert gradient[~on_line].abs().max() == 0
    assert gradient[on_line].abs().min() > 0
    with torch.no_grad():
        branch.along.weight[~on_line] += 10
        torch.testing.assert_close(branch(seen), before)
    assert set(branch.state_dict()) == {"along.weight", "along.bias"}  # the orientations stand in no file


@pytest.mark.parametrize(
    ("branch", "channels", "shared"),
    [(ChannelAttention, 4, (2, 3)), (ChannelAttention, 32, (2, 3)), (AtmosphericBranch, CHANNELS, (1,))],
)
def test_attention_multiplies_by_one_weight_for_each_channel_or_one_map_for_all(branch, channels, shared):
    seen = features(channels=channels, height=24, width=20)
    seen += seen.sign() / 2  # nothing near 0
    seen[:, :, 12:] *= 5
    weight = made(branch, channels)(seen).detach() / seen
    assert weight.min() > 0
    assert weight.max() < 1
    torch.testing.assert_close(weight, weight.mean(dim=shared, keepdim=True).expand_as(weight), atol=1e-5, rtol=0)
    assert weight.flatten(1).std(dim=1).min() > 1e-3
    assert (weight[0] - weight[1]).abs().max() > 1e-4


def test_the_atmosphere_is_wide_and_does_not_end_at_the_border():
    """A neighbourhood of 9 x 9 after a convolution of 3 x 3; padding does not count as clear sky."""
    branch, seen = made(AtmosphericBranch, CHANNELS), torch.zeros(1, CHANNELS, 31, 31)
    nn.init.constant_(branch.conv.bias, 0.7)
    with torch.no_grad():
        level = branch.wide(branch.conv(seen).relu().mean(dim=1, keepdim=True))
        torch.testing.assert_close(level, torch.full_like(level, 0.7))
        seen[:, :, 15, 15] = 100
        felt = branch.wide(branch.conv(seen).relu().mean(dim=1, keepdim=True)) != level
    for axis in (0, 1):
        assert felt[0, 0].any(dim=axis).nonzero().flatten().tolist() == list(range(10, 21))


def test_the_season_is_never_negative_and_less_than_what_is_seen():
    branch, seen = made(SeasonalBranch, CHANNELS), features()
    with torch.no_grad():
        through, weighed = branch.conv(seen).relu(), branch(seen)
    assert weighed.min() >= 0
    assert (weighed[through > 0] < through[through > 0]).all()
    assert weighed.max() > 0.01


@both_kinds
def test_one_map_between_0_and_1_that_can_say_little_and_much(kind):
    network, seen = made(AleatoricMap, kind, 16, 8), features(channels=16) * 3
    with torch.no_grad():
        uncertain = network(seen)
        assert uncertain.shape == (2, 1, 12, 10)
        assert uncertain.min() > 0
        assert uncertain.max() < 1
        assert uncertain.std() > 1e-3
        network.fusion.bias += 9
        assert network(seen).min() > 0.5
        network.fusion.bias -= 18
        assert network(seen).max() < 0.5


@both_kinds
def test_each_sensor_has_branches_of_its_own(kind):
    expected = {
        "sar": [SpeckleBranch, GeometricBranch, ChannelAttention],
        "optical": [AtmosphericBranch, ChannelAttention, SeasonalBranch],
    }
    assert [type(branch) for branch in made(AleatoricMap, kind, 16, 8).branches] == expected[kind]


def test_weights_of_a_pair_are_not_negative_sum_to_2_and_depend_on_either_image():
    fusion = made(AdaptiveFusion, 12, 20)
    nn.init.normal_(fusion.weigh.weight, std=2)
    with torch.no_grad():
        weight = fusion(features(6, 12) * 5, features(6, 20, 4, 6, seed=2) * 5)
    assert weight.shape == (6, 2)
    assert weight.min() >= 0
    assert weight.sum(dim=1).tolist() == pytest.approx([2] * 6)
    assert weight[:, 0].std() > 1e-3
    optical, sar = features(4, 12) + 1, features(4, 20, seed=2) + 1
    fusion = made(AdaptiveFusion, 12, 20, dropout=0.5)
    with torch.no_grad():
        weight = fusion(optical, sar)
        assert (fusion(-optical, sar) - weight).abs().max() > 1e-3
        assert (fusion(optical, -sar) - weight).abs().max() > 1e-3
        # Where in the image something lies does not count.
        torch.testing.assert_close(fusion(optical.flip(-1), sar.flip(-2)), weight)
        assert (fusion.train()(optical, sar) - fusion(optical, sar)).abs().max() > 1e-3
