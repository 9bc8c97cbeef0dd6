"""matchers/descriptors, with the descriptor that needs no training: shifts, filters, and what must not register."""

from dataclasses import replace

import numpy as np
import pytest
from support.matchers import arrays_of
from support.rasters import fields, pair_of, write_raster

from sn9reg import register
from sn9reg.errors import ConfigError
from sn9reg.matchers.base import make_matcher
from sn9reg.matchers.descriptors.matcher import FAITHFUL, DescriptorMatcher

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


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    with pair_of(tmp_path_factory.mktemp("near"), (SIDE, SIDE), SHIFT, looks=8) as pair:
        yield pair


def test_a_small_shift_is_found_and_twice_to_the_same_bytes(near):
    found, again = (DescriptorMatcher(**NEAR).match(near) for _ in range(2))
    for name, values in arrays_of(found).items():
        assert values.tobytes() == arrays_of(again)[name].tobytes()
    assert len(found) > 0.5 * found.tried > 20
    assert np.abs(np.median(found.sar_xy - found.optical_xy, axis=0) - SHIFT).max() < 0.7


def test_without_refinement_matches_are_the_inliers(near):
    matcher = DescriptorMatcher(**MORE, refine=False)
    inliers = matcher.match(near)
    radius = 15.0 / near.grid.resolution
    optical, sar = matcher.described(near, 1, radius)
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
    described = DescriptorMatcher(**MORE).described(near, 1, 30.0)
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
    assert (given.near, given.refine, given.threshold) == (False, False, 3.0)
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
    given = {"matcher": "descriptors", "matcher_options": MIM | options}
    found = register(*write_images(folder, optical, sar), pixel_frame=True, pose="none", **given)
    assert not found.registered
    assert found.verdict.reason
    return found.verdict.reason


@pytest.mark.parametrize(
    ("optical", "sar", "options", "words"),
    [
        (FLAT, texture(1), {}, "nowhere to look"),
        (texture(1), LITTLE, {"refine": False}, ""),
        (texture(1), ELSEWHERE, {"refine": False}, ""),
        (texture(1), ELSEWHERE, {}, ""),
        (texture(1), texture(1), {"max_points": 3, "refine": False}, "matches of"),
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
    refused(tmp_path, texture(1), texture(4), adaptive=False, refine=False)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_offset", 0), ("max_points", 0), ("threshold", 0), ("scale", 0.01), ("scale", 11), ("weights", "a"),
        ("descriptor", "sift"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ConfigError, match=f"matcher 'descriptors': .*{option}"):
        DescriptorMatcher(**({"descriptor": "mim"} | {option: value}))


def test_scale_makes_patches_larger():
    assert [DescriptorMatcher(descriptor="mim", scale=s).describer.extent for s in (0.5, 1, 2)] == [48, 96, 192]
    with pytest.raises(ConfigError, match="its patches: scale is"):
        DescriptorMatcher(scale=10.0)
