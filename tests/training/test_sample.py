"""training.sample: where the template lies in the patch, and what is done to grey values."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.registration import phase_cross_correlation

from sn9reg.matchers.dense.learned import SlimUNetMatcher
from sn9reg.matchers.dense.networks.branches import Branches
from sn9reg.matchers.dense.networks.table import build
from sn9reg.raster.scene import Patch
from sn9reg.training.sample import Geometry, Photometry, augment_optical, augment_sar, cut, finish
from sn9reg.weights.store import Architecture, save_weights

GEOMETRY = Geometry(48, 32)


def whole(values):
    """A patch of (h, w) values that are all valid."""
    return Patch(values[None], np.ones(values.shape, bool))


def smooth(height=90, width=110, seed=0, sigma=3.0):
    """(h, w) float32 of mean 100 and deviation 20."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), sigma)
    return (100 + 20 * values / values.std()).astype(np.float32)


def ramps(height=90, width=110):
    """Two images: every pixel holds its column, and every pixel its row; 10 more, so that none is cut off at 0."""
    row, col = np.mgrid[:height, :width].astype(np.float32) + 10
    return col, row


def at(patch, place, side):
    """(h, w) the part of a patch where the template of `side` px lies."""
    return patch.values[0, place[0] : place[0] + side, place[1] : place[1] + side]


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("sides", [(48, 32), (47, 32), (48, 31), (90, 89)])
def test_without_magnification_the_template_is_the_patchs_part_exactly(sides):
    """For all flips and quarter turns: eight ways in which the patch shows pixels of the image."""
    optical, sar = sides
    image = np.arange(90 * 110, dtype=np.float32).reshape(90, 110)  # no pixel looks like another
    seen = set()
    for seed in range(100):
        patch, template, place = cut(whole(image), whole(image), Geometry(*sides), 1.0, random(seed))
        assert patch.values.shape == (1, optical, optical)
        np.testing.assert_array_equal(template.values[0], at(patch, place, sar))
        ways = [np.rot90(flipped, k) for flipped in (patch.values[0], patch.values[0].T) for k in range(4)]
        upright = [k for k, way in enumerate(ways) if way[0, 1] - way[0, 0] == 1 and way[1, 0] - way[0, 0] == 110]
        assert len(upright) == 1
        row, col = divmod(int(ways[upright[0]][0, 0]), 110)
        np.testing.assert_array_equal(ways[upright[0]], image[row : row + optical, col : col + optical])
        seen.add(upright[0])
    assert seen == set(range(8))


@pytest.mark.parametrize("zoom", [0.6, 0.9, 1.3, 2.0])
def test_magnified_template_and_patch_show_the_same_at_the_place(zoom):
    image = whole(smooth())
    for seed in range(12):
        patch, template, place = cut(image, image, GEOMETRY, zoom, random(seed))
        shift = phase_cross_correlation(at(patch, place, 32), template.values[0], upsample_factor=50)[0]
        assert np.abs(shift).max() <= 0.1
        np.testing.assert_allclose(template.values[0], at(patch, place, 32), atol=0.5)


@pytest.mark.parametrize("zoom", [0.7, 1.0, 1.5, 3.0])
def test_zoom_is_the_number_of_output_pixels_per_input_pixel(zoom):
    """And the patch lies within the image: beyond it there would be a reflection."""
    for seed in range(8):
        shown = [cut(whole(r), whole(r), GEOMETRY, zoom, random(seed))[0].values[0] for r in ramps()]
        inner = [values[4:-4, 4:-4] for values in shown]  # blur and cubic interpolation reach over the image's border
        slopes = np.array([[np.diff(values, axis=axis).mean() for axis in (0, 1)] for values in inner])
        np.testing.assert_allclose(np.sort(np.abs(slopes)), [[0, 1 / zoom]] * 2, atol=0.01)
        for values, length in zip(shown, (110, 90), strict=True):
            assert 10 - 0.5 - 0.2 <= values.min() < values.max() <= 10 + length - 0.5 + 0.2


@pytest.mark.parametrize(("size", "zoom"), [(96, 0.5), (48, 1.0), (32, 1.5), (16, 3.0)])
def test_a_patch_that_shows_the_whole_image_has_its_middle_in_the_middle(size, zoom):
    """Over an even number of pixels; half an output pixel is not half an input pixel."""
    for ramp in ramps(size, size):
        patch, _, _ = cut(whole(ramp), whole(ramp), GEOMETRY, zoom, random())
        assert patch.values[0, 23:25, 23:25].mean() == pytest.approx(10 + (size - 1) / 2, abs=0.05 / zoom)


@pytest.mark.parametrize("zoom", [1.0, 1.4])
def test_small_turns_and_stretches_leave_the_templates_middle_in_place(zoom):
    image, geometry = whole(smooth(140, 140, sigma=4)), Geometry(48, 32, turn=2, stretch=0.02)
    moved = 0
    for seed in range(12):
        patch, template, place = cut(image, image, geometry, zoom, random(seed))
        shift = phase_cross_correlation(at(patch, place, 32), template.values[0], upsample_factor=50)[0]
        assert np.abs(shift).max() < 0.5
        part = at(patch, place, 32)
        np.testing.assert_allclose(template.values[0, 15:17, 15:17].mean(), part[15:17, 15:17].mean(), atol=0.5)
        moved += np.abs(template.values[0] - part).max() > 1
    assert moved > 6, "turned and stretched they are"


def test_turn_and_stretch_are_about_the_middle_and_within_their_limits():
    """Seen on ramps, whose slopes are the linear part of the mapping and whose middle is its fixed point."""
    geometry, found = Geometry(48, 32, turn=10, stretch=0.1), []
    for seed in range(60):
        slopes = {"patch": [], "template": []}
        for ramp in ramps(200, 200):
            patch, template, place = cut(whole(ramp), whole(ramp), geometry, 1.0, random(seed))
            part = at(patch, place, 32)
            if not 20 < part.min() <= part.max() < 190:  # a template turned over the image's border sees reflections
                break
            assert template.values[0, 15:17, 15:17].mean() == pytest.approx(part[15:17, 15:17].mean(), abs=0.05)
            for name, values in (("patch", part), ("template", template.values[0])):
                slopes[name].append([np.diff(values, axis=axis).mean() for axis in (1, 0)])
        else:
            linear = np.linalg.inv(slopes["patch"]) @ np.array(slopes["template"])
            scale, angle = np.sqrt(np.linalg.det(linear)), np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0]))
            turn = np.deg2rad(angle)
            expected = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            np.testing.assert_allclose(linear, expected, atol=0.01)
            found.append((angle, scale))
    angles, scales = np.transpose(found)
    assert len(found) > 20
    assert -10.1 < angles.min() < -5 < 5 < angles.max() < 10.1
    assert 0.899 < scales.min() < 0.95 < 1.05 < scales.max() < 1.101


def masked(shape=(90, 110)):
    """100 inside a disc, which alone is valid."""
    row, col = np.mgrid[: shape[0], : shape[1]]
    valid = (row - 45) ** 2 + (col - 50) ** 2 < 30**2
    return Patch(np.where(valid, np.float32(100), np.float32(0))[None], valid)


@pytest.mark.parametrize("zoom", [1.0, 1.7])
def test_masks_go_with_the_values(zoom):
    shares = []
    for seed in range(12):
        patch, template, place = cut(masked(), masked(), GEOMETRY, zoom, random(seed))
        for part in (patch, template):
            assert part.valid.dtype == bool
            mask, near = part.valid.astype(np.uint8), np.ones((5, 5) if zoom != 1 else (1, 1))
            sure = cv2.dilate(mask, near) == cv2.erode(mask, near)
            if zoom != 1:  # what comes just outside is not known
                sure[[0, 1, -2, -1]] = sure[:, [0, 1, -2, -1]] = False
            np.testing.assert_array_equal(part.valid[sure], part.values[0, sure] > 50)
        inside = patch.valid[place[0] : place[0] + 32, place[1] : place[1] + 32]
        np.testing.assert_array_equal(template.valid, inside)
        shares.append(patch.valid.mean())
    assert min(shares) < 0.6 < max(shares), "patches of more and of less valid ground"


def test_each_image_keeps_its_own_mask():
    optical, sar = whole(smooth()), Patch(smooth(seed=1)[None], np.zeros((90, 110), bool))
    patch, template, _ = cut(optical, sar, GEOMETRY, 1.0, random())
    assert patch.valid.all()
    assert not template.valid.any()


def test_every_place_inside_the_patch_is_drawn_and_none_outside():
    image = whole(smooth(20, 20))
    places = {tuple(map(int, cut(image, image, Geometry(8, 6), 1.0, random(seed))[2])) for seed in range(200)}
    assert places == {(row, col) for row in range(3) for col in range(3)}


def test_an_image_of_the_patchs_size_is_shown_whole():
    image = smooth(48, 48)
    patch, _, _ = cut(whole(image), whole(image), GEOMETRY, 1.0, random())
    np.testing.assert_array_equal(np.sort(patch.values.ravel()), np.sort(image.ravel()))


def test_bands_are_averaged_and_8_bit_will_do():
    image = random().integers(0, 256, (3, 60, 60), dtype=np.uint8)
    colour, grey = Patch(image, np.ones((60, 60), bool)), whole(image.mean(axis=0, dtype=np.float32))
    one, other = (cut(pair, pair, GEOMETRY, 1.0, random()) for pair in (colour, grey))
    assert one[0].values.dtype == one[1].values.dtype == np.float32
    np.testing.assert_array_equal(one[0].values, other[0].values)
    np.testing.assert_array_equal(one[1].values, other[1].values)


def test_the_generator_decides_everything():
    image, geometry = whole(smooth()), Geometry(48, 32, turn=2, stretch=0.02)

    def drawn(seed):
        patch, template, place = cut(image, image, geometry, 1.2, random(seed))
        return np.concatenate([patch.values.ravel(), template.values.ravel(), place])

    np.testing.assert_array_equal(drawn(7), drawn(7))
    assert (drawn(7) != drawn(8)).any()


@pytest.mark.parametrize("augment", [augment_optical, augment_sar])
def test_without_strength_nothing_changes(augment):
    for seed in range(5):
        np.testing.assert_array_equal(augment(smooth(), Photometry(), random(seed)), smooth())


@pytest.mark.parametrize(
    ("augment", "photometry", "low", "high"),
    [
        (augment_optical, Photometry(tone=1), 40, 40),
        (augment_optical, Photometry(tone=0.5), 12, 28),
        (augment_optical, Photometry(gain=0.3), 39, 40),
        (augment_optical, Photometry(blur=2), 6, 20),
        (augment_optical, Photometry(noise=0.2), 39, 40),
        (augment_sar, Photometry(tone=1), 12, 28),
        (augment_sar, Photometry(gain=0.3), 39, 40),
        (augment_sar, Photometry(speckle=1), 40, 40),
        (augment_sar, Photometry(speckle=0.5), 12, 28),
        (augment_sar, Photometry(blur=2), 35, 40),  # the smallest sigmas leave the image as it is
    ],
)
def test_each_change_shows_in_its_share_of_samples_and_leaves_an_image(augment, photometry, low, high):
    changed = 0
    for seed in range(40):
        image = augment(smooth(), photometry, random(seed))
        assert image.shape == (90, 110)
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        assert (image >= 0).all()
        changed += (image != smooth()).any()
        np.testing.assert_array_equal(image, augment(smooth(), photometry, random(seed)))
    assert low <= changed <= high


@pytest.mark.parametrize("augment", [augment_optical, augment_sar])
@pytest.mark.parametrize("value", [0, 7])
def test_constant_images_survive_everything(augment, value):
    strong = Photometry(tone=1, gain=0.5, speckle=1, blur=2, noise=0.5)
    for seed in range(10):
        assert np.isfinite(augment(np.full((20, 20), value, np.float32), strong, random(seed))).all()


def test_the_optical_tone_may_fall_and_the_sar_tone_never_does():
    order = np.argsort(smooth(), axis=None)
    falls = {}
    for augment in (augment_optical, augment_sar):
        sorted_values = [augment(smooth(), Photometry(tone=1), random(seed)).ravel()[order] for seed in range(30)]
        falls[augment] = sum((np.diff(values) < -1e-3).any() for values in sorted_values)
    assert 5 < falls[augment_optical] < 25
    assert falls[augment_sar] == 0


def test_speckle_keeps_the_mean_square_and_roughens():
    flat = np.full((200, 200), 50, np.float32)
    spreads = []
    for seed in range(20):
        image = augment_sar(flat, Photometry(speckle=1), random(seed))
        assert np.mean(image**2) == pytest.approx(50**2, rel=0.03)
        spreads.append(np.std(image**2) / 50**2)
    assert 1 / 8.5 < min(spreads) < 0.2 < 0.5 < max(spreads) < 1 / 1.3, "64 to 2 looks: 1 / 8 to 1 / sqrt(2)"


def test_blur_smooths():
    rough = random().normal(100, 10, (90, 110)).astype(np.float32)
    spreads = [augment_sar(rough, Photometry(blur=2), random(seed)).std() for seed in range(20)]
    assert min(spreads) < 2
    assert max(spreads) <= rough.std()


def test_network_inputs_have_mean_0_and_unit_variance():
    for image in finish(whole(smooth()), whole(np.exp(smooth() / 50))):
        assert image.shape == (1, 90, 110)
        assert image.dtype == np.float32
        assert image.mean() == pytest.approx(0, abs=0.01)
        assert image.std() == pytest.approx(1, abs=0.01)


def test_what_is_not_valid_neither_counts_nor_shows():
    valid = masked().valid
    patches = [Patch(np.where(valid, image, 9999)[None], valid) for image in (smooth(), np.exp(smooth() / 50))]
    for image in finish(*patches):
        assert (image[0, ~valid] == 0).all()
        assert image[0, valid].mean() == pytest.approx(0, abs=0.01)
        assert image[0, valid].std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("decibel", [False, True])
@pytest.mark.parametrize("holes", [False, True])
def test_the_network_sees_in_training_what_it_sees_in_the_matcher(monkeypatch, tmp_path, decibel, holes):
    network = build("slim-unet", shared=False, widths=[8, 8, 8])
    save_weights(tmp_path / "w.safetensors", network, Architecture("slim-unet", False, "cc", {"widths": [8, 8, 8]}))
    seen = {}

    def record(self, image, modality):
        seen[modality] = image.clone()
        return image

    monkeypatch.setattr(Branches, "forward", record)
    valid = masked().valid if holes else np.ones((90, 110), bool)
    colour = np.stack([smooth(seed=k) for k in range(3)])
    amplitude = random().rayleigh(smooth(seed=4)).astype(np.float32)[None]
    values = 20 * np.log10(np.maximum(amplitude, 1)) - 50 if decibel else amplitude
    optical, sar = (Patch(np.where(valid, image, np.float32(0)), valid) for image in (colour, values))
    extract = SlimUNetMatcher(weights=str(tmp_path / "w.safetensors")).extractor(sar)
    extract(optical, "optical")
    extract(sar, "sar")
    for image, modality in zip(finish(optical, sar), ("optical", "sar"), strict=True):
        assert seen[modality].dtype == torch.float32
        np.testing.assert_array_equal(seen[modality][0], image)
