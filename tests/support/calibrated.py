"""Matches, fits and evidence as calibrations take them, and made-up samples whose truth is known."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from sn9reg.fit.choose import Fit
from sn9reg.fit.correspondences import Correspondences
from sn9reg.fit.warp import IDENTITY, Warp
from sn9reg.judge.evidence import NO_EVIDENCE
from sn9reg.judge.features import FEATURES, MATCH_FEATURES
from sn9reg.raster.grid import Grid
from sn9reg.training.calibrate import Sample, fit_matcher, fit_pair

SHARPNESS, DEVIATION, STANDING, PAIR = map(MATCH_FEATURES.index, ("sharpness", "deviation", "standing", "pair"))
METRES = CRS.from_epsg(32637)
GRID = Grid(Affine(0.5, 0, 435000, 0, -0.5, 4181000), 1000, 1000, METRES)
FOOTPRINT = 96.0  # pixels
WIDTH = {"small": 1.2, "large": 9.0}  # footprints side by side
NOTHING = Fit(IDENTITY, np.zeros(0, bool), math.nan, {}, reason="nothing")


def matches_of(n, seed=0, step=1.0, across=9.0):
    random = np.random.default_rng(seed)
    xy, ones = random.random((n, 2)), np.ones(n)
    if n > 1:
        xy = (xy - xy.min(axis=0)) / np.ptp(xy, axis=0)
    xy = 50 + across * FOOTPRINT * xy
    there = xy + [12, -7] + random.normal(0, 1, (n, 2)) * step
    low, high = np.sort(random.random((2, n)), axis=0)
    score = random.random(n)
    return Correspondences(GRID, xy, there, score, step * ones, low, high, there, 40.0, step, FOOTPRINT, max(n, 1))


def fit_of(matches):
    def error(xy):
        return matches.step * (0.5 + (xy[:, 0] - 435000) / 500)

    warp = Warp("translation", lambda xy: xy + np.array([6.0, 3.5]), error)
    return Fit(warp, np.ones(len(matches), bool), 1.0, {"translation": 1.0})


def evidence_of(n=9, level=4.0, seed=0):
    random = np.random.default_rng(seed)
    places, standing = random.uniform(50, 950, (n, 2)), level + random.normal(0, 0.5, n)
    return replace(NO_EVIDENCE, optical_xy=places, standing=standing, lead=level) if n else NO_EVIDENCE


def scale(places, size):
    """Made-up truth: the standard deviation of the matches around a place."""
    return np.exp(0.6 * np.sin(2 * np.pi * places[:, 0] / (WIDTH[size] * FOOTPRINT)))


def map_sigma(places, size):
    """The same of the map: matches of a small scene share their error, those of a large one average out."""
    return {"small": 1.2, "large": 0.6}[size] * scale(places, size)


def sample(random, right, size, n=200):
    level = 1.0 if right else -1.0
    pair = 2 + level * 1.5 + random.normal(0, 1.0, (1, len(FEATURES["pair"])))
    at, places = random.uniform(0, WIDTH[size] * FOOTPRINT, (2, n, 2))
    inputs = random.normal(0, 0.3, (n, len(MATCH_FEATURES)))
    inputs[:, SHARPNESS] += np.log(scale(at, size))
    inputs[:, DEVIATION] = np.abs(random.normal(0, 0.6, n))
    inputs[:, STANDING] += 5 if right else 0
    inputs[:, PAIR] = 0
    sigma = np.exp(inputs[:, SHARPNESS] + 0.7 * inputs[:, DEVIATION] + (0.5 if size == "large" else 0.1))
    off, raw, true = random.rayleigh(sigma), np.exp(random.normal(0, 0.3, n)), random.rayleigh(map_sigma(places, size))
    if not right:
        off, places, raw, true = np.full(n, np.inf), places[:0], raw[:0], true[:0]
    large = float(size == "large")
    inliers = random.random(n) < 0.8
    return Sample(right, large, large, WIDTH[size], pair, inputs, off, at, inliers, FOOTPRINT, 4.0, places, raw, true)


def samples(seed, count=80):
    random = np.random.default_rng(seed)
    return [sample(random, k % 2 == 0, "large" if k % 4 < 2 else "small") for k in range(count)]


@lru_cache
def made_up(count=240):
    """The model of pairs and the calibration that are fitted to made-up samples."""
    pair = fit_pair(samples(0, count))
    return pair, fit_matcher("structure", samples(0, count), pair, {"pairs": count})


def of(size, made):
    return [s for s in made if s.large == (size == "large")]
