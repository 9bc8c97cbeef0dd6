"""The whole of a keypoint detector's training, from one YAML file; the SAR and the optical detector share it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sn9reg.errors import ConfigError
from sn9reg.matchers.keypoints.crops import TILE
from sn9reg.matchers.keypoints.heatmap import SIGMA
from sn9reg.training.dataset import Source
from sn9reg.training.displaced import Displacement
from sn9reg.training.sample import Photometry


@dataclass(frozen=True)
class KeypointConfig:
    """Defaults are the paper's (Hänsch et al., "Introducing SpaceNet 9", sections 3.1 and 4); where it is silent: a
    batch of 16.

    network: options of `HeatmapUNet`, without `finds`. scenes: folders of scenes in SpaceNet 9's layout, whose tiles
    are drawn once an epoch; held_out: share of the tiles kept for validation. validate: folders of scenes for
    validation alone. pairs: folders of registered pairs, of which `samples` are drawn an epoch, with a `displacement`.
    turned: tiles are flipped and turned by quarters. schedule: `step`, the rate falls to `drop` of itself after
    `drop_after` epochs, or `cosine`, down to nothing in the last epoch. precision: as Lightning names it; `auto` is
    bf16-mixed on a GPU and 32-true else.
    """

    network: dict[str, Any] = field(default_factory=dict)
    scenes: tuple[str, ...] = ()
    validate: tuple[str, ...] = ()
    pairs: tuple[Source, ...] = ()
    samples: int = 0
    displacement: Displacement = field(default_factory=Displacement)
    photometry: Photometry = field(default_factory=Photometry)
    turned: bool = False
    tile: int = TILE
    sigma: float = SIGMA
    held_out: float = 0.2
    epochs: int = 100
    batch: int = 16
    rate: float = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    drop_after: int = 30
    drop: float = 1e-2
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("tile", "epochs", "batch", "drop_after"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("samples", "workers", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must not be negative")
        for name in ("sigma", "rate", "drop"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be a number above zero")
        if self.seed >= 2**32:
            raise ConfigError(f"seed is {self.seed}, must be below {2**32}")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}, must be at least 0 and below 1")
        if not self.scenes and not (self.samples and any(source.weight > 0 for source in self.pairs)):
            raise ConfigError("there is nothing to train on: give scenes, or pairs with a weight, and samples")
