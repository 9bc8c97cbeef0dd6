"""local_field: smooth fields that no affine follows, from matches as noisy as real ones."""

from functools import lru_cache

import numpy as np
import pytest
from support.matches import lattice

from sn9reg.fit.local_field import block_folds, fit_local
from sn9reg.fit.warp import least_squares_affine

ORIGIN = np.array([435000.0, 4180000.0])
SIDE = 1500.0
RASTER = lattice(25, 100, SIDE - 100) + ORIGIN
LOOK = np.array([np.cos(0.4), np.sin(0.4)])  # direction of the parallax


def hills(seed):
    """(N, 2) -> (N,) heights of up to tens of metres, from 8 hills over the scene."""
    random = np.random.default_rng(seed)
    top, width, height = random.uniform(0, SIDE, (8, 2)), random.uniform(200, 350, 8), random.uniform(-20, 20, 8)

    def of(xy):
        distance = ((xy[:, None] - ORIGIN - top) ** 2).sum(axis=2)
        return (height * np.exp(-distance / (2 * width**2))).sum(axis=1)

    return of


def move(xy, height):
    """A tilt and a shift, and parallax along LOOK."""
    matrix = np.array([[0.003, -0.002], [0.001, 0.002]])
    return xy + (xy - ORIGIN) @ matrix.T + np.array([12.0, -7.0]) + height(xy)[:, None] * LOOK


def sampled(seed=0, n=300, noise=1.5, outliers=0.0):
    """Matches: source, target, sigma, and the truth. n places anywhere in the scene."""
    random = np.random.default_rng(seed + 100)
    truth = hills(seed)
    source = random.uniform(0, SIDE, (n, 2)) + ORIGIN
    target = move(source, truth) + random.normal(0, noise, source.shape)
    wrong = random.random(n) < outliers
    target[wrong] += random.uniform(-15, 15, (int(wrong.sum()), 2))
    return source, target, np.full(n, noise), lambda xy: move(xy, truth)


@lru_cache
def fitted_to(seed=0, outliers=0.0):
    """What most tests look at, made once."""
    return fit_local(*sampled(seed, outliers=outliers)[:3], 150.0)


def rms(difference):
    return float(np.sqrt((difference**2).sum(axis=1).mean()))


def error_of(predictor, truth):
    return rms(predictor(RASTER) - truth(RASTER))


def affinely(matrix, xy, centre):
    return np.column_stack([xy - centre, np.ones(len(xy))]) @ matrix.T + centre


@pytest.fixture
def fitted():
    return fitted_to()


@pytest.mark.parametrize("seed", [0, 1])
def test_parallax_over_hills_is_followed_far_better_than_by_an_affine(seed):
    source, target, _, truth = sampled(seed)
    field, matrix = fitted_to(seed), least_squares_affine(source - ORIGIN, target - ORIGIN)
    local = error_of(field, truth)
    assert local < 0.35 * error_of(lambda xy: affinely(matrix, xy, ORIGIN), truth)
    # Better than any one match: neighbours are averaged.
    assert local < 0.8 * rms(target - truth(source))
    # And it knows about how good it is.
    assert 0.4 < float(np.sqrt((field.error(RASTER) ** 2).mean())) / local < 2.5
    # A few outliers that remain do little.
    wrong, clean = sampled(seed, outliers=0.05), rms(target - truth(source))
    assert rms(wrong[1] - truth(wrong[0])) > 1.25 * clean
    assert error_of(fitted_to(seed, 0.05), truth) < 1.5 * local


def test_the_main_axis_is_that_of_the_parallax(fitted):
    assert abs(fitted.axes[0] @ LOOK) > 0.98
    np.testing.assert_allclose(fitted.axes @ fitted.axes.T, np.eye(2), atol=1e-12)
    assert fitted.processes[0].amplitude > 5 * fitted.processes[1].amplitude
    # Noise across it is smoothed away.
    source, target, _, truth = sampled()
    across = np.array([-LOOK[1], LOOK[0]])
    left = (fitted(RASTER) - truth(RASTER)) @ across
    noise = (target - truth(source)) @ across
    assert np.sqrt((left**2).mean()) < 0.25 * np.sqrt((noise**2).mean())


def test_an_affine_field_with_noise_stays_affine():
    def flat(xy):
        return move(xy, lambda p: np.zeros(len(p)))

    source = sampled(n=200)[0]
    target = flat(source) + np.random.default_rng(5).normal(0, 2.0, source.shape)
    field = fit_local(source, target, np.full(200, 2.0), 150.0)
    assert error_of(field, flat) < 0.3 * rms(target - flat(source))


def test_far_from_the_matches_it_is_its_affine(fitted):
    far = ORIGIN + SIDE / 2 + 60 * SIDE * np.array([[1, 0], [-0.7, 0.7], [0, -1]])
    np.testing.assert_allclose(fitted(far), affinely(fitted.affine, far, fitted.centre), atol=0.01)
    near = ORIGIN + SIDE / 2 + np.zeros((1, 2))
    assert np.abs(fitted(near) - affinely(fitted.affine, near, fitted.centre)).max() > 0.5


def test_its_expected_error_grows_away_from_the_matches_and_in_a_gap(fitted):
    middle = ORIGIN + SIDE / 2
    steps = np.array([0.0, 0.55, 0.7, 1.0, 2.0, 50.0]) * SIDE
    error = fitted.error(middle + steps[:, None] * np.array([1.0, 0.0]))
    assert (np.diff(error) > -1e-6).all()
    assert error[-1] > 3 * error[0]
    everything = np.sqrt(sum(process.amplitude for process in fitted.processes))
    assert error[-1] == pytest.approx(everything, rel=1e-3)
    source, target, sigma, _ = sampled()
    rest = np.linalg.norm(source - middle, axis=1) > 350
    holed = fitted.refit(source[rest], target[rest], sigma[rest])
    assert holed.error(middle[None])[0] > 1.5 * error[0]


def test_matches_of_small_sigma_count_more():
    random = np.random.default_rng(6)
    source, target, _, truth = sampled(n=250, noise=0.0)
    sigma = np.where(random.random(250) < 0.5, 0.5, 6.0)
    target += random.normal(size=target.shape) * sigma[:, None]
    weighted, alike = (fit_local(source, target, s, 150.0) for s in (sigma, np.full(250, 3.0)))
    assert error_of(weighted, truth) < 0.8 * error_of(alike, truth)


def test_refit_keeps_lengths_noise_and_directions(fitted):
    source, target, sigma, truth = sampled()
    rest = (source - ORIGIN)[:, 0] < 0.7 * SIDE
    again = fitted.refit(source[rest], target[rest], sigma[rest])
    np.testing.assert_array_equal(again.axes, fitted.axes)
    for name in ("amplitude", "length", "noise"):
        mine, theirs = ([getattr(process, name) for process in field.processes] for field in (again, fitted))
        assert mine == theirs
    assert len(again.processes[0].source) == rest.sum()
    inside = RASTER[(RASTER - ORIGIN)[:, 0] < 0.6 * SIDE]
    assert rms(again(inside) - truth(inside)) < 1.5
    assert not np.array_equal(again(inside), fitted(inside))
    np.testing.assert_allclose(fitted.refit(source, target, sigma)(RASTER), fitted(RASTER), atol=1e-9)


def test_many_places_are_moved_as_few_are(fitted):
    places = np.random.default_rng(7).uniform(0, SIDE, (4200, 2)) + ORIGIN
    some = np.array([0, 4095, 4096, 4199])
    for function in (fitted, fitted.error):
        np.testing.assert_allclose(function(places)[some], function(places[some]), atol=1e-9)
    assert fitted(places[:0]).shape == (0, 2)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (5.0, 3.0)])
def test_matches_without_any_residual(shift):
    source = sampled()[0][:60]
    there = source + shift
    field = fit_local(source, there, np.ones(60), 150.0)
    np.testing.assert_allclose(field(source), there, atol=1e-5)
    assert np.isfinite(field.error(source)).all()


def test_places_in_another_unit_give_the_same_field():
    source, target, sigma, _ = sampled(n=120)
    metres, feet = (fit_local(source / u, target / u, sigma / u, 150.0 / u)(RASTER / u) * u for u in (1.0, 1200 / 3937))
    np.testing.assert_allclose(feet, metres, atol=1e-3)


def test_block_folds_hold_out_whole_squares_and_not_their_neighbours():
    xy = np.concatenate([[[0.0, 0.0]], *(lattice(10, 50 + by, 950 + by) for by in (0, -40, 40))])
    folds = block_folds(xy, 100.0)[1:].reshape(3, 10, 10)
    assert (folds == folds[0]).all()
    assert set(folds.ravel().tolist()) == {0, 1, 2, 3, 4}
    assert (np.diff(folds, axis=1) != 0).all()
    assert (np.diff(folds, axis=2) != 0).all()
