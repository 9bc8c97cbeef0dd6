"""training.displaced: corners that both images show, and tiles of which one is displaced by a known field."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, label

from sn9reg.errors import ConfigError
from sn9reg.raster.scene import Patch
from sn9reg.training.displaced import Displacement, corners, displaced
from sn9reg.training.sample import Photometry

SIDE = 64
HALF = SIDE // 2
NOWHERE = Displacement(reach=0, near=0, far=0, gradient=0, bend=0, anywhere=0, hidden=0)
PLAIN = Displacement(reach=25, near=8, far=0.6, gradient=0, bend=0, hidden=0)
STRONG = Displacement(reach=25, near=8, far=0.6, gradient=0.12, bend=12, hidden=0)
KEYPOINT = np.array([210.0, 190.0])


def patch(image, valid=None):
    return Patch(image[None].astype(np.float32), np.ones(image.shape, bool) if valid is None else valid)


def squares(places, shape=(200, 240), side=40, noise=0.0, seed=0):
    """Bright squares with their upper left corners at places (x, y), on grey."""
    image = np.full(shape, 60, np.float32)
    for x, y in places:
        image[y : y + side, x : x + side] = 180
    return image + np.random.default_rng(seed).normal(0, noise, shape) if noise else image


def pair(keypoint=KEYPOINT, shape=(400, 420), width=3.0, seed=0, around=False):
    """A registered pair with a bright blob at the keypoint, on faint texture; `around`, three smaller ones near it."""
    texture = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    image = 100 + 3 * texture / texture.std()
    y, x = np.mgrid[: shape[0], : shape[1]]
    places = [(0, 0, width), *(((14, 3, 2), (-4, 15, 2), (-9, -9, 2)) if around else ())]
    for dx, dy, sigma in places:
        image += 400 * np.exp(-((x - keypoint[0] - dx) ** 2 + (y - keypoint[1] - dy) ** 2) / (2 * sigma**2))
    return patch(image), patch(3 * image)


def sample(seed=0, finds="sar", field=PLAIN, zoom=1.0, photometry=None, images=None, keypoint=KEYPOINT, side=SIDE):
    optical, sar = images or pair(keypoint, width=3 / zoom)
    random = np.random.default_rng(seed)
    return displaced(optical, sar, keypoint, side, finds, zoom, field, photometry or Photometry(), random)


def blob(image, near, within=9):
    """(x, y) of the blob in a (1, S, S) tile, looked for around a place."""
    y, x = np.mgrid[: image.shape[1], : image.shape[2]]
    weight = np.clip(image[0].numpy() - 1.5, 0, None) * (np.hypot(x - near[0], y - near[1]) <= within)
    assert weight.sum() > 3, "there is no blob"
    return np.array([np.average(x, weights=weight), np.average(y, weights=weight)])


def searched(made, finds):
    """The tile that is centred, the one that is searched."""
    return (made.optical, made.sar) if finds == "sar" else (made.sar, made.optical)


# corners

PLACES = [(50, 60), (140, 100)]
CORNERS = np.array([[x + a, y + b] for x, y in PLACES for a in (0, 39) for b in (0, 39)])


def distance(found, wanted):
    """Of each of the wanted to the nearest found."""
    return np.hypot(*(found[None] - wanted[:, None]).transpose(2, 0, 1)).min(axis=1)


def test_corners_that_both_images_show_are_found():
    image = squares(PLACES, noise=1)
    found = corners(patch(image), patch(5 * squares(PLACES, noise=1, seed=1)))
    assert found.dtype == np.int64
    assert distance(found, CORNERS).max() < 5
    assert distance(CORNERS, found[: len(CORNERS)]).max() < 5, "they are the best"


def test_corners_of_one_image_alone_are_none():
    """The squares at (50, 60) are in both."""
    optical, sar = squares([PLACES[0], (140, 20)]), squares([PLACES[0], (150, 130)])
    found = corners(patch(optical), patch(sar))
    assert distance(found, CORNERS[:4]).max() < 5
    assert distance(CORNERS[:4], found).max() < 8


def test_contrast_may_be_reversed():
    image = squares(PLACES)
    assert distance(corners(patch(image), patch(250 - image)), CORNERS).max() < 5


def test_corners_keep_apart():
    noise = 50 + 20 * np.random.default_rng(0).random((300, 300))
    found = corners(patch(noise), patch(noise))
    assert 20 < len(found) <= 150
    apart = np.hypot(*(found[None] - found[:, None]).transpose(2, 0, 1)) + 99 * np.eye(len(found))
    assert apart.min() >= 6


@pytest.mark.parametrize("constant", ["optical", "sar", "both"])
def test_constant_images_have_no_corners(constant):
    flat, image = np.full((200, 240), 77.0), squares(PLACES)
    optical, sar = (flat if constant in (kind, "both") else image for kind in ("optical", "sar"))
    assert corners(patch(optical), patch(sar)).shape == (0, 2)


@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_not_valid_makes_no_corners(kind):
    image, valid = squares(PLACES), np.ones((200, 240), bool)
    valid[:, 120:] = False
    images = [patch(image), patch(image)]
    images[kind] = patch(np.where(valid, image, 0), valid)
    found = corners(*images)
    assert distance(found, CORNERS[:4]).max() < 5
    assert (found[:, 0] < 120).all()
    empty = patch(0 * image, np.zeros_like(valid))
    images[kind] = empty
    assert len(corners(*images)) == 0


# where the keypoint is


@pytest.mark.parametrize("finds", ["sar", "optical"])
@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.9])
@pytest.mark.parametrize("field", [PLAIN, STRONG], ids=["shift", "field"])
def test_the_keypoint_is_in_the_middle_of_one_tile_and_at_its_place_in_the_other(finds, zoom, field):
    images = pair(width=3 / zoom)
    places = []
    for seed in range(8):
        made = sample(seed, finds, field, zoom, images=images)
        for tile in (made.optical, made.sar):
            assert tile.shape == (1, SIDE, SIDE)
            assert tile.dtype == torch.float32
        around, other = searched(made, finds)
        place = made.place.numpy()
        assert np.hypot(*(blob(around, [HALF, HALF]) - HALF)) < 0.3
        assert np.hypot(*(blob(other, place) - place)) < 1.5
        places.append(place)
    assert np.ptp(places, axis=0).min() > 15, "it is at many places"


@pytest.mark.parametrize("side", [63, 96])
def test_the_middle_of_any_tile_is_half_its_side(side):
    made = sample(3, side=side)
    assert np.hypot(*(blob(made.optical, [side // 2] * 2) - side // 2)) < 0.3
    assert np.hypot(*(blob(made.sar, made.place.numpy()) - made.place.numpy())) < 0.3


@pytest.mark.parametrize("finds", ["sar", "optical"])
def test_without_a_field_both_tiles_show_the_same(finds):
    images = pair(around=True)
    for seed in range(6):
        made = sample(seed, finds, NOWHERE, images=images)
        assert made.place.tolist() == [HALF, HALF]
        assert np.corrcoef(made.optical.flatten(), made.sar.flatten())[0, 1] > 0.8


def test_both_tiles_are_flipped_and_turned_alike_in_eight_ways():
    images, seen = pair(around=True), {}
    for seed in range(60):
        made = sample(seed, field=NOWHERE, images=images)
        seen.setdefault((made.optical.numpy() > 2).tobytes(), made)
    assert len(seen) == 8
    first, *others = seen.values()
    upright = first.optical[0].numpy()[1:, 1:]  # about pixel 32
    ways = [np.rot90(image, k) for image in (upright, upright.T) for k in range(4)]
    for made in others:
        turned = made.optical[0].numpy()[1:, 1:]
        assert min(np.abs(turned - way).max() for way in ways) < 0.01


@pytest.mark.parametrize("zoom", [0.7, 1.0, 2.0])
def test_tiles_are_magnified_by_the_zoom(zoom):
    """Another blob is 12 px away from the keypoint."""
    (optical, sar), (other, _) = pair(width=2), pair(np.add(KEYPOINT, [12, 0]), width=2)
    made = sample(0, field=NOWHERE, zoom=zoom, images=(patch(optical.values[0] + other.values[0]), sar))
    y, x = np.nonzero(made.optical[0].numpy() > 2)
    away = np.hypot(x - HALF, y - HALF)
    assert np.median(away[away > 6 * zoom]) == pytest.approx(12 * zoom, abs=0.5)


def test_the_field_bends_and_stretches_what_is_searched():
    """The other tile stays as it is."""
    images = pair(around=True)
    for field in (Displacement(0, 0, 0, 0.2, 0, hidden=0), Displacement(0, 0, 0, 0, 20, hidden=0)):
        for seed in range(4):
            still, moved = (sample(seed, "sar", f, images=images) for f in (NOWHERE, field))
            assert still.optical.equal(moved.optical)
            assert not torch.allclose(still.sar, moved.sar, atol=0.5)
            still, moved = (sample(seed, "optical", f, images=images) for f in (NOWHERE, field))
            assert still.sar.equal(moved.sar)
            assert not torch.allclose(still.optical, moved.optical, atol=0.5)


@pytest.mark.parametrize(
    "field",
    [Displacement(reach=9, far=1), Displacement(reach=9, near=30, far=0), Displacement(reach=40, far=1)],
    ids=["far", "near", "beyond the tile"],
)
def test_places_stay_within_reach_and_within_the_tile(field):
    images = pair()
    places = np.array([sample(seed, field=field, images=images).place.numpy() for seed in range(60)])
    assert np.abs(places - HALF).max() <= min(field.reach, HALF)
    assert np.abs(places - HALF).max() > 0.8 * min(field.reach, HALF - 1)
    assert (places >= 0).all()
    assert (places <= SIDE - 1).all()


def test_far_places_are_evenly_spread_and_near_ones_are_not():
    images = pair()
    spread = {}
    for far in (0, 1):
        field = Displacement(reach=30, near=5, far=far, hidden=0)
        spread[far] = np.std([sample(seed, field=field, images=images).place.numpy() for seed in range(80)], axis=0)
    np.testing.assert_allclose(spread[0], 5, rtol=0.3)
    np.testing.assert_allclose(spread[1], 30 / np.sqrt(3), rtol=0.3)


def test_the_searched_tile_does_not_reach_over_the_images_border():
    """Beyond it images are mirrored: a blob near the border would be there twice."""
    keypoint = np.array([34.0, 33.0])
    (optical, sar), (other, _) = pair(keypoint, width=2), pair([5, 33], width=2)
    images = optical, patch(sar.values[0] + 3 * other.values[0])
    field = Displacement(reach=30, far=1, gradient=0, bend=0, hidden=0)
    counts = [label(sample(seed, field=field, images=images, keypoint=keypoint).sar[0] > 1.5)[1] for seed in range(40)]
    assert set(counts) == {1, 2}


# parts that are not valid


@pytest.mark.parametrize("finds", ["sar", "optical"])
def test_what_is_hidden_is_never_the_keypoint(finds):
    images, shares = pair(), []
    for seed in range(40):
        made = sample(seed, finds, Displacement(reach=20, gradient=0, bend=0, hidden=1), images=images)
        around, other = searched(made, finds)
        place = made.place.numpy()
        assert np.hypot(*(blob(around, [HALF, HALF]) - HALF)) < 0.3
        assert np.hypot(*(blob(other, place) - place)) < 0.3
        shares += [float((tile == 0).float().mean()) for tile in (around, other)]
    assert np.mean(np.array(shares) > 0.03) > 0.5
    assert max(shares) < 0.6


def test_a_tile_may_be_smaller_than_what_stays_in_sight():
    field = Displacement(reach=2, near=1, gradient=0, bend=0, hidden=1)
    assert sample(field=field, side=32).optical.shape == (1, 32, 32)


def test_as_many_tiles_are_hidden_as_asked():
    images = pair()
    for share in (0, 0.3):
        field = Displacement(reach=5, gradient=0, bend=0, hidden=share)
        made = [sample(seed, field=field, images=images) for seed in range(100)]
        hidden = np.array([[float((tile == 0).float().mean()) > 0.02 for tile in one[:2]] for one in made])
        assert hidden.mean() == pytest.approx(0.8 * share, abs=0.8 * share * 0.4)


def test_what_is_not_valid_in_the_images_is_zero_in_the_tiles():
    optical, sar = pair()
    valid = np.ones(sar.valid.shape, bool)
    valid[:, :200] = False  # 10 px left of the keypoint
    made = sample(field=NOWHERE, images=(optical, Patch(np.where(valid, sar.values, 0), valid)))
    assert (made.optical == 0).float().mean() < 0.01
    assert (made.sar == 0).float().mean() == pytest.approx(22 / 64, abs=0.03)


# chance


def same(one, other):
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("photometry", [Photometry(), Photometry(1, 0.5, 1, 2, 0.5)], ids=["plain", "strong"])
def test_the_same_random_numbers_make_the_same_sample(photometry):
    field = Displacement(reach=20, hidden=0.5)
    made = [sample(seed, field=field, photometry=photometry) for seed in (0, 1, 0)]
    assert same(made[0], made[2])
    assert not same(made[0], made[1])


def test_photometry_reaches_both_images_and_not_the_place():
    plain, strong = (sample(4, photometry=photometry) for photometry in (None, Photometry(gain=0.5, noise=0.3)))
    assert plain.place.equal(strong.place)
    assert not plain.optical.equal(strong.optical)
    assert not plain.sar.equal(strong.sar)


def test_images_are_left_as_they_are():
    images = pair()
    copies = [one.values.copy() for one in images]
    sample(0, field=Displacement(hidden=1), photometry=Photometry(1, 0.5, 1, 2, 0.5), images=images)
    for one, copy in zip(images, copies, strict=True):
        np.testing.assert_array_equal(one.values, copy)
        assert one.valid.all()


@pytest.mark.parametrize("options", [{name: -0.1} for name in ("reach", "near", "gradient", "bend")])
def test_negative_displacements_are_refused(options):
    with pytest.raises(ConfigError, match=rf"{next(iter(options))}.* must not be negative"):
        Displacement(**options)


@pytest.mark.parametrize("name", ["far", "anywhere", "hidden"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_shares_are_0_to_1(name, value):
    with pytest.raises(ConfigError, match=rf"{name}.*shares, 0 to 1"):
        Displacement(**{name: value})
