"""What of a scene is shown: the right part of it, in its place, before and after."""

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg.errors import InputError
from sn9reg.offsets import OffsetMap
from sn9reg.raster.grid import Grid, Window
from sn9reg.raster.scene import Scene
from sn9reg.report import views
from sn9reg.report.views import Files, Place, checkerboard, coarse_field, open_viewer, places_of_interest, webp


def constant(grid, dx, dy, *more):
    """The map of the same offset everywhere."""
    values = np.array([dx, dy, *more], np.float32)[:, None, None]
    return OffsetMap(grid, lambda window: np.broadcast_to(values, (len(values), *window.shape)), sigma=len(values) == 3)


def ramp(grid):
    """The map that says at every pixel where it is: dx is the column, dy the row."""

    def read(window):
        y, x = np.mgrid[window.row : window.row + window.height, window.col : window.col + window.width]
        return np.stack([x, y]).astype(np.float32)

    return OffsetMap(grid, read)


GRID = Grid(TEXTURE_TRANSFORM, 320, 280, UTM)


@pytest.fixture
def files(tmp_path):
    """Two images of one texture, displaced by SHIFT."""
    optical, sar = textures()
    paths = [tmp_path / "optical.tif", tmp_path / "sar.tif"]
    for path, image in zip(paths, (optical, np.exp(sar / 40)), strict=True):
        write_raster(path, image[None].astype(np.float32), TEXTURE_TRANSFORM, UTM)
    return Files(*map(str, paths))


def correlation(a, b):
    known = a.any(axis=2) & b.any(axis=2)
    assert known.mean() > 0.5
    return float(np.corrcoef(a[known, 0], b[known, 0])[0, 1])


@pytest.mark.parametrize(("size", "factor"), [((9, 7), 1), ((9, 7), 2), ((16, 8), 4), ((5, 13), 8)])
def test_a_coarse_field_holds_the_middles(size, factor):
    field = coarse_field(ramp(Grid.pixel_frame(*size)), factor)
    assert field.shape == (2, -(-size[1] // factor), -(-size[0] // factor))
    y, x = np.indices(field.shape[1:])
    np.testing.assert_array_equal(field[0], np.minimum(x * factor + factor // 2, size[0] - 1))
    np.testing.assert_array_equal(field[1], np.minimum(y * factor + factor // 2, size[1] - 1))


def test_it_is_read_row_by_row():
    seen = []

    def read(window):
        seen.append(window)
        return np.zeros((2, *window.shape), np.float32)

    coarse_field(OffsetMap(Grid.pixel_frame(3000, 2000), read), 4)
    assert max(window.width * window.height for window in seen) == 3000


def test_a_map_without_any_offset_is_refused():
    with pytest.raises(InputError, match=r"mine\.tif: holds no offset, only NaN"):
        coarse_field(OffsetMap(GRID, lambda w: np.full((2, *w.shape), np.nan, np.float32), name="mine.tif"), 2)


@pytest.mark.parametrize("side", [1, 900, 1800, 1801, 13000, 40000])
def test_an_overview_is_small_and_not_too_small(side):
    factor = views.overview_factor(Grid.pixel_frame(side, 5))
    assert side / factor <= 1800
    assert factor == 1 or side / factor > 900


@pytest.mark.parametrize(("factor", "alike"), [(1, 0.98), (2, 0.98), (4, 0.92)])  # coarse pixels are fewer to blend
def test_after_shows_what_optical_shows_and_before_does_not(files, factor, alike):
    offsets = constant(GRID, *SHIFT)
    field = coarse_field(offsets, factor)
    with open_viewer(files, offsets, field) as viewer:
        view = viewer.overview(field, factor)
    assert view.optical.shape == view.before.shape == view.after.shape == (280 // factor, 320 // factor, 3)
    assert view.window == GRID.window
    assert correlation(view.optical, view.after) > alike
    assert correlation(view.optical, view.before) < 0.6


def test_it_is_in_place_to_a_fraction_of_a_pixel(files):
    field = coarse_field(constant(GRID, *SHIFT), 1)
    found = {}
    for dx in (-0.5, 0.0, 0.5):
        offsets = constant(GRID, SHIFT[0] + dx, SHIFT[1])
        with open_viewer(files, offsets, field) as viewer:
            view = viewer.zoom(Place("here", 150, 150))
        found[dx] = correlation(view.optical, view.after)
    assert found[0.0] > max(found[-0.5], found[0.5])
    assert found[0.5] == pytest.approx(found[-0.5], abs=0.01)


@pytest.mark.parametrize(
    ("place", "corner"), [((150, 140), (50, 40)), ((0, 0), (0, 0)), ((319, 279), (120, 80)), ((-50, 500), (0, 80))]
)
def test_a_place_is_shown_in_the_middle_or_as_near_to_it_as_can_be(files, monkeypatch, place, corner):
    monkeypatch.setattr(views, "ZOOM_SIDE", 200)
    offsets = constant(GRID, *SHIFT)
    with open_viewer(files, offsets, coarse_field(offsets, 4)) as viewer:
        view = viewer.zoom(Place("here", *place))
        whole = viewer.overview(coarse_field(offsets, 1), 1)
    assert view.window == Window(*corner, 200, 200)
    part = np.s_[corner[1] : corner[1] + 200, corner[0] : corner[0] + 200]
    np.testing.assert_array_equal(view.optical, whole.optical[part])
    np.testing.assert_array_equal(view.before, whole.before[part])
    np.testing.assert_array_equal(view.after, whole.after[part])


def test_what_lies_beyond_the_optical_image_is_pulled_in(tmp_path):
    """The SAR image reaches farther than the optical one: its offsets lead there, and there it is."""
    optical, sar = textures()
    transform = TEXTURE_TRANSFORM * Affine.translation(40, 30)
    write_raster(tmp_path / "o.tif", optical[None, 30:250, 40:280].astype(np.float32), transform, UTM)
    write_raster(tmp_path / "s.tif", np.exp(sar[None] / 40).astype(np.float32), TEXTURE_TRANSFORM, UTM)
    grid = Grid(transform, 240, 220, UTM)
    offsets = constant(grid, *SHIFT)
    field = coarse_field(offsets, 1)
    with open_viewer(Files(str(tmp_path / "o.tif"), str(tmp_path / "s.tif")), offsets, field) as viewer:
        view = viewer.overview(field, 1)
    assert view.after.any(axis=2).all()
    assert correlation(view.optical, view.after) > 0.98


def test_images_on_different_grids_meet_on_the_optical_one(tmp_path):
    """The optical image in degrees, twice as fine; the SAR image in metres."""
    optical, sar = textures()
    finer = np.kron(optical, np.ones((2, 2)))[None].astype(np.float32)
    wgs = CRS.from_epsg(4326)
    corners = Grid(TEXTURE_TRANSFORM, 320, 280, UTM)
    ends = corners.map_to_crs(corners.to_map(np.array([[-0.5, -0.5], [319.5, 279.5]])), wgs)
    step = (ends[1] - ends[0]) / (640, 560)
    transform = Affine(step[0], 0, ends[0, 0], 0, step[1], ends[0, 1])
    write_raster(tmp_path / "o.tif", finer, transform, wgs)
    write_raster(tmp_path / "s.tif", np.exp(sar[None] / 40).astype(np.float32), TEXTURE_TRANSFORM, UTM)
    grid = Grid(transform, 640, 560, wgs)
    offsets = constant(grid, 2 * SHIFT[0], 2 * SHIFT[1])
    field = coarse_field(offsets, 1)
    with open_viewer(Files(str(tmp_path / "o.tif"), str(tmp_path / "s.tif")), offsets, field) as viewer:
        view = viewer.zoom(Place("here", 320, 280))
    assert correlation(view.optical, view.after) > 0.9
    assert correlation(view.optical, view.before) < 0.6


def test_pixels_without_an_offset_are_black_after(files):
    holes = np.zeros((2, 280, 320), np.float32)
    holes[:, 100:150, 50:90] = np.nan
    offsets = OffsetMap(GRID, lambda w: holes[:, w.row : w.row + w.height, w.col : w.col + w.width])
    field = coarse_field(offsets, 1)
    with open_viewer(files, offsets, field) as viewer:
        view = viewer.overview(field, 1)
    assert not view.after[100:150, 50:90].any()
    np.testing.assert_array_equal(view.after.any(axis=2), np.isfinite(holes[0]))
    assert view.before.any(axis=2).all()


def test_wild_offsets_ask_for_no_more_than_there_is(files):
    """A map of any maker may hold anything."""
    offsets = constant(GRID, 1e7, -1e7)
    field = coarse_field(offsets, 1)
    with open_viewer(files, offsets, field) as viewer:
        view = viewer.overview(field, 1)
    assert not view.after.any()
    assert view.optical.any()


def test_one_wild_offset_does_not_make_the_rest_unbearable(files, monkeypatch):
    """Nothing larger is read than the picture and a bounded rim, and the other pixels are shown as ever."""
    monkeypatch.setattr(views, "_SPREAD", 50)
    field = np.broadcast_to(np.array(SHIFT, np.float32)[:, None, None], (2, 280, 320)).copy()
    field[:, 7, 9] = 1e6
    offsets = OffsetMap(GRID, lambda w: field[:, w.row : w.row + w.height, w.col : w.col + w.width])
    asked = []
    original = Scene.read
    with open_viewer(files, offsets, coarse_field(offsets, 1)) as viewer:
        monkeypatch.setattr(Scene, "read", lambda *a: (asked.append(a[1]), original(*a))[1])
        view = viewer.overview(field, 1)
    assert max(window.width for window in asked) == 320 + 2 * 50
    assert not view.after[7, 9].any()
    assert correlation(view.optical, view.after) > 0.98


def test_large_offsets_are_followed_though_they_differ_little(tmp_path, monkeypatch):
    """What bounds the rim is how offsets differ, not how long they are."""
    monkeypatch.setattr(views, "_SPREAD", 20)
    optical, sar = textures()
    write_raster(tmp_path / "o.tif", optical[None].astype(np.float32), TEXTURE_TRANSFORM, UTM)
    wide = np.zeros((1, 280, 1300), np.float32)
    wide[0, :, 150:470] = np.exp(sar / 40)
    write_raster(tmp_path / "s.tif", wide, TEXTURE_TRANSFORM, UTM, nodata=0)
    offsets = constant(GRID, SHIFT[0] + 150, SHIFT[1])
    field = coarse_field(offsets, 1)
    with open_viewer(Files(str(tmp_path / "o.tif"), str(tmp_path / "s.tif")), offsets, field) as viewer:
        view = viewer.overview(field, 1)
    assert correlation(view.optical, view.after) > 0.98


def test_valid_pixels_are_never_black_and_others_are(tmp_path):
    optical, sar = (image.astype(np.float32) for image in textures())
    optical[:50], sar[:, :40] = 0, 0
    write_raster(tmp_path / "o.tif", optical[None], TEXTURE_TRANSFORM, UTM, nodata=0)
    write_raster(tmp_path / "s.tif", sar[None], TEXTURE_TRANSFORM, UTM, nodata=0)
    offsets = constant(GRID, 0, 0)
    field = coarse_field(offsets, 1)
    with open_viewer(Files(str(tmp_path / "o.tif"), str(tmp_path / "s.tif")), offsets, field) as viewer:
        view = viewer.overview(field, 1)
    np.testing.assert_array_equal(view.optical.any(axis=2), optical > 0)
    np.testing.assert_array_equal(view.after.any(axis=2), sar > 0)
    np.testing.assert_array_equal(views.shown_in(view), (optical > 0) & (sar > 0))


@pytest.mark.parametrize(("bands", "coloured"), [(1, False), (2, False), (3, True), (4, True)])
def test_three_bands_are_colours(tmp_path, bands, coloured):
    optical, sar = textures()
    random = np.random.default_rng(0)
    layers = np.stack([optical * random.uniform(5, 200) + 40 * k * (optical % 7) for k in range(bands)])
    write_raster(tmp_path / "o.tif", layers.astype(np.uint16), TEXTURE_TRANSFORM, UTM)
    write_raster(tmp_path / "s.tif", sar[None], TEXTURE_TRANSFORM, UTM)
    offsets = constant(GRID, *SHIFT)
    field = coarse_field(offsets, 1)
    with open_viewer(Files(str(tmp_path / "o.tif"), str(tmp_path / "s.tif")), offsets, field) as viewer:
        shown = viewer.overview(field, 1).optical
    assert (np.ptp(shown.astype(int), axis=2) > 2).any() == coloured
    assert np.ptp(shown) > 200


def test_places_of_interest_are_where_the_map_says_and_both_images_show_something():
    field = np.zeros((3, 10, 12), np.float32)
    field[0, 2, 3], field[0, 0, 0] = 50, 90
    field[2, 7, 8], field[2, 9, 11] = 5, 9
    known = np.ones((10, 12), bool)
    known[0, 0] = known[9, 11] = False
    found = {place.name: (place.x, place.y) for place in places_of_interest(field, 4, known)}
    assert found["the largest offset"] == (3.5 * 4 - 0.5, 2.5 * 4 - 0.5)
    assert found["where the map is least sure"] == (8.5 * 4 - 0.5, 7.5 * 4 - 0.5)
    assert np.hypot(*(np.array(found["the middle"]) - (23.5, 19.5))) < 4


def test_without_sigma_nothing_is_least_sure_and_without_overlap_nothing_is_of_interest():
    field = np.ones((2, 4, 4), np.float32)
    assert [place.name for place in places_of_interest(field, 1, np.ones((4, 4), bool))] == [
        "the middle", "the largest offset",
    ]  # fmt: skip
    assert list(places_of_interest(field, 1, np.zeros((4, 4), bool))) == []


def test_a_checkerboard_has_tiles_of_both(files):
    offsets = constant(GRID, *SHIFT)
    field = coarse_field(offsets, 1)
    with open_viewer(files, offsets, field) as viewer:
        view = viewer.overview(field, 1)
    board = checkerboard(view, view.after, tiles=4)
    np.testing.assert_array_equal(board[:80, :80], view.optical[:80, :80])
    np.testing.assert_array_equal(board[:80, 80:160], view.after[:80, 80:160])
    np.testing.assert_array_equal(board[80:160, :80], view.after[80:160, :80])
    np.testing.assert_array_equal(board[80:160, 80:160], view.optical[80:160, 80:160])


def test_webp_keeps_the_colours():
    import cv2

    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :30, 0] = 250
    picture[:, 30:, 2] = 250
    again = cv2.imdecode(np.frombuffer(webp(picture), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(again[:, 5:25].astype(int) - picture[:, 5:25]).mean() < 12
    assert np.abs(again[:, 35:55].astype(int) - picture[:, 35:55]).mean() < 12
