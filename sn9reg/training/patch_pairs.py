"""Patches of registered pairs that show the same place, for a descriptor to learn from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from sn9reg.features.phase_congruency import PhaseCongruency, phase_congruency
from sn9reg.matchers.descriptors.corners import fast_corners
from sn9reg.matchers.descriptors.patches import input_maps, sample_patches
from sn9reg.raster.grid import Points
from sn9reg.raster.radiometry import Mask
from sn9reg.raster.scene import Patch
from sn9reg.training.data import Parts, Source, fixed
from sn9reg.training.sample import Geometry, augment_optical, augment_sar, cut, finish

if TYPE_CHECKING:
    from sn9reg.training.descriptors import DescriptorConfig

_CANDIDATES = 4  # places drawn at random for each that is wanted


class PatchPairs(NamedTuple):
    """optical, sar: (N, C, side, side); those of one index show the same place."""

    optical: Tensor
    sar: Tensor


def collate(samples: list[PatchPairs]) -> PatchPairs:
    """A batch."""
    return PatchPairs(*map(torch.cat, zip(*samples, strict=True)))


def held_out(config: DescriptorConfig, parts: Parts) -> list[PatchPairs]:
    """Fixed patch pairs, of every pair of images that is held out and has room for them."""
    return fixed(parts, partial(patch_pairs, config=config, train=False), config.seed)


def patch_pairs(
    source: Source, optical: Patch, sar: Patch, random: Generator, config: DescriptorConfig, train: bool = True
) -> PatchPairs | None:
    """`places` patch pairs out of one pair of images, None where it has no room for them. train: with the changes of
    grey values, turns and scales that the configuration asks for."""
    zoom = max(source.drawn_zoom(random), config.image / min(optical.valid.shape))
    one, other, _ = cut(optical, sar, Geometry(config.image, config.image), zoom, random)
    if train:
        one = Patch(augment_optical(one.values[0], config.photometry, random)[None], one.valid)
        other = Patch(augment_sar(other.values[0], config.photometry, random)[None], other.valid)
    images = torch.from_numpy(np.concatenate(finish(one, other)))
    valid = torch.from_numpy(np.stack([one.valid, other.valid]))
    congruency = phase_congruency(images, valid)
    places = _places(congruency, one.valid & other.valid, config, random)
    if len(places) < config.places:
        return None
    n, strength = len(places), float(train)
    angle = torch.from_numpy(random.uniform(-1, 1, n) * np.deg2rad(config.turn) * strength)
    size = torch.from_numpy(np.exp(random.uniform(-1, 1, n) * np.log1p(config.stretch) * strength))
    moved = places + random.uniform(-1, 1, (n, 2)) * config.shift * strength
    first, second = input_maps(images, config.patch)
    return PatchPairs(
        sample_patches(first, torch.from_numpy(places), config.patch),
        sample_patches(second, torch.from_numpy(moved), config.patch, angle, size),
    )


def _places(congruency: PhaseCongruency, valid: Mask, config: DescriptorConfig, random: Generator) -> Points:
    """(N, 2) places x, y, at most `places`, where both images are valid, apart from one another."""
    middle = slice(config.rim, config.image - config.rim)
    inner = np.pad(valid[middle, middle], config.rim)
    free = np.argwhere(inner)[:, ::-1].astype(np.float64)
    if not len(free):
        return free
    anywhere = free[random.integers(len(free), size=_CANDIDATES * config.places)]
    corners = anywhere[:0]
    if config.corners:
        maps = [moment[k].numpy() for k in range(2) for moment in (congruency.minimum, congruency.maximum)]
        corners = random.permutation(np.concatenate([fast_corners(m, inner)[0] for m in maps]))
    wanted = int(random.binomial(config.places, config.corners))
    chosen: list[Points] = []
    for candidates, upto in ((corners, wanted), (anywhere, config.places)):
        for xy in candidates:
            if len(chosen) < upto and all(np.hypot(*(xy - other)) >= config.apart for other in chosen):
                chosen.append(xy)
    return np.array(chosen).reshape(-1, 2)
