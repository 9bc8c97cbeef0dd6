"""networks/uncertainty: each branch looks where its name says, maps lie between 0 and 1, dropout only when asked."""

from __future__ import annotations

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
ALL = (SpeckleBranch, GeometricBranch, ChannelAttention, AtmosphericBranch, SeasonalBranch)
every_branch = pytest.mark.parametrize("branch", ALL, ids=lambda branch: branch.__name__)
both_kinds = pytest.mark.parametrize("kind", ["sar", "optical"])


def made(module, *arguments, **options):
    torch.manual_seed(0)
    return module(*arguments, **options).eval()


def features(batch=2, channels=CHANNELS, height=12, width=10, seed=1):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def line(degrees, side=11):
    """(side, side), 1 on a line through the middle that rises to the right, for 45 degrees."""
    drawn, along, middle = torch.zeros(side, side), torch.arange(side), side // 2
    rows, cols = {0: (middle, along), 45: (side - 1 - along, along), 90: (along, middle), 135: (along, along)}[degrees]
    drawn[rows, cols] = 1
    return drawn


# --- all branches ----------------------------------------------------------------------------------------------------


@every_branch
def test_a_branch_keeps_the_shape_and_each_image_of_a_batch_apart(branch):
    one, seen = made(branch, CHANNELS), features()
    with torch.no_grad():
        whole = one(seen)
        assert whole.shape == seen.shape
        for k in range(len(seen)):
            torch.testing.assert_close(one(seen[k : k + 1])[0], whole[k], atol=1e-5, rtol=1e-4)
    assert (whole[0] - whole[1]).abs().max() > 1e-3


@every_branch
def test_gradients_reach_all_of_a_branch(branch):
    one = made(branch, CHANNELS)
    one(features()).square().sum().backward()
    for name, parameter in one.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


# --- speckle ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [0, 3, CHANNELS - 1])
def test_speckle_looks_at_each_channel_alone(changed):
    branch, seen = made(SpeckleBranch, CHANNELS), features()
    for conv in (branch.first, branch.second):  # no channel is silent
        nn.init.uniform_(conv.weight, 0.1, 0.3)
        nn.init.constant_(conv.bias, 0.5)
    other = seen.clone()
    other[:, changed] += 1
    with torch.no_grad():
        moved = (branch(other) - branch(seen)).abs().amax(dim=(0, 2, 3))
    assert moved[changed] > 0.1
    assert moved[torch.arange(CHANNELS) != changed].max() == 0


def test_speckle_is_seen_in_5_x_5_pixels():
    branch, seen = made(SpeckleBranch, CHANNELS), features(height=11, width=11).requires_grad_()
    for conv in (branch.first, branch.second):
        nn.init.constant_(conv.weight, 0.1)
        nn.init.constant_(conv.bias, 5)
    branch(seen)[0, :, 5, 5].sum().backward()
    felt = seen.grad[0].abs().sum(dim=0) > 0
    expected = torch.zeros(11, 11, dtype=torch.bool)
    expected[3:8, 3:8] = True
    assert felt.equal(expected)


# --- geometry --------------------------------------------------------------------------------------------------------


def of_ones():
    branch = made(GeometricBranch, CHANNELS)
    nn.init.ones_(branch.along.weight)
    nn.init.zeros_(branch.along.bias)
    return branch


@pytest.mark.parametrize("degrees", ORIENTATIONS)
def test_a_line_is_seen_most_by_the_kernels_of_its_orientation(degrees):
    with torch.no_grad():
        response = of_ones()(line(degrees).expand(1, CHANNELS, -1, -1))[0, :, 5, 5]
    response = response.reshape(4, -1)  # two channels for each orientation, in their order
    own = ORIENTATIONS.index(degrees)
    assert response[own].tolist() == pytest.approx([5 * CHANNELS] * 2)
    # Of the line the others see the cell in the middle alone.
    others = response[torch.arange(4) != own]
    assert others.flatten().tolist() == pytest.approx([CHANNELS] * 6)


def test_kernels_of_45_degrees_run_from_the_lower_left_to_the_upper_right():
    mask = made(GeometricBranch, 4).mask
    cells = [mask[k, 0].nonzero().tolist() for k in range(4)]
    assert cells[0] == [[2, col] for col in range(5)]
    assert cells[1] == [[4 - col, col] for col in range(4, -1, -1)]
    assert cells[2] == [[row, 2] for row in range(5)]
    assert cells[3] == [[k, k] for k in range(5)]


def test_off_the_line_kernels_are_zero_and_stay_so():
    branch = made(GeometricBranch, CHANNELS)
    nn.init.constant_(branch.along.bias, 5)  # nothing is cut
    seen = features()
    before = branch(seen)
    before.square().sum().backward()
    gradient, line_cells = branch.along.weight.grad, branch.mask.expand_as(branch.along.weight) > 0
    assert line_cells.sum() == 5 * CHANNELS * CHANNELS
    assert gradient[~line_cells].abs().max() == 0
    assert gradient[line_cells].abs().min() > 0
    with torch.no_grad():
        branch.along.weight[~line_cells] += 10
        torch.testing.assert_close(branch(seen), before)
        branch.along.weight[line_cells] += 1
        assert (branch(seen) - before).abs().max() > 0.1


def test_orientations_stand_in_no_file_and_survive_a_load():
    branch = made(GeometricBranch, CHANNELS)
    assert set(branch.state_dict()) == {"along.weight", "along.bias"}
    other = GeometricBranch(CHANNELS).eval()
    other.load_state_dict(branch.state_dict())
    torch.testing.assert_close(other(features()), branch(features()))


@pytest.mark.parametrize("channels", [1, 2, 6, 9])
def test_channels_that_four_orientations_cannot_share_are_refused(channels):
    with pytest.raises(ValueError, match=f"{channels} channels cannot be shared by 4 orientations"):
        GeometricBranch(channels)
    assert isinstance(SpeckleBranch(channels), nn.Module)


# --- attention -------------------------------------------------------------------------------------------------------


def ratio(module, seen):
    """What the module multiplied its input by."""
    with torch.no_grad():
        return module(seen) / seen


def away_from_zero(**options):
    seen = features(**options)
    return seen.sign() * (seen.abs() + 0.5)


@pytest.mark.parametrize("channels", [4, CHANNELS, 32])
def test_channel_attention_multiplies_each_channel_by_one_weight(channels):
    weight = ratio(made(ChannelAttention, channels), away_from_zero(channels=channels))
    assert weight.min() > 0
    assert weight.max() < 1
    assert weight.std(dim=(2, 3)).max() < 1e-5
    assert weight.mean(dim=(2, 3)).std(dim=1).min() > 1e-3


def test_channel_weights_are_those_of_the_image():
    weight = ratio(made(ChannelAttention, CHANNELS), away_from_zero())
    assert (weight[0] - weight[1]).abs().max() > 1e-4


def test_the_atmosphere_is_one_map_for_all_channels():
    seen = away_from_zero(height=24, width=20)
    seen[:, :, 12:] *= 5
    weight = ratio(made(AtmosphericBranch, CHANNELS), seen)
    assert weight.min() > 0
    assert weight.max() < 1
    torch.testing.assert_close(weight, weight[:, :1].expand_as(weight), atol=1e-5, rtol=0)
    assert weight[:, 0].std(dim=(1, 2)).min() > 1e-2


def test_the_atmosphere_is_wide_and_does_not_end_at_the_border():
    """A neighbourhood of 9 x 9 after a convolution of 3 x 3; padding does not count as clear sky."""
    branch = made(AtmosphericBranch, CHANNELS)
    seen = torch.zeros(1, CHANNELS, 31, 31)
    nn.init.constant_(branch.conv.bias, 0.7)
    with torch.no_grad():
        level = branch.wide(branch.conv(seen).relu().mean(dim=1, keepdim=True))
        torch.testing.assert_close(level, torch.full_like(level, 0.7))
        seen[:, :, 15, 15] = 100
        felt = branch.wide(branch.conv(seen).relu().mean(dim=1, keepdim=True)) != level
    assert felt[0, 0].any(dim=0).nonzero().flatten().tolist() == list(range(10, 21))
    assert felt[0, 0].any(dim=1).nonzero().flatten().tolist() == list(range(10, 21))


def test_the_season_is_never_negative_and_less_than_what_is_seen():
    branch, seen = made(SeasonalBranch, CHANNELS), features()
    with torch.no_grad():
        through = branch.conv(seen).relu()
        weighed = branch(seen)
    assert weighed.min() >= 0
    assert (weighed[through > 0] < through[through > 0]).all()
    assert weighed.max() > 0.01


# --- maps ------------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize(("channels", "width"), [(16, 8), (128, 32)])
def test_one_map_between_0_and_1(kind, channels, width):
    seen = features(channels=channels) * 3
    with torch.no_grad():
        uncertain = made(AleatoricMap, kind, channels, width)(seen)
    assert uncertain.shape == (2, 1, 12, 10)
    assert uncertain.min() > 0
    assert uncertain.max() < 1
    assert uncertain.std() > 1e-3


@both_kinds
@pytest.mark.parametrize(("bias", "low", "high"), [(-3, 0, 0.5), (3, 0.5, 1)])
def test_a_map_can_say_little_and_much(kind, bias, low, high):
    network = made(AleatoricMap, kind, 16, 8)
    nn.init.constant_(network.fusion.bias, bias)
    with torch.no_grad():
        uncertain = network(features(channels=16))
    assert uncertain.min() > low
    assert uncertain.max() < high


def test_each_sensor_has_its_own_branches():
    kinds = {kind: [type(branch) for branch in made(AleatoricMap, kind, 16, 8).branches] for kind in ("sar", "optical")}
    assert kinds["sar"] == [SpeckleBranch, GeometricBranch, ChannelAttention]
    assert kinds["optical"] == [AtmosphericBranch, ChannelAttention, SeasonalBranch]


@both_kinds
def test_every_branch_has_a_say_in_the_map(kind):
    network, seen = made(AleatoricMap, kind, 16, 8), features(channels=16)
    with torch.no_grad():
        whole = network(seen)
        for k in range(3):
            kept = network.fusion.weight.clone()
            network.fusion.weight[:, 8 * k : 8 * (k + 1)] = 0
            assert (network(seen) - whole).abs().max() > 1e-3, k
            network.fusion.weight.copy_(kept)


@both_kinds
def test_a_map_varies_by_dropout_in_training_alone(kind):
    network, seen = made(AleatoricMap, kind, 16, 8, dropout=0.5), features(channels=16)
    with torch.no_grad():
        assert network(seen).equal(network(seen))
        network.train()
        assert (network(seen) - network(seen)).abs().max() > 1e-3
        without = made(AleatoricMap, kind, 16, 8, dropout=0).train()
        assert without(seen).equal(without(seen))


# --- what counts for the pair ----------------------------------------------------------------------------------------


def test_weights_of_a_pair_are_not_negative_and_sum_to_2():
    fusion = made(AdaptiveFusion, 12, 20)
    nn.init.normal_(fusion.weigh.weight, std=2)
    with torch.no_grad():
        weight = fusion(features(6, 12) * 5, features(6, 20, 4, 6, seed=2) * 5)
    assert weight.shape == (6, 2)
    assert weight.min() >= 0
    assert weight.sum(dim=1).tolist() == pytest.approx([2] * 6)
    assert weight[:, 0].std() > 1e-3


def test_weights_depend_on_either_image_of_the_pair():
    fusion, optical, sar = made(AdaptiveFusion, 12, 20), features(1, 12) + 1, features(1, 20, seed=2) + 1
    with torch.no_grad():
        weight = fusion(optical, sar)
        assert (fusion(-optical, sar) - weight).abs().max() > 1e-3
        assert (fusion(optical, -sar) - weight).abs().max() > 1e-3
        # Where in the image something lies does not count.
        torch.testing.assert_close(fusion(optical.flip(-1), sar.flip(-2)), weight)


def test_weights_vary_by_dropout_in_training_alone():
    fusion, pair = made(AdaptiveFusion, 12, 20, dropout=0.5), (features(4, 12) + 1, features(4, 20, seed=2) + 1)
    with torch.no_grad():
        assert fusion(*pair).equal(fusion(*pair))
        fusion.train()
        assert (fusion(*pair) - fusion(*pair)).abs().max() > 1e-3
        without = made(AdaptiveFusion, 12, 20, dropout=0).train()
        assert without(*pair).equal(without(*pair))
