"""Figures: what stands where, and in which unit."""

import numpy as np
import pytest
from affine import Affine
from matplotlib.figure import Figure
from PIL import Image
from rasterio.crs import CRS
from support.rasters import UTM

from sn9reg.raster.grid import Grid, Window
from sn9reg.report import figures
from sn9reg.report.figures import Scale
from sn9reg.report.views import View
from sn9reg.tiepoints import TiePoints

SHAPE = (90, 120)
METRES = Scale("m", np.array([0.5, 0.25]), np.array([0.0, -1.0]))


@pytest.fixture(scope="module")
def view():
    optical, before, after = np.random.default_rng(0).integers(1, 255, (3, *SHAPE, 3), dtype=np.uint8)
    return View("all", Window(10, 20, 2 * SHAPE[1], 2 * SHAPE[0]), 2, optical, before, after)


@pytest.fixture
def axes(monkeypatch):
    """The axes of the figures that are drawn in a test, in few pixels; none is blank."""
    kept = []
    original = Figure.savefig

    def keep(self, target, **options):
        kept.extend(self.axes)
        original(self, target, **options)
        assert np.asarray(Image.open(target).convert("L")).std() > 5

    monkeypatch.setattr(Figure, "savefig", keep)
    monkeypatch.setattr(figures, "_DPI", 30)
    return kept


def quiver_of(axis):
    return next(c for c in axis.collections if hasattr(c, "U"))


@pytest.mark.parametrize(
    ("transform", "crs", "unit", "per_px", "north"),
    [
        (Affine(0.3, 0, 4e5, 0, -0.3, 4e6), UTM, "m", (0.3, 0.3), (0, -1)),
        (Affine(0.3, 0, 4e5, 0, 0.6, 4e6), UTM, "m", (0.3, 0.6), (0, 1)),
        (Affine(0, 0.3, 4e5, 0.3, 0, 4e6), UTM, "m", (0.3, 0.3), (1, 0)),
        (Affine.translation(4e5, 4e6) * Affine.rotation(30) * Affine.scale(2, -2), UTM, "m", (2, 2), (0.5, -0.8660254)),
        (Affine(1e-5, 0, 9, 0, -1e-5, 60), CRS.from_epsg(4326), "m", (0.558, 1.114), (0, -1)),
        (Affine.identity(), None, "px", (1, 1), None),
    ],
)
def test_a_pixel_is_worth_metres_and_the_north_is_somewhere(transform, crs, unit, per_px, north):
    scale = Scale.of(Grid(transform, 200, 100, crs))
    assert scale.unit == unit
    np.testing.assert_allclose(scale.per_px, per_px, rtol=5e-3)
    assert scale.north is None if north is None else scale.north == pytest.approx(north, abs=0.03)


@pytest.mark.parametrize(("length", "rounded"), [(1, 1), (1.9, 1), (49, 20), (50, 50), (0.7, 0.5)])
def test_scale_bars_are_round(length, rounded):
    assert figures._round_length(length) == pytest.approx(rounded)


def test_before_and_after_stand_side_by_side_the_same_each_time(view, axes):
    drawn = figures.before_and_after(view)
    assert [axis.get_title() for axis in axes] == [f"{when}: optical and SAR in turns" for when in ("before", "after")]
    assert not np.array_equal(*(axis.images[0].get_array() for axis in axes))
    assert figures.before_and_after(view) == drawn


def test_arrows_have_true_length_in_pixels_of_the_picture(view, axes):
    field = np.stack([np.full(SHAPE, 8.0), np.full(SHAPE, -4.0)]).astype(np.float32)
    field[:, :20] = np.nan
    figures.arrows(view, field, METRES)
    quiver = quiver_of(axes[0])
    assert (set(quiver.U), set(quiver.V)) == ({4.0}, {-2.0})
    assert (quiver.angles, quiver.scale_units, quiver.scale) == ("xy", "xy", 1)
    assert min(quiver.Y) >= 20


@pytest.mark.parametrize(("bands", "factors"), [(2, (0.5, 0.25)), (3, (0.5, 0.25, 0.125**0.5))])
def test_maps_are_in_metres_of_their_own_axis(view, axes, bands, factors):
    field = np.random.default_rng(1).normal(size=(bands, *SHAPE)).astype(np.float32)
    field[0], field[0, :30] = 0, np.nan
    figures.maps(view, field, METRES)
    panels = [axis for axis in axes if axis.get_title()]
    assert [panel.get_title().split()[0] for panel in panels] == ["dx", "dy", "sigma"][:bands]
    for panel, band, factor in zip(panels, field, factors, strict=True):
        np.testing.assert_allclose(panel.images[0].get_array().filled(np.nan), band * factor, rtol=1e-5)
        assert panel.get_title().endswith(", m")
        low, high = panel.images[0].get_clim()
        assert low == (0 if panel.get_title().startswith("sigma") else -high)


def test_matches_run_from_the_optical_place_to_the_sar_place(view, axes):
    start = np.array([[10.0, 20.0], [100.0, 60.0], [30.0, 40.0]])
    end = start + np.array([4.0, 2.0])
    figures.matches(view, TiePoints(start, end, inlier=np.array([True, False, True])), end, METRES)
    lines = {line.get_color(): line for line in axes[0].lines if len(line.get_xdata()) == 2}
    dots = {line.get_label(): line for line in axes[0].lines}
    assert {"1 outliers", "2 inliers"} <= set(dots)
    # Pixel (10, 20) is the first of the view; two of its pixels make one of the picture.
    for data in (dots["2 inliers"].get_xdata(), dots["2 inliers"].get_ydata()):
        np.testing.assert_allclose(data, [-0.25, 9.75])
    outlier = lines["#ff2d78"]
    np.testing.assert_allclose(np.diff([outlier.get_xdata(), outlier.get_ydata()]), [[2.0], [1.0]])


def test_matches_of_several_sources_have_a_colour_each(view, axes):
    start = np.random.default_rng(2).uniform(20, 180, (6, 2))
    source = np.array(["keypoints", "hybrid", "hybrid", "hybrid", "keypoints", "vismatch:roma"])
    figures.matches(view, TiePoints(start, start, inlier=np.arange(6) > 0, source=source), start + 3, METRES)
    dots = {line.get_label(): line.get_color() for line in axes[0].lines if not line.get_label().startswith("_")}
    assert list(dots) == ["1 outliers", "3 inliers, hybrid", "1 inliers, keypoints", "1 inliers, vismatch:roma"]
    assert len(set(dots.values())) == 4


def test_matches_of_one_kind_only_can_be_drawn_and_never_too_many(view, axes, monkeypatch):
    monkeypatch.setattr(figures, "_LINES", 50)
    start = np.random.default_rng(2).uniform(20, 180, (500, 2))
    figures.matches(view, TiePoints(start, start, inlier=np.zeros(500, bool)), start + 3, METRES)
    assert "500 outliers" in {line.get_label() for line in axes[0].lines}
    assert len(axes[0].lines) < 60


def test_residuals_are_counted_in_metres_and_drawn_five_times_too_long(view, axes):
    places = np.array([[20.0, 30.0], [60.0, 90.0], [100.0, 100.0]])
    error = np.array([[6.0, 0.0], [0.0, 8.0], [np.nan, 0.0]])
    figures.residuals(view, places, error, METRES)
    quiver = quiver_of(axes[0])
    np.testing.assert_allclose(np.stack([quiver.U, quiver.V], axis=1), [[3, 0], [0, 4]])
    assert quiver.scale == 0.2
    assert [line.get_label() for line in axes[1].lines] == ["median 2.50 m", "mean 2.50 m"]
    assert axes[1].get_title() == "2 tie-points"
    assert sum(patch.get_height() for patch in axes[1].patches) == 2
