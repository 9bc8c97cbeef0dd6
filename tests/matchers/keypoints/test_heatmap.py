"""keypoints/heatmap: a label's shape, and how well its place is read again."""

import math

import pytest
import torch

from sn9reg.matchers.keypoints.heatmap import SIGMA, gaussian, read_keypoints


def label(*places, side=160, sigma=SIGMA):
    return gaussian(torch.tensor(places, dtype=torch.float64), side, sigma)


@pytest.mark.parametrize("sigma", [3.0, SIGMA])
def test_a_label_is_1_at_its_place_and_falls_by_the_bell_curve(sigma):
    image = label((50, 20), side=100, sigma=sigma)[0]
    assert image.shape == (100, 100)
    assert image[20, 50] == image.max() == 1
    assert image[20, 50 + int(sigma)] == image[20 + int(sigma), 50] == pytest.approx(math.exp(-0.5))
    assert image[22, 45] == pytest.approx(math.exp(-(2**2 + 5**2) / (2 * sigma**2)))


def test_each_of_a_batch_has_its_own_place_which_may_lie_outside():
    images = label((-SIGMA, 30), (200, 30), (30.4, 5.2), side=64)
    assert images[0, 30, 0] == pytest.approx(math.exp(-0.5))
    assert [divmod(int(one.argmax()), 64) for one in images[[0, 2]]] == [(30, 0), (5, 30)]
    assert 0 <= images[1].max() < 1e-9


PLACES = [(80.0, 80.0), (70.3, 91.6), (80.5, 60.5), (99.99, 50.01), (60.25, 110.75)]


def test_a_place_between_pixels_is_read_to_a_twentieth_also_where_a_tile_is_not_square():
    wide, places = label(*PLACES)[:, :140], torch.tensor(PLACES, dtype=torch.float64)
    for heatmap, expected in ((wide, places), (wide.mT, places.flip(1))):
        torch.testing.assert_close(read_keypoints(heatmap).xy, expected, atol=0.05, rtol=0)
        whole = read_keypoints(heatmap, subpixel=False).xy
        assert torch.equal(whole, whole.round())
        torch.testing.assert_close(whole, expected, atol=0.5, rtol=0)


def test_a_broad_and_flat_peak_is_read_in_its_middle():
    """The highest pixel of a plateau is its first."""
    flat = label((70, 90)).clamp_max(0.8)
    assert read_keypoints(flat).xy[0].tolist() == pytest.approx([70, 90], abs=0.05)
    assert math.dist(read_keypoints(flat, subpixel=False).xy[0].tolist(), (70, 90)) > 3


def test_what_is_low_or_far_does_not_draw_a_place():
    clean = label((60, 70))
    cluttered = clean + 0.3 + 0.05 * torch.rand(clean.shape, generator=torch.Generator().manual_seed(0))
    cluttered = torch.maximum(cluttered, 1.1 * label((130, 130), sigma=4))
    assert read_keypoints(cluttered).xy[0].tolist() == pytest.approx([60, 70], abs=0.5)


def test_a_rival_is_no_part_of_the_peak():
    alone = label((50, 50))
    assert read_keypoints(alone).rival[0] == pytest.approx(math.exp(-4.5), rel=0.1)  # three sigmas away
    beside = torch.maximum(alone, 0.6 * label((50 + 2 * SIGMA, 50), sigma=2.0))
    assert read_keypoints(beside).rival[0] < 0.02
    apart = torch.maximum(alone, 0.6 * label((110, 120), sigma=2.0))
    assert read_keypoints(apart).rival[0] == pytest.approx(0.6)
    assert read_keypoints(beside, sigma=6.0).rival[0] == pytest.approx(0.6)
    assert read_keypoints(label((16, 16), side=32)).rival[0] == 0  # a tile that is all peak


def test_spread_grows_with_the_peak_and_is_the_mean_of_both_axes():
    """Of what stands above half a bell curve's height it is 0.466 sigma."""
    for across, along in ((4, 4), (18, 18), (6, 12), (12, 6)):
        columns, rows = (label((80, 80), sigma=sigma)[0, 80] for sigma in (across, along))
        spread = read_keypoints(rows[None, :, None] * columns[None, None, :]).spread[0]
        assert spread == pytest.approx(0.466 * math.sqrt((across**2 + along**2) / 2), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_of_a_batch_is_read_by_itself(dtype):
    batch = torch.cat([0.37 * label((80, 80)), 0.9 * label((60.4, 50)), label((100, 90), sigma=5.0)]).to(dtype)
    together = read_keypoints(batch)
    assert together.height.tolist() == pytest.approx([0.37, 0.9, 1], abs=1e-3)
    assert together.xy.dtype == together.spread.dtype == dtype
    for k in range(3):
        single = read_keypoints(batch[k : k + 1])
        for name in ("xy", "height", "rival", "spread"):
            torch.testing.assert_close(getattr(single, name)[0], getattr(together, name)[k])


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_a_heatmap_that_shows_nothing_is_read_without_a_fault(level):
    found = read_keypoints(torch.full((2, 64, 64), level))
    assert found.height.tolist() == [level, level]
    for values in (found.xy, found.rival, found.spread):
        assert values.isfinite().all()
