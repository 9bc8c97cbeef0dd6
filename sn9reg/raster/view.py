"""What is read of a scene, by window: the contract of all scenes, and scenes that are seen through a matrix."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Points, Window, coarse_to_common

# Pixels read at once. A steep perspective asks for many more; it gets what the scene has of them.
_LARGEST = 1 << 26


@dataclass(frozen=True)
class Patch:
    """What a window of a scene holds: values (bands, h, w) float32, 0 where not valid; valid (h, w) bool."""

    values: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    decibel: bool | None = None  # that of the pair; of `ScenePair.overview` alone
    metres: float | None = None  # side of a pixel on the ground; only where features are asked for, and it is known

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[1:] != self.valid.shape:
            raise ValueError(f"values {self.values.shape} and valid {self.valid.shape} do not belong together")


class SceneView(Protocol):
    """A scene as a matcher sees it: on the common grid, wherever its pixels come from."""

    @property
    def name(self) -> str: ...  # what error messages call the scene: its path

    @property
    def grid(self) -> Grid: ...  # the scene's own

    def outline(self) -> Points: ...  # (N, 2) points around the scene, in pixels of the common grid

    def read(self, window: Window, factor: int = 1) -> Patch:
        """The window, in pixels of the common grid coarsened by `factor`; outside the scene nothing is valid. Raises
        InputError if the file cannot be read."""


@dataclass(frozen=True)
class SceneThrough:
    """A scene that is seen through something. Its name and its grid stay."""

    scene: SceneView

    @property
    def name(self) -> str:
        return self.scene.name

    @property
    def grid(self) -> Grid:
        return self.scene.grid

    def outline(self) -> Points:
        return self.scene.outline()


@dataclass(frozen=True)
class Posed(SceneThrough):
    """A view of a scene through a matrix."""

    matrix: npt.NDArray[np.float64]  # (3, 3), pixel (x, y, 1) of the view -> of the scene, both on the common grid

    def outline(self) -> Points:
        return through(np.linalg.inv(self.matrix), self.scene.outline())

    def read(self, window: Window, factor: int = 1) -> Patch:
        """As `Scene.read`, bilinear. Raises InputError if the file cannot be read."""
        coarse = coarse_to_common(factor)
        matrix = np.linalg.inv(coarse) @ self.matrix @ coarse @ _shift(window.col, window.row)  # to coarse pixels
        x, y = np.meshgrid(np.linspace(-1, window.width, 9), np.linspace(-1, window.height, 9))
        there = through(matrix, np.column_stack([x.ravel(), y.ravel()]))
        low, high = np.floor(there.min(axis=0)) - 2, np.ceil(there.max(axis=0)) + 3
        if np.prod(high - low) > _LARGEST:
            edge = through(np.linalg.inv(coarse), self.scene.outline())
            low = np.maximum(low, np.floor(edge.min(axis=0)) - 2)
            high = np.maximum(low + 1, np.minimum(high, np.ceil(edge.max(axis=0)) + 3))
        patch = self.scene.read(Window(*low.astype(int).tolist(), *(high - low).astype(int).tolist()), factor)
        matrix = _shift(-low[0], -low[1]) @ matrix
        zoom = min(math.sqrt(abs(np.linalg.det(matrix[:2, :2]))), max(patch.valid.shape))
        bands = [*(patch.values * patch.valid), patch.valid.astype(np.float32)]
        if zoom > 1.2:  # what lies between the pixels that are seen must not alias
            bands = [cv2.GaussianBlur(band, (0, 0), 0.35 * zoom) for band in bands]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        *values, share = (cv2.warpPerspective(b, matrix, (window.width, window.height), flags=flags) for b in bands)
        valid = share > 0.5
        return Patch(np.where(valid, np.stack(values) / np.maximum(share, 0.5), 0).astype(np.float32), valid)


def from_finer(read: Callable[[Window, int], Patch], window: Window, factor: int, in_two: bool) -> Patch:
    """A window of which each pixel is the mean of the valid ones of 2 x 2 at half the factor, valid where any is.
    in_two: it is read in two parts, so that fewer of the finer pixels are held at once."""
    if in_two:
        parts, axis = [read(half, factor) for half in window.halves()], -1 if window.width >= window.height else -2
        values, valid = [part.values for part in parts], [part.valid for part in parts]
        return Patch(np.concatenate(values, axis), np.concatenate(valid, axis))
    return averaged(read(Window(2 * window.col, 2 * window.row, 2 * window.width, 2 * window.height), factor // 2), 2)


def averaged(patch: Patch, factor: int) -> Patch:
    """The patch with pixels of `factor` x `factor` of its own: means of those that are valid, valid where any is. Sides
    are rounded up."""
    (height, width), sides = patch.valid.shape, tuple((0, -n % factor) for n in patch.valid.shape)
    if any(after for _, after in sides):
        values, valid = np.pad(patch.values, ((0, 0), *sides)), np.pad(patch.valid, sides)
        patch, (height, width) = replace(patch, values=values, valid=valid), valid.shape
    blocks = (height // factor, factor, width // factor, factor)
    count = patch.valid.reshape(blocks).sum(axis=(1, 3), dtype=np.float32)
    values = patch.values.reshape(len(patch.values), *blocks).sum(axis=(2, 4)) / np.maximum(count, 1)
    metres = None if patch.metres is None else patch.metres * factor
    return replace(patch, values=values, valid=count > 0, metres=metres)


def through(matrix: npt.NDArray[Any], xy: Points) -> Points:
    """(N, 2) points moved by a (3, 3) projective matrix."""
    moved = np.column_stack([xy, np.ones(len(xy))]) @ matrix.T
    return moved[:, :2] / moved[:, 2:]


def _shift(dx: float, dy: float) -> npt.NDArray[np.float64]:
    return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])
