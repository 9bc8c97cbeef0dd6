"""training.dual_losses: each loss against what can be said of it without it."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from sn9reg.training.dual_losses import contrastive, found, likelihood, matching, placed

SHAPE = (5, 7)  # height, width
CELLS = 5 * 7


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def index(x, y):
    return y * SHAPE[1] + x


def test_embeddings_are_guessed_perfect_or_swapped():
    basis = torch.eye(16)
    assert contrastive(basis[:8], basis[8:], 0.07).item() == pytest.approx(math.log(8), rel=1e-5)
    assert contrastive(basis[:8], basis[:8], 0.07).item() == pytest.approx(7 * math.exp(-1 / 0.07), rel=0.1)
    assert contrastive(basis[:8], basis[:8].roll(1, 0), 0.07).item() == pytest.approx(1 / 0.07, rel=1e-3)
    losses = [contrastive(basis[:8], basis[:8], temperature).item() for temperature in (0.07, 0.2, 1.0, 100.0)]
    assert losses == sorted(losses), "a higher temperature makes them less sure"


def test_neither_sensor_counts_more():
    """Two of the one like one of the other: asked from either side it is not the same."""
    one, other = torch.eye(3)[[0, 0, 2]], torch.eye(3)
    logits = one @ other.T / 0.3
    there, back = (cross_entropy(x, torch.arange(3)).item() for x in (logits, logits.T))
    assert abs(there - back) > 0.1
    for pair in ((one, other), (other, one)):
        assert contrastive(*pair, 0.3).item() == pytest.approx((there + back) / 2, rel=1e-5)


SHARES = {
    (0.0, 0.0): {(0, 0): 1.0},
    (6.0, 4.0): {(6, 4): 1.0},
    (2.0, 3.0): {(2, 3): 1.0},
    (2.0, 1.25): {(2, 1): 0.75, (2, 2): 0.25},
    (5.5, 3.5): {(5, 3): 0.25, (6, 3): 0.25, (5, 4): 0.25, (6, 4): 0.25},
    (1.2, 0.3): {(1, 0): 0.56, (2, 0): 0.14, (1, 1): 0.24, (2, 1): 0.06},
}


def test_matching_is_the_cross_entropy_of_the_cells_around_by_their_nearness():
    """x is the column. At the border, too, where there are no four cells around."""
    similarity, total = random(2, 3, CELLS), 0.0
    for scores, shares in zip(similarity.flatten(0, 1), SHARES.values(), strict=True):
        total += sum(share * cross_entropy(scores / 0.07, torch.tensor(index(*c))) for c, share in shares.items())
    places = torch.tensor(list(SHARES)).reshape(2, 3, 2)
    assert matching(similarity, places, SHAPE, 0.07).item() == pytest.approx(total.item() / 6, rel=1e-5)


def test_places_outside_the_map_do_not_count():
    similarity, inside = random(1, 7, CELLS).requires_grad_(), [(0.5, 2.0), (6.0, 3.5)]
    outside = [(-0.1, 2.0), (2.0, -0.1), (6.1, 2.0), (2.0, 4.1), (900.0, 2.0)]
    alone = matching(similarity[:, :2], torch.tensor([inside]), SHAPE, 0.07)
    beside = matching(similarity, torch.tensor([inside + outside]), SHAPE, 0.07)
    assert beside.item() == pytest.approx(alone.item(), rel=1e-6)
    assert alone > 1
    nothing = matching(similarity[:, 2:], torch.tensor([outside]), SHAPE, 0.07)
    nothing.backward()
    assert nothing.item() == 0
    assert (similarity.grad == 0).all()


def hill(x, y, width):
    """(H W) similarities that fall with the distance from a place."""
    rows, cols = torch.meshgrid(torch.arange(SHAPE[0]), torch.arange(SHAPE[1]), indexing="ij")
    return (-((cols - x) ** 2 + (rows - y) ** 2) / (2 * width**2)).flatten()


@pytest.mark.parametrize(
    ("places", "width", "within"),
    [
        ([[(3.0, 2.0), (3.3, 2.0), (3.0, 2.4)], [(2.7, 1.8), (3.45, 2.45), (4.0, 3.0)]], 0.6, 0.03),
        ([[(0.0, 0.0), (6.0, 0.0), (0.0, 4.0), (6.0, 4.0)]], 0.3, 0.01),  # the border, and never beyond
    ],
)
def test_places_are_found_within_the_cell(places, width, within):
    similarity = torch.stack([torch.stack([hill(*xy, width) for xy in row]) for row in places])
    best, xy = found(similarity, SHAPE, 1.0)
    assert best.tolist() == [[index(round(x), round(y)) for x, y in row] for row in places]
    torch.testing.assert_close(xy, torch.tensor(places), atol=within, rtol=0)


PLACES = torch.tensor([[3.0, 1.0], [0.0, 2.0], [4.0, 0.0]])  # x, y


def maps():
    """Optical maps of 6 x 9 cells, and noisy SAR maps of 4 x 5 that are parts of them, at PLACES."""
    optical = normalize(random(3, 16, 6, 9), dim=1)
    sar = torch.stack([o[:, y : y + 4, x : x + 5] for o, (x, y) in zip(optical, PLACES.int().tolist(), strict=True)])
    return optical, normalize(sar + random(*sar.shape, seed=1) / 2, dim=1)


def test_a_map_is_placed_by_the_mean_similarity_of_its_cells_and_x_is_the_column():
    optical, sar = maps()
    windows = optical.unfold(2, 4, 1).unfold(3, 5, 1)
    surface = (windows * sar[:, :, None, None]).sum(dim=1).mean(dim=(3, 4)).flatten(1)
    expected = cross_entropy(20 * surface, torch.tensor([1 * 5 + 3, 2 * 5 + 0, 0 * 5 + 4]))
    loss, best = placed(optical, sar, PLACES, torch.tensor(20.0))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert best.equal(PLACES.long())


def test_likelihood_is_that_of_two_normal_axes_but_for_a_constant():
    distance, variance = torch.tensor([0.5, 3.0, 1.0]), torch.tensor([1.0, 4.0, 0.25])
    normal = torch.distributions.Normal(0.0, variance.sqrt())
    expected = -(normal.log_prob(distance) + normal.log_prob(torch.zeros(3))).mean() - math.log(2 * math.pi)
    assert likelihood(distance, variance.log()).item() == pytest.approx(expected.item(), abs=5e-3)


def test_neither_distance_nor_certainty_counts_without_limit():
    ten, more, less = (likelihood(torch.tensor([d]), torch.zeros(1)).item() for d in (10.0, 1000.0, 9.0))
    assert ten == more > less + 5
    sure, surer = (likelihood(torch.zeros(1), torch.tensor([v])).item() for v in (-20.0, -80.0))
    assert sure == pytest.approx(surer, abs=1e-4)
    log_variance = torch.tensor([-80.0], requires_grad=True)
    likelihood(torch.tensor([9.0]), log_variance).backward()
    assert torch.isfinite(log_variance.grad).all()
