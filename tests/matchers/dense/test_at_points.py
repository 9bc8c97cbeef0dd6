"""dense/at_points: templates at given places find a known shift to part of a pixel."""

import numpy as np
import pytest
import torch
from support.rasters import pair_of

from sn9reg.features.orientation import orientation_features
from sn9reg.matchers.dense.at_points import compare_at
from sn9reg.matchers.dense.search import Level
from sn9reg.raster.radiometry import fill_invalid

SHIFT = (4, -3)
LEVEL = Level(1, 64, 12, 20)
NODES = np.stack(np.meshgrid(np.arange(60.0, 280, 40), np.arange(60.0, 250, 40)), -1).reshape(-1, 2)
SHAPE = (300, 330)


def extract(patch, modality):
    filled = fill_invalid(patch.values.mean(axis=0), patch.valid)
    return orientation_features(torch.from_numpy(filled)[None], 6)[0]


def moved(dx, dy):
    return np.array([[1.0, 0, dx], [0, 1, dy], [0, 0, 1]])


@pytest.mark.parametrize("fraction", [(0.5, 0.25), (-0.3, 0.4)])
def test_a_sub_pixel_shift_is_found_at_the_places(tmp_path, fraction):
    with pair_of(tmp_path, SHAPE, SHIFT, same=True) as pair:
        found = compare_at(pair.posed(moved(*fraction)), LEVEL, NODES, extract)
    assert len(found) > 0.9 * len(NODES)
    off = found.sar_xy - found.optical_xy - (np.array(SHIFT) - fraction)
    assert np.median(np.abs(off), axis=0).max() < 0.15


@pytest.mark.parametrize("factor", [1, 2])
def test_matches_lie_at_the_places_of_the_level_in_common_pixels(tmp_path, factor):
    nodes = NODES / factor + 0.3
    with pair_of(tmp_path, SHAPE, SHIFT, same=True) as pair:
        found = compare_at(pair, Level(factor, 48, 8, 20), nodes, extract)
    assert len(found) > 0.5 * len(nodes)
    assert {tuple(p) for p in found.optical_xy} <= {tuple(p) for p in (nodes + 0.5) * factor - 0.5}
    assert np.abs(np.median(found.sar_xy - found.optical_xy, axis=0) - SHIFT).max() < 0.3 * factor
    assert (found.step, found.footprint, found.search_radius) == (factor, 48 * factor, 8 * factor)


def test_places_without_data_are_neither_tried_nor_matched(tmp_path):
    with pair_of(tmp_path, SHAPE, SHIFT, same=True, empty=np.s_[:, 160:]) as pair:
        found, beyond = (compare_at(pair, LEVEL, nodes, extract) for nodes in (NODES, NODES + 5000))
    assert (len(beyond), beyond.tried) == (0, 0)
    inside, outside = int((NODES[:, 0] < 150).sum()), int((NODES[:, 0] > 200).sum())
    assert outside > 5
    assert inside <= found.tried <= len(NODES) - outside
    assert found.optical_xy[:, 0].max() < 200


@pytest.mark.parametrize(("looks", "same", "beyond"), [(0.05, False, 0), (4, True, -40)])
def test_places_with_nothing_to_find_are_tried_and_hardly_matched(tmp_path, looks, same, beyond):
    with pair_of(tmp_path, SHAPE, SHIFT, looks, same=same) as pair:
        found = compare_at(pair.posed(moved(beyond, 0)), LEVEL, NODES, extract)
    assert found.tried > 0.7 * len(NODES)
    assert len(found) < 0.7 * found.tried
    assert np.abs(found.sar_xy - found.optical_xy).max(initial=0) < LEVEL.radius  # none on the rim of the search
