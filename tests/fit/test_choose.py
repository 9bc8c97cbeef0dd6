"""choose: `auto` picks the model that made the data, errors are what is to be expected, too little is not fitted."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rasterio.crs import CRS
from support.matches import lattice, matched
from support.rasters import UTM

from sn9reg.fit.choose import MINIMUM, MODELS, WITH_HEIGHTS, fit

FEET = CRS.from_epsg(2263)  # US survey feet
SIDE = 11  # matches along each side of the scene


def found(kind="translation", noise=1.0, wrong=0.0, seed=0, crs=UTM, pixel=0.5):
    """Matches on a lattice, 60 px apart, and the truth: (N, 2) common pixels -> (N, 2)."""
    random, xy = np.random.default_rng(seed), lattice(SIDE, 60, 60 * SIDE)
    matrix = np.eye(2) if kind == "translation" else np.array([[1.02, -0.015], [0.01, 0.99]])

    def move(at):
        hill = np.exp(-((at[:, :1] - 350) ** 2 + (at[:, 1:] - 500) ** 2) / (2 * 180.0**2))
        return at @ matrix.T + np.array([17.0, -8.0]) + (hill * [40, 10] if kind == "local" else 0)

    there = move(xy) + random.normal(0, noise, xy.shape)
    lost = random.random(len(xy)) < wrong
    there[lost] = xy[lost] + random.uniform(-60, 60, (int(lost.sum()), 2))
    return matched(xy, there, pixel, radius=80.0, sigma=noise, crs=crs), move, lost


def error_px(fitted, matches, move):
    """Largest error of the warp inside the scene, common pixels."""
    at = lattice(12, 100, SIDE * 60 - 60)
    there = matches.grid.to_pixel(fitted.warp(matches.grid.to_map(at)))
    return np.linalg.norm(there - move(at), axis=1).max()


@pytest.mark.parametrize("wrong", [0.0, 0.15])
@pytest.mark.parametrize("kind", ["translation", "affine", "local"])
def test_auto_picks_the_model_that_made_the_data(kind, wrong):
    matches, move, lost = found(kind, wrong=wrong)
    result = fit(matches)
    assert (result.warp.model, result.reason) == (kind, "")
    errors = result.held_out
    assert set(errors) == {"translation", "affine", "local"}
    assert error_px(result, matches, move) < {"translation": 1.0, "affine": 3.0, "local": 5.0}[kind]
    assert result.inliers.shape == (len(matches),)
    assert result.inliers[~lost].mean() > 0.9
    if not wrong:  # the median of a Rayleigh distribution of 1 px of half a metre; a field is a little worse
        assert 0.8 * 0.589 < result.error < 1.5 * 0.589
        if kind == "affine":  # the mean of that distribution
            assert errors["affine"] == pytest.approx(0.5 * np.sqrt(np.pi / 2), rel=0.15)
            assert errors["translation"] > 3 * errors["affine"]
        if kind == "local":
            assert errors["local"] < 0.5 * errors["affine"]


def rough(map_xy):
    """Heights that change too fast for a field through matches 30 m apart."""
    return 40 * np.sin(map_xy[:, 0] / 11) * np.cos(map_xy[:, 1] / 13)


@pytest.mark.parametrize("helps", [True, False])
def test_heights_are_used_where_they_explain_the_displacement(helps):
    matches, move, _ = found("local", noise=0.5)
    there = matches.grid.to_map(move(matches.optical_xy))
    if helps:
        there += rough(matches.optical_map)[:, None] * [0.2, -0.05]
    moved = replace(matches, sar_xy=matches.grid.to_pixel(there))
    without, result = fit(moved), fit(moved, heights=rough)
    assert result.by_heights == helps
    if helps:
        assert result.warp.model == "local"
        assert result.held_out[WITH_HEIGHTS] < 0.5 * result.held_out["local"]
        at = np.random.default_rng(1).uniform(100, 560, (200, 2))
        source = matches.grid.to_map(at)
        truth = matches.grid.to_map(move(at)) + rough(source)[:, None] * [0.2, -0.05]
        errors = [np.linalg.norm(f.warp(source) - truth, axis=1).mean() for f in (result, without)]
        assert errors[0] < 0.3 * errors[1]
    else:
        at = matches.optical_map
        np.testing.assert_array_equal(result.warp(at), without.warp(at))


@pytest.mark.parametrize("model", [m for m in MODELS if m != "auto"])
def test_a_model_that_is_asked_for_is_the_one_fitted_however_narrow_the_scene(model):
    matches, move, lost = found("translation", wrong=0.1)
    assert fit(replace(matches, footprint=2000.0), model).warp.model == model
    result = fit(matches, model)
    assert result.warp.model == model
    assert error_px(result, matches, move) < 3.0
    assert result.inliers[~lost].mean() > 0.9


@pytest.mark.parametrize(
    ("model", "count", "tried", "noise", "reason"),
    [
        ("auto", 0, 0, 1.0, "there is nowhere to look"),
        ("auto", 0, 9, 1.0, "only 0 matches of 9 tried places"),
        ("local", MINIMUM - 1, 9, 1.0, f"only {MINIMUM - 1} matches of 9 tried places"),
        ("affine", SIDE, 99, 0.1, "the matches do not determine a model of kind affine"),  # all on one line
    ],
)
def test_too_little_leaves_the_georeference_alone_promises_nothing_and_gives_the_reason(
    model, count, tried, noise, reason
):
    result = fit(replace(found(noise=noise)[0].keep(np.arange(count)), tried=tried), model)
    assert result.reason.startswith(reason)
    assert (result.warp.model, result.held_out) == ("identity", {})
    somewhere = np.array([[435010.0, 4180900.0]])
    np.testing.assert_array_equal(result.warp(somewhere), somewhere)
    assert np.isnan(result.warp.error(somewhere)).all()
    assert result.inliers.tolist() == [False] * count
    assert math.isnan(result.error)


@pytest.mark.parametrize("model", MODELS)
def test_random_matches_promise_nothing(model):
    """A model may be laid through them, but its expected error says what it is worth: they are off by up to 30 m."""
    result = fit(found(wrong=1.0, seed=1)[0], model)
    assert result.reason or result.error > 6.0


@pytest.mark.parametrize(
    ("templates", "kinds"),
    [(1.9, {"translation"}), (2.1, {"translation", "affine"}), (3.1, set(MODELS))],
)
@pytest.mark.parametrize("kind", ["affine", "local"])
def test_auto_leaves_out_what_the_scene_has_no_room_for(kind, templates, kinds):
    """Where all templates share pixels, nothing is held out, and what bends most would always win."""
    result = fit(replace(found(kind, noise=0.3)[0], footprint=(SIDE - 1) * 60.0 / templates))
    assert result.warp.model in kinds
    assert (result.warp.model == kind) == (kind in kinds)
    assert set(result.held_out) == {"translation", "affine", "local"}  # those without room are left out, not hidden


@pytest.mark.parametrize(("crs", "unit"), [(UTM, 1.0), (FEET, 1200 / 3937)])
@pytest.mark.parametrize("model", ["translation", "affine", "homography"])
def test_the_threshold_is_in_metres_whatever_the_map_counts_in(model, crs, unit):
    """Half a metre a pixel in both: a match off by 4 m is an inlier at 6 m and none at 2.5 m."""
    matches, _, _ = found(noise=0.3, crs=crs, pixel=0.5 / unit)
    matches.sar_xy[30] += [8.0, 0]
    assert [fit(matches, model, threshold).inliers[30] for threshold in (2.5, 6.0)] == [False, True]


@pytest.mark.parametrize("pixel", [0.5, 10.0])
def test_the_default_threshold_is_in_pixels(pixel):
    """Parallax of some pixels is no outlier, at any pixel size."""
    matches, _, _ = found(noise=0.3, pixel=pixel)
    matches.sar_xy[[30, 60]] += [[15.0, 0], [60.0, 0]]
    assert fit(matches, "affine").inliers[[30, 60]].tolist() == [True, False]


@pytest.mark.parametrize(("kind", "noise"), [("translation", 0.5), ("affine", 2.0)])
def test_the_warps_error_is_the_matches_standard_deviation_per_axis(kind, noise):
    matches, _, _ = found(kind, noise=noise, seed=3)
    warp = fit(matches, kind).warp
    expected = warp.error(matches.optical_map)
    assert expected.shape == (len(matches),)
    assert np.median(expected) == pytest.approx(0.5 * noise, rel=0.15)
    assert expected.std() < 0.2 * expected.mean()  # it is the same everywhere, and so is what is said of it
    off = np.hypot(*(warp(matches.optical_map) - matches.sar_map).T)
    # Of normal deviations in the plane so many are shorter than one, and than two standard deviations per axis.
    assert (off < expected).mean() == pytest.approx(1 - math.exp(-1 / 2), abs=0.1)
    assert (off < 2 * expected).mean() == pytest.approx(1 - math.exp(-2), abs=0.07)


def test_the_error_of_a_field_holds_what_the_field_itself_does_not_know():
    """It is not smaller than the matches' noise, and larger where there are none."""
    matches, _, _ = found("local", noise=1.0)
    warp = fit(matches, "local").warp
    inside, outside = (warp.error(matches.grid.to_map(np.array(at))) for at in ([[360.0, 360]], [[1800.0, 1800]]))
    assert 0.8 * 0.5 < inside[0] < 2 * 0.5
    assert outside[0] > 1.5 * inside[0]


@pytest.mark.parametrize("kind", ["translation", "affine", "local"])
def test_the_warps_error_is_larger_where_matches_are_off_by_more(kind):
    matches, _, _ = found(kind, noise=0.5)
    far = matches.optical_xy[:, 0] > 400
    matches.sar_xy[far] += np.random.default_rng(5).normal(0, 4, (int(far.sum()), 2))
    result = fit(matches, kind)
    near, there = (np.median(result.warp.error(matches.optical_map[part])) for part in (~far, far))
    assert there > 1.5 * near
    low, high = result.warp.error(matches.grid.to_map(np.array([[60.0, 360], [660.0, 360]])))
    assert high > 1.5 * low


def test_lost_matches_that_count_as_inliers_do_not_count_without_end():
    matches, _, _ = found(noise=1.0)
    without = fit(matches, "translation").warp.error(matches.optical_map)
    matches.sar_xy[SIDE * 5 + 5] += [50.0, 0]  # below the threshold of 30 m
    result = fit(matches, "translation", threshold=30.0)
    assert result.inliers.all()
    assert (result.warp.error(matches.optical_map) / without).max() < 1.6


@pytest.mark.parametrize("kind", ["translation", "local"])
def test_of_two_fits_the_one_to_better_matches_predicts_others_better_and_none_predicts_nothing(kind):
    (sharp, *_), (rough, *_), (others, *_) = (found(kind, noise, seed=k) for k, noise in enumerate((0.5, 12.0, 1.0)))
    good, bad, none = fit(sharp, kind), fit(rough, kind), fit(sharp.keep([0, 1]), kind)
    assert good.predicts_as_well_as(bad, others)
    assert good.predicts_as_well_as(good, others)
    assert not bad.predicts_as_well_as(good, others)
    assert not none.predicts_as_well_as(good, others)
    # What lies near a match is left out, as it is for the model's own held-out error.
    np.testing.assert_allclose(good.left_out(sharp.keep(good.inliers)).mean(), good.held_out[kind], rtol=0.05)
