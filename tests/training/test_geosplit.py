"""Manifests, the two protocols of the navigation paper, and windows of large rasters."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import RasterioIOError
from support.rasters import TEXTURE_TRANSFORM, UTM, write_raster

from sn9reg.errors import ConfigError, InputError
from sn9reg.training.geosplit import Acquisition, paired, parted, read_manifest, read_window

HEADER = "optical,sar,lon,lat,year,season"
PLACES = [(-4.5, 40.1), (2.3, 48.8), (13.4, 52.5), (21.0, 52.2)]
YEARS = (2018, 2020, 2022)
SEASONS = ("winter", "spring", "summer", "autumn")
TIMES = len(YEARS) * len(SEASONS)


def acquisition(place, year, season):
    stem = f"{place[0]}_{place[1]}_{year}_{season}"
    return Acquisition(Path(f"{stem}_opt.tif"), Path(f"{stem}_sar.tif"), *place, year, season)


ARCHIVE = [acquisition(place, year, season) for place in PLACES for year in YEARS for season in SEASONS]


def places_of(pairs):
    return {one.place for pair in pairs for one in pair}


def test_spatial_split_shares_no_location_and_has_every_combination():
    for pairs, places in zip(parted(ARCHIVE, 10, 0), (PLACES[2:], PLACES[:2]), strict=True):
        assert places_of(pairs) == set(places)
        assert len(set(pairs)) == len(pairs) == 2 * TIMES**2
        assert all(optical.place == sar.place for optical, sar in pairs)


def test_a_line_through_the_rounding_does_not_cut_a_location():
    """The same place, written with a little noise, on both sides of the line."""
    near = [acquisition((10.00002, 50.00001), 2018, "summer"), acquisition((9.99999, 50), 2020, "summer")]
    train, test = parted([*near, acquisition((5, 50), 2018, "summer")], 10, 0)
    assert (places_of(train), len(train)) == ({(10.0, 50.0)}, 4)
    assert places_of(test) == {(5.0, 50.0)}


@pytest.mark.parametrize("year", [2018, 2022])
def test_temporal_split_trains_on_one_year_and_tests_on_all_else(year):
    train, test = parted(ARCHIVE, None, year)
    assert {one.year for pair in train for one in pair} == {year}
    assert not any(optical.year == sar.year == year for optical, sar in test)
    assert len(train) == len(PLACES) * len(SEASONS) ** 2
    assert len(test) == len(PLACES) * (TIMES**2 - len(SEASONS) ** 2)
    assert places_of(train) == places_of(test) == set(PLACES)


def test_splits_that_leave_nothing():
    for acquisitions, longitude, year, words in (
        (ARCHIVE, 100, 2018, "training set is empty.* side of the longitude"),
        (ARCHIVE, np.nan, 2018, "test set is empty"),
        (ARCHIVE, None, 1999, r"training set is empty.* 1999"),
        (ARCHIVE[: len(SEASONS)], None, 2018, "test set is empty"),
    ):
        with pytest.raises(ConfigError, match=words):
            parted(acquisitions, longitude, year)


GOOD = "a_opt.tif,a_sar.tif,2.5,48.25,2018,summer"


def manifest(folder, *rows, header=HEADER):
    """Of these rows; the files a_opt.tif ... b_sar.tif are there."""
    for name in ("a_opt", "a_sar", "b_opt", "b_sar"):
        (folder / f"{name}.tif").touch()
    (folder / "manifest.csv").write_text("\n".join([header, *rows]))
    return folder / "manifest.csv"


def test_manifest_is_read(tmp_path):
    rows = read_manifest(manifest(tmp_path, GOOD, "", 'b_opt.tif, b_sar.tif ,"-2.5",-48,2020,Winter'))
    assert rows == [
        Acquisition(tmp_path / "a_opt.tif", tmp_path / "a_sar.tif", 2.5, 48.25, 2018, "summer"),
        Acquisition(tmp_path / "b_opt.tif", tmp_path / "b_sar.tif", -2.5, -48, 2020, "winter"),
    ]
    row, header = "summer,x,2018,48.25,2.5,a_sar.tif,a_opt.tif", "\ufeffseason,note,year,lat,lon,sar,optical"
    assert read_manifest(manifest(tmp_path, row, header=header)) == rows[:1], "in another order, with further columns"


def test_what_is_not_known_of_a_time_is_left_empty_and_in_neither_set_of_a_temporal_split(tmp_path):
    """Two images of one place and no known season are no repetition."""
    rows = read_manifest(manifest(tmp_path, "a_opt.tif,a_sar.tif,2,48,,", "b_opt.tif,b_sar.tif,2,48,2020,"))
    assert [(row.year, row.season) for row in rows] == [(None, None), (2020, None)]
    assert len(paired(rows)) == 4
    first = acquisition((2, 48), 2018, "summer")
    train, test = parted([*rows, first], None, 2018)
    assert (train, len(test)) == ([(first, first)], 3)
    assert all(None not in (optical.year, sar.year) for optical, sar in test)
    with pytest.raises(ConfigError, match="no acquisition's year is known"):
        parted(rows[:1], None, 2018)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x_opt.tif,b_sar.tif,2,48,2018,summer", "x_opt.tif: no such file"),
        ("b_opt.tif,b_sar.tif,181,48,2018,summer", "lon is '181'; input should be less than or equal to 180"),
        ("b_opt.tif,b_sar.tif,2,-91,2018,summer", "lat is '-91'; input should be greater than or equal to -90"),
        ("b_opt.tif,b_sar.tif,2,48,2018.5,summer", "year is '2018.5'; input should be a valid integer"),
        ("b_opt.tif,b_sar.tif,2,48,2018,monsoon", "season is 'monsoon'; input should be 'winter', 'spring'"),
        ("b_opt.tif,b_sar.tif,2,48,2018", "has no season"),
        ("b_opt.tif,b_sar.tif,2,,2018,", "has no lat"),
        (",b_sar.tif,2,48,2018,summer", "has no optical"),
        ("b_opt.tif,b_sar.tif,2,48,2018,summer,more", "more values than"),
        ("b_opt.tif,b_sar.tif,2.50001,48.25,2018,summer", "line 2 already has summer 2018 of this place"),
        ("a_opt.tif,b_sar.tif,9,48,2018,summer", "line 2 already has .*a_opt.tif"),
        ("b_opt.tif,a_sar.tif,2.5,48.25,2020,summer", "line 2 already has .*a_sar.tif"),
    ],
)
def test_rows_that_cannot_be_used_name_file_and_line(tmp_path, row, message):
    with pytest.raises(InputError, match=rf"manifest\.csv:3: .*{message}"):
        read_manifest(manifest(tmp_path, GOOD, row))


def test_manifests_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        read_manifest(tmp_path / "none.csv")
    for content, words in (
        (b"optical,sar,lon,year\na,b,2,2018", r"bad\.csv:1: has no column lat, season"),
        (b"", "has no column"),
        (HEADER.encode(), "lists no acquisitions"),
        (bytes(range(128, 256)), "cannot be read"),
    ):
        (tmp_path / "bad.csv").write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_manifest(tmp_path / "bad.csv")


def raster(path, values, **options):
    blocks = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    return write_raster(path, values, TEXTURE_TRANSFORM, UTM, **blocks, **options)


def coordinates(width=300, height=200):
    """(2, h, w): every pixel holds its column and its row."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)


def pair(optical, sar):
    """The optical image of one time, the SAR image of another."""
    nothing = Path("unused")
    return Acquisition(optical, nothing, 2, 48, 2018, "summer"), Acquisition(nothing, sar, 2, 48, 2020, "winter")


def window(files, size, sar_band=1, seed=0):
    return read_window(files, size, sar_band, np.random.default_rng(seed))


@pytest.fixture
def large(tmp_path):
    """Optical: of four bands the first three hold the column. SAR: decibels, VV the row below 0, VH something else."""
    x, y = coordinates()
    optical = raster(tmp_path / "opt.tif", np.stack([x, x - 1, x + 1, 0 * x]))
    return pair(optical, raster(tmp_path / "sar.tif", np.stack([-y, y + 1000])))


def test_windows_are_raw_and_of_one_place(large):
    corners = set()
    for seed in range(20):
        optical, sar = window(large, 64, seed=seed)
        assert optical.dtype == sar.dtype == np.float32
        col, row = int(optical[0, 0, 0]), int(-sar[0, 0, 0])
        x, y = coordinates()[:, None, row : row + 64, col : col + 64]
        np.testing.assert_array_equal(optical, np.concatenate([x, x - 1, x + 1]))
        np.testing.assert_array_equal(sar, -y)
        corners.add((col, row))
    assert len(corners) > 15
    assert (window(large, 64, sar_band=2)[1] >= 1000).all()


def test_only_the_window_is_read(large):
    """What lies elsewhere may be wrecked."""
    before, file = window(large, 32), large[1].sar
    content, far = bytearray(file.read_bytes()), 4 if before[0][0, 0, 0] < 128 else 0
    with rasterio.open(file) as dataset:
        tags = (f"BLOCK_OFFSET_{far}_0", f"BLOCK_SIZE_{far}_0")
        place, size = (int(dataset.get_tag_item(tag, "TIFF", bidx=1)) for tag in tags)
    content[place : place + size] = bytes(size)
    file.write_bytes(content)
    with rasterio.open(file) as dataset, pytest.raises(RasterioIOError):
        dataset.read()
    np.testing.assert_array_equal(window(large, 32)[1], before[1])


def test_invalid_pixels_get_the_windows_mean(tmp_path):
    """Of a window that is the whole raster."""
    optical, sar = coordinates(64, 64)[:, None]
    optical[:, :, :16] = -9999
    sar[:, :32] = np.nan
    files = pair(raster(tmp_path / "opt.tif", optical, nodata=-9999), raster(tmp_path / "sar.tif", sar))
    windows = window(files, 64)
    np.testing.assert_allclose(windows[0][0, :, :16], optical[:, :, 16:].mean())
    np.testing.assert_allclose(windows[1][0, :32], sar[:, 32:].mean())
    np.testing.assert_array_equal(windows[1][0, 32:], sar[0, 32:])
    raster(tmp_path / "sar.tif", np.full_like(sar, np.nan))
    assert (window(files, 64)[1] == 0).all()


def test_pairs_and_windows_that_cannot_be_used(large, tmp_path):
    small, broken = raster(tmp_path / "small.tif", coordinates(200, 200)), tmp_path / "broken.tif"
    broken.write_bytes(large[1].sar.read_bytes()[: large[1].sar.stat().st_size // 4])
    for files, size, band, words in (
        (pair(large[0].optical, small), 64, 1, r"small\.tif 200 x 200 px: a pair must lie on one pixel grid"),
        (large, 256, 1, "300 x 200 px, smaller than a window of 256 px"),
        (pair(tmp_path / "none.tif", small), 64, 1, "no such file"),
        (large, 64, 3, "has no band 3"),
        (pair(large[0].optical, broken), 200, 1, r"broken\.tif"),
    ):
        with pytest.raises(InputError, match=words):
            window(files, size, band)
