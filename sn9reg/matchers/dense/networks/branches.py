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
    """make: builds a branch, (B, C, H, W) images -> (B, D, H, W) features, with the attributes `divisor` (H and W have
    to be multiples of it) and `margin` (pixels within which a feature feels the border). shared: it is one for both."""

    def __init__(self, make: Callable[[], Any], shared: bool) -> None:
        super().__init__()
        self.shared = shared
        # One entry when shared: the same module under two names would stand in the state_dict twice.
        self.branches = nn.ModuleDict({name: make() for name in (["optical"] if shared else ["optical", "sar"])})
        made: Any = self.branches["optical"]
        self.divisor, self.margin = int(made.divisor), int(made.margin)

    def forward(self, image: Tensor, modality: Modality) -> Tensor:
        """(B, C, H, W) image of one modality -> (B, D, H, W) features, for any H and W. The image is padded right and
        below to the divisor, by reflection, or by replication where it is too small; features are cropped."""
        height, width = image.shape[-2:]
        right, bottom = -width % self.divisor, -height % self.divisor
        if right or bottom:
            mode = "reflect" if right < width and bottom < height else "replicate"
            image = F.pad(image, (0, right, 0, bottom), mode=mode)
        branch = self.branches["optical" if self.shared else modality]
        return branch(image)[..., :height, :width]


def build(name: str, shared: bool, **options: object) -> Branches:
    """The network `name`, with new weights, as branches for both modalities; `options` are its constructor's. Raises
    ConfigError for a network that is not in the table, and for an option that it does not have."""
    if name not in NETWORKS:
        raise ConfigError(f"there is no network {name!r}; there are {', '.join(sorted(NETWORKS))}")
    network = getattr(module_of(name), NETWORKS[name])
    check_call(network, options, f"network {name!r}")
    return Branches(lambda: network(**options), shared)
