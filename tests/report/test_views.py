"""What of a scene is shown: the right part of it, in its place, before and after."""

import base64
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from support.grids import constant, offsets_of
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg.offsets import OffsetMap
from sn9reg.raster.grid import Grid, Window
from sn9reg.raster.scene import PairFiles, Scene
from sn9reg.report import views
from sn9reg.report.views import Place, View, checkerboard, coarse_field, open_viewer, places_of_interest, uri

GRID = Grid(TEXTURE_TRANSFORM, 320, 280, UTM)
RIGHT = constant(GRID, *SHIFT)


@pytest.fixture
def write(tmp_path):
    """Writes a pair: (h, w) or (bands, h, w) images, and the transform and CRS of the optical one."""

    def write_pair(optical, sar, transform=TEXTURE_TRANSFORM, crs=UTM, **options):
        for name, image, *place in (("o.tif", optical, transform, crs), ("s.tif", sar, TEXTURE_TRANSFORM, UTM)):
            image = image if image.ndim == 3 else image[None]
            write_raster(tmp_path / name, image.astype(np.float32), *place, **options)
        return PairFiles(tmp_path / "o.tif", tmp_path / "s.tif")

    return write_pair


@pytest.fixture
def files(write):
    """Two images of one texture, displaced by SHIFT."""
    optical, sar = textures()
    return write(optical, np.exp(sar / 40))


@contextmanager
def viewing(files, offsets, factor=1):
    """A viewer, and its view of the whole scene."""
    field = coarse_field(offsets, factor)
    with open_viewer(files, offsets, field) as viewer:
        yield viewer, viewer.overview(field, factor)


def whole(files, offsets, factor=1):
    with viewing(files, offsets, factor) as (_, view):
        return view


def correlation(a, b):
    known = a.any(axis=2) & b.any(axis=2)
    assert known.mean() > 0.5
    return float(np.corrcoef(a[known, 0], b[known, 0])[0, 1])


@pytest.mark.parametrize(("size", "factor"), [((9, 7), 1), ((9, 7), 2), ((16, 8), 4), ((5, 13), 8)])
def test_a_coarse_field_holds_the_middles_and_is_read_row_by_row(size, factor):
    seen = []

    def read(window):
        """At every pixel where it is: dx is the column, dy the row."""
        seen.append(window.shape)
        y, x = np.mgrid[window.slices()]
        return np.stack([x, y]).astype(np.float32)

    field = coarse_field(OffsetMap(Grid.pixel_frame(*size), read), factor)
    assert set(seen) == {(1, size[0])}
    assert field.shape == (2, -(-size[1] // factor), -(-size[0] // factor))
    for middles, index, side in zip(field, np.indices(field.shape[1:])[::-1], size, strict=True):
        np.testing.assert_array_equal(middles, np.minimum(index * factor + factor // 2, side - 1))


def test_an_overview_is_small_and_not_too_small():
    sides = {1: 1, 900: 1, 1800: 1, 1801: 2, 13000: 8, 40000: 32}
    assert {side: views.overview_factor(Grid.pixel_frame(side, 5)) for side in sides} == sides


def test_after_shows_what_optical_shows_and_before_does_not(files):
    view = whole(files, RIGHT, 4)
    assert view.optical.shape == view.before.shape == view.after.shape == (280 // 4, 320 // 4, 3)
    assert view.window == GRID.window
    assert correlation(view.optical, view.after) > 0.92  # coarse pixels are fewer to blend
    assert correlation(view.optical, view.before) < 0.6


def test_it_is_in_place_to_a_fraction_of_a_pixel(files):
    shown = [whole(files, constant(GRID, SHIFT[0] + dx, SHIFT[1])) for dx in (-0.5, 0.0, 0.5)]
    left, here, right = (correlation(view.optical, view.after) for view in shown)
    assert here > max(left, right, 0.98)
    assert left == pytest.approx(right, abs=0.01)


def test_a_place_is_shown_in_the_middle_or_as_near_to_it_as_can_be(files, monkeypatch):
    monkeypatch.setattr(views, "ZOOM_SIDE", 200)
    corners = {(150, 140): (50, 40), (0, 0): (0, 0), (319, 279): (120, 80), (-50, 500): (0, 80)}
    with viewing(files, RIGHT) as (viewer, full):
        for place, (col, row) in corners.items():
            view = viewer.zoom(Place("here", *place))
            assert view.window == Window(col, row, 200, 200)
            for name in ("optical", "before", "after"):
                part = getattr(full, name)[row : row + 200, col : col + 200]
                np.testing.assert_array_equal(getattr(view, name), part)


def test_what_lies_beyond_the_optical_image_is_pulled_in(write):
    """The SAR image reaches farther than the optical one: its offsets lead there, and there it is."""
    optical, sar = textures()
    transform = TEXTURE_TRANSFORM * Affine.translation(40, 30)
    files = write(optical[30:250, 40:280], np.exp(sar / 40), transform)
    view = whole(files, constant(Grid(transform, 240, 220, UTM), *SHIFT))
    assert view.after.any(axis=2).all()
    assert correlation(view.optical, view.after) > 0.98


def test_images_on_different_grids_meet_on_the_optical_one(write):
    """The optical image in degrees, twice as fine; the SAR image in metres."""
    optical, sar = textures()
    wgs = CRS.from_epsg(4326)
    ends = GRID.map_to_crs(GRID.to_map(np.array([[-0.5, -0.5], [319.5, 279.5]])), wgs)
    step = (ends[1] - ends[0]) / (640, 560)
    transform = Affine(step[0], 0, ends[0, 0], 0, step[1], ends[0, 1])
    files = write(np.kron(optical, np.ones((2, 2))), np.exp(sar / 40), transform, wgs)
    with viewing(files, constant(Grid(transform, 640, 560, wgs), 2 * SHIFT[0], 2 * SHIFT[1])) as (viewer, _):
        view = viewer.zoom(Place("here", 320, 280))
    assert correlation(view.optical, view.after) > 0.9
    assert correlation(view.optical, view.before) < 0.6


def test_wild_offsets_do_not_make_the_rest_unbearable(files, monkeypatch):
    """Nothing larger is read than the picture and a bounded rim, and the other pixels are shown as ever."""
    assert not whole(files, constant(GRID, 1e7, -1e7)).after.any()
    monkeypatch.setattr(views, "_SPREAD", 50)
    field = RIGHT.read(GRID.window).copy()
    field[:, 7, 9] = 1e6
    asked, original = [], Scene.read
    with viewing(files, offsets_of(field, GRID)) as (viewer, _):
        monkeypatch.setattr(Scene, "read", lambda *a: (asked.append(a[1]), original(*a))[1])
        view = viewer.overview(field, 1)
    assert max(window.width for window in asked) == 320 + 2 * 50
    assert not view.after[7, 9].any()
    assert correlation(view.optical, view.after) > 0.98


def test_large_offsets_are_followed_though_they_differ_little(write, monkeypatch):
    """What bounds the rim is how offsets differ, not how long they are."""
    monkeypatch.setattr(views, "_SPREAD", 20)
    optical, sar = textures()
    wide = np.zeros((280, 1300))
    wide[:, 150:470] = np.exp(sar / 40)
    view = whole(write(optical, wide, nodata=0), constant(GRID, SHIFT[0] + 150, SHIFT[1]))
    assert correlation(view.optical, view.after) > 0.98


def test_valid_pixels_are_never_black_and_others_and_those_without_an_offset_are(write):
    optical, sar = textures()
    optical[:50], sar[:, :40] = 0, 0
    field = np.zeros((2, 280, 320), np.float32)
    field[:, 100:150, 50:90] = np.nan
    view = whole(write(optical, sar, nodata=0), offsets_of(field, GRID))
    after = (sar > 0) & np.isfinite(field[0])
    np.testing.assert_array_equal(view.optical.any(axis=2), optical > 0)
    np.testing.assert_array_equal(view.before.any(axis=2), sar > 0)
    np.testing.assert_array_equal(view.after.any(axis=2), after)
    np.testing.assert_array_equal(view.known, (optical > 0) & after)


@pytest.mark.parametrize(("bands", "coloured"), [(2, False), (4, True)])
def test_three_bands_are_colours(write, bands, coloured):
    optical, sar = textures()
    random = np.random.default_rng(0)
    layers = np.stack([optical * random.uniform(5, 200) + 40 * k * (optical % 7) for k in range(bands)])
    shown = whole(write(layers, sar), RIGHT).optical
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
    # Without sigma nothing is least sure, and without overlap nothing is of interest.
    assert [place.name for place in places_of_interest(field[:2], 4, known)] == ["the middle", "the largest offset"]
    assert list(places_of_interest(field, 4, np.zeros_like(known))) == []


def test_a_checkerboard_has_tiles_of_both():
    black, white = np.zeros((280, 320, 3), np.uint8), np.full((280, 320, 3), 255, np.uint8)
    board = checkerboard(View("all", GRID.window, 1, black, black, white), white, tiles=4)
    assert (board[:80, :80] == 0).all()
    assert (board[:80, 80:160] == 255).all()
    assert (board[80:160, :80] == 255).all()
    assert (board[80:160, 80:160] == 0).all()


def test_a_picture_of_a_page_keeps_the_colours_and_is_smaller_with_less_quality():
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :30, 0] = picture[:, 30:, 2] = 250
    content = base64.b64decode(uri(picture).removeprefix("data:image/webp;base64,"))
    again = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    assert np.abs(again - picture)[:, np.r_[5:25, 35:55]].mean() < 12
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    assert len(uri(noise, 10)) < 0.5 * len(uri(noise, 85))
