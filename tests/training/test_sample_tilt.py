"""training.sample: `tilt`, by which both images are turned alike, and `quarters`."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sn9reg.raster.scene import Patch
from sn9reg.training.sample import Geometry, cut

SIDE, SAR = 48, 32


def whole(values):
    """A patch of (h, w) values that are all valid."""
    return Patch(values.astype(np.float32)[None], np.ones(values.shape, bool))


def texture(height=110, width=130, seed=0):
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2.0)
    return 100 + 20 * values / values.std()


def ramps(height=110, width=130):
    """Two images: every pixel holds its column, and every pixel its row; 10 more, so that none is cut off at 0."""
    row, col = np.mgrid[:height, :width].astype(np.float32) + 10
    return whole(col), whole(row)


def random(seed=0):
    return np.random.default_rng(seed)


def part_of(patch, place, side=SAR):
    return patch.values[0, place[0] : place[0] + side, place[1] : place[1] + side]


def like(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


def linear(geometry, seed, size=(110, 130), zoom=1.0):
    """Of the patch's mapping to the image, (2, 2) x, y; and how far it is from being linear at most, in pixels."""
    row, col = np.mgrid[: geometry.optical, : geometry.optical]
    basis = np.column_stack([col.ravel(), row.ravel(), np.ones(row.size)])
    slopes, far = [], 0.0
    for ramp in ramps(*size):
        values = cut(ramp, ramp, geometry, zoom, random(seed))[0].values[0].ravel()
        found = np.linalg.lstsq(basis, values, rcond=None)[0]
        slopes.append(found[:2])
        far = max(far, float(np.abs(basis @ found - values).max()))
    return np.array(slopes), far


def angle_of(matrix):
    """Degrees by which it turns; a mapping that is mirrored, after its columns are."""
    upright = matrix @ np.diag([np.sign(np.linalg.det(matrix)), 1.0])
    return np.rad2deg(np.arctan2(upright[1, 0], upright[0, 0]))


def off_quarters(matrix):
    """Degrees from the nearest number of quarters of a turn."""
    return abs((angle_of(matrix) + 45) % 90 - 45)


# --- tilt ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", [0.8, 1.0, 1.5])
@pytest.mark.parametrize("quarters", [True, False])
def test_both_crops_are_tilted_alike(zoom, quarters):
    image, geometry = whole(texture()), Geometry(SIDE, SAR, tilt=30.0, quarters=quarters)
    for seed in range(8):
        patch, template, place = cut(image, image, geometry, zoom, random(seed))
        assert like(part_of(patch, place), template.values[0]) > 0.999
        elsewhere = (place + 8) % (SIDE - SAR + 1)
        assert like(part_of(patch, elsewhere), template.values[0]) < 0.9


def test_they_are_turned_by_up_to_so_many_degrees_either_way_and_nothing_else():
    angles = []
    for seed in range(40):
        matrix, far = linear(Geometry(SIDE, SAR, tilt=20.0, quarters=False), seed)
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(2), atol=0.01)
        assert far < 0.3
        angles.append(angle_of(matrix))
    angles = np.array(angles)
    assert np.abs(angles).max() <= 20.1
    assert np.quantile(angles, 0.2) < -5 < 5 < np.quantile(angles, 0.8)


@pytest.mark.parametrize("zoom", [1.0, 1.6])
@pytest.mark.parametrize("size", [(66, 66), (70, 130), (130, 70)])
def test_where_there_is_room_no_pixel_comes_from_beyond_the_image(size, zoom):
    """Beyond it there would be a reflection, and a ramp would turn back: by more than a pixel, not by less than one as
    from the interpolation at its border."""
    geometry, tilted = Geometry(SIDE, SAR, tilt=45.0), 0
    for seed in range(25):
        matrix, far = linear(geometry, seed, size, zoom)
        assert far < 0.5
        for ramp, length in zip(ramps(*size), size[::-1], strict=True):
            for crop in cut(ramp, ramp, geometry, zoom, random(seed))[:2]:
                assert crop.values.min() >= 10 - 0.5 - 0.3
                assert crop.values.max() <= 10 + length - 0.5 + 0.3
        tilted += off_quarters(matrix) > 2
    assert tilted > 15


def test_the_border_of_an_image_is_never_seen_twice():
    """A frame of 3 px around the image; in a mirror there would be dark pixels behind it."""
    size, rim = 72, 3
    frame = np.full((size, size), 1000.0)
    frame[rim:-rim, rim:-rim] = 100
    seen = 0
    for seed in range(60):
        patch = cut(whole(frame), whole(frame), Geometry(SIDE, SAR, tilt=40.0), 1.0, random(seed))[0].values[0]
        bright = patch > 900
        seen += bright.any()
        # What is dark is convex: between two dark pixels there is none of the frame.
        for dark in (*(patch < 200), *(patch < 200).T):
            inner = np.flatnonzero(dark)
            if len(inner):
                assert dark[inner[0] : inner[-1] + 1].all()
    assert seen > 5


def test_the_middle_of_a_tilted_patch_is_where_the_upright_ones_would_be():
    """Of an image that has room for it in one place only: its middle."""
    room = np.cos(np.deg2rad(45)) + np.sin(np.deg2rad(45))
    size = int(np.ceil(SIDE * room))
    seen = []
    for seed in range(30):
        matrix, _ = linear(Geometry(SIDE, SAR, tilt=45.0), seed, (size, size))
        if off_quarters(matrix) < 40:
            continue
        for ramp in ramps(size, size):
            patch = cut(ramp, ramp, Geometry(SIDE, SAR, tilt=45.0), 1.0, random(seed))[0].values[0]
            seen.append(patch[SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1].mean())
    assert len(seen) >= 4
    np.testing.assert_allclose(seen, 10 + (size - 1) / 2, atol=1.0)


@pytest.mark.parametrize(("size", "zoom"), [(48, 1.0), (32, 1.5), (96, 0.5)])
def test_without_room_they_are_not_tilted(size, zoom):
    for seed in range(8):
        matrix, far = linear(Geometry(SIDE, SAR, tilt=30.0), seed, (size, size), zoom)
        assert off_quarters(matrix) < 1
        assert far < 0.6 / zoom


def test_with_little_room_they_are_tilted_a_little():
    """50 px have room for 48 px tilted by at most 2.5 degrees."""
    most = 0.0
    for seed in range(300):
        tilt = abs(np.random.default_rng(seed).uniform(-1, 1) * 20)
        if tilt > 4:  # most are not tilted: leave them to the test above
            continue
        matrix, _ = linear(Geometry(SIDE, SAR, tilt=20.0), seed, (50, 50))
        most = max(most, off_quarters(matrix))
    limit = np.rad2deg(np.arcsin((50 / SIDE) / np.sqrt(2))) - 45
    assert limit == pytest.approx(2.5, abs=0.1)
    assert limit / 2 < most <= limit + 0.2


def test_the_template_may_be_turned_besides():
    """By `turn`, against the patch; the tilt is of both."""
    image = whole(texture())
    for seed in range(5):
        patch, template, place = cut(image, image, Geometry(SIDE, SAR, tilt=30.0, turn=10.0), 1.0, random(seed))
        one, other = part_of(patch, place), template.values[0]
        assert like(one[12:20, 12:20], other[12:20, 12:20]) > 0.9
        assert np.abs(one - other).max() > 1


# --- quarters --------------------------------------------------------------------------------------------------------


def ways(geometry, seeds):
    """The linear parts of the mappings, as whole numbers."""
    return {tuple(map(int, np.rint(linear(geometry, seed)[0]).ravel())) for seed in range(seeds)}


def test_without_quarters_crops_are_upright_or_mirrored():
    assert ways(Geometry(SIDE, SAR, quarters=False), 20) == {(1, 0, 0, 1), (-1, 0, 0, 1)}


def test_with_quarters_there_are_eight_ways():
    assert len(ways(Geometry(SIDE, SAR), 60)) == 8


def test_without_quarters_the_template_is_the_patchs_part_all_the_same():
    image = whole(np.arange(110 * 130).reshape(110, 130))
    for seed in range(10):
        patch, template, place = cut(image, image, Geometry(SIDE, SAR, quarters=False), 1.0, random(seed))
        np.testing.assert_array_equal(part_of(patch, place), template.values[0])
        upright = patch.values[0] if patch.values[0, 0, 1] > patch.values[0, 0, 0] else patch.values[0, :, ::-1]
        np.testing.assert_array_equal(np.diff(upright, axis=1), 1)
        np.testing.assert_array_equal(np.diff(upright, axis=0), 130)


# --- what was before -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quarters", [True, False])
def test_without_tilt_a_seed_gives_what_it_gave_before_there_was_any(quarters):
    """The draws in their order, corner, flip, quarters, place, and the crop that they make."""
    image = np.arange(110 * 130, dtype=np.float32).reshape(110, 130)
    for seed in range(20):
        draws = random(seed)
        col, row = np.floor(draws.uniform(0, 1, 2) * [130 - SIDE, 110 - SIDE]).astype(int)
        flip, quarter, place = draws.integers(2), draws.integers(4), draws.integers(0, SIDE - SAR + 1, 2)
        expected = np.rot90(image[row : row + SIDE, col : col + SIDE], quarter if quarters else 0)
        expected = expected[:, ::-1] if flip else expected
        geometry = Geometry(SIDE, SAR, quarters=quarters)
        patch, template, found = cut(whole(image), whole(image), geometry, 1.0, random(seed))
        np.testing.assert_array_equal(found, place)
        np.testing.assert_array_equal(patch.values[0], expected)
        np.testing.assert_array_equal(
            template.values[0], expected[place[0] : place[0] + SAR, place[1] : place[1] + SAR]
        )


def test_there_is_no_tilt_unless_asked_for():
    assert (Geometry().tilt, Geometry().quarters) == (0, True)
