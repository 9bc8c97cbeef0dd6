"""The conventions, as properties: pixel centres, windows, blocks, and the common grid of two scenes."""

import itertools
import math

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from support.grids import around

from sn9reg.errors import InputError
from sn9reg.raster.grid import Grid, Window, common_grid

UTM, LONLAT, MERCATOR = CRS.from_epsg(32637), CRS.from_epsg(4326), CRS.from_epsg(3857)
FEET = CRS.from_epsg(2263)  # New York, US survey feet
COMPOUND = CRS.from_string("EPSG:32637+5773")
US_FOOT = 1200 / 3937
DEGREE = 111_194 * math.sqrt(math.cos(math.radians(37.7)))  # metres, side of a square degree's area at that latitude

lengths = st.floats(0.05, 50)
origins = st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e7))
angles = st.sampled_from([0.0, 90.0, 180.0, 30.0, -12.5, 271.3])
flips = st.sampled_from([1, 1, -1])
# North-up, south-up, mirrored and turned, with pixels that are not square.
transforms = st.builds(
    lambda o, w, h, x, y, angle: Affine.translation(*o) * Affine.rotation(angle) * Affine.scale(w * x, -h * y),
    *(origins, lengths, lengths, flips, flips, angles),
)
sizes = st.integers(1, 300)
grids = st.builds(lambda t, w, h: Grid(t, w, h, UTM), transforms, sizes, sizes)
pixels = st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=1, max_size=20).map(np.array)
windows = st.builds(Window, st.integers(-50, 50), st.integers(-50, 50), st.integers(0, 60), st.integers(0, 60))


def pixels_of(window: Window) -> set[tuple[int, int]]:
    rows, cols = (range(part.start, part.stop) for part in window.slices())
    return set(itertools.product(cols, rows))


def bounds(grid: Grid, crs: CRS) -> np.ndarray:
    """(left, bottom, right, top) of a grid's outer edge."""
    outline = grid.map_to_crs(grid.outline(), crs)
    return np.concatenate([outline.min(axis=0), outline.max(axis=0)])


@given(grid=grids, xy=pixels)
def test_an_integer_names_the_centre_and_there_is_a_way_back(grid, xy):
    expected = [grid.transform * (x + 0.5, y + 0.5) for x, y in xy]
    np.testing.assert_allclose(grid.to_map(xy), expected, rtol=1e-12, atol=1e-6)
    np.testing.assert_allclose(grid.to_pixel(grid.to_map(xy)), xy, atol=1e-4)
    step = grid.to_map(np.array([[0, 0], [1, 0], [0, 1]]))
    sides = np.hypot(*(step[1:] - step[0]).T)
    np.testing.assert_allclose(grid.pixel_size, sides, rtol=1e-6)
    np.testing.assert_allclose(grid.resolution**2, sides.prod(), rtol=1e-6)
    np.testing.assert_allclose(grid.linear @ [1, 0], step[1] - step[0], atol=1e-6)


def test_a_pixel_frame_and_what_lies_in_it():
    frame = Grid.pixel_frame(4, 3)
    np.testing.assert_array_equal(frame.to_map(np.array([[0, 0], [3, 2]])), [[0.5, 0.5], [3.5, 2.5]])
    assert (frame.shape, frame.window, frame.crs) == ((3, 4), Window(0, 0, 4, 3), None)
    edges = np.array([[-0.5, 2.5], [3.5, -0.5], [-0.51, 0], [3.51, 0], [0, 2.51], [np.nan, 0]])
    assert frame.holds(edges).tolist() == [True, True, False, False, False, False]


@given(grid=grids, window=windows.filter(lambda w: not w.empty), xy=pixels)
def test_crop_moves_pixels_by_the_window(grid, window, xy):
    part = grid.crop(window)
    assert (part.shape, part.crs) == (window.shape, grid.crs)
    moved = xy + np.array([window.col, window.row])
    np.testing.assert_allclose(part.to_map(xy), grid.to_map(moved), rtol=1e-12, atol=1e-6)


@given(grid=grids, factor=st.integers(1, 9), col=st.integers(0, 30), row=st.integers(0, 30))
def test_a_coarse_pixel_is_the_mean_of_its_pixels(grid, factor, col, row):
    coarse = grid.coarsen(factor)
    x, y = np.meshgrid(col * factor + np.arange(factor), row * factor + np.arange(factor))
    expected = grid.to_map(np.column_stack([x.ravel(), y.ravel()])).mean(axis=0)
    np.testing.assert_allclose(coarse.to_map(np.array([[col, row]]))[0], expected, rtol=1e-12, atol=1e-6)
    for fine, wide in ((grid.width, coarse.width), (grid.height, coarse.height)):
        assert wide * factor >= fine > (wide - 1) * factor


@given(grid=grids)
def test_the_outline_runs_along_the_outer_edge(grid):
    outline = grid.to_pixel(grid.outline(5)) + 0.5
    assert outline.shape == (20, 2)
    for corner in itertools.product((0, grid.width), (0, grid.height)):
        assert np.abs(outline - corner).sum(axis=1).min() < 1e-3
    on_edge = np.abs(outline * (outline - [grid.width, grid.height])).min(axis=1)
    assert on_edge.max() < 1e-3 * max(grid.shape)


@given(width=st.integers(1, 90), height=st.integers(1, 90), size=st.integers(8, 70))
def test_blocks_tile_exactly(width, height, size):
    grid = Grid.pixel_frame(width, height)
    count, blocks = np.zeros(grid.shape, int), list(grid.blocks(size))
    for block in blocks:
        assert (block.col % size, block.row % size, max(block.shape) <= size) == (0, 0, True)
        assert block.intersect(grid.window) == block
        count[block.slices()] += 1
    assert (count == 1).all()
    assert blocks == sorted(blocks, key=lambda b: (b.row, b.col))


@given(a=windows, b=windows)
def test_the_common_part_of_windows(a, b):
    common = a.intersect(b)
    assert pixels_of(common) == pixels_of(a) & pixels_of(b)
    assert common.empty == (not pixels_of(common))
    assert min(common.shape) >= 0
    assert a.slices(Window(2, 1, 0, 0)) == Window(a.col - 2, a.row - 1, a.width, a.height).slices()
    assert a.grow(3) == Window(a.col - 3, a.row - 3, a.width + 6, a.height + 6)


@given(grid=grids, xy=pixels)
def test_covering_is_the_smallest_window(grid, xy):
    assert grid.covering(grid.outline()) == grid.window
    area = grid.covering(grid.to_map(xy))
    assert area.intersect(grid.window) == area
    if not area.empty:  # nothing inside the grid is left out, and no pixel more than need be is taken
        low, high, start = xy.min(axis=0) + 0.5, xy.max(axis=0) + 0.5, np.array([area.col, area.row])
        end = np.add(start, [area.width, area.height])
        assert ((start <= np.maximum(low, 0) + 1e-3) & (start > low - 1 - 1e-3)).all()
        assert ((end >= np.minimum(high, [grid.width, grid.height]) - 1e-3) & (end < high + 1 + 1e-3)).all()


def test_grids_without_pixels_or_without_an_inverse_are_refused():
    for size in ((0, 5), (5, 0), (-1, 5)):
        with pytest.raises(InputError, match="no pixels"):
            Grid(Affine.identity(), *size, UTM)
    singular = (0, 0, 5, 0, -1, 5), (1, 2, 0, 2, 4, 0), (math.nan, 0, 0, 0, -1, 0), (1, 0, math.inf, 0, -1, 0)
    for numbers in singular:
        with pytest.raises(InputError, match="cannot be inverted"):
            Grid(Affine(*numbers), 5, 5, UTM)


def test_metres_per_unit():
    for crs, metres in ((UTM, 1), (COMPOUND, 1), (None, 1), (FEET, US_FOOT)):
        assert Grid(Affine(0.3, 0, 0, 0, -0.3, 0), 5, 5, crs).metres_per_unit == pytest.approx(metres, rel=1e-9)
    for latitude in (0, 37.7, -60):
        grid = around(41, latitude, LONLAT, 1e-5)
        assert grid.metres_per_unit == pytest.approx(111_320 * math.sqrt(math.cos(math.radians(latitude))), rel=1e-6)
        # A pixel's true area, on the map of a projection without distortion there.
        metric = CRS.from_proj4(f"+proj=laea +lat_0={latitude} +lon_0=41 +datum=WGS84")
        corners = grid.map_to_crs(grid.to_map(np.array([[49.5, 49.5], [50.5, 49.5], [49.5, 50.5]])), metric)
        area = abs(np.linalg.det(corners[1:] - corners[0]))
        assert (grid.resolution * grid.metres_per_unit) ** 2 == pytest.approx(area, rel=0.01)


def test_places_in_another_crs():
    grid = around(41.3, 37.7, UTM, 0.5)
    lonlat = grid.map_to_crs(grid.to_map(np.array([[49.5, 49.5]])), LONLAT)
    np.testing.assert_allclose(lonlat, [[41.3, 37.7]], atol=1e-9)  # longitude first
    assert grid.map_to_crs(np.zeros((0, 2)), LONLAT).shape == (0, 2)
    np.testing.assert_array_equal(grid.map_to_crs(np.array([[5.0, 7.0]]), UTM), [[5, 7]])
    for one, crs in ((grid, None), (Grid.pixel_frame(3, 3), UTM)):
        with pytest.raises(InputError, match="--pixel-frame"):
            one.map_to_crs(np.zeros((1, 2)), crs)
    with pytest.raises(InputError, match=r"EPSG:32637 .* EPSG:4326"):
        grid.map_to_crs(np.array([[1e30, 1e30]]), LONLAT)


shifts, sides = st.floats(-100, 100), st.sampled_from([0.3, 0.5, 1.0, 2.0, 0.7])
north_up = st.builds(
    lambda x, y, side, aspect, w, h: Grid(Affine(side, 0, 435_000 + x, 0, -side * aspect, 4_181_000 + y), w, h, UTM),
    *(shifts, shifts, sides, st.sampled_from([1.0, 1.0, 1.25]), sizes, sizes),
)


def assert_is_union(common, grids, crs, slack):
    """The common grid covers both, and by less than a pixel more."""
    edges, ours = np.array([bounds(grid, crs) for grid in grids]), bounds(common, crs)
    union = np.concatenate([edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)])
    assert (ours[:2] <= union[:2] + slack).all()
    assert (ours[2:] >= union[2:] - slack).all()
    assert np.abs(ours - union).max() < max(common.pixel_size) * 1.0001 + 2 * slack


@given(optical=north_up, sar=north_up)
def test_common_grid_is_the_coarser_lattice_over_the_union(optical, sar):
    common = common_grid(optical, sar)
    coarser = optical if optical.resolution > sar.resolution * (1 + 1e-6) else sar
    assert common.crs == UTM
    same = common_grid(sar, sar)
    assert same.shape == sar.shape
    assert same.transform.almost_equals(sar.transform, precision=1e-6)
    assert common.pixel_size == pytest.approx(coarser.pixel_size, rel=1e-12)
    at = coarser.to_pixel(common.to_map(np.zeros((1, 2))))
    np.testing.assert_allclose(at, np.rint(at), atol=1e-6)  # the same pixels, so nothing is resampled
    assert_is_union(common, (optical, sar), UTM, slack=1e-5)


def test_common_grids_of_south_up_and_turned_scenes_are_north_up():
    south_up = Grid(Affine(0.5, 0, 435000.2, 0, 0.5, 4180990.1), 40, 20, UTM)
    common = common_grid(south_up, south_up)
    assert common.shape == south_up.shape
    assert (common.transform.a, common.transform.e) == (0.5, -0.5)
    # The lowest row of the one is the highest of the other.
    np.testing.assert_allclose(common.to_map(np.array([[0, 19]])), south_up.to_map(np.array([[0, 0]])))
    optical, sar = around(41.3, 37.7, UTM, 0.5), around(41.3, 37.7, UTM, 1.0, angle=30)
    common = common_grid(optical, sar)
    assert (common.transform.b, common.transform.d) == (0, 0)
    assert common.pixel_size == pytest.approx((1, 1))
    # The lattice does not hang on the turned corner.
    assert abs(common.transform.c - round(common.transform.c)) < 1e-2
    assert_is_union(common, (optical, sar), UTM, slack=1e-6)


@pytest.mark.parametrize(
    ("optical", "sar", "crs", "side"),
    [
        # The optical CRS where it is projected, its own or the SAR's true pixel size there.
        (around(41.3, 37.7, UTM, 0.5), around(41.3, 37.7, MERCATOR, 1.0), UTM, math.cos(math.radians(37.7))),
        (around(41.3, 37.7, MERCATOR, 2.0), around(41.3, 37.7, UTM, 1.0), MERCATOR, 2.0),
        (around(41.3, 37.7, LONLAT, 2e-6), around(41.3, 37.7, UTM, 1.0), UTM, 1.0),
        (around(41.3, 37.7, LONLAT, 1e-5), around(41.3, 37.7, LONLAT, 2e-5), UTM, 2e-5 * DEGREE),
        (around(-74, 40.7, LONLAT, 1e-5), around(-74, 40.7, FEET, 6.0), FEET, 6.0),
        (around(-74, 40.7, CRS.from_epsg(32618), 1.0), around(-74, 40.7, FEET, 6.0), CRS.from_epsg(32618), 6 * US_FOOT),
        (around(-74, 40.7, FEET, 2.0), around(-74, 40.7, CRS.from_epsg(32618), 1.0), FEET, 1 / US_FOOT),
        (around(-70.5, -33.4, LONLAT, 1e-5), around(-70.5, -33.4, LONLAT, 1e-6), CRS.from_epsg(32719), None),
    ],
)
def test_common_grid_across_crs(optical, sar, crs, side):
    common = common_grid(optical, sar)
    assert common.crs == crs
    assert (common.transform.b, common.transform.d) == (0, 0)
    assert common.transform.e < 0 < common.transform.a
    if side:
        assert common.pixel_size == pytest.approx((side, side), rel=5e-3)
    assert_is_union(common, (optical, sar), crs, slack=0.01 * common.pixel_size[0])


def test_pixel_frames_have_a_common_grid_with_one_another_alone():
    mapped, frame = around(41.3, 37.7, UTM, 0.5), Grid.pixel_frame(5, 5)
    assert common_grid(frame, Grid.pixel_frame(3, 9)) == Grid.pixel_frame(5, 9)
    assert (mapped.describe()["crs"], frame.describe()["crs"]) == ("EPSG:32637", "pixel frame")
    assert (mapped.describe()["width"], mapped.describe()["transform"][0]) == (100, 0.5)
    for pair in ((mapped, frame), (frame, mapped)):
        with pytest.raises(InputError, match="--pixel-frame"):
            common_grid(*pair)
