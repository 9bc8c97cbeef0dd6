"""features/orientation: what the filters pass, and what the features must not mind."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from sn9reg.features.orientation import orientation_features, orientation_harmonics, orientation_response

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def texture(seed, size=64, width=1.5):
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), width, mode="wrap")
    return torch.from_numpy((values / values.std()).astype(np.float32))[None]


def grating(degrees, wavelength, size=96):
    """A wave whose normal points at `degrees` from x towards y (down)."""
    y, x = np.mgrid[:size, :size]
    along = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
    return torch.from_numpy(np.sin(2 * np.pi * along / wavelength + 0.3).astype(np.float32))[None]


def inner(features, rim=24):
    return features[..., rim:-rim, rim:-rim]


@pytest.mark.parametrize(("orientations", "scale"), [(6, 0), (9, 1)])
def test_scale_and_orientation_answer_to_their_gratings(orientations, scale):
    wavelengths = (5.0, 20.0)
    for k in range(orientations):
        image = grating(k * 180 / orientations, wavelengths[scale])
        responses = torch.cat(list(orientation_response(image, orientations, wavelengths)))
        strength = inner(responses.abs() ** 2).mean(dim=(2, 3))
        assert int(strength.argmax()) == scale * orientations + k
        assert strength[scale, k] > 10 * strength[1 - scale].max()
        assert strength[scale, k] > 10 * strength[scale, (k + orientations // 2) % orientations]
        channels = inner(orientation_features(image, orientations, wavelengths[scale : scale + 1], phase=0.0)[0])
        assert (channels.argmax(dim=0) == k).all()


@few
@given(seed=seeds, degrees=st.floats(0, 180), share=st.floats(0.0, 1.0))
def test_features_do_not_mind_reversed_contrast_or_gain_or_level(seed, degrees, share):
    image = texture(seed) + share * grating(degrees, 9.0, size=64)
    features = orientation_features(image)
    for other in (-image, 1e-3 * image, 5e4 * image, image + 3, 2 - 7 * image):
        assert (orientation_features(other) - features).abs().max() < 5e-3


def test_features_do_not_mind_a_gain_that_varies_slowly():
    y, x = torch.meshgrid(torch.arange(160), torch.arange(160), indexing="ij")
    image, gain = texture(3, 160), 1 + 0.9 * torch.sin(x / 25) * torch.cos(y / 30)
    here, there, other = (inner(orientation_features(v))[0] for v in (image, gain * image, texture(4, 160)))
    assert (here * there).sum(dim=0).mean() > 0.98
    assert (here * other).sum(dim=0).mean() < 0.8


@pytest.mark.parametrize(("phase", "wavelengths"), [(0.0, (6.0,)), (1.0, (5.0, 9.0, 18.0))])
def test_features_have_unit_length_and_images_of_a_batch_do_not_touch(phase, wavelengths):
    images = torch.cat([texture(0), 100 * texture(1)])
    together = orientation_features(images, 5, wavelengths, phase)
    assert together.shape == (2, (3 if phase else 1) * 5 * len(wavelengths), 64, 64)
    length = together.norm(dim=1)
    assert length.max() < 1 + 1e-5
    assert length.median() > 0.99
    assert (length > 0.9).float().mean() > 0.95
    for k in range(2):
        alone = orientation_features(images[[k]], 5, wavelengths, phase)
        torch.testing.assert_close(together[[k]], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("octaves", "order", "tolerance"), [(1, 0, 1e-4), (1, 4, 1e-4), (2, 2, 0.02), (2, 4, 0.02)])
def test_harmonics_are_a_fourier_series_over_orientations_of_the_energies_of_all_scales(octaves, order, tolerance):
    images = torch.cat([texture(0), texture(1)])
    energy = orientation_features(images, 9, (6.0, 12.0)[:octaves], 0.0).unflatten(1, (octaves, 9)).sum(dim=1)
    series = torch.fft.rfft(energy / math.sqrt(octaves), dim=1, norm="ortho")[:, : order + 1]
    length = series[:, 0].abs().square() + 2 * series[:, 1:].abs().square().sum(dim=1)
    found = orientation_harmonics(images, 9, octaves=octaves, order=order)
    assert found.shape == (2, 1 + 2 * order, 64, 64)
    assert (found.square().sum(dim=1) - length).abs().mean() < tolerance * length.mean()
    if order == 4:  # all of them: nothing is lost
        products = (features[0] * features[1] for features in (found, energy / math.sqrt(octaves)))
        torch.testing.assert_close(*(product.sum(dim=0) for product in products), atol=2 * tolerance, rtol=0.1)


@pytest.mark.parametrize("shape", [(38, 54), (2, 2)])
@pytest.mark.parametrize("describe", [orientation_features, orientation_harmonics])
def test_what_is_constant_has_no_features(shape, describe):
    for level in (0.0, 0.1, -123.4, 60000.0):
        assert (describe(torch.full((1, *shape), level)) == 0).all()
    image = texture(0, 256)
    image[:, :, 96:] = 0.7
    features = describe(image)[0].norm(dim=0)
    assert features[:, 170:182].max() < 0.3
    assert features[:, 20:76].median() > 0.85


@few
@given(seed=seeds, half=st.integers(2, 5), shift=st.tuples(st.integers(-20, 20), st.integers(-20, 20)))
def test_features_move_with_the_image_and_a_quarter_turn_permutes_the_orientations(seed, half, shift):
    image, orientations = texture(seed, 63), 2 * half
    upright, moved, turned = (
        orientation_features(values, orientations, (5.0, 10.0), phase=0.0)
        for values in (image, image.roll(shift, (1, 2)), torch.rot90(image, 1, (1, 2)))
    )
    torch.testing.assert_close(moved, upright.roll(shift, (2, 3)), atol=2e-3, rtol=0)
    back = torch.rot90(turned, -1, (2, 3)).unflatten(1, (2, orientations))
    expected = upright.unflatten(1, (2, orientations)).roll(half, dims=2)
    torch.testing.assert_close(back, expected, atol=2e-3, rtol=0)


def test_the_phase_channel_tells_a_line_from_a_step_and_bright_from_dark_it_does_not():
    line, step = torch.zeros(1, 96, 96), torch.zeros(1, 96, 96)
    line[:, :, 47:50] = 1
    step[:, :, 48:] = 1  # its edge lies between columns 47 and 48
    real = [orientation_features(image, 6, (10.0,), phase=1.0)[0, 6, 48] for image in (line, -line, step, -step)]
    assert min(real[0][48], real[1][48]) > 0.3
    assert max(real[2][47:49].max(), real[3][47:49].max()) < -0.2
