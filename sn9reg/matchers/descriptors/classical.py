"""What OpenCV has for photographs, keypoints and descriptors of contrast: the rivals in tables of He et al., "Deep
convolutional network based on attention mechanism for matching optical and SAR images". Matched as theirs are, within
what `max_offset` allows, by the adaptive ratio and RANSAC."""

import math
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch.nn.functional import normalize

from sn9reg import progress
from sn9reg.matchers.descriptors.describe import NOTHING, Band, Described, tiles
from sn9reg.matchers.descriptors.matcher import DescriptorMatcher, sar_log
from sn9reg.options import Count, MaxOffset, check, options
from sn9reg.raster.grid import Window
from sn9reg.raster.radiometry import fill_invalid, optical_grey, standardise
from sn9reg.raster.scene import ScenePair, SceneView

_MARGIN = 48  # pixels around a tile that its keypoints may need
_EDGE = 5  # pixels that keypoints keep from what is not valid
_DEVIATIONS = 3.0  # of the grey values that become black and white


@options
class ClassicalOptions:
    """Options of the matchers by OpenCV. Those that stay as they are say what `DescriptorMatcher` does more."""

    near: bool = True  # partners are looked for within max_offset; else everywhere
    max_offset: MaxOffset = 150.0  # largest shift looked for, metres
    max_points: Count = 4000  # optical keypoints, about
    mutual: bool = True  # a match must be the nearest from either side
    adaptive: bool = True  # matches must pass the adaptive ratio
    apart: Annotated[float, Ge(0)] = 8.0  # pixels of the level within which a SAR keypoint is no rival of another
    threshold: Annotated[float, Gt(0), Le(1e6)] = 5.0  # of RANSAC: an inlier lies no farther off, pixels of the level
    pose: ClassVar[str] = "none"
    refine: ClassVar[bool] = False


class ClassicalMatcher(DescriptorMatcher):
    """A subclass gives `name` and `detector`."""

    Options: Any = ClassicalOptions

    def __init__(self, **options: Any) -> None:
        self.options: Any = check(ClassicalOptions, options, f"matcher {self.name!r}")
        self.own_weights = False
        self.detector()  # what is not installed is known at once

    def detector(self) -> Any:
        """OpenCV's, with `detectAndCompute`."""
        raise NotImplementedError

    def described(self, posed: ScenePair, factor: int, radius: float) -> tuple[Described, Described]:
        """As in `DescriptorMatcher`."""
        inner, outer, more = self.windows(posed, factor, radius)
        count = self.options.max_points
        with progress.part(0.1, 0.5):
            optical = self._keypoints(posed.optical, optical_grey, inner, factor, count)
        with progress.part(0.5, 1.0):
            return optical, self._keypoints(posed.sar, sar_log(posed), outer, factor, round(more * count))

    def _keypoints(self, scene: SceneView, grey: Band, window: Window, factor: int, count: int) -> Described:
        """About `count`, the strongest of each tile, in pixels of the common grid coarsened by `factor`."""
        detector, found = self.detector(), []
        for tile in tiles(window):
            around = tile.grow(_MARGIN)
            patch = scene.read(around, factor)
            near, inside = np.ones((2 * _EDGE + 1,) * 2, np.uint8), np.zeros(patch.valid.shape, np.uint8)
            middle = np.s_[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
            inside[middle] = cv2.erode(patch.valid.astype(np.uint8), near, borderValue=0)[middle]
            if not inside.any():
                continue
            image = standardise(fill_invalid(grey(patch.values), patch.valid), patch.valid) / (2 * _DEVIATIONS) + 0.5
            points, vectors = detector.detectAndCompute(np.uint8(np.clip(image, 0, 1) * 255), inside)
            share = math.ceil(count * tile.width * tile.height / (window.width * window.height))
            best = np.argsort([-point.response for point in points], kind="stable")[:share]
            if len(best):
                xy = np.array([points[k].pt for k in best]) + np.array([around.col, around.row])
                found.append((xy, _unit(vectors[best])))
        if not found:
            return NOTHING
        places, descriptors = zip(*found, strict=True)
        return Described(np.concatenate(places), torch.cat(descriptors)[None])


def _unit(vectors: Any) -> torch.Tensor:
    """(N, D) of length 1, whose distances order as OpenCV's do: Euclid's of numbers, Hamming's of packed bits."""
    values = vectors if vectors.dtype == np.float32 else np.unpackbits(vectors, axis=1) * np.float32(2) - 1
    return normalize(torch.from_numpy(values), dim=1)
