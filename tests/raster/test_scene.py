"""ScenePair: what lies where on the common grid, and what of it is valid."""

import math
from functools import partial

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio._env import get_gdal_config
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from scipy.ndimage import binary_erosion
from support import grids
from support.rasters import open_plain

from sn9reg.errors import InputError
from sn9reg.raster import scene
from sn9reg.raster.grid import Grid, Window, common_grid
from sn9reg.raster.scene import Patch

UTM, LONLAT, MERCATOR = CRS.from_epsg(32637), CRS.from_epsg(4326), CRS.from_epsg(3857)
FEET, UTM_18 = CRS.from_epsg(2263), CRS.from_epsg(32618)
# An origin and a pixel size that binary numbers only approximate.
GRID = Grid(Affine(0.3, 0, 435000.3, 0, -0.3, 4181000.7), 60, 40, UTM)


def write(path, array, grid=GRID, photometric="minisblack", **options):
    return grids.write(path, array, grid, photometric=photometric, **options)


def noise(count=3, shape=GRID.shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(1, 120, (count, *shape)).astype(dtype)


def read(path, **options):
    """What the optical scene of a pair of twice the same file holds."""
    return read_both(path, path, **options)[0]


def write_both(folder, grids, values=lambda grid: noise(1, grid.shape)):
    """Two files, one on each grid."""
    return [write(folder / f"{name}.tif", values(grid), grid) for name, grid in zip("os", grids, strict=True)]


def read_both(optical, sar, **options):
    """What both scenes of a pair hold."""
    with open_plain(optical, sar, **options) as pair:
        return pair.optical.read(pair.grid.window), pair.sar.read(pair.grid.window)


def read_as(side, path, other, **how):
    """What the scene of one side of a pair holds; `how` it is read says nothing of the side."""
    paths = (path, other) if side == "optical" else (other, path)
    return read_both(*paths, **{f"{side}_{name}": value for name, value in how.items()})[side == "sar"]


def assert_holds(patch, values, valid):
    """A patch has these values where it is valid, as float32, and 0 elsewhere."""
    np.testing.assert_array_equal(patch.valid, valid)
    expected = np.where(valid, np.clip(values, -3e38, 3e38), 0).astype(np.float32)
    np.testing.assert_array_equal(patch.values, expected, strict=True)


def ramp(grid: Grid, common: Grid) -> np.ndarray:
    """(2, h, w): for each pixel of `grid`, the column and row of `common` at its centre, plus 1000."""
    at = common.to_pixel(grid.map_to_crs(grids.places(grid), common.crs))
    return at.T.reshape(2, *grid.shape) + 1000


around = partial(grids.around, shift=(0.3, -0.2))  # the place lies inside a pixel
HERE, NEW_YORK = (41.3, 37.7), (-74.0, 40.7)
BASE = around(*HERE, UTM, 0.3, 100)
FRACTION = Grid(BASE.transform * Affine.translation(0.37, 0.61), 100, 100, UTM)
# optical, sar, largest error in pixels of the common grid of a single value: an average over a fraction of a pixel's
# neighbours is a little uneven. On average all are right to a hundredth.
PLACED = {
    "a fraction of a pixel apart": (BASE, FRACTION, 1e-3),
    "twice as fine": (around(*HERE, UTM, 0.25, 200), around(*HERE, UTM, 0.5, 100), 1e-3),
    "ratio 1.3": (around(*HERE, UTM, 0.5, 130), around(*HERE, UTM, 0.65, 100), 0.1),
    "sar turned": (around(*HERE, UTM, 0.5, 160), around(*HERE, UTM, 0.5, 160, 30), 1e-3),
    "optical turned and finer": (around(*HERE, UTM, 0.3, 300, 30), around(*HERE, UTM, 1.2, 80), 0.1),
    "on its side": (around(*HERE, UTM, 0.3, 300, 90), around(*HERE, UTM, 1.2, 80), 0.01),
    "sar south-up": (around(*HERE, UTM, 0.3, 100), around(*HERE, UTM, 0.5, 60, south_up=True), 0.05),
    "optical south-up": (around(*HERE, UTM, 0.25, 100, south_up=True), around(*HERE, UTM, 0.5, 60), 0.01),
    "sar in Mercator": (around(*HERE, UTM, 0.3, 200), around(*HERE, MERCATOR, 0.7, 120), 0.05),
    "optical in Mercator": (around(*HERE, MERCATOR, 1, 80), around(*HERE, UTM, 0.3, 200), 0.05),
    "sar in degrees, coarser": (around(*HERE, UTM, 0.3, 200), around(*HERE, LONLAT, 5e-6, 120), 0.1),
    "sar in degrees, finer": (around(*HERE, UTM, 0.6, 100), around(*HERE, LONLAT, 3e-6, 200), 0.1),
    "both in degrees": (around(*HERE, LONLAT, 6e-6, 100), around(*HERE, LONLAT, 9e-6, 80), 0.1),
    "optical in feet": (around(*NEW_YORK, FEET, 1, 200), around(*NEW_YORK, UTM_18, 0.5, 100), 0.1),
    "sar in feet, finer though as long in units": (
        around(*NEW_YORK, UTM_18, 1, 60), around(*NEW_YORK, FEET, 1, 200), 0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACED)
def test_both_scenes_lie_where_the_map_says(tmp_path, case):
    optical, sar, tolerance = PLACED[case]
    common = common_grid(optical, sar)
    paths = write_both(tmp_path, (optical, sar), lambda grid: ramp(grid, common))
    truth = ramp(common, common)
    with open_plain(*paths) as pair:
        assert pair.grid == common
        for scene in (pair.optical, pair.sar):
            patch = scene.read(common.window)
            inside = binary_erosion(patch.valid, iterations=2)
            corners = np.array([[0, 0], [scene.grid.width, 0], [0, scene.grid.height]]) - 0.5
            corners = common.to_pixel(scene.grid.map_to_crs(scene.grid.to_map(corners), common.crs))
            area = abs(np.linalg.det(corners[1:] - corners[0]))
            assert 0.97 * area < patch.valid.sum() < 1.07 * area
            error = (patch.values - truth)[:, inside]
            assert np.abs(error).max() < tolerance
            assert np.abs(error.mean(axis=1)).max() < 0.01


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("case", ["a fraction of a pixel apart", "twice as fine", "ratio 1.3"])
def test_what_is_averaged_here_is_what_gdal_makes_of_it(tmp_path, monkeypatch, case, factor):
    """Rows and columns that run along the common grid's are averaged without its warper, valid pixels alone."""
    places = PLACED[case][:2]
    random, values = np.random.default_rng(1), {}
    for grid, dtype in zip(places, ("float32", "uint16"), strict=True):
        values[grid] = random.integers(1, 999, (1, *grid.shape)).astype(dtype)
        values[grid][0, 10:30, 5:25] = 0
    paths = [write(tmp_path / f"{k}.tif", values[grid], grid, nodata=0) for k, grid in enumerate(places)]
    found = []
    for straight in (scene.Scene._straight, lambda self, factor: None):
        monkeypatch.setattr(scene.Scene, "_straight", straight)
        with open_plain(*paths) as pair:
            assert all(bool(view._straight(factor)) != bool(found) for view in (pair.optical, pair.sar))
            window = pair.grid.coarsen(factor).window
            found.append([view.read(window, factor) for view in (pair.optical, pair.sar)])
    for own, gdals in zip(*found, strict=True):
        both = binary_erosion(own.valid & gdals.valid, iterations=1)  # at edges GDAL may take half a pixel more or less
        assert (own.valid != gdals.valid).mean() < 0.05
        assert both.mean() > 0.3
        off = np.abs(own.values - gdals.values)[:, both]
        assert np.median(off) < 0.6  # GDAL rounds integers
        assert np.quantile(off, 0.99) < 40


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "int64", "uint64", "float32", "float64"])
def test_the_own_lattice_is_read_bit_for_bit_wherever_it_lies(tmp_path, dtype):
    values = noise(2, (20, 30), dtype)
    if np.dtype(dtype).kind == "f":
        values[0, 0, :4] = [1e-30, 1e30, -1e30, 1 / 3]
    places = np.random.default_rng(len(dtype)).uniform(4e5, 5e5, (5, 2)).tolist()
    for side, (east, north) in zip((0.1, 0.3, 0.5, 1 / 3, 10), places, strict=True):
        grid = Grid(Affine(side, 0, east, 0, -side, 4e6 + north), 30, 20, UTM)
        path = write(tmp_path / "r.tif", values, grid)
        for patch in read_both(path, path):
            assert_holds(patch, values, np.ones(grid.shape, bool))


@pytest.mark.parametrize(("factor", "dtype"), [(2, "uint8"), (3, "uint16"), (5, "float32"), (2, "float64")])
def test_the_finer_scene_is_averaged_over_the_valid_ones_of_its_pixels(tmp_path, factor, dtype):
    optical = Grid(Affine(0.5, 0, 435000, 0, -0.5, 4181000), 24 * factor, 16 * factor, UTM)
    sar = optical.coarsen(factor)
    values = noise(1, optical.shape, dtype)
    values[0, ::factor, ::factor] = values[0, : 4 * factor, : 4 * factor] = 0  # one of each, and all of some
    paths = write(tmp_path / "o.tif", values, optical, nodata=0), write(tmp_path / "s.tif", noise(1, sar.shape), sar)
    patch, _ = read_both(*paths)
    blocks = values[0].reshape(16, factor, 24, factor).astype(float)
    count = (blocks > 0).sum(axis=(1, 3))
    np.testing.assert_array_equal(patch.valid, count > 0)
    # Whole numbers come back as whole numbers: the average is taken in the scene's own type.
    means = blocks.sum(axis=(1, 3)) / np.maximum(count, 1)
    np.testing.assert_allclose(patch.values[0], means, atol=1e-4 if dtype.startswith("f") else 0.5001)


def test_what_is_finer_is_told_on_the_ground_and_not_by_numbers(tmp_path):
    """Pixels of 1 foot under pixels of 1 metre: averaged, or their noise would pass for detail."""
    optical, sar, _ = PLACED["sar in feet, finer though as long in units"]
    with open_plain(*write_both(tmp_path, (optical, sar), lambda grid: noise(1, grid.shape, "float32"))) as pair:
        patch = pair.sar.read(pair.overlap)
    assert patch.values[0, 3:-3, 3:-3].std() < 0.37 * noise(1, sar.shape, "float32").std()


def test_padding_is_not_valid(tmp_path):
    """The union of two scenes that overlap in part, and windows beyond it."""
    with open_plain(*write_both(tmp_path, (GRID, GRID.crop(Window(20, 10, 60, 40))))) as pair:
        assert pair.grid.shape == (50, 80)
        assert pair.overlap == Window(20, 10, 40, 30)
        optical, radar = pair.optical.read(pair.grid.window), pair.sar.read(pair.grid.window)
        beyond = pair.optical.read(pair.grid.window.grow(7))
        nowhere = pair.optical.read(Window(500, 500, 4, 3))
    expected = np.zeros((50, 80), bool)
    expected[:40, :60] = True
    np.testing.assert_array_equal(optical.valid, expected)
    np.testing.assert_array_equal(radar.valid, expected[::-1, ::-1])
    assert (optical.values[:, ~optical.valid] == 0).all()
    np.testing.assert_array_equal(beyond.valid, np.pad(optical.valid, 7))
    np.testing.assert_array_equal(beyond.values, np.pad(optical.values, ((0, 0), (7, 7), (7, 7))))
    assert (nowhere.valid.shape, nowhere.valid.any()) == ((3, 4), False)


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("int16", -9999), ("float32", -9999.9), ("float64", 1e20)])
def test_nodata_counts_where_all_bands_have_it(tmp_path, dtype, nodata):
    values = noise(dtype=dtype)
    values[0, :10] = nodata  # no red is a colour
    values[:, 20:30, 20:30] = nodata
    valid = (values != values[0, 0, 0]).any(axis=0)
    assert_holds(read(write(tmp_path / "r.tif", values, nodata=nodata)), values, valid)


def test_an_alpha_band_that_is_the_first_and_a_mask(tmp_path):
    colours = [ColorInterp.alpha, ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    values = np.concatenate([np.full((1, *GRID.shape), 255, np.uint8), noise()])
    values[0, 5:9], values[0, 20], values[3, 30] = 0, 40, 0
    assert_holds(read(write(tmp_path / "r.tif", values, colours=colours)), values[1:], values[0] > 0)
    assert_holds(read(write(tmp_path / "m.tif", values[1:], mask=values[0])), values[1:], values[0] > 0)


@pytest.mark.parametrize("declared", [True, False])
def test_alpha_band_and_nodata(tmp_path, declared):
    values = np.concatenate([noise(), np.full((1, *GRID.shape), 255, np.uint8)])
    values[3, 5:9] = 0
    values[:3, 20:22] = 7
    values[0, 30] = 7
    path = write(tmp_path / "r.tif", values, photometric="rgb", alpha="yes", **({"nodata": 7} if declared else {}))
    sar = write(tmp_path / "s.tif", noise(1), GRID.crop(Window(-10, -10, 60, 40)))
    valid = (values[3] > 0) & (values[:3] != 7).any(axis=0)
    patch, _ = read_both(path, sar, optical_nodata=None if declared else 7)
    assert_holds(patch, np.pad(values[:3], ((0, 0), (10, 0), (10, 0))), np.pad(valid, ((10, 0), (10, 0))))


@pytest.mark.parametrize(("dtype", "nodata"), [("float32", None), ("float32", -9999), ("float64", math.nan)])
def test_what_is_not_finite_is_not_valid(tmp_path, dtype, nodata):
    values = noise(dtype=dtype)
    values[0, 3, 3], values[1, 5, 5], values[2, 7, 7], values[:, 9, 9] = math.nan, math.inf, -math.inf, math.nan
    if dtype == "float64":  # beyond float32, and finite
        values[0, 4, 4:6] = 1e300, -1e300
    assert_holds(read(write(tmp_path / "r.tif", values, nodata=nodata)), values, np.isfinite(values).all(axis=0))


FINE, TURNED = (GRID.transform @ Affine.scale(0.25), 240, 160), (GRID.transform @ Affine.rotation(20), 240, 160)
VALUES = noise(2, (160, 240), "float32")
EMPTY, OTHER = (np.random.default_rng(n).random((160, 240)) < 0.2 for n in (1, 2))


def with_holes(value, where=EMPTY, values=VALUES):
    return np.where(where, np.float32(value), values)


def beside_a_constant(value):
    return np.stack([with_holes(value)[0], np.full_like(VALUES[1], 5)])


# Values, how they are written, how they are read, and where there is no data.
HOLES = {
    "NaN": (with_holes(math.nan), {}, {}, EMPTY),
    "infinite": (with_holes(-math.inf, OTHER, with_holes(math.inf)), {}, {}, EMPTY | OTHER),
    "NaN beside nodata": (with_holes(-9, OTHER, with_holes(math.nan)), {"nodata": -9}, {}, EMPTY | OTHER),
    "NaN in a band": (np.stack([with_holes(math.nan)[0], VALUES[1]]), {}, {}, EMPTY),
    "not used: constant": (beside_a_constant(-9), {"nodata": -9}, {"bands": [1]}, EMPTY),
    "not used: NaN": (beside_a_constant(math.nan), {"nodata": math.nan}, {"bands": [1]}, EMPTY),
    "not used, nodata given": (beside_a_constant(-9), {}, {"bands": [1], "nodata": -9}, EMPTY),
    "given, as GDAL prints it": (with_holes(-3.4028235e38), {}, {"nodata": -3.4028235e38}, EMPTY),
    "given, a decimal": (with_holes(-9999.9), {"nodata": 0}, {"nodata": -9999.9}, EMPTY),
    "declared by a format that rounds nothing": (with_holes(0.1), {"driver": "ENVI", "nodata": 0.1}, {}, EMPTY),
    "mask and nodata": (with_holes(-9), {"nodata": -9, "mask": np.where(OTHER, 0, 255)}, {}, EMPTY | OTHER),
    "alpha and nodata": (
        np.insert(with_holes(-9), 1, np.where(OTHER, 0, 255), axis=0), {"nodata": -9, "alpha": "yes"},
        {}, EMPTY | OTHER,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOLES)
def test_what_is_no_data_by_any_rule_is_left_out_as_declared_nodata_is(tmp_path, case):
    """Both where pixels are averaged and between pixels of a turned image."""
    values, written, how, empty = HOLES[case]
    plain = write(tmp_path / "plain.tif", noise(1))
    for place, side in ((FINE, "optical"), (TURNED, "sar")):
        path = write(tmp_path / "r.tif", values, Grid(*place, UTM), **written)
        clean = with_holes(-9, empty)[: len(how.get("bands", VALUES))]
        declared = write(tmp_path / "d.tif", clean, Grid(*place, UTM), nodata=-9)
        found, expected = read_as(side, path, plain, **how), read_as(side, declared, plain)
        assert 0.3 < expected.valid.mean() <= 1
        np.testing.assert_array_equal(found.valid, expected.valid)
        np.testing.assert_array_equal(found.values, expected.values)


def test_palettes_are_read_as_colours(tmp_path):
    """An average of indexes names any colour. The index that is nodata is none."""
    indexes, colours = noise(1, (160, 240)), np.random.default_rng(3).integers(1, 255, (256, 3))
    true = np.moveaxis(colours[indexes[0]], 2, 0).astype(np.uint8)
    true = write(tmp_path / "c.tif", true, Grid(*FINE, UTM), mask=indexes[0] != 7)
    path = write(tmp_path / "p.tif", indexes, Grid(*FINE, UTM), photometric="palette", nodata=7)
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, dict(enumerate(map(tuple, colours.tolist()))))
    plain = write(tmp_path / "plain.tif", noise(1))
    for side in ("optical", "sar"):
        found, expected = read_as(side, path, plain), read_as(side, true, plain)
        assert expected.values.shape == (3, *GRID.shape)
        assert_holds(found, expected.values, expected.valid)


def test_the_file_says_that_its_values_are_decibels(tmp_path):
    path, plain = write(tmp_path / "s.tif", noise(2, dtype="float32")), write(tmp_path / "o.tif", noise(1))
    with rasterio.open(path, "r+") as target:
        target.units = ("dB", "degree")
    for bands, expected in (((1,), True), ((2,), None)):
        with open_plain(plain, path, sar_bands=bands) as pair:
            for seen in (pair, pair.posed(np.eye(3))):
                assert seen.overview(seen.sar)[0].decibel is expected


def test_a_nodata_that_a_type_cannot_hold_is_nowhere(tmp_path):
    path = write(tmp_path / "r.tif", noise(1, dtype="int16"))
    for impossible in (1e9, 0.5, math.nan):
        assert read(path, optical_nodata=impossible).valid.all()


def test_bands_that_are_named_hold_data_even_where_one_is_alpha(tmp_path):
    """GDAL takes the near infrared of an untagged image for alpha, and water has none."""
    values = noise(5)
    values[3, 5:9] = 0
    path = write(tmp_path / "r.tif", values)
    with open_plain(path, path) as pair:
        assert (pair.optical.bands, pair.sar.bands) == ((1, 2, 3), (1, 2, 3, 4, 5))
    infrared = write(tmp_path / "i.tif", values[:4], photometric="rgb", alpha="yes")
    optical, sar = read_both(infrared, path, optical_bands=[4, 1], sar_bands=[5])
    assert_holds(optical, values[[3, 0]], np.ones(GRID.shape, bool))
    assert_holds(sar, values[[4]], np.ones(GRID.shape, bool))
    with pytest.raises(InputError, match="no band 6"):
        read_both(path, path, sar_bands=[6])


@pytest.mark.parametrize("georeferenced", [True, False])
def test_pixel_frame(tmp_path, georeferenced):
    """Sizes may differ; the first row stays the first, whatever georeference is ignored."""
    here = GRID if georeferenced else Grid.pixel_frame(60, 40)
    there = Grid(Affine(5, 1, 7, 1, 5, 9), 80, 30, MERCATOR) if georeferenced else Grid.pixel_frame(80, 30)
    optical, sar = noise(1), noise(1, there.shape, seed=1)
    optical[0, 0, :], optical[0, :, 0] = 200, 210
    paths = write(tmp_path / "o.tif", optical, here), write(tmp_path / "s.tif", sar, there)
    with open_plain(*paths, pixel_frame=True) as pair:
        assert pair.grid == Grid.pixel_frame(80, 40)
        assert pair.overlap == Window(0, 0, 60, 30)
        patch, radar = pair.optical.read(pair.grid.window), pair.sar.read(pair.grid.window)
        coarse = pair.optical.read(Window(0, 0, 30, 20), 2)
    np.testing.assert_array_equal(patch.values[:, :40, :60], optical)
    np.testing.assert_array_equal(radar.values[:, :30, :80], sar)
    assert (patch.valid.sum(), radar.valid.sum()) == (40 * 60, 30 * 80)
    np.testing.assert_allclose(coarse.values[0], optical[0].reshape(20, 2, 30, 2).mean(axis=(1, 3)), atol=0.5001)


@pytest.mark.parametrize("factor", [2, 3, 7, 8])
def test_coarse_pixels_are_the_means_of_their_pixels(tmp_path, factor):
    values = noise(2, dtype="float32")
    path = write(tmp_path / "r.tif", values)
    with open_plain(path, path) as pair:
        patch = pair.optical.read(pair.grid.coarsen(factor).window, factor)
        part = pair.optical.read(Window(2, 1, 4, 3), factor)
    assert patch.valid.shape == GRID.coarsen(factor).shape
    assert patch.valid.all()
    for row, col in np.ndindex(patch.valid.shape):
        block = values[:, row * factor : (row + 1) * factor, col * factor : (col + 1) * factor]
        found, mean = patch.values[:, row, col], block.mean(axis=(1, 2))
        if block.shape[1:] == (factor, factor):
            assert np.abs(found - mean).max() < 1e-5 * mean.max()
        else:  # of a short block at the edge, GDAL's average gives the outermost pixels more weight
            assert ((block.min(axis=(1, 2)) <= found) & (found <= block.max(axis=(1, 2)))).all()
    np.testing.assert_array_equal(part.values, patch.values[:, 1:4, 2:6])


@pytest.mark.parametrize("case", ["ratio 1.3", "sar turned", "both in degrees"])
@pytest.mark.parametrize("factor", [1, 8])
def test_reading_by_windows_equals_reading_whole(tmp_path, case, factor):
    """In whichever order: nothing depends on what was read before."""
    optical, sar, _ = PLACED[case]
    paths = write_both(tmp_path, (optical, sar))
    with open_plain(*paths) as pair:
        coarse = pair.grid.coarsen(factor)
        whole = [scene.read(coarse.window, factor) for scene in (pair.optical, pair.sar)]
        assert all(patch.valid.any() for patch in whole)
    blocks = [block.grow(3).intersect(coarse.window) for block in coarse.blocks(57)]
    with open_plain(*paths) as pair:
        for block in reversed(blocks):
            for scene, expected in zip((pair.optical, pair.sar), whole, strict=True):
                part = scene.read(block, factor)
                np.testing.assert_array_equal(part.values, expected.values[(slice(None), *block.slices())])
                np.testing.assert_array_equal(part.valid, expected.valid[block.slices()])


def test_what_is_done_to_a_patch_does_not_reach_the_next_and_gdals_cache_is_bounded(tmp_path):
    """GDAL's cache is of so many bytes: one that holds nothing reads every tile again for every block."""
    path = write(tmp_path / "r.tif", noise(1))
    with open_plain(path, path) as pair:
        assert 64 << 20 <= get_gdal_config("GDAL_CACHEMAX") <= 512 << 20
        for _ in range(2):
            patch = pair.optical.read(pair.grid.window)
            assert_holds(patch, noise(1), np.ones(GRID.shape, bool))
            patch.values[:], patch.valid[:] = -1, False


def test_overlap_across_crs(tmp_path):
    paths = write_both(tmp_path, PLACED["sar in Mercator"][:2])
    with open_plain(*paths) as pair:
        area = pair.overlap
    both = np.logical_and(*(patch.valid for patch in read_both(*paths)))
    rows, cols = np.nonzero(both)
    ends = np.array([area.col, area.row, area.col + area.width - 1, area.row + area.height - 1])
    assert np.abs(ends - [cols.min(), rows.min(), cols.max(), rows.max()]).max() <= 1


def test_scenes_that_do_not_overlap(tmp_path):
    optical = write(tmp_path / "o.tif", noise(1))
    beside = write(tmp_path / "beside.tif", noise(1), GRID.crop(Window(60, 0, 60, 40)))
    far = write(tmp_path / "far.tif", noise(1), around(*NEW_YORK, UTM_18, 0.5, 60).crop(Window(0, 0, 60, 40)))
    for pair in ((optical, beside), (beside, optical), (optical, far)):
        with pytest.raises(InputError, match="do not overlap"), open_plain(*pair):
            pass
    touching = write(tmp_path / "touching.tif", noise(1), GRID.crop(Window(59, 39, 60, 40)))
    with open_plain(optical, touching) as opened:
        assert opened.overlap == Window(59, 39, 1, 1)


def test_overview(tmp_path, monkeypatch):
    wide = Grid(GRID.transform, 2500, 40, UTM)
    values = np.arange(2500, dtype=np.float32) + np.zeros(wide.shape, np.float32)
    small, large = write(tmp_path / "small.tif", noise(1)), write(tmp_path / "large.tif", values, wide)
    only = np.zeros(wide.shape, np.uint8)
    only[33, 1777] = 9  # one valid pixel is found in a large scene
    assert read_both(write(tmp_path / "only.tif", only, wide, nodata=0), small)[0].valid.sum() == 1
    with open_plain(small, small) as pair:
        patch, factor = pair.overview(pair.optical)
        assert factor == 1
        np.testing.assert_array_equal(patch.values, noise(1))
    with open_plain(large, small) as pair:
        patch, factor = pair.overview(pair.optical)
        other, same_factor = pair.overview(pair.sar)
        coarse = pair.optical.read(pair.grid.coarsen(8).window, 8)
        monkeypatch.setattr(scene, "_AT_ONCE", 100)  # pixels: then it is read part by part
        np.testing.assert_array_equal(pair.optical.read(pair.grid.coarsen(8).window, 8).values, coarse.values)
        assert patch.valid.shape == other.valid.shape == pair.grid.coarsen(factor).shape
    assert factor == same_factor
    assert 500 < max(patch.valid.shape) <= 1024
    whole = 2500 // factor
    centres = np.arange(whole) * factor + (factor - 1) / 2
    np.testing.assert_allclose(patch.values[0, 5, :whole], centres, rtol=1e-5)
    np.testing.assert_array_equal(np.nonzero(other.valid.any(axis=0))[0], np.arange(60 / factor))


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 4)])
def test_a_patch_checks_its_shapes(shape):
    with pytest.raises(ValueError, match="do not belong together"):
        Patch(np.zeros(shape, np.float32), np.zeros((4, 3), bool))
