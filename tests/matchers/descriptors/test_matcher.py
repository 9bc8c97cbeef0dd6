"""matchers/descriptors, with the descriptor that needs no training: turned pairs, and pairs that must not register."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.matchers import arrays_of
from support.rasters import TEXTURE_TRANSFORM, UTM, fields, pair_of, seen_through, turned, write_raster

from sn9reg import register
from sn9reg.errors import ConfigError
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.descriptors import matcher as module
from sn9reg.matchers.descriptors.matcher import FAITHFUL, DescriptorMatcher
from sn9reg.matchers.descriptors.pose import find_pose
from sn9reg.raster.view import through

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SIDE = 220
# mim, with few enough keypoints and small enough patches to be quick; more keypoints where they are cheap
MIM = {"descriptor": "mim", "max_points": 60, "scale": 0.5}
NEAR = MIM | {"max_offset": 15.0}
MORE = NEAR | {"max_points": 100}
SHIFT = (9, -6)


def write_images(folder, optical, sar, **georeference):
    """optical.tif and sar.tif of (h, w) values; 0 is nodata of the SAR image."""
    for name, values, nodata in (("optical", optical, None), ("sar", sar, 0)):
        write_raster(folder / f"{name}.tif", values[None].astype(np.float32), nodata=nodata, **georeference)
    return folder / "optical.tif", folder / "sar.tif"


@pytest.mark.parametrize("georeferenced", [False, True])
def test_a_turned_pair_is_registered_with_or_without_a_georeference_that_misleads(tmp_path, monkeypatch, georeferenced):
    """A texture, and a SAR image of reversed contrast and speckle."""
    asked, matrix = [], turned(SIDE, 30) if georeferenced else turned(SIDE, 30, 0.9, 6, -4)
    turn, zoom = (35.0, 1.0) if georeferenced else (30.0, 1.15)

    def counted(*arguments):
        asked.append(arguments)
        return find_pose(*arguments)

    monkeypatch.setattr(module, "find_pose", counted)
    optical, sar = seen_through(fields(460, 11), matrix, SIDE)
    sar = np.exp(4 * (1.1 - sar)) * np.random.default_rng(0).gamma(8, 1 / 8, sar.shape)
    given = {"transform": TEXTURE_TRANSFORM, "crs": UTM} if georeferenced else {}
    found = register(
        *write_images(tmp_path, 200 * optical, sar, **given), pixel_frame=not georeferenced, model="affine",
        matcher="descriptors", matcher_options=NEAR | {"turn": turn, "zoom": zoom},
    )  # fmt: skip
    assert [arguments[4:] for arguments in asked] == [pytest.approx((math.radians(turn), zoom))]
    assert found.registered, found.verdict.reason
    places = np.argwhere(np.ones((8, 8))) * 20.0 + 40
    there = found.grid.to_pixel(found.warp(found.grid.to_map(places)))
    assert np.hypot(*(there - through(matrix, places)).T).max() < 2
    matches = found.matches  # in pixels of the scene itself, as it was before it was turned
    assert len(matches) > 20
    for place, most in ((matches.sar_xy, 1.5), (matches.solo_xy, 2)):
        assert np.median(np.hypot(*(place - through(matrix, matches.optical_xy)).T)) < most


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    with pair_of(tmp_path_factory.mktemp("near"), (SIDE, SIDE), SHIFT, looks=8) as pair:
        yield pair


def test_a_small_shift_is_found_without_a_search_and_twice_to_the_same_bytes(near, monkeypatch):
    monkeypatch.setattr(module, "find_pose", None)
    found, again = (DescriptorMatcher(**NEAR, pose=pose).match(near) for pose in ("auto", "none"))
    for name, values in arrays_of(found).items():
        assert values.tobytes() == arrays_of(again)[name].tobytes()
    assert len(found) > 0.5 * found.tried > 20
    assert np.abs(np.median(found.sar_xy - found.optical_xy, axis=0) - SHIFT).max() < 0.7


def test_without_refinement_matches_are_the_inliers(near):
    matcher = DescriptorMatcher(**MORE, pose="none", refine=False)
    inliers = matcher.match(near)
    radius = 15.0 / near.grid.resolution
    optical, sar = matcher.described(near.posed(np.eye(3)), 1, radius)
    putative = matcher.putative(near, optical, sar, 1, radius)
    assert inliers.tried == len(putative)
    assert len(inliers) == max(int(who.sum()) for _, who in matcher.models(putative))
    rows = {(*a, *b) for a, b in zip(putative.optical_xy, putative.sar_xy, strict=True)}
    assert {(*a, *b) for a, b in zip(inliers.optical_xy, inliers.sar_xy, strict=True)} <= rows
    assert len(inliers) >= 8
    off = np.hypot(*(inliers.sar_xy - inliers.optical_xy - SHIFT).T)
    assert np.median(off) < 6
    assert off.max() < 20


def test_filters_keep_some_of_the_matches_within_reach(near):
    described = DescriptorMatcher(**MORE).described(near.posed(np.eye(3)), 1, 30.0)
    plain, mutual, ratio = (
        DescriptorMatcher(**MORE, adaptive=adaptive, mutual=flag).putative(near, *described, 1, 30.0)
        for adaptive, flag in ((False, False), (False, True), (True, False))
    )
    assert np.hypot(*(plain.sar_xy - plain.optical_xy).T).max() <= 30
    assert 0 < len(mutual) < len(plain)
    assert len(np.unique(mutual.sar_xy, axis=0)) == len(mutual)
    assert 0 < len(ratio) < len(plain)
    right = [(np.hypot(*(m.sar_xy - m.optical_xy - SHIFT).T) < 5).mean() for m in (plain, ratio)]
    assert right[1] > right[0]


def test_with_the_papers_options_partners_are_looked_for_everywhere(near):
    matcher = make_matcher("descriptors", **(MORE | FAITHFUL))
    given = matcher.options
    assert (given.pose, given.near, given.refine, given.threshold) == ("none", False, False, 3.0)
    found = matcher.match(near)
    assert len(found) >= 8
    assert np.abs(np.median(found.sar_xy - found.optical_xy, axis=0) - SHIFT).max() < 2
    assert found.search_radius == max(near.grid.shape) / 2


# --- what must not register ------------------------------------------------------------------------------------------


def texture(seed):
    return 200 * fields(SIDE, seed) + 20


FLAT = np.full((SIDE, SIDE), 80.0)
LITTLE = np.zeros((SIDE, SIDE))
LITTLE[100:104, 120:124] = texture(1)[100:104, 120:124]
ELSEWHERE = np.exp(-texture(4) / 60) * 1000


def refused(folder, optical, sar, **options):
    """The reason why a pair is not registered."""
    given = MIM | {"turn": 10.0, "zoom": 1.0} | options
    found = register(
        *write_images(folder, optical, sar), pixel_frame=True, matcher="descriptors", matcher_options=given
    )
    assert not found.registered
    assert found.verdict.reason
    return found.verdict.reason


@pytest.mark.parametrize(
    ("optical", "sar", "options", "words"),
    [
        (FLAT, texture(1), {"pose": "search"}, "nowhere to look"),
        (texture(1), LITTLE, {"pose": "search", "refine": False}, ""),
        (texture(1), ELSEWHERE, {"pose": "none", "refine": False}, ""),
        (texture(1), ELSEWHERE, {"pose": "search", "turn": 20.0}, ""),
        (texture(1), texture(1), {"pose": "none", "max_points": 3, "refine": False}, "matches of"),
    ],
)
def test_what_shows_little_or_another_place_is_not_registered(tmp_path, optical, sar, options, words):
    assert words in refused(tmp_path, optical, sar, **options)


def test_matches_on_one_line_are_not_registered(tmp_path, monkeypatch):
    plain = DescriptorMatcher.putative

    def on_a_line(*arguments):
        found = plain(*arguments)
        line = np.column_stack([np.linspace(50, 200, len(found)), np.linspace(60, 135, len(found))])
        return replace(found, optical_xy=line, sar_xy=line + 3, solo_xy=line + 3)

    monkeypatch.setattr(DescriptorMatcher, "putative", on_a_line)
    refused(tmp_path, texture(1), texture(4), pose="none", adaptive=False, refine=False)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pose", "maybe"), ("turn", -1), ("turn", 181), ("zoom", 0.5), ("zoom", 9), ("max_offset", 0),
        ("max_points", 0), ("threshold", 0), ("scale", 0.01), ("scale", 11), ("weights", "a"), ("descriptor", "sift"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"matcher 'descriptors': .*{option}"):
        DescriptorMatcher(**({"descriptor": "mim"} | {option: value}))


def test_scale_makes_patches_larger():
    assert [DescriptorMatcher(descriptor="mim", scale=s).describer.extent for s in (0.5, 1, 2)] == [48, 96, 192]
    with pytest.raises(ConfigError, match="its patches: scale is"):
        DescriptorMatcher(scale=10.0)
