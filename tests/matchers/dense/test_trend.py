"""The trend of surfaces whose peaks move by a known field, and are lost in noise one by one."""

import numpy as np
import pytest

from sn9reg.matchers.dense.lattice import Lattice
from sn9reg.matchers.dense.trend import trend

RADIUS = 24
LATTICE = Lattice(40.0, 30.0, 24.0, 10, 8)


def surfaces(lattice, shifts, height, width=1.0):
    """(N, D, D) noise, and a peak at each shift from the middle."""
    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    random = np.random.default_rng(0)
    away = (x - shifts[:, :1, None]) ** 2 + (y - shifts[:, 1:, None]) ** 2
    return (random.standard_normal(away.shape) + height * np.exp(-away / (2 * width**2))).astype(np.float32)


def affine(lattice, matrix, shift):
    return (lattice.nodes - lattice.nodes.mean(axis=0)) @ np.transpose(matrix) + shift


def off(found, lattice, shifts):
    return np.hypot(*(found(lattice.nodes) - shifts).T)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), 0.1 * np.eye(2), [[-0.08, 0.03], [-0.02, 0.05]]])
def test_templates_that_find_nothing_alone_find_their_affine_together(matrix, first):
    shifts = affine(LATTICE, matrix, [6.0, -9.0])
    values = surfaces(LATTICE, shifts, 2.5)
    alone = values.reshape(len(values), -1).argmax(axis=1)
    side = 2 * RADIUS + 1
    assert (np.hypot(*(np.column_stack([alone % side, alone // side]) - RADIUS - shifts).T) > 3).mean() > 0.6
    assert off(trend(values, np.ones(80, bool), LATTICE, first), LATTICE, shifts).max() < 2.5


def test_parts_of_a_scene_differ_from_the_whole_where_the_surfaces_say_so():
    lattice, usable = Lattice(0.0, 0.0, 24.0, 16, 8), np.ones(128, bool)
    roof = np.column_stack([0.05 * np.abs(lattice.nodes[:, 0] - 180), np.zeros(128)])  # no affine is nearer than 2 px
    assert off(trend(surfaces(lattice, roof, 4.0, width=2.0), usable, lattice, False), lattice, roof).mean() < 1
    nothing = trend(surfaces(lattice, roof, 0.0), usable, lattice, False)
    assert np.isfinite(nothing(lattice.nodes)).all()


def test_a_large_scene_has_a_trend_in_every_block():
    lattice = Lattice(0.0, 0.0, 60.0, 30, 8)
    shifts = np.column_stack([10 * np.tanh((lattice.nodes[:, 0] - 900) / 200), np.zeros(240)])
    found = trend(surfaces(lattice, shifts, 4.0), np.ones(240, bool), lattice, False)
    assert off(found, lattice, shifts).mean() < 1.5


def test_surfaces_that_say_nothing_have_no_say_and_too_few_leave_the_prediction():
    shifts = affine(LATTICE, np.zeros((2, 2)), [7.0, 3.0])
    values, usable = surfaces(LATTICE, shifts, 5.0), np.ones(80, bool)
    values[::3], usable[::3] = 1e6 * surfaces(LATTICE, -shifts, 50.0)[::3], False
    assert off(trend(values, usable, LATTICE, True), LATTICE, shifts).max() < 1
    assert (trend(values, np.arange(80) < 3, LATTICE, True)(LATTICE.nodes) == 0).all()
