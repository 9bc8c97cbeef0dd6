"""training.data: sources of pairs, those held out, and the endless stream of samples that is drawn from the others."""

from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.pairs import write_manifest, write_pairs
from support.rasters import TEXTURE_TRANSFORM, UTM, write_raster
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError, InputError
from sn9reg.training import data
from sn9reg.training.data import Samples, Source, drawn, ground_components, hold_out, load, load_all


def test_a_folders_pairs_are_loaded_as_they_are(tmp_path):
    write_pairs(tmp_path, 3, 40)
    train, held = load(Source(str(tmp_path)), 0, 32)
    assert (len(train), len(held)) == (3, 0)
    for k, pair in enumerate(train):
        for kind, patch in zip(("opt", "sar"), pair, strict=True):
            assert patch.values.dtype == np.uint8, "four times as many fit into memory"
            assert patch.valid.all()
            np.testing.assert_array_equal(patch.values[0], np.asarray(Image.open(tmp_path / f"{k}_{kind}.png")))


def test_what_is_held_out_by_the_seed_is_not_trained_on(tmp_path):
    source = Source(str(write_pairs(tmp_path, 8, 40)), held_out=0.5)
    parts = [[p.values.tobytes() for p, _ in part] for seed in (0, 0, 1) for part in load(source, seed, 32)]
    (train, held), again, other = parts[:2], parts[3], parts[5]
    assert (len(set(train + held)), len(held)) == (8, 4)
    assert held == again != other


def test_sources_without_weight_or_pairs_are_not_drawn_from_but_what_they_hold_out_is_kept(monkeypatch):
    monkeypatch.setattr(data, "load", lambda source, *_: ([1] if source.name != "none" else [], [2]))
    sources = Source("none"), Source("a"), Source("b", weight=0)
    assert load_all(sources, 0, 32) == ([(sources[1], [1])], [(source, [2]) for source in sources])


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load(Source(str(tmp_path / "none")), 0, 32)
    write_pairs(tmp_path, 1, 40)
    Image.new("L", (40, 41)).save(tmp_path / "0_sar.png")
    with pytest.raises(InputError, match=r"0_opt\.png and 0_sar\.png differ in size"):
        load(Source(str(tmp_path)), 0, 32)


def test_decibels_become_amplitude_and_a_few_negative_amplitudes_nothing(tmp_path):
    decibel = np.random.default_rng(0).uniform(-30, 5, (1, 40, 40)).astype(np.float32)
    amplitude = 10 ** (decibel / 20)
    for values in (decibel, 1000 * amplitude):
        values[0, 3, 4], values[0, 5, 5] = -9999, -3
        write_raster(tmp_path / "x_opt.tif", np.ones_like(values, np.uint8), TEXTURE_TRANSFORM, UTM)
        write_raster(tmp_path / "x_sar.tif", values, TEXTURE_TRANSFORM, UTM, nodata=-9999)
        sar = load(Source(str(tmp_path)), 0, 32)[0][0][1]
        assert (sar.values.dtype, sar.values[0, 3, 4]) == (np.float32, 0)
        assert np.argwhere(~sar.valid).tolist() == [[3, 4]]
        expected = 10 ** (decibel / 20) if values is decibel else np.maximum(values, 0)
        np.testing.assert_allclose(sar.values[:, sar.valid], expected[:, sar.valid], rtol=1e-5)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return str(write_manifest(tmp_path_factory.mktemp("manifest")))


def test_a_manifests_windows_show_one_place_and_change_but_not_those_held_out(manifest):
    source = Source(manifest=manifest, longitude=10, held_out=0.5)
    train, held = load(source, 0, 32)
    assert (len(train), len(held)) == (4, 4), "one place each, two times of each image"
    for pairs in (load(replace(source, held_out=share), seed, 32) for share, seed in product((0.01, 0.99), range(4))):
        places = [{acquisition.place for pair in part._pairs for acquisition in pair} for part in pairs]
        assert places[0] | places[1] == {(15.0, 50.0), (25.0, 50.0)}, "nothing of the test set"
        assert not places[0] & places[1]
    corners = set()
    for _ in range(10):
        optical, sar = train[1]
        assert optical.values.shape == sar.values.shape == (1, 32, 32)
        corners.add((optical.values[0, 0, 0], sar.values[0, 0, 0]))
    assert len(corners) > 5
    assert 10 ** (-100 / 20) < sar.values.min() < sar.values.max() < 1, "decibels became amplitude"
    fixed, again, other = ([load(source, seed, 32)[1][k][0].values.tobytes() for k in (1, 0, 1)] for seed in (0, 0, 1))
    assert fixed == again != other
    assert fixed[0] == fixed[2] == held[1][0].values.tobytes()


def test_a_manifest_without_longitude_is_parted_by_year(manifest):
    train, held = load(Source(manifest=manifest, held_out=0.99), 0, 32)
    assert (len(train), len(held)) == (1, 2), "2018 with 2018 at three places"
    with pytest.raises(ConfigError, match="of one place for training, none can be held out"):
        load(Source(manifest=manifest, longitude=20, held_out=0.5), 0, 32)
    with pytest.raises(ConfigError, match="training set is empty"):
        load(Source(manifest=manifest, year=2019), 0, 32)


@pytest.mark.parametrize(("zoom", "side"), [((0.5, 1.0), 64), ((1.0, 1.0), 32), ((1.5, 2.0), 32)])
def test_windows_are_as_large_as_the_smallest_magnification_needs(zoom, side, manifest):
    train, held = load(Source(manifest=manifest, longitude=10, zoom=zoom, held_out=0.5), 0, 32)
    assert train[0][0].valid.shape == (side, side)
    assert held[0][0].valid.shape == (32, 32), "those are never magnified"


def test_sources_are_drawn_by_weight_and_their_pairs_alike():
    weights = (6, 3, 1, 0)
    parts = [(Source(str(w), weight=w), [(w, 0), (w, 1)]) for w in weights]
    random = np.random.default_rng(0)
    names = [drawn(parts, random) for _ in range(600)]
    assert all(source.name == str(one) for source, one, _ in names)
    counts = [sum((one, k) == (w, pair) for _, one, k in names) for w in weights for pair in (0, 1)]
    assert counts == pytest.approx([180, 180, 90, 90, 30, 30, 0, 0], abs=30)
    assert counts[6:] == [0, 0]


def test_magnification_is_drawn_from_its_range_on_a_logarithm_in_its_share():
    random = np.random.default_rng(0)
    zooms = np.array([Source("a", zoom=(0.5, 2.0)).drawn_zoom(random) for _ in range(300)])
    assert 0.5 <= zooms.min() < 0.55
    assert 1.85 < zooms.max() <= 2
    assert np.mean(zooms < 1) == pytest.approx(0.5, abs=0.1)
    few = np.array([Source("a", zoom=(1.2, 2.0), zoomed=0.4).drawn_zoom(random) for _ in range(300)])
    assert np.mean(few == 1) == pytest.approx(0.6, abs=0.1)
    assert few[few != 1].min() >= 1.2


def test_pairs_without_room_are_passed_over_but_not_for_ever_and_nothing_to_train_on_is_said():
    parts, tries = [(Source("a"), [(1, 1)])], iter([None, 5, None, None, 6])
    assert list(islice(Samples(parts, lambda *_: next(tries), 0), 2)) == [5, 6]
    with pytest.raises(ConfigError, match="no pair has room"):
        next(iter(Samples(parts, lambda *_: None, 0)))
    with pytest.raises(ConfigError, match="nothing to train on"):
        Samples([], lambda *_: None, 0)


def number(source, optical, sar, random):
    return torch.tensor(random.random())


def test_the_seed_decides_and_workers_have_streams_of_their_own():
    """Batches come from the workers in turn; the first one's stream is that of no worker at all."""
    first, again, other = (Samples([(Source("a"), [(1, 1)])], number, seed) for seed in (0, 0, 1))
    alone = list(islice(first, 4))
    assert alone == list(islice(again, 4))
    assert not set(alone) & set(islice(other, 4))
    batches = list(islice(DataLoader(first, 2, num_workers=2), 4))
    assert torch.stack(alone).equal(torch.cat([batches[0], batches[2]]))
    assert not set(alone) & set(torch.cat([batches[1], batches[3]]))


SIDE = 64


def ground(height=SIDE, width=SIDE, seed=0):
    """(h, w) uint8 of random ground."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2)
    return np.clip(values / values.std() * 40 + 120, 0, 255).astype(np.uint8)


def cut(image, *corners):
    """Patches of SIDE px whose upper left pixels are these, in half patches."""
    half = SIDE // 2
    return [image[r * half : r * half + SIDE, c * half : c * half + SIDE] for r, c in corners]


# 40 places with three images each, which overlap by half, and 40 images that overlap with none.
PATCHES = [image for seed in range(40) for image in cut(ground(96, 128, seed), (0, 0), (0, 1), (1, 2))]
PATCHES += [ground(seed=1000 + seed) for seed in range(40)]
PLACE = np.concatenate([np.repeat(np.arange(40), 3), 40 + np.arange(40)])
LIGHT = 3.0 * np.mgrid[:SIDE, :SIDE].sum(axis=0)  # that falls off alike everywhere


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (cut(ground(200, 300), *((r, c) for r in range(5) for c in range(8))), 1),
        (cut(ground(64, 128), (0, 0), (0, 1), (0, 2)), 1),  # first and last overlap with the one between
        (cut(ground(200, 200), (0, 0), (0, 2), (2, 0), (2, 2)), 4),  # side by side
        *((cut(ground(200, 200), (1, 1), other), 1) for other in [(1, 2), (2, 1), (2, 2), (0, 2), (2, 0)]),
        ([ground(64, 96)[:, :64], 0.3 * ground(64, 96)[:, 32:] + 50], 1),  # of other brightness and contrast
        ([LIGHT + 0.5 * ground(seed=seed) for seed in range(10)], 10),
        ([np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), 9)], 3),
        (PATCHES, 80),
    ],
)
def test_images_that_overlap_by_half_are_one_component(images, count):
    labels = ground_components([*images, ground(seed=50)])
    assert len(set(labels[:-1])) == count
    assert labels[-1] not in labels[:-1]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_whole_places_are_held_out_and_about_the_share(share):
    held = hold_out(PATCHES, share, seed=3)
    assert (held.dtype, held.shape) == (bool, (160,))
    assert not set(PLACE[held]) & set(PLACE[~held])
    assert share * 160 - 3 < held.sum() <= share * 160
    if share:
        assert len(set(PLACE[held])) > 4, "many places and not one"
        np.testing.assert_array_equal(held, hold_out(PATCHES, share, seed=3))
        assert (held != hold_out(PATCHES, share, seed=4)).any()


@pytest.mark.parametrize("seed", range(4))
def test_a_place_of_more_than_a_quarter_of_what_is_wanted_stays_in_training(seed):
    large = cut(ground(100, 200), *((r, c) for r in range(2) for c in range(5)))
    held = hold_out([*large, *(ground(seed=10 + k) for k in range(70))], 0.25, seed)
    assert not held[:10].any()
    assert held[10:].sum() == 20
