"""Similarity surfaces of a template over a reference, computed by FFT, and the peaks of such surfaces.

All functions are batched, in torch, on any device. A surface is (B, H - h + 1, W - w + 1): element (i, j) is the
similarity where the template's upper left pixel lies on the reference's (row i, column j). Channels are summed.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd.function import once_differentiable

Similarity = Literal["cc", "zncc", "ssd"]

_MIN_OVERLAP = 0.35  # share of a template's valid pixels that must meet valid ones for a mean to count


def cross_correlation(reference: Tensor, template: Tensor) -> Tensor:
    """sum_c,y,x reference * template: (B, C, H, W), (B, C, h, w) -> (B, H - h + 1, W - w + 1). Raises ValueError where
    the template is larger than the reference."""
    whole, part = tuple(reference.shape[-2:]), tuple(template.shape[-2:])
    if part[0] > whole[0] or part[1] > whole[1]:
        raise ValueError(f"template {part} is larger than reference {whole}")
    return _CrossCorrelation.apply(reference, template)


class _CrossCorrelation(torch.autograd.Function):
    """`cross_correlation` with its gradient in closed form, in half the time of the one that torch would derive."""

    @staticmethod
    def forward(ctx: Any, reference: Tensor, template: Tensor) -> Tensor:
        (height, width), (h, w) = reference.shape[-2:], template.shape[-2:]
        ctx.size = (next_fast_len(int(height), real=True), next_fast_len(int(width), real=True))
        ctx.shapes = (height, width), (h, w)
        spectrum, pattern = torch.fft.rfft2(reference, s=ctx.size), torch.fft.rfft2(template, s=ctx.size)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(spectrum, pattern)
        product = (spectrum * pattern.conj()).sum(dim=1)
        return torch.fft.irfft2(product, s=ctx.size)[:, : height - h + 1, : width - w + 1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        spectrum, pattern = ctx.saved_tensors
        (height, width), (h, w) = ctx.shapes
        whole = torch.fft.rfft2(gradient, s=ctx.size)[:, None]
        return (
            torch.fft.irfft2(whole * pattern, s=ctx.size)[..., :height, :width] if ctx.needs_input_grad[0] else None,
            torch.fft.irfft2(whole.conj() * spectrum, s=ctx.size)[..., :h, :w] if ctx.needs_input_grad[1] else None,
        )


def cc(reference: Tensor, template: Tensor) -> Tensor:
    """Cross-correlation over the number of template pixels. Shapes as in `cross_correlation`."""
    return cross_correlation(reference, template) / (template.shape[-2] * template.shape[-1])


def ssd(reference: Tensor, template: Tensor) -> Tensor:
    """Minus the sum of squared differences over the number of template pixels. Shapes as in `cross_correlation`."""
    pixels = template.shape[-2] * template.shape[-1]
    energy = _box_sum((reference.double() ** 2).sum(dim=1), *template.shape[-2:])
    cross = cross_correlation(reference, template).double()
    total = (template.double() ** 2).sum(dim=(1, 2, 3))[:, None, None]
    return (-(energy - 2 * cross + total) / pixels).to(reference.dtype)


def zncc(reference: Tensor, template: Tensor) -> Tensor:
    """Zero-mean normalised cross-correlation in [-1, 1], 0 where either side is constant. Mean and variance are each
    channel's over the template's area; channels count by variance. Shapes as in `cross_correlation`."""
    pixels = template.shape[-2] * template.shape[-1]
    # Means are subtracted, and sums are in double: in float, rounding would look like structure where all is constant.
    precise = reference.double() - reference.double().mean(dim=(2, 3), keepdim=True)
    pattern = template.double() - template.double().mean(dim=(2, 3), keepdim=True)
    cross = cross_correlation(precise.to(reference.dtype), pattern.to(template.dtype)).double()
    total, energy = (_box_sum(power, *template.shape[-2:]) for power in (precise, precise**2))
    variance = (energy - total**2 / pixels).sum(dim=1).clamp_min(0)
    template_energy = (pattern**2).sum(dim=(1, 2, 3))[:, None, None]
    # Each side has a floor. Structure below it is the rounding of the spectra, or of the pixels.
    floor = 1e-9 * pixels * (precise**2).mean(dim=(2, 3)).sum(dim=1)[:, None, None]
    template_floor = 1e-12 * (template.double() ** 2).sum(dim=(1, 2, 3))[:, None, None]
    structured = (variance > floor) & (template_energy > template_floor)
    return _normalised(cross, variance * template_energy, structured).to(reference.dtype)


def similarity(name: Similarity, reference: Tensor, template: Tensor) -> Tensor:
    """The surface of the given name. Raises KeyError for another name."""
    return {"cc": cc, "zncc": zncc, "ssd": ssd}[name](reference, template)


def masked_similarity(
    name: Similarity, reference: Tensor, reference_mask: Tensor, template: Tensor, template_mask: Tensor
) -> Tensor:
    """The surface of the given name over the pixels that are valid in both, as far as it can be trusted.

    A mean over few pixels is noisy and would often be the highest. Its distance from the surface's mean is therefore
    multiplied by the square root of the share of the template's valid pixels that it is taken over. Where that share is
    0.35 or less, the value is the surface's mean. The surface is 0 for an empty template or reference.

    Masks: (B, H, W) and (B, h, w), 0 or 1. Shapes else as in `cross_correlation`.
    """
    mask, part, whole = reference_mask[:, None], template_mask[:, None], bool((reference_mask > 0).all())
    area = template_mask.sum(dim=(1, 2))[:, None, None].clamp_min(1)
    if name == "cc":
        cross = cross_correlation(reference * mask, template * part)
        if whole:
            return cross / area
        overlap = cross_correlation(mask, part)
        return _trusted(cross / overlap.clamp_min(1), overlap, area)
    if whole and bool((template_mask > 0).all()):
        return similarity(name, reference, template)
    level = ((reference * mask).sum(dim=(2, 3)) / mask.sum(dim=(2, 3)).clamp_min(1))[..., None, None]
    # The same level off both sides changes no difference, and keeps the sums of `ssd` precise.
    template_level = level if name == "ssd" else template.mean(dim=(2, 3), keepdim=True)
    mask, part = mask.double(), part.double()
    one, other = (reference - level).double() * mask, (template - template_level).double() * part
    shared, cross = cross_correlation(mask, part), cross_correlation(one, other)
    overlap = shared.clamp_min(1)
    energy = cross_correlation((one**2).sum(dim=1, keepdim=True), part)
    template_energy = cross_correlation(mask, (other**2).sum(dim=1, keepdim=True))
    if name == "ssd":
        value = -(energy - 2 * cross + template_energy) / overlap
    else:
        # What is left below these floors, after the means are subtracted, is the rounding of the spectra.
        floor, template_floor = (1e-11 * e.amax(dim=(1, 2), keepdim=True) + 1e-30 for e in (energy, template_energy))
        for c in range(one.shape[1]):
            total = cross_correlation(one[:, c : c + 1], part)
            template_total = cross_correlation(mask, other[:, c : c + 1])
            cross, energy = cross - total * template_total / overlap, energy - total**2 / overlap
            template_energy = template_energy - template_total**2 / overlap
        structured = (energy > floor) & (template_energy > template_floor)
        value = _normalised(cross, energy * template_energy, structured)
    return _trusted(value, shared, area).to(reference.dtype)


def _normalised(cross: Tensor, energy: Tensor, structured: Tensor) -> Tensor:
    """Products over the root of `energy`, in [-1, 1], and 0 where not `structured`."""
    return (cross / torch.where(structured, energy, torch.inf).sqrt()).clamp(-1, 1)


def _trusted(mean: Tensor, overlap: Tensor, area: Tensor) -> Tensor:
    """The surface with means over few pixels moved towards the surface's mean, see `masked_similarity`."""
    enough = (overlap > _MIN_OVERLAP * area).to(mean.dtype)
    base = (mean * enough).sum(dim=(1, 2), keepdim=True) / enough.sum(dim=(1, 2), keepdim=True).clamp_min(1)
    return base + (mean - base) * (overlap / area).clamp(0, 1).sqrt() * enough


def _box_sum(image: Tensor, h: int, w: int) -> Tensor:
    """Sum over every h x w box of the last two dimensions."""
    table = torch.nn.functional.pad(image.cumsum(-1).cumsum(-2), (1, 0, 1, 0))
    return table[..., h:, w:] - table[..., :-h, w:] - table[..., h:, :-w] + table[..., :-h, :-w]


@dataclass(frozen=True)
class Peaks:
    """The best peaks of B surfaces."""

    xy: Tensor  # (B, 2) sub-pixel position, in surface pixels
    value: Tensor  # (B,) height
    rival: Tensor  # (B,) highest value farther than the exclusion radius from the peak
    base: Tensor  # (B,) median of the surface
    sigma: Tensor  # (B,) expected error of xy per axis, pixels, from the peak's curvature and the slopes of the rest

    @property
    def score(self) -> Tensor:
        """(B,) in [0, 1]: the peak's height above its rival, as a share of its height above the median."""
        return ((self.value - self.rival) / (self.value - self.base).clamp_min(1e-9)).clamp(0, 1)


def find_peaks(surface: Tensor, exclusion: float = 5.0) -> Peaks:
    """The best peak of each (B, H, W) surface, refined by a parabola along x and one along y, and its rival."""
    height, width = (int(n) for n in surface.shape[-2:])
    index = surface.flatten(1).argmax(dim=1)
    row, col = index // width, index % width
    offset, curvature = _refine(surface, row, col)
    xy = torch.stack([col, row], dim=1).to(surface.dtype) + offset
    ys = torch.arange(height, device=surface.device)[None, :, None] - row[:, None, None]
    xs = torch.arange(width, device=surface.device)[None, None, :] - col[:, None, None]
    near = ys**2 + xs**2 <= exclusion**2
    rest = surface.masked_fill(near, -torch.inf).amax(dim=(1, 2))
    value, base = surface.amax(dim=(1, 2)), surface.flatten(1).median(dim=1).values
    rival = torch.where(torch.isfinite(rest), rest, base)
    return Peaks(xy, value, rival, base, _sigma(surface, near, curvature))


def _refine(surface: Tensor, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2) offset of a parabola's vertex along x and y, and (B, 2) its curvature; both are 0 at the border."""
    height, width = surface.shape[-2:]
    batch = torch.arange(len(surface), device=surface.device)

    def at(dy: int, dx: int) -> Tensor:
        return surface[batch, (row + dy).clamp(0, height - 1), (col + dx).clamp(0, width - 1)]

    offsets, curvatures = [], []
    for dy, dx, inside in ((0, 1, (col > 0) & (col < width - 1)), (1, 0, (row > 0) & (row < height - 1))):
        before, here, after = at(-dy, -dx), at(0, 0), at(dy, dx)
        curvature = 2 * here - before - after
        good = inside & (curvature > 0)
        offsets.append(torch.where(good, (after - before) / (2 * curvature.clamp_min(1e-12)), 0).clamp(-0.5, 0.5))
        curvatures.append(torch.where(good, curvature, 0))
    return torch.stack(offsets, dim=1), torch.stack(curvatures, dim=1)


def _sigma(surface: Tensor, near: Tensor, curvature: Tensor) -> Tensor:
    """(B,) expected error of peaks: a disturbance of slope g moves a peak -k x^2 / 2 by g / k. It is assumed to be as
    rough under the peak as it is elsewhere on the surface."""
    far = (~near).to(surface.dtype)
    squares = []
    for dim, (before, after) in ((2, (far[..., :-1], far[..., 1:])), (1, (far[:, :-1], far[:, 1:]))):
        both = before * after
        squares.append((surface.diff(dim=dim) ** 2 * both).sum(dim=(1, 2)) / both.sum(dim=(1, 2)).clamp_min(1))
    slopes = torch.stack(squares, dim=1).sqrt()
    per_axis = torch.where(curvature > 0, slopes / curvature.clamp_min(1e-12), torch.inf)
    limit = max(surface.shape[-2:]) / 12**0.5  # a uniform guess over the surface
    return per_axis.square().mean(dim=1).sqrt().clamp(0.05, limit)
