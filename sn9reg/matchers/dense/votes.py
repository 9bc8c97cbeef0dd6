"""Votes of neighbours: in speckle, a single template finds little, and its neighbours decide.

Their surfaces are averaged, each relative to the shift that is predicted there. This acts like a larger template with
soft edges that follows the predicted field.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from sn9reg.matchers.dense.lattice import Lattice
from sn9reg.matchers.dense.search import Surfaces
from sn9reg.raster.grid import Points


def centred(surfaces: Surfaces, predicted: Points) -> Tensor:
    """(N, D, D) surfaces relative to the exact predicted shift, without their median, 0 where not usable.

    Surfaces are computed around whole-pixel shifts. Each is moved by the fraction that is left, bilinearly.
    """
    values = torch.from_numpy(surfaces.values).clone()
    size = values.shape[-1]
    fraction = torch.from_numpy(predicted - surfaces.centre).float()  # (N, 2), within half a pixel
    base = torch.linspace(-1, 1, size)
    x, y = base + (fraction * 2 / (size - 1)).T[..., None]  # (N, D) each
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    moved = torch.nn.functional.grid_sample(values[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
    moved = moved - moved.flatten(1).median(dim=1).values[:, None, None]
    return moved * torch.from_numpy(surfaces.usable.astype(np.float32))[:, None, None]


def aggregate(centred_surfaces: Tensor, usable: npt.NDArray[np.bool_], lattice: Lattice, width: float) -> Tensor:
    """(N, D, D) surfaces averaged over neighbours with a Gaussian of `width` nodes."""
    size = centred_surfaces.shape[-1]
    volume = centred_surfaces.numpy().reshape(lattice.ny, lattice.nx, size, size)
    summed = gaussian_filter(volume, sigma=(width, width, 0, 0), mode="constant", truncate=3.0)
    voters = usable.reshape(lattice.ny, lattice.nx).astype(np.float32)
    mass = gaussian_filter(voters, sigma=width, mode="constant", truncate=3.0)
    summed /= np.maximum(mass, 1e-6)[..., None, None]
    return torch.from_numpy(summed.reshape(-1, size, size))
