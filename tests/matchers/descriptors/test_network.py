"""descriptors/network: table 1 of He et al. read off the network, its options, and the good starts it can have."""

import pytest
import timm
import torch
from timm.layers.coord_attn import CoordAttn
from torch import nn
from torch.nn.functional import interpolate, normalize

from sn9reg.errors import ConfigError
from sn9reg.matchers.descriptors.network import (
    KIND,
    DenseFusion,
    DescriptorOptions,
    FusionOptions,
    build,
    distances,
    seen,
)
from sn9reg.options import check

# Output channels c, repetitions n, first stride s of the paper's table 1: the convolution, then the residual blocks.
TABLE = [(32, 1, 2), (16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)]


def network(in_channels=1, side=32, **options):
    torch.manual_seed(0)
    return DenseFusion(in_channels, side, check(FusionOptions, {"width": 0.35} | options, KIND)).eval()


def patches(count=3, side=32, channels=1, seed=1):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_stages_and_maps_are_those_of_table_1():
    paper, shapes = network(3, 224, width=1), []
    rows = [(paper.stem.out_channels, 1, paper.stem.stride[0])]
    for stage in paper.blocks:
        last = [layer for layer in stage[-1].modules() if isinstance(layer, nn.Conv2d)][-1]
        strides = [block.conv_dw.stride[0] for block in stage]
        assert set(strides[1:]) <= {1}
        rows.append((last.out_channels, len(stage), strides[0]))
    assert rows == TABLE
    assert paper.stem.kernel_size == (3, 3)
    assert isinstance(paper.attention, CoordAttn)
    assert isinstance(paper.fusion_norm, nn.BatchNorm2d)
    for layer in (paper.stem, *paper.blocks, paper.attention, paper.fusion):
        layer.register_forward_hook(lambda *given: shapes.append(tuple(given[2].shape[1:])))
    with torch.no_grad():
        described = paper(patches(2, 224, 3))
    stages = [(c, side, side) for (c, _, _), side in zip(TABLE, (112, 112, 56, 28, 14, 14, 7, 7), strict=True)]
    assert shapes == [*stages, (320, 7, 7), (256, 1, 1)]
    torch.testing.assert_close(described.norm(dim=1), torch.ones(2))


@pytest.fixture(scope="module")
def mobilenet():
    """The state of a MobileNetV2 as timm has it."""
    torch.manual_seed(5)
    state = timm.create_model("mobilenetv2_035", pretrained=False).state_dict()
    return {key: torch.rand_like(value) if key.endswith("running_mean") else value for key, value in state.items()}


@pytest.mark.parametrize(
    ("options", "channels", "map_side"),
    [
        ({"in_channels": 12, "width": 0.5}, 160, 1),
        ({"side": 96, "descriptor": 5}, 112, 3),
        ({"attention": False, "width": 0.75}, 240, 1),
        ({"in_channels": 2, "cells": 3, "descriptor": 40, "width": 1}, 320, 1),
        ({"in_channels": 15, "backbone": "hardnet", "width": 0.5}, 64, 8),
    ],
    ids=str,
)
def test_each_patch_gets_a_descriptor_of_length_1_that_other_patches_do_not_change(options, channels, map_side):
    made = network(**options)
    assert (made.fusion.in_channels, made.fusion.kernel_size) == (channels, (map_side, map_side))
    assert any(name.startswith("attention.") for name in made.state_dict()) == options.get("attention", True)
    given = patches(3, options.get("side", 32), options.get("in_channels", 1))
    with torch.no_grad():
        described = made(given)
        single = torch.cat([made(given[k : k + 1]) for k in range(3)])
        attention, made.attention = made.attention, nn.Identity()
        assert ((made(given) - described).abs().max() > 1e-5) == options.get("attention", True)
        made.attention = attention
    assert described.shape == (3, options.get("descriptor", 256))
    assert described.dtype == torch.float32
    torch.testing.assert_close(described.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(described, single, atol=1e-5, rtol=1e-3)
    assert (described[0] - described[1]).abs().max() > 1e-4
    made.train()
    (made(given) * torch.randn(described.shape)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in made.parameters())
    for name in ("stem.weight", "fusion.weight", "fusion_norm.weight"):
        assert made.get_parameter(name).grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("side", 48, "is 48, must be a multiple of 32"),
        ("backbone", "vgg", "is 'vgg'; "),
        ("descriptor", 0, "is 0; "),
        ("cells", 33, "is 33, more than the 32 px"),
        ("width", 0.4, "is 0.4, not one of 0.35, 0.5, 0.75, 1.0"),
        ("attention", 1, "is 1; "),
    ],
)
def test_what_makes_no_sense_is_refused(option, value, message):
    with pytest.raises(ConfigError, match=f"{option} {message}"):
        network(**{option: value})


STEM = {"network": "slim-unet", "shared": False, "options": {"widths": [4, 8], "features": 3}}
SEEING = {"patch": {"side": 32, "inputs": "energy", "features": 3}, "network": {"width": 0.35}, "stem": STEM}


def test_patches_show_what_a_stem_for_each_modality_makes_of_the_image():
    torch.manual_seed(0)
    made, image = build(SEEING).eval(), torch.rand(2, 40, 40)
    layout = check(DescriptorOptions, SEEING, KIND).patch
    optical, sar = (seen(image, layout, made.stems, modality) for modality in ("optical", "sar"))
    assert made.stem.in_channels == optical.shape[1] == 15
    torch.testing.assert_close(optical[:, :12], sar[:, :12])
    torch.testing.assert_close(optical[:, 12:], made.stems(image[:, None], "optical"))
    assert (optical[:, 12:] - sar[:, 12:]).abs().max() > 1e-3
    assert not any(parameter.requires_grad for parameter in made.stems.parameters())
    for changes in ({"stem": None}, {"patch": SEEING["patch"] | {"features": 2}}):
        with pytest.raises(ConfigError, match=r"patch.features is \d, and the stem makes \d"):
            build(SEEING | changes)


def test_cells_hold_their_means_less_that_of_the_patch_in_length_1():
    given = patches(2, channels=3) + 4
    cells = network(in_channels=3, cells=2).cell_means(given)
    means = given.unflatten(3, (2, 16)).unflatten(2, (2, 16)).mean(dim=(3, 5))
    expected = means - given.mean(dim=(2, 3))[..., None, None]
    torch.testing.assert_close(cells, normalize(expected.flatten(1), dim=1), atol=1e-5, rtol=1e-4)
    other = network(in_channels=3, cells=2).cell_means(3 * given + 7)  # brightness and contrast are nothing to cells
    torch.testing.assert_close(other, cells, atol=1e-5, rtol=1e-4)
    assert network(cells=4).cell_means(torch.full((1, 1, 32, 32), 0.5)).abs().max() == 0


def places(count, seed):
    """Patches of so many places, each of them twice: smooth ground, and noise that the two do not share."""
    generator = torch.Generator().manual_seed(seed)
    ground = interpolate(torch.randn(count, 1, 2, 2, generator=generator), (32, 32), mode="bilinear")
    return [ground + 0.3 * interpolate(torch.randn(count, 1, 8, 8, generator=generator), (32, 32)) for _ in "os"]


def test_a_fitted_layout_brings_patches_of_places_that_it_has_not_seen_together():
    made, unseen = network(cells=4, descriptor=4), places(60, seed=2)

    def compared():
        """The share of patches whose nearest is their own, and how far those of a place are apart beside all others."""
        with torch.no_grad():
            apart = distances(*(made(part) for part in unseen))
        nearest = apart.argmin(dim=1) == torch.arange(len(apart))
        return float(nearest.double().mean()), float(apart.diagonal().mean() / apart.mean())

    found, apart = compared()
    means = [made.cell_means(part) for part in places(300, seed=1)]
    made.fit_layout(*means)
    found_now, apart_now = compared()
    assert found_now > found + 0.2
    assert apart_now < 0.7 * apart
    wide = network(cells=4, descriptor=40)
    wide.fit_layout(*means)
    used = wide.layout.weight.abs().amax(dim=1) > 0  # no more directions than there are cells
    assert used.tolist() == [k < 16 for k in range(40)]
    assert wide.layout.bias[~used].abs().sum() == 0


def test_training_begins_with_hardly_more_than_the_layout_which_is_fitted_about_the_mean_of_both():
    made, (one, other) = network(cells=4).train(), places(50, seed=1)
    means = made.cell_means(one), made.cell_means(other)
    made.fit_layout(*means)
    with torch.no_grad():
        laid_out = made.layout(torch.cat(means)).mean(dim=0)
        torch.testing.assert_close(laid_out, torch.zeros(256), atol=1e-4, rtol=0)
        cosine = (normalize(made.layout(made.cell_means(one)), dim=1) * made(one)).sum(dim=1)
    assert cosine.min() > 0.95
    assert cosine.max() < 1 - 1e-6


def test_the_backbone_is_taken_over_and_nothing_else(mobilenet):
    mobilenet = {key: v.half() if v.is_floating_point() else v for key, v in mobilenet.items()}
    made = network(in_channels=3)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.start_from(mobilenet)
    names = {"stem": "conv_stem", "norm": "bn1", "blocks": "blocks"}
    for name, value in made.state_dict().items():
        first, _, rest = name.partition(".")
        expected = mobilenet[f"{names[first]}.{rest}"] if first in names else before[name]
        assert value.dtype == before[name].dtype
        torch.testing.assert_close(value, expected.to(value.dtype), atol=1e-3, rtol=0)
    for channels in (1, 12):  # a grey image looks to the first layer as it did in three channels
        other = network(in_channels=channels)
        other.start_from(mobilenet)
        seen = [one.stem(patches().expand(-1, one.stem.in_channels, -1, -1)) for one in (other, made)]
        torch.testing.assert_close(*seen, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("conv_stem.weight", None, "no weights of a MobileNetV2 .*stem.weight"),
        ("blocks.3.1.bn1.weight", None, "lack blocks.3.1.bn1.weight"),
        ("conv_stem.weight", (16,), "no weights of a MobileNetV2"),
        ("blocks.6.0.bn3.weight", (320,), "of this width .*blocks.6.0.bn3.weight"),
    ],
)
def test_weights_that_lack_a_layer_or_have_one_of_another_shape_are_refused(name, shape, message, mobilenet):
    state = {key: value for key, value in mobilenet.items() if key != name}
    if shape:
        state[name] = torch.ones(shape)
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        network(in_channels=3).start_from(state)


def test_distances_are_those_of_the_papers_section_2_3():
    one, other = normalize(torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).double(), dim=-1)
    torch.testing.assert_close(distances(one, other), torch.cdist(one, other))
    assert distances(one, -one).diagonal().tolist() == pytest.approx([2] * 5)
    assert distances(one, one).diagonal().max() < 0.002
    same = one.clone().requires_grad_()
    distances(same, one).sum().backward()
    assert same.grad.isfinite().all()
    assert same.grad.abs().max() > 0
