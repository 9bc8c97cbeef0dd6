"""descriptors/patches: which pixels a patch holds, and how orientations turn with it."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sn9reg.errors import ConfigError
from sn9reg.features.orientation import orientation_features
from sn9reg.matchers.descriptors.patches import PatchLayout, input_maps, sample_patches, standardised, turned
from sn9reg.options import check


def texture(seed=0, height=63, width=63):
    """(1, H, W) with mean 0 and standard deviation 1."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 1.5, mode="wrap")
    return torch.from_numpy(((values - values.mean()) / values.std()).astype(np.float32))[None]


def numbers(channels=6, height=40, width=50):
    """(C, H, W) maps of any numbers."""
    return torch.from_numpy(np.random.default_rng(0).random((channels, height, width), np.float32))


def places(*xy):
    return torch.tensor(xy, dtype=torch.float32)


def close(one, other, atol=1e-4):
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def test_values_out_of_range_are_refused():
    for option, value in (("side", 7), ("side", 1025), ("scale", 0.0), ("scale", 11), ("inputs", "gray")):
        with pytest.raises(ConfigError, match=option):
            check(PatchLayout, {option: value}, "patch")
    for side, scale in ((8, 0.1), (1024, 10)):  # the ends of the ranges are in them
        assert check(PatchLayout, {"side": side, "scale": scale}, "patch").extent == pytest.approx(side * scale)


@pytest.mark.parametrize(
    ("x", "y", "scale", "zoom", "turn", "side"),
    [(20, 15, 1.0, 1.0, 0.0, 9), (12.3, 27.9, 1.5, 0.6, 0.4, 8), (38.7, 10.2, 0.2, 1.0, -6.5, 9)],
)
def test_pixels_of_a_patch_are_where_it_points(x, y, scale, zoom, turn, side):
    """The maps hold coordinates, so a patch tells where it was taken."""
    row, col = np.mgrid[:40, :50].astype(np.float32)
    maps = torch.from_numpy(np.stack([col] * 6 + [row] * 6))
    patch = sample_patches(
        maps, places((x, y)), PatchLayout(side, scale, "energy"), torch.tensor([turn]), torch.tensor([zoom])
    )[0]
    v, u = torch.meshgrid(*[(torch.arange(side) - (side - 1) / 2) * scale * zoom] * 2, indexing="ij")
    close(patch[0], x + math.cos(turn) * u - math.sin(turn) * v)
    close(patch[6], y + math.sin(turn) * u + math.cos(turn) * v)


@pytest.mark.parametrize(("inputs", "channels"), [("grey", 1), ("energy", 12)])
def test_patches_do_not_touch_each_other(inputs, channels):
    layout, xy, maps = PatchLayout(8, 1.3, inputs), places((20.3, 15), (25, 18.8), (3, 39)), numbers(channels)
    angle, zoom = torch.tensor([0.1, 2.0, -1.0]), torch.tensor([1.0, 0.5, 1.5])
    together = sample_patches(maps, xy, layout, angle, zoom)
    for k in range(3):
        one = slice(k, k + 1)
        close(together[one], sample_patches(maps, xy[one], layout, angle[one], zoom[one]), atol=1e-5)


def test_the_part_of_a_patch_beyond_the_image_is_zero():
    maps = numbers()
    patch = sample_patches(maps, places((1, 38)), PatchLayout(9, 1.0, "energy"))[0]
    close(patch[:, :6, 3:], maps[:, 34:, :6])
    close(patch[:, :, :3], torch.zeros(6, 9, 3))
    close(patch[:, 6:], torch.zeros(6, 3, 9))
    outside = places((-30, 10), (90, 10), (20, -30), (20, 90))
    for inputs in ("grey", "energy"):
        assert not sample_patches(maps, outside, PatchLayout(9, 1.0, inputs)).any()


@pytest.mark.parametrize("inputs", ["grey", "energy"])
def test_a_patch_has_the_channels_of_its_layout(inputs):
    layout = PatchLayout(16, 1.0, inputs)
    found = sample_patches(input_maps(texture(), layout)[0], places((20, 15), (30, 11)), layout)
    assert found.shape == (2, layout.channels, 16, 16)


def test_the_image_is_standardised_patch_by_patch():
    maps = numbers(1)
    maps[0, :, 25:] = 100 * maps[0, :, 25:] - 7
    grey = sample_patches(maps, places((10, 15), (38, 20)), PatchLayout(9))[:, 0]
    close(grey.mean(dim=(1, 2)), torch.zeros(2))
    close(grey.square().mean(dim=(1, 2)), torch.ones(2))
    for level in (0.0, 0.7, -300.0):  # constant ones are 0, rounded or not
        constant = torch.full((2, 1, 15, 15), level)
        rounded = torch.where(torch.arange(15) % 3 == 0, constant, constant * (1 + 1e-7))
        assert not standardised(torch.cat([constant, rounded])).any()


@pytest.mark.parametrize(("inputs", "quarters"), [("grey", 1), ("energy", 2), ("energy", 3), ("grey", 3)])
def test_a_patch_of_a_turned_image_is_the_turned_patch(inputs, quarters):
    image, layout = texture(), PatchLayout(15, 1.0, inputs)
    x, y = 24, 35
    place = torch.zeros(63, 63)
    place[y, x] = 1
    there = divmod(int(torch.rot90(place, quarters).argmax()), 63)[::-1]
    whole, rotated = (input_maps(i, layout)[0] for i in (image, torch.rot90(image, quarters, (1, 2))))
    turned_patch = sample_patches(whole, places((x, y)), layout, torch.tensor([quarters * math.pi / 2]))
    close(sample_patches(rotated, places(there), layout), turned_patch, atol=3e-3)
    if inputs == "grey":
        upright = sample_patches(whole, places((x, y)), layout)
        close(turned_patch[:, 0], torch.rot90(upright[:, 0], quarters, (1, 2)))


def test_features_are_seen_beside_the_energies_and_do_not_turn_their_channels():
    layout, turn = PatchLayout(9, 1.0, "energy", features=2), torch.tensor([math.pi / 3])
    features = torch.stack([texture()[0], texture()[0] ** 2])[None]
    maps, plain = input_maps(texture(), layout, features)[0], input_maps(texture(), PatchLayout(9, 1.0, "energy"))[0]
    found = sample_patches(maps, places((31, 30)), layout, turn)
    close(found[:, :12], sample_patches(plain, places((31, 30)), PatchLayout(9, 1.0, "energy"), turn))
    close(found[:, 12:13], sample_patches(maps[12:13], places((31, 30)), PatchLayout(9, 1.0, "energy", 1), turn))
    with pytest.raises(ConfigError, match="features are seen beside energies; inputs is grey"):
        PatchLayout(9, 1.0, "grey", features=1)


@pytest.mark.parametrize("steps", [-7, 0, 2])
def test_orientations_are_those_seen_from_the_turned_frame(steps):
    """A wave whose normal points at 60 degrees from x towards y is orientation 2."""
    y, x = torch.meshgrid(torch.arange(63.0), torch.arange(63.0), indexing="ij")
    wave = torch.sin((x * math.cos(math.pi / 3) + y * math.sin(math.pi / 3)) * (2 * math.pi / 6))
    layout = PatchLayout(9, 1.0, "energy")
    maps = input_maps(wave[None], layout)[0]
    patch = sample_patches(maps, places((31, 31)), layout, torch.tensor([steps * math.pi / 6]))[0]
    assert (patch[:6].argmax(dim=0) == (2 - steps) % 6).all()


def test_turning_moves_the_orientations_of_each_scale_and_between_steps_mixes_neighbours():
    channels = torch.rand(3, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    found = turned(channels, torch.tensor([0, 1, -2]) * (math.pi / 6))
    for patch, moved, steps in zip(channels, found, (0, 1, -2), strict=True):
        close(moved.unflatten(0, (2, 6)), patch.unflatten(0, (2, 6)).roll(-steps, dims=1), atol=1e-5)
    between = turned(channels[:, :6], torch.full((3,), math.pi / 24))
    close(between, 0.75 * channels[:, :6] + 0.25 * channels[:, :6].roll(-1, dims=1), atol=1e-5)


@pytest.mark.parametrize(("inputs", "count", "scale"), [("grey", 1, 0.5), ("energy", 12, 2.5), ("energy", 12, 1.0)])
def test_maps_are_the_image_or_its_energies(inputs, count, scale):
    images = torch.cat([texture(0, 40, 50), texture(1, 40, 50)])
    maps = input_maps(images, PatchLayout(32, scale, inputs))
    assert maps.shape == (2, count, 40, 50)
    if scale <= 1:
        energies = orientation_features(images, 6, (6.0, 12.0), phase=0.0)
        close(maps, images[:, None] if inputs == "grey" else energies, atol=0)


@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_maps_are_smoothed_as_far_as_patches_are_coarser(scale):
    def kept(wavelength):
        wave = torch.sin(torch.arange(96) * (2 * math.pi / wavelength) + 1).expand(1, 96, 96)
        smoothed, inside = input_maps(wave, PatchLayout(32, scale)), np.s_[..., 32:-32, 32:-32]
        return float(smoothed[inside].std() / wave[inside].std())

    assert kept(scale * 1.1) < 0.15
    assert kept(8 * scale) > 0.9
