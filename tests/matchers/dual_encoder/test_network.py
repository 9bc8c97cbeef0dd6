"""Cells of both sensors in one space, what varies by dropout, how the pyramid is weighed, and how far a cell sees."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.dual import BANDS, dual_encoder
from torch import nn
from torch.nn.functional import interpolate, max_pool2d

from sn9reg.matchers.batch_norm import fused
from sn9reg.matchers.dual_encoder.network import CELL, WIDTHS, BiFPN, DualEncoder, Structure

both = pytest.mark.parametrize("modality", BANDS)


def images(modality, batch=2, height=64, width=64, seed=1):
    """Standardised texture of patches that a cell can tell from each other."""
    random = np.random.default_rng(seed)
    drawn = gaussian_filter(random.normal(size=(batch, BANDS[modality], height, width)), (0, 0, 2, 2))
    return torch.from_numpy((drawn / drawn.std()).astype(np.float32))


def changeable(**options):
    return copy.deepcopy(dual_encoder(**options))


def cosine(one, other):
    return (one * other).sum(dim=1)


def fields(encoded):
    return encoded.features, encoded.embedding, encoded.uncertainty


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@both
@pytest.mark.parametrize("structure", [False, True], ids=["paper", "structure"])
def test_a_quarter_of_the_image_with_128_channels_of_unit_length(modality, structure):
    network, given = dual_encoder(structure=structure), images(modality, 2, 32, 80)
    seen, cells = network(given, modality), (8, 20)
    assert seen.features.shape == (2, WIDTHS[modality], *cells)
    assert seen.embedding.shape == (2, 128, *cells)
    torch.testing.assert_close(seen.embedding.norm(dim=1), torch.ones(2, *cells), atol=1e-5, rtol=0)
    assert seen.uncertainty.shape == (2, 1, *cells)
    assert seen.uncertainty.min() > 0
    assert seen.uncertainty.max() < 1
    assert seen.uncertainty.std() > 1e-3
    for k in range(2):  # images of a batch do not mix
        one = network(given[k : k + 1], modality)
        torch.testing.assert_close(one.embedding[0], seen.embedding[k], atol=1e-4, rtol=0)
        torch.testing.assert_close(one.uncertainty[0], seen.uncertainty[k], atol=1e-4, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(given, modality)
    assert half.embedding.dtype == half.uncertainty.dtype == torch.float32
    torch.testing.assert_close(half.embedding.norm(dim=1), torch.ones(2, *cells), atol=1e-5, rtol=0)
    assert cosine(seen.embedding[:1], seen.embedding[1:]).min() < 0.9
    assert cosine(seen.embedding, seen.embedding.roll((5, 5), (2, 3))).min() < 0.9


def test_dropout_rates_are_the_papers_times_their_share():
    kinds = nn.Dropout | nn.Dropout2d
    whole, half = (
        {name: module.p for name, module in dual_encoder(dropout=share).named_modules() if isinstance(module, kinds)}
        for share in (1.0, 0.5)
    )
    expected = {"encoders.optical": 0.1, "encoders.sar": 0.1, "maps.optical": 0.2, "maps.sar": 0.2, "fusion": 0.15}
    assert {name: whole[f"{name}.dropout"] for name in expected} == pytest.approx(expected)
    assert half == {name: pytest.approx(rate / 2) for name, rate in whole.items()}


def test_confidences_are_weighed_for_each_pair_of_a_batch():
    network = changeable()
    nn.init.normal_(network.fusion.weigh.weight, std=2)
    pair = [network(images(modality, seed=1 + k), modality) for k, modality in enumerate(BANDS)]
    whole, weight = network.confidences(*pair), network.fusion(pair[0].features, pair[1].features)
    assert (weight[0] - weight[1]).abs().max() > 1e-3
    for side in range(2):
        expected = 1 - weight[:, side, None, None, None] * pair[side].uncertainty / 2
        torch.testing.assert_close(whole[side], expected)


@pytest.mark.parametrize("sign", [1, -1], ids=["like", "reversed"])
def test_a_fresh_network_finds_the_same_place_in_both_sensors(sign):
    network, grey = dual_encoder(structure=True), images("sar", 1, 96, 96)
    optical = network(grey.expand(-1, 3, -1, -1), "optical").embedding[0].flatten(1)
    similarity = optical.T @ network(sign * grey, "sar").embedding[0].flatten(1)
    assert similarity.diagonal().mean() > 0.95
    assert (similarity.argmax(dim=1) == torch.arange(24 * 24)).float().mean() > 0.98


def test_structure_is_that_of_the_mean_of_the_bands_whatever_its_contrast():
    torch.manual_seed(0)
    structure, colour = Structure(), images("optical")
    seen = structure(colour)
    assert seen.shape == (2, 128, 16, 16)
    assert seen.std() > 0.05
    for other in (colour.mean(dim=1, keepdim=True), -colour, 7 * colour, colour + 3):
        torch.testing.assert_close(structure(other), seen, atol=1e-3, rtol=1e-3)
    assert (structure(colour.flip(-1)) - seen).abs().max() > 0.1
    assert structure(torch.full((1, 1, 64, 64), 2.5)).abs().max() < 1e-4


# Squeeze and excitation sees the whole image, so that the paper's optical cells never agree wholly; its pyramid goes
# down to 16 px, so that it moves with these.
@pytest.mark.parametrize(
    ("structure", "modality", "shift", "least"),
    [(True, "optical", 4, 0.95), (True, "sar", 4, 0.98), (False, "sar", 12, 0.98), (False, "optical", 16, 0.9)],
)
def test_embeddings_move_with_the_coarsest_cell(structure, modality, shift, least):
    network, side = dual_encoder(structure=structure), 128
    ground, moved = images(modality, 1, side, side + shift), shift // CELL
    one, other = (network(ground[..., left : left + side], modality).embedding for left in (0, shift))
    rim = math.ceil(DualEncoder.margin / CELL)
    inner = (..., slice(rim, -rim), slice(rim, -rim))
    agree = cosine(one[..., moved:], other[..., :-moved])[inner]
    assert agree.min() > least
    assert agree.numel() > 80
    if structure:  # in place, cells are not the same
        assert cosine(one, other)[inner].mean() < 0.9


def by_hand(fuse, pyramid):
    """A round of BiFPN, down and up: at each level the sum of its inputs by their shares, of which less than 0 is none,
    in the order itself, on the way down, next level."""

    def mixed(inputs, share):
        weight = share.clamp_min(0) / share.clamp_min(0).sum()
        return sum(w * x for w, x in zip(weight, inputs, strict=True)).relu()

    fine, middle, coarse = pyramid
    wide = [interpolate(coarse, size=middle.shape[-2:], mode="nearest")]
    between = fuse.down[1](mixed([middle, *wide], fuse.down_share[1]))
    finest = fuse.down[0](mixed([fine, interpolate(between, size=fine.shape[-2:])], fuse.down_share[0]))
    if fuse.last:
        return [finest, between, coarse]
    narrow = max_pool2d(finest, 3, stride=2, padding=1)
    up = fuse.up[0](mixed([middle, between, narrow], fuse.up_share[0]))
    return [finest, up, fuse.up[1](mixed([coarse, coarse, max_pool2d(up, 3, stride=2, padding=1)], fuse.up_share[1]))]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("sides", [[(16, 20), (8, 10), (4, 5)], [(12, 12), (6, 6), (3, 3)]], ids=str)
def test_a_round_mixes_the_levels_of_a_pyramid_by_learned_shares(sides, last):
    generator = torch.Generator().manual_seed(0)
    fuse, given = BiFPN(8, 3, last).eval(), [torch.rand(2, 8, *side, generator=generator) + 0.1 for side in sides]
    shares = [fuse.down_share] if last else [fuse.down_share, fuse.up_share]
    for factor in (1, 10):
        for share in shares:
            share.copy_(factor * (torch.rand(share.shape, generator=generator) + 0.1))
            share[0, 0] = -1.0
        for found, expected in zip(fuse(given), by_hand(fuse, given), strict=True):
            assert found.std() > 1e-3
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


@both
def test_batch_normalisation_folds_into_the_convolutions(modality):
    given, folded = images(modality), changeable(structure=True)
    assert fused(folded) is folded
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    network = dual_encoder(structure=True)
    for a, b in zip(fields(network(given, modality)), fields(folded(given, modality)), strict=True):
        assert a.std() > 1e-3
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
