"""pipelines.calibrate, confidence and uncertainty: the truth has the right sign, and figures add up."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from support.rasters import fields, write_raster

from pipelines import calibrate
from pipelines.calibrate import (
    SCENES,
    Case,
    chip_cases,
    collect,
    displaced,
    known_places,
    observe,
    scene_cases,
    small_cases,
)
from pipelines.confidence import Checked, check, summary
from pipelines.studies.uncertainty import cross_calibrated
from sn9reg.matchers.base import make_matcher
from sn9reg.raster.folders import pair_files
from sn9reg.raster.grid import Window
from sn9reg.raster.scene import PairFiles
from sn9reg.tiepoints import read_tiepoints


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """A pair that belongs together and one that does not, as the untrained matcher sees them."""
    folder, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(3)
    for k, kind in product((0, 1), ("opt", "sar")):
        write_raster(folder / f"{k}_{kind}.tif", (200 * fields(200, k) + 20).astype(np.float32)[None])
    pairs = pair_files(folder)
    cases = [displaced(f"{k}", pairs[0], pairs[k], folder, random) for k in (0, 1)]
    return [observe(case, make_matcher("structure")) for case in cases]


def test_a_displaced_pair_is_found_and_one_that_does_not_belong_together_is_not(observed):
    same, other = observed
    assert (same.right, other.right) == (True, False)
    assert len(same.at) == len(same.inliers) == len(same.off) >= 8
    assert max(np.median(same.off), np.median(same.true)) < 0.5
    assert (same.places.shape, len(other.places), same.large) == ((400, 2), 0, 0)
    assert ((same.raw > 0).all(), same.inliers.mean() > 0.5, np.isinf(other.off).all()) == (True, True, True)
    assert (same.pair[0, 0] > other.pair[0, 0], same.standing > other.standing) == (True, True)


def test_each_place_stands_for_as_much_of_the_window():
    pair = SimpleNamespace(overlap=Window(10, -5, 60, 40))
    places, there = known_places(pair, lambda _, xy: xy + 1, 4)
    np.testing.assert_array_equal(there, places + 1)
    part = (((places - [9.5, -5.5]) / [60, 40]) * 4 - 0.5).round(9)
    assert sorted(map(tuple, part)) == list(product(range(4), repeat=2))


def test_a_run_that_was_stopped_goes_on_where_it_was(observed, tmp_path, monkeypatch):
    seen = []

    def look(case, _):
        seen.append(case.name)
        return observed[int(case.name)]

    monkeypatch.setattr(calibrate, "observe", look)
    cases = [Case(name, PairFiles("o.tif", "s.tif"), None) for name in "01"]
    collect(iter(cases[:1]), None, tmp_path)
    kept = collect(iter(cases), None, tmp_path)
    assert seen == ["0", "1"]
    for found, known in zip(kept, observed, strict=True):
        for name, value in vars(known).items():
            np.testing.assert_array_equal(getattr(found, name), value, strict=np.ndim(value) > 0)


def test_scenes_are_of_many_sizes_and_each_has_the_sar_image_of_the_one_before_too(tmp_path, monkeypatch):
    made = []

    def simulated(folder, width, height, seed, looks, kind):
        made.append((seed, (width, height), looks, kind))
        return SimpleNamespace(optical=folder / "o.tif", sar=folder / "s.tif", offsets=folder / "d.tif")

    monkeypatch.setattr(calibrate, "simulate", simulated)
    cases = list(scene_cases(tmp_path, SCENES[::40]))
    assert made == list(SCENES[::40])
    found = [(case.files.sar.parent.name, case.truth is None) for case in cases]
    assert found == [("scene501", False), ("scene541", False), ("scene501", True)]
    assert [case.name for case in scene_cases(tmp_path, SCENES[::40], wrong=False)] == ["scene501", "scene541"]


def test_the_truth_of_a_chip_is_that_of_its_tiepoints_whatever_its_pixels_say_of_their_size(tmp_path):
    (case,) = chip_cases(tmp_path, [(851, (300, 300), 1, "city")])
    with case.files.open() as pair:
        file = case.files.optical.parent / "02_tiepoints_train_01.csv"
        points = read_tiepoints(file, pair.optical.grid, pair.sar.grid)
        here, expected = (
            pair.grid.to_pixel(grid.map_to_crs(grid.to_map(xy), pair.grid.crs))
            for grid, xy in ((pair.optical.grid, points.optical_xy), (pair.sar.grid, points.sar_xy))
        )
        off = np.hypot(*(case.truth(pair, here) - expected).T)
        assert abs(pair.sar.grid.metres_per_pixel / 0.409 - 1) > 0.01
    assert np.median(off) < 4  # tie-points are set by hand, to 2 px


def test_a_small_scene_whose_displacement_varies_is_promised_what_it_is_worth(tmp_path):
    found = check(next(small_cases(tmp_path, [732])), make_matcher("hybrid"), None)
    assert found.registered
    assert 0.5 < found.expected / found.error < 2
    assert (found.true < 2 * found.claimed).mean() > 0.5


def test_the_summary_counts():
    off, true = np.array([0.0, 1.0, 5.0]), np.array([0.5, 1.5, 2.5])
    found = (off, np.array([0.9, 0.8, 0.1]), off + 0.5, 1.0, true, np.ones(3), 1.0)
    result = summary([Checked(*kind, *found) for kind in product((True, False), (True, False))])
    expected = {"pairs": 2, "wrong_pairs": 2, "wrong_registered": 1, "registered": 0.5, "registered_right": 0.5}
    expected |= {"right_but_refused": 1, "mma_1": 2 / 3, "spearman": 1, "ece": (0.1 + 0.2 + 0.1) / 3}
    expected |= {"map_within_1_sigma": 1 / 3, "map_within_2_sigma": 2 / 3, "true_over_expected_median": 1.5}
    assert {name: result[name] for name in expected} == pytest.approx(expected)


def test_each_half_is_calibrated_on_the_other():
    even, odd = cross_calibrated([np.full(4, 0.9)] * 2, [np.zeros(4), np.full(4, 9.0)])
    np.testing.assert_array_equal(even, 0)
    np.testing.assert_array_equal(odd, 1)
