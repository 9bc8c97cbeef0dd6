"""matchers: the contract of all, the registry, and the untrained matcher on pairs whose shift is known.

Networks come with weights that nobody trained. These tell two views of one image apart from anything else, so what they
are shown is the same image twice, the second as if in decibels.
"""

import dataclasses
import sys
from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from support.matchers import arrays_of, check
from support.rasters import TEXTURE_TRANSFORM, UTM, fields, pair_of, write_raster

import sn9reg.matchers
from sn9reg.errors import ConfigError
from sn9reg.fit.choose import fit
from sn9reg.fit.neighbours import witnesses_agree
from sn9reg.matchers.base import Matcher, make_matcher, matcher_class, matcher_classes, options_of
from sn9reg.matchers.dense import descent
from sn9reg.matchers.dense.networks.table import NETWORKS
from sn9reg.matchers.dense.structure import StructureMatcher
from sn9reg.raster.grid import coarse_to_common, to_common, to_level
from sn9reg.raster.scene import PairFiles, Patch
from sn9reg.raster.view import through

# Those that stand for many, each of which must be installed, have tests of their own.
NAMES = [name for name, item in matcher_classes().items() if not getattr(item, "needs_variant", False)]


def displacement(matches):
    return matches.sar_xy - matches.optical_xy


def off(matches, shift):
    """Pixels between the typical displacement and a shift."""
    return np.abs(np.median(displacement(matches), axis=0) - shift).max()


# The networks' matchers differ in their features only, which tests/matchers/dense/test_learned.py looks at for each.
FEW = [name for name in NAMES if name not in NETWORKS or name == "mcgf"]
FUSED = "structure+ncc"  # several in one run are held to the same contract
# Side lengths of the contract's pairs, and options that make a matcher quick on them; any other matcher runs a network.
SCENES = {
    "structure": ((160, 176), {"template": 48, "max_templates": 20}),
    "ncc": ((160, 176), {"template": 48, "max_templates": 20}),
    FUSED: (
        (160, 176),
        {f"{name}.{option}": n for name in FUSED.split("+") for option, n in (("template", 48), ("max_templates", 20))},
    ),
    "keypoints": ((210, 230), {"max_points": 1}),
    "descriptors": ((160, 176), {"max_points": 60}),
    "dual-encoder": ((112, 128), {"window": 9}),
    "sift": ((200, 220), {}),
    "akaze": ((200, 220), {}),
}
PHOTOGRAPHS = {"sift", "akaze", "ncc", FUSED}  # as which they take what they are shown
# The networks' features repeat with the pixels that they pool (at most 4 here); untrained, they find such shifts only.
SHIFT = (8, -4)


def small_pair(folder, name, **options):
    """A pair as large as the matcher wants it, of like contrast for untrained weights."""
    shape = SCENES.get(name, ((80, 96),))[0]
    return pair_of(folder, shape, SHIFT, same=name not in SCENES or name in PHOTOGRAPHS, **options)


def checked(matcher, pair):
    """The matches, of which all is true that is true of any."""
    matches = matcher.match(pair)
    check(matches, pair.grid)
    return matches


@pytest.fixture(scope="module")
def made(random_weights):
    """Name -> the matcher; with weights, if it wants some, and a template that fits into what it is shown. Each is made
    once: what it was shown must not matter to it."""

    @cache
    def make(name, **options):
        if name in SCENES:
            return make_matcher(name, **SCENES[name][1] | options)
        weights = str(random_weights(matcher_class(name).network))
        return make_matcher(name, **{"weights": weights, "template": 48} | options)

    return make


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """Name -> what the matcher finds in its small pair, once."""

    @cache
    def find(name):
        with small_pair(tmp_path_factory.mktemp("whole"), name) as pair:
            return checked(made(name, max_offset=6.0), pair)

    return find


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_matcher_has_its_name_and_options_with_defaults(name, made):
    defaults = options_of(matcher_class(name))
    matcher = made(name, **{key: value for key, value in defaults.items() if key != "weights"})
    assert isinstance(matcher, Matcher)
    assert (matcher.name, type(matcher)) == (name, matcher_class(name))
    with pytest.raises(ConfigError, match=f"matcher '{name}': there is no option colour; there are: ") as caught:
        make_matcher(name, colour="blue")
    assert all(option in str(caught.value) for option in defaults)


# A network that has learned the outlines of houses knows nothing of a texture of 80 px.
@pytest.mark.parametrize("name", [*(name for name in NAMES if name != "wide-unet"), FUSED])
def test_match_finds_a_known_shift(name, whole):
    matches = whole(name)
    assert len(matches) > 0
    # To a pixel; a detector that was taught by labels of 13 px, to a fifth of that where nothing is as it has learned.
    assert off(matches, SHIFT) < (2.6 if name == "keypoints" else 1)


@pytest.mark.parametrize("name", [*FEW, FUSED])
def test_half_a_sar_scene_is_matched_where_there_is_some_and_nothing_of_it_kept_for_the_next(
    name, made, whole, tmp_path
):
    def found(**options):
        with small_pair(tmp_path, name, **options) as pair:
            return checked(made(name, max_offset=6.0), pair)

    before = whole(name)
    half = before.grid.width // 2
    matches, again = found(empty=np.s_[:, half:]), found()
    assert len(matches) > 0
    assert matches.optical_xy[:, 0].max() < half + 5
    assert off(matches, SHIFT) < 3
    one, other = ({key: values.tobytes() for key, values in arrays_of(m).items()} for m in (before, again))
    assert one == other
    assert before.tried == again.tried


@pytest.mark.parametrize("name", [name for name in FEW if hasattr(matcher_classes()[name], "locate")])
def test_locate_finds_a_known_place_by_what_is_valid_of_a_template(name, made):
    matcher, image = made(name), 200 * fields(136, 0)[None].astype(np.float32)
    sar = (image - image.mean() - 0.1)[:, 8 : 8 + 96, 20 : 20 + 96]
    for valid, within in ((1.0, 1), (0.5, 2), (0.0, 40)):
        mask = np.tile(np.arange(96) < 96 * valid, (96, 1))
        found = matcher.locate(Patch(image, np.ones((136, 136), bool)), Patch(sar * mask, mask))
        assert ((found >= 0) & (found <= 136 - 96)).all()
        assert np.abs(found - (20, 8)).max() <= within


@pytest.mark.parametrize("name", [*FEW, FUSED])
def test_a_scene_smaller_than_a_template_is_no_accident(name, made, tmp_path):
    matcher = made(name)
    for shape in ((40, 40), (1, 1), (200, 17)):
        with pair_of(tmp_path, shape=shape, shift=(1, 0)) as pair:
            checked(matcher, pair)


@pytest.mark.parametrize("name", [*FEW, FUSED])
def test_content_that_is_constant_or_mostly_empty_supports_no_match(name, made, tmp_path):
    matcher = made(name, max_offset=6.0)
    for constant in ("optical", "sar"):
        with small_pair(tmp_path, name) as pair:
            flat = np.full((1, *pair.grid.shape), 77.7, np.float32)
        write_raster(tmp_path / f"{constant}.tif", flat, TEXTURE_TRANSFORM, UTM)
        with PairFiles(tmp_path / "optical.tif", tmp_path / "sar.tif").open() as pair:
            assert len(checked(matcher, pair)) == 0, constant
    with small_pair(tmp_path, name, empty=np.s_[:, 4:]) as pair:
        assert witnesses_agree(checked(matcher, pair)).sum() < 8


# --- the registry ----------------------------------------------------------------------------------------------------


def test_every_name_leads_to_the_class_of_that_name():
    assert matcher_class("structure") is StructureMatcher
    names = {name: item.name for name, item in matcher_classes().items()}
    assert list(names) == sorted(names) == list(names.values())


@pytest.mark.parametrize("name", ["crystal ball", "", "base", "fusion", "dense", "learned", "../base", "base.Matcher"])
def test_an_unknown_matcher_is_refused_and_those_there_are_named(name):
    with pytest.raises(ConfigError, match=r"no matcher '.*'; there are: .*structure"):
        make_matcher(name)


def test_a_new_file_is_a_new_matcher(tmp_path, monkeypatch):
    source = """
class Guess:
    name = "good-guess"
    def __init__(self, luck: float = 0.5) -> None:
        self.luck = luck
    def match(self, pair): ...
class NotOne:
    name = "good-guess"
"""
    (tmp_path / "good_guess.py").write_text(source)
    monkeypatch.setattr(sn9reg.matchers, "__path__", [*sn9reg.matchers.__path__, str(tmp_path)])
    try:
        assert make_matcher("good-guess", luck=0.25).luck == 0.25
        assert options_of(matcher_class("good-guess")) == {"luck": 0.5}
        with pytest.raises(ConfigError, match="matcher 'good-guess': there is no option skill; there are: luck"):
            make_matcher("good-guess", skill=1)
    finally:
        sys.modules.pop("sn9reg.matchers.good_guess", None)
        vars(sn9reg.matchers).pop("good_guess", None)


# --- the untrained matcher -------------------------------------------------------------------------------------------


def test_structure_finds_a_shift_through_reversed_contrast_and_speckle(tmp_path):
    shift = (-14, 3)
    with pair_of(tmp_path, (230, 250), shift) as pair:
        matches = StructureMatcher(max_offset=18.0, max_templates=25).match(pair)
    assert len(matches) > 0.8 * matches.tried
    assert off(matches, shift) < 0.5
    assert (np.linalg.norm(displacement(matches) - shift, axis=1) < 1.0).mean() > 0.8
    assert witnesses_agree(matches).mean() > 0.9
    assert np.abs(np.median(matches.solo_xy - matches.optical_xy, axis=0) - shift).max() < 1.0


@pytest.mark.parametrize(("step", "shape"), [(1, (390, 400)), (2, (320, 340))])  # many templates and few
def test_a_match_says_how_far_a_wider_vote_would_move_it(tmp_path, step, shape, monkeypatch):
    monkeypatch.setattr(StructureMatcher, "_finest", lambda *_: step)
    with pair_of(tmp_path, shape, (9, -6), seed=3) as pair:
        matcher = StructureMatcher(max_offset=8.0, template=64, max_templates=16)
        matches = matcher.match(pair)
        for name in ("_VOTERS", "_VOTERS_OF_SMALL"):
            monkeypatch.setattr(descent, name, descent._WIDER * getattr(descent, name))
        wider = matcher.match(pair)
    assert matches.step == wider.step == step
    moved_to = dict(zip(map(tuple, wider.optical_xy), wider.sar_xy, strict=True))
    both = [k for k, place in enumerate(map(tuple, matches.optical_xy)) if place in moved_to]
    assert len(both) > 0.8 * len(matches)
    moved = [np.hypot(*(moved_to[tuple(matches.optical_xy[k])] - matches.sar_xy[k])) for k in both]
    np.testing.assert_allclose(matches.vote_shift[both], moved, atol=1e-4)
    assert 0 < np.median(moved) < step


def test_structure_finds_a_large_shift_from_coarse_to_fine(tmp_path):
    shift = (75, -50)
    with pair_of(tmp_path, (400, 440), shift, seed=3) as pair:
        matcher = StructureMatcher(max_offset=45.0, max_templates=30)
        levels, matches = matcher.levels(pair), matcher.match(pair)
    assert [(level.factor, level.template) for level in levels] == [(2, 48), (1, 96)]
    assert matches.step == 1
    assert off(matches, shift) < 1.0
    assert (np.linalg.norm(displacement(matches) - shift, axis=1) < 1.5).mean() > 0.7


def test_coarse_levels_follow_a_steep_hill_of_the_field(tmp_path):
    top, (height, width) = np.array([310, 240]), (480, 560)
    y, x = np.mgrid[:height, :width].astype(np.float64)

    def shift(x, y):
        return 15 + 50 * np.exp(-((x - top[0]) ** 2 + (y - top[1]) ** 2) / (2 * 130**2))

    ground = fields(width + 200, 5)
    # What optical shows at x lies at x + shift(x) in the SAR image: which x is that, for every SAR pixel?
    came_from = x
    for _ in range(20):
        came_from = x - shift(came_from, y)
    optical = ground[100 : 100 + height, 100 : 100 + width]
    sar = map_coordinates(ground, [y + 100, came_from + 100], order=1)
    sar = 500 * (1.1 - sar) * np.random.default_rng(6).gamma(8, 1 / 8, sar.shape)
    for name, values in (("optical", 200 * optical + 20), ("sar", sar)):
        write_raster(tmp_path / f"{name}.tif", values[None].astype(np.float32), TEXTURE_TRANSFORM, UTM)
    with PairFiles(tmp_path / "optical.tif", tmp_path / "sar.tif").open() as pair:
        matches = StructureMatcher(max_offset=60.0).match(pair)
    on_the_hill = np.hypot(*(matches.optical_xy - top).T) < 180
    error = np.hypot(*(displacement(matches) - np.column_stack([shift(*matches.optical_xy.T), 0 * matches.score])).T)
    assert on_the_hill.sum() > 35  # fewer, where the coarse levels' templates are as large as the last one's
    assert (error[on_the_hill] < 4).mean() > 0.7


@pytest.mark.parametrize(("share", "better", "factor"), [(0.9, True, 1), (0.1, False, 1), (0.1, True, 2)])
def test_a_coarser_level_is_tried_where_few_confirm_each_other_and_taken_where_it_predicts_better(
    tmp_path, monkeypatch, share, better, factor
):
    monkeypatch.setattr(descent, "_confirmed_share", lambda _, level: share)
    monkeypatch.setattr(descent, "_better_predicted", lambda finer, coarser: better and coarser.step == 2)
    with pair_of(tmp_path, (400, 440), (48, -34), seed=3) as pair:
        matches = StructureMatcher(max_offset=30.0, spacing=48).match(pair)
    assert (matches.step, matches.footprint) == (factor, 96 * factor)
    assert off(matches, (48, -34)) < 2.0


def test_matches_that_are_noise_are_better_predicted_by_coarser_ones(tmp_path):
    random = np.random.default_rng(0)
    with pair_of(tmp_path, (400, 440), (9, -6), seed=3) as pair:
        sharp = StructureMatcher(max_offset=8.0).match(pair)
    few = sharp.keep(np.arange(len(sharp)) % 4 == 0)
    noisy = dataclasses.replace(few, sar_xy=few.sar_xy + random.uniform(-9, 9, few.sar_xy.shape))
    assert descent._better_predicted(noisy, sharp)
    assert not descent._better_predicted(sharp, noisy)
    few = sharp.keep(np.arange(len(sharp)) < 3)
    assert descent._better_predicted(few, sharp)
    assert not descent._better_predicted(sharp, few)


def test_a_shift_beyond_max_offset_is_not_found(tmp_path):
    with pair_of(tmp_path, (230, 250), shift=(60, 0)) as pair:
        matches = StructureMatcher(max_offset=10.0, template=64, spacing=48).match(pair)
    # 20 px, and what the last level looks around that.
    assert np.abs(displacement(matches)).max(initial=0) < 20 + 2 + 12
    assert matches.tried > 0
    assert not fit(matches).fitted or witnesses_agree(matches).mean() < 0.3


def test_max_templates_and_spacing_thin_the_lattice_and_work_megapixels_the_pixels(tmp_path):
    options = ({"spacing": 24}, {"spacing": 120}, {"spacing": 24, "max_templates": 9}, {"work_megapixels": 0.03})
    with pair_of(tmp_path, (230, 250)) as pair:
        dense, wide, few, coarse = (
            StructureMatcher(max_offset=5.0, template=48, **given).match(pair) for given in options
        )
    assert dense.tried >= 36
    assert 1 <= wide.tried <= 4
    assert 4 <= few.tried <= 19
    assert (dense.step, coarse.step) == (1, 2)
    assert off(coarse, (9, -6)) < 1.0


OPTIONS = product(["max_offset", "template", "spacing", "max_templates", "work_megapixels"], [0, "many"])
OTHERS = ("mcgf", "template", 3), ("mcgf", "weights", 5), ("hybrid", "learned", 1.1), ("hybrid", "learned", None)


@pytest.mark.parametrize(("name", "option", "value"), [*(("structure", *each) for each in OPTIONS), *OTHERS])
def test_options_that_make_no_sense_are_refused(name, option, value):
    with pytest.raises(ConfigError, match=f"matcher '{name}': {option} is "):
        make_matcher(name, **{option: value})


@pytest.mark.parametrize("factor", [1, 8])
def test_levels_of_the_pyramid_share_pixel_edges(factor):
    corners = np.array([[-0.5, -0.5], [factor - 0.5, 3 * factor - 0.5]])
    np.testing.assert_allclose(to_level(corners, factor), [[-0.5, -0.5], [0.5, 2.5]])
    places = np.random.default_rng(0).uniform(-50, 500, (20, 2))
    np.testing.assert_allclose(to_common(to_level(places, factor), factor), places)
    np.testing.assert_allclose(through(coarse_to_common(factor), places), to_common(places, factor))
