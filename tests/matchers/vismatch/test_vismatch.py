"""vismatch: the adapter, with a stand-in for the package that knows where everything is; once with the real one.

The scenes hold their own coordinates: a pixel's value is x + 512 y. From it the stand-in reads which part of the scene
it is shown, and at which factor.
"""

import contextlib
import json
import socket
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import constants, snapshot_download
from scipy.spatial import cKDTree
from support.matchers import check
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, pair_of, textures, write_raster

from sn9reg import register
from sn9reg.cli import main
from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.base import Matcher, make_matcher
from sn9reg.matchers.vismatch.matcher import VismatchMatcher
from sn9reg.raster.scene import PairFiles

WIDTH, HEIGHT, STRIDE = 420, 360, 512
MOVED = np.array([9.3, -6.7])  # from optical to SAR


def coordinates():
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    return x + STRIDE * y


def place_of(image, values):
    """Column, row and factor of a photograph's first pixel, from what it shows."""
    low, high = np.percentile(values, [1, 99])
    shown = np.asarray(image[0], np.float64) * (high - low) + low
    step = np.diff(shown, axis=1)
    # A run of equal steps: neither cut off at the range's ends, nor filled, nor at the edge of what is valid.
    factor = round(float(np.median(step[step > 0.5])))
    run = np.abs(step - factor) < 0.2
    row, col = np.argwhere(run[:, 1:-1] & run[:, :-2] & run[:, 2:])[0] + [0, 1]
    number = round((shown[row, col] - (STRIDE + 1) * (factor - 1) / 2) / factor)
    return number % STRIDE - col, number // STRIDE - row, factor


def matched(here, there, confidence=None):
    return {"matched_kpts0": here, "matched_kpts1": there, "matched_confidences": confidence}


class Known:
    """Finds 150 matches per tile at random places, `MOVED` apart; a share `wrong` of them anywhere."""

    def __init__(self, wrong=0.0, confidence=None, columns=WIDTH):
        self.values, self.sar_values = coordinates(), coordinates()[:, :columns]  # those that are valid
        self.wrong, self.confidence = wrong, confidence
        self.random, self.told, self.shapes, self.factors = np.random.default_rng(0), [], [], set()

    def places(self, optical, sar):
        (*first, factor), (*other, _) = place_of(optical, self.values), place_of(1 - sar, self.sar_values)
        self.factors.add(factor)
        return first, other, factor

    def __call__(self, optical, sar):
        for image in (optical, sar):
            assert (image.dtype, image.shape[0]) == (torch.float32, 3)
            assert 0 <= image.min() <= image.max() <= 1
            assert image.shape[1] % 16 == image.shape[2] % 16 == 0
        print("found something")
        self.shapes.append((tuple(optical.shape), tuple(sar.shape)))
        first, other, factor = self.places(optical, sar)
        here = self.random.uniform(-0.5, np.array(optical.shape[:0:-1]) - 0.5, (150, 2))
        common = (here + first + 0.5) * factor - 0.5
        there = (common + MOVED + 0.5) / factor - 0.5 - other
        stray = self.random.random(150) < self.wrong
        there[stray] = self.random.uniform(0, np.array(sar.shape[:0:-1]) - 1, (150, 2))[stray]
        self.told.append(common[~stray])
        given = self.confidence and np.full(150, self.confidence, np.float32)
        return matched(here.astype(np.float32), there.astype(np.float32), given)


def write_pair(folder, optical, sar, **options):
    return [
        write_raster(folder / f"{name}.tif", values.reshape(-1, *values.shape[-2:]), TEXTURE_TRANSFORM, UTM, **options)
        for name, values in (("optical", optical), ("sar", sar))
    ]


@pytest.fixture
def package(monkeypatch):
    """A stand-in for vismatch with the matchers `known` and `broken`."""
    module = ModuleType("vismatch")
    module.available_models = ["known", "broken"]
    module.get_matcher = lambda name, device: SimpleNamespace(name=name, device=device)
    monkeypatch.setitem(sys.modules, "vismatch", module)
    return module


@pytest.fixture
def matcher(package):
    def make(found, **options):
        made = make_matcher("vismatch:known", **options)
        made._match = found
        return made

    return make


@pytest.fixture
def opened(tmp_path):
    """A pair that holds its coordinates, the SAR image in decibels that fall with them, nodata from column `end` on."""
    with contextlib.ExitStack() as stack:

        def make(end=WIDTH, optical=None):
            sar = -1 - coordinates()
            sar[:, end:] = -0.5
            files = write_pair(tmp_path, coordinates() if optical is None else optical, sar, nodata=-0.5)
            return stack.enter_context(PairFiles(*files).open())

        yield make


@pytest.mark.parametrize(
    ("max_offset", "tile", "factor", "tiles"), [(20, 640, 1, 1), (20, 160, 1, 12), (50, 160, 2, 4)]
)
def test_matches_lie_where_they_were_found(opened, matcher, max_offset, tile, factor, tiles):
    found = Known()
    pair = opened()
    matches = matcher(found, max_offset=max_offset, tile=tile).match(pair)
    check(matches, pair.grid)
    assert found.factors == {factor}
    assert len(found.shapes) == tiles
    assert max(max(optical) for optical, _ in found.shapes) <= max(tile, WIDTH + 16 if tiles == 1 else 0)
    assert max(max(sar) - max(optical) for optical, sar in found.shapes) <= 4 * max_offset / factor + 16
    assert len(matches) > 0.4 * 150 * tiles
    np.testing.assert_allclose(matches.sar_xy - matches.optical_xy, np.tile(MOVED, (len(matches), 1)), atol=1e-3)
    assert cKDTree(np.concatenate(found.told)).query(matches.optical_xy)[0].max() < 1e-3
    assert (matches.step, matches.sigma.max(), matches.search_radius) == (factor, factor, 2 * max_offset)
    np.testing.assert_array_equal(matches.solo_xy, matches.sar_xy)
    assert set(matches.score) == {0.5}  # since the matcher gives none
    assert np.ptp(matches.optical_xy, axis=0).min() > 0.8 * HEIGHT


def test_overlapping_tiles_do_not_give_a_place_twice(opened, matcher):
    class Lattice(Known):
        def __call__(self, optical, sar):
            first, other, _ = self.places(optical, sar)
            here = np.argwhere(np.ones(optical.shape[1:]))[:, ::-1]
            here = here[((here + first) % 10 == 0).all(axis=1)]
            return matched(here, here + first + MOVED - other)

    matches = matcher(Lattice(), max_offset=20, tile=160).match(opened())
    assert len(np.unique(matches.optical_xy, axis=0)) == len(matches)
    assert len(matches) > 0.95 * (WIDTH / 10) * (HEIGHT / 10)  # but where the partner lies outside


def test_what_is_not_valid_is_not_matched(opened, matcher):
    pair, found = opened(end=200), Known(columns=200)
    matches = matcher(found, max_offset=20, tile=160).match(pair)
    assert len(found.shapes) < 12  # tiles where nothing is valid are not looked at
    assert len(matches) > 100
    assert matches.sar_xy[:, 0].max() < 199.6
    assert matches.tried >= len(matches)


def test_what_is_farther_than_max_offset_is_not_believed(opened, matcher):
    pair = opened()
    matches = matcher(Known(), max_offset=5.4, tile=160).match(pair)
    assert (len(matches), matches.tried > 500) == (0, True)
    assert len(matcher(Known(), max_offset=6, tile=160).match(pair)) > 500


def test_wrong_matches_are_outvoted_and_count_as_tried(opened, matcher):
    pair = opened()
    matches = matcher(Known(wrong=0.7), max_offset=20, tile=160).match(pair)
    off = np.abs(matches.sar_xy - matches.optical_xy - MOVED).max(axis=1)
    assert (off < 0.01).mean() > 0.97
    assert off.max() < 6
    assert matches.tried > 2.5 * len(matches)
    assert len(matcher(Known(wrong=1.0), max_offset=20, tile=160).match(pair)) == 0


def test_no_more_than_max_matches_from_everywhere_with_the_matchers_own_scores(opened, matcher):
    matches = matcher(Known(confidence=0.8), max_offset=20, tile=160, max_matches=60).match(opened())
    np.testing.assert_allclose(matches.score, 0.8, atol=1e-6)
    np.testing.assert_allclose(matches.rival_distance - matches.distance, 0.8, atol=1e-6)
    assert len(matches) == 60
    assert len(np.unique(matches.optical_xy // 140, axis=0)) == 9
    assert matches.tried < 120  # what was thinned out was not tried


@pytest.mark.parametrize(("bands", "colours"), [(1, 1), (2, 1), (3, 3), (4, 3)])
@pytest.mark.filterwarnings("error::UserWarning")
def test_three_bands_are_colours_and_others_are_grey(tmp_path, matcher, bands, colours):
    random, seen, none = np.random.default_rng(0), [], np.zeros((0, 2))
    scenes = (random.uniform(1, 255, (count, 60, 70)).astype(np.uint8) for count in (bands, 2))
    with PairFiles(*write_pair(tmp_path, *scenes, photometric="MINISBLACK")).open() as pair:
        matcher(lambda *images: seen.extend(images) or matched(none, none)).match(pair)
    assert [len(np.unique(image.numpy(), axis=0)) for image in seen] == [colours, 1]


def test_the_same_again_and_nothing_is_printed(opened, matcher, capsys):
    pair = opened()

    class Drawn(Known):
        def __call__(self, optical, sar):
            self.random = np.random.default_rng(int(torch.randint(1000, ())))
            return super().__call__(optical, sar)

    before = torch.get_rng_state()
    first, second = (matcher(Drawn(), max_offset=20).match(pair) for _ in range(2))
    assert first.sar_xy.tobytes() == second.sar_xy.tobytes()
    assert torch.equal(before, torch.get_rng_state())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("optical", [None, np.full((HEIGHT, WIDTH), 77.7, np.float32)], ids=["texture", "constant"])
def test_no_match_is_a_result_and_constant_scenes_are_not_shown(opened, matcher, optical):
    pair = opened(optical=optical)
    for kind in (np.zeros((0, 2)), np.full((9, 2), np.nan, np.float32)):
        found = matcher(lambda *_, kind=kind: matched(kind, kind) if optical is None else pytest.fail("was shown"))
        matches = found.match(pair)
        check(matches, pair.grid)
        assert len(matches) == 0
        assert optical is None or matches.tried == 0


def test_small_scenes_are_no_accident(tmp_path, matcher):
    middle = np.full((20, 2), 0.4)
    for shape in ((40, 40), (1, 1), (3, 200), (200, 17)):
        with pair_of(tmp_path, shape=shape, shift=(1, 0)) as pair:
            check(matcher(lambda *_: matched(middle, middle)).match(pair), pair.grid)


def test_a_tile_that_fails_is_left_out_and_all_of_them_are_an_error(opened, matcher, caplog):
    class Moody(Known):
        def __call__(self, optical, sar):
            if not self.shapes:
                self.shapes.append(None)
                raise RuntimeError("no descriptors\nat all")
            return super().__call__(optical, sar)

    pair = opened()
    assert len(matcher(Moody(), max_offset=20, tile=160).match(pair)) > 100
    assert "vismatch:known failed on a tile: RuntimeError: no descriptors" in caplog.text
    with pytest.raises(InputError, match=r"^vismatch:known failed on every tile: RuntimeError: no descriptors$"):
        matcher(Moody(), max_offset=20).match(pair)


def test_a_name_has_a_variant(package):
    made = make_matcher("vismatch:known", tile=320)
    assert isinstance(made, VismatchMatcher)
    assert isinstance(made, Matcher)
    assert (made.name, made.options.tile, VismatchMatcher.name) == ("vismatch:known", 320, "vismatch")
    assert make_matcher("vismatch", variant="known").name == "vismatch:known"


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("vismatch", {}, "matcher 'vismatch': it is many: name one, as in vismatch:minima-loftr"),
        ("vismatch:nonesuch", {}, "vismatch has no matcher 'nonesuch'; it has: broken, known"),
        ("structure:known", {}, "matcher 'structure' has no variants: leave out ':known'"),
        ("nonesuch:known", {}, "no matcher 'nonesuch'; there are: .*vismatch"),
        ("vismatch:known", {"device": "abacus"}, "device is 'abacus', not a device such as cpu"),
        ("vismatch:known", {"device": "cuda"}, "but torch finds no GPU: use device=cpu"),
    ],
)
def test_names_and_devices_that_make_no_sense_are_refused(package, monkeypatch, name, options, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=told):
        make_matcher(name, **options)


def test_it_is_listed_with_how_to_name_it():
    run = CliRunner().invoke
    table = json.loads(run(main, ["matchers", "--json"]).stdout)
    assert "vismatch" not in table
    assert list(table["vismatch:NAME"]["options"]) == ["max_offset", "tile", "max_matches", "device"]
    assert "vismatch:NAME: Any matcher of the package vismatch" in run(main, ["matchers"]).stdout


def test_without_the_package_or_another_that_it_needs_it_says_which(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vismatch", None)
    with pytest.raises(ConfigError, match=r"^matcher vismatch:known needs vismatch: pip install 'sn9reg\[vismatch\]'$"):
        make_matcher("vismatch:known")
    monkeypatch.delitem(sys.modules, "vismatch")
    (tmp_path / "vismatch.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"not all that it needs: .*a_package_that_is_not_there"):
        make_matcher("vismatch:known")


def connects():
    socket.create_connection(("203.0.113.1", 443), timeout=5)


def hides_the_reason():
    with contextlib.suppress(OSError):
        urllib.request.urlopen("https://weights.invalid/known.pth", timeout=5)
    raise RuntimeError("failed to download after 5 attempts")


@pytest.mark.parametrize(
    "fetch",
    [connects, hides_the_reason, lambda: snapshot_download("nobody/not-there"), lambda: torch.load("not-there.pth")],
)
def test_weights_that_are_not_on_the_disk_are_not_fetched(package, monkeypatch, tmp_path, fetch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    package.get_matcher = lambda name, device: print("fetching") or fetch()
    with pytest.raises(InputError) as caught:
        make_matcher("vismatch:known")
    assert str(caught.value) == (
        "weights of vismatch's known are not on this disk; this downloads them: "
        "python -c \"import vismatch; vismatch.get_matcher('known')\""
    )
    assert capsys.readouterr().out == ""


def test_another_failure_is_told_in_one_line(package):
    def get_matcher(name, device):
        raise AttributeError("no attribute\nof that name")

    package.get_matcher = get_matcher
    with pytest.raises(InputError, match=r"^vismatch cannot load known: AttributeError: no attribute$"):
        make_matcher("vismatch:known")


def test_the_network_is_refused_to_the_loading_alone(package):
    server = socket.create_server(("127.0.0.1", 0))
    seen = []

    def connect():
        try:
            socket.create_connection(server.getsockname(), timeout=5).close()
            seen.append("connected")
        except OSError as error:
            seen.append(type(error).__name__)

    def get_matcher(name, device):
        connect()
        ThreadPoolExecutor(1).submit(connect).result()
        seen.append(constants.is_offline_mode())
        if name == "broken":
            raise ValueError(name)
        return SimpleNamespace()

    package.get_matcher = get_matcher
    before = constants.is_offline_mode()
    with server:
        made = make_matcher("vismatch:known")
        connect()
        assert seen == ["ConnectionRefusedError", "connected", True, "connected"]
        with pytest.raises(InputError):
            make_matcher("vismatch:broken")
        connect()
        assert seen[4:] == seen[:4]
    assert constants.is_offline_mode() is before
    assert made._match.skip_ransac


def test_the_network_is_refused_to_the_matching(opened, matcher):
    with pytest.raises(InputError, match="sn9reg does not use the network"):
        matcher(lambda *_: connects()).match(opened())


def test_a_matcher_without_weights_registers_a_texture(tmp_path, capsys):
    pytest.importorskip("vismatch")
    matcher = make_matcher("vismatch:sift-nn", max_offset=20, tile=320)
    done = register(*write_pair(tmp_path, *textures(500, 440)), matcher=matcher)
    assert done.registered
    off = done.matches.sar_xy - done.matches.optical_xy - SHIFT
    assert len(off) > 300
    assert np.abs(np.median(off, axis=0)).max() < 0.1
    assert (np.hypot(*off.T) < 3).mean() > 0.8
    assert capsys.readouterr().out == ""
