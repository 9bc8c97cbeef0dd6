"""Figures of a registration, each as PNG. Lengths are metres where the images have a place on the map, else pixels."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sn9reg.fit.correspondences import Floats
from sn9reg.offsets import Block
from sn9reg.raster.grid import Grid, Points
from sn9reg.report.views import Picture, View, checkerboard
from sn9reg.score.scoring import metres
from sn9reg.tiepoints import TiePoints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _DPI = 10.0, 110  # inches of a figure's longer side, pixels per inch
_ARROWS = 24  # along the longer side
_LINES = 1500  # matches drawn at most
_COLOURS = "#35e0ff", "#ffe14d", "#7dff5c", "#ff9a3d", "#b98cff", "#ffffff"  # of inliers, by source


@dataclass(frozen=True)
class Scale:
    """What a pixel of the optical image is worth."""

    unit: str  # `m`, or `px` in a pixel frame
    per_px: Floats  # (2,) units of a step along columns and rows
    north: Floats | None  # (2,) direction of it in the picture, x and y; None in a pixel frame

    @classmethod
    def of(cls, grid: Grid) -> Scale:
        """Measured in the middle of the image."""
        if grid.crs is None:
            return cls("px", np.ones(2), None)
        middle = np.tile([(grid.width - 1) / 2, (grid.height - 1) / 2], (2, 1))
        sides = metres(grid, middle, np.eye(2))  # east and north of a step to the right, and of a step down
        north = np.linalg.solve(sides.T, [0.0, 1.0])
        return cls("m", np.hypot(*sides.T), north / np.hypot(*north))


def before_and_after(view: View) -> bytes:
    """Checkerboards of the optical and the SAR image, as they lie and as the offsets bring them."""
    figure, axes = _panels(view, 2)
    for axis, sar, title in zip(axes, (view.before, view.after), ("before", "after"), strict=True):
        axis.imshow(checkerboard(view, sar))
        axis.set_title(f"{title}: optical and SAR in turns")
    return _png(figure)


def arrows(view: View, field: Block, scale: Scale) -> bytes:
    """The offsets as arrows over the optical image, in true length."""
    figure, (axis,) = _panels(view, 1)
    height, width = view.optical.shape[:2]
    step = max(1, max(height, width) // _ARROWS)
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    u, v = (band[y, x] / view.factor for band in field[:2])
    known = np.isfinite(u) & np.isfinite(v)
    axis.imshow(view.optical)
    ends = (values[known] for values in (x, y, u, v))
    axis.quiver(*ends, angles="xy", scale_units="xy", scale=1, width=0.0025, color="#ff4d00")
    _furniture(axis, view, scale, "from every place to where the SAR image has it, true length")
    return _png(figure)


def maps(view: View, field: Block, scale: Scale) -> bytes:
    """dx, dy and, where known, sigma, as colours."""
    names = ("dx (right is positive)", "dy (down is positive)", "sigma (expected error)")[: len(field)]
    factors = (*scale.per_px, math.sqrt(float(np.prod(scale.per_px))))
    figure, axes = _panels(view, len(names))
    for axis, band, name, factor in zip(axes, field, names, factors, strict=False):
        values = band * factor
        limit = float(np.nanmax(np.abs(values))) or 1.0
        colours, lowest = ("viridis", 0) if name.startswith("sigma") else ("RdBu_r", -limit)
        image = axis.imshow(values, cmap=colours, vmin=lowest, vmax=limit, interpolation="nearest")
        figure.colorbar(image, ax=axis, shrink=0.75)
        _furniture(axis, view, scale, f"{name}, {scale.unit}", colour="black")
    return _png(figure)


def matches(view: View, found: TiePoints, ends_xy: Points, scale: Scale) -> bytes:
    """Matches as lines from their place in the optical image to where the SAR image has it, `ends_xy`, (N, 2) optical
    pixels: those that the warp follows, by source if there are several, and those that it does not."""
    figure, (axis,) = _panels(view, 1)
    axis.imshow(view.optical)
    inlier = np.ones(len(found), bool) if found.inlier is None else found.inlier
    groups = [(~inlier, "#ff2d78", "outliers")]
    if found.source is None:
        groups.append((inlier, _COLOURS[0], "inliers"))
    else:
        names = sorted(set(found.source.tolist()))
        of_each = zip(names, itertools.cycle(_COLOURS), strict=False)
        groups += [(inlier & (found.source == name), colour, f"inliers, {name}") for name, colour in of_each]
    shown = np.linspace(0, len(found) - 1, min(len(found), _LINES)).astype(int)
    for which, colour, name in groups:
        some = shown[which[shown]]
        start, end = (_on(view, points[some]) for points in (found.optical_xy, ends_xy))
        axis.plot(*np.stack([start, end], axis=1).T, color=colour, linewidth=0.9)
        axis.plot(*start.T, ".", color=colour, markersize=2.5, label=f"{int(which.sum())} {name}")
    axis.legend(loc="upper right", fontsize=8, framealpha=0.9)
    _furniture(axis, view, scale, "matches, from the optical place to that in the SAR image")
    height, width = view.optical.shape[:2]
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return _png(figure)


def residuals(view: View, optical_xy: Points, error_px: Points, scale: Scale) -> bytes:
    """What is left at tie-points: (N, 2) offset minus reference, optical pixels; as arrows, and how long they are."""
    figure, (picture, diagram) = _panels(view, 2)
    length = np.hypot(*(error_px * scale.per_px).T)
    good = np.isfinite(length)
    length, start, step = length[good], _on(view, optical_xy[good]), error_px[good] / view.factor
    picture.imshow(view.optical)
    picture.quiver(*start.T, *step.T, length, angles="xy", scale_units="xy", scale=0.2, width=0.004, cmap="autumn_r")
    picture.plot(*start.T, ".", color="#35e0ff", markersize=3)
    _furniture(picture, view, scale, "error at tie-points, five times its length")
    diagram.set_axis_on()
    diagram.hist(length, bins=min(30, max(5, len(good) // 5)), color="#3576c4")
    diagram.set(xlabel=f"error, {scale.unit}", ylabel="tie-points", title=f"{len(length)} tie-points")
    if len(length):
        for name, value, line in (("median", np.median(length), "-"), ("mean", length.mean(), "--")):
            diagram.axvline(value, color="black", linestyle=line, label=f"{name} {value:.2f} {scale.unit}")
        diagram.legend()
    return _png(figure)


def _on(view: View, optical_xy: Points) -> Points:
    """Pixels of a view's pictures of optical pixels."""
    corner = np.array([view.window.col, view.window.row])
    return (optical_xy - corner + 0.5) / view.factor - 0.5


def _furniture(axis: Axes, view: View, scale: Scale, title: str, colour: str = "white") -> None:
    """A title, a scale bar and an arrow to the north, on a ground that both are read on."""
    import matplotlib.patheffects as effects

    axis.set_title(title)
    height, width = view.optical.shape[:2]
    per_pixel = float(scale.per_px[0]) * view.factor
    length = _round_length(0.25 * width * per_pixel)
    stroke = effects.withStroke(linewidth=3, foreground="white" if colour == "black" else "black")
    ground: dict[str, Any] = {"path_effects": [stroke]}
    x, y = 0.04 * width, 0.95 * height
    axis.plot([x, x + length / per_pixel], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt", **ground)
    axis.text(x, y - 0.015 * height, f"{length:g} {scale.unit}", color=colour, fontsize=9, va="bottom", **ground)
    if scale.north is not None:
        reach = 0.07 * min(width, height)
        foot = np.array([0.93 * width, 0.93 * height])
        style = {"arrowstyle": "-|>", "color": colour, "lw": 1.8}
        axis.annotate("", xy=tuple(foot + reach * scale.north), xytext=tuple(foot), arrowprops=style)
        x, y = foot + 1.3 * reach * scale.north
        axis.text(x, y, "N", color=colour, ha="center", va="center", fontsize=9, **ground)


def _round_length(length: float) -> float:
    """The largest 1, 2 or 5 times a power of ten up to a length."""
    power = 10.0 ** math.floor(math.log10(max(length, 1e-9)))
    return max(m for m in (1, 2, 5) if m * power <= length or m == 1) * power


def _panels(view: View, count: int) -> tuple[Figure, list[Axes]]:
    """As many panels of a view's shape side by side, without axes."""
    from matplotlib.figure import Figure

    height, width = view.optical.shape[:2]
    side = (_WIDTH if count == 1 else 1.4 * _WIDTH) / count
    tall = min(1.6 * side, max(3.0, side * height / width)) + 0.5
    figure = Figure(figsize=(side * count, tall), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, count)))
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


def _png(figure: Figure) -> bytes:
    """The same for the same figure: without date and version among the file's facts."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=_DPI, metadata={"Software": None})
    return target.getvalue()


def decoded(png: bytes) -> Picture:
    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
