"""What the keypoint matcher makes of its detectors' answers, with detectors that compare what they see plainly."""

import numpy as np
import pytest
import torch
from support.rasters import pair_of
from torch import nn

from sn9reg.fit.choose import fit
from sn9reg.matchers.dense.correlation import cross_correlation
from sn9reg.matchers.keypoints import matcher as module
from sn9reg.matchers.keypoints.detector import Found
from sn9reg.matchers.keypoints.matcher import FAITHFUL, KeypointMatcher
from sn9reg.progress import listening


class Comparing(nn.Module):
    """A detector without weights: where the searched tile looks like the middle 48 px of the other."""

    def __init__(self, finds):
        super().__init__()
        self.finds, self.bands = finds, 1

    def forward(self, optical, sar):
        middle, searched = (optical, sar) if self.finds == "sar" else (sar, optical)
        c, r = middle.shape[-1] // 2, 24
        template = middle[..., c - r : c + r + 1, c - r : c + r + 1].contiguous()
        found = cross_correlation(nn.functional.pad(searched, (r, r, r, r)), template)
        energy = template.square().sum(dim=(1, 2, 3)).clamp_min(1e-3)[:, None, None]
        return torch.exp(12 * (found / energy - 1)).clamp_max(1)


class Guessing(Comparing):
    """A detector that always finds the middle of the tile."""

    def forward(self, optical, sar):
        at = torch.arange(optical.shape[-1]) - optical.shape[-1] // 2
        bump = torch.exp(-(at**2) / (2 * 13.0**2))
        return (0.8 * bump[:, None] * bump[None]).expand(len(optical), -1, -1)


@pytest.fixture
def matcher(monkeypatch):
    def make(kind=Comparing, **options):
        monkeypatch.setattr(module, "load_detector", lambda finds, weights: kind(finds))
        return KeypointMatcher(**options)

    return make


SHAPE = (700, 760)


def displacement(matches):
    return matches.sar_xy - matches.optical_xy


def test_a_shift_within_the_tile_is_found_to_part_of_a_pixel(matcher, tmp_path):
    with pair_of(tmp_path, SHAPE, (31, -22), same=True) as pair:
        matches = matcher(max_offset=40.0, max_points=36).match(pair)
        whole = matcher(max_offset=40.0, max_points=16, subpixel=False).match(pair)
    assert len(matches) > 0.6 * matches.tried
    assert np.abs(np.median(displacement(matches), axis=0) - (31, -22)).max() < 0.6
    assert (matches.sar_xy != np.rint(matches.sar_xy)).any()
    for places in (matches.optical_xy, whole.optical_xy, whole.sar_xy):
        assert len(places)
        assert (places == np.rint(places)).all()


def test_a_shift_larger_than_the_tile_needs_the_coarse_pass(matcher, tmp_path):
    shift, seen = (170, 40), []
    with pair_of(tmp_path, (1100, 1200), shift, same=True) as pair:
        with listening(seen.append):
            found = matcher(max_offset=100.0, max_points=49).match(pair)
        without = matcher(max_offset=100.0, max_points=49, coarse=False).match(pair)
    assert (np.hypot(*(displacement(found) - shift).T) < 3).mean() > 0.8
    assert len(found) > 0.3 * found.tried
    assert len(without) == 0 or (np.hypot(*(displacement(without) - shift).T) < 3).mean() < 0.2
    assert seen == sorted(seen)
    assert seen[0] < 0.3
    assert seen[-1] == 1.0
    assert len(seen) > 5


def test_noise_is_not_looked_at_and_the_check_drops_what_does_not_lead_back(matcher, tmp_path):
    options = {"max_offset": 20.0, "max_points": 25}
    with pair_of(tmp_path, SHAPE, (9, -6), looks=0.05) as pair:
        careful = matcher(**options).match(pair)
        checked = matcher(**options, structure=False).match(pair)
        everything = matcher(**options, structure=False, check=False).match(pair)
    assert careful.tried < 0.3 * checked.tried
    assert len(everything) > 0.7 * everything.tried
    assert len(checked) < 0.5 * len(everything)


def test_high_and_narrow_peaks_score_more():
    nowhere, usable = np.zeros((4, 2)), np.ones(4, bool)
    height, spread = np.array([0.9, 0.5, 0.9, 0.9]), np.array([6.0, 6.0, 12.1, 3.0])
    found = Found(nowhere, nowhere, height, np.zeros(4), spread, usable)
    assert module._score(found) == pytest.approx([0.9, 0.5, 0.45, 0.9], abs=0.01)
    assert module._sigma(found)[1] > 1.5 * module._sigma(found)[0]


def test_the_papers_grid_has_a_node_every_hundred_metres(matcher, tmp_path):
    with pair_of(tmp_path, (700, 1300), same=True) as pair:  # 350 x 650 m at 0.5 m
        lattice = matcher(**FAITHFUL)._lattice(pair)
        few = [len(matcher(max_points=limit)._lattice(pair).nodes) for limit in (4, 25)]
        assert matcher(**FAITHFUL, spacing=5.0)._lattice(pair).spacing == 10.0  # however many they are
    assert lattice.spacing == 200.0
    assert (lattice.nx, lattice.ny) == (7, 4)
    assert all(limit / 3 <= count <= 1.5 * limit + 2 for limit, count in zip((4, 25), few, strict=True))
    with pair_of(tmp_path, (300, 330), same=True) as pair:  # a small scene gets a denser one
        assert len(matcher()._lattice(pair).nodes) > 25


def test_detectors_that_only_guess_do_not_register(matcher, tmp_path):
    with pair_of(tmp_path, (1100, 1200), (9, -6)) as pair:
        matches = matcher(Guessing, max_offset=100.0, max_points=64).match(pair)
    assert not fit(matches).fitted
