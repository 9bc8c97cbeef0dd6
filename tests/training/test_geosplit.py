"""Manifests, the two protocols of the navigation paper, and windows of large rasters."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.errors import RasterioIOError
from support.rasters import TEXTURE_TRANSFORM, UTM, write_raster
from torch.utils.data import DataLoader

from sn9reg.errors import ConfigError, InputError
from sn9reg.training.geosplit import (
    SEASONS,
    Acquisition,
    GeoSplit,
    PairRef,
    read_manifest,
    spatial_split,
    temporal_split,
)

HEADER = "optical,sar,lon,lat,year,season"
PLACES = [(-4.5, 40.1), (2.3, 48.8), (13.4, 52.5), (21.0, 52.2)]
YEARS = (2018, 2020, 2022)


def acquisition(place, year, season):
    stem = f"{place[0]}_{place[1]}_{year}_{season}"
    return Acquisition(Path(f"{stem}_opt.tif"), Path(f"{stem}_sar.tif"), *place, year, season)


@pytest.fixture
def archive():
    """Four places, three years, four seasons."""
    return [acquisition(place, year, season) for place in PLACES for year in YEARS for season in SEASONS]


def places_of(pairs):
    return {(pair.lon, pair.lat) for pair in pairs}


def test_spatial_split_shares_no_location_and_has_every_combination(archive):
    train, test = spatial_split(archive, longitude=10)
    assert places_of(train) == {PLACES[2], PLACES[3]}
    assert places_of(test) == {PLACES[0], PLACES[1]}
    times = len(YEARS) * len(SEASONS)
    for pairs in (train, test):
        assert len(set(pairs)) == len(pairs) == 2 * times**2
        assert set(Counter((p.lon, p.lat) for p in pairs).values()) == {times**2}
        assert len({(p.optical_time, p.sar_time) for p in pairs}) == times**2
    files = [{file for p in pairs for file in (p.optical, p.sar)} for pairs in (train, test)]
    assert not files[0] & files[1]


def test_pairs_name_the_files_of_their_times(archive):
    for pair in spatial_split(archive, longitude=10)[0][::7]:
        assert pair.optical.name == f"{pair.lon}_{pair.lat}_{pair.optical_time[0]}_{pair.optical_time[1]}_opt.tif"
        assert pair.sar.name == f"{pair.lon}_{pair.lat}_{pair.sar_time[0]}_{pair.sar_time[1]}_sar.tif"


@pytest.mark.parametrize("region", [(0, 45, 15, 55), [(0, 45), (15, 45), (15, 55), (0, 55)], np.array([0, 45, 15, 55])])
def test_the_region_is_tested(archive, region):
    train, test = spatial_split(archive, region=region)
    assert places_of(test) == {PLACES[1], PLACES[2]}
    assert places_of(train) == {PLACES[0], PLACES[3]}


def test_a_polygon_is_more_than_its_box(archive):
    _, test = spatial_split(archive, region=[(-10, 30), (30, 60), (-10, 60)])
    assert places_of(test) == set(PLACES[:3])  # the box around it holds all four


def test_a_line_through_the_rounding_does_not_cut_a_location():
    """The same place, written with a little noise, on both sides of the line."""
    near = [acquisition((10.00002, 50.00001), 2018, "summer"), acquisition((9.99999, 50), 2020, "summer")]
    train, test = spatial_split([*near, acquisition((5, 50), 2018, "summer")], longitude=10)
    assert places_of(train) == {(10.0, 50.0)}
    assert len(train) == 4
    assert places_of(test) == {(5.0, 50.0)}


def test_temporal_split_trains_on_one_year_and_tests_on_all_else(archive):
    train, test = temporal_split(archive)
    assert {pair.optical_time[0] for pair in train} == {pair.sar_time[0] for pair in train} == {2018}
    assert not any(pair.optical_time[0] == pair.sar_time[0] == 2018 for pair in test)
    seasons, times = len(SEASONS), len(YEARS) * len(SEASONS)
    assert len(train) == len(PLACES) * seasons**2
    assert len(test) == len(PLACES) * (times**2 - seasons**2)
    assert places_of(train) == places_of(test) == set(PLACES)
    assert {(2018, 2020), (2020, 2018)} <= {(p.optical_time[0], p.sar_time[0]) for p in test}
    assert {p.optical_time[0] for p in temporal_split(archive, year=2022)[0]} == {2022}


def test_splits_that_leave_nothing(archive):
    with pytest.raises(ConfigError, match="training set is empty"):
        spatial_split(archive, longitude=100)
    with pytest.raises(ConfigError, match="test set is empty"):
        spatial_split(archive, region=(100, 0, 101, 1))
    with pytest.raises(ConfigError, match=r"training set is empty.* 1999"):
        temporal_split(archive, year=1999)
    with pytest.raises(ConfigError, match="test set is empty"):
        temporal_split([a for a in archive if a.year == 2018])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"longitude": 1, "region": (0, 0, 1, 1)},
        {"longitude": np.nan},
        {"region": (5, 0, 1, 1)},
        {"region": (0, 0, 1)},
        {"region": [(0, 0), (1, 1)]},
        {"region": [(0, 0), (1, 1), (2,)]},
        {"region": (0, 0, np.nan, 1)},
    ],
)
def test_split_options_that_make_no_sense(archive, options):
    with pytest.raises(ConfigError, match=r"longitude|region|box"):
        spatial_split(archive, **options)


@pytest.fixture
def manifest(tmp_path):
    """Writes rows under a header, or a text; the files a_opt.tif ... c_sar.tif are there."""
    for name in ("a", "b", "c"):
        for kind in ("opt", "sar"):
            (tmp_path / f"{name}_{kind}.tif").touch()

    def write(*rows, header=HEADER):
        path = tmp_path / "manifest.csv"
        path.write_text("\n".join([header, *rows]))
        return path

    return write


GOOD = "a_opt.tif,a_sar.tif,2.5,48.25,2018,summer"


def test_manifest_is_read(manifest, tmp_path):
    rows = read_manifest(manifest(GOOD, "", 'b_opt.tif, b_sar.tif ,"-2.5",-48,2020,Winter'))
    assert rows == [
        Acquisition(tmp_path / "a_opt.tif", tmp_path / "a_sar.tif", 2.5, 48.25, 2018, "summer"),
        Acquisition(tmp_path / "b_opt.tif", tmp_path / "b_sar.tif", -2.5, -48, 2020, "winter"),
    ]
    assert rows[1].time == (2020, "winter")


def test_order_and_further_columns_do_not_matter(manifest):
    path = manifest("summer,x,2018,48,2.5,a_sar.tif,a_opt.tif", header="\ufeffseason,note,year,lat,lon,sar,optical")
    assert read_manifest(path)[0].optical.name == "a_opt.tif"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x_opt.tif,b_sar.tif,2,48,2018,summer", "x_opt.tif: no such file"),
        ("b_opt.tif,x_sar.tif,2,48,2018,summer", "x_sar.tif: no such file"),
        ("b_opt.tif,b_sar.tif,181,48,2018,summer", "lon 181 must lie between -180 and 180"),
        ("b_opt.tif,b_sar.tif,2,-91,2018,summer", "lat -91 must lie between -90 and 90"),
        ("b_opt.tif,b_sar.tif,nan,48,2018,summer", "lon nan must lie"),
        ("b_opt.tif,b_sar.tif,east,48,2018,summer", "lon 'east' is not a number"),
        ("b_opt.tif,b_sar.tif,2,48,2018.5,summer", "year '2018.5' is not an integer"),
        ("b_opt.tif,b_sar.tif,2,48,2018,monsoon", "season 'monsoon' is none of winter, spring, summer, autumn"),
        ("b_opt.tif,b_sar.tif,2,48,2018", "has no season"),
        (",b_sar.tif,2,48,2018,summer", "has no optical"),
        ("b_opt.tif,b_sar.tif,2,48,2018,summer,more", "more values than"),
        (GOOD, "line 2 already has summer 2018 of this place"),
        ("b_opt.tif,b_sar.tif,2.50001,48.25,2018,summer", "line 2 already has summer 2018 of this place"),
        ("a_opt.tif,b_sar.tif,9,48,2018,summer", "a_opt.tif already stands in line 2"),
        ("b_opt.tif,a_sar.tif,2.5,48.25,2020,summer", "a_sar.tif already stands in line 2"),
    ],
)
def test_rows_that_cannot_be_used_name_file_and_line(manifest, row, message):
    with pytest.raises(InputError) as caught:
        read_manifest(manifest(GOOD, row))
    assert "manifest.csv:3: " in str(caught.value)
    assert message in str(caught.value)


def test_manifests_that_cannot_be_used(manifest, tmp_path):
    with pytest.raises(InputError, match=r"manifest\.csv:1: has no column lat, season"):
        read_manifest(manifest("a,b,2,2018", header="optical,sar,lon,year"))
    with pytest.raises(InputError, match="lists no acquisitions"):
        read_manifest(manifest())
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match="has no column"):
        read_manifest(tmp_path / "empty.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "binary.csv")


def raster(path, values, **options):
    return write_raster(
        path, values, TEXTURE_TRANSFORM, UTM, tiled=True, blockxsize=64, blockysize=64, compress="deflate", **options
    )


def coordinates(width=300, height=200):
    """(2, h, w): every pixel holds its column and its row."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)


def pair(optical, sar):
    return PairRef(optical, sar, 2.0, 48.0, (2018, "summer"), (2018, "summer"))


@pytest.fixture
def large(tmp_path):
    """Optical: three bands whose mean is the column. SAR: decibels, VV the row below 0, VH something else."""
    x, y = coordinates()
    optical = raster(tmp_path / "opt.tif", np.stack([x - 1, x, x + 1]))
    return pair(optical, raster(tmp_path / "sar.tif", np.stack([-y, y + 1000])))


def test_windows_are_raw_and_of_one_place(large):
    data = GeoSplit([large] * 20, 64)
    corners = set()
    for optical, sar in (data[i] for i in range(len(data))):
        assert optical.shape == sar.shape == (1, 64, 64)
        assert optical.dtype == sar.dtype == torch.float32
        col, row = int(optical[0, 0, 0]), int(-sar[0, 0, 0])
        x, y = coordinates()[:, row : row + 64, col : col + 64]
        np.testing.assert_allclose(optical[0], x, rtol=1e-6)
        np.testing.assert_array_equal(sar[0], -y)
        corners.add((col, row))
    assert len(corners) > 15
    assert (GeoSplit([large], 64, sar_band=2)[0][1] >= 1000).all()


def test_places_follow_seed_epoch_and_index(large):
    data, other = GeoSplit([large] * 3, 64), GeoSplit([large] * 3, 64, seed=1)
    first = [data[i][0][0, 0, 0].item() for i in range(3)]
    assert first == [item[0][0, 0, 0].item() for item in data]
    assert data[-1][0].equal(data[2][0])
    assert first != [item[0][0, 0, 0].item() for item in other]
    data.set_epoch(1)
    assert first != [item[0][0, 0, 0].item() for item in data]
    data.set_epoch(0)
    assert first == [item[0][0, 0, 0].item() for item in data]
    with pytest.raises(IndexError):
        data[3]
    assert pickle.loads(pickle.dumps(large)) == large


def test_workers_that_outlive_an_epoch_hear_of_the_next(large):
    data = GeoSplit([large] * 4, 64)
    loader = DataLoader(data, batch_size=4, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        (batch,) = list(loader)
        assert batch[0].equal(torch.stack([data[i][0] for i in range(4)]))


def test_a_window_of_the_whole_raster(tmp_path):
    values = coordinates(64, 64)[:1]
    files = pair(raster(tmp_path / "opt.tif", values), raster(tmp_path / "sar.tif", values))
    optical, _ = GeoSplit([files], 64)[0]
    np.testing.assert_array_equal(optical, values)


def test_only_the_window_is_read(large, monkeypatch):
    """Of rasters read by window, what lies elsewhere may be wrecked."""
    col = int(GeoSplit([large], 32)[0][0][0, 0, 0])
    content = bytearray(large.sar.read_bytes())
    with rasterio.open(large.sar) as dataset:
        far = 4 if col < 128 else 0
        place = int(dataset.get_tag_item(f"BLOCK_OFFSET_{far}_0", "TIFF", bidx=1))
        size = int(dataset.get_tag_item(f"BLOCK_SIZE_{far}_0", "TIFF", bidx=1))
    assert size > 0
    before = GeoSplit([large], 32)[0][1]
    content[place : place + size] = bytes(size)
    large.sar.write_bytes(content)
    with rasterio.open(large.sar) as dataset, pytest.raises(RasterioIOError):
        dataset.read()
    assert GeoSplit([large], 32)[0][1].equal(before)


def test_invalid_pixels_get_the_windows_mean(tmp_path):
    optical, sar = coordinates(64, 64)[:1].copy(), coordinates(64, 64)[1:].copy()
    optical[:, :, :16] = -9999
    sar[:, :32] = np.nan
    files = pair(raster(tmp_path / "opt.tif", optical, nodata=-9999), raster(tmp_path / "sar.tif", sar))
    windows = GeoSplit([files], 64)[0]
    np.testing.assert_allclose(windows[0][0, :, :16], optical[:, :, 16:].mean())
    np.testing.assert_allclose(windows[1][0, :32], sar[:, 32:].mean())
    np.testing.assert_array_equal(windows[1][0, 32:], sar[0, 32:])
    write_raster(tmp_path / "sar.tif", np.full_like(sar, np.nan), TEXTURE_TRANSFORM, UTM)
    assert (GeoSplit([files], 64)[0][1] == 0).all()


def test_pairs_that_cannot_be_used(large, tmp_path):
    small = raster(tmp_path / "small.tif", coordinates(200, 200))
    with pytest.raises(InputError, match=r"small\.tif 200 x 200 px: a pair must lie on one pixel grid"):
        GeoSplit([pair(large.optical, small)], 64)[0]
    with pytest.raises(InputError, match="300 x 200 px, smaller than a window of 256 px"):
        GeoSplit([large], 256)[0]
    with pytest.raises(InputError, match="no such file"):
        GeoSplit([pair(tmp_path / "none.tif", small)], 64)[0]
    with pytest.raises(InputError, match="has no band 3"):
        GeoSplit([large], 64, sar_band=3)[0]
    broken = tmp_path / "broken.tif"
    broken.write_bytes(large.sar.read_bytes()[: large.sar.stat().st_size // 4])
    with pytest.raises(InputError, match=r"broken\.tif"):
        [GeoSplit([pair(large.optical, broken)], 128, seed=seed)[0] for seed in range(5)]


@pytest.mark.parametrize(("pairs", "size", "seed"), [([], 64, 0), ([None], 0, 0), ([None], 64, -1)])
def test_datasets_that_make_no_sense(pairs, size, seed):
    with pytest.raises(ConfigError, match="needs a size"):
        GeoSplit(pairs, size, seed)
