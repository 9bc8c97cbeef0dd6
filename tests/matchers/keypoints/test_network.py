"""keypoints/network: one heatmap from two encoders, what is refused, where the middle of a tile is found again."""

import pytest
import torch
from torch import nn

from sn9reg.errors import ConfigError
from sn9reg.matchers.keypoints.network import MiddleSimilarity, build

SMALL = {"depth": 3, "decoder": (8, 8, 8)}
MIXED = {"optical_encoder": "resnet18", "sar_encoder": "tu-regnetx_002"}
both_ways = pytest.mark.parametrize("finds", ["optical", "sar"])


def network(finds="sar", **options):
    torch.manual_seed(0)
    return build({"finds": finds, "options": SMALL | options})


def tiles(batch=2, side=64):
    return torch.randn(2, batch, 1, side, side, generator=torch.Generator().manual_seed(1)).unbind()


@both_ways
@pytest.mark.parametrize(("similarity", "encoders"), [((), {}), ((1, 3), MIXED)], ids=["paper", "similarity"])
def test_a_heatmap_between_0_and_1_as_large_as_the_tiles_and_gradients_for_all(finds, similarity, encoders):
    made = network(finds, similarity=similarity, **encoders)
    heatmap = made(*tiles())
    assert heatmap.shape == (2, 64, 64)
    assert heatmap.dtype == torch.float32
    assert 0 < heatmap.min() < heatmap.max() < 1
    assert heatmap.std() > 1e-3
    heatmap.mean().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
    for part in (made.optical, made.sar, *made.similarity.values()):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters()) > 0
    addresses = [{p.data_ptr() for p in encoder.parameters()} for encoder in (made.optical, made.sar)]
    assert not addresses[0] & addresses[1]


@torch.no_grad()
def test_a_network_of_three_optical_bands_sees_each_of_them():
    made, (optical, sar) = network(optical_bands=3).eval(), tiles()
    colours = torch.cat([optical, 2 * optical, -optical], dim=1)
    assert (network().bands, made.bands) == (1, 3)
    assert (made(colours, sar) - made(colours.flip(1), sar)).abs().max() > 1e-4
    with pytest.raises(ConfigError, match="optical_bands is 2"):
        network(optical_bands=2)


@pytest.mark.parametrize("depth", [1, 4, 5])
@torch.no_grad()
def test_any_multiple_of_the_divisor_will_do_and_resnets_stages_below_the_depth_are_dropped(depth):
    shallow = network(depth=depth, decoder=(8,) * depth, similarity=(depth,))
    assert shallow.divisor == 2**depth
    optical, sar = (tile[..., : 3 * shallow.divisor, : 2 * shallow.divisor] for tile in tiles(side=96))
    assert shallow(optical, sar).shape == optical[:, 0].shape
    for encoder in (shallow.optical, shallow.sar):
        assert [hasattr(encoder, f"layer{k}") for k in (1, 2, 3, 4)] == [k < depth for k in (1, 2, 3, 4)]


@both_ways
@torch.no_grad()
def test_each_tile_of_a_batch_has_a_heatmap_of_its_own(finds):
    optical, sar = tiles(3)
    trained = network(finds, similarity=(2,)).eval()
    whole = trained(optical, sar)
    for k in range(3):
        torch.testing.assert_close(trained(optical[k : k + 1], sar[k : k + 1])[0], whole[k], atol=1e-5, rtol=1e-4)
    for changed in (trained(optical.flip(-1), sar), trained(optical, sar.flip(-1)), whole.roll(1, dims=0)):
        assert (changed - whole).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": (8, 0, 8)}, r"decoder\[1\] is 0"),
        ({"depth": 0, "decoder": ()}, "depth is 0"),
        ({"depth": 6, "decoder": (8,) * 6}, "of depth 6"),
        ({"similarity": (0,)}, r"similarity\[0\] is 0"),
        ({"similarity": (2, 4)}, r"levels \[2, 4\]; there are 1 to 3"),
        ({"sar_encoder": "mit_b0", "similarity": (1,)}, "not both encoders have an output"),
        ({"optical_encoder": "resnet19"}, "no encoder 'resnet19' of depth 3"),
        ({"sar_encoder": "tu-local-dir:/nowhere"}, "no encoder 'tu-local-dir:/nowhere'"),
    ],
    ids=str,
)
def test_what_does_not_belong_together_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        network(**options)


@torch.no_grad()
def comparing(level=3, width=16):
    """A similarity whose projections leave features as they are."""
    module = MiddleSimilarity(width, width, level, width)
    for projection in (module.optical, module.sar):
        nn.init.zeros_(projection.bias)
        projection.weight.copy_(torch.eye(width)[..., None, None])
    return module


def features(height=32, width=32, channels=16, seed=0):
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed))


def highest(surface):
    index = int(surface[0, 0].argmax())
    return index % surface.shape[-1], index // surface.shape[-1]


@both_ways
@pytest.mark.parametrize(("height", "width", "shift"), [(32, 32, (5, -3)), (33, 29, (-7, 4)), (26, 40, (5, 3))])
def test_the_peak_lies_where_the_middle_is_found_in_the_searched_tile(finds, height, width, shift):
    middle = features(height, width)
    searched = middle.roll(shift[::-1], dims=(2, 3))
    optical, sar = (middle, searched) if finds == "sar" else (searched, middle)
    surface = comparing()(optical, sar, finds)
    assert surface.shape == (1, 1, height, width)
    assert highest(surface) == (width // 2 + shift[0], height // 2 + shift[1])


@pytest.mark.parametrize("level", [1, 2, 3, 5])
@torch.no_grad()
def test_at_each_level_a_tile_is_like_itself_in_the_middle(level):
    one, module = features(), comparing(level)
    surface = module(one, one, "sar")
    assert highest(surface) == (16, 16)
    assert surface.max() == pytest.approx(float(module.scale), rel=1e-4)  # a mean cosine of 1
    assert surface.abs().max() <= surface.max()
    torch.testing.assert_close(module(7 * one, 0.1 * one, "sar"), surface)  # the strength of features does not matter
    for side in (1, 2, 3, 8):  # even where there is less than what is compared
        surface = module(features(side, side), features(side, side), "optical")
        assert surface.shape == (1, 1, side, side)
        assert highest(surface) == (side // 2, side // 2)
