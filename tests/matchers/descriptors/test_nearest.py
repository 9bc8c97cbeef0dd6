"""descriptors/nearest: what a loop over all pairs finds, restricted to where partners may lie."""

import math

import numpy as np
import pytest
import torch

from sn9reg.matchers.descriptors import nearest as module
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


@pytest.mark.parametrize(
    ("optical", "sar", "variants", "radius", "apart"),
    [
        (40, 50, 1, None, 0.0), (40, 50, 1, None, 15.0), (40, 50, 1, None, 60.0), (30, 40, 2, None, 0.0),
        (60, 50, 1, 5.0, 8.0), (60, 50, 1, 20.0, 8.0), (60, 50, 1, 1000.0, 8.0), (5, 1, 1, None, 0.0),
    ],
)  # fmt: skip
def test_a_loop_over_all_pairs_finds_the_same(monkeypatch, optical, sar, variants, radius, apart):
    """radius: around where partners are expected, which is elsewhere than at the keypoints."""
    monkeypatch.setattr(module, "_ROWS", 16)  # compared at once
    optical, sar = described(optical, 2), described(sar, 3, variants)
    reach = () if radius is None else (optical.xy + np.array([30, -10]), radius)
    found = nearest(optical, sar, *reach, apart=apart)
    index, distance, rival, mutual, there = by_loops(optical, sar, *reach, apart=apart)
    np.testing.assert_array_equal(found.found, there)
    assert there.any()
    assert there.all() == (radius is None or radius > 100)
    np.testing.assert_array_equal(found.index[there], index[there])
    np.testing.assert_allclose(found.distance[there], distance[there], atol=2e-3)
    np.testing.assert_allclose(found.rival[there], rival[there], atol=2e-3)
    np.testing.assert_array_equal(found.mutual, mutual)


def test_no_keypoints_find_nothing():
    some = described(4, 17)
    found, none = nearest(some, NOTHING, some.xy, 10.0), nearest(NOTHING, some)
    assert [{len(values) for values in vars(one).values()} for one in (found, none)] == [{4}, {0}]
    assert not (found.found | found.mutual).any()
