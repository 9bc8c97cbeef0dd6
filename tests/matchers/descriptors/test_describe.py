"""descriptors/describe: keypoints of a scene, tile by tile, their descriptors, and the one that needs no training."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from support.rasters import fields, turned

from sn9reg.features.phase_congruency import phase_congruency
from sn9reg.matchers.descriptors import describe as module
from sn9reg.matchers.descriptors.describe import Described, MimDescriber, describe_scene, orientations
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
        scene, lambda values: values[0], window or Window(0, 0, width, height), 1, DESCRIBER, count, oriented
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
    return MimDescriber().maps(image, phase_congruency(image[None]))


def mim(maps, *xy, side=96, angle=None):
    layout = PatchLayout(side, 1.0, "energy")
    return MimDescriber(layout).describe(maps, torch.tensor(xy, dtype=torch.float64), angle)


@pytest.fixture(scope="module")
def maps():
    return maps_of(ground())


def test_descriptors_have_unit_length_and_do_not_change_with_how_strong_the_strongest_orientation_is(maps):
    assert MimDescriber().extent == 96
    found = mim(maps, (80, 80), (70.3, 91.8), (5, 150))
    assert found.shape == (3, 216)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert (found >= 0).all()
    changed = (torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) + 0.1) * maps
    changed[0] = 5  # nor with the image itself
    torch.testing.assert_close(*(mim(m, (80, 80), (60, 90), side=25) for m in (changed, maps)))


def test_a_descriptor_counts_the_strongest_orientation_of_each_cell():
    strongest = np.random.default_rng(0).integers(0, 6, (40, 50))
    strongest[:, 24:] = -1  # no energy, no vote
    maps = torch.stack([torch.from_numpy(strongest == k).float() for k in (-2, *range(6))])  # no image
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


@pytest.mark.parametrize("degrees", [60, -60, 90, 145])
def test_a_turned_image_is_described_as_the_upright_one_if_its_angle_is_given(maps, degrees):
    middle = ((SIDE - 1) / 2,) * 2
    image = cv2.warpAffine(
        ground(), turned(SIDE, degrees)[:2], (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    upright, rotated = mim(maps, middle, side=72)[0], maps_of(image)
    informed = mim(rotated, middle, side=72, angle=torch.tensor([math.radians(degrees)]))[0]
    assert upright @ informed > 0.9
    assert upright @ informed > upright @ mim(rotated, middle, side=72)[0] + 0.15
