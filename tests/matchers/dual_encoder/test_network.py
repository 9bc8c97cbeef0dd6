"""networks/dual_encoder: cells of both sensors in one space, what varies by dropout and what does not, how the pyramid
is weighed, and how far a cell sees."""

from __future__ import annotations

import copy
import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn.functional import max_pool2d

from sn9reg.matchers.dual_encoder.network import CELL, WIDTHS, BiFPN, DualEncoder, SarEncoder, Structure, XceptionBlock
from sn9reg.matchers.fused import fused

BANDS = {"optical": 3, "sar": 1}
both = pytest.mark.parametrize("modality", BANDS)
with_and_without = pytest.mark.parametrize("structure", [False, True], ids=["paper", "structure"])


def fresh(**options):
    torch.manual_seed(3)
    return DualEncoder(**options).eval()


def settled(**options):
    """A network in eval mode whose batch normalisations are those of a trained one, see conftest `untrained`. Each is
    a copy that may be changed."""
    return copy.deepcopy(_settled(**options))


@cache
def _settled(**options):
    network = fresh(**options).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0
    with torch.no_grad():
        for modality in BANDS:
            network(images(modality), modality)
    return network.eval()


def images(modality, batch=2, height=64, width=64, seed=1):
    """Standardised texture of patches that a cell can tell from each other."""
    random = np.random.default_rng(seed)
    drawn = gaussian_filter(random.normal(size=(batch, BANDS[modality], height, width)), (0, 0, 2, 2))
    return torch.from_numpy((drawn / drawn.std()).astype(np.float32))


def training_but_for_batch_norm(network):
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return network


def cosine(one, other):
    return (one * other).sum(dim=1)


def fields(encoded):
    return encoded.features, encoded.embedding, encoded.uncertainty


def same(one, other):
    return all(a.equal(b) for a, b in zip(fields(one), fields(other), strict=True))


@pytest.fixture(scope="module")
def paper():
    """Do not change it."""
    return settled()


@pytest.fixture(scope="module")
def beside():
    """With structure beside the encoders. Do not change it."""
    return settled(structure=True)


@pytest.fixture
def network(structure, paper, beside):
    return beside if structure else paper


# --- what comes out --------------------------------------------------------------------------------------------------


@both
@with_and_without
@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 80)], ids=str)
def test_a_quarter_of_the_image_with_128_channels_of_unit_length(modality, height, width, network):
    with torch.no_grad():
        seen = network(images(modality, 2, height, width), modality)
    cells = (height // CELL, width // CELL)
    assert seen.features.shape == (2, WIDTHS[modality], *cells)
    assert seen.embedding.shape == (2, 128, *cells)
    torch.testing.assert_close(seen.embedding.norm(dim=1), torch.ones(2, *cells), atol=1e-5, rtol=0)
    assert seen.uncertainty.shape == (2, 1, *cells)
    assert seen.uncertainty.min() > 0
    assert seen.uncertainty.max() < 1
    assert seen.uncertainty.std() > 1e-3


@both
@with_and_without
def test_cells_of_an_image_differ_and_images_of_a_batch_do_not_mix(modality, network):
    given = images(modality, 2)
    with torch.no_grad():
        whole = network(given, modality)
        for k in range(2):
            one = network(given[k : k + 1], modality)
            torch.testing.assert_close(one.embedding[0], whole.embedding[k], atol=1e-4, rtol=0)
            torch.testing.assert_close(one.uncertainty[0], whole.uncertainty[k], atol=1e-4, rtol=0)
    assert cosine(whole.embedding[:1], whole.embedding[1:]).min() < 0.9
    assert cosine(whole.embedding, whole.embedding.roll((5, 5), (2, 3))).min() < 0.9


def test_each_sensor_has_its_own_encoder_and_projection(beside):
    given = images("sar")
    with torch.no_grad():
        sar, optical = beside(given, "sar"), beside(given.expand(-1, 3, -1, -1), "optical")
        moved = settled(structure=True)
        for parameter in moved.encoders["optical"].parameters():
            parameter.mul_(1.5)
        nn.init.normal_(moved.project["optical"][-1].weight)
        assert same(moved(given, "sar"), sar)
        assert not moved(given.expand(-1, 3, -1, -1), "optical").embedding.equal(optical.embedding)


@both
@with_and_without
def test_begun_and_finished_is_the_whole(modality, network):
    given = images(modality)
    with torch.no_grad():
        assert same(network.finish(network.begin(given, modality), modality), network(given, modality))


@both
@with_and_without
def test_passes_without_dropout_all_say_the_same(modality, structure, network):
    given = images(modality, 1)
    with torch.no_grad():
        begun = network.begin(given, modality)
        assert (begun.structure is not None) is structure
        several, one = network.finish(begun.repeated(3), modality), network(given, modality)
    for many, single in zip(fields(several), fields(one), strict=True):
        assert len(many) == 3
        for k in range(3):
            torch.testing.assert_close(many[k], single[0], atol=1e-5, rtol=1e-4)


def test_embeddings_and_uncertainty_are_of_single_precision_under_autocast(beside):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = beside(images("sar"), "sar")
    assert seen.embedding.dtype == seen.uncertainty.dtype == torch.float32
    torch.testing.assert_close(seen.embedding.norm(dim=1), torch.ones(2, 16, 16), atol=1e-5, rtol=0)


# --- dropout ---------------------------------------------------------------------------------------------------------


@both
@with_and_without
def test_in_use_the_same_image_is_always_seen_the_same(modality, network):
    given = images(modality)
    with torch.no_grad():
        assert same(network(given, modality), network(given, modality))


@both
def test_in_training_it_is_not_and_what_comes_before_dropout_is(modality):
    network, given = training_but_for_batch_norm(settled()), images(modality)
    with torch.no_grad():
        one, other = network(given, modality), network(given, modality)
        for a, b in zip(fields(one), fields(other), strict=True):
            assert (a - b).abs().max() > 1e-3
        assert network.begin(given, modality).features.equal(network.begin(given, modality).features)


@both
def test_passes_in_one_batch_drop_different_channels(modality):
    network = training_but_for_batch_norm(settled())
    with torch.no_grad():
        several = network.finish(network.begin(images(modality, 1), modality).repeated(3), modality)
    assert (several.embedding[0] - several.embedding[1]).abs().max() > 1e-3
    assert (several.embedding[1] - several.embedding[2]).abs().max() > 1e-3


@both
@with_and_without
def test_no_dropout_nothing_to_chance(modality, structure):
    network, given = training_but_for_batch_norm(settled(dropout=0, structure=structure)), images(modality)
    with torch.no_grad():
        assert same(network(given, modality), network(given, modality))


def test_dropout_rates_are_the_papers_times_their_share():
    def rates(network):
        return {
            name: round(module.p, 6)
            for name, module in network.named_modules()
            if isinstance(module, nn.Dropout | nn.Dropout2d)
        }

    whole, half = rates(fresh()), rates(fresh(dropout=0.5))
    assert {name: rate for name, rate in whole.items() if name.startswith("encoders")} == {
        "encoders.optical.dropout": 0.1,
        "encoders.sar.dropout": 0.1,
    }
    assert whole["maps.optical.dropout"] == whole["maps.sar.dropout"] == 0.2
    assert whole["fusion.dropout"] == 0.15
    assert half == {name: pytest.approx(rate / 2) for name, rate in whole.items()}


# --- uncertainty and confidence --------------------------------------------------------------------------------------


def seen_by(network, seed=1):
    return [network(images(modality, seed=seed + k), modality) for k, modality in enumerate(BANDS)]


@with_and_without
def test_confidences_lie_between_0_and_1_and_fall_as_uncertainty_grows(network):
    with torch.no_grad():
        pair = seen_by(network)
        for confidence, seen in zip(network.confidences(*pair), pair, strict=True):
            assert confidence.shape == (2, 1, 16, 16)
            assert confidence.min() > 0
            assert confidence.max() <= 1
            for c, u in zip(confidence.flatten(1), seen.uncertainty.flatten(1), strict=True):
                assert c.argmin() == u.argmax()
                assert c[u.argmax()] < c[u.argmin()]


@pytest.mark.parametrize("first", [True, False], ids=["optical alone", "sar alone"])
def test_at_most_all_of_one_sensors_uncertainty_counts(first):
    network = settled()
    nn.init.zeros_(network.fusion.weigh.weight)
    with torch.no_grad():
        network.fusion.weigh.bias.copy_(torch.tensor([60.0, 0.0] if first else [0.0, 60.0]))
        optical, sar = seen_by(network)
        confidences = network.confidences(optical, sar)
    whole, none = confidences if first else confidences[::-1]
    torch.testing.assert_close(whole, 1 - (optical if first else sar).uncertainty)
    torch.testing.assert_close(none, torch.ones_like(none))


def test_confidences_are_weighed_for_each_pair_of_a_batch():
    network = settled()
    nn.init.normal_(network.fusion.weigh.weight, std=2)
    with torch.no_grad():
        pair = seen_by(network)
        whole = network.confidences(*pair)
        weight = network.fusion(pair[0].features, pair[1].features)
    assert (weight[0] - weight[1]).abs().max() > 1e-3
    for side in range(2):
        for k in range(2):
            expected = 1 - weight[k, side] * pair[side].uncertainty[k] / 2
            torch.testing.assert_close(whole[side][k], expected)


@with_and_without
def test_without_the_modules_nothing_is_uncertain(structure):
    network = fresh(aleatoric=False, structure=structure)
    with torch.no_grad():
        pair = seen_by(network)
        confidences = network.confidences(*pair)
    for seen, confidence in zip(pair, confidences, strict=True):
        assert seen.uncertainty.shape == (2, 1, 16, 16)
        assert seen.uncertainty.abs().max() == 0
        assert confidence.equal(torch.ones(2, 1, 16, 16))
    assert not [name for name in network.state_dict() if name.startswith(("maps", "fusion"))]


# --- structure -------------------------------------------------------------------------------------------------------


@both
def test_a_fresh_network_sees_an_image_and_its_negative_alike_by_their_structure(modality):
    given = images(modality)
    for structure in (True, False):
        network = settled(structure=structure)
        with torch.no_grad():
            alike = cosine(network(given, modality).embedding, network(-given, modality).embedding)
        assert (float(alike.min()) > 0.97) is structure


@pytest.mark.parametrize("sign", [1, -1], ids=["like", "reversed"])
def test_a_fresh_network_finds_the_same_place_in_both_sensors(sign, beside):
    grey = images("sar", 1, 96, 96)
    with torch.no_grad():
        optical = beside(grey.expand(-1, 3, -1, -1), "optical").embedding[0].flatten(1)
        sar = beside(sign * grey, "sar").embedding[0].flatten(1)
    similarity = optical.T @ sar
    assert similarity.diagonal().mean() > 0.95
    assert (similarity.argmax(dim=1) == torch.arange(24 * 24)).float().mean() > 0.98


def test_structure_is_that_of_the_mean_of_the_bands_whatever_its_contrast():
    torch.manual_seed(0)
    structure, colour = Structure(), images("optical")
    with torch.no_grad():
        seen = structure(colour)
        assert seen.shape == (2, 128, 16, 16)
        assert seen.std() > 0.05
        torch.testing.assert_close(structure(colour.mean(dim=1, keepdim=True)), seen, atol=1e-4, rtol=1e-3)
        for other in (-colour, 7 * colour, colour + 3):
            torch.testing.assert_close(structure(other), seen, atol=1e-3, rtol=1e-3)
        assert (structure(colour.flip(-1)) - seen).abs().max() > 0.1


def test_an_image_of_one_grey_has_no_structure():
    with torch.no_grad():
        assert Structure()(torch.full((1, 1, 64, 64), 2.5)).abs().max() < 1e-4


def inner(cells, moved=0):
    """Cells farther from the border than the margin, `moved` columns to the right."""
    rim = math.ceil(DualEncoder.margin / CELL)
    return cells[..., rim:-rim, rim + moved : cells.shape[-1] - rim + moved]


def shifted_pair(network, modality, shift, side=128):
    """Embeddings of two windows of an image, the other `shift` px to the right, and its shift in cells."""
    ground = images(modality, 1, side, side + shift)
    with torch.no_grad():
        return [network(ground[..., left : left + side], modality).embedding for left in (0, shift)]


@both
def test_a_shift_of_four_pixels_moves_a_fresh_networks_embedding_by_one_cell(modality, beside):
    one, other = shifted_pair(beside, modality, CELL)
    one, other = one[..., 1:], other[..., :-1]
    assert inner(cosine(one, other)).min() > 0.98
    assert inner(cosine(one, other)).numel() > 80
    # In place, cells are not the same.
    assert inner(cosine(one, other.roll(1, -1))).mean() < 0.9


# The paper's network alone: the SAR encoder has cells of 4 px, the optical pyramid goes down to 16 px. Squeeze and
# excitation sees the whole image, so that optical cells never agree wholly.
@pytest.mark.parametrize(("modality", "shift", "least"), [("sar", 4, 0.98), ("sar", 12, 0.98), ("optical", 16, 0.9)])
def test_the_papers_network_moves_with_its_coarsest_cell(modality, shift, least, paper):
    one, other = shifted_pair(paper, modality, shift)
    cells = shift // CELL
    agree = inner(cosine(one[..., cells:], other[..., :-cells]))
    assert agree.min() > least


@both
def test_what_lies_beyond_the_margin_does_not_matter_to_structure(modality, beside):
    given = images(modality, 1, 128, 128)
    changed, rim = given.clone(), 8
    changed[..., :rim, :] = changed[..., :, :rim] = 0
    with torch.no_grad():
        # Border pixels change, and with them only cells near the border: 8 + 40 px.
        agree = cosine(beside(given, modality).embedding, beside(changed, modality).embedding)[0]
    first = math.ceil((rim + DualEncoder.margin) / CELL)
    assert agree[first:, first:].min() > 0.98
    assert agree[: rim // CELL].min() < 0.8


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("halve", "size"), [(True, (8, 6)), (False, (16, 12))])
def test_an_xception_block_halves_or_not(halve, size):
    torch.manual_seed(0)
    with torch.no_grad():
        out = XceptionBlock(8, 12, halve, dilation=2)(torch.randn(2, 8, 16, 12))
    assert out.shape == (2, 12, *size)
    assert out.min() >= 0
    assert out.max() > 0.1


def test_the_sar_encoder_begins_at_a_quarter_and_stays_there():
    with torch.no_grad():
        encoder = SarEncoder().eval()
        begun = encoder.begin(images("sar", 1))
        assert begun.shape == (1, 64, 16, 16)
        assert encoder.finish(begun).shape == (1, 512, 16, 16)


def pyramid(width=8, sides=((16, 20), (8, 10), (4, 5)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(2, width, *side, generator=generator) + 0.1 for side in sides]


def round_of(levels=3, width=8):
    torch.manual_seed(0)
    return BiFPN(width, levels).eval()


@pytest.mark.parametrize("sides", [[(16, 20), (8, 10), (4, 5)], [(12, 12), (6, 6), (3, 3)], [(8, 8), (4, 4)]], ids=str)
def test_a_round_keeps_the_shapes_of_the_pyramid(sides):
    given = pyramid(sides=sides)
    with torch.no_grad():
        out = round_of(len(sides))(given)
    assert [x.shape for x in out] == [x.shape for x in given]
    assert all(x.isfinite().all() for x in out)


def test_every_level_hears_of_every_other():
    fuse, given = round_of(), pyramid()
    with torch.no_grad():
        whole = fuse(given)
        for k in range(3):
            other = fuse([x + 0.5 * (j == k) for j, x in enumerate(given)])
            for j in range(3):
                assert (other[j] - whole[j]).abs().max() > 1e-3, (k, j)


def test_an_input_with_no_share_does_not_matter():
    fuse, given = round_of(), pyramid()
    with torch.no_grad():
        fuse.down_share[0] = torch.tensor([1.0, 0.0])  # the finest level alone, nothing from those below it
        whole = fuse(given)
        below = fuse([given[0], given[1] + 3, given[2] - 3])
        assert below[0].equal(whole[0])
        assert not below[1].equal(whole[1])
        fuse.down_share[0] = torch.tensor([-2.0, 1.0])  # less than none is none
        whole = fuse(given)
        assert fuse([given[0] + 3, *given[1:]])[0].equal(whole[0])
        assert not fuse([given[0], given[1] + 3, given[2]])[0].equal(whole[0])


@pytest.mark.parametrize("dropped", range(3))
def test_on_the_way_up_an_input_with_no_share_does_not_matter(dropped):
    """Of the level in the middle: itself, itself on the way down, the finer one."""
    fuse, given = round_of(), pyramid()
    share = torch.ones(3)
    share[dropped] = 0
    with torch.no_grad():
        fuse.up_share[0] = share
        between = fuse.down[1]((given[1] / 2 + nearest(given[2], (8, 10)) / 2).relu())
        finest = fuse(given)[0]
        finer = max_pool2d(finest, 3, stride=2, padding=1)
        inputs = [x for k, x in enumerate((given[1], between, finer)) if k != dropped]
        expected = fuse.up[0](sum(inputs).relu() / 2)
        torch.testing.assert_close(fuse(given)[1], expected, atol=2e-3, rtol=1e-3)


def nearest(x, size):
    return nn.functional.interpolate(x, size=size, mode="nearest")


@pytest.mark.parametrize(("way", "level", "changed"), [("down", 0, 0), ("down", 1, 1), ("up", 0, 1), ("up", 1, 2)])
def test_each_level_has_shares_of_its_own(way, level, changed):
    fuse, given = round_of(), pyramid()
    with torch.no_grad():
        whole = fuse(given)
        getattr(fuse, f"{way}_share")[level, 0] = 5
        moved = [not one.equal(other) for one, other in zip(fuse(given), whole, strict=True)]
    assert moved[changed]
    if way == "up":  # what lies on the way before is as it was
        assert not any(moved[:changed])


def test_shares_are_relative():
    fuse, given = round_of(), pyramid()
    with torch.no_grad():
        whole = fuse(given)
        fuse.down_share.mul_(10)
        fuse.up_share.mul_(10)
        for one, other in zip(fuse(given), whole, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
        fuse.down_share[0, 0] *= 3
        assert (fuse(given)[0] - whole[0]).abs().max() > 1e-3


# --- in use and in training ------------------------------------------------------------------------------------------


@both
@with_and_without
def test_batch_normalisation_folds_into_the_convolutions(modality, structure, network):
    given = images(modality)
    folded = settled(structure=structure)
    assert fused(folded) is folded
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        one, other = network(given, modality), folded(given, modality)
    for a, b in zip(fields(one), fields(other), strict=True):
        assert a.std() > 1e-3
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@with_and_without
def test_in_half_precision_the_network_takes_less_than_15_mb(network):
    assert sum(parameter.numel() for parameter in network.parameters()) * 2 < 15e6


@pytest.fixture(scope="module", params=[False, True], ids=["paper", "structure"])
def gradients(request):
    """Parameter -> its gradient by a loss that uses embeddings, uncertainty and confidences."""
    network = settled(structure=request.param).train()
    optical, sar = seen_by(network)
    generator = torch.Generator().manual_seed(0)
    loss = sum(confidence.square().sum() for confidence in network.confidences(optical, sar))
    for seen in (optical, sar):
        drawn = torch.randn(seen.embedding.shape, generator=generator)
        loss = loss + seen.uncertainty.sum() + (seen.embedding * drawn).sum()
    loss.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def test_what_gets_a_gradient_gets_one_that_moves_it(gradients):
    for name, gradient in gradients.items():
        if gradient is not None:
            assert gradient.isfinite().all(), name
            assert gradient.abs().max() > 0, name


def test_gradients_reach_every_parameter_but_that_of_the_loss(gradients):
    assert [name for name, gradient in gradients.items() if gradient is None] == ["log_variance"]
