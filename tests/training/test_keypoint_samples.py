"""training.keypoint_samples: tiles of scenes and displaced pairs as what a keypoint detector learns from."""

from itertools import islice

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg.errors import InputError
from sn9reg.raster.scene import Patch
from sn9reg.training import keypoint_samples
from sn9reg.training.data import Source
from sn9reg.training.displaced import Displacement
from sn9reg.training.keypoint_samples import Epochs, KeypointSamples, load_tiles, split, tile_sample
from sn9reg.training.keypoints import KeypointConfig
from sn9reg.training.tiles import TileSet

SIDE = 48


def tiles(count, side=SIDE, seed=0):
    """Random tiles; a pixel of 127 is in the optical image's middle, and one in the SAR image at the place."""
    random = np.random.default_rng(seed)
    values = random.integers(-40, 40, (count, 2, side, side), np.int8)
    place = random.integers(1, side - 1, (count, 2))
    values[:, 0, side // 2, side // 2] = 127
    values[np.arange(count), 1, place[:, 1], place[:, 0]] = 127
    return TileSet(values, place.astype(np.float32), 0)


def pairs(count, side=90):
    """Registered pairs: random ground, and its double; each is told from the others by its level."""
    random, valid = np.random.default_rng(0), np.ones((side, side), bool)
    grounds = [gaussian_filter(random.normal(size=(side, side)), 2) for _ in range(count)]
    grounds = [(300 * k + 120 + 30 * g / g.std()).astype(np.float32)[None] for k, g in enumerate(grounds)]
    return [(Patch(ground, valid), Patch(2 * ground, valid)) for ground in grounds]


def samples_of(parts, known=(), finds="sar", **options):
    changed = {"sources": (Source("unused"),), "samples": 8, "tile": SIDE} | options
    return KeypointSamples(KeypointConfig(finds=finds, **changed), known, parts)


def draw(samples, epoch=0):
    return [samples[epoch, k] for k in range(len(samples))]


def equal(some, others):
    """How many samples are the same."""
    pairs = zip(some, others, strict=True)
    return sum(all(a.equal(b) for a, b in zip(one, other, strict=True)) for one, other in pairs)


@pytest.mark.parametrize("side", [48, 49])
def test_turning_keeps_the_middle_and_moves_the_place_with_the_content(side):
    one, seen = tiles(1, side), set()
    images = one.images(0)
    start = 1 - side % 2  # of an even side, the first row and column are wrapped around
    upright = images[:, start:, start:]
    ways = {np.rot90(image, k, (1, 2)).tobytes() for image in (upright, upright.swapaxes(1, 2)) for k in range(4)}
    for seed in range(40):
        optical, sar, place = tile_sample((one, 0), [seed])
        assert optical[0, side // 2, side // 2] == 4
        x, y = place.int().tolist()
        assert place.tolist() == [x, y]
        assert sar[0, y, x] == 4
        assert sorted(sar.flatten().tolist()) == sorted(images[1].flatten().tolist())
        seen.add(np.concatenate([optical, sar])[:, start:, start:].tobytes())
    assert seen == ways
    assert len(ways) == 8


def test_places_between_pixels_are_turned_too():
    one = TileSet(np.zeros((1, 2, SIDE, SIDE), np.int8), np.array([[28.25, 17.5]], np.float32), 0)
    places = {tuple(tile_sample((one, 0), [seed]).place.tolist()) for seed in range(80)}
    a, b = 4.25, 6.5  # from pixel 24
    assert places == {(24 + x, 24 + y) for p, q in ((a, b), (b, a)) for x in (-p, p) for y in (-q, q)}


def test_an_epoch_is_every_tile_and_the_displaced_samples():
    known = [(tiles(12), k) for k in range(12)]
    still = samples_of([(Source("a"), pairs(2))], known, displacement=Displacement(0, 0, hidden=0))
    first, later = draw(still), draw(still, 7)
    assert (len(first), equal(first, draw(still)), equal(first, later)) == (12 + 8, 20, 12)
    assert len({one.sar.numpy().tobytes() for one in first + later}) == 12 + 8 + 8
    for k, one in enumerate(first[:12]):
        assert one.place.tolist() == known[0][0].place[k].tolist()
        np.testing.assert_array_equal(np.concatenate(one[:2]), known[0][0].images(k))
    for one in first[12:]:
        assert one.place.tolist() == [SIDE // 2] * 2
        assert one.optical.shape == one.sar.shape == (1, SIDE, SIDE)
    turned, other = (samples_of([], known, turned=True, seed=seed) for seed in (0, 2))
    assert len(turned) == 12, "without pairs there are tiles only"
    assert equal(draw(turned, 2), draw(turned, 2)) == 12
    assert max(equal(draw(turned, 2), draw(turned, 3)), equal(draw(turned, 2), draw(other, 2))) < 6


def test_every_epoch_has_each_sample_once_in_another_order():
    batches = list(islice(Epochs(7, 3, seed=4), 9))
    assert [len(batch) for batch in batches] == [3, 3, 1] * 3
    orders = [[key for batch in batches[k : k + 3] for key in batch] for k in (0, 3, 6)]
    assert [sorted(order) for order in orders] == [[(epoch, index) for index in range(7)] for epoch in range(3)]
    assert len({tuple(index for _, index in order) for order in orders}) == 3
    assert list(islice(Epochs(7, 3, seed=4, first=1), 6)) == batches[3:], "a resumed training sees what it would have"


def test_tiles_are_split_80_to_20_by_the_seed_and_never_in_both():
    sets = [tiles(13), tiles(0), tiles(37, seed=1)]
    training, held_out = split(sets, 0.2, seed=0)
    assert (len(training), len(held_out)) == (40, 10)
    assert {(id(one), k) for one, k in training + held_out} == {(id(one), k) for one in sets for k in range(len(one))}
    assert {id(one) for one, _ in held_out} == {id(sets[0]), id(sets[2])}, "at random over all scenes"
    assert split(sets, 0.2, seed=0) == (training, held_out) != split(sets, 0.2, seed=1)
    assert [len(split([tiles(6)], share, 0)[1]) for share in (0.0, 0.05, 0.5, 0.9)] == [0, 0, 3, 5]


@pytest.fixture
def asked(monkeypatch):
    """What `displaced` was asked for: (level of the optical part, its size, keypoint, finds, zoom)."""
    seen = []

    def displaced(optical, sar, keypoint, zoom, config, random):
        np.testing.assert_allclose(sar.values, 2 * optical.values)
        seen.append((float(optical.values.mean()), optical.valid.shape[::-1], keypoint, config.finds, zoom))

    monkeypatch.setattr(keypoint_samples, "displaced", displaced)
    return seen


def test_all_pairs_are_drawn_and_magnified_by_their_sources_range(asked):
    draw(samples_of([(Source("a", zoom=(0.8, 1.25), zoomed=0), pairs(2)), (Source("b"), [])], samples=80))
    zooms = np.array([entry[4] for entry in asked])
    assert (zooms.min(), zooms.max()) == (pytest.approx(0.8, abs=0.03), pytest.approx(1.25, abs=0.03))
    assert np.mean(zooms < 1) == pytest.approx(0.5, abs=0.15)
    assert {round((level - 120) / 300) for level, *_ in asked} == {0, 1}


@pytest.mark.parametrize("finds", ["sar", "optical"])
def test_small_pairs_are_magnified_so_that_a_tile_can_be_displaced(asked, finds):
    draw(samples_of([(Source("a", zoom=(0.5, 1.0)), pairs(1, side=26))], finds=finds))
    assert {entry[3:] for entry in asked} == {(finds, 1.3 * SIDE / 26)}


@pytest.mark.parametrize(("side", "anywhere", "least"), [(70, 0, 1), (70, 1, 6), (200, 0, 6)])
def test_keypoints_are_half_a_tile_from_the_border(asked, side, anywhere, least):
    draw(samples_of([(Source("a"), pairs(1, side))], samples=30, displacement=Displacement(anywhere=anywhere)))
    for _, size, keypoint, _, zoom in asked:
        assert size == (min(side, 120), min(side, 120)), "no more of the images than is needed"
        assert (keypoint > SIDE / 2 / zoom - 1).all()
        assert (keypoint <= np.array(size) - SIDE / 2 / zoom).all()
    assert len({tuple(entry[2]) for entry in asked}) >= least


def test_keypoints_are_corners_but_for_the_share_that_is_anywhere(asked):
    """The only corners are a square's; where there is none, any place will do."""
    image, valid, shares = np.full((1, 60, 60), 50, np.float32), np.ones((60, 60), bool), []

    def keypoints(count, **options):
        asked.clear()
        parts = [(Source("a"), [(Patch(image, valid), Patch(2 * image, valid))])]
        draw(samples_of(parts, samples=count, displacement=Displacement(**options)))
        return np.array([entry[2] for entry in asked])

    assert len(np.unique(keypoints(8), axis=0)) > 3
    image[:, 22:38, 22:38] = 200
    for anywhere in (0, 0.5, 1):
        off = np.abs(np.abs(keypoints(80, anywhere=anywhere) - 29.5) - 7.5).max(axis=1)
        shares.append(np.mean(off < 5))
    assert shares == [1, pytest.approx((1 + shares[2]) / 2, abs=0.17), pytest.approx(0.4, abs=0.4)]


NEAR = ((40, 44, 50, 50), (60, 70, 64, 60), (90, 80, 80, 85))
FAR = ((10, 10, 100, 120),)


def write_scene(folder, points=NEAR):
    """A scene of 140 x 120 px, with tie-points of (sar row, sar col, optical row, optical col)."""
    folder.mkdir(parents=True)
    for kind, image in zip(("optical", "sar"), textures(140, 120), strict=True):
        write_raster(folder / f"02_{kind}_train_01.tif", image[None], TEXTURE_TRANSFORM, UTM)
    rows = ["sar_row,sar_col,optical_row,optical_col", *(",".join(map(str, point)) for point in points)]
    (folder / "02_tiepoints_train_01.csv").write_text("\n".join(rows))
    return str(folder)


def test_tiles_of_all_folders_are_read_and_one_scene_without_is_no_harm(tmp_path):
    cache, far = tmp_path / "cache", [write_scene(tmp_path / name, FAR) for name in "ab"]
    write_scene(tmp_path / "good" / "c")
    write_scene(tmp_path / "good" / "d", NEAR[:2])
    sets = load_tiles([*far, str(tmp_path / "good")], "sar", SIDE, cache)
    assert [len(one) for one in sets] == [0, 0, 3, 2]
    assert len(list(cache.glob("*.npy"))) == 4
    assert load_tiles([], "sar", SIDE, cache) == []
    with pytest.raises(InputError, match=r"a, .*b: no tie-point lies in its partner's tile, so there is nothing"):
        load_tiles(far, "sar", SIDE, cache)


def test_scenes_for_validation_alone_are_held_out_whole(tmp_path):
    many = write_scene(tmp_path / "a", [(40 + k, 44 + k, 50 + k, 50 + k) for k in range(10)])
    other, small = write_scene(tmp_path / "b"), {"tile": SIDE, "cache": str(tmp_path / "cache"), "batch": 3}
    (stage,) = KeypointConfig(finds="sar", scenes=(many,), validate=(other,), **small).stages()
    assert (stage.plan.validate_every, stage.plan.steps) == (3, 300), "the 8 tiles of an epoch, in batches of 3"
    (check,) = stage.checks
    assert [len(one) for one, _ in check.dataset.tiles] == [10] * 2 + [3] * 3
