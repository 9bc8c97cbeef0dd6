"""features/phase_congruency: the same as Kovesi's, with noise and without, and nothing where there is nothing."""

import itertools
import math
import warnings
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from sn9reg.features.phase_congruency import phase_congruency

few = settings(max_examples=5, deadline=None)
seeds = st.integers(0, 2**32 - 1)
NAMES = ("maximum", "minimum", "orientation", "amplitude")


def ground(seed=0, height=64, width=80, noise=0.1):
    """(H, W) regions with sharp borders, and noise; mean 0, standard deviation 50."""
    random = np.random.default_rng(seed)
    regions = gaussian_filter(random.normal(size=(height, width)), 6, mode="wrap") > 0
    values = regions + noise * random.normal(size=(height, width))
    return 50 * (values - values.mean()) / values.std()


def of(values, valid=None):
    """Phase congruency of one (H, W) image, each part as an array without the batch."""
    valid = None if valid is None else torch.from_numpy(valid)[None]
    found = phase_congruency(torch.from_numpy(np.asarray(values, np.float32))[None], valid)
    return type(found)(*(part[0].numpy() for part in astuple(found)))


def largest_difference(one, other):
    return np.abs(np.asarray(one, np.float64) - other).max()


def assert_alike(one, other, tolerance, inside=slice(None)):
    """All parts in the columns `inside`; orientations modulo a half turn, where there is congruency."""
    for name in ("maximum", "minimum", "amplitude"):
        mine, yours = (getattr(found, name)[..., inside] for found in (one, other))
        assert largest_difference(mine, yours) <= tolerance * (mine.max() if name == "amplitude" else 1), name
    there = one.maximum[:, inside] > 0.05
    between = half_turn(one.orientation - other.orientation)[:, inside][there]
    assert there.mean() > 0.01
    assert np.percentile(np.abs(between), 99) <= 5 * tolerance


def assert_nothing(found):
    for name, part in zip(NAMES, astuple(found), strict=True):
        assert (part == 0).all(), name


def half_turn(angle):
    """The angle modulo a half turn, in [-pi / 2, pi / 2)."""
    return (angle + math.pi / 2) % math.pi - math.pi / 2


@pytest.mark.parametrize("noise", [0.1, 0.0])
def test_everything_is_as_phasepack_has_it(noise):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants pyfftw, and works without
        phasecong = pytest.importorskip("phasepack").phasecong
    parameters = {"nscale": 4, "norient": 6, "minWaveLength": 3.0, "mult": 1.6, "sigmaOnf": 0.75}
    parameters |= {"k": 1.0, "cutOff": 0.5, "g": 3.0, "noiseMethod": -1}
    maximum, minimum, degrees, _, _, responses, _ = phasecong(ground(noise=noise), **parameters)
    order = [(6 - k) % 6 for k in range(6)]  # its angles run from x upwards, ours downwards
    amplitudes = np.stack([np.abs(responses[k]).sum(axis=0) for k in order])
    found = of(ground(noise=noise))
    assert maximum.max() > 0.1
    for ours, theirs in ((found.maximum, maximum), (found.minimum, minimum)):
        assert largest_difference(ours, theirs) < 1e-3
    assert largest_difference(found.amplitude, amplitudes) < 1e-3 * amplitudes.max()
    between = half_turn(found.orientation + np.radians(degrees))[maximum > 0.1]
    assert np.percentile(np.abs(np.degrees(between)), 99) < 0.55  # theirs are whole degrees


@few
@given(
    seed=seeds,
    gain=st.sampled_from([1e-6, 0.3, 1e6, -1.0]),
    level=st.floats(-20, 20),
    shift=st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
)
def test_contrast_level_and_place_do_not_matter(seed, gain, level, shift):
    image = ground(seed, 48, 64)
    there = of(np.roll(gain * (image + level), shift, (0, 1)))
    back = type(there)(*(np.roll(part, (-shift[0], -shift[1]), (-2, -1)) for part in astuple(there)))
    found = of(image)
    assert_alike(found, back, 1e-3)
    assert ((found.minimum >= 0) & (found.minimum <= found.maximum) & (found.maximum <= 1 + 1e-5)).all()
    assert 0 <= found.orientation.min() <= found.orientation.max() <= math.pi  # rounded up to it at most
    coarse = np.rint(0.6 * image)  # a level far above the contrast
    assert_alike(of(coarse), of(coarse + 2.0**21), 3e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_images_of_a_batch_do_not_touch_each_other(masked):
    images = np.stack([ground(0), 1000 * ground(1, noise=0.5), np.zeros((64, 80))]).astype(np.float32)
    masks = np.random.default_rng(0).random(images.shape) > 0.2 if masked else None
    together = phase_congruency(torch.from_numpy(images), None if masks is None else torch.from_numpy(masks))
    for k, image in enumerate(images):
        alone = of(image, None if masks is None else masks[k])
        for name, one, all_of_them in zip(NAMES, astuple(alone), astuple(together), strict=True):
            assert all_of_them.shape == (3, *one.shape)
            assert all_of_them.dtype == torch.float32
            assert largest_difference(all_of_them[k], one) <= 1e-4 * max(1, one.max()), name


LEFT = np.arange(80) < np.full((64, 1), 40)  # half of an image


def test_there_is_no_congruency_where_nothing_is_valid_and_noise_is_that_of_what_is():
    found = of(ground(), LEFT)
    for part in (found.maximum, found.minimum):
        assert (part[~LEFT] == 0).all()
        assert part[LEFT].max() > 0.01
    assert_alike(of(ground(), np.ones((64, 80), bool)), of(ground()), 0)
    image = ground(noise=0.05)
    image[~LEFT] += 200 * np.random.default_rng(1).normal(size=64 * 40)
    inner = np.s_[:, 10:30]
    assert of(image, LEFT).maximum[inner].mean() > 2 * of(image).maximum[inner].mean()
    image = np.tile(ground(width=40), 2)
    assert_alike(of(image, LEFT), of(image), 1e-5, inside=slice(40))


def test_neither_a_constant_nor_rounding_nor_what_is_not_valid_is_contrast():
    for shape, level in itertools.product(((37, 53), (1, 1), (8, 75)), (0.0, 0.1, -123.4, 60000.0)):
        for valid in (None, np.ones(shape, bool)):
            assert_nothing(of(np.full(shape, level), valid))
    rounding = np.float32(1e-7) * np.random.default_rng(0).integers(0, 2, (64, 80))
    image = np.float32(0.1) * (1 + rounding).astype(np.float32)
    assert image.max() > image.min()
    assert_nothing(of(image))
    assert_nothing(of(np.where(LEFT, 12.3, ground()), LEFT))
    for image in (ground(), np.zeros((64, 80))):
        assert_nothing(of(image, np.zeros((64, 80), bool)))
