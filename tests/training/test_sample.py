"""training.sample: where the template lies in the patch, and what is done to grey values."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.registration import phase_cross_correlation

from sn9reg.matchers.base import matcher_class
from sn9reg.matchers.dense.networks.branches import Branches, build
from sn9reg.matchers.dense.weights import DenseOptions, save_dense
from sn9reg.raster.scene import Patch
from sn9reg.training.sample import Geometry, Photometry, augment_optical, augment_sar, cut, finish

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
    return whole(col), whole(row)


def at(patch, place, side=32):
    """(h, w) the part of a patch where the template of `side` px lies."""
    return patch.values[0, place[0] : place[0] + side, place[1] : place[1] + side]


def random(seed=0):
    return np.random.default_rng(seed)


def slopes(images):
    """(2, 2) x, y: the linear part of the mapping from a crop to the image, whose two ramps were cut."""
    return np.array([[np.diff(image, axis=axis).mean() for axis in (1, 0)] for image in images])


def off_quarters(matrix):
    """Degrees from the nearest number of quarters of a turn; of a mirrored mapping, after its columns are."""
    upright = matrix @ np.diag([np.sign(np.linalg.det(matrix)), 1.0])
    return (np.rad2deg(np.arctan2(upright[1, 0], upright[0, 0])) + 45) % 90 - 45


@pytest.mark.parametrize(("quarters", "flips"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize(("optical", "sar"), [(48, 32), (47, 32), (48, 31), (90, 89)])
def test_a_seed_gives_this_part_of_the_image_exactly(quarters, flips, optical, sar):
    """The draws in their order: corner, flip, quarters, place. Bands become their mean."""
    image = np.arange(90 * 110, dtype=np.float32).reshape(90, 110)
    bands = Patch(np.stack([image - 2, image + 2]).astype(np.uint16) + 2, np.ones(image.shape, bool))
    for seed in range(30):
        draws = random(seed)
        col, row = np.floor(draws.uniform(0, 1, 2) * [110 - optical, 90 - optical]).astype(int)
        flip, quarter, place = draws.integers(2), draws.integers(4), draws.integers(0, optical - sar + 1, 2)
        expected = np.rot90(image[row : row + optical, col : col + optical], quarter if quarters else 0)
        geometry = Geometry(optical, sar, quarters=quarters, flips=flips)
        patch, template, found = cut(bands, whole(image), geometry, 1.0, random(seed))
        np.testing.assert_array_equal(found, place)
        np.testing.assert_array_equal(patch.values[0], (expected[:, ::-1] if flip and flips else expected) + 2)
        assert patch.values.dtype == np.float32
        np.testing.assert_array_equal(template.values[0] + 2, at(patch, place, sar))


@pytest.mark.parametrize("tilt", [0.0, 30.0])
@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.3, 2.0])
def test_template_and_patch_show_the_same_at_the_place(zoom, tilt):
    image = whole(smooth(130, 140))
    for seed in range(8):
        patch, template, place = cut(image, image, Geometry(48, 32, tilt=tilt), zoom, random(seed))
        shift = phase_cross_correlation(at(patch, place), template.values[0], upsample_factor=50)[0]
        assert np.abs(shift).max() <= 0.1
        np.testing.assert_allclose(template.values[0], at(patch, place), atol=0.5)


@pytest.mark.parametrize(("size", "zoom"), [(96, 0.5), (48, 1.0), (32, 1.5), (16, 3.0)])
def test_zoom_is_the_number_of_output_pixels_per_input_pixel(size, zoom):
    """The patch lies within the image: beyond it there would be a reflection. Where it shows the whole image, there is
    no room for a tilt, and their middles are the same: half an output pixel is not half an input pixel."""
    for seed in range(4):
        for ramp in ramps(size, size):
            crop = cut(ramp, ramp, Geometry(48, 32, tilt=30), zoom, random(seed))[0].values[0]
            assert crop[23:25, 23:25].mean() == pytest.approx(10 + (size - 1) / 2, abs=0.05 / zoom)
        shown = [cut(ramp, ramp, GEOMETRY, zoom, random(seed))[0].values[0] for ramp in ramps(100)]
        inner = slopes([values[4:-4, 4:-4] for values in shown])  # blur and cubic interpolation reach over the border
        np.testing.assert_allclose(np.sort(np.abs(inner)), [[0, 1 / zoom]] * 2, atol=0.01)
        for values, length in zip(shown, (110, 100), strict=True):
            assert 9.3 <= values.min() < values.max() <= length + 9.7


def test_turn_and_stretch_are_about_the_middle_and_within_their_limits():
    """Of ramps the slopes are the linear part of the mapping, and the middle is its fixed point."""
    geometry, found, images = Geometry(48, 32, turn=10, stretch=0.1), [], ramps(200, 200)
    for seed in range(45):
        crops = [cut(ramp, ramp, geometry, 1.0, random(seed)) for ramp in images]
        parts, templates = [at(patch, place) for patch, _, place in crops], [t.values[0] for _, t, _ in crops]
        if not 20 < np.min(parts) <= np.max(parts) < 190:  # a template turned over the image's border sees reflections
            continue
        for part, template in zip(parts, templates, strict=True):
            assert template[15:17, 15:17].mean() == pytest.approx(part[15:17, 15:17].mean(), abs=0.05)
        linear = np.linalg.inv(slopes(parts)) @ slopes(templates)
        scale, turn = np.sqrt(np.linalg.det(linear)), np.arctan2(linear[1, 0], linear[0, 0])
        expected = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        np.testing.assert_allclose(linear, expected, atol=0.01)
        found.append((np.rad2deg(turn), scale))
    angles, scales = np.transpose(found)
    assert -10.1 < angles.min() < -5 < 5 < angles.max() < 10.1
    assert 0.899 < scales.min() < 0.95 < 1.05 < scales.max() < 1.101


@pytest.mark.parametrize("zoom", [1.0, 1.6])
@pytest.mark.parametrize("size", [(60, 60), (70, 130)])
def test_tilted_crops_stay_within_their_limit_and_within_the_image(size, zoom):
    """Beyond it there would be a reflection: a ramp would turn back by more than a pixel. 60 px have room for 48 px
    tilted by at most 17 degrees; what is tilted further is magnified until it has."""
    angles = []
    for seed in range(40):
        crops = [cut(ramp, ramp, Geometry(48, 32, tilt=20.0), zoom, random(seed)) for ramp in ramps(*size)]
        matrix = zoom * slopes([patch.values[0] for patch, _, _ in crops])
        shown = np.linalg.norm(matrix, axis=0)[:, None]
        assert (0.8 if zoom == 1 and size == (60, 60) else 0.97) < shown.min() <= shown.max() < 1.03
        matrix /= shown
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(2), atol=0.05)
        for (patch, template, _), length in zip(crops, size[::-1], strict=True):
            for crop in (patch, template):
                assert 9.2 <= crop.values.min() <= crop.values.max() <= length + 9.8
        angles.append(off_quarters(matrix))
    assert np.mean(np.abs(angles) > 2) > 0.6
    assert -20.3 <= min(angles) < -17 < 17 < max(angles) <= 20.3


def masked():
    """100 inside a disc, which alone is valid."""
    row, col = np.mgrid[:90, :110]
    valid = (row - 45) ** 2 + (col - 50) ** 2 < 30**2
    return Patch(np.where(valid, np.float32(100), np.float32(0))[None], valid)


@pytest.mark.parametrize("zoom", [1.0, 1.7])
def test_masks_go_with_the_values(zoom):
    """But for pixels at the masks' border, where those of two scales need not agree."""
    for seed in range(12):
        patch, template, place = cut(masked(), masked(), GEOMETRY, zoom, random(seed))
        for part in (patch, template):
            mask, near = part.valid.astype(np.uint8), np.ones((5, 5) if zoom != 1 else (1, 1))
            sure = cv2.dilate(mask, near) == cv2.erode(mask, near)
            if zoom != 1:  # what comes just outside is not known
                sure[[0, 1, -2, -1]] = sure[:, [0, 1, -2, -1]] = False
            np.testing.assert_array_equal(part.valid[sure], part.values[0, sure] > 50)
        np.testing.assert_array_equal(template.valid, at(Patch(patch.valid[None], patch.valid), place))
    nowhere = Patch(smooth()[None], np.zeros((90, 110), bool))
    patch, template, _ = cut(whole(smooth()), nowhere, GEOMETRY, zoom, random())
    assert patch.valid.all()
    assert not template.valid.any()


@pytest.mark.parametrize(
    ("augment", "photometry", "low", "high"),
    [
        (augment_optical, Photometry(), 0, 0),
        (augment_optical, Photometry(tone=0.5), 12, 28),
        (augment_optical, Photometry(gain=0.3), 39, 40),
        (augment_optical, Photometry(blur=2), 6, 20),
        (augment_optical, Photometry(noise=0.2), 39, 40),
        (augment_sar, Photometry(), 0, 0),
        (augment_sar, Photometry(tone=1), 12, 28),
        (augment_sar, Photometry(gain=0.3), 39, 40),
        (augment_sar, Photometry(speckle=0.5), 12, 28),
        (augment_sar, Photometry(noise=0.2), 0, 0),
        (augment_sar, Photometry(sar_noise=0.2), 39, 40),
        (augment_sar, Photometry(blur=2), 35, 40),  # the smallest sigmas leave the image as it is
    ],
)
def test_each_change_shows_in_its_share_of_samples_and_leaves_an_image(augment, photometry, low, high):
    changed, before = 0, smooth()
    augment(np.full((20, 20), 0, np.float32), photometry, random())  # divides by nothing
    for seed in range(40):
        image = augment(before, photometry, random(seed))
        assert (image.shape, image.dtype) == ((90, 110), np.float32)
        assert image.min() >= 0
        changed += (image != before).any()
    np.testing.assert_array_equal(image, augment(before, photometry, random(seed)))
    np.testing.assert_array_equal(before, smooth())
    assert low <= changed <= high


def test_the_optical_tone_may_fall_and_the_sar_tone_never_does():
    order = np.argsort(smooth(), axis=None)
    for augment, least, most in ((augment_optical, 6, 24), (augment_sar, 0, 0)):
        sorted_values = [augment(smooth(), Photometry(tone=1), random(seed)).ravel()[order] for seed in range(30)]
        assert least <= sum((np.diff(values) < -1e-3).any() for values in sorted_values) <= most


def test_speckle_keeps_the_mean_square_and_roughens_and_blur_smooths():
    flat, rough = np.full((120, 120), 50, np.float32), random().normal(100, 10, (90, 110)).astype(np.float32)
    intensities = [augment_sar(flat, Photometry(speckle=1), random(seed)) ** 2 for seed in range(20)]
    blurred = [augment_sar(rough, Photometry(blur=2), random(seed)).std() for seed in range(20)]
    np.testing.assert_allclose(np.mean(intensities, axis=(1, 2)), 50**2, rtol=0.03)
    spreads = np.std(intensities, axis=(1, 2)) / 50**2
    assert 1 / 8.5 < min(spreads) < 0.2 < 0.5 < max(spreads) < 1 / 1.3, "64 to 2 looks: 1 / 8 to 1 / sqrt(2)"
    assert min(blurred) < 2 < max(blurred) <= rough.std()


@pytest.mark.parametrize("decibel", [False, True])
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_network_sees_in_training_what_it_sees_in_the_matcher(monkeypatch, tmp_path, decibel, holes, channels):
    file, options = tmp_path / "w.safetensors", {"widths": [8, 8, 8], "in_channels": channels}
    network = build("slim-unet", shared=False, **options)
    save_dense(file, network, DenseOptions("slim-unet", False, "cc", options))
    seen = []
    monkeypatch.setattr(Branches, "forward", lambda self, image, modality: seen.append(image.clone()) or image)
    valid = masked().valid if holes else np.ones((90, 110), bool)
    colour = np.stack([smooth(seed=k) for k in range(3)])
    values = random().rayleigh(smooth(seed=4)).astype(np.float32)[None]
    values = 20 * np.log10(np.maximum(values, 1)) - 50 if decibel else values
    optical, sar = (Patch(np.where(valid, image, np.float32(0)), valid) for image in (colour, values))
    extract = matcher_class("slim-unet")(weights=str(file)).extractor(sar)
    extract(optical, "optical")
    extract(sar, "sar")
    for image, found in zip(finish(optical, sar, channels), seen, strict=True):
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found[0], image)
