"""correspondences: shapes checked at birth, choosing, and the adaptive ratio against its formula."""

import dataclasses

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS

from sn9reg.fit.correspondences import Correspondences, adaptive_ratio, joined
from sn9reg.raster.grid import Grid

GRID = Grid(Affine(2.0, 0, 435000, 0, -2.0, 4181000), 300, 200, CRS.from_epsg(32637))
POINTS = ("optical_xy", "sar_xy", "solo_xy")
VALUES = ("score", "sigma", "distance", "rival_distance", "vote_shift")


def matches(n=6, **given):
    random = np.random.default_rng(0)
    fields = {name: random.uniform(0, 200, (n, 2)) for name in POINTS}
    fields |= {name: random.uniform(0.1, 1, n) for name in VALUES}
    return Correspondences(GRID, **(fields | given), search_radius=40.0, step=2.0, footprint=64.0, tried=10)


@pytest.mark.parametrize(
    ("names", "value"),
    [(POINTS, bad) for bad in (np.zeros((5, 2)), np.zeros((6, 3)), np.full((6, 2), np.nan), np.full((6, 2), -np.inf))]
    + [(VALUES, np.zeros(shape)) for shape in ((5,), (6, 1))],
)
def test_arrays_of_another_shape_or_with_places_that_are_not_finite_are_refused_by_name(names, value):
    for name in names:
        with pytest.raises(ValueError, match=": expected" if len(value) != 6 else f"^{name}: expected 6"):
            matches(**{name: value})


@pytest.mark.parametrize("chosen", [np.array([True, False, True, True, False, False]), np.array([3, 0])])
def test_keep_chooses_every_field_and_leaves_the_rest(chosen):
    whole = matches()
    part = whole.keep(chosen)
    per_match = {f.name for f in dataclasses.fields(whole) if isinstance(getattr(whole, f.name), np.ndarray)}
    assert per_match == {*POINTS, *VALUES, "source"}
    for name in (*POINTS, *VALUES):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[chosen])
    for name in ("grid", "search_radius", "step", "footprint", "tried"):
        assert getattr(part, name) == getattr(whole, name)
    assert len(whole) == 6
    unmoved = matches(vote_shift=np.zeros(0))  # without a vote, no match moved
    np.testing.assert_array_equal(unmoved.vote_shift, np.zeros(6))
    assert len(unmoved.keep(chosen).vote_shift) == len(part)


def test_map_coordinates_are_those_of_pixel_centres():
    found = matches(1, optical_xy=np.array([[0.0, 0.0]]), sar_xy=np.array([[10.0, 4.5]]))
    np.testing.assert_allclose(found.optical_map, [[435001, 4180999]])
    np.testing.assert_allclose(found.sar_map, [[435021, 4180990]])


def test_adaptive_ratio_by_hand():
    gaps = np.array([0.1, 0.2, 0.3, 0.4, 0.0, 0.2])  # their mean is 0.2
    found = adaptive_ratio(matches(distance=np.full(6, 0.5), rival_distance=0.5 + gaps))
    np.testing.assert_array_equal(found[[0, 2, 3, 4]], [False, True, True, False])
    assert adaptive_ratio(matches(0)).shape == (0,)


def test_sources_that_are_joined_keep_their_own_and_are_apart_again():
    one, none = matches(), matches(0)
    other = dataclasses.replace(matches(4), step=3.0, footprint=9.0, search_radius=7.0, tried=5)
    whole = joined({"one": one, "none": none, "other": other})
    assert (len(whole), whole.tried, whole.step, whole.footprint, len(whole.lead)) == (10, 25, 2.0, 64.0, 6)
    kept = whole.keep(np.array([1, 9, 6]))
    assert kept.source.tolist() == [0, 2, 2]
    for part, expected in zip(kept.parts().values(), (one.keep([1]), none, other.keep([3, 0])), strict=True):
        for field in dataclasses.fields(part):
            np.testing.assert_equal(getattr(part, field.name), getattr(expected, field.name))
    # Each source's gaps are compared with its own.
    wide, narrow = (matches(6, distance=np.zeros(6), rival_distance=k * np.arange(6) / 10) for k in (1, 0.01))
    assert adaptive_ratio(joined({"wide": wide, "narrow": narrow})).tolist() == [False] * 3 + [True] * 3 + (
        [False] * 3 + [True] * 3
    )
    with pytest.raises(ValueError, match="source: expected 6"):
        matches(source=np.zeros(5, np.uint8))
