"""training.losses.hardest_in_batch: eq. (4) of He et al. written out in loops, and which distances it moves."""

import pytest
import torch

from sn9reg.training.losses import hardest_in_batch

# For both matches the nearest that is none of theirs is 0.4 away: 1 + 0.5 - 0.4 and 1 + 0.2 - 0.4.
BY_HAND = [[0.5, 0.4], [0.9, 0.2]]


def random_distances(count, seed=0):
    return 2 * torch.rand(count, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(distance, margin):
    """Eq. (4), quadruplet by quadruplet."""
    count, total = len(distance), 0.0
    for i in range(count):
        nearest_sar = min(float(distance[i, j]) for j in range(count) if j != i)
        nearest_optical = min(float(distance[k, i]) for k in range(count) if k != i)
        total += max(0.0, margin + float(distance[i, i]) - min(nearest_sar, nearest_optical))
    return total / count


def gradient(distance, **options):
    distance = torch.as_tensor(distance, dtype=torch.float64).requires_grad_()
    hardest_in_batch(distance, **options).backward()
    return distance.grad


def test_the_value_by_hand():
    assert hardest_in_batch(torch.tensor(BY_HAND)).item() == pytest.approx((1.1 + 0.8) / 2)


@pytest.mark.parametrize("count", [2, 3, 17])
@pytest.mark.parametrize("margin", [0.1, 1.0, 3.0])
def test_the_value_is_that_of_the_formula(count, margin):
    for seed in range(5):
        distance = random_distances(count, seed)
        assert hardest_in_batch(distance, margin).item() == pytest.approx(written_out(distance, margin))


def test_the_margin_is_the_papers_if_not_given():
    distance = random_distances(8)
    assert hardest_in_batch(distance).item() == pytest.approx(written_out(distance, 1.0))


def test_each_match_pulls_its_own_and_pushes_the_nearer_of_its_two_hardest():
    """The first optical patch and the second SAR patch are the hardest of both their matches; the third keeps its
    margin."""
    distance = [[0.5, 0.6, 1.9], [0.9, 0.4, 1.8], [1.9, 1.9, 0.1]]
    third = 1 / 3
    expected = [[third, -2 * third, 0], [0, third, 0], [0, 0, 0]]
    torch.testing.assert_close(gradient(distance), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("axis", ["optical", "sar"])
def test_the_hardest_is_sought_among_both_optical_and_sar(axis):
    distance = torch.full((3, 3), 1.5) - torch.eye(3)
    place = (0, 2) if axis == "sar" else (2, 0)
    distance[place] = 0.7
    slope = gradient(distance)
    assert slope[place] < 0
    assert slope[place[::-1]] == 0


def test_the_gradient_is_the_losses_own():
    torch.autograd.gradcheck(hardest_in_batch, (random_distances(6).requires_grad_(),))


def test_where_every_margin_is_kept_nothing_is_left_to_learn():
    distance = 1.3 - torch.eye(4, dtype=torch.float64)
    assert hardest_in_batch(distance, margin=0.9).item() == 0
    assert gradient(distance, margin=0.9).abs().max() == 0
    assert hardest_in_batch(distance, margin=1.1).item() == pytest.approx(0.1)


def test_a_distance_that_is_its_own_is_never_a_negative():
    distance = torch.full((5, 5), 1.9) - 1.9 * torch.eye(5)
    assert hardest_in_batch(distance).item() == 0


def test_the_order_of_the_matches_is_nothing_to_it():
    distance = random_distances(9)
    for seed in range(3):
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(hardest_in_batch(distance[order][:, order]), hardest_in_batch(distance))


def test_optical_and_sar_may_change_places():
    distance = random_distances(9)
    torch.testing.assert_close(hardest_in_batch(distance.T), hardest_in_batch(distance))


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (3, 4), (4,), (2, 3, 3), ()], ids=str)
def test_what_has_no_negatives_or_no_matches_is_refused(shape):
    with pytest.raises(ValueError, match=r"not \(N, N\) distances with N > 1"):
        hardest_in_batch(torch.zeros(shape))
