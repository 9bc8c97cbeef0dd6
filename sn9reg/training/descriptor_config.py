"""The whole of a descriptor's training, from one YAML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sn9reg.errors import ConfigError
from sn9reg.matchers.descriptors.patches import PatchLayout
from sn9reg.training.dataset import Source
from sn9reg.training.sample import Photometry


@dataclass(frozen=True)
class DescriptorConfig:
    """Defaults are the paper's (He et al., sections 2.2, 2.3 and 3.1), where it says; it does not say for how long.

    network: options of `DenseFusion`, without what `patch` gives. patch: what a descriptor sees. imagenet: a
    .safetensors file with the weights of a timm MobileNetV2 to begin with. sources: folders of registered pairs. image:
    side of the square cut from a pair, pixels. places: patches taken from it, at least `apart` pixels from one another
    and `rim` pixels from its border;
    `corners` is the share taken at corners of either image, the others lie anywhere. shift, turn, stretch: by so much,
    in pixels, degrees and as a share, SAR patches are displaced, turned and scaled at random. margin: of the triplets.
    batch: pairs of patches a step; chunk: as many as fit into memory at once, 0 for all (gradients are cached, L. Gao
    et al., "Scaling deep contrastive learning batch size under memory limited setup", 2021). precision: as Lightning
    names it; `auto` is bf16-mixed on a GPU and 32-true else.
    """

    sources: tuple[Source, ...]
    network: dict[str, Any] = field(default_factory=dict)
    patch: PatchLayout = field(default_factory=PatchLayout)
    imagenet: str | None = None
    image: int = 256
    places: int = 1
    rim: int = 24
    apart: float = 8.0
    corners: float = 0.0
    shift: float = 0.0
    turn: float = 0.0
    stretch: float = 0.0
    photometry: Photometry = field(default_factory=Photometry)
    margin: float = 1.0
    steps: int = 5000
    batch: int = 256
    chunk: int = 0
    rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    validate_every: int = 100
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("image", "places", "steps", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("apart", "shift", "turn", "stretch", "chunk", "workers", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, must not be negative")
        for name in ("margin", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be a number above zero")
        if not 0 <= self.corners <= 1 or self.stretch >= 1:
            raise ConfigError(f"corners {self.corners} and stretch {self.stretch} are shares, from 0 to 1")
        if self.batch < 2 or self.batch % self.places:
            raise ConfigError(f"batch is {self.batch}, must be at least 2 and a multiple of the {self.places} places")
        if self.seed >= 2**32:
            raise ConfigError(f"seed is {self.seed}, must be below {2**32}")
        if not 0 <= 2 * self.rim < self.image:
            raise ConfigError(f"rim is {self.rim}, must leave something of the {self.image} px of an image")
        if not any(source.weight > 0 for source in self.sources):
            raise ConfigError("there is nothing to train on: give sources with a weight")
