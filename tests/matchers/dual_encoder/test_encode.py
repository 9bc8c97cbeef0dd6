"""cells/encode: what a dual encoder says of pixels, with and without passes of dropout, and of a scene's windows."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from support.rasters import fields, pair_of
from torch import nn

from sn9reg.matchers.dual_encoder.encode import CellEncoder, CellMaps, EncodedScene
from sn9reg.matchers.dual_encoder.inputs import sar_input, textured
from sn9reg.matchers.dual_encoder.network import CELL, DualEncoder
from sn9reg.raster.grid import Window
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import Patch

LOG = SarLog(10.0, False)
BANDS = {"optical": 3, "sar": 1}
both = pytest.mark.parametrize("modality", BANDS)


@cache
def network(**options):
    """Shared: it is in use, and stays as it is. Its batch normalisations are those of a trained one, see conftest
    `untrained`, lest what dropout changes is too little to be seen."""
    torch.manual_seed(3)
    made = DualEncoder(**({"structure": True} | options)).train()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0
    with torch.no_grad():
        for modality, bands in BANDS.items():
            made(torch.randn(2, bands, 32, 32), modality)
    return made.eval()


def encoder(passes=0, **options):
    return CellEncoder(network(), LOG, passes, **options)


def patch(modality, height=64, width=64, seed=0, empty=None):
    values = np.stack([fields(max(height, width), seed + k)[:height, :width] for k in range(BANDS[modality])])
    random = np.random.default_rng(seed)
    values = (200 * values + 20 + random.normal(size=values.shape)).astype(np.float32)
    valid = np.ones((height, width), bool)
    if empty is not None:
        valid[empty] = False
    return Patch(values * valid, valid)


def equal(one, other, names=("embedding", "confidence", "doubt", "spread", "valid")):
    return all(getattr(one, name).equal(getattr(other, name)) for name in names)


@pytest.fixture
def calls(monkeypatch):
    """How often the network began and with how many passes it finished."""
    counted = {"begin": 0, "finish": []}
    begin, finish = DualEncoder.begin, DualEncoder.finish

    def counting_begin(self, image, modality):
        counted["begin"] += 1
        return begin(self, image, modality)

    def counting_finish(self, begun, modality):
        counted["finish"].append(len(begun.features))
        return finish(self, begun, modality)

    monkeypatch.setattr(DualEncoder, "begin", counting_begin)
    monkeypatch.setattr(DualEncoder, "finish", counting_finish)
    return counted


# --- maps ------------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("passes", [0, 3])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (52, 84), (8, 4)], ids=str)
def test_cells_of_four_pixels_whatever_the_size(modality, passes, height, width):
    maps = encoder(passes)(patch(modality, height, width), modality)
    cells = (height // CELL, width // CELL)
    assert maps.embedding.shape == (128, *cells)
    torch.testing.assert_close(maps.embedding.norm(dim=0), torch.ones(cells), atol=1e-4, rtol=0)
    for name in ("confidence", "doubt", "spread", "valid"):
        values = getattr(maps, name)
        assert values.shape == cells, name
        assert values.min() >= 0, name
        assert values.max() <= 1, name
    assert maps.confidence.min() > 0
    assert not maps.embedding.requires_grad


def test_a_width_of_multiples_of_16_or_not_makes_little_difference():
    given = patch("sar", 64, 80)
    whole, narrow = (encoder()(Patch(given.values[..., :w], given.valid[:, :w]), "sar") for w in (80, 76))
    agree = (whole.embedding[:, :, :10] * narrow.embedding[:, :, :10]).sum(dim=0)
    assert agree.min() > 0.95


def test_what_is_seen_is_what_the_network_says():
    given = patch("sar")
    maps = encoder()(given, "sar")
    with torch.no_grad():
        seen = network()(torch.from_numpy(sar_input(given, LOG))[None], "sar")
    torch.testing.assert_close(maps.embedding, seen.embedding[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.doubt, seen.uncertainty[0, 0], atol=1e-4, rtol=0)
    assert maps.doubt.min() > 0


def test_the_logarithm_is_the_scenes():
    given = patch("sar")
    one, other = (CellEncoder(network(), log)(given, "sar").doubt for log in (LOG, SarLog(10.0, True)))
    assert (one - other).abs().max() > 1e-5


@both
@pytest.mark.parametrize("passes", [0, 2])
def test_empty_cells_are_not_valid_and_weigh_nothing(modality, passes):
    given = patch(modality, empty=(slice(16, 40), slice(24, 64)))
    maps = encoder(passes)(given, modality)
    expected = np.ones((16, 16))
    expected[4:10, 6:] = 0
    np.testing.assert_array_equal(maps.valid.numpy(), expected)
    length = maps.weighed.norm(dim=0)
    assert maps.weighed.shape == (128, 16, 16)
    assert length[maps.valid == 0].max() == 0
    torch.testing.assert_close(length, maps.confidence * maps.valid, atol=1e-5, rtol=0)
    assert length[maps.valid > 0].min() > 0


def test_valid_is_what_has_texture():
    given = patch("sar")
    given.values[:, 20:32, 8:20] = 77
    maps = encoder()(given, "sar")
    np.testing.assert_array_equal(maps.valid.numpy(), textured(sar_input(given, LOG), given.valid, CELL))
    assert np.argwhere(maps.valid.numpy() == 0).tolist() == [[r, c] for r in (5, 6, 7) for c in (2, 3, 4)]


def test_weighed_embeddings_by_hand():
    embedding = torch.tensor([[[1.0, 0.6]], [[0.0, 0.8]]])
    half, nothing = torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2)
    maps = CellMaps(embedding, half, nothing, nothing, torch.tensor([[1.0, 0.0]]), torch.ones(1, 2))
    assert maps.weighed.tolist() == [[[0.5, 0.0]], [[0.0, 0.0]]]


# --- passes ----------------------------------------------------------------------------------------------------------


@both
def test_without_passes_nothing_spreads(modality):
    maps = encoder()(patch(modality), modality)
    assert maps.spread.max() < 1e-5
    torch.testing.assert_close(maps.confidence, 1 - maps.doubt / 2, atol=1e-5, rtol=0)


@both
def test_passes_spread_and_take_confidence_away(modality):
    given = patch(modality)
    maps = encoder(4)(given, modality)
    assert maps.spread.min() >= 0
    assert maps.spread.mean() > 10 * encoder()(given, modality).spread.mean()
    assert maps.spread.max() > 1e-5
    torch.testing.assert_close(maps.confidence, (1 - maps.doubt / 2) * (1 - maps.spread))


@both
def test_the_paper_network_spreads_more_than_one_that_has_structure_beside(modality):
    given = patch(modality)
    alone = CellEncoder(network(structure=False), LOG, 4)(given, modality)
    assert alone.spread.mean() > 3 * encoder(4)(given, modality).spread.mean()


@both
def test_a_network_without_dropout_has_nothing_that_could_spread(modality):
    maps = CellEncoder(network(dropout=0.0), LOG, 3)(patch(modality), modality)
    assert maps.spread.max() < 1e-5
    single = CellEncoder(network(dropout=0.0), LOG)(patch(modality), modality)
    torch.testing.assert_close(maps.embedding, single.embedding)


@both
def test_the_same_seed_says_the_same_and_another_something_else(modality):
    given = patch(modality)
    one = encoder(4)(given, modality)
    torch.rand(7)  # whatever else was drawn
    assert equal(encoder(4)(given, modality), one)
    assert not encoder(4, seed=1)(given, modality).spread.equal(one.spread)


@both
@pytest.mark.parametrize(("passes", "together"), [(0, [1]), (1, [1]), (4, [4]), (5, [5]), (7, [5, 2])])
def test_what_comes_before_dropout_is_computed_once(modality, passes, together, calls):
    encoder(passes)(patch(modality, 32, 32), modality)
    assert calls["begin"] == 1
    assert calls["finish"] == together


def test_the_mean_is_over_all_passes(monkeypatch):
    """Seven passes of which each says its own number; nothing is counted twice or forgotten."""
    finish, said = DualEncoder.finish, []

    def numbered(self, begun, modality):
        seen = finish(self, begun, modality)
        for k in range(len(seen.uncertainty)):
            said.append(0.01 * 2 ** len(said))
            seen.uncertainty[k] = said[-1]
            seen.embedding[k] = nn.functional.one_hot(torch.tensor(k % 2), 128)[:, None, None]
        return seen

    monkeypatch.setattr(DualEncoder, "finish", numbered)
    maps = encoder(7)(patch("sar", 32, 32), "sar")
    assert len(said) == 7
    torch.testing.assert_close(maps.doubt, torch.full((8, 8), 0.01 * 127 / 7))
    # Of five and two passes: 0, 1, 0, 1, 0 and 0, 1.
    torch.testing.assert_close(maps.spread, torch.full((8, 8), 1 - 5 / 7))
    torch.testing.assert_close(maps.embedding[:2, 0, 0], torch.tensor([4.0, 3.0]) / 5)


@both
def test_the_network_is_in_use_again_afterwards(modality):
    given, used = patch(modality), encoder(4)
    state = {key: value.clone() for key, value in used.network.state_dict().items()}
    before = encoder()(given, modality)
    used(given, modality)
    assert not [name for name, module in used.network.named_modules() if module.training]
    assert equal(encoder()(given, modality), before)
    assert all(value.equal(state[key]) for key, value in used.network.state_dict().items())


def test_during_passes_dropout_alone_is_as_in_training(monkeypatch):
    kinds, finish = set(), DualEncoder.finish

    def looked_at(self, begun, modality):
        kinds.update(type(module) for module in self.modules() if module.training)
        return finish(self, begun, modality)

    monkeypatch.setattr(DualEncoder, "finish", looked_at)
    encoder(2)(patch("sar", 32, 32), "sar")
    assert kinds == {nn.Dropout, nn.Dropout2d}


def test_the_network_is_in_use_again_after_an_error(monkeypatch):
    def fails(self, begun, modality):
        raise MemoryError

    monkeypatch.setattr(DualEncoder, "finish", fails)
    with pytest.raises(MemoryError):
        encoder(2)(patch("sar", 32, 32), "sar")
    assert not [module for module in network().modules() if module.training]


# --- weights of a pair -----------------------------------------------------------------------------------------------


def test_doubt_counts_by_the_weight_of_its_sensor():
    given = patch("sar")
    maps = encoder(weight={"optical": 0.0, "sar": 2.0})(given, "sar")
    torch.testing.assert_close(maps.confidence, 1 - maps.doubt, atol=1e-5, rtol=0)
    unheeded = encoder(weight={"optical": 2.0, "sar": 0.0})(given, "sar")
    torch.testing.assert_close(unheeded.confidence, torch.ones(16, 16), atol=1e-5, rtol=0)


def test_a_pair_says_how_its_sensors_weigh(tmp_path):
    with pair_of(tmp_path, shape=(96, 112)) as pair:
        one = encoder()
        assert one.weight == {"optical": 1, "sar": 1}
        one.weigh(pair)
        assert set(one.weight) == {"optical", "sar"}
        assert sum(one.weight.values()) == pytest.approx(2)
        assert min(one.weight.values()) > 0
        assert one.weight["optical"] != 1
        assert encoder().weight == {"optical": 1, "sar": 1}  # not those of another pair
        surely = CellEncoder(network(aleatoric=False), LOG)
        surely.weigh(pair)
        assert surely.weight == {"optical": 1, "sar": 1}
        assert surely(patch("sar"), "sar").confidence.min() > 0.9999


# --- scenes ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Its SAR scene is empty in rows 100 to 159, columns 200 to 259."""
    with pair_of(tmp_path_factory.mktemp("pair"), (220, 300), empty=(slice(100, 160), slice(200, 260))) as opened:
        yield opened


@pytest.fixture(scope="module")
def scenes(pair):
    patch = pair.sar.read(pair.grid.window)
    encoder = CellEncoder(network(), SarLog.of(patch.values, patch.valid))
    return {name: EncodedScene(getattr(pair, name), encoder, name) for name in BANDS}


@pytest.fixture(scope="module")
def whole(scenes):
    return {name: scene.maps(Window(0, 0, 75, 55), CELL) for name, scene in scenes.items()}


@both
def test_a_window_of_a_scene_is_read_in_cells(modality, scenes):
    read = scenes[modality].read(Window(5, 4, 20, 12), CELL)
    assert read.values.shape == (128, 12, 20)
    assert read.values.dtype == np.float32
    assert read.valid.shape == (12, 20)
    assert read.valid.dtype == bool
    assert read.valid.all()
    length = np.linalg.norm(read.values, axis=0)
    # Without noise, the optical scene has cells of one grey, of which nothing is said.
    assert (length > 0).all() if modality == "sar" else 0.7 < (length > 0).mean() < 1
    assert length.max() <= 1 + 1e-5
    maps = scenes[modality].maps(Window(5, 4, 20, 12), CELL)
    np.testing.assert_array_equal(read.values, maps.weighed.numpy())


def test_what_is_empty_or_outside_is_not_valid(scenes):
    # Rows 25 to 39 and columns 50 to 64 are empty; the scene has 55 rows and 75 columns.
    read = scenes["sar"].read(Window(44, 20, 40, 40), CELL)
    expected = np.zeros((40, 40), bool)
    expected[:35, :31] = True
    expected[5:20, 6:21] = False
    np.testing.assert_array_equal(read.valid, expected)
    assert (read.values[:, ~expected] == 0).all()
    assert np.linalg.norm(read.values[:, expected], axis=0).min() > 0


def test_all_of_a_window_outside_is_nothing(scenes):
    read = scenes["optical"].read(Window(-40, 0, 20, 12), CELL)
    assert not read.valid.any()
    assert (read.values == 0).all()


@both
@pytest.mark.parametrize("start", [(14, 13), (11, 12)], ids=str)
def test_a_window_says_what_a_larger_one_says_away_from_the_border(modality, start, scenes, whole):
    col, row = start
    small = scenes[modality].maps(Window(col, row, 32, 30), CELL)
    rim = -(-DualEncoder.margin // CELL)
    inner, there = (
        maps.embedding[:, y + rim : y + 30 - rim, x + rim : x + 32 - rim]
        for maps, x, y in ((small, 0, 0), (whole[modality], col, row))
    )
    agree = (inner * there).sum(dim=0)
    assert agree.shape == (10, 12)
    assert agree.min() > 0.95
    assert (inner * there.roll(3, -1)).sum(dim=0).mean() < 0.8


@both
def test_coarser_cells_cover_more(modality, scenes):
    """Cells of 8 px of the common grid: a window of the scene at half its resolution."""
    scene = scenes[modality]
    coarse = scene.read(Window(2, 1, 16, 12), 2 * CELL)
    assert coarse.values.shape == (128, 12, 16)
    halved = scene.scene.read(Window(2 * CELL, CELL, 16 * CELL, 12 * CELL), 2)
    expected = scene.encoder(halved, modality).weighed.numpy()
    np.testing.assert_array_equal(coarse.values, expected)
    assert coarse.valid.mean() > 0.7


def test_a_scene_is_named_and_lies_as_it_did(pair, scenes):
    for name, scene in scenes.items():
        original = getattr(pair, name)
        assert scene.name == original.name
        assert scene.grid is original.grid
        np.testing.assert_array_equal(scene.outline(), original.outline())


def test_both_scenes_say_the_same_of_the_same_place(tmp_path):
    """SAR of reversed contrast, eight columns to the right and four rows up."""
    with pair_of(tmp_path, (200, 200), shift=(8, -4), looks=200) as pair:
        patch = pair.sar.read(pair.grid.window)
        encoder = CellEncoder(network(), SarLog.of(patch.values, patch.valid))
        scenes = [EncodedScene(getattr(pair, name), encoder, name) for name in BANDS]
        optical, sar = (scene.maps(Window(0, 0, 50, 50), CELL).embedding for scene in scenes)
    here, there = optical[:, 12:38, 12:38], sar[:, 11:37, 14:40]
    alike = (here * there).sum(dim=0).mean()
    assert alike > 0.5
    assert alike > (here * sar[:, 12:38, 12:38]).sum(dim=0).mean() + 0.1
    assert alike > (here * sar[:, 13:39, 10:36]).sum(dim=0).mean() + 0.1
