"""warp: known transforms recovered among outliers, in map coordinates as large as real ones."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.matches import lattice

from sn9reg.fit.warp import fit_global, least_squares_affine

ORIGIN = np.array([435000.0, 4180000.0])
MODELS = ("translation", "affine", "homography")
few = settings(max_examples=6, deadline=None)
seeds = st.integers(0, 2**32 - 1)
DRAWN = [("affine", cv2.RANSAC), ("homography", cv2.RANSAC), ("homography", cv2.USAC_MAGSAC)]
every_method = pytest.mark.parametrize(("kind", "method"), [("translation", cv2.RANSAC), *DRAWN])


def transform(kind, random):
    """A mild transform of the kind about the scene's centre: (N, 2) -> (N, 2)."""
    shift = random.uniform(-60, 60, 2)
    matrix = np.eye(2) + (random.uniform(-0.02, 0.02, (2, 2)) if kind != "translation" else 0)
    tilt = random.uniform(-1e-5, 1e-5, 2) if kind == "homography" else np.zeros(2)

    def move(xy):
        relative = xy - ORIGIN - 1000
        return (relative @ matrix.T + shift) / (1 + relative @ tilt)[:, None] + ORIGIN + 1000

    return move


def places(random, n=300):
    return random.uniform(0, 2000, (n, 2)) + ORIGIN


def with_outliers(target, share, random):
    wrong = random.random(len(target)) < share
    target = target.copy()
    target[wrong] += random.uniform(-300, 300, (int(wrong.sum()), 2))
    return target, wrong


@every_method
@few
@given(seed=seeds)
def test_a_known_transform_is_recovered_among_outliers(kind, method, seed):
    random = np.random.default_rng(seed)
    move, source = transform(kind, random), places(random)
    target, wrong = with_outliers(move(source) + random.normal(0, 0.5, source.shape), 0.4, random)
    fit = fit_global(source, target, kind, 3.0, method=method)
    grid = lattice(9, 0, 2000) + ORIGIN
    assert np.linalg.norm(fit(grid) - move(grid), axis=1).max() < 1.0
    assert fit.inliers.shape == (300,)
    # Plain RANSAC ends at a draw that is good enough; far from its three points some right matches are left out.
    assert fit.inliers[~wrong].mean() > (0.7 if method == cv2.RANSAC and kind != "translation" else 0.9)
    assert fit.inliers[wrong].mean() < 0.05


@every_method
def test_the_same_twice_byte_for_byte(kind, method):
    random = np.random.default_rng(3)
    source = places(random)
    target, _ = with_outliers(transform(kind, random)(source) + random.normal(0, 2, source.shape), 0.4, random)
    first, _, second = (fit_global(source, target, kind, t, method=method) for t in (3.0, 8.0, 3.0))
    for one, two in ((first.matrix, second.matrix), (first.inliers, second.inliers), (first(source), second(source))):
        assert one.tobytes() == two.tobytes()
    if kind == "affine":  # it is the least-squares one of its inliers
        expected = least_squares_affine(source[first.inliers] - ORIGIN, target[first.inliers])
        design = np.column_stack([source - ORIGIN, np.ones(len(source))])
        np.testing.assert_allclose(first(source), design @ expected.T, atol=1e-6)


def test_a_translation_is_the_mean_of_those_within_the_threshold_the_farther_the_less():
    source = places(np.random.default_rng(5), 5)
    shift = np.array([[10.0, 0], [11, 0], [12, 0], [12, 1], [40, 40]])
    fit = fit_global(source, source + shift, "translation", 2.1)
    np.testing.assert_array_equal(fit.inliers, [True, True, True, True, False])
    np.testing.assert_allclose(fit(source) - source, np.tile([11.25, 0.25], (5, 1)), atol=0.06)
    assert 0 < (fit(source) - source)[0, 1] < 0.25  # of the one that lies apart, less


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("unit", [1.0, 1e-5])
def test_the_threshold_is_in_map_units(kind, unit):
    """The same scene in metres and about degrees: the same inliers for the same threshold."""
    random = np.random.default_rng(7)
    source = places(random) - ORIGIN
    target, wrong = with_outliers(source + random.normal(0, 0.3, source.shape), 0.4, random)
    target[0] = source[0] + [5, 0]
    tight, loose = (fit_global(source / unit, target / unit, kind, limit / unit) for limit in (3.0, 12.0))
    assert tight.inliers[~wrong][1:].mean() > 0.95
    assert not tight.inliers[0]
    assert loose.inliers[0]


@every_method
def test_too_few_points_determine_nothing(kind, method):
    least = {"translation": 1, "affine": 3, "homography": 4}[kind]
    corners = np.array([[0.0, 0], [1000, 0], [0, 1000], [1000, 900]]) + ORIGIN
    for n in range(least):
        assert fit_global(corners[:n], corners[:n], kind, 3.0, method=method) is None
    fit = fit_global(corners[:least], corners[:least] + 5, kind, 3.0, method=method)
    np.testing.assert_allclose(fit(corners[:least]), corners[:least] + 5, atol=1e-3)


@pytest.mark.parametrize(("kind", "method"), DRAWN)
@pytest.mark.parametrize("direction", [(0.6, -0.8), (0.0, 0.0)])
def test_points_on_a_line_or_on_one_place_determine_nothing(kind, method, direction):
    for n in (4, 30):
        source = np.linspace(0, 1000, n)[:, None] * np.array(direction) + ORIGIN
        assert fit_global(source, source + np.array([3, 4]), kind, 3.0, method=method) is None
    near_a_line = source + np.random.default_rng(1).uniform(0, 1, source.shape)
    fit = fit_global(near_a_line, near_a_line + np.array([3, 4]), kind, 3.0, method=method)
    np.testing.assert_allclose(fit(near_a_line), near_a_line + np.array([3, 4]), atol=1e-3)


def test_least_squares_affine_obeys_its_weights():
    random = np.random.default_rng(8)
    source = random.uniform(0, 100, (40, 2))
    matrix = np.array([[1.1, 0.2, 5], [-0.1, 0.9, -3]])
    target = source @ matrix[:, :2].T + matrix[:, 2]
    weight = np.ones(40)
    target[:10], weight[:10] = 0, 0
    np.testing.assert_allclose(least_squares_affine(source, target, weight), matrix, atol=1e-9)
    assert np.abs(least_squares_affine(source, target) - matrix).max() > 0.1
