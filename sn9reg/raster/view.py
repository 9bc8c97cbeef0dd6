"""What can be read of a scene, by window: the contract between scenes and whoever looks at them."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sn9reg.raster.grid import Grid, Points, Window


@dataclass(frozen=True)
class Patch:
    """What a window of a scene holds: values (bands, h, w) float32, 0 where not valid; valid (h, w) bool."""

    values: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[1:] != self.valid.shape:
            raise ValueError(f"values {self.values.shape} and valid {self.valid.shape} do not belong together")


class SceneView(Protocol):
    """A scene as a matcher sees it: on the common grid, wherever its pixels come from."""

    @property
    def name(self) -> str:
        """What error messages call the scene: its path."""

    @property
    def grid(self) -> Grid:
        """The scene's own grid."""

    def outline(self) -> Points:
        """(N, 2) points around the scene, in pixels of the common grid."""

    def read(self, window: Window, factor: int = 1) -> Patch:
        """The window, in pixels of the common grid coarsened by `factor`; outside the scene nothing is valid.

        Raises InputError if the file cannot be read.
        """


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
