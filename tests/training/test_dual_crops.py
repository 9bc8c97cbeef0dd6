"""training.dual_encoder: crops; the SAR crop lies at its place in the optical one; chance is that of the seed."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sn9reg.raster.scene import Patch
from sn9reg.training.data import Source
from sn9reg.training.dual_encoder import DualConfig, Phase, PhaseOptimiser, crops
from sn9reg.training.sample import Geometry, Photometry

SOURCE = Source("unused")
PHASE = Phase(steps=1, optimiser=PhaseOptimiser())
STRONG = Photometry(tone=1.0, gain=0.5, speckle=1.0, blur=2.0, noise=0.5)


def textured(side=90, seed=0, valid=None):
    """A pair whose SAR image is the optical one."""
    ground = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side + 10)), 1.5)
    values = (100 + 20 * (ground - ground.mean()) / ground.std()).astype(np.float32)[None]
    return (Patch(values, np.ones(ground.shape, bool) if valid is None else valid),) * 2


def made(pair, seed=0, train=True, source=SOURCE, **options):
    small = {"geometry": Geometry(48, 32), "photometry": Photometry(), "colours": 0.0}
    config = DualConfig(sources=(SOURCE,), pretraining=PHASE, finetuning=PHASE, **small | options)
    return crops(source, *pair, np.random.default_rng(seed), config, train)


def correlations(crop):
    """(17, 17) correlation of the SAR crop with the optical one at all places."""
    return cv2.matchTemplate(crop.optical[0].numpy(), crop.sar[0].numpy(), cv2.TM_CCOEFF_NORMED)


def test_the_sar_crop_lies_at_its_place_and_nowhere_else():
    places, source = set(), Source("unused", zoom=(0.8, 1.5))
    for seed in range(8):
        crop = made(textured(seed=seed), seed, geometry=Geometry(48, 32, tilt=30.0), source=source)
        assert (crop.optical.shape, crop.sar.shape) == ((3, 48, 48), (1, 32, 32))
        assert (crop.optical.dtype, crop.sar.dtype, crop.place.dtype) == (torch.float32, torch.float32, torch.int64)
        alike_at = correlations(crop)
        row, col = crop.place.tolist()
        assert np.unravel_index(alike_at.argmax(), alike_at.shape) == (row, col)
        assert alike_at[row, col] > 0.98
        rows, cols = np.mgrid[:17, :17]
        assert alike_at[np.hypot(rows - row, cols - col) > 6].max() < 0.7
        places.add((row, col))
    assert min(len(set(axis)) for axis in zip(*places, strict=True)) > 2


def test_crops_of_one_size_show_the_same_and_small_images_are_magnified_to_the_crop():
    for side, geometry in ((90, Geometry(48, 48)), (30, Geometry(48, 32))):
        crop = made(textured(side), geometry=geometry)
        assert crop.optical.shape == (3, 48, 48)
        assert correlations(crop)[tuple(crop.place)] > 0.98


def test_what_is_not_valid_is_nil_in_both():
    valid = np.zeros((90, 100), bool)
    valid[:, :50] = True
    for seed in range(4):
        crop = made(textured(valid=valid), seed, photometry=STRONG)
        row, col = crop.place.tolist()
        part = (crop.optical[:, row : row + 32, col : col + 32] == 0).all(dim=0)
        assert part.equal(crop.sar[0] == 0)


def test_in_training_grey_values_are_changed_and_else_they_are_not():
    changed, plain, again = (made(textured(), 1, train, photometry=STRONG) for train in (True, False, False))
    assert all(a.equal(b) for a, b in zip(plain, again, strict=True))
    for band in (*changed.optical, *changed.sar):
        assert torch.stack([band.mean(), band.std()]).tolist() == pytest.approx([0, 1], abs=0.1)
    assert changed.place.equal(plain.place)
    assert min((a - b).abs().mean() for a, b in zip(changed[:2], plain[:2], strict=True)) > 0.1


@pytest.mark.parametrize(("colours", "low", "high"), [(0.0, 0, 0), (0.5, 2, 10), (1.0, 12, 12)])
def test_optical_bands_differ_in_as_many_samples_as_asked_but_show_the_same_ground(colours, low, high):
    pair, differing = textured(), 0
    for seed in range(12):
        optical = made(pair, seed, colours=colours, photometry=Photometry(gain=0.3, noise=0.1)).optical
        equal = [optical[a].equal(optical[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        assert all(equal) or not any(equal)
        assert np.corrcoef(optical.flatten(1).numpy()).min() > 0.8
        differing += not any(equal)
    assert low <= differing <= high
