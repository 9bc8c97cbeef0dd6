"""Folders of registered pairs: what is found in them and how it is read."""

import numpy as np
import pytest
import rasterio
from support.rasters import write_raster

from sn9reg.errors import InputError
from sn9reg.raster.folders import pair_files

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
SHAPE = (6, 8)


def image(low=1):
    """(1, h, w) uint8, every pixel another value."""
    return np.arange(low, low + SHAPE[0] * SHAPE[1], dtype=np.uint8).reshape(1, *SHAPE)


@pytest.fixture
def folder(tmp_path):
    """Pairs b (with a mask that leaves out the first two columns) and a; c has no SAR image, d no optical one."""
    for name in ("b_opt", "b_sar", "a_opt", "a_sar", "c_opt", "d_sar"):
        write_raster(tmp_path / f"{name}.png", image(100 if name.endswith("sar") else 1))
    inside = np.full((1, *SHAPE), 255, np.uint8)
    inside[:, :, :2] = 0
    write_raster(tmp_path / "b_mask.png", inside)
    return tmp_path


def test_pairs_come_by_name_and_only_whole_and_the_mask_counts_for_both_images(folder):
    a, b = pair_files(folder)
    assert pair_files(str(folder)) == [a, b]
    assert all(patch.valid.all() for patch in a.read())
    assert (a.name, a.optical, a.sar, a.mask) == ("a", folder / "a_opt.png", folder / "a_sar.png", None)
    assert (b.name, b.optical, b.sar) == ("b", folder / "b_opt.png", folder / "b_sar.png")
    for patch, whole in zip(b.read(), (image(1), image(100)), strict=True):
        np.testing.assert_array_equal(patch.valid, np.arange(SHAPE[1]) + np.zeros(SHAPE) >= 2)
        np.testing.assert_array_equal(patch.values, np.where(patch.valid, whole, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_float32_unless_the_files_own_type_is_asked_for(tmp_path, dtype):
    for kind in ("opt", "sar"):
        write_raster(tmp_path / f"x_{kind}.tif", image().astype(dtype))
    (files,) = pair_files(tmp_path)
    for native, expected in ((False, np.float32), (True, dtype)):
        for patch in files.read(native):
            assert patch.values.dtype == expected
            np.testing.assert_array_equal(patch.values, image())


@pytest.mark.parametrize("native", [False, True])
def test_alpha_nodata_and_what_is_no_number_are_not_valid(tmp_path, native):
    alpha, sar = np.full((1, *SHAPE), 255, np.uint8), image().astype(np.float32)
    alpha[0, 0, 0], sar[0, 2, 3], sar[0, 3, 3], sar[0, 4, 4] = 0, np.nan, np.inf, -9999
    write_raster(tmp_path / "x_opt.png", np.concatenate([image(), image(2), image(3), alpha]))
    write_raster(tmp_path / "x_sar.tif", sar, nodata=-9999)
    patches = pair_files(tmp_path)[0].read(native)
    assert [len(patch.values) for patch in patches] == [3, 1]
    assert [np.argwhere(~patch.valid).tolist() for patch in patches] == [[[0, 0]], [[2, 3], [3, 3], [4, 4]]]
    assert all((patch.values[:, ~patch.valid] == 0).all() for patch in patches)


def test_a_mask_beside_nodata_and_palettes(tmp_path):
    mask, colours = np.arange(48).reshape(SHAPE) % 5 > 0, {n: (n, 2 * n, 3 * n, 255) for n in range(60)}
    for kind, options in (("opt", {"photometric": "palette"}), ("sar", {"nodata": 3})):
        path = write_raster(tmp_path / f"x_{kind}.tif", image(), **options)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
            if kind == "opt":
                target.write_colormap(1, colours)
            target.write_mask(mask)
    optical, sar = pair_files(tmp_path)[0].read()
    np.testing.assert_array_equal(optical.values, np.where(mask, image().astype(np.float32) * [[[1]], [[2]], [[3]]], 0))
    np.testing.assert_array_equal(sar.valid, mask & (image()[0] != 3))


def test_names_with_wildcards_and_files_beside_a_raster(tmp_path):
    for kind in ("opt", "sar", "mask"):
        write_raster(tmp_path / f"[x]*_{kind}.png", image())
        (tmp_path / f"[x]*_{kind}.pgw").write_text("1\n0\n0\n-1\n0\n0\n")
        (tmp_path / f"[x]*_{kind}.png.aux.xml").write_text("<PAMDataset/>")
    (files,) = pair_files(tmp_path)
    names = [files.name, files.optical.name, files.sar.name, files.mask.name]
    assert names == ["[x]*", "[x]*_opt.png", "[x]*_sar.png", "[x]*_mask.png"]


def test_folders_that_cannot_be_used(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("nowhere", r"nowhere: no such folder"),
        ("a_opt.png", r"a_opt\.png: no such folder"),
        ("empty", r"empty: holds no pairs NAME_opt\.\* and NAME_sar\.\*"),
    ):
        with pytest.raises(InputError, match=words):
            pair_files(folder / name)
    write_raster(folder / "b_mask.png", np.ones((1, 6, 9), np.uint8))
    with pytest.raises(InputError, match=r"b_mask\.png: differs in size from b_opt\.png"):
        pair_files(folder)[1].read()
    (folder / "a_sar.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"a_sar\.png"):
        pair_files(folder)[0].read()
