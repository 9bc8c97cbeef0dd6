"""attempts: which poses a pair is tried in, and what is found in one, in the pair's own pixels."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from support.matches import lattice, matched
from support.rasters import TEXTURE_TRANSFORM, UTM, fields, seen_through, turned, write_raster

from sn9reg import attempts, register
from sn9reg.attempts import Attempt, attempted
from sn9reg.errors import ConfigError
from sn9reg.features.pose import Pose
from sn9reg.fit.choose import fit
from sn9reg.judge.verdict import Verdict
from sn9reg.raster.view import through

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SIDE = 220
SHIFT = np.array([3.0, -2.0])
MIM = {"descriptor": "mim", "max_points": 100, "scale": 0.5, "max_offset": 20.0}


def written(folder, optical, sar, georeferenced):
    place = (TEXTURE_TRANSFORM, UTM) if georeferenced else (None, None)
    for name, values in (("optical", optical), ("sar", sar)):
        write_raster(folder / f"{name}.tif", values[None].astype(np.float32), *place)
    return folder / "optical.tif", folder / "sar.tif"


def speckled(ground, seed=0):
    """SAR of reversed contrast."""
    return np.exp(4 * (1.1 - ground)) * np.random.default_rng(seed).gamma(8, 1 / 8, ground.shape)


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matcher", "options", "georeferenced"), [("hybrid", {}, False), ("hybrid", {}, True), ("descriptors", MIM, False)]
)
def test_a_turned_pair_is_registered_unless_it_is_to_be_taken_as_it_lies(tmp_path, matcher, options, georeferenced):
    matrix = turned(SIDE, 30, 0.9, 6, -4)
    optical, sar = seen_through(fields(460, 11), matrix, SIDE)
    files = written(tmp_path, 200 * optical, speckled(sar), georeferenced)
    given = {"matcher": matcher, "matcher_options": options, "pixel_frame": not georeferenced}
    assert not register(*files, **given, pose="none").registered
    found = register(*files, **given)
    assert found.registered, found.verdict.reason
    places = np.argwhere(np.ones((8, 8))) * 20.0 + 40
    there = found.grid.to_pixel(found.warp(found.grid.to_map(places)))
    assert np.hypot(*(there - through(matrix, places)).T).max() < 2.5
    matches = found.matches  # in pixels of the scene itself, as it was before it was turned
    for place in (matches.sar_xy, matches.solo_xy):
        assert np.median(np.hypot(*(place - through(matrix, matches.optical_xy)).T)) < 2
    pose = found.as_dict()["pose"]
    assert (pose["turn_degrees"], pose["zoom"]) == (pytest.approx(30, abs=3), pytest.approx(0.9, abs=0.05))
    assert found.facts()["pose"] == str(found.pose) == found.verdict.reason.rpartition(" was seen ")[2]


def test_a_pair_that_registers_as_it_lies_is_not_searched_and_is_the_same_to_the_byte(
    small_files, tmp_path, monkeypatch
):
    monkeypatch.setattr(attempts, "pose_of", None)
    given = {"matcher": "structure", "matcher_options": {"max_offset": 10.0}}
    for pose in ("none", "auto"):
        register(*small_files, **given, pose=pose).offsets(sigma=True).write(tmp_path / f"{pose}.tif")
    assert (tmp_path / "none.tif").read_bytes() == (tmp_path / "auto.tif").read_bytes()


def test_a_pair_of_two_places_is_refused_in_any_pose(tmp_path):
    files = written(tmp_path, 200 * fields(SIDE, 1), speckled(fields(SIDE, 4)), False)
    found = register(*files, pixel_frame=True)
    assert (found.registered, found.pose, found.facts().get("pose")) == (False, None, None)
    assert "--pose" not in found.verdict.reason


# --- which attempts are made -----------------------------------------------------------------------------------------


def outcome(degrees, zoom, registered, probability=0.0):
    """An attempt whose matches are turned and scaled by so much."""
    xy = lattice(10, 20, 400)
    there = through(turned(400, degrees, zoom), xy)
    matches = matched(xy, there)
    verdict = Verdict(registered, "because", len(xy), len(xy), probability=probability, error=1.0)
    return Attempt(matches, fit(matches, "affine"), verdict)


@pytest.fixture
def tried(monkeypatch):
    """Outcomes of attempts, a choice, and what a search finds -> what came of it, and the poses that were tried."""

    def run(outcomes, choice, degrees=40.0, zoom=1.0, crs=UTM):
        seen, left = [], iter(outcomes)

        def attempt(_pair, pose=None):
            seen.append(pose and (round(pose.degrees), round(pose.zoom, 2)))
            return next(left)

        found = Pose(np.eye(3), math.radians(degrees), zoom, 30.0)
        monkeypatch.setattr(attempts, "pose_of", lambda _pair: found)
        steps = SimpleNamespace(attempt=attempt, lap=lambda _stage: None)
        return attempted(SimpleNamespace(grid=SimpleNamespace(crs=crs)), steps, choice), seen

    return run


GOOD, BAD = outcome(2, 1.01, True, 0.99), outcome(0, 1, False, 0.01)
TURNED, UNSURE = outcome(30, 1.3, True, 0.9), outcome(44, 1.1, False, 0.5)


@pytest.mark.parametrize(
    ("outcomes", "choice", "best", "poses"),
    [
        ([GOOD], "auto", 0, [None]),
        ([BAD], "none", 0, [None]),
        ([TURNED], "none", 0, [None]),
        ([TURNED, GOOD], "auto", 1, [None, (30, 1.3)]),
        ([TURNED, BAD], "auto", 0, [None, (30, 1.3)]),
        ([BAD, BAD], "auto", 0, [None, (40, 1)]),
        ([BAD, UNSURE, GOOD], "auto", 2, [None, (40, 1), (44, 1.1)]),
        ([BAD, TURNED, BAD], "auto", 1, [None, (40, 1), (30, 1.3)]),
        ([GOOD, TURNED], "search", 1, [(40, 1), (2, 1.01)]),
    ],
)
def test_another_pose_is_tried_where_the_one_before_leaves_a_doubt(tried, outcomes, choice, best, poses):
    found, seen = tried(outcomes, choice)
    assert (found is outcomes[best], seen) == (True, poses)


def test_without_a_georeference_a_pair_that_is_not_sure_is_searched_and_the_surer_attempt_taken(tried):
    unsure, sure = outcome(0, 1, True, 0.9), outcome(40, 1, True, 0.97)
    assert tried([unsure], "auto") == (unsure, [None])
    assert tried([unsure, sure, BAD], "auto", crs=None) == (sure, [None, (40, 1), (40, 1)])
    assert tried([unsure, outcome(0, 1, True, 0.8), BAD], "auto", crs=None)[0] is unsure
    assert tried([GOOD], "auto", crs=None) == (GOOD, [None])


def test_a_search_that_finds_the_pair_as_it_lies_ends_there(tried):
    found, seen = tried([BAD], "auto", degrees=3.3, zoom=1.05)
    assert (found, seen) == (BAD, [None])


def test_another_choice_is_refused():
    with pytest.raises(ConfigError, match="no pose 'maybe'; there are: auto, none, search"):
        attempted(None, None, "maybe")


def test_what_is_found_in_a_pose_is_carried_back():
    xy = lattice(10, 20, 400)
    matches = matched(xy, xy + SHIFT)
    found = Attempt(matches, fit(matches, "translation"), Verdict(True, "because", 1, 1, error=2.0))
    pose = Pose(turned(400, 25, 1.5), math.radians(25), 1.5)
    back, there = found.carried_back(pose), through(pose.matrix, xy + SHIFT)
    grid = matches.grid
    np.testing.assert_allclose(back.matches.sar_xy, there, atol=1e-9)
    np.testing.assert_allclose(grid.to_pixel(back.fit.warp(grid.to_map(xy))), there, atol=1e-6)
    np.testing.assert_allclose(back.fit.warp.error(grid.to_map(xy)), 1.5 * found.fit.warp.error(grid.to_map(xy)))
    assert (back.verdict.error, back.fit.error) == (3.0, 1.5 * found.fit.error)
    np.testing.assert_allclose(back.matches.sigma, 1.5 * matches.sigma)
    shown = back.shown()
    assert (shown.degrees, shown.zoom) == (pytest.approx(25), pytest.approx(1.5))
    np.testing.assert_allclose(through(shown.matrix, xy), there, atol=1e-6)
