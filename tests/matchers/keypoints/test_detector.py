"""keypoints/detector: which pixels a tile shows, keypoints in pixels of the searched scene, places of nothing."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.rasters import TEXTURE_TRANSFORM, UTM, fields, open_plain, write_raster
from torch import nn

from sn9reg.matchers.keypoints.detector import Cropper, Detector, structure
from sn9reg.matchers.keypoints.heatmap import gaussian
from sn9reg.progress import listening
from sn9reg.raster.radiometry import optical_input, standardise
from sn9reg.raster.scene import PairFiles, Patch

SIDE = 64
WIDTH, HEIGHT = 260, 220
BRIGHT = {"optical": (101, 84), "sar": (140, 122)}  # x, y; far from the borders
OTHER = {"optical": "sar", "sar": "optical"}
both_ways = pytest.mark.parametrize("finds", ["optical", "sar"])


class BrightestPixel(nn.Module):
    """A detector that finds the brightest pixel of the tile that is searched, by peaks of 0.8; it notes how many tiles
    came at once."""

    def __init__(self, finds):
        super().__init__()
        self.finds, self.bands, self.batches = finds, 1, []

    def forward(self, optical, sar):
        assert optical.shape[1:2] == (self.bands,)
        assert optical[:, :1].shape == sar.shape
        assert not self.training
        searched = sar if self.finds == "sar" else optical
        side = searched.shape[-1]
        self.batches.append(len(optical))
        index = searched[:, 0].flatten(1).argmax(dim=1)
        place = torch.stack([index % side, index // side], dim=1).float()
        rival = 0.3 * gaussian(torch.zeros_like(place), side, 1.0)
        return torch.maximum(0.8 * gaussian(place, side, 3.0), rival)


def scene_values(seed, bright):
    """Structure, and a point of 2 x 2 pixels that outshines it; of them the first does most."""
    values = 60 + 40 * fields(WIDTH, seed)[:HEIGHT]
    x, y = bright
    values[y : y + 2, x : x + 2] = 1000
    values[y, x] = 1500
    return values


@contextmanager
def opened(folder, optical=None, sar=None):
    """A cropper of scenes of structure, or of those given."""
    given = {"optical": optical, "sar": sar}
    for k, (name, values) in enumerate(given.items()):
        values = scene_values(k, BRIGHT[name]) if values is None else values
        write_raster(folder / f"{name}.tif", values[None].astype(np.float32), TEXTURE_TRANSFORM, UTM, nodata=0)
    with open_plain(folder / "optical.tif", folder / "sar.tif") as pair:
        yield Cropper(pair, SIDE)


@pytest.fixture(scope="module")
def cropper(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("scenes")) as made:
        yield made


def around(place, count=7, reach=20, seed=0):
    """(count, 2) places at most `reach` away per axis, between pixels."""
    return np.random.default_rng(seed).uniform(-reach, reach, (count, 2)) + place


@both_ways
@pytest.mark.parametrize("subpixel", [True, False])
def test_keypoints_are_in_pixels_of_the_searched_scene(finds, subpixel, cropper):
    middle, places = around(BRIGHT[OTHER[finds]], seed=1), around(BRIGHT[finds])
    found = Detector(BrightestPixel(finds), subpixel).find(cropper, middle, places)
    assert found.usable.all()
    assert found.xy == pytest.approx(np.tile(BRIGHT[finds], (7, 1)), abs=0.05 if subpixel else 1e-9)
    assert np.array_equal(found.middle, np.rint(middle))
    assert found.height == pytest.approx(np.full(7, 0.8))
    assert found.rival.max() == pytest.approx(0.3)
    assert found.spread == pytest.approx(np.full(7, 0.466 * 3), rel=0.05)


def test_a_network_that_asks_for_three_bands_gets_red_green_and_blue_or_grey_thrice():
    random, valid = np.random.default_rng(0), np.arange(12) < 9
    values, valid = random.random((4, 12, 12)).astype(np.float32), np.tile(valid, (12, 1))
    colours = optical_input(Patch(values, valid), 3)
    for band, expected in zip(colours, values, strict=False):
        np.testing.assert_array_equal(band, standardise(expected, valid))
    for few in (values[:1], values[:2]):
        grey = standardise(few.mean(axis=0), valid)
        np.testing.assert_array_equal(optical_input(Patch(few, valid), 3), [grey] * 3)
        np.testing.assert_array_equal(optical_input(Patch(few, valid), 1), [grey])


def test_the_detector_gives_the_network_as_many_bands_as_it_has(tmp_path):
    grey = scene_values(0, BRIGHT["optical"])
    for name, values in (("optical", np.stack([0 * grey + 7, grey, grey[::-1]])), ("sar", grey[None])):
        write_raster(tmp_path / f"{name}.tif", values.astype(np.float32), TEXTURE_TRANSFORM, UTM)
    network, seen = BrightestPixel("sar"), []
    network.bands, forward = 3, network.forward
    network.forward = lambda optical, sar: seen.append(optical) or forward(optical, sar)
    with open_plain(tmp_path / "optical.tif", tmp_path / "sar.tif") as pair:
        Detector(network, structure=False).find(Cropper(pair, SIDE), around(BRIGHT["optical"], 2), around((90, 90), 2))
    red, green, blue = seen[0].unbind(1)
    assert (red.any(), green.any(), green.equal(blue)) == (False, True, False)


@pytest.mark.parametrize(("finds", "pool", "batch"), [("optical", 1, 16), ("sar", 4, 2), ("sar", 4, 16)])
def test_heatmaps_themselves_are_means_of_pixels(finds, pool, batch, cropper):
    places = around(BRIGHT[finds], 5, seed=1)
    places[2] = [-400, 50]
    heatmaps, usable = Detector(BrightestPixel(finds), batch=batch).heatmaps(cropper, places, 1, pool)
    assert usable.tolist() == [True, True, False, True, True]
    assert heatmaps.shape == (5, SIDE // pool, SIDE // pool)
    assert not heatmaps[2].any()
    place = torch.from_numpy(BRIGHT[finds] - cropper.corner(places)).float()
    whole = torch.maximum(0.8 * gaussian(place, SIDE, 3.0), 0.3 * gaussian(torch.zeros_like(place), SIDE, 1.0))
    expected = whole.unfold(1, pool, pool).unfold(2, pool, pool).mean(dim=(3, 4))
    torch.testing.assert_close(heatmaps[usable], expected[usable])


@pytest.mark.parametrize(("finds", "batch"), [("optical", 2), ("sar", 16), ("sar", 1)])
def test_places_outside_either_scene_are_not_usable_and_leave_the_others_theirs(finds, batch, cropper):
    middle, places = around(BRIGHT[OTHER[finds]], 6), around(BRIGHT[finds], 6, seed=1)
    outside = np.array([True, False, False, True, True, False])
    middle[[0, 3]], places[[3, 4]] = [-400, 50], [50, 4000]
    network, heard = BrightestPixel(finds), []
    with listening(heard.append):
        found = Detector(network, batch=batch).find(cropper, middle, places)
    assert np.array_equal(found.usable, ~outside)
    assert network.batches == {1: [1, 1, 1], 2: [1, 1, 1], 16: [3]}[batch]
    assert found.xy[~outside] == pytest.approx(np.tile(BRIGHT[finds], (3, 1)), abs=0.05)
    assert np.array_equal(found.middle[~outside], np.rint(middle[~outside]))
    assert (found.height[~outside] > 0).all()
    assert not found.height[outside].any()
    assert heard == pytest.approx([min(k, 6) / 6 for k in range(batch, 6 + batch, batch)])
    assert len(Detector(network).find(cropper, np.zeros((0, 2)), np.zeros((0, 2))).usable) == 0


@both_ways
@pytest.mark.parametrize("empty", ["optical", "sar"])
def test_tiles_of_which_less_than_a_quarter_is_valid_are_not_usable(finds, empty, tmp_path):
    """Nor are those of which the middle, that which is looked for, is not."""
    values = {name: scene_values(0, place) for name, place in BRIGHT.items()}
    values[empty][:, :130] = 0
    values[OTHER[finds]][110, 200] = 0
    # Shares of 0.19, 0.31, 0.5 and all are valid; then a hole in the middle of the tile, and one beside it.
    places = np.array([[110, 110], [118, 110], [130, 110], [165, 110], [200, 110], [200, 111]], float)
    with opened(tmp_path, **values) as made:
        found = Detector(BrightestPixel(finds), structure=False).find(made, places, places)
    assert found.usable.tolist() == [False, empty == finds, True, True, False, True]


@both_ways
@pytest.mark.parametrize(("place", "seen"), [((10.0, 40.0), False), ((31.3, 20.0), False), ((31.7, 20.0), True)])
def test_a_peak_on_no_valid_pixel_has_no_height(finds, place, seen, tmp_path):
    """The first tile's upper left pixel lies 32 columns left of what is valid."""
    values = {name: scene_values(0, bright) for name, bright in BRIGHT.items()}
    values[finds][:, :130] = 0
    places = np.array([[130, 110], [200, 110]], float)
    network = BrightestPixel(finds)
    network.forward = lambda optical, sar: 0.8 * gaussian(torch.tensor([place]).expand(len(optical), 2), SIDE, 3.0)
    with opened(tmp_path, **values) as made:
        found = Detector(network).find(made, places, places)
    assert found.usable.all()
    assert found.height[1] > 0.7
    assert (found.height[0] > 0.7) if seen else (found.height[0] == 0)
    assert found.xy == pytest.approx(places - SIDE // 2 + place, abs=0.05)


@pytest.mark.parametrize(("finds", "bad"), [("optical", "optical"), ("sar", "optical"), ("sar", "sar")])
def test_noise_is_only_looked_at_if_told_to_and_a_constant_image_never(finds, bad, tmp_path):
    places = np.array([[60, 110], [200, 110]], float)
    for content, tried in ((60 * np.random.default_rng(0).gamma(4, 1 / 4, (HEIGHT, 130)), True), (77, False)):
        values = {name: 60 + 40 * fields(WIDTH, 0)[:HEIGHT] for name in BRIGHT}
        values[bad][:, 130:] = content
        with opened(tmp_path, **values) as made:
            for careful, second in ((True, False), (False, tried)):
                found = Detector(BrightestPixel(finds), structure=careful).find(made, places, places)
                assert found.usable.tolist() == [True, second]


def shown(image):
    return standardise(image.astype(np.float32), np.ones(image.shape, bool))


def test_structure_is_little_in_noise_and_most_of_smooth_ground():
    side, random = 128, np.random.default_rng(0)
    noise, speckle = random.normal(size=(side, side)), np.log(random.gamma(1, 1, (side, side)))
    blobs = gaussian_filter(random.normal(size=(side, side)), 6)
    assert max(structure(shown(noise)), structure(shown(speckle))) < 0.03
    assert structure(shown(blobs)) > 0.7
    assert structure(shown(fields(side, 0))) > 0.3
    mixed = [structure(shown(blobs / blobs.std() + strength * noise)) for strength in (0, 0.5, 1, 2, 4)]
    assert mixed == sorted(mixed, reverse=True)
    assert [structure(np.full((64, 64), level, np.float32)) for level in (0.0, 0.7, -4.0)] == [0, 0, 0]
    rim = np.pad(np.zeros((64, 64), bool), 32, constant_values=True)  # only the middle counts
    for image, beside in ((blobs, noise), (noise, blobs)):
        assert structure(np.where(rim, shown(beside), shown(image))) == structure(shown(image))


# --- tiles -----------------------------------------------------------------------------------------------------------

OPTICAL, SAR = (61, 40), (90, 77)  # x, y of what is bright
COLUMNS, ROWS = 140, 120


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Of two scenes that are dark but for 2 x 2 pixels each: the bright one and, less bright, those right of and below
    it. The last 30 columns of the SAR scene hold nothing."""
    folder = tmp_path_factory.mktemp("points")
    for name, (x, y) in (("optical", OPTICAL), ("sar", SAR)):
        values = np.random.default_rng(x).uniform(10, 12, (ROWS, COLUMNS))
        values[y : y + 2, x : x + 2] = 30
        values[y, x] = 200
        if name == "sar":
            values[:, -30:] = 0
        write_raster(folder / f"{name}.tif", values[None].astype(np.float32), TEXTURE_TRANSFORM, UTM, nodata=0)
    with PairFiles(folder / "optical.tif", folder / "sar.tif").open() as opened:
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
    assert crop.optical.shape == crop.sar.shape == (1, side, side)
    assert brightest(crop.optical[0]) == brightest(crop.sar[0]) == (side // 2, side // 2)


def test_a_corner_is_where_the_first_pixel_lies(pair):
    assert Cropper(pair).side == 256  # as in the paper
    cropper = Cropper(pair, 32)
    places = moved(OPTICAL, 2.7, -3.1), moved(SAR, -4.2, 1.6)
    crop = cropper.read(*places)
    for image, place, bright in zip((crop.optical[0], crop.sar[0]), places, (OPTICAL, SAR), strict=True):
        assert tuple(cropper.corner(place) + brightest(image)) == bright
    many = np.array([[[2.7, 3.1], [-4.2, 1.6]], [[0, 0], [99.4, 17]]])
    assert cropper.corner(many).tolist() == [[[-13, -13], [-20, -14]], [[-16, -16], [83, 1]]]


def test_images_are_standardised_over_what_is_valid(pair):
    crop = Cropper(pair, 32).read(np.array([30, 80]), np.array([100, 30]))
    assert crop.optical_valid.all()
    assert crop.sar_valid[:, :26].all()
    assert not crop.sar_valid[:, 26:].any()
    for values in (crop.optical, crop.sar[..., :26]):
        assert values.dtype == np.float32
        assert values.mean() == pytest.approx(0, abs=1e-3)
        assert values.std() == pytest.approx(1, abs=1e-2)
    assert not crop.sar[..., 26:].any()


@pytest.mark.parametrize(
    ("place", "inside"),
    [
        ((0, 60), np.s_[:, 16:]),
        ((COLUMNS - 1, 60), np.s_[:, :17]),
        ((60, 0), np.s_[16:, :]),
        ((-10, ROWS + 5), np.s_[:11, 26:]),
        ((-500, 60), np.s_[:0, :0]),
    ],
)
def test_beyond_the_border_there_is_nothing(pair, place, inside):
    there = np.zeros((32, 32), bool)
    there[inside] = True
    crop = Cropper(pair, 32).read(np.array(place), np.array([60, 9000]))
    assert np.array_equal(crop.optical_valid, there)
    assert np.array_equal(crop.optical[0] != 0, there)
    assert not crop.sar.any()
    assert not crop.sar_valid.any()


def test_sar_tiles_of_one_scene_share_one_floor(tmp_path):
    """A dark tile's speckle is not raised to that of a bright one's."""
    random = np.random.default_rng(0)
    values = random.gamma(4, 1 / 4, (1, 80, 200)).astype(np.float32)
    values[..., :70] *= 0.01
    write_raster(tmp_path / "sar.tif", 100 * values, TEXTURE_TRANSFORM, UTM)
    with PairFiles(tmp_path / "sar.tif", tmp_path / "sar.tif").open() as opened:
        cropper = Cropper(opened, 64)
        wide = cropper.read(np.array([70, 40]), np.array([70, 40])).sar[0]
    dark, bright = wide[:, :30], wide[:, 34:]
    assert dark.std() < 0.3 * bright.std()
