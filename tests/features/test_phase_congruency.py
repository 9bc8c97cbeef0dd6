"""features/phase_congruency: the same as Kovesi's, on edges, lines and corners, and where there is nothing."""

from __future__ import annotations

import math
import warnings
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from sn9reg.features.phase_congruency import phase_congruency

few = settings(max_examples=6, deadline=None)
seeds = st.integers(0, 2**32 - 1)
NAMES = ("congruency", "maximum", "minimum", "orientation", "amplitude")
# sn9reg's name of a parameter, phasepack's, and the value by which the two are compared first
PARAMETERS = {
    "scales": ("nscale", 4),
    "orientations": ("norient", 6),
    "wavelength": ("minWaveLength", 3.0),
    "factor": ("mult", 1.6),
    "sigma_on_f": ("sigmaOnf", 0.75),
    "k": ("k", 1.0),
    "cut_off": ("cutOff", 0.5),
    "g": ("g", 3.0),
}


def ground(seed=0, height=64, width=80, noise=0.1):
    """(H, W) regions with sharp borders, and noise; mean 0, standard deviation 50."""
    random = np.random.default_rng(seed)
    regions = gaussian_filter(random.normal(size=(height, width)), 6, mode="wrap") > 0
    values = regions + noise * random.normal(size=(height, width))
    return 50 * (values - values.mean()) / values.std()


def of(values, **options):
    """Phase congruency of one (H, W) image, each part as an array without the batch."""
    valid = options.pop("valid", None)
    valid = None if valid is None else torch.from_numpy(valid)[None]
    found = phase_congruency(torch.from_numpy(np.asarray(values, np.float32))[None], valid, **options)
    return type(found)(*(part[0].numpy() for part in astuple(found)))


def largest_difference(one, other):
    return np.abs(np.asarray(one, np.float64) - other).max()


def assert_alike(one, other, tolerance, inside=slice(None)):
    """All parts in the columns `inside`; orientations modulo a half turn, where there is congruency."""
    for name in ("congruency", "maximum", "minimum", "amplitude"):
        mine, yours = (getattr(found, name)[..., inside] for found in (one, other))
        assert largest_difference(mine, yours) <= tolerance * (mine.max() if name == "amplitude" else 1), name
    there = one.maximum[:, inside] > 0.05
    between = half_turn(one.orientation - other.orientation)[:, inside][there]
    assert there.mean() > 0.01
    assert np.percentile(np.abs(between), 99) <= 5 * tolerance


def half_turn(angle):
    """The angle modulo a half turn, in [-pi / 2, pi / 2)."""
    return (angle + math.pi / 2) % math.pi - math.pi / 2


def step(degrees, size=96):
    """A bright half plane whose border passes through the middle pixel; its normal points `degrees` from x to y."""
    y, x = np.mgrid[:size, :size] - size // 2
    return 1 / (1 + np.exp(-4 * (x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees)))))


def line(degrees, size=96):
    y, x = np.mgrid[:size, :size] - size // 2
    return np.exp(-0.5 * (x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))) ** 2)


def square(low=32, high=64, size=96):
    """Bright, from pixel `low` to pixel `high` - 1."""
    image = np.zeros((size, size))
    image[low:high, low:high] = 1
    return image


# --- phasepack -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phasecong():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants pyfftw, and works without
        return pytest.importorskip("phasepack").phasecong


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scales": 3},
        {"orientations": 8},
        {"orientations": 5, "scales": 5},
        {"k": 0.0},
        {"k": 3.0},
        {"wavelength": 4.0, "factor": 2.1, "sigma_on_f": 0.55},
        {"g": 10.0, "cut_off": 0.3},
    ],
    ids=str,
)
def test_everything_is_as_phasepack_has_it(options, phasecong):
    image = ground()
    theirs = {name: options.get(own, default) for own, (name, default) in PARAMETERS.items()}
    maximum, minimum, degrees, _, shares, responses, _ = phasecong(image, **theirs, noiseMethod=-1)
    count = theirs["norient"]
    order = [(count - k) % count for k in range(count)]  # its angles run from x upwards, ours downwards
    amplitudes = np.stack([np.abs(responses[k]).sum(axis=0) for k in order])
    congruency = sum(shares[k] * amplitude for k, amplitude in zip(order, amplitudes, strict=True)) / amplitudes.sum(0)

    own = of(image, **options)
    assert maximum.max() > 0.1
    assert largest_difference(own.maximum, maximum) < 1e-3
    assert largest_difference(own.minimum, minimum) < 1e-3
    assert largest_difference(own.congruency, congruency) < 1e-3
    assert largest_difference(own.amplitude, amplitudes) < 1e-3 * amplitudes.max()
    between = half_turn(own.orientation + np.radians(degrees))[maximum > 0.1]
    assert np.percentile(np.abs(np.degrees(between)), 99) < 0.55  # theirs are whole degrees


def test_defaults_are_those_compared_with_phasepack():
    given = {own: value for own, (_, value) in PARAMETERS.items()}
    for name, part, same in zip(NAMES, astuple(of(ground())), astuple(of(ground(), **given)), strict=True):
        assert np.array_equal(part, same), name


# --- what it must not mind -------------------------------------------------------------------------------------------


@few
@given(seed=seeds, gain=st.sampled_from([1e-6, 0.3, 255.0, 1e6]), level=st.floats(-20, 20))
def test_contrast_and_level_do_not_matter(seed, gain, level):
    image = ground(seed, 48, 64)
    assert_alike(of(image), of(gain * (image + level)), 1e-3)


def test_a_level_far_above_the_contrast_does_not_matter():
    image = np.rint(0.6 * ground())
    assert_alike(of(image), of(image + 2.0**21), 3e-3)


@few
@given(seed=seeds)
def test_reversed_contrast_does_not_matter(seed):
    image = ground(seed, 48, 64)
    assert_alike(of(image), of(-image), 1e-4)


@few
@given(seed=seeds, shift=st.tuples(st.integers(-30, 30), st.integers(-30, 30)))
def test_congruency_moves_with_the_image(seed, shift):
    image = ground(seed)
    here, there = of(image), of(np.roll(image, shift, (0, 1)))
    back = type(there)(*(np.roll(part, (-shift[0], -shift[1]), (-2, -1)) for part in astuple(there)))
    assert_alike(here, back, 1e-3)


@few
@given(seed=seeds)
def test_a_quarter_turn_turns_the_orientations(seed):
    image = ground(seed, 63, 63)
    upright, turned = of(image), of(np.rot90(image))
    back = type(turned)(*(np.rot90(part, -1, (-2, -1)) for part in astuple(turned)))
    back = type(turned)(
        back.congruency, back.maximum, back.minimum, back.orientation + math.pi / 2, np.roll(back.amplitude, 3, axis=0)
    )
    assert_alike(upright, back, 1e-3)


def test_images_of_a_batch_do_not_touch_each_other():
    images = np.stack([ground(0), 1000 * ground(1, noise=0.5), np.zeros((64, 80))]).astype(np.float32)
    masks = np.random.default_rng(0).random(images.shape) > 0.2
    for valid in (None, masks):
        mask = None if valid is None else torch.from_numpy(valid)
        together = phase_congruency(torch.from_numpy(images), mask)
        for k, image in enumerate(images):
            alone = of(image, valid=None if valid is None else valid[k])
            for name, one, all_of_them in zip(NAMES, astuple(alone), astuple(together), strict=True):
                assert largest_difference(all_of_them[k], one) <= 1e-4 * max(1, one.max()), name


def test_single_precision_is_enough():
    image = torch.from_numpy(ground())[None]
    double = phase_congruency(image)
    assert double.congruency.dtype == torch.float64
    double = type(double)(*(part[0].numpy() for part in astuple(double)))
    assert_alike(of(image[0].numpy()), double, 1e-4)


def test_shapes_and_types():
    found = phase_congruency(torch.randn(2, 33, 47), orientations=5)
    for name, part in zip(NAMES, astuple(found), strict=True):
        assert part.shape == ((2, 5, 33, 47) if name == "amplitude" else (2, 33, 47)), name
        assert part.dtype == torch.float32, name


# --- edges, lines, corners -------------------------------------------------------------------------------------------


@few
@given(seed=seeds, noise=st.floats(0, 2), k=st.floats(0, 5))
def test_values_are_in_range(seed, noise, k):
    found = of(ground(seed, 64, 64, noise), k=k)
    for part in (found.congruency, found.maximum, found.minimum):
        assert part.min() >= 0
        assert part.max() <= 1 + 1e-5
    assert (found.minimum <= found.maximum).all()
    assert found.orientation.min() >= 0
    assert found.orientation.max() <= math.pi  # rounded up to it at most
    assert found.amplitude.min() >= 0


@pytest.mark.parametrize("shape", [step, line])
@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 135, 160])
def test_a_step_and_a_line_are_found_at_their_place(shape, degrees):
    found = of(shape(degrees), k=0.0)
    inner = slice(24, -24)
    y, x = np.mgrid[:96, :96] - 48
    away = np.abs(x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees)))[inner, inner]
    strength = found.maximum[inner, inner]
    assert strength[away < 0.5].min() > 3 * strength[away > 8].max()
    along = strength.argmax(axis=1) if degrees in (0, 20, 160) else strength.argmax(axis=0)
    place = away[np.arange(48), along] if degrees in (0, 20, 160) else away[along, np.arange(48)]
    assert place.max() <= 1


@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 135, 160])
def test_the_orientation_of_a_step_is_that_of_its_normal(degrees):
    found = of(step(degrees))
    between = half_turn(found.orientation[48, 48] - math.radians(degrees))
    assert abs(math.degrees(between)) < 3


@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 135, 160])
def test_the_orientation_beside_a_line_is_that_of_its_normal(degrees):
    found = of(line(degrees))
    x, y = np.rint(48 + 2 * np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])).astype(int)
    between = half_turn(found.orientation[y, x] - math.radians(degrees))
    assert abs(math.degrees(between)) < 3


def test_the_amplitude_is_largest_for_the_orientation_of_the_edge():
    for k in range(6):
        assert of(step(30 * k)).amplitude[:, 48, 48].argmax() == k


def test_a_corner_gives_minimum_moment_and_a_straight_edge_does_not():
    found = of(square())
    y, x = np.mgrid[:96, :96]
    corners = [(x0, y0) for x0 in (32, 63) for y0 in (32, 63)]
    distance = np.min([np.hypot(x - x0, y - y0) for x0, y0 in corners], axis=0)
    for x0, y0 in corners:
        assert found.minimum[y0, x0] > 3 * found.minimum[distance > 3].max()
    assert found.maximum[44:52, 30:34].max(axis=1).min() > 0.2


# --- noise -----------------------------------------------------------------------------------------------------------


def test_noise_has_less_congruency_than_edges_and_none_if_k_is_large():
    noise, edges = np.random.default_rng(0).normal(size=(64, 80)), ground(noise=0.0)
    assert of(noise).congruency.mean() < 0.2 * of(edges).congruency.mean()
    assert (of(noise, k=20.0).congruency == 0).all()
    assert of(edges, k=20.0).congruency.max() > 0.1


def test_congruency_falls_as_k_rises():
    found = [of(ground(noise=0.3), k=k).congruency for k in (0.0, 1.0, 2.0, 4.0)]
    for more, less in pairwise(found):
        assert (less <= more).all()
        assert less.sum() < more.sum()


# --- validity --------------------------------------------------------------------------------------------------------


def half(side="left", height=64, width=80):
    valid = np.zeros((height, width), bool)
    valid[:, : width // 2] = True
    return valid if side == "left" else ~valid


def test_there_is_no_congruency_where_nothing_is_valid():
    found = of(ground(), valid=half())
    for part in (found.congruency, found.maximum, found.minimum):
        assert (part[~half()] == 0).all()
        assert part[half()].max() > 0.01


def test_noise_is_that_of_what_is_valid():
    image = ground(noise=0.05)
    image[half("right")] += 200 * np.random.default_rng(1).normal(size=64 * 40)
    careful, all_of_it = of(image, valid=half()), of(image)
    inner = np.s_[:, 10:30]
    assert careful.congruency[inner].mean() > 2 * all_of_it.congruency[inner].mean()


def test_noise_of_a_part_is_that_of_the_whole_which_repeats_it():
    image = np.tile(ground(width=40), 2)
    assert_alike(of(image, valid=half()), of(image), 1e-5, inside=slice(40))


def test_a_mask_of_all_pixels_is_no_mask():
    assert_alike(of(ground(), valid=np.ones((64, 80), bool)), of(ground()), 0)


@pytest.mark.parametrize("image", [ground(), np.zeros((64, 80))], ids=["ground", "zero"])
def test_where_no_pixel_is_valid_all_is_zero(image):
    found = of(image, valid=np.zeros((64, 80), bool))
    for name, part in zip(NAMES, astuple(found), strict=True):
        assert (part == 0).all(), name


@pytest.mark.parametrize("shape", [(32, 32), (37, 53), (1, 1), (8, 75)])
@pytest.mark.parametrize("level", [0.0, 0.1, 7.3, -123.4, 60000.0])
def test_a_constant_image_has_no_congruency(shape, level):
    for valid in (None, np.ones(shape, bool)):
        found = of(np.full(shape, level), valid=valid)
        for name, part in zip(NAMES, astuple(found), strict=True):
            assert (part == 0).all(), name


def test_rounding_is_no_contrast():
    random = np.random.default_rng(0)
    image = np.float32(0.1) * (1 + np.float32(1e-7) * random.integers(0, 2, (64, 80))).astype(np.float32)
    assert image.max() > image.min()
    found = of(image)
    for name, part in zip(NAMES, astuple(found), strict=True):
        assert (part == 0).all(), name


def test_what_is_constant_where_valid_has_no_congruency():
    image = ground()
    image[half()] = 12.3
    found = of(image, valid=half())
    for name, part in zip(NAMES, astuple(found), strict=True):
        assert (part == 0).all(), name


@pytest.mark.parametrize("options", [{"scales": 1}, {"orientations": 1}, {"orientations": 2}], ids=str)
def test_one_scale_or_one_orientation_gives_numbers(options):
    found = of(ground(height=32, width=32), **options)
    for name, part in zip(NAMES, astuple(found), strict=True):
        assert np.isfinite(part).all(), name
    assert found.maximum.max() > 0
