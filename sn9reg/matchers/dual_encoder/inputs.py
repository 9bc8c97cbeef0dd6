"""What the dual encoder sees: three optical bands, one of SAR's logarithm."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sn9reg.raster.radiometry import Image, Mask, SarLog, standardise
from sn9reg.raster.scene import Patch


def optical_input(patch: Patch) -> Image:
    """(3, h, w), the first three bands, each standardised; where there are fewer, three times their mean."""
    bands = patch.values[:3] if len(patch.values) >= 3 else [patch.values.mean(axis=0, dtype=np.float32)] * 3
    return np.stack([standardise(band, patch.valid) for band in bands])


def sar_input(patch: Patch, log: SarLog) -> Image:
    """(1, h, w), the standardised logarithm."""
    return standardise(log(patch.values), patch.valid)[None]


def textured(image: Image, valid: Mask, cell: int) -> Mask:
    """(h // cell, w // cell) cells of an input (C, h, w) that are valid, more than half of them, and not constant."""
    return covered(valid, cell) & (_cells(image, cell).std(axis=(2, 4)) > 1e-3).any(axis=0)


def covered(valid: Mask, cell: int) -> Mask:
    """(h // cell, w // cell) cells more than half of which are valid."""
    return np.asarray(_cells(valid, cell).mean(axis=(1, 3)) > 0.5)


def _cells(values: npt.NDArray[Any], cell: int) -> npt.NDArray[Any]:
    """(..., h, w) as (..., h // cell, cell, w // cell, cell)."""
    height, width = (n // cell for n in values.shape[-2:])
    return values[..., : height * cell, : width * cell].reshape(*values.shape[:-2], height, cell, width, cell)
