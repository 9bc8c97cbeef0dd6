"""evidence: the pixels speak for the true warp, not for another, and only where both images have some."""

from dataclasses import replace

import numpy as np
import pytest
from support.rasters import TEXTURE_TRANSFORM, UTM, fields, open_plain, pair_of, seen_through, turned, write_raster

from sn9reg.fit.warp import Warp
from sn9reg.judge import evidence as module
from sn9reg.judge.evidence import NO_EVIDENCE, gather
from sn9reg.matchers.base import make_matcher
from sn9reg.raster.view import through

SHAPE, SHIFT = (200, 220), (9, -6)


def warp_of(pair, move):
    """A warp that does to map positions what `move` does to (N, 2) pixels of the common grid."""

    def there(xy):
        return pair.grid.to_map(move(pair.grid.to_pixel(xy)))

    return Warp("test", there, lambda xy: np.ones(len(xy)))


def asked(pair, move, step=1.0):
    extract = make_matcher("structure").extractor(pair.overview(pair.sar)[0])
    return gather(pair, warp_of(pair, move), step, extract)


def by(*shift):
    return lambda xy: xy + np.array(shift)


def test_the_true_shift_stands_far_above_a_wrong_one(tmp_path):
    with pair_of(tmp_path, SHAPE, SHIFT) as pair:
        moves = ((0, 0), (25, -15), (1.4, 0), (12, 0), (5000, 0))
        right, wrong, near, far, out = (asked(pair, by(*np.add(SHIFT, move))) for move in moves)
    assert len(right) == len(wrong) == 4
    assert right.standing.min() > 4
    assert right.lead > 2
    assert right.clear > 0.4
    assert wrong.mean < 2.5
    assert right.mean > wrong.mean + 4
    assert wrong.lead < -2
    # A pixel more is the same place, many are another.
    assert near.mean > 0.9 * right.mean
    assert far.mean < 0.6 * right.mean
    assert far.lead < 0 < near.lead
    # A warp that leads out of the scene has no evidence.
    assert (len(out), out.mean, out.total, out.lead, out.optical_xy.shape) == (0, 0, 0, 0, (0, 2))


@pytest.mark.parametrize("shape", [(150, 170), (100, 350), (40, 350)])  # in the last, all places lie on one line
def test_templates_share_no_pixel_and_lie_in_the_scene(tmp_path, shape):
    with pair_of(tmp_path, shape, (2, -1)) as pair:
        found = asked(pair, by(2, -1))
    places = found.optical_xy
    side = int(np.clip(min(shape) // 2, module._MIN_TEMPLATE, module._TEMPLATE))
    apart = np.abs(places[:, None] - places[None]).max(axis=2) + np.eye(len(places)) * 1e9
    assert len(places) >= 4
    assert found.mean > 3
    assert apart.min() >= side
    assert (places - (side - 1) / 2 >= -0.5).all()
    assert (places + (side - 1) / 2 <= [shape[1] - 0.5, shape[0] - 0.5]).all()


def test_places_are_common_pixels_whatever_is_compared(tmp_path):
    with pair_of(tmp_path, SHAPE, SHIFT, looks=16.0) as pair:
        found = asked(pair, by(*SHIFT), step=2.0)
    assert found.mean > 3
    low, high = found.optical_xy.min(axis=0), found.optical_xy.max(axis=0)
    # Half a template of 50 pixels of two, and what is left over on either side, from the border.
    np.testing.assert_allclose((low + high) / 2, np.array([SHAPE[1] - 1, SHAPE[0] - 1]) / 2, atol=1.5)
    assert (np.abs(low - 54) <= 6).all()


def test_there_is_evidence_only_where_there_is_data(tmp_path):
    with pair_of(tmp_path, (200, 320), SHIFT, empty=np.s_[:, :130]) as pair:
        found = asked(pair, by(*SHIFT))
    assert 1 <= len(found) < 6
    assert (found.optical_xy[:, 0] > 130 - SHIFT[0]).all()
    assert found.mean > 4


def opened(folder, optical, sar):
    for name, values in (("optical", optical), ("sar", sar)):
        write_raster(folder / f"{name}.tif", values[None].astype(np.float32), TEXTURE_TRANSFORM, UTM)
    return open_plain(folder / "optical.tif", folder / "sar.tif")


def test_where_parcels_lie_on_a_lattice_another_place_is_as_good(tmp_path):
    random, images = np.random.default_rng(0), []
    for _ in range(2):
        parcels = np.kron(random.uniform(60, 180, (12, 12)), np.ones((20, 20)))
        parcels[::20] = parcels[:, ::20] = 20
        images.append(parcels * random.gamma(16, 1 / 16, parcels.shape))
    with opened(tmp_path, *images) as pair:
        found = asked(pair, by(0, 0))
    assert found.mean > 2.5
    assert found.clear < 0.1


@pytest.mark.parametrize(("scale", "degrees"), [(1.15, 0), (1.1, -15)])
def test_a_turned_and_scaled_scene_is_laid_straight(tmp_path, scale, degrees, monkeypatch):
    matrix = turned(200, degrees, scale, 5, -3)
    optical, there = seen_through(fields(320, 0), matrix, 200)
    sar = 500 * (1.1 - there) * np.random.default_rng(1).gamma(4, 1 / 4, there.shape)
    with opened(tmp_path, 200 * optical + 20, sar) as pair:
        right = asked(pair, lambda xy: through(matrix, xy))
        wrong = asked(pair, lambda xy: through(matrix, xy + np.array([25, -18])))
        monkeypatch.setattr(module, "_STRAIGHT", np.inf)
        as_it_lies = asked(pair, lambda xy: through(matrix, xy))
    assert len(right) == 4
    assert right.mean > 5
    assert right.lead > 2
    assert right.clear > 0.4
    assert wrong.mean < 2.5
    assert as_it_lies.mean < 0.75 * right.mean


def test_mean_and_total():
    assert (len(NO_EVIDENCE), NO_EVIDENCE.mean, NO_EVIDENCE.total, NO_EVIDENCE.lead) == (0, 0, 0, 0)
    for n in (3, 12, 48):  # what places that share no pixel say together weighs as the root of their number
        found = replace(NO_EVIDENCE, optical_xy=np.zeros((n, 2)), standing=np.resize([1.0, 5.0, 3.0], n))
        assert (len(found), found.mean, found.total) == (n, pytest.approx(3), pytest.approx(2.5 * n**0.5))
