"""matchers.learned: the same features without batch normalisation, and none where there is nothing to see."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.networks import SIMILARITY, settle, untrained
from support.rasters import pair_of
from torch import nn
from torchvision.ops import Conv2dNormActivation

from sn9reg.errors import InputError
from sn9reg.features.orientation import orientation_harmonics
from sn9reg.matchers.base import make_matcher, matcher_class
from sn9reg.matchers.batch_norm import fused
from sn9reg.matchers.dense.correlation import cc, zncc
from sn9reg.matchers.dense.hybrid import blurred_by_pooling, locally_standardised
from sn9reg.matchers.dense.learned import LearnedMatcher
from sn9reg.matchers.dense.networks.branches import build
from sn9reg.matchers.dense.networks.table import NETWORKS
from sn9reg.matchers.dense.structure import by_orientation
from sn9reg.matchers.dense.weights import DenseOptions, load_dense, save_dense
from sn9reg.raster.scene import Patch
from sn9reg.raster.view import averaged

# The networks' features repeat with the pixels that they pool (at most 4 here); untrained, they find such shifts only.
SHIFT = (8, -4)
every_network = pytest.mark.parametrize("name", NETWORKS)
some_networks = pytest.mark.parametrize("name", ["mcgf", "slim-unet"])
MODALITIES = ("optical", "sar")


def texture(shape=(72, 84), seed=0):
    values = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (values / max(values.std(), 1e-9)).astype(np.float32)


def patch_of(image, valid=None):
    return Patch(image[None], np.ones(image.shape, bool) if valid is None else valid)


def displacement(matches):
    return matches.sar_xy - matches.optical_xy


@pytest.fixture
def features(random_weights):
    """(network, patch, modality) -> features, the patch being the SAR scene's sample as well."""

    def extract(name, patch, modality="sar"):
        matcher = make_matcher(name, weights=str(random_weights(name)))
        return matcher.extractor(patch)(patch, modality)

    return extract


# --- batch normalisation ---------------------------------------------------------------------------------------------


def normalisations(network):
    return [where for where, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]


@every_network
def test_fused_networks_have_the_same_features_and_no_normalisation(name):
    """Of all: that a network's children stand in the order of their use is nowhere else made sure."""
    network = untrained(name, shared=False)
    plain = copy.deepcopy(network)
    assert normalisations(plain)
    folded = fused(network).to(memory_format=torch.channels_last)
    assert normalisations(folded) == []
    image = torch.randn(1, 1, 36, 45)
    with torch.no_grad():
        for modality in MODALITIES:
            expected = plain(image, modality)
            assert (folded(image, modality) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("modules", "left"),
    [
        ((nn.Conv2d(6, 9, 3, bias=False), nn.BatchNorm2d(9), nn.Conv2d(9, 6, 1)), 0),
        ((nn.Conv2d(6, 12, 3, groups=3), nn.BatchNorm2d(12)), 0),
        ((nn.ConvTranspose2d(6, 10, 2, stride=2), nn.BatchNorm2d(10), nn.ReLU()), 0),
        ((Conv2dNormActivation(6, 6, 3), Conv2dNormActivation(6, 5, 3, activation_layer=None)), 0),
        ((nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)), 1),
        ((nn.Conv2d(6, 6, 3), nn.ReLU(), nn.BatchNorm2d(6)), 1),
        ((nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3)), 1),
        ((nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU()), nn.BatchNorm2d(6)), 1),
    ],
)
def test_only_a_normalisation_right_after_a_convolution_is_folded(modules, left):
    torch.manual_seed(0)
    network, image = nn.Sequential(*modules), torch.randn(4, 6, 16, 16)
    settle(network, lambda: network(image))
    with torch.no_grad():
        expected = network(image)
        folded = fused(network)
        torch.testing.assert_close(folded(image), expected, rtol=1e-4, atol=1e-5)
    assert len(normalisations(folded)) == left


# --- features --------------------------------------------------------------------------------------------------------


@every_network
def test_a_networks_matcher_has_its_features_of_the_standardised_image(name, random_weights):
    image, matcher = texture((40, 52)), make_matcher(name, weights=str(random_weights(name)))
    assert isinstance(matcher, LearnedMatcher)
    assert (matcher.name, matcher.network, matcher.own_weights) == (name, name, True)
    network, _ = load_dense(random_weights(name))
    assert (matcher.similarity, matcher.margin) == (SIMILARITY[name], network.margin)
    standard = np.clip((image - image.mean()) / image.std(), -4, 4)
    patch = patch_of(3 * image - 1)
    for modality in MODALITIES:
        found = matcher.extractor(patch)(patch, modality)
        with torch.no_grad():
            expected = network(torch.from_numpy(standard)[None, None], modality)[0]
        assert not found.requires_grad
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("shared", [True, False])
def test_sar_goes_through_its_own_branch(shared, tmp_path):
    save_dense(tmp_path / "w.safetensors", untrained("mcgf", shared), DenseOptions("mcgf", shared))
    patch = patch_of(texture())  # negative in parts, so that SAR is taken for decibels and not changed
    extract = make_matcher("mcgf", weights=str(tmp_path / "w.safetensors")).extractor(patch)
    assert torch.equal(extract(patch, "optical"), extract(patch, "sar")) is shared


@some_networks
@pytest.mark.parametrize("modality", MODALITIES)
def test_what_is_constant_or_not_valid_has_no_features_and_no_say(name, modality, features):
    for level in (0.0, 77.7):
        assert (features(name, patch_of(np.full((40, 48), level, np.float32)), modality) == 0).all()
    nothing = Patch(np.zeros((1, 20, 24), np.float32), np.zeros((20, 24), bool))
    assert (features(name, nothing, modality) == 0).all()
    image = texture() + 5
    image[:, 40:] = 4.321
    found = features(name, patch_of(image), modality)
    assert (found[:, :, 45:] == 0).all()
    assert (found[:, :, :40].abs().amax(dim=0) > 0).all()
    image, valid = texture(), np.ones((72, 84), bool)
    valid[20:50, 30:60] = False
    other = np.where(valid, image, np.float32(1e6))
    assert torch.equal(*(features(name, patch_of(values, valid), modality) for values in (image, other)))


@every_network
def test_a_hole_is_not_felt_far_from_it(name, features):
    """Twice the margin, or six of the coarsest pixels: some networks see farther than their margin, but not much."""
    network = build(name, shared=True)
    half = texture((64, 40 + max(2 * network.margin, 6 * network.divisor)))
    # Both halves have one mean and one deviation, so that the hole does not change how the rest is standardised.
    image, valid = np.concatenate([half, half[:, ::-1]], axis=1), np.ones((64, 2 * half.shape[1]), bool)
    valid[:, half.shape[1] :] = False
    whole, part = features(name, patch_of(image)), features(name, patch_of(np.where(valid, image, 0), valid))
    error = (whole - part).square().mean(dim=(0, 1)).sqrt() / whole.square().mean().sqrt()
    assert error[:40].max() < 0.05
    assert error[half.shape[1] - 4 : half.shape[1]].max() > 0.1


@pytest.mark.parametrize("shared", [True, False])
def test_weights_for_colours_get_three_bands_and_of_a_grey_image_three_times_its_mean(shared, tmp_path, caplog):
    network, saved = untrained("mcgf", shared, in_channels=3), DenseOptions("mcgf", shared, "cc", {"in_channels": 3})
    save_dense(tmp_path / "w.safetensors", network, saved)
    matcher = make_matcher("mcgf", weights=str(tmp_path / "w.safetensors"))
    colours = np.stack([(k + 1) * texture(seed=k) + 7 for k in range(4)])
    network, _ = load_dense(tmp_path / "w.safetensors")
    for count, said in ((4, 0), (2, 1), (1, 1)):  # once a matcher
        patch = Patch(colours[:count], np.ones(colours.shape[1:], bool))
        bands = colours[:3] if count > 2 else [colours[:count].mean(axis=0)] * 3
        seen = np.stack([np.clip((band - band.mean()) / band.std(), -4, 4) for band in bands])
        with torch.no_grad():
            expected = network(torch.from_numpy(seen)[None], "optical")[0]
        found = matcher.extractor(patch)(patch, "optical")
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
        assert caplog.text.count("wants three optical bands") == said
    assert matcher.extractor(patch)(patch, "sar").shape == expected.shape


# --- matching --------------------------------------------------------------------------------------------------------


def matched(folder, network, options):
    """The matches of a small pair by the matcher of a network, whose weights go through a file."""
    save_dense(folder / "w.safetensors", network, options)
    matcher = make_matcher(options.network, weights=str(folder / "w.safetensors"), template=48, max_offset=5.0)
    assert matcher.similarity == options.similarity
    with pair_of(folder, (110, 100), SHIFT, same=True) as pair:
        return matcher.match(pair)


def test_the_length_of_features_does_not_matter_to_zncc(tmp_path):
    """It is free where only their correlation was trained, and must not decide what counts as structure."""
    found = []
    for scale in (1.0, 2.0**-6):
        network = untrained("mcgf")
        with torch.no_grad():
            for last in (network.branches["optical"].fine[-1][1], network.branches["optical"].coarse[-1][1]):
                last.weight *= scale
                last.bias *= scale
        found.append(matched(tmp_path, network, DenseOptions("mcgf", True, "zncc")))
    assert found[1].tried == found[0].tried > 0
    assert len(found[0]) > 0
    np.testing.assert_allclose(displacement(found[1]), displacement(found[0]), atol=0.1)


@pytest.mark.parametrize("similarity", ["cc", "zncc", "ssd"])
def test_the_similarity_of_the_file_is_used(similarity, tmp_path):
    matches = matched(tmp_path, untrained("mcgf"), DenseOptions("mcgf", True, similarity))
    assert np.abs(np.median(displacement(matches), axis=0) - SHIFT).max() < 1


# --- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mcgf", "hybrid"])
def test_weights_of_another_network_are_refused(name, random_weights):
    network = matcher_class(name).network
    with pytest.raises(InputError, match=rf"osmnet\.safetensors: holds weights of osmnet, not of {network}"):
        make_matcher(name, weights=str(random_weights("osmnet")))


# --- beside untrained features ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [0, 0.3, 1])
def test_both_kinds_of_features_count_by_their_share(learned, random_weights):
    weights, patch = str(random_weights("slim-unet")), patch_of(texture())
    hybrid = make_matcher("hybrid", learned=learned, weights=weights)
    learned_alone = make_matcher("slim-unet", weights=weights).extractor(patch)
    extractors = hybrid.extractor(patch), learned_alone, by_orientation(patch, orientation_harmonics)
    both, trained, plain = (extract(patch, "sar") for extract in extractors)
    expected = learned**0.5 * locally_standardised(trained), (1 - learned) ** 0.5 * plain
    torch.testing.assert_close(both, torch.cat(expected))
    squares = [float(part.square().sum(dim=0).mean()) for part in expected]
    assert squares[0] == pytest.approx(learned, abs=0.07)
    assert 0.75 * (1 - learned) - 1e-6 <= squares[1] <= 1 - learned + 1e-6  # few channels hold nearly all of them


def test_untrained_features_count_by_the_lengths_of_the_networks_too(monkeypatch, random_weights):
    patch = patch_of(texture())
    length = torch.ones(patch.valid.shape)
    length[:, :20], length[:, 20:40] = 0.0, 0.5
    given = torch.nn.functional.normalize(random_features(4, *length.shape), dim=0) * length
    monkeypatch.setattr(LearnedMatcher, "extractor", lambda self, sar, whole=False: lambda patch, modality: given)
    hybrid = make_matcher("hybrid", learned=0, weights=str(random_weights("slim-unet")))
    plain = by_orientation(patch, orientation_harmonics)(patch, "sar").norm(dim=0)
    found = hybrid.extractor(patch)(patch, "sar").norm(dim=0)
    assert not found[:, :20].any()
    share = found / plain.clamp_min(1e-6)
    assert share[:, 38:40].median() / share[:, 40:42].median() == pytest.approx(0.5, abs=0.03)
    assert share[:, 40:42].median() > 1  # where others count less


@pytest.mark.parametrize(("metres", "pooled"), [(None, 0), (10.0, 0), (1.5, 1), (0.31, 2)])
def test_the_wide_network_counts_by_its_share_where_pixels_are_known_to_be_small(metres, pooled, random_weights):
    weights, patch = str(random_weights("slim-unet")), replace(patch_of(texture((96, 100))), metres=metres)
    matchers = (make_matcher("hybrid", wide=share, weights=weights) for share in (0, 0.4))
    alone, both = (matcher.extractor(patch)(patch, "sar") for matcher in matchers)
    if not pooled:
        torch.testing.assert_close(both, alone)
        return
    torch.testing.assert_close(both[: len(alone)], alone * 0.6**0.5)
    wide = matcher_class("wide-unet")().extractor(patch)(averaged(patch, pooled), "sar")
    far = both[len(alone) :]
    assert far.square().sum(dim=0).mean() == pytest.approx(0.4, rel=0.01)
    assert torch.corrcoef(torch.stack([far[:, ::pooled, ::pooled].flatten(), wide.flatten()]))[0, 1] > 0.9


def random_features(channels=4, height=150, width=170, seed=0):
    torch.manual_seed(seed)
    return torch.randn(channels, height, width)


def test_standardised_features_have_no_mean_and_unit_length_around_every_pixel():
    slope = torch.linspace(1, 4, 170)  # of contrast, from left to right
    level = torch.tensor([5.0, -3.0, 0.0, 20.0])[:, None, None]
    found = locally_standardised(random_features() * slope + level)
    for row, col in ((0, 0), (40, 60), (78, 98)):
        part = found[:, row : row + 72, col : col + 72]
        assert part.mean(dim=(1, 2)).abs().max() < 0.15
        assert part.square().sum(dim=0).mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("shape", [(150, 170), (100, 73), (36, 40)])
def test_other_devices_standardise_alike(monkeypatch, shape):
    features = random_features(3, *shape) + 2
    expected = locally_standardised(features)
    monkeypatch.setattr("sn9reg.matchers.dense.hybrid._blur", blurred_by_pooling)
    torch.testing.assert_close(locally_standardised(features), expected, atol=1e-4, rtol=1e-4)


def test_standardising_does_not_see_pixels_without_features():
    for value in (0.0, -7.5):
        assert not locally_standardised(torch.full((3, 40, 50), value)).any()
    beside = random_features() + 3
    alone = locally_standardised(beside[:, :, 80:])
    beside[:, :, :80] = 0
    found = locally_standardised(beside)
    assert not found[:, :, :80].any()
    torch.testing.assert_close(found[:, :, 116:], alone[:, :, 36:], atol=2e-4, rtol=1e-3)  # farther than half the side
    edge = found[:, :, 80:116]
    assert edge.mean(dim=(1, 2)).abs().max() < 0.2
    assert edge.square().sum(dim=0).mean() == pytest.approx(1, abs=0.15)


def test_correlation_of_standardised_features_is_nearly_zncc():
    """The level and the contrast of the reference differ from place to place, which plain correlation follows."""
    template = random_features(height=64, width=64)
    reference = random_features(seed=1)
    reference[:, 40:104, 70:134] = 0.5 * template + reference[:, 40:104, 70:134]
    uneven = reference * torch.linspace(0.2, 5, 170) + torch.linspace(-30, 30, 150)[:, None]
    expected = zncc(reference[None], template[None])
    found = cc(locally_standardised(uneven)[None], locally_standardised(template + 3)[None])
    plain = cc(uneven[None], template[None] + 3)
    assert np.unravel_index(int(found.argmax()), found.shape[1:]) == (40, 70)
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.88
    assert np.corrcoef(plain.flatten(), expected.flatten())[0, 1] < 0.5
