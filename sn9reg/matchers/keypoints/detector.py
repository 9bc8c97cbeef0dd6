"""Tiles of a scene pair, and a keypoint detector that is run on those at many places."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sn9reg import progress
from sn9reg.fit.correspondences import Flags, Floats
from sn9reg.machine import device
from sn9reg.matchers.batch_norm import fused
from sn9reg.matchers.keypoints.heatmap import read_keypoints
from sn9reg.matchers.keypoints.network import HeatmapUNet
from sn9reg.raster.grid import Points, Window
from sn9reg.raster.radiometry import Image, Mask, SarLog, optical_input, sar_input
from sn9reg.raster.scene import ScenePair

TILE = 256  # side in pixels (Hänsch et al., section 3.1)
_MIN_VALID = 0.25  # share of each tile's pixels that must be valid
_STRUCTURE = 0.04  # share of the variance that must be left after smoothing; 0.014 is left of white noise
_SMOOTH = 2.25  # standard deviation of the smoothing, pixels


@dataclass(frozen=True)
class Crop:
    """A square tile of each scene. Images are standardised, and 0 where they are not valid."""

    optical: Image  # (bands, S, S)
    sar: Image  # (1, S, S)
    optical_valid: Mask  # (S, S)
    sar_valid: Mask  # (S, S)


class Cropper:
    """Cuts tiles out of a pair around places in pixels of a level; pixel `side // 2` is the nearest to the place."""

    def __init__(self, pair: ScenePair, side: int = TILE) -> None:
        overview = pair.overview(pair.sar)[0]
        self.pair, self.side = pair, side
        self._sar_log = SarLog.of(overview.values, overview.valid, overview.decibel)

    def corner(self, xy: Points) -> npt.NDArray[np.int64]:
        """(..., 2) upper left pixels of the tiles at (..., 2) places."""
        return np.rint(np.asarray(xy)).astype(np.int64) - self.side // 2

    def read(self, optical_xy: Points, sar_xy: Points, factor: int = 1, bands: int = 1) -> Crop:
        """The tile of the optical scene at `optical_xy` (2,) and that of the SAR scene at `sar_xy` (2,). bands: of the
        optical one, see `optical_layers`."""
        corners = (self.corner(optical_xy), self.corner(sar_xy))
        windows = [Window(int(col), int(row), self.side, self.side) for col, row in corners]
        optical, sar = self.pair.optical.read(windows[0], factor), self.pair.sar.read(windows[1], factor)
        images = optical_input(optical, bands), sar_input(sar, self._sar_log)
        return Crop(*images, optical.valid, sar.valid)


@dataclass(frozen=True)
class Found:
    """What a detector found for N places."""

    xy: Points  # (N, 2) keypoints in the scene that was searched, common pixels
    middle: Points  # (N, 2) pixels in the middle of the other scene's tiles: those nearest to the places asked for
    height: Floats  # (N,) of the peaks, as the next two see `Keypoints`; 0 for a peak on a pixel that is not valid
    rival: Floats  # (N,)
    spread: Floats  # (N,)
    usable: Flags  # (N,) whether the tiles showed enough for the detector to be run


class Detector:
    """Runs a network on pairs of tiles, `batch` at once; if `structure`, not on noise. subpixel: `read_keypoints`."""

    def __init__(self, network: HeatmapUNet, subpixel: bool = True, structure: bool = True, batch: int = 16) -> None:
        self.device = device()
        self.network = fused(network.eval()).to(self.device).to(memory_format=torch.channels_last)
        self.subpixel, self.structure, self.batch = subpixel, structure, batch
        # Detectors are trained in bfloat16. It triples the speed on GPUs and on CPUs with matrix instructions for it.
        self.half = self.device.type == "cuda" or getattr(torch.cpu, "_is_amx_tile_supported", bool)()

    def find(self, cropper: Cropper, middle: Points, around: Points) -> Found:
        """Find what one scene shows at the places `middle` in the other scene's tiles at the places `around`, both
        (N, 2) in pixels of the common grid. Raises InputError where a scene cannot be read."""
        height, rival, spread = np.zeros((3, len(middle)))
        found = Found(np.zeros(middle.shape), np.rint(middle), height, rival, spread, np.zeros(len(middle), bool))
        for at, crops, heatmap in self._run(cropper, middle, around, 1):
            peaks = read_keypoints(heatmap, self.subpixel)
            for name in ("xy", "height", "rival", "spread"):
                getattr(found, name)[at] = getattr(peaks, name).double().cpu().numpy()
            col, row = np.rint(found.xy[at]).astype(int).clip(0, cropper.side - 1).T
            masks = np.stack([c.sar_valid if self.network.finds == "sar" else c.optical_valid for c in crops])
            found.height[at] *= masks[np.arange(len(at)), row, col]
            found.xy[at] += cropper.corner(around[at])
            found.usable[at] = True
        return found

    def heatmaps(self, cropper: Cropper, places: Points, factor: int, pool: int) -> tuple[Tensor, Flags]:
        """As `find`, at one place in both scenes, in pixels of the grid coarsened by `factor`, but gives (N, S / pool,
        S / pool) heatmaps, means of pool x pool pixels, and (N,) usable."""
        side, n = cropper.side // pool, len(places)
        found, usable = torch.zeros(n, side, side), np.zeros(n, bool)
        for at, _, heatmap in self._run(cropper, places, places, factor):
            found[torch.from_numpy(at)] = avg_pool2d(heatmap, pool).cpu()
            usable[at] = True
        return found, usable

    def _run(
        self, cropper: Cropper, middle: Points, around: Points, factor: int
    ) -> Iterator[tuple[npt.NDArray[np.intp], list[Crop], Tensor]]:
        """Batch by batch: indices of the places whose tiles show enough, their tiles and heatmaps."""
        optical, sar = (middle, around) if self.network.finds == "sar" else (around, middle)
        for start in range(0, len(middle), self.batch):
            indices = range(start, min(start + self.batch, len(middle)))
            crops = {i: cropper.read(optical[i], sar[i], factor, self.network.bands) for i in indices}
            if good := {i: crop for i, crop in crops.items() if self._shows_enough(crop)}:
                chosen = list(good.values())
                images = (np.stack([getattr(c, name) for c in chosen]) for name in ("optical", "sar"))
                with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                    heatmap = self.network(*(torch.from_numpy(image).to(self.device) for image in images))
                yield np.array(list(good)), chosen, heatmap
            progress.report((start + len(indices)) / len(middle))

    def _shows_enough(self, crop: Crop) -> bool:
        masks, half = (crop.optical_valid, crop.sar_valid), len(crop.sar_valid) // 2
        if min(mask.mean() for mask in masks) < _MIN_VALID or not masks[self.network.finds == "optical"][half, half]:
            return False
        images = (crop.optical.mean(axis=0), crop.sar[0])
        return all(structure(image) > _STRUCTURE if self.structure else image.any() for image in images)


def structure(image: Image) -> float:
    """Share of the variance of a standardised image's middle that smoothing leaves: little of noise, most of areas."""
    quarter = len(image) // 4
    middle = image[quarter:-quarter, quarter:-quarter]
    variance = float(middle.var())
    return float(cv2.GaussianBlur(middle, (0, 0), _SMOOTH).var()) / variance if variance > 1e-9 else 0.0
