"""described: tiles make up any window, and are described once."""

import numpy as np
import pytest
import torch
from support.rasters import pair_of

from sn9reg.matchers.dense import described as module
from sn9reg.matchers.dense.described import Described
from sn9reg.raster.grid import Window


class Counted:
    """An extractor: the values and their square, and how many pixels were asked for."""

    def __init__(self):
        self.pixels = 0

    def __call__(self, patch, modality):
        self.pixels += patch.valid.size
        values = torch.from_numpy(patch.values[0] * patch.valid)
        return torch.stack([values, values.square()])


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "_SIDE", 64)
    monkeypatch.setattr(module, "_LEAST", 1)


WINDOWS = [Window(0, 0, 200, 150), Window(-30, -90, 100, 100), Window(37, 61, 5, 80), Window(150, 110, 300, 90)]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("factor", [1, 2])
def test_tiles_make_up_the_window_and_are_described_once(tmp_path, factor):
    with pair_of(tmp_path, (150, 200), empty=np.s_[:, 90:]) as pair:
        extract = Counted()
        for scene in Described.both(pair, extract, 8):
            for window in WINDOWS:
                alone, composed = (scene.window(window, factor, tiled) for tiled in (False, True))
                assert (alone is None) == (composed is None)
                if alone is not None:
                    for part, whole in zip(composed, alone, strict=True):
                        torch.testing.assert_close(part, whole)
        asked = extract.pixels
        for scene in Described.both(pair, extract, 8):
            assert [scene.window(window, factor, True) is None for window in WINDOWS].count(False) > 1
        optical_alone = Described.both(pair.posed(np.eye(3)), extract, 8)[0]
        assert optical_alone.window(WINDOWS[0], factor, True) is not None
        assert extract.pixels == asked


@pytest.mark.usefixtures("small_tiles")
def test_what_is_kept_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROOM", 3 * 48 * 48 * 3 * 4)  # three tiles
    with pair_of(tmp_path, (150, 200)) as pair:
        scene = Described.both(pair, Counted(), 8)[0]
        whole = [scene.window(WINDOWS[0], 1, tiled)[0] for tiled in (True, False)]
        torch.testing.assert_close(*whole)
        assert sum(module._size(tile) for tile in scene._tiles.values()) <= module._ROOM
