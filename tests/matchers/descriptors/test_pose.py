"""descriptors/pose: a known rotation, scale and shift is found, whatever the contrast, and nothing is made up."""

import math

import cv2
import numpy as np
import pytest
from support.rasters import fields

from sn9reg.matchers.descriptors.pose import IDENTITY, Pose, agreement, find_pose

SIDE = 220
MIDDLE = (SIDE - 1) / 2
ALL = np.ones((SIDE, SIDE), bool)
SOME = np.array([[x, y] for x in (60.0, 110, 160) for y in (60.0, 110, 160)])


def known(degrees, zoom, dx=0.0, dy=0.0):
    """(3, 3) optical pixel -> SAR pixel: a turn and a scale about the middle, and a shift."""
    cos, sin = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    shift = MIDDLE + np.array([dx, dy]) - linear @ [MIDDLE, MIDDLE]
    return np.block([[linear, shift[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


@pytest.fixture(scope="module")
def ground():
    """(600, 600) standardised, of which the optical image is the middle."""
    whole = fields(600, 3).astype(np.float32)
    return (whole - whole.mean()) / whole.std()


LEFT = (600 - SIDE) // 2


def optical_of(ground):
    return ground[LEFT : LEFT + SIDE, LEFT : LEFT + SIDE].copy()


def sar_of(ground, matrix):
    """What lies at p in the optical image lies at matrix(p)."""
    back = np.array([[1.0, 0, -LEFT], [0, 1, -LEFT], [0, 0, 1]])
    return cv2.warpPerspective(ground, matrix @ back, (SIDE, SIDE), flags=cv2.INTER_AREA)


def off(pose, matrix):
    """Largest distance from the truth of places about the middle, SAR pixels."""
    true = SOME @ matrix[:2, :2].T + matrix[:2, 2]
    return np.hypot(*(pose(SOME) - true).T).max()


@pytest.mark.parametrize(
    ("degrees", "zoom", "dx", "dy", "contrast", "limits"),
    [
        (120, 1, 0, 0, 1, (math.pi, 1.0)),
        (-75, 0.7, 10, 5, -1, ()),
        (-30, 1.6, 0, 8, 1, (math.radians(40), 1.8)),
        (20, 1, 70, -60, 1, (math.radians(30), 1.2)),
        (0, 1, 24, -13, 1, (0.0, 1.0)),
    ],
)
def test_a_known_pose_is_found_whatever_the_contrast(ground, degrees, zoom, dx, dy, contrast, limits):
    matrix, optical, mask = known(degrees, zoom, dx, dy), optical_of(ground), ALL.copy()
    pose = find_pose(optical, mask, contrast * sar_of(ground, matrix), mask, *limits)
    np.testing.assert_array_equal(optical, optical_of(ground))
    assert mask.all()
    assert off(pose, matrix) < 0.06 * SIDE
    assert abs(math.degrees(math.remainder(pose.turn - math.radians(degrees), 2 * math.pi))) < 4
    assert abs(math.log(pose.zoom / zoom)) < 0.07
    assert pose.strength > 5


def test_images_of_different_size_are_compared(ground):
    matrix, part = known(15, 1.0), np.s_[30:180, 10:200]
    pose = find_pose(optical_of(ground), ALL, sar_of(ground, matrix)[part], ALL[part], math.radians(30), 1.0)
    assert off(pose, np.array([[1.0, 0, -10], [0, 1, -30], [0, 0, 1]]) @ matrix) < 0.06 * SIDE


@pytest.mark.parametrize("side", ["optical", "sar"])
def test_half_of_an_image_is_enough(ground, side):
    matrix = known(40, 0.9)
    optical, sar, half = optical_of(ground), sar_of(ground, matrix), ALL.copy()
    half[:, : SIDE // 2] = False
    masked, masks = (optical, (half, ALL)) if side == "optical" else (sar, (ALL, half))
    masked[~half] = 1e6  # must not be looked at
    pose = find_pose(optical, masks[0], sar, masks[1], math.radians(60), 1.3)
    assert off(pose, matrix) < 0.06 * SIDE


def test_turn_and_zoom_limit_the_search(ground):
    sar = sar_of(ground, known(120, 1.6))
    pose = find_pose(optical_of(ground), ALL, sar, ALL, math.radians(20), 1.1)
    step, finer = math.radians(10), 1.15
    assert abs(pose.turn) <= math.radians(20) + step / 3 + 1e-9
    assert abs(math.log(pose.zoom)) <= math.log(1.1 * finer ** (1 / 3)) + 1e-9


FEW = np.zeros_like(ALL)
FEW[50:53, 70:73] = True


@pytest.mark.parametrize(
    ("contrasts", "masks"),
    [
        ((0, 1), (ALL, ALL)), ((1, 0), (ALL, ALL)), ((1, 1), (~ALL, ALL)), ((1, 1), (ALL, ~ALL)),
        ((1, 1), (FEW, ALL)), ((1, 1), (ALL, FEW)),
    ],
    ids=["flat optical", "flat sar", "no optical", "no sar", "little optical", "little sar"],
)  # fmt: skip
def test_images_that_show_nothing_give_the_identity(ground, contrasts, masks):
    optical, sar = (contrast * optical_of(ground) for contrast in contrasts)
    pose = find_pose(optical, masks[0], sar, masks[1], math.radians(10), 1.0)
    np.testing.assert_array_equal(pose.matrix, np.eye(3))
    assert (pose.turn, pose.zoom, pose.strength) == (0, 1, 0)


@pytest.mark.parametrize(
    ("valid", "matrix"),
    [(ALL, known(0, 1, 1000, 0)), (ALL, known(0, 1, 0.95 * SIDE, 0.95 * SIDE)), (~ALL, np.eye(3))],
)
def test_images_that_hardly_meet_do_not_agree_at_all(ground, valid, matrix):
    assert agreement(optical_of(ground), valid, optical_of(ground), ALL, matrix) == -math.inf


@pytest.mark.parametrize(
    "wrong", [known(70, 0.8, 10, 0), known(60, 1.0, 10, 0), known(60, 0.8, 30, 0), known(240, 0.8, 10, 0), np.eye(3)]
)
def test_images_agree_best_through_the_true_matrix(ground, wrong):
    matrix = known(60, 0.8, 10, 0)
    looks = optical_of(ground), ALL, -sar_of(ground, matrix), ALL
    assert agreement(*looks, matrix) > agreement(*looks, wrong) + 5


def test_a_pose_maps_optical_to_sar_pixels():
    pose = Pose(np.array([[0.0, -2, 5], [2, 0, -1], [0, 0, 1]]), math.pi / 2, 2.0, 1.0)
    np.testing.assert_allclose(pose(np.array([[0.0, 0], [1, 0], [3, 4]])), [[5, -1], [5, 1], [-3, 5]])
    np.testing.assert_array_equal(IDENTITY(SOME), SOME)
