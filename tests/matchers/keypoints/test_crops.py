"""keypoints/crops: which pixels of either scene a tile shows, and how."""

import numpy as np
import pytest
from support.rasters import TEXTURE_TRANSFORM, UTM, write_raster

from sn9reg.matchers.keypoints.crops import Cropper
from sn9reg.raster.scene import open_pair

OPTICAL, SAR = (61, 40), (90, 77)  # x, y of what is bright
WIDTH, HEIGHT = 140, 120


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Of two scenes that are dark but for 2 x 2 pixels each: the bright one and, less bright, those right of and below
    it. The last 30 columns of the SAR scene hold nothing."""
    folder = tmp_path_factory.mktemp("points")
    for name, (x, y) in (("optical", OPTICAL), ("sar", SAR)):
        values = np.random.default_rng(x).uniform(10, 12, (HEIGHT, WIDTH))
        values[y : y + 2, x : x + 2] = 30
        values[y, x] = 200
        if name == "sar":
            values[:, -30:] = 0
        write_raster(folder / f"{name}.tif", values[None].astype(np.float32), TEXTURE_TRANSFORM, UTM, nodata=0)
    with open_pair(folder / "optical.tif", folder / "sar.tif") as opened:
        yield opened


def brightest(image):
    """x, y."""
    row, col = np.unravel_index(image.argmax(), image.shape)
    return int(col), int(row)


def moved(place, dx, dy, factor=1):
    return np.array([place[0] // factor + dx, place[1] // factor + dy])


@pytest.mark.parametrize(
    ("factor", "side", "dx", "dy"), [(1, 16, 0.4, -0.4), (1, 31, -0.49, 0.3), (2, 16, 0.3, 0.3), (4, 16, -0.2, 0.3)]
)
def test_the_nearest_pixel_of_the_level_lies_in_the_middle_of_a_tile(pair, factor, side, dx, dy):
    crop = Cropper(pair, side).read(moved(OPTICAL, dx, dy, factor), moved(SAR, dy, dx, factor), factor)
    assert crop.optical.shape == crop.sar.shape == (side, side)
    assert brightest(crop.optical) == brightest(crop.sar) == (side // 2, side // 2)


def test_a_corner_is_where_the_first_pixel_lies(pair):
    assert Cropper(pair).side == 256  # as in the paper
    cropper = Cropper(pair, 32)
    places = moved(OPTICAL, 2.7, -3.1), moved(SAR, -4.2, 1.6)
    crop = cropper.read(*places)
    for image, place, bright in zip((crop.optical, crop.sar), places, (OPTICAL, SAR), strict=True):
        assert tuple(cropper.corner(place) + brightest(image)) == bright
    many = np.array([[[2.7, 3.1], [-4.2, 1.6]], [[0, 0], [99.4, 17]]])
    assert cropper.corner(many).tolist() == [[[-13, -13], [-20, -14]], [[-16, -16], [83, 1]]]


def test_images_are_standardised_over_what_is_valid(pair):
    crop = Cropper(pair, 32).read(np.array([30, 80]), np.array([100, 30]))
    assert crop.optical_valid.all()
    assert crop.sar_valid[:, :26].all()
    assert not crop.sar_valid[:, 26:].any()
    for values in (crop.optical, crop.sar[:, :26]):
        assert values.dtype == np.float32
        assert values.mean() == pytest.approx(0, abs=1e-3)
        assert values.std() == pytest.approx(1, abs=1e-2)
    assert not crop.sar[:, 26:].any()


@pytest.mark.parametrize(
    ("place", "inside"),
    [
        ((0, 60), np.s_[:, 16:]),
        ((WIDTH - 1, 60), np.s_[:, :17]),
        ((60, 0), np.s_[16:, :]),
        ((-10, HEIGHT + 5), np.s_[:11, 26:]),
        ((-500, 60), np.s_[:0, :0]),
    ],
)
def test_beyond_the_border_there_is_nothing(pair, place, inside):
    there = np.zeros((32, 32), bool)
    there[inside] = True
    crop = Cropper(pair, 32).read(np.array(place), np.array([60, 9000]))
    assert np.array_equal(crop.optical_valid, there)
    assert np.array_equal(crop.optical != 0, there)
    assert not crop.sar.any()
    assert not crop.sar_valid.any()


def test_intensities_are_shown_by_their_logarithm_and_decibels_as_they_are(tmp_path):
    texture = np.random.default_rng(0).uniform(-20, -5, (1, 80, 80)).astype(np.float32)
    write_raster(tmp_path / "decibel.tif", texture, TEXTURE_TRANSFORM, UTM)
    write_raster(tmp_path / "intensity.tif", 1e6 * 10 ** (texture / 10), TEXTURE_TRANSFORM, UTM)
    shown = []
    for name in ("decibel", "intensity"):
        with open_pair(tmp_path / "decibel.tif", tmp_path / f"{name}.tif") as opened:
            shown.append(Cropper(opened, 64).read(np.array([40, 40]), np.array([40, 40])).sar)
    assert np.corrcoef(shown[0].ravel(), shown[1].ravel())[0, 1] > 0.98
    assert shown[0].min() == pytest.approx(-np.sqrt(3), abs=0.1)  # of even values


def test_sar_tiles_of_one_scene_share_one_floor(tmp_path):
    """A dark tile's speckle is not raised to that of a bright one's."""
    random = np.random.default_rng(0)
    values = random.gamma(4, 1 / 4, (1, 80, 200)).astype(np.float32)
    values[..., :70] *= 0.01
    write_raster(tmp_path / "sar.tif", 100 * values, TEXTURE_TRANSFORM, UTM)
    with open_pair(tmp_path / "sar.tif", tmp_path / "sar.tif") as opened:
        cropper = Cropper(opened, 64)
        wide = cropper.read(np.array([70, 40]), np.array([70, 40])).sar
    dark, bright = wide[:, :30], wide[:, 34:]
    assert dark.std() < 0.3 * bright.std()
