"""training.keypoints: tiles of scenes and displaced pairs, the loss of a heatmap, and what validation says of it."""

from itertools import islice

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, label
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster
from support.tasks import without_trainer

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.keypoints.heatmap import gaussian
from sn9reg.raster.scene import Patch
from sn9reg.training import keypoints
from sn9reg.training.config import Plan
from sn9reg.training.data import Source
from sn9reg.training.keypoints import Displacement, Epochs, KeypointConfig, KeypointSamples, KeypointTask
from sn9reg.training.sample import Photometry, Sample
from sn9reg.training.tiles import TileSet, load_tiles, split, tile_sample

SIDE, WIDE = 48, 64


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

    monkeypatch.setattr(keypoints, "displaced", displaced)
    return seen


def test_all_pairs_are_drawn_and_magnified_by_their_sources_range(asked):
    draw(samples_of([(Source("a", zoom=(0.8, 1.25), zoomed=0), pairs(2))], samples=80))
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
    sets = load_tiles([*far, str(tmp_path / "good")], "sar", SIDE, cache)
    assert [len(one) for one in sets] == [0, 0, 3]
    assert len(list(cache.glob("*.npy"))) == 3
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


def test_the_rate_falls_to_a_hundredth_after_thirty_epochs_however_many_there_are(tmp_path):
    many = write_scene(tmp_path / "a", [(40 + k, 44 + k, 50 + k, 50 + k) for k in range(10)])
    small = {"tile": SIDE, "cache": str(tmp_path / "cache"), "batch": 3, "epochs": 40, "network": NETWORK}
    (stage,) = KeypointConfig(finds="sar", scenes=(many,), **small).stages()  # 8 tiles, in 3 steps an epoch
    made, rates = stage.task(stage.plan).configure_optimizers(), []
    for _ in range(stage.plan.steps):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([1e-4] * 90 + [1e-6] * 30)


NETWORK = {"optical_encoder": "tu-regnetx_002", "sar_encoder": "tu-regnetx_002", "depth": 3, "decoder": [16, 8, 8]}


def task(finds="sar", **options):
    config = KeypointConfig(finds=finds, **{"scenes": ("a",), "network": NETWORK, "tile": WIDE, "sigma": 5.0} | options)
    return without_trainer(KeypointTask(config, Plan()))


def test_loss_is_the_mean_over_the_keypoints_region_and_over_the_rest_in_equal_parts():
    random = np.random.default_rng(0)
    heatmap, place = random.random((3, 40, 40)), np.array([[12, 30], [20.5, 20], [3, 2]])
    y, x = np.mgrid[:40, :40]
    away = np.hypot(x - place[:, 0, None, None], y - place[:, 1, None, None])
    label, near = np.exp(-(away**2) / (2 * 3**2)), away < 9
    error = (heatmap - label) ** 2
    expected = (error[near].mean() + error[~near].mean()) / 2
    made = gaussian(torch.tensor(place), 40, 3.0)
    assert float(keypoints.balanced_mse(torch.tensor(heatmap), made)) == pytest.approx(expected, rel=1e-6)


def test_a_label_whose_keypoint_is_outside_has_a_loss():
    label = gaussian(torch.tensor([[-500.0, 500.0]]), WIDE, 5.0)
    assert float(keypoints.balanced_mse(label + 0.5, label)) == pytest.approx(0.125)


def test_what_cannot_be_built_is_said():
    with pytest.raises(ConfigError, match="a tile of 60 px is no multiple of the 8 of this depth"):
        task(tile=60)
    with pytest.raises(ConfigError, match="nothing to train on: give scenes, or sources with a weight, and samples"):
        task(scenes=())


def test_validation_says_how_far_the_peak_and_the_middle_are_from_the_keypoint(monkeypatch):
    """Five keypoints are found 3 px beside them, one 9 px; at 12, 20, ... px from the middle."""
    made = task("optical")
    assert made.network.finds == "optical"
    places = torch.tensor([[32.0 + away, 32.0] for away in (12, -20, 4, -8, 16, 0)])
    beside = torch.tensor([[0.0, 3.0]] * 5 + [[0.0, 9.0]])
    for part in (slice(0, 4), slice(4, 6)):
        heatmap = gaussian(places[part] + beside[part], WIDE, 2.0)
        monkeypatch.setattr(made.network, "forward", lambda optical, sar, heatmap=heatmap: heatmap)
        made.validation_step(Sample(heatmap[:, None], heatmap[:, None], places[part]), 0)
    made.on_validation_epoch_end()
    assert made.logged == pytest.approx({"error": 3, "guess": 8, "within": 5 / 6}, abs=0.1)
    assert made.errors == []


def test_a_step_compares_the_heatmap_with_the_keypoints_label():
    made, batch = task(), Sample(*torch.randn(2, 2, 1, WIDE, WIDE), torch.tensor([[20.0, 40.0], [44.0, 30.0]]))
    made.network.eval()
    expected = keypoints.balanced_mse(made.network(batch.optical, batch.sar), gaussian(batch.place, WIDE, 5.0))
    assert made.loss_of(batch).equal(expected)


HALF = WIDE // 2
NOWHERE = Displacement(reach=0, near=0, far=0, gradient=0, bend=0, anywhere=0, hidden=0)
PLAIN = Displacement(reach=25, near=8, far=0.6, gradient=0, bend=0, hidden=0)
STRONG = Displacement(reach=25, near=8, far=0.6, gradient=0.12, bend=12, hidden=0)
KEYPOINT = np.array([210.0, 190.0])
both = pytest.mark.parametrize("finds", ["sar", "optical"])


def patch(image, valid=True):
    return Patch(image[None].astype(np.float32), np.full(image.shape, True) & valid)


def pair(keypoint=KEYPOINT, width=3.0, blobs=()):
    """A registered pair on faint texture with a bright blob at the keypoint, and more at (dx, dy, width) from it."""
    texture, (y, x) = gaussian_filter(np.random.default_rng(0).normal(size=(400, 420)), 3), np.mgrid[:400, :420]
    image = 100 + 3 * texture / texture.std()
    for dx, dy, sigma in [(0, 0, width), *blobs]:
        image += 400 * np.exp(-((x - keypoint[0] - dx) ** 2 + (y - keypoint[1] - dy) ** 2) / (2 * sigma**2))
    return patch(image), patch(3 * image)


PAIR = pair()
AROUND = pair(blobs=((14, 3, 2), (-4, 15, 2), (-9, -9, 2)))


def sample(
    seed=0, finds="sar", field=PLAIN, zoom=1.0, photometry=None, images=PAIR, keypoint=KEYPOINT, side=WIDE, bands=1
):  # fmt: skip
    changes = {"displacement": field, "photometry": photometry or Photometry(), "network": {"optical_bands": bands}}
    config = KeypointConfig(sources=(Source("unused"),), samples=1, finds=finds, tile=side, **changes)
    return keypoints.displaced(*images, keypoint, zoom, config, np.random.default_rng(seed))


def off(image, place, within=9):
    """Pixels by which the blob in a (1, S, S) tile is off a place."""
    y, x = np.mgrid[: image.shape[1], : image.shape[2]]
    weight = np.clip(image[0].numpy() - 1.5, 0, None) * (np.hypot(x - place[0], y - place[1]) <= within)
    assert weight.sum() > 3, "there is no blob"
    return np.hypot(*(np.average(values, weights=weight) - at for values, at in zip((x, y), place, strict=True)))


def centred_and_searched(made, finds):
    return (made.optical, made.sar) if finds == "sar" else (made.sar, made.optical)


PLACES = [(50, 60), (140, 100)]
CORNERS = np.array([[x + a, y + b] for x, y in PLACES for a in (0, 39) for b in (0, 39)])


def squares(places, noise=0.0, seed=0):
    """Bright squares with their upper left corners at places (x, y), on grey."""
    image = np.full((200, 240), 60, np.float32)
    for x, y in places:
        image[y : y + 40, x : x + 40] = 180
    return image + noise * np.random.default_rng(seed).normal(size=image.shape)


def farthest(wanted, found):
    """Largest distance of one of the wanted to the nearest found."""
    return np.hypot(*(found[None] - wanted[:, None]).transpose(2, 0, 1)).min(axis=1).max()


def test_corners_that_both_images_show_are_found_in_any_contrast():
    image = squares(PLACES, noise=1)
    for sar in (5 * squares(PLACES, noise=1, seed=1), 250 - image):
        found = keypoints.corners(patch(image), patch(sar))
        assert found.dtype == np.int64
        assert farthest(CORNERS, found) < 5
        assert farthest(found[: len(CORNERS)], CORNERS) < 5, "they are the best"


def test_corners_of_one_image_alone_are_none():
    found = keypoints.corners(patch(squares([PLACES[0], (140, 20)])), patch(squares([PLACES[0], (150, 130)])))
    assert farthest(CORNERS[:4], found) < 5
    assert farthest(found, CORNERS[:4]) < 8


def test_corners_keep_apart():
    noise = 50 + 20 * np.random.default_rng(0).random((300, 300))
    found = keypoints.corners(patch(noise), patch(noise))
    assert 20 < len(found) <= 150
    apart = np.hypot(*(found[None] - found[:, None]).transpose(2, 0, 1)) + 99 * np.eye(len(found))
    assert apart.min() >= 6


@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_constant_or_not_valid_makes_no_corners(kind):
    image, valid = squares(PLACES), np.arange(240) < 120
    images = [patch(image), patch(image)]
    images[kind] = patch(np.where(valid, image, 0), valid)
    found = keypoints.corners(*images)
    assert farthest(CORNERS[:4], found) < 5
    assert (found[:, 0] < 120).all()
    for empty in (patch(0 * image, False), patch(0 * image + 77)):
        images[kind] = empty
        assert keypoints.corners(*images).shape == (0, 2)


@both
@pytest.mark.parametrize("side", [63, 64])
@pytest.mark.parametrize("zoom", [0.6, 1.9])
@pytest.mark.parametrize("field", [PLAIN, STRONG], ids=["shift", "field"])
def test_the_keypoint_is_in_the_middle_of_one_tile_and_at_its_place_in_the_other(finds, zoom, field, side):
    images, places = pair(width=3 / zoom), []
    for seed in range(8):
        made = sample(seed, finds, field, zoom, images=images, side=side)
        centred, searched = centred_and_searched(made, finds)
        assert centred.shape == searched.shape == (1, side, side)
        assert centred.dtype == searched.dtype == torch.float32
        assert off(centred, [side // 2] * 2) < 0.3
        assert off(searched, made.place.numpy()) < (0.3 if field is PLAIN else 1.5)
        places.append(made.place.numpy())
    assert np.ptp(places, axis=0).min() > 15, "it is at many places"


def test_without_a_field_both_tiles_are_flipped_and_turned_alike_in_eight_ways():
    seen = {}
    for seed in range(60):
        made = sample(seed, ("sar", "optical")[seed % 2], NOWHERE, images=AROUND)
        assert made.place.tolist() == [HALF, HALF]
        assert np.corrcoef(made.optical.flatten(), made.sar.flatten())[0, 1] > 0.8
        seen.setdefault((made.optical.numpy() > 2).tobytes(), made.optical[0].numpy()[1:, 1:])  # about pixel 32
    first, *others = seen.values()
    ways = [np.rot90(image, k) for image in (first, first.T) for k in range(4)]
    assert len(others) == 7
    for turned in others:
        assert min(np.abs(turned - way).max() for way in ways) < 0.01


@pytest.mark.parametrize("zoom", [0.7, 2.0])
def test_tiles_are_magnified_by_the_zoom(zoom):
    made = sample(0, field=NOWHERE, zoom=zoom, images=pair(width=2, blobs=[(12, 0, 2)]))
    y, x = np.nonzero(made.optical[0].numpy() > 2)
    away = np.hypot(x - HALF, y - HALF)
    assert np.median(away[away > 6 * zoom]) == pytest.approx(12 * zoom, abs=0.5)


@both
@pytest.mark.parametrize("field", [Displacement(0, 0, 0, 0.2, 0, hidden=0), Displacement(0, 0, 0, 0, 20, hidden=0)])
def test_the_field_bends_and_stretches_what_is_searched_alone(field, finds):
    for seed in range(3):
        still, moved = (centred_and_searched(sample(seed, finds, f, images=AROUND), finds) for f in (NOWHERE, field))
        assert still[0].equal(moved[0])
        assert not torch.allclose(still[1], moved[1], atol=0.5)


@pytest.mark.parametrize(
    ("reach", "near", "far", "spread"), [(30, 5, 0, 5), (30, 5, 1, 30 / np.sqrt(3)), (9, 30, 0, None), (40, 5, 1, None)]
)
def test_places_are_spread_within_reach_and_within_the_tile(reach, near, far, spread):
    field = Displacement(reach=reach, near=near, far=far)
    places = np.array([sample(seed, field=field).place.numpy() for seed in range(50)])
    assert np.abs(places - HALF).max() <= min(reach, HALF)
    assert 0 <= places.min() <= places.max() <= WIDE - 1
    if spread:
        np.testing.assert_allclose(np.std(places, axis=0), spread, rtol=0.3)
    else:
        assert np.abs(places - HALF).max() > 0.8 * min(reach, HALF - 1)


def test_the_searched_tile_does_not_reach_over_the_images_border():
    """Beyond it images are mirrored: the blob near the border would be there twice."""
    keypoint, field = np.array([34.0, 33.0]), Displacement(reach=30, far=1, gradient=0, bend=0, hidden=0)
    images = pair(keypoint, width=2, blobs=[(-29, 0, 2)])
    counts = [label(sample(seed, field=field, images=images, keypoint=keypoint).sar[0] > 1.5)[1] for seed in range(40)]
    assert set(counts) == {1, 2}


@both
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_as_many_tiles_are_hidden_as_asked_and_never_the_keypoint(finds, share):
    hidden = []
    for seed in range(40 if share else 5):
        made = sample(seed, finds, Displacement(reach=20, gradient=0, bend=0, hidden=share))
        centred, searched = centred_and_searched(made, finds)
        assert max(off(centred, [HALF, HALF]), off(searched, made.place.numpy())) < 0.3
        hidden += [float((tile == 0).float().mean()) for tile in (centred, searched)]
    assert np.mean(np.array(hidden) > 0.02) == pytest.approx(0.75 * share, abs=0.35 * share)
    assert max(hidden) < 0.6
    assert sample(field=Displacement(reach=2, hidden=1), side=32).optical.shape == (1, 32, 32)


def test_what_is_not_valid_in_the_images_is_zero_in_the_tiles():
    valid = np.arange(420) >= 200  # from 10 px left of the keypoint
    made = sample(field=NOWHERE, images=(PAIR[0], patch(np.where(valid, PAIR[1].values[0], 0), valid)))
    assert (made.optical == 0).float().mean() < 0.01
    assert (made.sar == 0).float().mean() == pytest.approx(22 / 64, abs=0.03)


def test_samples_of_three_bands_are_displaced_alike_and_changed_alike():
    optical, strong = PAIR[0].values, {"photometry": Photometry(1, 0.5, 1, 2, 0.5), "zoom": 0.7}
    colours = Patch(np.concatenate([optical, optical.max() - optical, optical]), PAIR[0].valid)
    one, plain = (sample(images=(colours, PAIR[1]), bands=3, **how) for how in (strong, {}))
    grey, thrice = (sample(bands=bands, **strong) for bands in (1, 3))
    assert one.optical.shape == (3, WIDE, WIDE)
    assert one.optical[0].equal(one.optical[2])
    assert one.optical[:1].equal(grey.optical)
    assert thrice.optical.equal(grey.optical.expand(3, -1, -1))
    assert all(one[k].equal(grey[k]) for k in (1, 2))
    torch.testing.assert_close(plain.optical[1], -plain.optical[0], atol=0.01, rtol=0)


def test_photometry_changes_the_images_but_not_the_place_and_nothing_the_pair():
    strong, plain = (sample(photometry=photometry) for photometry in (Photometry(1, 0.5, 1, 2, 0.5), None))
    assert [a.equal(b) for a, b in zip(plain, strong, strict=True)] == [False, False, True]
    for one, unchanged in zip(PAIR, pair(), strict=True):
        np.testing.assert_array_equal(one.values, unchanged.values)
