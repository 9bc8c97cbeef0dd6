"""Collars and marks: what is no ground, though no file says so, is neither matched nor judged."""

import cv2
import numpy as np
import pytest
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg import register
from sn9reg.raster.collar import taken_out
from sn9reg.raster.grid import Window
from sn9reg.raster.scene import PairFiles

BORDER = np.ones((280, 320), bool)
BORDER[24:-24, 24:-24] = False
LINES = np.zeros((280, 320), bool)
LINES[40::70, :] = LINES[:, 30::70] = LINES[41::70, :] = True
QUICK = {"matcher": "structure", "matcher_options": {"max_offset": 10}}


def saved(folder, optical, sar, **options):
    bands = {"o.tif": [optical, optical // 2, optical // 3], "s.tif": [sar]}
    paths = [write_raster(folder / name, np.stack(b), TEXTURE_TRANSFORM, UTM, **options) for name, b in bands.items()]
    return PairFiles(*paths)


def valid_in(files, factor=1):
    with files.open() as pair:
        window = pair.grid.coarsen(factor).window
        return [scene.read(window, factor).valid for scene in (pair.optical, pair.sar)]


@pytest.mark.parametrize("value", [0, 255])
def test_an_undeclared_border_is_no_data_unless_it_is_kept(tmp_path, value):
    optical, sar = textures()
    files = saved(tmp_path, np.where(BORDER, np.uint8(value), optical), sar)
    seen = valid_in(files)
    assert seen[1].all()
    assert not seen[0][BORDER].any()
    assert seen[0][28:-28, 28:-28].all()
    assert not valid_in(files, 4)[0][:5].any()
    assert all(valid.all() for valid in valid_in(PairFiles(files.optical, files.sar, keep_collar=True)))
    with files.open() as pair:
        assert ["areas of one exact value, 29.6%" in said for said in taken_out(pair.optical)] == [True]
        assert taken_out(pair.sar) == []


def test_a_hole_is_no_data_and_small_spots_and_an_image_of_one_value_are_data(tmp_path):
    optical, sar = textures()
    optical[100:150, 100:150] = 0
    sar[20:40, 20:40] = 7
    seen = valid_in(saved(tmp_path, optical, sar))
    assert not seen[0][102:148, 102:148].any()
    assert seen[0][:90].all()
    assert seen[1].all()
    assert valid_in(saved(tmp_path, np.full_like(optical, 9), sar))[0].all()


def test_lines_that_both_images_share_are_no_data_and_those_of_one_are(tmp_path):
    optical, sar = textures()
    drawn = np.where(LINES, np.uint8(255), optical), np.where(LINES, np.uint8(200), sar)
    files = saved(tmp_path, *drawn)
    for valid in valid_in(files):
        assert not valid[LINES].any()
        assert valid[60:100, 50:90].all()
    with files.open() as pair:  # by parts as whole, and coarse pixels are means of what is no line
        whole = pair.sar.read(pair.grid.window)
        part = pair.sar.read(Window(150, 30, 60, 50))
        np.testing.assert_array_equal(part.valid, whole.valid[30:80, 150:210])
        coarse = pair.sar.read(pair.grid.coarsen(4).window, 4)
        np.testing.assert_array_equal(coarse.valid, whole.valid.reshape(70, 4, 80, 4).any(axis=(1, 3)))
    assert all(valid.all() for valid in valid_in(saved(tmp_path, drawn[0], sar)))


@pytest.mark.parametrize("stamp", [BORDER, LINES], ids=["border", "lines"])
def test_what_both_images_share_registers_no_pair_that_does_not_belong_together(tmp_path, stamp):
    small = np.s_[-180:, -200:]
    images = (textures(200, 180, seed)[k] for k, seed in enumerate((1, 2)))
    files = saved(tmp_path, *(np.where(stamp[small], np.uint8(0), image) for image in images))
    assert not register(files.optical, files.sar, **QUICK).registered


def test_under_a_turned_outline_the_true_shift_is_found_and_a_line_says_what_was_left_out(tmp_path, caplog):
    optical, sar = textures(seed=3)
    box = cv2.boxPoints(((160, 140), (250, 220), 20)).round().astype(np.int32)
    outside = cv2.fillConvexPoly(np.ones(optical.shape, np.uint8), box, 0).astype(bool)
    files = saved(tmp_path, *(np.where(outside, np.uint8(0), image) for image in (optical, sar)))
    found = register(files.optical, files.sar, **QUICK)
    assert found.registered
    shift = found.offsets().read(found.optical.window)[:2, 140, 160]
    np.testing.assert_allclose(shift, (9, -6), atol=0.5)
    assert caplog.text.count("--keep-collar keeps them") == 2
