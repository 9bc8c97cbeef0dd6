"""OffsetMap: from nodes to pixels, to a file and back, and the sign of an offset."""

import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from support.grids import offsets_of, write
from support.rasters import TEXTURE_TRANSFORM as TRANSFORM
from support.rasters import UTM

from sn9reg.errors import InputError
from sn9reg.offsets import OffsetMap, from_nodes, node_positions, offsets_between, open_offsets
from sn9reg.raster.grid import Grid, Window

GRID = Grid(TRANSFORM, 130, 70, UTM)
FACTS = {"registered": "yes", "matcher": "structure", "expected_error_px": "1.234"}


def sampled(function, grid, step) -> OffsetMap:
    """The map through the nodes of function(x, y) -> dx, dy."""
    xy, (ny, nx) = node_positions(grid, step)
    return from_nodes(grid, np.stack(function(*xy.T)).reshape(2, ny, nx).astype(np.float32), step)


def exactly(function, window) -> np.ndarray:
    y, x = np.mgrid[window.row : window.row + window.height, window.col : window.col + window.width]
    return np.stack(function(x.astype(float), y.astype(float)))


def noisy(grid=GRID, step=16, count=2, seed=0) -> OffsetMap:
    _, (ny, nx) = node_positions(grid, step)
    nodes = np.random.default_rng(seed).normal(0, 20, (count, ny, nx)).astype(np.float32)
    return from_nodes(grid, nodes, step, FACTS)


@given(size=st.tuples(st.integers(1, 150), st.integers(1, 90)), step=st.integers(4, 64), seed=st.integers(0, 999))
@example(size=(1, 70), step=32, seed=0)
@example(size=(33, 1), step=32, seed=0)
@example(size=(1, 1), step=32, seed=0)
def test_linear_functions_are_exact_to_the_edges(size, step, seed):
    width, height = size
    shift, across, down = np.random.default_rng(seed).uniform(-1, 1, (3, 2)) * [[300], [0.2], [0.2]]

    def function(x, y):
        return [shift[k] + across[k] * x + down[k] * y for k in (0, 1)]

    grid = Grid(TRANSFORM, width, height, UTM)
    offsets, corner = sampled(function, grid, step), np.array([[width - 1.0, height - 1.0]])
    np.testing.assert_allclose(offsets.read(grid.window), exactly(function, grid.window), atol=1e-3)
    np.testing.assert_allclose(offsets.sample(corner), np.column_stack(function(*corner.T)), atol=1e-3)


@pytest.mark.parametrize(("step", "bound"), [(8, 0.002), (16, 0.02), (32, 0.25)])
def test_smooth_functions_within_a_bound(step, bound):
    """A wave of 200 px and an amplitude of 5 px, also between the last nodes; the error falls with the fourth power."""

    def function(x, y):
        k = 2 * np.pi / 200
        return 5 * np.sin(k * x + 0.3) * np.cos(k * y), 5 * np.cos(0.7 * k * (x + y))

    grid = Grid(TRANSFORM, 301, 257, UTM)
    error = np.abs(sampled(function, grid, step).read(grid.window) - exactly(function, grid.window))
    assert error[:, step:-step, step:-step].max() < bound
    assert error.max() < 0.0015 * step**2  # at the edges a node is extrapolated: the error of a straight line


@given(*(st.integers(a, b) for a, b in ((0, 129), (0, 69), (1, 80), (1, 80))), st.sampled_from([8, 16, 21, 64]))
def test_blocks_agree_with_the_whole(col, row, width, height, step):
    offsets, window = noisy(step=step), Window(col, row, width, height).intersect(GRID.window)
    whole, part = offsets.read(GRID.window), offsets.read(window)
    assert part.dtype == np.float32
    np.testing.assert_allclose(part, whole[(slice(None), *window.slices())], atol=1e-4)


def test_a_large_map_is_read_where_it_is_needed():
    """Far from the origin the position among the nodes must not lose its digits."""
    grid, window = Grid(TRANSFORM, 60_000, 60_000, UTM), Window(59_990, 59_985, 10, 15)
    found = sampled(lambda x, y: (0.05 * x, 0.05 * y), grid, 512).read(window)
    np.testing.assert_allclose(found, exactly(lambda x, y: (0.05 * x, 0.05 * y), window), atol=2e-2)


@pytest.mark.parametrize("sigma", [False, True])
def test_write_and_open(tmp_path, sigma):
    grid = Grid(TRANSFORM, 540, 560, UTM)
    offsets, path = noisy(grid, count=3 if sigma else 2), tmp_path / "o.tif"
    offsets.write(path)
    with rasterio.open(path) as dataset:
        assert dataset.descriptions == ("dx", "dy", "sigma")[: offsets.count]
        assert (set(dataset.units), set(dataset.dtypes)) == ({"px"}, {"float32"})
        assert np.isnan(dataset.nodatavals).all()
        assert set(dataset.block_shapes) == {(512, 512)}
        assert dataset.interleaving.name == "band"
        assert (dataset.crs, dataset.transform, dataset.shape) == (UTM, TRANSFORM, grid.shape)
        assert dataset.tags()["SN9REG_EXPECTED_ERROR_PX"] == "1.234"
    with open_offsets(path) as again:
        assert (again.grid, again.sigma, again.facts) == (grid, sigma, FACTS)
        values = again.read(grid.window)
        np.testing.assert_array_equal(values * 1024, np.rint(values * 1024))
        np.testing.assert_allclose(values, offsets.read(grid.window), atol=1 / 2048 + 1e-4)
        np.testing.assert_array_equal(again.read(Window(500, 400, 30, 200)), values[:, 400:600, 500:530])
        again.write(tmp_path / "again.tif")
    offsets.write(tmp_path / "same.tif")
    assert (tmp_path / "same.tif").read_bytes() == path.read_bytes()
    with open_offsets(tmp_path / "again.tif") as second:
        np.testing.assert_array_equal(second.read(grid.window), values)


def test_missing_offsets_stay_missing_and_a_pixel_frame_is_written_without_georeference_and_warning(tmp_path):
    values, frame = np.full((2, *GRID.shape), 1.5), Grid.pixel_frame(130, 70)
    values[:, 10:20, 5] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        offsets_of(values, frame).write(tmp_path / "o.tif")
        with open_offsets(tmp_path / "o.tif") as again:
            assert again.grid == frame
        with open_offsets(tmp_path / "o.tif", GRID) as again:
            assert again.grid == GRID
            np.testing.assert_array_equal(again.read(GRID.window), values)


def test_a_file_is_replaced_and_compressed_as_asked_for(tmp_path):
    path = tmp_path / "o.tif"
    path.touch()
    noisy(seed=1).write(path, overwrite=True, creation_options={"compress": "zstd"})
    with open_offsets(path) as again:
        np.testing.assert_allclose(again.read(GRID.window), noisy(seed=1).read(GRID.window), atol=1e-3)
    with rasterio.open(path) as dataset:
        assert dataset.compression.name == "zstd"


VALUES = np.random.default_rng(5).normal(0, 9, (3, *GRID.shape)).astype(np.float32)


@given(st.lists(st.tuples(st.floats(-0.5, 129.5), st.floats(-0.5, 69.5)), max_size=8))
def test_sample_is_bilinear(points):
    xy = np.array(points, float).reshape(-1, 2)
    x, y = xy.clip(0, [129, 69]).T
    expected = [map_coordinates(band.astype(float), [y, x], order=1) for band in VALUES]
    np.testing.assert_allclose(offsets_of(VALUES, GRID, sigma=True).sample(xy), np.transpose(expected), atol=1e-9)


@given(col=st.integers(0, 129), row=st.integers(0, 69))
def test_sample_at_whole_pixels_is_exact_beside_gaps(col, row):
    values = np.full((2, *GRID.shape), np.nan, np.float32)
    values[:, row, col] = VALUES[:2, row, col]
    result = offsets_of(values, GRID).sample(np.array([[col, row]]))
    np.testing.assert_array_equal(result[0], VALUES[:2, row, col].astype(float))


def test_sample_outside_is_an_error():
    for point in ((-0.51, 5), (5, -0.51), (129.51, 5), (5, 69.51), (np.nan, 5), (5, np.inf), (1e9, 0)):
        with pytest.raises(InputError, match="outside the optical image of 130 x 70 px"):
            offsets_of(VALUES[:2], GRID).sample(np.array([(3.0, 3.0), point]))


def test_offset_maps_of_other_makers(tmp_path):
    """Two bands of any type, no tags; further bands only if they say what they are."""
    values = (np.arange(4 * 130 * 70).reshape(4, 70, 130) % 50).astype(np.int16)
    with open_offsets(write(tmp_path / "o.tif", values, GRID)) as offsets:
        assert (offsets.sigma, offsets.count, offsets.facts) == (False, 2, {})
        block = offsets.read(Window(10, 20, 3, 4))
        assert block.dtype == np.float32
        np.testing.assert_array_equal(block, values[:2, 20:24, 10:13])


def test_the_sign_of_an_offset():
    """+dx: the counterpart lies to the right; +dy: below, where the north is up."""
    here, there = np.array([[1000.0, 5000.0]]), np.array([[1001.0, 4998.5]])
    for grid, expected in (
        (GRID, (2, 3)),
        (Grid(Affine(0.5, 0, 0, 0, 0.5, 0), 5, 5, UTM), (2, -3)),  # south up
        (Grid(Affine(0, 0.5, 0, 0.25, 0, 0), 5, 5, UTM), (-6, 2)),  # on its side
        (Grid.pixel_frame(5, 5), (1, -1.5)),
    ):
        np.testing.assert_allclose(offsets_between(grid, here, there), [expected])
