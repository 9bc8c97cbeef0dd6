"""matchers/descriptors, with the descriptor that needs no training: turned pairs, and pairs that must not register."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from support.matchers import arrays_of
from support.rasters import TEXTURE_TRANSFORM, UTM, fields, pair_of, write_raster

from sn9reg import register
from sn9reg.cli import main
from sn9reg.errors import ConfigError
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.descriptors import matcher as module
from sn9reg.matchers.descriptors.matcher import FAITHFUL, DescriptorMatcher
from sn9reg.matchers.descriptors.pose import find_pose
from sn9reg.raster.posed import through
from sn9reg.raster.scene import open_pair

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SIDE = 240
MIDDLE = (SIDE - 1) / 2
# mim, and few enough keypoints to be quick
MIM = {"descriptor": "mim", "max_points": 300}


def known(degrees, zoom, dx=0.0, dy=0.0):
    """(3, 3) optical pixel -> SAR pixel."""
    cos, sin = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    shift = MIDDLE + np.array([dx, dy]) - linear @ [MIDDLE, MIDDLE]
    return np.block([[linear, shift[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


def write_images(folder, optical, sar, **georeference):
    """optical.tif and sar.tif of (h, w) values; 0 is nodata of the SAR image."""
    write_raster(folder / "optical.tif", optical[None].astype(np.float32), **georeference)
    write_raster(folder / "sar.tif", sar[None].astype(np.float32), nodata=0, **georeference)
    return folder / "optical.tif", folder / "sar.tif"


def write_turned(folder, matrix, **georeference):
    """A texture, and a SAR image of reversed contrast and speckle of its ground, which is larger, moved by `matrix`."""
    ground, rim = fields(560, 11), 160
    optical = 200 * ground[rim : rim + SIDE, rim : rim + SIDE]
    sar = np.exp(4 * (1.1 - ground)).astype(np.float32)
    back = np.array([[1.0, 0, -rim], [0, 1, -rim], [0, 0, 1]])
    sar = cv2.warpPerspective(sar, matrix @ back, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    sar = sar * np.random.default_rng(0).gamma(8, 1 / 8, sar.shape)
    return write_images(folder, optical, sar, **georeference)


def places():
    x, y = np.meshgrid(np.arange(40.0, SIDE - 40, 20), np.arange(40.0, SIDE - 40, 20))
    return np.column_stack([x.ravel(), y.ravel()])


def test_a_turned_and_scaled_pair_is_registered(tmp_path):
    turned, options = known(30, 0.85, 6, -4), MIM | {"turn": 60.0, "zoom": 1.4}
    paths = write_turned(tmp_path, turned)
    registration = register(*paths, pixel_frame=True, matcher="descriptors", matcher_options=options, model="affine")
    assert registration.registered, registration.verdict.reason
    there = registration.grid.to_pixel(registration.warp(registration.grid.to_map(places())))
    assert np.hypot(*(there - through(turned, places())).T).max() < 2
    matches = registration.matches  # in pixels of the scene itself, as it was before it was turned
    assert len(matches) > 30
    for found, most in ((matches.sar_xy, 1.5), (matches.solo_xy, 2)):
        assert np.median(np.hypot(*(found - through(turned, matches.optical_xy)).T)) < most


def test_a_georeferenced_pair_that_is_turned_falls_back_to_the_search(tmp_path, monkeypatch):
    asked = []

    def counted(*arguments):
        asked.append(arguments)
        return find_pose(*arguments)

    monkeypatch.setattr(module, "find_pose", counted)
    matrix = known(40, 1.0)
    paths = write_turned(tmp_path, matrix, transform=TEXTURE_TRANSFORM, crs=UTM)
    options = MIM | {"max_offset": 15.0, "turn": 60.0, "zoom": 1.1}
    found = register(*paths, matcher="descriptors", matcher_options=options, model="affine")
    assert [arguments[4:] for arguments in asked] == [pytest.approx((math.radians(60), 1.1))]
    assert found.registered, found.verdict.reason
    there = found.grid.to_pixel(found.warp(found.grid.to_map(places())))
    assert np.hypot(*(there - through(matrix, places())).T).max() < 2


SHIFT = (9, -6)
NEAR = MIM | {"max_offset": 15.0}


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
    matcher = DescriptorMatcher(**NEAR, pose="none", refine=False)
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
    described = DescriptorMatcher(**NEAR).described(near.posed(np.eye(3)), 1, 30.0)
    plain, mutual, ratio = (
        DescriptorMatcher(**NEAR, adaptive=adaptive, mutual=flag).putative(near, *described, 1, 30.0)
        for adaptive, flag in ((False, False), (False, True), (True, False))
    )
    assert np.hypot(*(plain.sar_xy - plain.optical_xy).T).max() <= 30
    assert 0 < len(mutual) < len(plain)
    assert len(np.unique(mutual.sar_xy, axis=0)) == len(mutual)
    assert 0 < len(ratio) < len(plain)
    right = [(np.hypot(*(m.sar_xy - m.optical_xy - SHIFT).T) < 5).mean() for m in (plain, ratio)]
    assert right[1] > right[0]


def texture(seed):
    return 200 * fields(SIDE, seed) + 20


def refused(folder, optical, sar, model="auto", **options):
    """The reason why a pair is not registered."""
    given = MIM | {"max_points": 150, "turn": 10.0, "zoom": 1.0} | options
    paths = write_images(folder, optical, sar)
    found = register(*paths, pixel_frame=True, matcher="descriptors", matcher_options=given, model=model)
    assert not found.registered
    assert found.verdict.reason
    return found.verdict.reason


@pytest.mark.parametrize("pose", ["none", "search"])
def test_constant_images_are_not_registered(tmp_path, pose):
    flat = np.full((SIDE, SIDE), 80.0)
    for sar in (flat + 10, texture(1)):
        assert "nowhere to look" in refused(tmp_path, flat, sar, pose=pose)
    with open_pair(tmp_path / "optical.tif", tmp_path / "sar.tif", pixel_frame=True) as pair:
        found = DescriptorMatcher(**MIM, pose="none").match(pair)
    assert (len(found), found.tried) == (0, 0)


@pytest.mark.parametrize(("pose", "refine"), [("none", True), ("search", True), ("none", False)])
def test_what_shows_little_or_another_place_is_not_registered(tmp_path, pose, refine):
    sar = np.zeros((SIDE, SIDE))
    sar[100:104, 120:124] = texture(1)[100:104, 120:124]
    refused(tmp_path, texture(1), sar, pose=pose, refine=refine)
    refused(tmp_path, texture(1), np.exp(-texture(2) / 60) * 1000, pose=pose, refine=refine, turn=20.0, zoom=1.2)
    if pose == "none":  # less than four keypoints
        reason = refused(tmp_path, texture(1), texture(1), pose=pose, max_points=3, refine=refine)
        assert "matches of" in reason or "nowhere" in reason


@pytest.mark.parametrize(
    ("model", "refine"), [("affine", False), ("homography", False), ("local", False), ("auto", True)]
)
def test_matches_on_one_line_are_not_registered(tmp_path, monkeypatch, model, refine):
    def on_a_line(self, posed, optical, sar, factor, radius):
        found = self.plain_putative(posed, optical, sar, factor, radius)
        line = np.column_stack([np.linspace(50, 230, len(found)), np.linspace(60, 150, len(found))])
        return replace(found, optical_xy=line, sar_xy=line + 3, solo_xy=line + 3)

    monkeypatch.setattr(DescriptorMatcher, "plain_putative", DescriptorMatcher.putative, raising=False)
    monkeypatch.setattr(DescriptorMatcher, "putative", on_a_line)
    refused(tmp_path, texture(1), texture(2), model, pose="none", adaptive=False, refine=refine)


def test_align_refuses_a_textureless_pair_in_words(tmp_path):
    optical, sar = write_images(tmp_path, np.full((SIDE, SIDE), 80.0), np.full((SIDE, SIDE), 90.0))
    options = [part for o in ("descriptor=mim", "turn=10", "zoom=1") for part in ("--matcher-option", o)]
    arguments = ["align", optical, sar, "--out", tmp_path / "out.tif", "--pixel-frame", "--matcher", "descriptors"]
    result = CliRunner().invoke(main, [*map(str, arguments), *options])
    assert result.exit_code == 3
    assert "nowhere to look" in result.output or "matches of" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pose", "maybe"), ("turn", -1), ("turn", 181), ("zoom", 0.5), ("zoom", 9), ("zoom", float("nan")),
        ("max_offset", 0), ("max_points", 0), ("max_points", 2.5), ("threshold", 0), ("scale", 0.01), ("scale", 11),
        ("near", 1), ("oriented", "yes"), ("mutual", None), ("adaptive", 0), ("refine", "no"), ("weights", 3),
        ("weights", "a"), ("descriptor", "sift"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"matcher 'descriptors': .*{option}"):
        DescriptorMatcher(**({"descriptor": "mim"} | {option: value}))


def test_scale_makes_patches_larger():
    assert [DescriptorMatcher(descriptor="mim", scale=s).describer.extent for s in (0.5, 1, 2)] == [48, 96, 192]
    with pytest.raises(ConfigError, match="its patches: scale is"):
        DescriptorMatcher(scale=10.0)


def test_with_the_papers_options_partners_are_looked_for_everywhere(near):
    matcher = make_matcher("descriptors", **(MIM | FAITHFUL))
    assert (matcher.pose, matcher.near, matcher.refine, matcher.threshold) == ("none", False, False, 3.0)
    found = matcher.match(near)
    assert len(found) >= 8
    assert np.abs(np.median(found.sar_xy - found.optical_xy, axis=0) - SHIFT).max() < 2
    assert found.search_radius == max(near.grid.shape) / 2
