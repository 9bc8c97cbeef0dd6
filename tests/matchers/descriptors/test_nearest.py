"""descriptors/nearest: what a loop over all pairs finds, restricted to where partners may lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sn9reg.matchers.descriptors.describe import NOTHING, Described
from sn9reg.matchers.descriptors.nearest import nearest

FAR = 10.0


def described(n, seed, variants=1, dimensions=8, side=100.0):
    random = np.random.default_rng(seed)
    values = torch.from_numpy(random.normal(size=(variants, n, dimensions))).float()
    return Described(random.uniform(0, side, (n, 2)), torch.nn.functional.normalize(values, dim=2))


def by_loops(optical, sar, expected=None, radius=0.0, apart=0.0):
    """index, distance, rival, mutual, found of `nearest`, pair by pair."""
    one, other = optical.descriptors[0].double().numpy(), sar.descriptors.double().numpy()
    table = np.full((len(optical), len(sar)), FAR)
    for i in range(len(optical)):
        for j in range(len(sar)):
            if expected is None or math.dist(expected[i], sar.xy[j]) <= radius:
                table[i, j] = math.sqrt(max(0.0, 2 - 2 * max(float(v[j] @ one[i]) for v in other)))
    rows = []
    for i, row in enumerate(table):
        best = int(row.argmin())
        others = [row[j] for j in range(len(sar)) if j != best and math.dist(sar.xy[j], sar.xy[best]) > apart]
        rival = max(row[best], min([math.sqrt(2), *others]))
        found = row[best] < FAR
        rows.append((best, row[best], rival, found and int(table[:, best].argmin()) == i, found))
    return [np.array(column) for column in zip(*rows, strict=True)]


def check(found, wanted):
    index, distance, rival, mutual, there = wanted
    np.testing.assert_array_equal(found.found, there)
    np.testing.assert_array_equal(found.index[there], index[there])
    np.testing.assert_allclose(found.distance[there], distance[there], atol=2e-3)
    np.testing.assert_allclose(found.rival[there], rival[there], atol=2e-3)
    np.testing.assert_array_equal(found.mutual, mutual)


@pytest.mark.parametrize("apart", [0.0, 15.0, 60.0])
def test_a_loop_over_all_pairs_finds_the_same(apart):
    optical, sar = described(40, 0), described(50, 1)
    check(nearest(optical, sar, apart=apart), by_loops(optical, sar, apart=apart))


@pytest.mark.parametrize("radius", [5.0, 20.0, 1000.0])
def test_a_loop_finds_the_same_near_where_partners_are_expected(radius):
    optical, sar = described(60, 2), described(50, 3)
    check(
        nearest(optical, sar, optical.xy, radius, 8.0),
        by_loops(optical, sar, optical.xy, radius, 8.0),
    )


def test_more_rows_than_are_compared_at_once_are_the_same():
    optical, sar = described(2100, 4), described(30, 5)
    found = nearest(optical, sar)
    cosine = optical.descriptors[0] @ sar.descriptors[0].T
    np.testing.assert_array_equal(found.index, cosine.argmax(dim=1).numpy())
    np.testing.assert_array_equal(found.mutual, cosine.argmax(dim=0).numpy()[found.index] == np.arange(2100))


def test_each_nearest_to_a_sar_keypoint_is_mutual_once():
    found = nearest(described(2100, 4), described(30, 5))
    assert found.mutual.any()
    assert len(set(found.index[found.mutual])) == found.mutual.sum()


def test_identical_descriptors_find_themselves_at_no_distance():
    both = described(50, 6)
    order = np.random.default_rng(0).permutation(50)
    found = nearest(both, Described(both.xy[order], both.descriptors[:, order]))
    np.testing.assert_array_equal(order[found.index], np.arange(50))
    assert found.distance.max() < 2e-3
    assert found.mutual.all()


def test_nobody_within_reach_is_not_found():
    optical, sar = described(20, 7), described(20, 8)
    expected = optical.xy.copy()
    expected[:5] += 1000
    found = nearest(optical, sar, expected, 200.0)
    assert not found.found[:5].any()
    assert not found.mutual[:5].any()
    assert found.found[5:].all()


def test_partners_are_expected_elsewhere_than_at_the_keypoint():
    optical, sar = described(30, 9), described(30, 10)
    expected = optical.xy + np.array([40, -10])
    found = nearest(optical, sar, expected, 25.0)
    assert found.found.any()
    assert (np.hypot(*(sar.xy[found.index] - expected)[found.found].T) <= 25).all()


def test_the_best_of_the_sar_variants_counts():
    optical, sar = described(30, 11), described(40, 12, variants=2)
    check(nearest(optical, sar), by_loops(optical, sar))
    single = nearest(optical, Described(sar.xy, sar.descriptors[:1]))
    assert (nearest(optical, sar).distance < single.distance - 1e-3).any()


def test_opposite_orientations_match_in_either_variant():
    sar = described(25, 13, variants=2)
    for variant in (0, 1):
        optical = Described(sar.xy, sar.descriptors[[variant, 1 - variant]])
        np.testing.assert_array_equal(nearest(optical, sar).index, np.arange(25))


def test_a_single_sar_keypoint_has_an_unrelated_rival():
    optical = described(1, 14)
    found = nearest(optical, Described(np.zeros((1, 2)), optical.descriptors))
    assert found.distance[0] < 2e-3
    assert found.rival[0] == pytest.approx(math.sqrt(2))


def test_the_rival_is_never_nearer_than_the_nearest():
    optical = described(1, 15)
    found = nearest(optical, Described(np.zeros((1, 2)), -optical.descriptors))
    assert found.distance[0] == pytest.approx(2.0, abs=1e-3)
    assert found.rival[0] == found.distance[0]


def test_a_neighbour_of_the_nearest_is_no_rival():
    base = described(1, 16)
    xy = np.array([[0.0, 0], [3, 0], [50, 0]])
    alike = torch.cat([base.descriptors, base.descriptors, -base.descriptors], dim=1)
    assert nearest(base, Described(xy, alike)).rival[0] < 2e-3
    assert nearest(base, Described(xy, alike), apart=5.0).rival[0] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("expected", [True, False])
def test_no_sar_keypoints_find_nothing(expected):
    optical = described(4, 17)
    found = nearest(optical, NOTHING, optical.xy if expected else None, 10.0)
    assert len(found.index) == 4
    assert not found.found.any()
    assert not found.mutual.any()


def test_no_optical_keypoints_give_no_rows():
    found = nearest(NOTHING, described(4, 18))
    assert {len(found.index), len(found.distance), len(found.rival), len(found.mutual), len(found.found)} == {0}
