"""What is true of every matcher's correspondences."""

import dataclasses

import numpy as np

from sn9reg.fit.correspondences import Correspondences


def arrays_of(matches):
    return {f.name: v for f in dataclasses.fields(matches) if isinstance(v := getattr(matches, f.name), np.ndarray)}


def check(matches, grid):
    """What is true of all correspondences."""
    assert isinstance(matches, Correspondences)
    assert matches.grid == grid
    assert len(matches) <= matches.tried
    assert ((matches.optical_xy >= 0) & (matches.optical_xy <= [grid.width - 1, grid.height - 1])).all()
    assert ((matches.score >= 0) & (matches.score <= 1)).all()
    assert (matches.sigma > 0).all()
    assert (matches.rival_distance >= matches.distance).all()
    assert matches.step >= 1
    assert matches.footprint >= matches.step
    assert matches.search_radius > 0
    for key, values in arrays_of(matches).items():
        assert values.dtype == (np.uint8 if key == "source" else np.float64), key
        assert np.isfinite(values).all(), key
