"""described: tiles make up any window, and are described once."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.rasters import pair_of

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.dense import described as module
from sn9reg.matchers.dense.described import Described
from sn9reg.matchers.dense.search import ahead, in_halves, workers
from sn9reg.raster.grid import Window


class Counted:
    """An extractor: the values and their root, and how many pixels were asked for."""

    def __init__(self):
        self.pixels = 0

    def __call__(self, patch, modality):
        self.pixels += patch.valid.size
        values = torch.from_numpy(patch.values[0] * patch.valid)
        return torch.stack([values, values.abs().sqrt()])


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "_SIDE", 64)
    monkeypatch.setattr(module, "_LEAST", 1)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


HALF = {"rtol": 5e-4, "atol": 1e-4}  # what half precision may change
WINDOWS = [Window(0, 0, 200, 150), Window(-30, -90, 100, 100), Window(37, 61, 5, 80), Window(150, 110, 300, 90)]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("factor", [1, 2])
def test_tiles_make_up_the_window_and_are_described_once(tmp_path, pool, factor):
    with pair_of(tmp_path, (150, 200), empty=np.s_[:, 90:]) as pair:
        extract = Counted()
        for scene in Described.both(pair, extract, 8):
            for window in WINDOWS:
                alone, composed = (scene.window(pool, window, factor, tiled)() for tiled in (False, True))
                assert (alone is None) == (composed is None)
                if alone is not None:
                    for part, whole in zip(composed, alone, strict=True):
                        torch.testing.assert_close(part, whole, **HALF)
        asked = extract.pixels
        for scene in Described.both(pair, extract, 8):
            found = [scene.window(pool, window, factor, True)() for window in WINDOWS]
            assert [part is None for part in found].count(False) > 1
        optical_alone = Described.both(pair.posed(np.eye(3)), extract, 8)[0]
        assert optical_alone.window(pool, WINDOWS[0], factor, True)() is not None
        assert extract.pixels == asked


@pytest.mark.usefixtures("small_tiles")
def test_what_is_kept_has_a_limit(tmp_path, pool, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_BYTES", 3 * 48 * 48 * 3 * 2)  # three tiles
    with pair_of(tmp_path, (150, 200)) as pair:
        extract, tiles = Counted(), [Window(48 * col, 48 * row, 48, 48) for row in range(3) for col in range(4)]
        scene = Described.both(pair, extract, 8)[0]
        for window in tiles:
            found = [scene.window(pool, window, 1, tiled)()[0] for tiled in (False, True)]
            torch.testing.assert_close(*found, **HALF)
            before = [module._size(asked.result()) for asked in scene._tiles.values()][
                :-1
            ]  # the last was asked for now
            assert sum(before) <= module._KEPT_BYTES
        assert len(before) == 3
        asked = extract.pixels
        scene.window(pool, tiles[-1], 1, True)()
        assert extract.pixels == asked
        scene.window(pool, tiles[0], 1, True)()
        assert extract.pixels > asked


@pytest.mark.usefixtures("small_tiles")
def test_a_tile_that_failed_is_described_again(tmp_path, pool):
    calls = itertools.count()

    def failing(patch, modality):
        if next(calls) == 0:
            raise InputError("the first cannot be read")
        return Counted()(patch, modality)

    with pair_of(tmp_path, (150, 200)) as pair:
        scene = Described.both(pair, failing, 8)[0]
        with pytest.raises(InputError, match="the first"):
            scene.window(pool, WINDOWS[0], 1, True)()
        torch.testing.assert_close(*(scene.window(pool, WINDOWS[0], 1, t)()[0] for t in (True, False)), **HALF)


def test_workers_share_the_threads_of_torch_and_work_ahead():
    before, began = torch.get_num_threads(), []
    try:
        for threads, each in ((1, 1), (2, 1), (4, 2)):
            torch.set_num_threads(threads)
            with workers() as pool:
                assert {f.result() for f in [pool.submit(torch.get_num_threads) for _ in range(8)]} == {each}
            assert torch.get_num_threads() == threads
        with pytest.raises(ValueError, match="stop"), workers() as pool:
            raise ValueError("stop")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    seen = [(item, asked, len(began)) for item, asked in ahead("abcd", lambda c: began.append(c) or c.upper(), 1)]
    assert seen == [("a", "A", 2), ("b", "B", 3), ("c", "C", 4), ("d", "D", 4)]


@pytest.mark.parametrize("room", [0, 1, 3, 100])
def test_what_does_not_fit_into_a_gpu_is_done_in_halves(room):
    done = []

    def work(part):
        if len(part) > room:
            raise torch.OutOfMemoryError("full")
        done.extend(part)

    if room == 0:
        with pytest.raises(ConfigError, match="too little free memory"):
            in_halves(work, np.arange(11))
    else:
        in_halves(work, np.arange(11))
        assert done == list(range(11))
