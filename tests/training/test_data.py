"""training.data and training.dense: sources of pairs, random samples for training and fixed ones for validation."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.pairs import write_manifest, write_pairs
from support.rasters import TEXTURE_TRANSFORM, UTM, write_raster
from torch.utils.data import DataLoader, default_collate

from sn9reg.errors import ConfigError, InputError
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.scene import Patch
from sn9reg.training import dense
from sn9reg.training.data import Samples, Source, load
from sn9reg.training.dense import Choice, DenseConfig, ValidationSamples
from sn9reg.training.sample import Geometry, Photometry, finish

GEOMETRY = Geometry(32, 16)
NOTHING = Degradation()


def pairs(count, side=48, seed=0):
    """Pairs whose images are random, as the files of a folder would be read."""
    random = np.random.default_rng(seed)
    valid = np.ones((side, side), bool)
    made = []
    for _ in range(count):
        image = gaussian_filter(random.normal(size=(side, side)), 1.5)
        image = np.clip(120 + 40 * image / image.std(), 1, 255).astype(np.uint8)[None]
        made.append((Patch(image, valid), Patch(256 - image.astype(np.float32), valid)))
    return made


class Counting(list):
    """Pairs that count how often each is asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = [0] * len(self)

    def __getitem__(self, index):
        self.asked[index] += 1
        return super().__getitem__(index)


def training(parts, geometry=GEOMETRY, photometry=None, degradation=NOTHING, seed=0):
    changes = {"geometry": geometry, "photometry": photometry or Photometry(), "degradation": degradation}
    return Samples(parts, configured(**changes).sample, seed)


def configured(**changes):
    return DenseConfig(network=Choice("slim-unet"), loss=Choice("soft-ce"), sources=(Source("a"),), **changes)


def validating(part, geometry=GEOMETRY, degradation=NOTHING, seed=0):
    return ValidationSamples(part, configured(validation=geometry, degradation=degradation, seed=seed))


def drawn(samples, count):
    return list(islice(samples, count))


def same(one, other):
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


def bytes_of(part):
    return {optical.values.tobytes() for optical, _ in part}


# sources


@pytest.mark.parametrize("given", [{}, {"folder": "a", "manifest": "b"}])
def test_a_source_is_a_folder_or_a_manifest(given):
    with pytest.raises(ConfigError, match="either a folder or a manifest"):
        Source(**given)


@pytest.mark.parametrize(
    "options",
    [{"zoom": (0.0, 1.0)}, {"zoom": (2.0, 1.0)}, {"weight": -0.1}, {"held_out": 1.0}, {"held_out": -0.1}],
)
def test_sources_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=r"some/folder: .*out of range"):
        Source("some/folder", **options)


def test_a_folders_pairs_are_loaded_as_they_are(tmp_path):
    write_pairs(tmp_path, 3, 40)
    train, held = load(Source(str(tmp_path)), 0, 32)
    assert held == []
    assert len(train) == 3
    for k, (optical, sar) in enumerate(train):
        for kind, patch in (("opt", optical), ("sar", sar)):
            assert patch.values.dtype == np.uint8, "four times as many fit into memory"
            np.testing.assert_array_equal(patch.values[0], np.asarray(Image.open(tmp_path / f"{k}_{kind}.png")))
            assert patch.valid.all()


def test_pairs_are_held_out_or_trained_on_and_never_both(tmp_path):
    write_pairs(tmp_path, 20, 40)
    everything = bytes_of(load(Source(str(tmp_path)), 0, 32)[0])
    train, held = (bytes_of(part) for part in load(Source(str(tmp_path), held_out=0.3), 0, 32))
    assert len(held) == 6
    assert train | held == everything
    assert not train & held
    assert bytes_of(load(Source(str(tmp_path), held_out=0.3), 0, 32)[1]) == held
    assert bytes_of(load(Source(str(tmp_path), held_out=0.3), 1, 32)[1]) != held, "another seed"


def test_patches_that_overlap_are_held_out_together(tmp_path):
    """Eight places with two patches each, which overlap by half."""
    places = {}
    for place in range(8):
        ground = pairs(1, 64, seed=place)[0][0].values[0]
        for k, part in enumerate((ground[:40, :40], ground[20:60, :40])):
            Image.fromarray(part).save(tmp_path / f"{place}{k}_opt.png")
            Image.fromarray(part).save(tmp_path / f"{place}{k}_sar.png")
            places[part.tobytes()] = place
    parts = load(Source(str(tmp_path), held_out=0.5), 0, 32)
    train, held = ([places[optical.values.tobytes()] for optical, _ in part] for part in parts)
    assert len(held) == 8
    assert not set(train) & set(held)


def test_pairs_of_different_size_are_refused(tmp_path):
    write_pairs(tmp_path, 1, 40)
    Image.new("L", (40, 41)).save(tmp_path / "0_sar.png")
    with pytest.raises(InputError, match=r"0_opt\.png and 0_sar\.png differ in size"):
        load(Source(str(tmp_path)), 0, 32)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load(Source(str(tmp_path / "none")), 0, 32)


def test_decibels_of_a_folder_become_amplitude(tmp_path):
    decibel = np.random.default_rng(0).uniform(-30, 5, (1, 40, 40)).astype(np.float32)
    decibel[0, 3, 4] = -9999
    write_raster(tmp_path / "x_opt.tif", np.ones((1, 40, 40), np.uint8), TEXTURE_TRANSFORM, UTM)
    write_raster(tmp_path / "x_sar.tif", decibel, TEXTURE_TRANSFORM, UTM, nodata=-9999)
    (_, sar) = load(Source(str(tmp_path)), 0, 32)[0][0]
    assert sar.values.dtype == np.float32
    assert sar.values[0, 3, 4] == 0
    assert not sar.valid[3, 4]
    np.testing.assert_allclose(sar.values[:, sar.valid], 10 ** (decibel[:, sar.valid] / 20), rtol=1e-5)


def test_a_few_negative_amplitudes_are_none_and_make_no_decibels(tmp_path):
    amplitude = np.random.default_rng(0).uniform(100, 900, (1, 40, 40)).astype(np.float32)
    amplitude[0, 5, 5] = -3
    write_raster(tmp_path / "x_opt.tif", np.ones((1, 40, 40), np.uint8), TEXTURE_TRANSFORM, UTM)
    write_raster(tmp_path / "x_sar.tif", amplitude, TEXTURE_TRANSFORM, UTM)
    (_, sar) = load(Source(str(tmp_path)), 0, 32)[0][0]
    np.testing.assert_array_equal(sar.values, np.maximum(amplitude, 0))


# manifests


def test_a_manifests_windows_show_one_place_and_change(tmp_path):
    train, held = load(Source(manifest=str(write_manifest(tmp_path)), longitude=10), 0, 32)
    assert (len(train), len(held)) == (4, 0), "one place, two times of each image"
    corners = set()
    for _ in range(10):
        optical, sar = train[1]
        assert optical.values.shape == sar.values.shape == (1, 32, 32)
        col, row = int(optical.values[0, 0, 0]), round(-1 - 20 * np.log10(sar.values[0, 0, 0]))
        np.testing.assert_array_equal(optical.values[0], np.tile(np.arange(col, col + 32), (32, 1)))
        decibel = -1 - np.tile(np.arange(row, row + 32)[:, None], (1, 32))
        np.testing.assert_allclose(sar.values[0], 10 ** (decibel / 20), rtol=1e-4)
        corners.add((col, row))
    assert len(corners) > 5


def test_a_manifests_held_out_windows_never_change(tmp_path):
    train, held = load(Source(manifest=str(write_manifest(tmp_path)), longitude=10, held_out=0.5), 0, 32)
    assert (len(train), len(held)) == (4, 2), "every other one of the four"
    samples = ValidationSamples(held, GEOMETRY, Degradation(8, 0.5))
    first = [samples[k] for k in range(2)]
    assert all(same(samples[k], first[k]) for k in (1, 0, 1))
    again = load(Source(manifest=str(tmp_path / "manifest.csv"), longitude=10, held_out=0.5), 0, 32)[1]
    assert same(ValidationSamples(again, GEOMETRY, Degradation(8, 0.5))[1], first[1])


def test_a_manifest_without_longitude_is_parted_by_year(tmp_path):
    source = Source(manifest=str(write_manifest(tmp_path)), held_out=0.99)
    train, held = load(source, 0, 32)
    assert (len(train), len(held)) == (2, 6), "2018 with 2018 at two places, and every other combination"
    with pytest.raises(ConfigError, match="training set is empty"):
        load(Source(manifest=source.manifest, year=2019), 0, 32)


def test_windows_are_as_large_as_the_smallest_magnification_needs(tmp_path):
    manifest = str(write_manifest(tmp_path))
    for zoom, side in (((0.5, 1.0), 64), ((1.0, 1.0), 32), ((1.5, 2.0), 32)):
        train, held = load(Source(manifest=manifest, longitude=10, zoom=zoom, held_out=0.5), 0, 32)
        assert train[0][0].valid.shape == (side, side)
        assert held[0][0].valid.shape == (32, 32), "those are never magnified"


def test_a_manifest_is_trained_on(tmp_path):
    source = Source(manifest=str(write_manifest(tmp_path)), longitude=10, zoom=(0.5, 2.0), zoomed=0.5)
    for sample in drawn(training([(source, load(source, 0, 32)[0])]), 12):
        assert sample.optical.shape == (1, 32, 32)
        assert sample.sar.shape == (1, 16, 16)
        assert all(torch.isfinite(x).all() for x in sample)
        assert sample.sar.std() > 0.5


# training


def test_samples_are_batches_of_finished_images():
    batch = default_collate(drawn(training([(Source("a"), pairs(3))]), 5))
    assert batch.optical.shape == (5, 1, 32, 32)
    assert batch.sar.shape == (5, 1, 16, 16)
    assert batch.optical.dtype == batch.sar.dtype == torch.float32
    assert batch.place.shape == (5, 2)
    assert batch.place.dtype == torch.int64
    assert (batch.place >= 0).all()
    assert (batch.place <= 16).all()
    for images in (batch.optical, batch.sar):
        torch.testing.assert_close(images.mean(dim=(1, 2, 3)), torch.zeros(5), atol=0.02, rtol=0)
        torch.testing.assert_close(images.std(dim=(1, 2, 3)), torch.ones(5), atol=0.05, rtol=0)


def test_the_template_is_found_at_its_place():
    """SAR is optical reversed here: at the place, and hardly elsewhere, the two are opposites."""
    for optical, sar, place in drawn(training([(Source("a"), pairs(3))]), 20):
        row, col = place.tolist()
        part = optical[0, row : row + 16, col : col + 16].flatten()
        assert torch.corrcoef(torch.stack([part, sar.flatten()]))[0, 1] < -0.85  # the logarithm bends


def test_sources_are_drawn_by_weight_and_their_pairs_alike():
    parts = [Counting(pairs(2, seed=k)) for k in range(4)]
    weighted = [(Source("x", weight=weight), part) for weight, part in zip((6, 3, 1, 0), parts, strict=True)]
    drawn(training([*weighted, (Source("empty", weight=5), [])]), 600)
    totals = [sum(part.asked) for part in parts]
    assert sum(totals) == 600
    assert totals[3] == 0
    assert totals[:3] == pytest.approx([360, 180, 60], abs=45)
    assert parts[0].asked == pytest.approx([180, 180], abs=45)


@pytest.mark.parametrize("parts", [[], [(Source("a"), [])], [(Source("a", weight=0), [1]), (Source("b"), [])]])
def test_nothing_to_train_on_is_said(parts):
    with pytest.raises(ConfigError, match="nothing to train on"):
        training(parts)


@pytest.fixture
def zooms(monkeypatch):
    """What `cut` was asked for."""
    asked, original = [], dense.cut

    def cut(optical, sar, geometry, zoom, random):
        asked.append(zoom)
        return original(optical, sar, geometry, zoom, random)

    monkeypatch.setattr(dense, "cut", cut)
    return asked


def test_magnification_is_drawn_from_its_range_on_a_logarithm(zooms):
    drawn(training([(Source("a", zoom=(0.5, 2.0)), pairs(1, side=80))]), 300)
    assert 0.5 <= min(zooms) < 0.55
    assert 1.85 < max(zooms) <= 2
    assert np.mean(np.array(zooms) < 1) == pytest.approx(0.5, abs=0.1)


def test_only_a_share_is_magnified(zooms):
    drawn(training([(Source("a", zoom=(1.2, 2.0), zoomed=0.4), pairs(1))]), 300)
    assert np.mean([zoom == 1 for zoom in zooms]) == pytest.approx(0.6, abs=0.1)
    assert all(zoom == 1 or 1.2 <= zoom <= 2 for zoom in zooms)


def test_images_smaller_than_the_patch_are_magnified_to_it(zooms):
    samples = drawn(training([(Source("a", zoom=(0.5, 2.0)), pairs(1, side=24))]), 100)
    assert min(zooms) == 32 / 24
    assert 1.8 < max(zooms) <= 2
    assert all(sample.optical.shape == (1, 32, 32) for sample in samples)


def test_the_seed_decides_and_another_one_shows_other_samples():
    def of(seed):
        strong = Photometry(tone=0.5, gain=0.3, speckle=0.5, blur=1, noise=0.1)
        return drawn(training([(Source("a"), pairs(3))], photometry=strong, degradation=Degradation(8), seed=seed), 6)

    first = of(0)
    assert all(same(a, b) for a, b in zip(first, of(0), strict=True))
    assert not any(same(a, b) for a in first for b in of(1))


def test_workers_have_streams_of_their_own():
    """Batches come from the workers in turn; the first one's stream is that of no worker at all."""
    samples = training([(Source("a"), pairs(3))])
    batches = list(islice(DataLoader(samples, 2, num_workers=2), 4))
    alone = default_collate(drawn(samples, 4))
    assert alone.optical.equal(torch.cat([batches[0].optical, batches[2].optical]))
    other = torch.cat([batches[1].optical, batches[3].optical])
    assert not any(a.equal(b) for a in alone.optical for b in other)


def test_photometry_and_degradation_reach_the_samples():
    plain, part = training([(Source("a"), pairs(2))]), [(Source("a"), pairs(2))]
    toned = training(part, photometry=Photometry(gain=0.5))
    speckled = training(part, degradation=Degradation(2))
    (one,), (other,), (rough,) = (drawn(samples, 1) for samples in (plain, toned, speckled))
    assert one.place.equal(other.place)
    assert not one.optical.equal(other.optical)
    assert not one.sar.equal(other.sar)
    assert one.optical.equal(rough.optical)
    assert not one.sar.equal(rough.sar)


# validation


def test_validation_shows_the_middle_and_the_templates_part_of_it():
    part = pairs(5, side=49)
    samples = validating(part, GEOMETRY, NOTHING, seed=2)
    assert len(samples) == 5
    places = set()
    for k, (optical, sar) in enumerate(part):
        row, col = samples[k].place.tolist()
        middle = [slice(8, 40)] * 2
        template = tuple(slice(8 + n, 8 + n + 16) for n in (row, col))
        expected = finish(
            Patch(optical.values[:, middle[0], middle[1]], np.ones((32, 32), bool)),
            Patch(sar.values[:, template[0], template[1]], np.ones((16, 16), bool)),
        )
        for found, wanted in zip(samples[k][:2], expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        places.add((row, col))
    assert len(places) > 2


def test_validation_is_the_same_each_time_and_follows_its_seed():
    worse = Degradation(4, 0.5)
    samples, other = (validating(pairs(3), GEOMETRY, worse, seed) for seed in (0, 1))
    first = [samples[k] for k in range(3)]
    assert all(same(samples[k], first[k]) for k in (2, 0, 1))
    assert all(same(a, b) for a, b in zip(validating(pairs(3), GEOMETRY, worse), first, strict=True))
    assert not any(same(other[k], first[k]) for k in range(3))
    with pytest.raises(IndexError):
        samples[3]


def test_validation_is_degraded():
    plain, worse = (validating(pairs(1), GEOMETRY, how)[0] for how in (NOTHING, Degradation(2)))
    assert plain.optical.equal(worse.optical)
    assert plain.place.equal(worse.place)
    assert not plain.sar.equal(worse.sar)


def test_validation_refuses_images_smaller_than_its_patch():
    with pytest.raises(InputError, match=r"24 x 24 px, smaller than validation\.optical"):
        validating([*pairs(1), *pairs(1, side=24)], GEOMETRY, NOTHING)


def test_an_image_of_the_patchs_size_is_validated_whole():
    part = pairs(1, side=32)
    sample = validating(part, GEOMETRY, NOTHING)[0]
    np.testing.assert_array_equal(sample.optical, finish(*part[0])[0])
