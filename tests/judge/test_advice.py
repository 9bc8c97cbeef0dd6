"""advice: what a refusal is likely due to is named, with the option that helps."""

import cv2
import numpy as np
import pytest
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg.judge.advice import advice
from sn9reg.raster.scene import PairFiles

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
OPTICAL, SAR = textures(220, 200)
HIDDEN = np.random.default_rng(0).random(SAR.shape) < 0.4
LOWEST = np.finfo(np.float32).min


def filled(image, value, dtype=np.float32):
    return np.where(HIDDEN, dtype(value), image.astype(dtype))


def zoomed(factor):
    return cv2.resize(SAR, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def said(folder, optical=OPTICAL, sar=SAR, reach=10.0, frame=False, posed=False, **options):
    for name, image in (("o", optical), ("s", sar)):
        place = (None, None) if frame else (TEXTURE_TRANSFORM, UTM)
        write_raster(folder / f"{name}.tif", np.asarray(image)[None], *place, **options)
    with PairFiles(folder / "o.tif", folder / "s.tif", frame).open() as pair:
        return advice(pair, reach, posed)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sar": filled(SAR, -9999)}, ["39% of the SAR image is -9999:", "--sar-nodata -9999"]),
        ({"sar": filled(SAR, LOWEST)}, ["--sar-nodata -3.4028235e+38"]),
        ({"optical": filled(OPTICAL, 0, np.uint8)}, ["39% of the optical image is 0:", "--optical-nodata 0"]),
        ({"sar": SAR[:, :3]}, ["share only 3 x 200 px of 0.5 m", "100 x 100 px"]),
        ({"sar": filled(SAR, 0), "optical": np.where(HIDDEN[::-1], OPTICAL, 0), "nodata": 0}, ["only 24% of"]),
        ({"sar": zoomed(1.5), "frame": True}, ["and 330 x 300 px", "one 1.5 times", "--pose none"]),
        ({"sar": zoomed(1.5)[:200, :220], "frame": True}, ["images of one scale", "--pose none"]),
        ({"reach": 1.0}, ["at a shift of 5.4", " m, and 1 m were looked for", "--max-offset"]),
        ({"reach": 4.0, "frame": True}, ["at a shift of 10.8", " px, and 4 px were looked for", "--max-offset"]),
    ],
)  # fmt: skip
def test_the_cause_and_the_option_are_named(tmp_path, given, words):
    text = said(tmp_path, **given)
    assert [word for word in words if word not in text] == [], text
    assert "\n" not in text


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_nothing_is_said_where_the_images_show_no_cause(tmp_path, seed):
    assert said(tmp_path, sar=SAR if seed is None else textures(220, 200, seed)[1]) == ""
    assert said(tmp_path, sar=textures(220, 200, 3)[1], reach=None) == ""


def test_no_pose_is_asked_for_where_one_was_looked_for(tmp_path):
    assert said(tmp_path, sar=zoomed(1.5), frame=True, posed=True) == ""
