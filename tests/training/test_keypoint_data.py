"""training.keypoint_data: tiles of scenes and displaced pairs as what a keypoint detector learns from."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.pairs import write_pairs
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster
from torch.utils.data import DataLoader

from sn9reg.errors import InputError
from sn9reg.raster.scene import Patch
from sn9reg.training import keypoint_data
from sn9reg.training.dataset import Source
from sn9reg.training.displaced import Displacement
from sn9reg.training.keypoint_config import KeypointConfig
from sn9reg.training.keypoint_data import DisplacedSamples, KeypointData, TileSamples, load_tiles, split
from sn9reg.training.tiles import TileSet

SIDE = 48
PAIRS = {"pairs": (Source("unused"),), "samples": 8, "tile": SIDE}


def tiles(count, side=SIDE, seed=0):
    """Random tiles; a pixel of 127 is in the optical image's middle, and one in the SAR image at the place."""
    random = np.random.default_rng(seed)
    values = random.integers(-40, 40, (count, 2, side, side), np.int8)
    place = random.integers(1, side - 1, (count, 2))
    values[:, 0, side // 2, side // 2] = 127
    values[np.arange(count), 1, place[:, 1], place[:, 0]] = 127
    return TileSet(values, place.astype(np.float32), 0)


def every(one):
    return [(one, k) for k in range(len(one))]


def write_scene(folder, points=((40, 44, 50, 50), (60, 70, 64, 60), (90, 80, 80, 85)), name="01"):
    """A scene of 140 x 120 px, with tie-points of (sar row, sar col, optical row, optical col)."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, image in zip(("optical", "sar"), textures(140, 120), strict=True):
        write_raster(folder / f"02_{kind}_train_{name}.tif", image[None], TEXTURE_TRANSFORM, UTM)
    rows = ["sar_row,sar_col,optical_row,optical_col", *(",".join(map(str, point)) for point in points)]
    (folder / f"02_tiepoints_train_{name}.csv").write_text("\n".join(rows))
    return str(folder)


def pairs(count, side=90, seed=0):
    """Registered pairs: random ground, and its double; each is told from the others by its level."""
    random, valid, made = np.random.default_rng(seed), np.ones((side, side), bool), []
    for k in range(count):
        ground = gaussian_filter(random.normal(size=(side, side)), 2)
        ground = (300 * k + 120 + 30 * ground / ground.std()).astype(np.float32)[None]
        made.append((Patch(ground, valid), Patch(2 * ground, valid)))
    return made


def displaced_samples(parts, finds="sar", epoch=0, **options):
    return DisplacedSamples(parts, KeypointConfig(**PAIRS | options), finds, epoch)


def same(one, other):
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


# tiles


def test_tiles_are_given_as_they_are():
    one, other = tiles(2), tiles(3, seed=1)
    samples = TileSamples([*every(one), (other, 2)])
    assert len(samples) == 3
    for k, (source, index) in enumerate([(one, 0), (one, 1), (other, 2)]):
        made, images = samples[k], source.images(index)
        assert (made.optical.shape, made.sar.shape) == ((1, SIDE, SIDE), (1, SIDE, SIDE))
        np.testing.assert_array_equal(made.optical[0], images[0])
        np.testing.assert_array_equal(made.sar[0], images[1])
        assert made.place.tolist() == source.place[index].tolist()
        assert made.place.dtype == made.optical.dtype == torch.float32


@pytest.mark.parametrize("side", [48, 49])
def test_turning_keeps_the_middle_and_moves_the_place_with_the_content(side):
    one = tiles(1, side)
    symmetries = set()
    for epoch in range(80):
        made = TileSamples(every(one), turned=True, epoch=epoch)[0]
        assert made.optical[0, side // 2, side // 2] == 4
        x, y = made.place.int().tolist()
        assert made.place.tolist() == [x, y]
        assert made.sar[0, y, x] == 4
        assert (made.sar == 4).sum() == 1
        assert sorted(made.sar.flatten().tolist()) == sorted(one.images(0)[1].flatten().tolist())
        symmetries.add(made.optical.numpy().tobytes())
    assert len(symmetries) == 8


def test_turned_images_are_the_squares_symmetries_about_their_middle_pixel():
    one = tiles(1)
    upright = one.images(0)[:, 1:, 1:]  # 47 px, whose middle is pixel 24 of 48
    ways = [np.rot90(image, k, (1, 2)) for image in (upright, upright.swapaxes(1, 2)) for k in range(4)]
    for epoch in range(30):
        optical, sar, _ = TileSamples(every(one), turned=True, epoch=epoch)[0]
        turned = torch.cat([optical, sar])[:, 1:, 1:]
        assert sum(np.array_equal(turned, way) for way in ways) == 1


def test_places_between_pixels_are_turned_too():
    one = TileSet(np.zeros((1, 2, SIDE, SIDE), np.int8), np.array([[28.25, 17.5]], np.float32), 0)
    places = {tuple(TileSamples(every(one), True, epoch=epoch)[0].place.tolist()) for epoch in range(80)}
    a, b = 4.25, 6.5  # from pixel 24
    assert places == {(24 + x, 24 + y) for p, q in ((a, b), (b, a)) for x in (-p, p) for y in (-q, q)}


def test_turns_are_others_each_epoch_and_the_same_each_time():
    one = tiles(12)

    def of(**options):
        samples = TileSamples(every(one), turned=True, **options)
        return [samples[k] for k in range(12)]

    first = of(seed=1, epoch=2)
    assert all(same(a, b) for a, b in zip(first, of(seed=1, epoch=2), strict=True))
    for other in (of(seed=1, epoch=3), of(seed=2, epoch=2)):
        assert sum(same(a, b) for a, b in zip(first, other, strict=True)) < 6


# training and validation


def test_tiles_are_split_80_to_20_and_never_in_both():
    sets = [tiles(13), tiles(0), tiles(37, seed=1)]
    training, held_out = split(sets, 0.2, seed=0)
    assert (len(training), len(held_out)) == (40, 10)
    parts = [{(id(one), k) for one, k in part} for part in (training, held_out)]
    assert parts[0] | parts[1] == {(id(one), k) for one in sets for k in range(len(one))}
    assert not parts[0] & parts[1]
    assert {id(one) for one, _ in held_out} == {id(sets[0]), id(sets[2])}, "at random over all scenes"


def test_the_seed_decides_which_tiles_are_held_out():
    one = tiles(50)
    first, again, other = ([k for _, k in split([one], 0.2, seed)[1]] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first == sorted(first)


@pytest.mark.parametrize(("share", "held_out"), [(0.0, 0), (0.05, 0), (0.5, 3), (0.9, 5)])
def test_shares_of_few_tiles_are_rounded(share, held_out):
    training, held = split([tiles(6)], share, seed=0)
    assert (len(training), len(held)) == (6 - held_out, held_out)


# displaced pairs


def test_displaced_samples_differ_between_epochs_and_repeat_within_one():
    parts = [(Source("a"), pairs(2))]
    first, again, later = (displaced_samples(parts, epoch=epoch) for epoch in (0, 0, 1))
    assert len(first) == 8
    made = [first[k] for k in range(8)]
    assert all(same(made[k], again[k]) for k in (7, 3, 0, 5))
    assert not any(same(made[k], later[j]) for k in range(8) for j in range(8))
    assert not any(same(made[k], made[j]) for k in range(8) for j in range(k))
    assert not same(made[0], displaced_samples(parts, seed=1)[0])


@pytest.fixture
def asked(monkeypatch):
    """What `displaced` was asked for: (level of the optical part, its size, keypoint, finds, zoom)."""
    seen, original = [], keypoint_data.displaced

    def displaced(optical, sar, keypoint, side, finds, zoom, *rest):
        assert optical.values.shape == sar.values.shape
        np.testing.assert_allclose(sar.values, 2 * optical.values)
        seen.append((float(optical.values.mean()), optical.valid.shape[::-1], keypoint, finds, zoom))
        return original(optical, sar, keypoint, side, finds, zoom, *rest)

    monkeypatch.setattr(keypoint_data, "displaced", displaced)
    return seen


def draw(samples):
    return [samples[k] for k in range(len(samples))]


@pytest.mark.parametrize("finds", ["sar", "optical"])
def test_samples_are_what_the_configuration_asks_for(asked, finds):
    made = draw(displaced_samples([(Source("a"), pairs(1))], finds, displacement=Displacement(0, 0, hidden=0)))
    assert {entry[3] for entry in asked} == {finds}
    for one in made:
        assert one.place.tolist() == [SIDE // 2] * 2
        assert one.optical.shape == one.sar.shape == (1, SIDE, SIDE)


def test_sources_are_drawn_by_weight_and_their_pairs_alike(asked):
    parts = [(Source("a", weight=3), pairs(2)), (Source("b", weight=1), pairs(4)[2:]), (Source("c"), [])]
    draw(displaced_samples([*parts, (Source("d", weight=0), pairs(6)[4:])], samples=300))
    counts = np.bincount([round((level - 120) / 300) for level, *_ in asked], minlength=6)
    assert counts.tolist() == pytest.approx([112, 112, 38, 38, 0, 0], abs=30)
    assert counts[4:].tolist() == [0, 0]


def test_magnification_is_drawn_from_its_range_on_a_logarithm(asked):
    draw(displaced_samples([(Source("a", zoom=(0.5, 2.0)), pairs(1, side=130))], samples=200))
    zooms = np.array([entry[4] for entry in asked])
    assert 0.5 <= zooms.min() < 0.55
    assert 1.85 < zooms.max() <= 2
    assert np.mean(zooms < 1) == pytest.approx(0.5, abs=0.1)


def test_small_pairs_are_magnified_so_that_a_tile_can_be_displaced(asked):
    draw(displaced_samples([(Source("a", zoom=(0.5, 1.0)), pairs(1, side=26))]))
    assert {entry[4] for entry in asked} == {1.3 * SIDE / 26}


@pytest.mark.parametrize("anywhere", [0, 1])
@pytest.mark.parametrize("side", [70, 200])
def test_keypoints_are_half_a_tile_from_the_border(asked, anywhere, side):
    field = Displacement(anywhere=anywhere)
    draw(displaced_samples([(Source("a"), pairs(1, side))], samples=40, displacement=field))
    for _, size, keypoint, _, zoom in asked:
        assert size == (min(side, 120), min(side, 120)), "no more of the images than is needed"
        assert (keypoint > SIDE / 2 / zoom - 1).all()
        assert (keypoint <= np.array(size) - SIDE / 2 / zoom).all()
    least = 6 if anywhere or side == 200 else 1
    assert len({tuple(entry[2]) for entry in asked}) >= least


def test_keypoints_are_corners_but_for_the_share_that_is_anywhere(asked):
    """The only corners are a square's."""
    image = np.full((1, 60, 60), 50, np.float32)
    image[:, 22:38, 22:38] = 200
    part = [(Patch(image, np.ones((60, 60), bool)), Patch(2 * image, np.ones((60, 60), bool)))]
    shares = {}
    for anywhere in (0, 0.5, 1):
        asked.clear()
        draw(displaced_samples([(Source("a"), part)], samples=100, displacement=Displacement(anywhere=anywhere)))
        off = [np.abs(np.abs(keypoint - 29.5) - 7.5).max() for *_, keypoint, _, _ in asked]
        shares[anywhere] = np.mean(np.array(off) < 5)
    assert shares[0] == 1
    assert shares[0.5] == pytest.approx((1 + shares[1]) / 2, abs=0.15)
    assert shares[1] < 0.8


def test_where_there_is_no_corner_any_place_will_do(asked):
    flat = Patch(np.full((1, 60, 60), 50, np.float32), np.ones((60, 60), bool))
    double = Patch(2 * flat.values, flat.valid)
    draw(displaced_samples([(Source("a"), [(flat, double)])], displacement=Displacement(anywhere=0)))
    assert len({tuple(keypoint) for *_, keypoint, _, _ in asked}) > 3


# everything that a training reads


def test_tiles_of_all_folders_are_read(tmp_path):
    one = write_scene(tmp_path / "one")
    write_scene(tmp_path / "two" / "a", name="05")
    write_scene(tmp_path / "two" / "b", name="06")
    sets = load_tiles([one, str(tmp_path / "two")], "sar", SIDE, tmp_path / "cache")
    assert [len(tiles) for tiles in sets] == [3, 3, 3]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3
    assert load_tiles([], "sar", SIDE, tmp_path / "cache") == []


FAR = [(10, 10, 100, 120)]


def test_without_a_tile_there_is_nothing_to_learn(tmp_path):
    folders = [write_scene(tmp_path / name, FAR) for name in "ab"]
    with pytest.raises(InputError, match=r"a, .*b: no tie-point lies in its partner's tile, so there is nothing"):
        KeypointData(KeypointConfig(scenes=tuple(folders), tile=SIDE), "sar", tmp_path / "cache")
    good = write_scene(tmp_path / "c")
    assert len(load_tiles([*folders, good], "sar", SIDE, tmp_path / "cache")) == 3, "one scene with tiles is enough"


def test_scenes_for_validation_alone_are_held_out_whole(tmp_path):
    points = [(40 + k, 44 + k, 50 + k, 50 + k) for k in range(10)]
    scenes, other = write_scene(tmp_path / "a", points), write_scene(tmp_path / "b")
    config = KeypointConfig(scenes=(scenes,), validate=(other,), tile=SIDE)
    data = KeypointData(config, "sar", tmp_path / "cache")
    assert (len(data.training), len(data.held_out)) == (8, 2 + 3)
    assert [len(one) for one, _ in data.held_out] == [10] * 2 + [3] * 3


def test_an_epoch_is_every_tile_and_the_displaced_samples(tmp_path):
    folder = write_scene(tmp_path / "scene")
    write_pairs(tmp_path / "pairs", 2)
    both = KeypointConfig(
        scenes=(folder,), pairs=(Source(str(tmp_path / "pairs")),), samples=5, tile=SIDE, held_out=0.0, turned=True
    )
    data = KeypointData(both, "optical", tmp_path / "cache")
    first, again, later = (draw(data.epoch(epoch)) for epoch in (0, 0, 7))
    assert len(first) == 3 + 5
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for a, b in zip(first[3:], later[3:], strict=True))
    assert {len(batch.place) for batch in DataLoader(data.epoch(0), 4)} == {4}


def test_an_epoch_may_be_of_either_kind_alone(tmp_path):
    folder = write_scene(tmp_path / "scene")
    source = Source(str(write_pairs(tmp_path / "pairs", 2)))
    for config, count in (
        (KeypointConfig(scenes=(folder,), pairs=(source,), tile=SIDE, held_out=0.0), 3),
        (KeypointConfig(pairs=(source,), samples=5, tile=SIDE), 5),
    ):
        data = KeypointData(config, "sar", tmp_path / "cache")
        assert len(data.epoch(0)) == count
        assert data.held_out == []


def test_tiles_are_turned_only_if_asked(tmp_path):
    folder = write_scene(tmp_path / "scene")
    for turned in (False, True):
        config = KeypointConfig(scenes=(folder,), tile=SIDE, turned=turned, held_out=0.0)
        data = KeypointData(config, "sar", tmp_path / "cache")
        upright = draw(TileSamples(data.training))
        epochs = [draw(data.epoch(epoch)) for epoch in range(4)]
        assert all(same(a, b) for epoch in epochs for a, b in zip(epoch, upright, strict=True)) is not turned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": ("none",)}, "none: no such folder"),
        ({"validate": ("none",)}, "none: no such folder"),
        ({"pairs": (Source("none"),), "samples": 3}, "none: no such folder"),
    ],
    ids=["scenes", "validate", "pairs"],
)
def test_folders_that_are_not_there(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    folder = write_scene(tmp_path / "scene")
    with pytest.raises(InputError, match=message):
        KeypointData(KeypointConfig(**{"scenes": (folder,), "tile": SIDE} | options), "sar", tmp_path / "cache")
