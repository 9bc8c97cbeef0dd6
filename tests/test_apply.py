"""apply: what is pulled through constant, missing and wild offsets, and what of a raster is kept."""

import logging
import math
from functools import partial

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from support import grids
from support.rasters import TEXTURE_TRANSFORM, UTM

from sn9reg import apply as module
from sn9reg.apply import apply_offsets
from sn9reg.errors import ConfigError, InputError, OutputError
from sn9reg.offsets import OffsetMap
from sn9reg.raster.grid import Grid, Window
from sn9reg.raster.resampling import locator

OPTICAL = Grid(TEXTURE_TRANSFORM, 60, 40, UTM)
FINE = Grid(Affine(0.1, 0, 435000, 0, -0.1, 4181000), 300, 200, UTM)  # of the same ground


def constant(dx, dy, grid=OPTICAL, **facts):
    return grids.offsets_of([np.full(grid.shape, v) for v in (dx, dy)], grid, facts=facts)


write = partial(grids.write, grid=OPTICAL)


def run(tmp_path, offsets, raster, **options):
    out = tmp_path / "out.tif"
    apply_offsets(offsets, raster, out, **({"overwrite": True} | options))
    assert {p.suffix for p in tmp_path.iterdir()} == {".tif"}  # no mask or statistics beside it
    with rasterio.open(out) as dataset:
        return dataset.read(), dataset.read_masks() != 0, dataset.profile | {"flags": dataset.mask_flag_enums}


def noise(dtype, bands=2, shape=OPTICAL.shape, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 100, (bands, *shape))
    return (values + 1j * rng.integers(0, 9, values.shape) if dtype.startswith("complex") else values).astype(dtype)


def ramp(grid, crs=UTM):
    """An image whose value is linear in the map: 3 per optical pixel to the right, -2 per pixel down."""
    x, y = OPTICAL.to_pixel(grid.map_to_crs(grids.places(grid), crs)).T
    return (1000 + 3 * x - 2 * y).reshape(grid.shape).astype(np.float32)


REAL = ["uint8", "int8", "uint32", "int64", "uint64", "float32", "float64"]


@pytest.mark.parametrize("dtype", [*REAL, "complex64", "complex128", "complex_int16"])
def test_identity_returns_every_byte(tmp_path, dtype):
    array = noise(dtype.replace("_int16", "64"))
    if dtype == "uint64":
        array[0, 0, 0] = 2**64 - 1
    if dtype.startswith("float") or dtype in ("complex64", "complex128"):
        array[0, 3, 3], array[1, 5, 5] = -np.inf, np.nan
    raster = write(tmp_path / "r.tif", array, dtype=dtype)
    for how in (None, "nearest", "cubic"):
        if how == "cubic" and dtype.endswith("int64"):
            with pytest.raises(ConfigError, match="nearest"):
                run(tmp_path, constant(0, 0), raster, resampling=how)
            continue
        values, valid, profile = run(tmp_path, constant(0, 0), raster, resampling=how)
        assert values.tobytes() == array.tobytes()
        assert valid.all()
        assert (profile["dtype"], profile["nodata"], profile["transform"]) == (dtype, None, OPTICAL.transform)


@settings(max_examples=20)
@given(dx=st.integers(-70, 70), dy=st.integers(-50, 50), how=st.sampled_from(["nearest", "bilinear", "cubic"]))
def test_whole_offsets_shift_the_image(tmp_path_factory, dx, dy, how):
    array, folder = noise("uint8") + np.uint8(1), tmp_path_factory.mktemp("shift")
    raster = write(folder / "r.tif", array)
    values, valid, _ = run(folder, constant(dx, dy), raster, resampling=how)
    around = np.pad(array, ((0, 0), (50, 50), (70, 70)))  # 0 outside; no pixel of the image is
    expected = around[:, 50 + dy : 90 + dy, 70 + dx : 130 + dx]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(valid, expected > 0)


def elsewhere(epsg, grid, size):
    """A grid of size x size pixels in another CRS that covers `grid` and a third around it."""
    outline = grid.map_to_crs(grid.outline(), CRS.from_epsg(epsg))
    low, high = outline.min(axis=0), outline.max(axis=0)
    (left, bottom), (right, top) = low - (high - low) / 3, high + (high - low) / 3
    transform = Affine((right - left) / size, 0, left, 0, (bottom - top) / size, top)
    return Grid(transform, size, size, CRS.from_epsg(epsg))


RASTERS = {
    "same": OPTICAL.crop(Window(-10, -10, 90, 70)),
    "coarser": Grid(Affine(0.8, 0, 434990, 0, -0.8, 4181010), 70, 60, UTM),
    "finer": Grid(Affine(0.1, 0, 434997, 0, -0.1, 4181003), 400, 300, UTM),
    "turned": Grid(Affine(0.5, 0.3, 434980, 0.3, -0.5, 4181000), 110, 90, UTM),
    "south-up": Grid(Affine(0.5, 0, 434990, 0, 0.5, 4180970), 110, 90, UTM),
    "degrees": elsewhere(4326, OPTICAL, 100),
    "mercator": elsewhere(3857, OPTICAL, 90),
}


@pytest.mark.parametrize("how", ["bilinear", "cubic"])
@pytest.mark.parametrize("name", RASTERS)
def test_any_grid_gives_the_place_that_the_offsets_name(tmp_path, name, how):
    grid = RASTERS[name]
    raster = write(tmp_path / "r.tif", ramp(grid), grid=grid)
    values, valid, _ = run(tmp_path, constant(4.25, -1.5), raster, resampling=how)
    expected = ramp(OPTICAL) + 3 * 4.25 + 2 * 1.5
    assert valid.mean() > 0.6
    inner = np.zeros_like(valid)  # at the raster's edge fewer pixels are blended, which a ramp shows
    inner[:, 3:-3, 3:-3] = np.lib.stride_tricks.sliding_window_view(valid, (1, 7, 7)).all(axis=(3, 4, 5))
    assert inner.mean() > 0.3
    # The ramp climbs 3.6 per pixel: 0.01 px would be 0.036.
    np.testing.assert_allclose(values[inner], expected[None][inner], atol=0.01)


@pytest.mark.parametrize("name", ["degrees", "mercator"])
def test_nodes_between_two_crs_are_exact_to_a_hundredth_of_a_pixel(name):
    optical = Grid(Affine(10, 0, 435000, 0, -10, 4181000), 512, 512, UTM)
    source = elsewhere(RASTERS[name].crs.to_epsg(), optical, 800)
    locate = locator(optical, source)
    y, x = np.mgrid[:512, :512] + np.random.default_rng(0).uniform(-20, 20, (2, 512, 512))
    u, v = locate(x, y)
    exact = source.to_pixel(optical.map_to_crs(optical.to_map(np.column_stack([x.ravel(), y.ravel()])), source.crs))
    assert np.abs(np.column_stack([u.ravel(), v.ravel()]) - exact).max() < 0.01


def test_a_finer_raster_is_averaged_and_with_nearest_is_not(tmp_path):
    checks = (np.indices(FINE.shape).sum(axis=0) % 2 * 200).astype(np.uint8)
    raster = write(tmp_path / "r.tif", checks, grid=FINE)
    assert set(np.unique(run(tmp_path, constant(0, 0), raster)[0])) <= {96, 104}  # 12 or 13 of 25 pixels
    assert set(np.unique(run(tmp_path, constant(0, 0), raster, resampling="nearest")[0])) == {0, 200}


def test_what_is_not_finite_does_not_enter_averages_and_every_rule_of_no_data_counts(tmp_path):
    """NaN and infinities under one coarse pixel; pixels that alpha hides, or a mask, beside others that are nodata."""
    holes = np.where(np.random.default_rng(0).random((2, *FINE.shape)) < 0.1, np.float32(np.inf), np.float32(7))
    holes[1, ::7, ::7] = np.nan
    values, valid, _ = run(tmp_path, constant(0, 0), write(tmp_path / "r.tif", holes, grid=FINE))
    assert valid.all()
    np.testing.assert_allclose(values, 7)
    array, hidden = np.full((2, *OPTICAL.shape), 90, np.uint8), np.full(OPTICAL.shape, 255, np.uint8)
    array[:, 5:10, 5:10], hidden[20:30, 20:30] = 3, 0
    array[0, 20:30, 20:30] = 200
    for bands, rule in ((np.stack([array[0], hidden]), {"alpha": "yes"}), (array, {"mask": hidden})):
        raster = write(tmp_path / "h.tif", bands, nodata=3, **rule)
        values, valid, _ = run(tmp_path, constant(0.4, 0), raster, bands=[1])
        assert set(values[valid]) == {90}
        assert valid.sum() == 40 * 60 - 25 - 100


def test_blocks_and_threads_do_not_show(tmp_path, monkeypatch):
    grid = Grid(OPTICAL.transform, 560, 540, UTM)
    array = np.random.default_rng(1).integers(1, 255, (2, *grid.shape)).astype(np.uint8)
    raster, wavy = write(tmp_path / "r.tif", array, grid=grid, nodata=0), 20 * np.sin(np.indices(grid.shape) / 40)
    maps = grids.offsets_of(wavy, grid), constant(0, 0, grid.coarsen(2))  # for the latter the raster is averaged
    first = [run(tmp_path, offsets, raster)[0] for offsets in maps]
    monkeypatch.setattr(module, "_MAX_PIXELS", 5000)  # every block is cut in many
    second = [run(tmp_path, offsets, raster, threads=3)[0] for offsets in maps]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (first[0][:, 50:-50, 50:-50] > 0).all()


def test_wild_and_missing_offsets_are_no_data(tmp_path, caplog):
    array = np.zeros((2, *OPTICAL.shape))
    array[0, 5, 5], array[1, 6, 6], array[0, 7, 7], array[0, 8, 8] = np.nan, -9999, 1e30, np.inf
    raster = write(tmp_path / "r.tif", noise("uint8", 1) + np.uint8(1))
    values, valid, profile = run(tmp_path, grids.offsets_of(array, OPTICAL), raster, nodata=0)
    assert profile["nodata"] == 0
    missing = np.zeros(OPTICAL.shape, bool)
    missing[range(5, 9), range(5, 9)] = True
    np.testing.assert_array_equal(~valid[0], missing)
    np.testing.assert_array_equal(values[0] == 0, missing)
    with caplog.at_level(logging.WARNING):
        run(tmp_path, constant(0, np.nan, registered="no"), raster)
    assert "holds no data" in caplog.text
    assert "NOT registered" in caplog.text


def test_nodata_is_kept_and_does_not_bleed_and_blending_never_makes_it(tmp_path):
    array = np.full(OPTICAL.shape, 500, np.int16)
    array[10:20, 10:20] = -9999
    raster = write(tmp_path / "r.tif", array, nodata=-9999)
    for how in ("bilinear", "cubic"):
        values, valid, profile = run(tmp_path, constant(0.3, 0.3), raster, resampling=how)
        assert profile["nodata"] == -9999
        np.testing.assert_array_equal(values[0], array)
        np.testing.assert_array_equal(valid[0], array == 500)
    stripes = np.where(np.indices(OPTICAL.shape)[1] % 2, 1, -1).astype(np.int16)
    values, valid, _ = run(tmp_path, constant(0.5, 0), write(tmp_path / "r.tif", stripes, nodata=0))
    assert valid[:, :, :-1].all()  # their mean would be nodata
    assert (values[0, :, :-1] == 1).all()


def test_another_nodata_and_one_the_raster_did_not_declare(tmp_path):
    array = np.full(OPTICAL.shape, 7, np.float32)
    array[3, 3] = -1
    declared = write(tmp_path / "r.tif", array, nodata=-1)
    values, _, profile = run(tmp_path, constant(0, 0), declared, nodata=math.nan)
    assert np.isnan([profile["nodata"], values[0, 3, 3]]).all()
    undeclared = write(tmp_path / "u.tif", array)
    _, valid, _ = run(tmp_path, constant(0, 0), undeclared, nodata=-1)
    assert (~valid).sum() == 1


def test_without_nodata_a_mask_lies_inside_the_file(tmp_path):
    """It starts late, and covers the blocks that were written earlier. One that the raster has is kept."""
    grid = Grid(OPTICAL.transform, 1030, 20, UTM)
    mask = np.full(grid.shape, 255, np.uint8)
    mask[:, 600:700] = 0
    for own, expected in ((None, np.ones(grid.shape, bool)), (mask, mask > 0)):
        raster = write(tmp_path / "r.tif", noise("uint8", 3, grid.shape), grid=grid, mask=own)
        _, valid, profile = run(tmp_path, constant(3, 0, grid), raster)
        assert profile["nodata"] is None
        assert [flag.name for flag in profile["flags"][0]] == ["per_dataset"]
        np.testing.assert_array_equal(valid[0], np.pad(expected[:, 3:], ((0, 0), (0, 3))))


def test_alpha_is_kept_and_zero_outside(tmp_path):
    array = np.concatenate([np.full((3, *OPTICAL.shape), 90), np.full((1, *OPTICAL.shape), 255)]).astype(np.uint8)
    array[:, 5:10, 5:10] = 0
    raster = write(tmp_path / "r.tif", array, photometric="rgb", alpha="yes")
    values, _, profile = run(tmp_path, constant(0.4, 0), raster)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert (dataset.colorinterp[0], dataset.colorinterp[-1]) == (ColorInterp.red, ColorInterp.alpha)
    assert profile["nodata"] is None
    assert set(np.unique(values[:3])) == {0, 90}  # no dark fringe
    np.testing.assert_array_equal(values[3] == 0, values[0] == 0)
    _, valid, profile = run(tmp_path, constant(3, 0), raster, bands=[1])
    assert profile["count"] == 1
    assert not valid[0, 5:10, 2:7].any() | valid[0, :, 57:].any()
    assert valid.sum() == 40 * 57 - 25


def test_palette_names_scales_and_tags_are_kept(tmp_path):
    raster = write(tmp_path / "p.tif", noise("uint8", 1), photometric="palette")
    colours = {i: (i, 255 - i, 7, 255) for i in range(256)}
    with rasterio.open(raster, "r+") as target:
        target.write_colormap(1, colours)
        target.set_band_description(1, "land cover")
        target.update_tags(SOURCE="here")
        target.update_tags(1, STATISTICS_MEAN="5", unit="class")
    values, _, _ = run(tmp_path, constant(0.4, 0), raster)
    assert set(np.unique(values)) <= set(np.unique(noise("uint8", 1)))
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert (dataset.colormap(1), dataset.colorinterp) == (colours, (ColorInterp.palette,))
        assert (dataset.descriptions, dataset.tags()["SOURCE"]) == (("land cover",), "here")
        assert dataset.tags(1) == {"unit": "class"}
    with pytest.raises(ConfigError, match="palette"):
        run(tmp_path, constant(0, 0), raster, resampling="cubic")
    raster = write(tmp_path / "s.tif", noise("int16"))
    with rasterio.open(raster, "r+") as target:
        target.scales, target.offsets, target.units = (0.1, 0.2), (5.0, 0.0), ("dB", "m")
    run(tmp_path, constant(0, 0), raster, bands=[2, 1])
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert (dataset.scales, dataset.offsets, dataset.units) == ((0.2, 0.1), (0.0, 5.0), ("m", "dB"))


def test_pixel_frame(tmp_path):
    array = noise("uint8", 1)
    raster = write(tmp_path / "r.tif", array, grid=Grid.pixel_frame(60, 40))
    apply_offsets(constant(3, 2, Grid.pixel_frame(60, 40)), raster, tmp_path / "out.tif", pixel_frame=True)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "out.tif") as dataset:
        np.testing.assert_array_equal(dataset.read()[:, :-2, :-3], array[:, 2:, 3:])


def test_failures_leave_nothing(tmp_path):
    raster = write(tmp_path / "r.tif", noise("uint8"))

    def interrupted(window):
        raise KeyboardInterrupt

    for threads in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            apply_offsets(OffsetMap(OPTICAL, interrupted), raster, tmp_path / "out.tif", threads=threads)
    cut = write(tmp_path / "cut.tif", noise("float64", 4, (400, 600)), grid=Grid(OPTICAL.transform, 600, 400, UTM))
    cut.write_bytes(cut.read_bytes()[:200_000])
    out = tmp_path / "out.tif"
    for source, target, options, error, words in (
        (cut, out, {}, InputError, r"cut\.tif"),
        (raster, out, {"creation_options": {"blockxsize": 17}}, OutputError, "cannot be written"),
    ):
        with pytest.raises(error, match=words):
            apply_offsets(constant(0, 0), source, target, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.tif", "r.tif"]
