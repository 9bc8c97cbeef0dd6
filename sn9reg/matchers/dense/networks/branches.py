"""Two modalities, one feature space: one branch for both (Siamese) or one branch each (pseudo-Siamese).

The distinction, and the finding that two sets of weights are the better choice for optical and SAR, are those of
"Learning-based SAR-optical registration for navigation" (Sec. IV-B and V-C).
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sn9reg.raster.radiometry import Modality


class Branches(nn.Module):
    """Siamese (one set of weights) or pseudo-Siamese (two).

    `make` builds one branch: a module from (B, C, H, W) images to (B, out_channels, H, W) features, with the attributes
    `divisor` (H and W have to be multiples of it), `margin` (pixels within which a feature feels the border) and
    `out_channels`.
    """

    def __init__(self, make: Callable[[], Any], shared: bool) -> None:
        super().__init__()
        self.shared = shared
        # One entry when shared: the same module under two names would stand in the state_dict twice.
        self.branches = nn.ModuleDict({name: make() for name in (["optical"] if shared else ["optical", "sar"])})
        made: Any = self.branches["optical"]
        self.divisor, self.margin, self.out_channels = int(made.divisor), int(made.margin), int(made.out_channels)

    def forward(self, image: Tensor, modality: Modality) -> Tensor:
        """(B, C, H, W) image of one modality -> (B, out_channels, H, W) features, for any H and W.

        The image is padded at the right and at the bottom to the branch's divisor, by reflection, or by replication
        where it is too small, and the features are cropped back.
        """
        height, width = image.shape[-2:]
        right, bottom = -width % self.divisor, -height % self.divisor
        if right or bottom:
            mode = "reflect" if right < width and bottom < height else "replicate"
            image = F.pad(image, (0, right, 0, bottom), mode=mode)
        branch = self.branches["optical" if self.shared else modality]
        return branch(image)[..., :height, :width]
