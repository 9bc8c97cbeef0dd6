"""What a descriptor sees: the image around a keypoint, and the orientation energies there, turned and scaled."""

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn.functional import grid_sample

from sn9reg.errors import ConfigError
from sn9reg.features.orientation import orientation_features
from sn9reg.options import options

ORIENTATIONS = 6
_WAVELENGTHS = (6.0, 12.0)
_ENERGIES = len(_WAVELENGTHS) * ORIENTATIONS


@options
class PatchLayout:
    """What a descriptor sees of an image."""

    side: Annotated[int, Ge(8), Le(1024)] = 224  # of a patch, its own pixels
    scale: Annotated[float, Ge(0.1), Le(10)] = 1.0  # image pixels per patch pixel
    # The grey image, standardised patch by patch, once or in three channels as networks of photographs have it; or
    # energies of six orientations at two wavelengths
    inputs: Literal["grey", "three", "energy"] = "grey"
    features: Annotated[int, Ge(0)] = 0  # of a trained network, seen beside the energies

    def __post_init__(self) -> None:
        if self.features and self.inputs != "energy":
            raise ConfigError(f"features are seen beside energies; inputs is {self.inputs}")

    @property
    def channels(self) -> int:
        return {"grey": 1, "three": 3, "energy": _ENERGIES}[self.inputs] + self.features

    @property
    def extent(self) -> float:
        """Side of a patch in image pixels."""
        return self.side * self.scale


def input_maps(grey: Tensor, layout: PatchLayout, features: Tensor | None = None) -> Tensor:
    """(B, H, W) standardised images -> (B, C, H, W): themselves or their energies, smooth lest coarse patches alias.
    features: (B, `layout.features`, H, W), those of the images that a layout has beside energies."""
    maps = grey[:, None]
    if layout.inputs == "energy":
        maps = orientation_features(grey, ORIENTATIONS, _WAVELENGTHS, phase=0.0)
    if features is not None:
        maps = torch.cat([maps, features], dim=1)
    if layout.scale > 1:
        sigma = 0.4 * layout.scale
        side = 2 * math.ceil(2 * sigma) + 1
        maps = gaussian_blur2d(maps, (side, side), (sigma, sigma))
    return maps


def sample_patches(
    maps: Tensor, xy: Tensor, layout: PatchLayout, angle: Tensor | None = None, zoom: Tensor | None = None
) -> Tensor:
    """(C, H, W) maps, (N, 2) places x, y in pixels -> (N, C, side, side) patches around them. The maps are an image, or
    energies of six orientations k * pi / 6, at any number of scales one after the other. angle: (N,) radians from the
    image's x axis towards its y axis, to which a patch's x axis points; orientations are those in the patch. zoom: (N,)
    by which patches are larger than `layout.scale` has them. Beyond the image all is 0. The features that a
    layout has do not turn: they are what a network sees upright."""
    height, width = maps.shape[-2:]
    n, side = len(xy), layout.side
    along = (torch.arange(side, device=maps.device, dtype=maps.dtype) - (side - 1) / 2) * layout.scale
    v, u = torch.meshgrid(along, along, indexing="ij")
    xy = xy.to(maps)
    size = maps.new_ones(n) if zoom is None else zoom.to(maps)
    turn = maps.new_zeros(n) if angle is None else angle.to(maps)
    cos, sin = (size * turn.cos())[:, None, None], (size * turn.sin())[:, None, None]
    x = xy[:, 0, None, None] + cos * u - sin * v
    y = xy[:, 1, None, None] + sin * u + cos * v
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1).reshape(1, n * side, side, 2)
    # channels_last: one look-up fetches all channels
    source = maps[None].contiguous(memory_format=torch.channels_last)
    patches = grid_sample(source, grid, align_corners=False)[0].reshape(len(maps), n, side, side).transpose(0, 1)
    if layout.inputs != "energy":
        return standardised(patches).repeat(1, layout.channels, 1, 1)
    if angle is None:
        return patches
    energies, features = patches.split([len(maps) - layout.features, layout.features], dim=1)
    return torch.cat([turned(energies, turn), features], dim=1)


def turned(energies: Tensor, angle: Tensor) -> Tensor:
    """(N, S * 6, h, w) energies of orientations k * pi / 6 -> those seen from a frame turned by (N,) radians."""
    groups = energies.unflatten(1, (-1, ORIENTATIONS))
    steps = torch.arange(ORIENTATIONS, device=energies.device)
    place = ((steps + angle[:, None] * (ORIENTATIONS / math.pi)) % ORIENTATIONS)[:, None, :, None, None]
    low = place.floor()
    share = (place - low).to(energies)
    before, after = (groups.take_along_dim((low.long() + k) % ORIENTATIONS, dim=2) for k in (0, 1))
    return (before * (1 - share) + after * share).flatten(1, 2)


def standardised(patches: Tensor) -> Tensor:
    """(N, C, h, w) with mean 0 and standard deviation 1 per patch and channel; constant ones are 0."""
    centred = patches - patches.mean(dim=(2, 3), keepdim=True)
    spread = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
    return centred / spread.clamp_min(1e-3) * (spread > 1e-3)
