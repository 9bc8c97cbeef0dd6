"""The whole of the dual encoder's training, from one YAML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from sn9reg.errors import ConfigError
from sn9reg.matchers.dual_encoder.network import CELL
from sn9reg.training.dataset import Source
from sn9reg.training.sample import Geometry, Photometry


@dataclass(frozen=True)
class Phase:
    """One of the two phases, by Adam. batch: pairs at once; accumulate: such batches a step. steps: 0 to leave it out.
    warmup: steps up to the full rate. schedule: from there `constant` or `cosine` down to nothing. patience:
    validations without gain before it stops, 0 for never."""

    steps: int
    rate: float
    decay: float = 1e-4
    batch: int = 32
    accumulate: int = 4
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    validate_every: int = 100
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "accumulate", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("steps", "warmup", "patience", "decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, must not be negative")
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"rate is {self.rate}, must be a number above zero")


@dataclass(frozen=True)
class DualConfig:
    """Defaults are the paper's (Huang et al., Table 2 and sections 3.2.4, 3.3 and 4.2), where it says.

    sources: folders of registered pairs. aleatoric: with modules for the uncertainty of the data. dropout: share of the
    paper's rates. structure: see `networks.dual_encoder.Structure`. contrastive, rotation: what the pre-training asks
    for. temperature: of both losses. cells: of each pair, drawn for the contrastive loss; window: side of the square of
    cells whose mean it sees, odd. uncertainty: weight of that loss in fine-tuning. geometry: `optical` and `sar` are
    the sides of the crops, pixels. colours: share of samples whose three optical bands differ.
    """

    sources: tuple[Source, ...]
    pretraining: Phase
    finetuning: Phase
    aleatoric: bool = True
    dropout: float = 1.0
    structure: bool = False
    contrastive: bool = True
    rotation: bool = True
    temperature: float = 0.07
    cells: int = 64
    window: int = 1
    uncertainty: float = 0.5
    geometry: Geometry = field(default_factory=lambda: Geometry(optical=256, sar=240, tilt=30.0))
    photometry: Photometry = field(default_factory=lambda: Photometry(noise=0.01))
    colours: float = 0.0
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not any(source.weight > 0 for source in self.sources):
            raise ConfigError("there is nothing to train on: give sources with a weight")
        if self.pretraining.steps and not (self.contrastive or self.rotation):
            raise ConfigError("pretraining has steps but neither contrastive nor rotation")
        if not self.finetuning.steps:
            raise ConfigError("finetuning has no steps")
        for name in ("temperature", "uncertainty"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be a number above zero")
        if not (0 <= self.colours <= 1 and 0 <= self.dropout <= 5):
            raise ConfigError(f"colours {self.colours} is a share, dropout {self.dropout} one of the paper's rates")
        if self.window < 1 or self.window % 2 == 0:
            raise ConfigError(f"window is {self.window}, must be odd")
        if self.cells < 2 or self.workers < 0 or not 0 <= self.seed < 2**32 - 1:  # the second phase's is one higher
            raise ConfigError(f"cells must be at least 2, workers not negative, seed from 0 to {2**32 - 2}")
        angles = (self.geometry.tilt, self.geometry.turn)
        if not all(0 <= angle <= 180 for angle in angles) or not 0 <= self.geometry.stretch < 1:
            raise ConfigError(f"geometry: tilt and turn {angles} are degrees up to 180, stretch a share below 1")
        sides = (self.geometry.optical, self.geometry.sar)
        if any(side % (4 * CELL) or side < 32 for side in sides) or sides[1] > sides[0]:
            raise ConfigError(f"geometry: sides {sides} must be multiples of {4 * CELL} from 32, the SAR no larger")
