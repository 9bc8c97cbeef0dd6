"""descriptors/describe: keypoints of a scene, tile by tile, their descriptors, and the one that needs no training."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial.distance import cdist
from support.rasters import fields

from sn9reg.features.phase_congruency import phase_congruency
from sn9reg.matchers.descriptors import describe as module
from sn9reg.matchers.descriptors.describe import Described, MimDescriber, describe_scene, fast_corners, orientations
from sn9reg.matchers.descriptors.nearest import nearest
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.progress import listening
from sn9reg.raster.grid import Window
from sn9reg.raster.scene import Patch

DESCRIBER = MimDescriber(PatchLayout(48, 1.0, "energy"))


class Raster:
    """A scene in memory: (H, W) values, and where they are valid."""

    def __init__(self, values, valid=None):
        self.values = np.asarray(values, np.float32)
        self.valid = np.ones(self.values.shape, bool) if valid is None else valid

    def read(self, window, factor=1):
        assert factor == 1
        row, col = np.ix_(np.arange(window.height) + window.row, np.arange(window.width) + window.col)
        here = row.clip(0, self.valid.shape[0] - 1), col.clip(0, self.valid.shape[1] - 1)
        valid = (row == here[0]) & (col == here[1]) & self.valid[here]
        return Patch((self.values[here] * valid)[None], valid)


def describe(scene, window=None, count=150, oriented=False) -> Described:
    height, width = scene.values.shape
    return describe_scene(
        scene, lambda values: values[0], "sar", window or Window(0, 0, width, height), 1, DESCRIBER, count, oriented
    )


@pytest.fixture(scope="module")
def small():
    return 200 * fields(240, 5)


@pytest.fixture(scope="module")
def large():
    """A scene of six tiles, and its keypoints."""
    scene = Raster(200 * fields(600, 6)[:400])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE", 200)
        return scene, describe(scene, count=400)


def test_keypoints_keep_away_from_what_is_not_valid(small, monkeypatch):
    """Of four tiles two hold nothing."""
    monkeypatch.setattr(module, "_TILE", 120)
    valid = np.ones(small.shape, bool)
    valid[90:120, 170:200] = False
    valid[:, :120] = False
    with listening((seen := []).append):
        found = describe(Raster(small, valid))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert 30 < len(found) <= 150
    assert found.descriptors.shape[:2] == (1, len(found))
    np.testing.assert_allclose(found.descriptors.norm(dim=2), 1, atol=1e-5)
    col, row = found.xy.astype(int).T
    assert valid[row, col].all()
    far = distance_transform_edt(np.pad(valid, 1))[1:-1, 1:-1]
    assert far[row, col].min() > 6


def test_a_scene_in_tiles_has_keypoints_all_over_each_of_them_once(large):
    scene, found = large
    height, width = scene.values.shape
    counts = np.histogram2d(*found.xy.T, bins=(6, 4), range=((0, width), (0, height)))[0]
    assert counts.min() >= 3
    assert 0.8 * 400 <= len(found) <= 1.02 * 400
    assert len(np.unique(found.xy, axis=0)) == len(found) == found.descriptors.shape[1]


def test_another_window_gives_the_same_descriptors_at_the_same_places(large):
    """Not bit for bit: images are standardised and phase congruency is clipped by what the window holds."""
    windows = Window(60, 60, 280, 260), Window(87, 79, 280, 260)
    one, other = (describe(large[0], window, 400) for window in windows)
    assert (one.xy >= 60).all()
    assert (one.xy < [340, 320]).all()
    places = {tuple(p): i for i, p in enumerate(one.xy)}
    shared = [(places[tuple(p)], j) for j, p in enumerate(other.xy) if tuple(p) in places]
    assert len(shared) > 40
    i, j = np.array(shared).T
    cosine = (one.descriptors[0, i] * other.descriptors[0, j]).sum(dim=1)
    assert cosine.median() > 0.98
    assert cosine.min() > 0.85


BEYOND = Window(1000, -800, 200, 200)


@pytest.mark.parametrize(
    ("contrast", "valid", "window"),
    [(0, slice(240), None), (1, slice(0), None), (1, slice(100, 108), None), (1, slice(240), BEYOND)],
    ids=["constant", "masked", "a few pixels", "window beyond the scene"],
)
def test_where_there_is_nothing_to_see_there_are_no_keypoints(small, contrast, valid, window):
    mask = np.zeros(small.shape, bool)
    mask[valid, valid] = True
    found = describe(Raster(contrast * small + 7, mask), window, oriented=True)
    assert len(found) == found.descriptors.shape[1] == 0


@pytest.mark.parametrize("oriented", [False, True])
def test_only_oriented_descriptors_survive_a_quarter_turn(small, oriented):
    """Of the keypoints that are found again in the turned image, so many have their counterpart as the nearest."""
    window, side = Window(50, 50, 140, 140), small.shape[0]
    one = describe(Raster(small), window, 120, oriented)
    other = describe(Raster(np.rot90(small).copy()), window, 120, oriented)
    there = np.column_stack([one.xy[:, 1], side - 1 - one.xy[:, 0]])  # rot90 puts (x, y) at (y, side - 1 - x)
    exists = (np.hypot(*(there[:, None] - other.xy[None]).transpose(2, 0, 1)).min(axis=1)) < 3
    assert exists.sum() > 25
    off = np.hypot(*(other.xy[nearest(one, other).index] - there).T)
    assert one.descriptors.shape[:2] == (1 + oriented, len(one))
    share = (off[exists] < 6).mean()
    assert share > 0.8 if oriented else share < 0.3


@pytest.mark.parametrize("degrees", [0, 30, 90, 140])
def test_the_orientation_of_a_grating_is_known(degrees):
    """Of a grating that varies along a direction; angles go from x towards y, the rows."""
    row, col = np.mgrid[:128, :128]
    phase = col * math.cos(math.radians(degrees)) + row * math.sin(math.radians(degrees))
    image = torch.from_numpy(np.cos(2 * math.pi * phase / 8).astype(np.float32))
    xy = np.array([[64.0, 64], [50, 70], [80, 60]])
    found = orientations(phase_congruency(image[None]), xy).numpy()
    off = np.degrees(np.abs(np.angle(np.exp(2j * (found - math.radians(degrees)))))) / 2
    assert off.max() < 6
    assert ((found >= 0) & (found < math.pi)).all()


SIDE = 160


def ground(seed=0):
    """(H, W) regions with sharp borders."""
    regions = gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 5, mode="wrap") > 0
    return gaussian_filter(regions.astype(np.float32), 0.7)


def maps_of(image):
    image = torch.from_numpy(np.asarray(image, np.float32))
    return MimDescriber().maps(image, phase_congruency(image[None]), "sar")


def mim(maps, *xy, side=96, angle=None):
    layout = PatchLayout(side, 1.0, "energy")
    return MimDescriber(layout).describe(maps, torch.tensor(xy, dtype=torch.float64), angle)


@pytest.fixture(scope="module")
def maps():
    return maps_of(ground())


def test_a_descriptor_counts_the_strongest_orientation_of_each_cell():
    strongest = np.random.default_rng(0).integers(0, 6, (40, 50))
    strongest[:, 24:] = -1  # no energy, no vote
    maps = torch.stack([torch.from_numpy(strongest == k).float() for k in range(6)])
    found = mim(maps, (20.5, 17.5), side=24)[0].reshape(6, 6, 6)
    expected = np.zeros((6, 6, 6))
    for y in range(24):
        for x in range(15):
            expected[y // 4, x // 4, strongest[y + 6, x + 9]] += 1
    assert found.numpy() == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


def test_two_places_differ_and_the_same_place_of_other_contrast_or_of_a_moved_image_does_not(maps):
    here, there = mim(maps, (70, 80), (95, 66))
    assert here @ there < 0.8
    for changed in (-ground(), 1 - ground(), 40 * ground() + 7):
        assert here @ mim(maps_of(changed), (70, 80))[0] > 0.999
    assert here @ mim(maps_of(np.roll(ground(), (6, -9), (0, 1))), (61, 86))[0] > 0.99


# --- corners, and those of them that are spread evenly ---------------------------------------------------------------

EDGE = 96
ALL = np.ones((EDGE, EDGE), bool)
SQUARES = [(15, 20), (60, 12), (30, 60)]  # x, y of the upper left pixel of each
SIZE = 14
CORNERS = np.array([(x + i, y + j) for x, y in SQUARES for i in (0, SIZE - 1) for j in (0, SIZE - 1)])


def squares(*strengths):
    """One of each strength, a little blurred: two equal neighbours are no corner to FAST."""
    drawn = np.zeros((EDGE, EDGE), np.float32)
    for (x, y), strength in zip(SQUARES, strengths, strict=True):
        drawn[y : y + SIZE, x : x + SIZE] = strength
    return gaussian_filter(drawn, 0.5)


def closest(points, others):
    """Of each point the distance to the nearest of the others."""
    return cdist(points, others).min(axis=1)


@pytest.mark.parametrize("unit", [1e-6, 1, 1e6])
def test_corners_of_squares_are_found_in_any_unit_and_nothing_else(unit):
    xy, response = fast_corners(unit * squares(1, 0.5, 0.5), ALL)
    assert closest(CORNERS, xy).max() < 2
    assert closest(xy, CORNERS).max() < 3
    strong = closest(xy, CORNERS[:4]) < 3
    assert response[strong].min() > response[~strong].max() > 0
    valid = np.arange(EDGE) >= np.full((EDGE, 1), EDGE // 2)
    xy, _ = fast_corners(unit * squares(1, 1, 1), valid)
    assert closest(CORNERS[CORNERS[:, 0] >= EDGE // 2], xy).max() < 2
    assert xy[:, 0].min() >= EDGE // 2


@pytest.mark.parametrize(
    ("strength", "valid"), [(np.full((EDGE, EDGE), 0.3, np.float32), ALL), (squares(1, 1, 1), ~ALL)]
)
def test_there_are_no_corners_where_there_is_nothing_to_see(strength, valid):
    xy, response = fast_corners(strength, valid)
    assert xy.shape == (0, 2)
    assert response.shape == (0,)


def test_full_strength_is_that_of_the_brightest_valid_pixels():
    """A few pixels that are much brighter, and any that are not valid, change no corner of the others."""
    drawn, valid = squares(1, 1, 1), ALL.copy()
    expected = fast_corners(np.minimum(drawn, np.percentile(drawn, 99.5)), ALL)[0]
    drawn[80:90, 80:90], valid[75:95, 75:95] = 1e6, False
    drawn[2:4, 2:5] = 50
    found = fast_corners(drawn, valid)[0]
    assert len(expected) >= len(CORNERS)
    assert closest(expected, found).max() < 1


def radii(xy, response):
    """Of each point the distance to the nearest one of which 0.9 of the strength is still more."""
    clearly_stronger = response[:, None] < 0.9 * response[None, :]
    return np.where(clearly_stronger, cdist(xy, xy), np.inf).min(axis=1)


@pytest.mark.parametrize("count", [1, 2, 7, 14, 89])
@pytest.mark.parametrize("few", [True, False])
def test_of_many_points_the_strongest_compete(count, few):
    """few: strengths and places are few whole numbers, as those of FAST are."""
    random = np.random.default_rng(count)
    xy, response = random.uniform(0, 200, (90, 2)), random.gamma(2, 20, 90) + 1
    if few:
        xy, response = np.floor(xy / 16), np.ceil(response / 30)
    pool = np.argsort(-response, kind="stable")[: 8 * count]
    apart = radii(xy[pool], response[pool])
    chosen = module.spread_evenly(xy, response, count)
    assert len(set(chosen.tolist())) == count
    assert np.array_equal(np.sort(apart[np.isin(pool, chosen)]), np.sort(apart)[-count:])
    assert response[chosen[0]] == response.max()
    assert (np.diff(response[chosen]) <= 0).all()


@pytest.mark.parametrize(
    ("strengths", "count", "chosen"),
    [
        (np.full(90, 7.0), 30, range(30)), (np.zeros(90), 30, range(30)),  # of equal ones the first
        (np.ones(5), 100, range(5)), (np.ones(5), 0, []), (np.ones(0), 10, []),
        ([100, 95, 80, 50], 2, [0, 1]), ([100, 90, 80, 50], 2, [0, 1]), ([100, 89, 80, 50], 2, [0, 3]),
    ],
)  # fmt: skip
def test_a_point_is_only_suppressed_by_a_clearly_stronger_one(strengths, count, chosen):
    xy = np.column_stack([np.arange(len(strengths)), np.zeros(len(strengths))])
    xy[3:] *= 20
    assert sorted(module.spread_evenly(xy, np.array(strengths, float), count)) == list(chosen)
