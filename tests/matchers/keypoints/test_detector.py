"""keypoints/detector: keypoints in pixels of the searched scene, and places with nothing to look at."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.rasters import TEXTURE_TRANSFORM, UTM, fields, open_plain, write_raster
from torch import nn

from sn9reg.matchers.keypoints.crops import Cropper
from sn9reg.matchers.keypoints.detector import Detector, structure
from sn9reg.matchers.keypoints.heatmap import gaussian
from sn9reg.progress import listening
from sn9reg.raster.radiometry import standardise

SIDE = 64
WIDTH, HEIGHT = 260, 220
BRIGHT = {"optical": (101, 84), "sar": (140, 122)}  # x, y; far from the borders
OTHER = {"optical": "sar", "sar": "optical"}
both_ways = pytest.mark.parametrize("finds", ["optical", "sar"])


class BrightestPixel(nn.Module):
    """A detector that finds the brightest pixel of the tile that is searched, by peaks of 0.8; it notes how bright the
    middle pixel of the other is, and how many tiles came at once."""

    def __init__(self, finds):
        super().__init__()
        self.finds, self.middles, self.batches = finds, [], []

    def forward(self, optical, sar):
        assert optical.shape == sar.shape
        assert not self.training
        searched, other = (sar, optical) if self.finds == "sar" else (optical, sar)
        side = searched.shape[-1]
        self.middles += other[:, 0, side // 2, side // 2].tolist()
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
def opened(folder, optical=None, sar=None, side=SIDE):
    """A cropper of scenes of structure, or of those given."""
    given = {"optical": optical, "sar": sar}
    for k, (name, values) in enumerate(given.items()):
        values = scene_values(k, BRIGHT[name]) if values is None else values
        write_raster(folder / f"{name}.tif", values[None].astype(np.float32), TEXTURE_TRANSFORM, UTM, nodata=0)
    with open_plain(folder / "optical.tif", folder / "sar.tif") as pair:
        yield Cropper(pair, side)


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


@pytest.mark.parametrize(("finds", "factor"), [("optical", 2), ("sar", 4)])
def test_at_a_coarser_level_all_is_in_its_pixels(finds, factor, tmp_path):
    """What is bright fills one coarse pixel."""
    values = [60 + 40 * fields(WIDTH, seed)[:HEIGHT] for seed in (0, 1)]
    coarse = {"optical": (33, 24), "sar": (37, 30)}
    for image, (x, y) in zip(values, coarse.values(), strict=True):
        image[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor] = 1000
    network = BrightestPixel(finds)
    with opened(tmp_path, *values, side=32) as made:
        middle = np.array([[0.2, -0.3], [4.4, 1.1]]) + coarse[OTHER[finds]]
        places = np.array([[0.0, 0.0], [3.2, -7.7]]) + coarse[finds]
        found = Detector(network, subpixel=False, structure=False).find(made, middle, places, factor)
    assert found.usable.all()
    assert np.array_equal(found.xy, [coarse[finds]] * 2)
    assert np.array_equal(found.middle, np.rint(middle))
    assert network.middles[0] > 3.9 > network.middles[1]  # what is looked for lies in the middle of the other tile


@pytest.mark.parametrize(("finds", "pool", "batch"), [("optical", 1, 16), ("sar", 4, 2), ("sar", 4, 16)])
def test_heatmaps_themselves_are_means_of_pixels(finds, pool, batch, cropper):
    middle, places = around(BRIGHT[OTHER[finds]], 5), around(BRIGHT[finds], 5, seed=1)
    middle[2] = [-400, 50]
    detector = Detector(BrightestPixel(finds), batch=batch)
    heatmaps, usable = detector.heatmaps(cropper, middle, places, 1, pool)
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
