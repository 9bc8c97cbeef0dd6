"""Similarity of cells, positions within them, and mutual nearest neighbours, against brute force."""

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from sn9reg.matchers.dual_encoder.pairing import (
    mutual,
    nearest_anywhere,
    shifted_similarity,
    soft_position,
    weighted_similarity,
)

RADIUS = 3


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(*shape, seed=0):
    """Of unit length along the third axis from the right."""
    return normalize(noise(*shape, seed=seed), dim=-3)


def test_similarity_is_the_cosine_times_the_confidence_of_both():
    one, other = units(2, 7, 3, 4), units(2, 7, 5, 2, seed=1)
    sure, unsure = noise(2, 1, 3, 4, seed=2).sigmoid(), noise(2, 1, 5, 2, seed=3).sigmoid()
    expected = torch.einsum("bcyx,bcvu->byxvu", one * sure, other * unsure).reshape(2, 12, 10)
    torch.testing.assert_close(weighted_similarity(one, other, sure, unsure), expected)


def bump(x, y, sigma=0.7):
    rows, cols = torch.meshgrid(torch.arange(12), torch.arange(15), indexing="ij")
    return torch.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)).double()


@pytest.mark.parametrize("dx", [-0.45, 0, 0.1, 0.4])
@pytest.mark.parametrize("dy", [-0.4, 0, 0.3])
def test_the_top_of_a_bump_is_found_within_its_cell(dx, dy):
    tops = torch.stack([bump(9 + dx, 4 + dy), bump(3 + dx, 7 + dy)])
    found = soft_position(tops, torch.tensor([[9, 4], [3, 7]]))
    expected = torch.tensor([[9.0, 4.0], [3.0, 7.0]]).double() + torch.tensor([dx, dy])
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_only_what_is_within_two_cells_has_a_say():
    weights, best = bump(9, 4), torch.tensor([[9, 4]])
    weights[4, 12] = weights[7, 9] = weights[0, 0] = 100
    assert soft_position(weights[None], best)[0].tolist() == pytest.approx([9, 4], abs=1e-6)
    weights[4, 11] = 100
    assert float(soft_position(weights[None], best)[0, 0]) > 10.5
    alone = torch.zeros(1, 12, 15)
    assert soft_position(alone, best)[0].tolist() == [9, 4]
    alone[0, 6, 7] = 0.3
    assert soft_position(alone, best)[0].tolist() == pytest.approx([7, 6])


@pytest.mark.parametrize("best", [(0, 0), (14, 0), (14, 11), (1, 10), (7, 0)])
def test_beyond_the_border_there_is_nothing(best):
    """By hand: the mean of the cells around that there are, all of one weight."""
    cols, rows = ([c for c in range(b - 2, b + 3) if 0 <= c < n] for b, n in zip(best, (15, 12), strict=True))
    found = soft_position(torch.ones(1, 12, 15), torch.tensor([best]))[0]
    assert found.tolist() == pytest.approx([sum(cols) / len(cols), sum(rows) / len(rows)])
    steep = soft_position(bump(*best, sigma=0.3)[None], torch.tensor([best]))[0]
    assert steep.tolist() == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("radius", [0, RADIUS])
def test_every_entry_is_the_product_of_two_cells_and_a_window_their_mean(radius):
    one, other, size = noise(5, 6, 7), noise(5, 6 + 2 * radius, 7 + 2 * radius, seed=1), 2 * radius + 1
    single, averaged = (shifted_similarity(one, other, radius, side) for side in (1, 3))
    for v, u in itertools.product(range(size), repeat=2):
        torch.testing.assert_close(single[v, u], (one * other[:, v : v + 6, u : u + 7]).sum(dim=0))
    for y, x in itertools.product(range(6), range(7)):
        around = single[:, :, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        torch.testing.assert_close(averaged[:, :, y, x], around.mean(dim=(2, 3)))


def mutual_by_hand(volume):
    """All cells with all, -inf where one is out of the other's reach."""
    size, _, height, width = volume.shape
    across = width + size - 1
    whole = torch.full((height * width, (height + size - 1) * across), -torch.inf, dtype=volume.dtype)
    for v, u, y, x in itertools.product(range(size), range(size), range(height), range(width)):
        whole[y * width + x, (y + v) * across + x + u] = volume[v, u, y, x]
    forth, back = whole.argmax(dim=1), whole.argmax(dim=0)
    return (back[forth] == torch.arange(height * width)).reshape(height, width)


@pytest.mark.parametrize(("radius", "height", "width"), [(1, 6, 5), (2, 7, 4), (3, 5, 8), (0, 3, 3), (4, 1, 9)])
def test_mutual_is_as_brute_force_finds(radius, height, width):
    size = 2 * radius + 1
    volume = noise(size, size, height, width)
    found = mutual(volume)
    assert found.equal(mutual_by_hand(volume))
    assert found.any()
    if 1 <= radius <= 3:  # there are neighbours to want the same, and not a choice for all
        assert not found.all()


def test_anywhere_is_as_brute_force_over_all_cells():
    optical, sar = noise(5, 6, 7), noise(5, 4, 9, seed=1)
    found = nearest_anywhere(optical, sar)
    similarity = optical.flatten(1).T @ sar.flatten(1)
    pairs = {(i, int(j)) for i, j in enumerate(similarity.argmax(dim=1)) if int(similarity[:, j].argmax()) == i}
    assert set(zip(found.optical.tolist(), found.sar.tolist(), strict=True)) == pairs
    assert 0 < len(pairs) < 36
    torch.testing.assert_close(found.similarity, similarity[found.optical, found.sar])
    here = torch.stack([found.optical % 7, found.optical // 7], dim=1)
    there = torch.stack([found.sar % 9, found.sar // 9], dim=1)
    assert found.optical_xy.equal(here.to(found.optical_xy))
    assert (found.sar_xy - there).abs().max() <= 2


def test_anywhere_finds_what_was_mixed_up_and_leaves_out_what_is_not_valid():
    optical, order = 5 * units(24, 5, 6), torch.randperm(30, generator=torch.Generator().manual_seed(0))
    sar = optical.flatten(1)[:, order].reshape(24, 3, 10)
    optical[:, 2, 3] = 0
    sar[:, 1, 4] = 0
    found = nearest_anywhere(optical, sar)
    assert set(found.optical.tolist()) == set(range(30)) - {2 * 6 + 3, int(order[14])}
    assert order[found.sar].equal(found.optical)
    torch.testing.assert_close(found.sar_xy, torch.stack([found.sar % 10, found.sar // 10], dim=1).to(found.sar_xy))
    assert len(nearest_anywhere(torch.zeros(5, 3, 4), noise(5, 3, 4).float()).similarity) == 0
