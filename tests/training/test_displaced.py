"""training.displaced: corners that both images show, and tiles of which one is displaced by a known field."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, label

from sn9reg.raster.scene import Patch
from sn9reg.training.data import Source
from sn9reg.training.displaced import Displacement, corners, displaced
from sn9reg.training.keypoints import KeypointConfig
from sn9reg.training.sample import Photometry

SIDE = 64
HALF = SIDE // 2
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


def sample(seed=0, finds="sar", field=PLAIN, zoom=1.0, photometry=None, images=PAIR, keypoint=KEYPOINT, side=SIDE):
    changes = {"displacement": field, "photometry": photometry or Photometry()}
    config = KeypointConfig(sources=(Source("unused"),), samples=1, finds=finds, tile=side, **changes)
    return displaced(*images, keypoint, zoom, config, np.random.default_rng(seed))


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
        found = corners(patch(image), patch(sar))
        assert found.dtype == np.int64
        assert farthest(CORNERS, found) < 5
        assert farthest(found[: len(CORNERS)], CORNERS) < 5, "they are the best"


def test_corners_of_one_image_alone_are_none():
    found = corners(patch(squares([PLACES[0], (140, 20)])), patch(squares([PLACES[0], (150, 130)])))
    assert farthest(CORNERS[:4], found) < 5
    assert farthest(found, CORNERS[:4]) < 8


def test_corners_keep_apart():
    noise = 50 + 20 * np.random.default_rng(0).random((300, 300))
    found = corners(patch(noise), patch(noise))
    assert 20 < len(found) <= 150
    apart = np.hypot(*(found[None] - found[:, None]).transpose(2, 0, 1)) + 99 * np.eye(len(found))
    assert apart.min() >= 6


@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_constant_or_not_valid_makes_no_corners(kind):
    image, valid = squares(PLACES), np.arange(240) < 120
    images = [patch(image), patch(image)]
    images[kind] = patch(np.where(valid, image, 0), valid)
    found = corners(*images)
    assert farthest(CORNERS[:4], found) < 5
    assert (found[:, 0] < 120).all()
    for empty in (patch(0 * image, False), patch(0 * image + 77)):
        images[kind] = empty
        assert corners(*images).shape == (0, 2)


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
    assert 0 <= places.min() <= places.max() <= SIDE - 1
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


def test_random_numbers_decide_the_sample():
    field, strong = Displacement(reach=20, hidden=0.5), Photometry(1, 0.5, 1, 2, 0.5)
    first, other, again = (sample(seed, field=field, photometry=strong) for seed in (0, 1, 0))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not any(a.equal(b) for a, b in zip(first, other, strict=True))
    plain = sample(0, field=field)
    assert [a.equal(b) for a, b in zip(plain, first, strict=True)] == [False, False, True], "not the place"
    for one, unchanged in zip(PAIR, pair(), strict=True):
        np.testing.assert_array_equal(one.values, unchanged.values)
