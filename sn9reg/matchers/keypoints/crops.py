"""Tiles of a scene pair, as the detectors see them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Points, Window
from sn9reg.raster.radiometry import Image, Mask, SarLog, optical_grey, standardise
from sn9reg.raster.scene import ScenePair

TILE = 256  # side in pixels (Hänsch et al., section 3.1)


@dataclass(frozen=True)
class Crop:
    """A square tile of each scene. Images are standardised, and 0 where they are not valid."""

    optical: Image  # (S, S)
    sar: Image  # (S, S)
    optical_valid: Mask  # (S, S)
    sar_valid: Mask  # (S, S)


class Cropper:
    """Cuts tiles out of a pair. Places in both scenes are in pixels of the common grid coarsened by `factor`; pixel
    `side // 2` of a tile is the one nearest to the place."""

    def __init__(self, pair: ScenePair, side: int = TILE) -> None:
        overview = pair.overview(pair.sar)[0]
        self.pair, self.side = pair, side
        self._sar_log = SarLog.of(overview.values, overview.valid, overview.decibel)

    def corner(self, xy: Points) -> npt.NDArray[np.int64]:
        """(..., 2) upper left pixels of the tiles at (..., 2) places."""
        return np.rint(np.asarray(xy)).astype(np.int64) - self.side // 2

    def read(self, optical_xy: Points, sar_xy: Points, factor: int = 1) -> Crop:
        """The tile of the optical scene at `optical_xy` (2,) and that of the SAR scene at `sar_xy` (2,)."""
        corners = (self.corner(optical_xy), self.corner(sar_xy))
        windows = [Window(int(col), int(row), self.side, self.side) for col, row in corners]
        optical, sar = self.pair.optical.read(windows[0], factor), self.pair.sar.read(windows[1], factor)
        grey = standardise(optical_grey(optical.values), optical.valid)
        radar = standardise(self._sar_log(sar.values), sar.valid)
        return Crop(grey, radar, optical.valid, sar.valid)
