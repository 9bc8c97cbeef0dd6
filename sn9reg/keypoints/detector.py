"""A detector let loose on many places of a scene pair."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from sn9reg import progress
from sn9reg.grid import Points
from sn9reg.keypoints.crops import Crop, Cropper
from sn9reg.keypoints.heatmap import read_keypoints
from sn9reg.networks.heatmap_unet import HeatmapUNet
from sn9reg.radiometry import Image

Floats = npt.NDArray[np.float64]

_MIN_VALID = 0.4  # share of either tile's pixels
_STRUCTURE = 0.04  # share of the variance that must be left after smoothing; of white noise 0.014 is
_SMOOTH = 2.25  # pixels


@dataclass(frozen=True)
class Found:
    """What a detector found for N places. xy: (N, 2) keypoints, pixels of the level, in the scene that was searched.
    middle: (N, 2) pixels that lay in the middle of the other scene's tiles: those nearest to the places asked for.
    height, rival, spread: (N,) of the peaks, see `Keypoints`. usable: (N,) whether there was something to look at."""

    xy: Points
    middle: Points
    height: Floats
    rival: Floats
    spread: Floats
    usable: npt.NDArray[np.bool_]


class Detector:
    """subpixel: see `read_keypoints`. structure: places around which either image is but noise are not looked at.
    batch: tiles at once."""

    def __init__(self, network: HeatmapUNet, subpixel: bool = True, structure: bool = True, batch: int = 16) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.eval().to(self.device).to(memory_format=torch.channels_last)
        self.subpixel, self.structure, self.batch = subpixel, structure, batch

    def find(self, cropper: Cropper, middle: Points, around: Points, factor: int = 1) -> Found:
        """Look for what lies at each of the places `middle` of one scene in the tile of the other at `around`.

        Both are (N, 2), in pixels of the common grid coarsened by `factor`.
        Raises InputError where a scene cannot be read.
        """
        n, side = len(middle), cropper.side
        zeros = np.zeros((3, n))
        found = Found(np.zeros((n, 2)), np.zeros((n, 2)), zeros[0], zeros[1], zeros[2], np.zeros(n, bool))
        for start in range(0, n, self.batch):
            who = np.arange(start, min(start + self.batch, n))
            crops = [self._crop(cropper, middle[i], around[i], factor) for i in who]
            good = [self._worth(crop) for crop in crops]
            if any(good):
                chosen = list(itertools.compress(crops, good))
                images = (np.stack([getattr(c, name) for c in chosen])[:, None] for name in ("optical", "sar"))
                with torch.inference_mode():
                    heatmap = self.network(*(torch.from_numpy(image).to(self.device) for image in images))
                    peaks = read_keypoints(heatmap, self.subpixel)
                at = who[good]
                searched, other = ("sar", "optical") if self.network.finds == "sar" else ("optical", "sar")
                found.xy[at] = peaks.xy.double().cpu().numpy() + [getattr(c, f"{searched}_corner") for c in chosen]
                found.middle[at] = np.array([getattr(c, f"{other}_corner") for c in chosen]) + side // 2
                for name in ("height", "rival", "spread"):
                    getattr(found, name)[at] = getattr(peaks, name).double().cpu().numpy()
                found.usable[at] = True
            progress.report((start + len(who)) / n)
        return found

    def _crop(self, cropper: Cropper, middle: Points, around: Points, factor: int) -> Crop:
        return cropper.read(*((middle, around) if self.network.finds == "sar" else (around, middle)), factor)

    def _worth(self, crop: Crop) -> bool:
        if min(crop.optical_valid, crop.sar_valid) < _MIN_VALID:
            return False
        if not crop.optical.any() or not crop.sar.any():
            return False
        return not self.structure or min(structure(crop.optical), structure(crop.sar)) > _STRUCTURE


def structure(image: Image) -> float:
    """Share of the variance of a standardised image's middle that is left after smoothing: little of noise's, most of
    that of edges and areas."""
    quarter = len(image) // 4
    middle = image[quarter:-quarter, quarter:-quarter]
    variance = float(middle.var())
    return float(cv2.GaussianBlur(middle, (0, 0), _SMOOTH).var()) / variance if variance > 1e-9 else 0.0
