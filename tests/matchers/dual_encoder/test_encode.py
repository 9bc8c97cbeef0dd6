"""What a dual encoder sees and says of pixels, with and without passes of dropout, and of a scene's windows."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from support.dual import BANDS, dual_encoder
from support.rasters import fields, pair_of
from torch import nn

from sn9reg.matchers.dual_encoder.encode import CellEncoder, EncodedScene, textured
from sn9reg.matchers.dual_encoder.network import CELL, DualEncoder
from sn9reg.raster.grid import Window
from sn9reg.raster.radiometry import SarLog, optical_input, sar_input
from sn9reg.raster.scene import Patch

LOG = SarLog(10.0, False)
MAPS = ("confidence", "doubt", "spread", "valid")
both = pytest.mark.parametrize("modality", BANDS)


def encoder(passes=0, network=None, **options):
    return CellEncoder(network or dual_encoder(structure=True), LOG, passes, **options)


def patch(modality, height=64, width=64, empty=None):
    values = np.stack([fields(max(height, width), k)[:height, :width] for k in range(BANDS[modality])])
    values = (200 * values + 20 + np.random.default_rng(0).normal(size=values.shape)).astype(np.float32)
    valid = np.ones((height, width), bool)
    if empty is not None:
        valid[empty] = False
    return Patch(values * valid, valid)


@both
@pytest.mark.parametrize(("passes", "height", "width"), [(0, 64, 64), (3, 52, 84), (0, 8, 4)], ids=str)
def test_cells_of_four_pixels_whatever_the_size(modality, passes, height, width):
    maps = encoder(passes)(patch(modality, height, width), modality)
    cells = (height // CELL, width // CELL)
    assert maps.embedding.shape == (128, *cells)
    torch.testing.assert_close(maps.embedding.norm(dim=0), torch.ones(cells), atol=1e-4, rtol=0)
    for name in MAPS:
        values = getattr(maps, name)
        assert values.shape == cells, name
        assert values.min() >= 0, name
        assert values.max() <= 1, name
    assert maps.confidence.min() > 0
    assert not maps.embedding.requires_grad


def test_what_is_seen_is_what_the_network_says_of_the_scenes_logarithm():
    given = patch("sar")
    maps = encoder()(given, "sar")
    with torch.no_grad():
        seen = dual_encoder(structure=True)(torch.from_numpy(sar_input(given, LOG))[None], "sar")
    torch.testing.assert_close(maps.embedding, seen.embedding[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.doubt, seen.uncertainty[0, 0], atol=1e-4, rtol=0)
    assert maps.doubt.min() > 0
    narrow = encoder()(Patch(given.values[..., :60], given.valid[:, :60]), "sar")  # no multiple of 16
    assert (maps.embedding[:, :, :5] * narrow.embedding[:, :, :5]).sum(dim=0).min() > 0.95
    other = CellEncoder(dual_encoder(structure=True), SarLog(10.0, True))(given, "sar").doubt
    assert (maps.doubt - other).abs().max() > 1e-5


@both
@pytest.mark.parametrize("passes", [0, 2])
def test_cells_that_are_empty_or_of_one_grey_are_not_valid_and_weigh_nothing(modality, passes):
    given = patch(modality, empty=(slice(16, 40), slice(24, 64)))
    given.values[:, 44:56, 8:20] = 77
    maps = encoder(passes)(given, modality)
    expected = np.ones((16, 16))
    expected[4:10, 6:] = expected[11:14, 2:5] = 0
    np.testing.assert_array_equal(maps.valid.numpy(), expected)
    if modality == "sar":
        np.testing.assert_array_equal(maps.valid.numpy(), textured(sar_input(given, LOG), given.valid))
    length = maps.weighed.norm(dim=0)
    assert length[maps.valid == 0].max() == 0
    torch.testing.assert_close(length, maps.confidence * maps.valid, atol=1e-5, rtol=0)
    assert length[maps.valid > 0].min() > 0


@both
def test_passes_spread_and_take_confidence_away_but_nothing_spreads_without(modality):
    given = patch(modality)
    single, several = (encoder(passes)(given, modality) for passes in (0, 4))
    paper = encoder(4, dual_encoder())(given, modality)
    assert single.spread.max() < 1e-5
    assert several.spread.mean() > 10 * single.spread.mean()
    assert paper.spread.mean() > 3 * several.spread.mean()  # it has no structure beside it that stays the same
    for maps in (single, several):
        torch.testing.assert_close(maps.confidence, (1 - maps.doubt / 2) * (1 - maps.spread), atol=1e-5, rtol=0)
    firm = dual_encoder(structure=True, dropout=0.0)
    one, many = (encoder(passes, firm)(given, modality) for passes in (0, 3))
    assert many.spread.max() < 1e-5
    torch.testing.assert_close(one.embedding, many.embedding)


@both
def test_passes_are_the_same_again_and_the_network_is_in_use_afterwards_and_after_an_error(modality, monkeypatch):
    given, network = patch(modality), dual_encoder(structure=True)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    one = encoder(4)(given, modality)
    torch.rand(7)  # whatever else was drawn
    again = encoder(4)(given, modality)
    assert all(getattr(again, name).equal(getattr(one, name)) for name in ("embedding", *MAPS))
    assert not [name for name, module in network.named_modules() if module.training]
    assert all(value.equal(state[key]) for key, value in network.state_dict().items())
    monkeypatch.setattr(DualEncoder, "finish", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        encoder(2)(given, modality)
    assert not [name for name, module in network.named_modules() if module.training]


@pytest.mark.parametrize(("passes", "together"), [(0, [1]), (1, [1]), (5, [5]), (7, [5, 2])])
def test_what_comes_before_dropout_is_computed_once_and_the_mean_is_over_all_passes(passes, together, monkeypatch):
    """Each pass says a number and a direction of its own; nothing is counted twice or forgotten."""
    begin, finish = Mock(wraps=dual_encoder(structure=True).begin), DualEncoder.finish
    sizes, trained, said = [], set(), []

    def numbered(self, begun, structure, modality):
        seen = finish(self, begun, structure, modality)
        sizes.append(len(begun))
        trained.update(type(module) for module in self.modules() if module.training)
        for k in range(len(begun)):
            said.append(0.01 * 2 ** len(said))
            seen.uncertainty[k] = said[-1]
            seen.embedding[k] = nn.functional.one_hot(torch.tensor(k % 2), 128)[:, None, None]
        return seen

    monkeypatch.setattr(DualEncoder, "begin", begin)
    monkeypatch.setattr(DualEncoder, "finish", numbered)
    maps = encoder(passes)(patch("sar", 32, 32), "sar")
    assert begin.call_count == 1
    assert sizes == together
    assert trained == ({nn.Dropout, nn.Dropout2d} if passes else set())
    torch.testing.assert_close(maps.doubt, torch.full((8, 8), sum(said) / len(said)))
    odd = sum(size // 2 for size in together)
    mean = torch.tensor([len(said) - odd, odd]) / len(said)
    torch.testing.assert_close(maps.spread, (1 - mean.norm()).expand(8, 8))
    torch.testing.assert_close(maps.embedding[:2, 0, 0], mean / mean.norm())


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_doubt_counts_by_the_weight_of_its_sensor(weight):
    maps = encoder(weight={"optical": 2 - weight, "sar": weight})(patch("sar"), "sar")
    torch.testing.assert_close(maps.confidence, 1 - weight * maps.doubt / 2, atol=1e-5, rtol=0)


def test_a_pair_says_how_its_sensors_weigh():
    one, surely = encoder(), encoder(network=dual_encoder(aleatoric=False))
    for used in (one, surely):
        used.weigh(patch("optical"), patch("sar"))
    assert sum(one.weight.values()) == pytest.approx(2)
    assert min(one.weight.values()) > 0
    assert one.weight["optical"] != 1
    assert encoder().weight == surely.weight == {"optical": 1, "sar": 1}  # not those of another pair
    assert surely(patch("sar"), "sar").confidence.min() > 0.9999


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Its SAR scene is empty in rows 100 to 159, columns 200 to 259."""
    with pair_of(tmp_path_factory.mktemp("pair"), (220, 300), empty=(slice(100, 160), slice(200, 260))) as opened:
        yield opened


@pytest.fixture(scope="module")
def scenes(pair):
    whole = pair.sar.read(pair.grid.window)
    used = CellEncoder(dual_encoder(structure=True), SarLog.of(whole.values, whole.valid))
    return {name: EncodedScene(getattr(pair, name), used, name) for name in BANDS}


@both
def test_a_window_of_a_scene_is_read_in_cells(modality, pair, scenes):
    scene, original = scenes[modality], getattr(pair, modality)
    read = scene.read(Window(5, 4, 20, 12), CELL)
    assert read.values.shape == (128, 12, 20)
    assert read.values.dtype == np.float32
    assert read.valid.all()
    length = np.linalg.norm(read.values, axis=0)
    # Without noise, the optical scene has cells of one grey, of which nothing is said.
    assert (length > 0).all() if modality == "sar" else 0.7 < (length > 0).mean() < 1
    assert length.max() <= 1 + 1e-5
    np.testing.assert_array_equal(read.values, scene.maps(Window(5, 4, 20, 12), CELL).weighed.numpy())
    assert not scene.read(Window(-40, 0, 20, 12), CELL).values.any()
    assert scene.name == original.name
    assert scene.grid is original.grid
    np.testing.assert_array_equal(scene.outline(), original.outline())


def test_what_is_empty_or_outside_is_not_valid(scenes):
    # Rows 25 to 39 and columns 50 to 64 are empty; the scene has 55 rows and 75 columns.
    read = scenes["sar"].read(Window(44, 20, 40, 40), CELL)
    expected = np.zeros((40, 40), bool)
    expected[:35, :31] = True
    expected[5:20, 6:21] = False
    np.testing.assert_array_equal(read.valid, expected)
    assert (read.values[:, ~expected] == 0).all()
    assert np.linalg.norm(read.values[:, expected], axis=0).min() > 0


@both
def test_coarser_cells_cover_more(modality, scenes):
    """Cells of 8 px of the common grid: a window of the scene at half its resolution."""
    scene = scenes[modality]
    coarse = scene.read(Window(2, 1, 16, 12), 2 * CELL)
    halved = scene.scene.read(Window(2 * CELL, CELL, 16 * CELL, 12 * CELL), 2)
    np.testing.assert_array_equal(coarse.values, scene.encoder(halved, modality).weighed.numpy())
    assert coarse.valid.mean() > 0.7


# --- what it sees -----------------------------------------------------------------------------------------------------

SHAPE = (24, 32)
ALL = np.ones(SHAPE, bool)
HOLED = ALL.copy()
HOLED[3:11, 5:20] = False


def drawn(bands=3, valid=ALL, low=50, high=200):
    values = np.random.default_rng(0).uniform(low, high, (bands, *SHAPE)).astype(np.float32)
    return Patch(values * valid, valid)


def standardised(values):
    return (values - values.mean()) / values.std()


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_optical_images_of_any_bands_are_three_standardised_ones(bands):
    given = drawn(bands, HOLED)
    seen = optical_input(given, 3)
    assert seen.shape == (3, *SHAPE)
    assert seen.dtype == np.float32
    assert (seen[:, ~HOLED] == 0).all()
    shown = given.values[:3] if bands > 2 else [given.values.mean(axis=0)] * 3
    for k in range(3):
        np.testing.assert_allclose(seen[k, HOLED], standardised(shown[k][HOLED]), atol=1e-4)
    changed = Patch(given.values * np.float32(7) + 300, given.valid)
    np.testing.assert_allclose(optical_input(changed, 3), seen, atol=1e-3)
    for nothing in (drawn(bands, ~ALL), Patch(np.full((bands, *SHAPE), 90, np.float32), ALL)):
        assert (optical_input(nothing, 3) == 0).all()


def test_sar_is_one_standardised_logarithm():
    given = drawn(1, HOLED, low=1, high=900)
    log = SarLog.of(given.values, given.valid)
    seen = sar_input(given, log)
    assert seen.shape == (1, *SHAPE)
    assert seen.dtype == np.float32
    assert (seen[:, ~HOLED] == 0).all()
    expected = standardised(np.log(given.values[0, HOLED].astype(float) + log.floor))
    np.testing.assert_allclose(seen[0, HOLED], expected, atol=1e-3)


def test_texture_in_any_band_is_texture_and_bands_that_differ_are_none():
    image = optical_input(drawn(3), 3)
    image[:, 4:8, 8:12] = 0.5
    seen = textured(image, ALL)
    assert seen.shape == (6, 8)
    assert np.argwhere(~seen).tolist() == [[1, 2]]
    image = np.array(np.broadcast_to(np.array([-1, 0, 2], np.float32)[:, None, None], (3, *SHAPE)))
    assert not textured(image, ALL).any()
    image[2, 5, 9] = 1
    assert np.argwhere(textured(image, ALL)).tolist() == [[1, 2]]


@pytest.mark.parametrize(("pixels", "expected"), [(0, False), (8, False), (9, True), (16, True)])
def test_more_than_half_of_a_cell_has_to_be_valid(pixels, expected):
    valid = ALL.copy()
    valid[8:12, 4:8] = (np.arange(16) < pixels).reshape(4, 4)
    seen = textured(optical_input(drawn(1), 3), valid)
    assert seen[2, 1] == expected
    assert np.delete(seen.ravel(), 2 * 8 + 1).all()


def test_what_is_left_over_at_the_right_and_below_is_no_cell():
    image = np.random.default_rng(0).normal(size=(1, 27, 34)).astype(np.float32)
    image[:, 4:8, 8:12] = 0
    image[:, 24:] = 1e6
    seen = textured(image, np.ones((27, 34), bool))
    assert seen.shape == (6, 8)
    assert np.argwhere(~seen).tolist() == [[1, 2]]
