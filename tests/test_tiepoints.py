"""Tie-points: what is read, what is refused and how, and that each format gives back what was written."""

import json
import math

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from support.rasters import UTM

from sn9reg.errors import InputError
from sn9reg.raster.grid import Grid
from sn9reg.tiepoints import COLUMNS, TiePoints, read_tiepoints, write_tiepoints

OPTICAL = Grid(Affine(0.5, 0, 600000, 0, -0.5, 4100000), 300, 200, UTM)
SAR = Grid(Affine(0.8, 0.1, 600010, 0.1, -0.8, 4099990), 180, 150, UTM)
SAR_DEGREES = Grid(Affine(1e-5, 0, 40.0, 0, -1e-5, 37.0), 180, 150, CRS.from_epsg(4326))


@pytest.fixture
def tiepoints():
    rng = np.random.default_rng(0)
    xy = (rng.uniform(0, [grid.width - 1, grid.height - 1], (20, 2)) for grid in (OPTICAL, SAR))
    sigma = np.where(np.arange(20) == 3, np.nan, rng.random(20))
    return TiePoints(*xy, score=rng.random(20), sigma=sigma, inlier=rng.random(20) > 0.3)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_csv_in_any_order_with_extras_bom_and_blank_lines(tmp_path):
    text = "\ufeff\noptical_col, sar_row,name,optical_row,sar_col\r\n\r\n1,2,x,3,4.5\n,,,,\n5,6,,7,8\n\n"
    read = read_tiepoints(write(tmp_path / "t.csv", text), OPTICAL, SAR)
    assert read.optical_xy.tolist() == [[1, 3], [5, 7]]
    assert read.sar_xy.tolist() == [[4.5, 2], [8, 6]]
    assert (read.score, read.inlier) == (None, None)


def test_csv_writes_spacenet_columns_first_and_whole_numbers(tmp_path):
    points = TiePoints(np.array([[1.0, 2], [3, 4]]), np.array([[5.0, 6.25], [7, 8]]), inlier=np.array([True, False]))
    write_tiepoints(tmp_path / "t.csv", points, OPTICAL, SAR)
    expected = "sar_row,sar_col,optical_row,optical_col,inlier\n6.25,5,2,1,1\n8.0,7,4,3,0\n"
    assert (tmp_path / "t.csv").read_text() == expected


@pytest.mark.parametrize("sar", [SAR, SAR_DEGREES])
@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".points"])
def test_round_trip(tmp_path, tiepoints, suffix, sar):
    path = tmp_path / f"t{suffix}"
    write_tiepoints(path, tiepoints, OPTICAL, sar)
    read = read_tiepoints(path, OPTICAL, sar)
    np.testing.assert_array_equal(read.inlier, tiepoints.inlier)
    if suffix == ".points":  # through map coordinates
        np.testing.assert_allclose(read.optical_xy, tiepoints.optical_xy, atol=1e-9)
        np.testing.assert_allclose(read.sar_xy, tiepoints.sar_xy, atol=1e-6)
    else:
        assert read.table().equals(tiepoints.table())


HEAD = ",".join(COLUMNS)


def drawn(*line, kind="LineString", **more):
    """GeoJSON of one line, without properties."""
    return json.dumps({"features": [{"geometry": {"type": kind, "coordinates": line}}]} | more)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" \n\n", "is empty"),
        (f"{HEAD}\n", "no tie-points"),
        ("sar_row,sar_col,optical_row\n1,2,3\n", "has no column optical_col"),
        ("sar_row;sar_col;optical_row;optical_col\n1;2;3;4\n", "has no column sar_row, sar_col"),
        (f"{HEAD}\n1,2,3,4\n\n1,two,3,4\n", "line 4: sar_col is 'two', not a number"),
        (f"{HEAD}\n1,2,nan,4\n", "line 2: optical_row is nan, not a finite number"),
        (f"{HEAD}\n1,2,3\n", "line 2: optical_col is missing"),
        (f"{HEAD}\n1,2,3,4\n1,2,3,300\n", "line 3: row 3, column 300 lies outside the op"),
        (f"{HEAD}\n-1,2,3,4\n", "line 2: row -1, column 2 lies outside the SAR image"),
        (f"{HEAD},score\n1,2,3,4,good\n", "line 2: score is 'good'"),
        ("{", "is no GeoJSON"),
        ('{"features": 3}', "is no GeoJSON"),
        ('{"features": []}', "no tie-points"),
        ('{"features": [{"geometry": null}]}', "feature 1: is no line"),
        ("[" * 100_000, "is no GeoJSON"),
        (drawn([1, 2], [10**400, 3]), "feature 1: is no line"),
        (json.dumps({"features": [{"properties": dict.fromkeys(COLUMNS, 10**400)}]}), "000, not a finite number"),
        (drawn([40, 37], [40, 95]), "feature 1: 40, 95 in EPSG:4326 is no place that exists in EPSG:32637"),
        (drawn([40, math.nan], [40, 37]), "feature 1: 40, nan in EPSG:4326 is no place"),
        (drawn([4e5, 4e6], [4e5, 4e6]), "feature 1: 400000, 4000000 in EPSG:4326 is no place"),
        (drawn([1, 2], [3, 4], crs={"properties": {"name": "EPSG:99"}}), "crs: 'EPSG:99' is no CRS"),
        (drawn([1, 2], [3, 4], crs={"properties": {"name": "http://localhost/4326"}}), "is no CRS"),
        (drawn([1, 2], [3, 4], crs={"properties": {"name": [1]}}), "'list' is no CRS"),
        (drawn([1, 2], [3, 4], crs={"type": "link"}), "is no GeoJSON"),
        (json.dumps({"features": [{"properties": {key: {} for key in COLUMNS}}]}), "is 'dict', not a number"),
    ],
)
def test_errors_name_the_place(tmp_path, text, said):
    name = "t.geojson" if text.startswith(("[", "{")) else "t.csv"
    with pytest.raises(InputError, match=name) as caught:
        read_tiepoints(write(tmp_path / name, text), OPTICAL, SAR)
    assert said in str(caught.value)


def test_a_folder_cannot_be_read_and_a_file_is_replaced_where_that_is_asked_for(tmp_path, tiepoints):
    with pytest.raises(InputError, match="cannot be read"):
        read_tiepoints(tmp_path, OPTICAL, SAR)
    path = write(tmp_path / "t.csv", "mine")
    write_tiepoints(path, tiepoints, OPTICAL, SAR, overwrite=True)
    assert len(read_tiepoints(path, OPTICAL, SAR)) == 20


def test_geojson_is_rfc_7946_and_may_be_lines_that_someone_drew_from_optical_to_sar(tmp_path, tiepoints):
    write_tiepoints(tmp_path / "t.geojson", tiepoints, OPTICAL, SAR_DEGREES)
    content = json.loads((tmp_path / "t.geojson").read_text())
    assert "crs" not in content
    lonlat = OPTICAL.map_to_crs(OPTICAL.to_map(tiepoints.optical_xy[:1]), CRS.from_epsg(4326))[0]
    expected = [lonlat, SAR_DEGREES.to_map(tiepoints.sar_xy[:1])[0]]
    np.testing.assert_allclose(content["features"][0]["geometry"]["coordinates"], expected, atol=1e-9)
    assert content["features"][3]["properties"]["sigma"] is None
    for feature in content["features"]:
        feature["properties"] = None
    path = write(tmp_path / "drawn.geojson", json.dumps(content))
    read = read_tiepoints(path, OPTICAL, SAR_DEGREES)
    np.testing.assert_allclose(read.optical_xy, tiepoints.optical_xy, atol=1e-3)
    np.testing.assert_allclose(read.sar_xy, tiepoints.sar_xy, atol=1e-3)
    with pytest.raises(InputError, match=r"feature 1: has no .* without both rasters' CRS"):
        read_tiepoints(path, FRAME, FRAME)


def test_points_of_a_pixel_frame(tmp_path, tiepoints):
    optical, sar = Grid.pixel_frame(300, 200), Grid.pixel_frame(180, 150)
    write_tiepoints(tmp_path / "t.points", tiepoints, optical, sar)
    assert (tmp_path / "t.points").read_text().startswith("mapX,")
    np.testing.assert_allclose(read_tiepoints(tmp_path / "t.points", optical, sar).sar_xy, tiepoints.sar_xy)


def test_points_as_qgis_writes_them(tmp_path):
    write_tiepoints(tmp_path / "t.points", TiePoints(np.array([[4.0, 9]]), np.array([[0.0, 0]])), OPTICAL, SAR)
    crs, header, row = (tmp_path / "t.points").read_text().splitlines()
    assert crs.startswith("#CRS: PROJCS")
    assert header == "mapX,mapY,sourceX,sourceY,enable,dX,dY,residual"
    values = [float(v) for v in row.split(",")]
    np.testing.assert_allclose(values, [600010.45, 4099989.65, 600002.25, 4099995.25, 1, 0, 0, 0])


DEGREES = Grid(Affine(1e-5, 0, 100, 0, -1e-5, -30), 300, 200, CRS.from_epsg(4326))  # 100 and 30 are pixels, too
PLANE = Grid(Affine(0.4, 0, 0, 0, -0.4, 0), 300, 200, CRS.from_wkt('LOCAL_CS["mine",UNIT["metre",1]]'))
FRAME = Grid.pixel_frame(300, 200)


@pytest.mark.parametrize("optical", [OPTICAL, DEGREES, PLANE, FRAME])
@pytest.mark.parametrize("columns", ["sourceX,sourceY", "pixelX,pixelY"])
def test_points_of_every_qgis(tmp_path, optical, columns):
    """Map coordinates or pixels, of an image that may hold both as either: what fits the SAR places is meant."""
    xy = np.array([[10.0, 20], [120, 60], [200, 110], [250, 190]])
    sar = optical.coarsen(2)
    places = sar.to_map((xy + np.array([12, -7])) / 2)
    for source in (optical.to_map(xy), (xy + 0.5) * [1, -1])[optical is FRAME :]:
        rows = [",".join(f"{v!r}" for v in row) + ",1" for row in np.column_stack([places, source]).tolist()]
        path = write(tmp_path / "t.points", "\n".join([f"mapX,mapY,{columns},enable", *rows]))
        np.testing.assert_allclose(read_tiepoints(path, optical, sar).optical_xy, xy, atol=1e-5)


def test_geojson_lines_may_have_parts_and_a_crs_of_their_own(tmp_path):
    start, end = OPTICAL.to_map(np.array([[30.0, 40]])), SAR.to_map(np.array([[10.0, 20]]))
    parts = [[*start.tolist(), [0, 0]], [[5, 5], *end.tolist()]]
    named = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32637"}}
    path = write(tmp_path / "t.geojson", drawn(*parts, kind="MultiLineString", crs=named))
    read = read_tiepoints(path, OPTICAL, SAR)
    np.testing.assert_allclose(read.optical_xy, [[30, 40]], atol=1e-6)
    np.testing.assert_allclose(read.sar_xy, [[10, 20]], atol=1e-6)


def test_points_in_another_crs_old_names_and_map_sources(tmp_path):
    lonlat = SAR.map_to_crs(SAR.to_map(np.array([[10.0, 20]])), CRS.from_epsg(4326))[0].tolist()
    east, north = OPTICAL.to_map(np.array([[30.0, 40]]))[0]
    text = f"#CRS: EPSG:4326\nmapX,mapY,pixelX,pixelY,enable\n{lonlat[0]!r},{lonlat[1]!r},{east},{north},0\n"
    read = read_tiepoints(write(tmp_path / "t.points", text), OPTICAL, SAR)
    np.testing.assert_allclose(read.sar_xy, [[10, 20]], atol=1e-3)
    np.testing.assert_allclose(read.optical_xy, [[30, 40]])
    assert read.inlier.tolist() == [False]
    for crs, place, source, words in (
        ("no", "600010,4099990", "1", "is no CRS"),
        ("http://localhost/32637", "600010,4099990", "1", "is no CRS"),
        ("EPSG:32637", "600010,4099990", "x", "line 3: sourceX is 'x'"),
        ("EPSG:4326", "40,37,9,-9,1\n40,95", "1", r"t\.points, line 4: 40, 95 in EPSG:4326 is no place"),
    ):
        text = f"#CRS: {crs}\nmapX,mapY,sourceX,sourceY,enable\n{place},{source},-1,1\n"
        with pytest.raises(InputError, match=words):
            read_tiepoints(write(tmp_path / "t.points", text), OPTICAL, SAR)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"sar_xy": np.zeros((2, 2))}, "sar_xy"), ({"optical_xy": np.full((3, 2), np.nan)}, "optical_xy")]
    + [({name: np.zeros(2)}, name) for name in ("score", "sigma", "inlier", "source")],
)
def test_shapes_are_checked_at_birth(change, name):
    with pytest.raises(InputError, match=name):
        TiePoints(**({"optical_xy": np.zeros((3, 2)), "sar_xy": np.zeros((3, 2))} | change))
