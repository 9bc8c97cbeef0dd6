"""features/pose: a known rotation, scale and shift is found, whatever the contrast, and nothing is made up."""

import math

import numpy as np
import pytest
from support.rasters import fields, seen_through, turned

from sn9reg.features.pose import agreement, find_pose
from sn9reg.raster.view import through

SIDE = 160
ALL = np.ones((SIDE, SIDE), bool)
FEW = np.zeros_like(ALL)
FEW[50:53, 70:73] = True
SOME = np.array([[x, y] for x in (0.25 * SIDE, 0.75 * SIDE) for y in (0.25 * SIDE, 0.5 * SIDE, 0.75 * SIDE)])


@pytest.fixture(scope="module")
def looks():
    """(degrees, zoom, dx, dy) -> the optical image and the SAR image, standardised, and the matrix between them."""
    ground = fields(440, 3).astype(np.float32)
    ground = (ground - ground.mean()) / ground.std()

    def make(*pose):
        matrix = turned(SIDE, *pose)
        return *seen_through(ground, matrix, SIDE), matrix

    return make


def off(pose, matrix):
    """Largest distance from the truth of places about the middle, SAR pixels."""
    return np.hypot(*(through(pose.matrix, SOME) - through(matrix, SOME)).T).max()


@pytest.mark.parametrize(
    ("pose", "contrast", "limits"),
    [
        ((-105, 0.9, 7, 4), -1, (math.pi, 1.15)),
        ((-30, 1.6, 0, 6), 1, (math.radians(30), 1.65)),
        ((20, 1, 50, -44), 1, (math.radians(30), 1.2)),
        ((0, 1, 17, -9), 1, (0.0, 1.0)),
    ],
)
def test_a_known_pose_is_found_whatever_the_contrast(looks, pose, contrast, limits):
    (optical, sar, matrix), mask = looks(*pose), ALL.copy()
    before = optical.copy()
    found = find_pose(optical, mask, contrast * sar, mask, *limits)
    np.testing.assert_array_equal(optical, before)
    assert mask.all()
    assert off(found, matrix) < 0.06 * SIDE
    assert abs(math.degrees(math.remainder(found.turn - math.radians(pose[0]), 2 * math.pi))) < 4
    assert abs(math.log(found.zoom / pose[1])) < 0.07
    assert found.strength > 5


@pytest.mark.parametrize("side", ["optical", "sar"])
def test_half_of_an_image_or_a_smaller_one_is_enough(looks, side):
    optical, sar, matrix = looks(20, 0.95)
    half = ALL.copy()
    half[:, : SIDE // 2] = False
    masked, masks = (optical, (half, ALL)) if side == "optical" else (sar, (ALL, half))
    masked[~half] = 1e6  # must not be looked at
    assert off(find_pose(optical, masks[0], sar, masks[1], math.radians(30), 1.1), matrix) < 0.06 * SIDE
    optical, sar, matrix = looks(15, 1.0)
    part = np.s_[20:130, 10:150]
    found = find_pose(optical, ALL, sar[part], ALL[part], math.radians(30), 1.0)
    assert off(found, np.array([[1.0, 0, -10], [0, 1, -20], [0, 0, 1]]) @ matrix) < 0.06 * SIDE


def test_turn_and_zoom_limit_the_search(looks):
    optical, sar, _ = looks(120, 1.6)
    found, step, finer = find_pose(optical, ALL, sar, ALL, math.radians(20), 1.1), math.radians(10), 1.15
    assert abs(found.turn) <= math.radians(20) + step / 3 + 1e-9
    assert abs(math.log(found.zoom)) <= math.log(1.1 * finer ** (1 / 3)) + 1e-9


@pytest.mark.parametrize(
    ("contrasts", "masks"),
    [
        ((0, 1), (ALL, ALL)), ((1, 0), (ALL, ALL)), ((1, 1), (~ALL, ALL)), ((1, 1), (ALL, ~ALL)),
        ((1, 1), (FEW, ALL)), ((1, 1), (ALL, FEW)),
    ],
    ids=["flat optical", "flat sar", "no optical", "no sar", "little optical", "little sar"],
)  # fmt: skip
def test_images_that_show_nothing_give_the_identity(looks, contrasts, masks):
    optical, sar = (contrast * looks(0)[0] for contrast in contrasts)
    found = find_pose(optical, masks[0], sar, masks[1], math.radians(10), 1.0)
    np.testing.assert_array_equal(found.matrix, np.eye(3))
    assert (found.turn, found.zoom, found.strength) == (0, 1, 0)


def test_images_that_hardly_meet_do_not_agree_at_all(looks):
    optical = looks(0)[0]
    for valid, shift in ((ALL, (1000, 0)), (ALL, (0.95 * SIDE, 0.95 * SIDE)), (~ALL, (0, 0))):
        assert agreement(optical, valid, optical, ALL, turned(SIDE, 0, 1, *shift)) == -math.inf


def test_images_agree_best_through_the_true_matrix(looks):
    optical, sar, matrix = looks(60, 0.8, 10, 0)
    right = agreement(optical, ALL, -sar, ALL, matrix)
    for wrong in ((70, 0.8, 10), (60, 1.0, 10), (60, 0.8, 30), (240, 0.8, 10), (0,)):
        assert right > agreement(optical, ALL, -sar, ALL, turned(SIDE, *wrong)) + 5, wrong
