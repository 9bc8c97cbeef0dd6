"""sn9reg.register on scenes as others deliver them: in another CRS, turned, half empty, without declared nodata."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import Resampling, calculate_default_transform, reproject
from support.rasters import write_raster

from sn9reg import register
from sn9reg.errors import ConfigError, InputError

# Neither the network nor the finest level is the subject here, nor a search far beyond what is to be found (29 m).
QUICK = {"matcher": "structure", "matcher_options": {"work_megapixels": 0.06, "max_offset": 35.0}}


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def offsets_of(registration):
    return registration.offsets().read(registration.optical.window)


def mean_distance(offsets, others, where=slice(None)):
    return float(np.hypot(*(offsets[:2] - others[:2]))[where].mean())


@pytest.fixture(scope="module")
def truth(scene):
    return read(scene.offsets)


def test_another_crs_turned_gives_right_offsets_too(scene, truth, tmp_path):
    """The SAR image in longitude and latitude, turned by 25 degrees, as float with NaN for no data."""
    with rasterio.open(scene.sar) as sar:
        wgs84 = CRS.from_epsg(4326)
        upright, width, height = calculate_default_transform(sar.crs, wgs84, sar.width, sar.height, *sar.bounds)
        side = int(np.hypot(width, height)) + 2
        middle = Affine.translation(width / 2, height / 2)
        turned = upright @ middle @ Affine.rotation(25) @ Affine.translation(-side / 2, -side / 2)
        values = np.zeros((side, side), np.float32)
        reproject(sar.read(1), values, src_transform=sar.transform, src_crs=sar.crs, src_nodata=0, dst_crs=wgs84,
                  dst_transform=turned, dst_nodata=np.nan, resampling=Resampling.cubic)  # fmt: skip
    assert np.isnan(values).any()
    registration = register(scene.optical, write_raster(tmp_path / "s.tif", values[None], turned, wgs84), **QUICK)
    assert registration.registered, registration.verdict.reason
    assert mean_distance(offsets_of(registration), truth) < 0.15 * mean_distance(truth, 0 * truth)


def test_a_sar_image_half_beyond_the_slanting_edge_of_its_swath(scene, truth, tmp_path):
    with rasterio.open(scene.sar) as sar:
        row, col = np.indices(sar.shape)
        values = np.where(col + 0.3 * row > 0.65 * sar.width, 0, sar.read())
        path = write_raster(tmp_path / "s.tif", values, sar.transform, sar.crs, nodata=0)
    registration = register(scene.optical, path, **QUICK)
    assert registration.registered, registration.verdict.reason
    xy = np.rint(registration.tiepoints().optical_xy[registration.fit.inliers]).astype(int)
    there = (np.clip(xy[:, 1], 0, truth.shape[1] - 1), np.clip(xy[:, 0], 0, truth.shape[2] - 1))
    assert mean_distance(offsets_of(registration), truth, there) < 0.15 * mean_distance(truth, 0 * truth)


def test_the_registration_carries_its_evidence(scene, truth):
    registration = register(scene.optical, scene.sar, model="affine", **QUICK)
    assert registration.registered
    assert registration.warp.model == registration.facts()["model"] == "affine"
    assert set(registration.fit.held_out) == {"translation", "affine", "local"}
    assert len(registration.tiepoints()) == len(registration.matches) == registration.verdict.matches
    assert (registration.optical.shape, registration.grid.crs) == (truth.shape[1:], registration.optical.crs)
    expected = registration.as_dict()
    assert expected["sar_scale"] == registration.facts()["sar_scale"] == "linear, judged by the values"
    assert expected["expected_error_px"] * registration.optical.resolution == pytest.approx(
        expected["expected_error_m"]
    )
    error = np.median(np.hypot(*(offsets_of(registration) - truth)))
    assert 0.1 < error / registration.expected_error_px < 10


def test_a_matcher_may_be_an_object_and_how_the_sar_values_were_taken_is_said(small_pair, small_registration):
    class Known:
        name = "known"

        def match(self, pair):
            assert pair.optical.name == "o.tif"
            return small_registration.matches

    with rasterio.open("s.tif", "r+") as sar:
        sar.units = ("dB",)
    assert register("o.tif", "s.tif", matcher=Known()).sar_scale == "dB, as the file says"
    with pytest.raises(ConfigError, match=r"'Affine'.* auto, translation, affine, homography, local"):
        register("o.tif", "s.tif", matcher=Known(), model="Affine")


def test_several_sources_are_told_apart_in_facts_and_tiepoints_and_one_that_fails_is_named(
    small_files, tmp_path, caplog
):
    options = {"max_offset": 10.0, "mcgf.weights": str(tmp_path / "none.safetensors")}
    found = register(*small_files, matcher=["structure", "ncc", "mcgf"], matcher_options=options)
    assert found.registered, found.verdict.reason
    assert "mcgf failed: " in caplog.text
    table = found.tiepoints().table()
    assert set(table["source"]) <= {"structure", "ncc"}
    counts = table.groupby("source")["inlier"].agg(["size", "sum"])
    given = found.as_dict()["sources"]
    assert list(given) == ["structure", "ncc", "mcgf"]
    assert given["structure"] == {"matches": counts["size"]["structure"], "inliers": counts["sum"]["structure"]}
    assert given["mcgf"] is None
    facts = found.facts()
    assert facts["matcher"] == "structure+ncc+mcgf"
    share = given["structure"]["inliers"] / found.verdict.inliers
    assert facts["sources"].startswith(f"structure {share:.0%}, ncc ")
    assert facts["sources"].endswith(", mcgf failed")
    filtered = register(*small_files, matcher="structure+ncc", matcher_options={"max_offset": 10.0}, ratio_filter=True)
    assert filtered.matches.tried < found.matches.tried


def test_how_the_images_are_read_reaches_the_files(small_files):
    with pytest.raises(InputError, match="has no band 9"):
        register(*small_files, matcher="structure", sar_bands=[9])
