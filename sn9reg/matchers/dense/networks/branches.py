"""Two modalities, one feature space: one branch for both (Siamese) or one branch each (pseudo-Siamese).

The distinction, and the finding that two sets of weights are the better choice for optical and SAR, are those of
"Learning-based SAR-optical registration for navigation" (Sec. IV-B and V-C).
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sn9reg.errors import ConfigError
from sn9reg.matchers.dense.networks.table import NETWORKS, module_of
from sn9reg.options import check_call
from sn9reg.raster.radiometry import Modality


class Branches(nn.Module):
    """make: builds a branch for images of C channels, (B, C, H, W) -> (B, D, H, W) features, with the attributes
    `divisor` (H and W have to be multiples of it) and `margin` (pixels within which a feature feels the border).
    channels: of the optical image; a SAR image has one. shared: one branch serves both, and sees SAR repeated."""

    def __init__(self, make: Callable[[int], Any], shared: bool, channels: int = 1) -> None:
        super().__init__()
        self.shared, self.channels = shared, channels
        # One entry when shared: the same module under two names would stand in the state_dict twice.
        widths = {"optical": channels} if shared else {"optical": channels, "sar": 1}
        self.branches = nn.ModuleDict({name: make(width) for name, width in widths.items()})
        made: Any = self.branches["optical"]
        self.divisor, self.margin = int(made.divisor), int(made.margin)

    def forward(self, image: Tensor, modality: Modality) -> Tensor:
        """(B, C, H, W) image of one modality -> (B, D, H, W) features, for any H and W; one of one channel is repeated
        for a branch that wants three. The image is padded right and below to the divisor, by reflection, or by
        replication where it is too small; features are cropped."""
        if self.shared or modality == "optical":
            image = image.expand(-1, self.channels, -1, -1)
        height, width = image.shape[-2:]
        right, bottom = -width % self.divisor, -height % self.divisor
        if right or bottom:
            mode = "reflect" if right < width and bottom < height else "replicate"
            image = F.pad(image, (0, right, 0, bottom), mode=mode)
        branch = self.branches["optical" if self.shared else modality]
        return branch(image)[..., :height, :width]


def build(name: str, shared: bool, *, in_channels: Any = 1, **options: object) -> Branches:
    """The network `name`, with new weights, as branches for both modalities. in_channels: of the optical image, see
    `Branches`; `options` are the constructor's others. Raises ConfigError for a network that is not in the table, an
    option that it does not have, and for channels other than 1 and 3."""
    if name not in NETWORKS:
        raise ConfigError(f"there is no network {name!r}; there are {', '.join(sorted(NETWORKS))}")
    network = getattr(module_of(name), NETWORKS[name])
    check_call(network, options, f"network {name!r}")
    if in_channels not in (1, 3):
        raise ConfigError(f"network {name!r}: in_channels is {in_channels!r}, must be 1 (grey) or 3 (colours)")
    return Branches(lambda channels: network(in_channels=channels, **options), shared, in_channels)
