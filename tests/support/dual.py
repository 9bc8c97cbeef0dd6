"""A dual encoder that nobody trained."""

from functools import cache

import torch

from sn9reg.matchers.dual_encoder.network import DualEncoder, DualOptions
from support.networks import settle

BANDS = {"optical": 3, "sar": 1}


@cache
def dual_encoder(**options):
    """In eval mode, see `settle`. Shared: it stays as it is."""
    torch.manual_seed(3)
    made = DualEncoder(DualOptions(**options))
    return settle(made, lambda: [made(torch.randn(2, bands, 32, 32), kind) for kind, bands in BANDS.items()])
