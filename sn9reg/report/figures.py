"""Figures of a registration, each as PNG. Lengths are metres where the images have a place on the map, else pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sn9reg.fit.correspondences import Floats
from sn9reg.offsets import Block
from sn9reg.raster.grid import Grid, Points
from sn9reg.report.views import View, checkerboard
from sn9reg.score.scoring import metres

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _DPI = 10.0, 110  # inches of a figure's longer side, pixels per inch
_ARROWS = 24  # along the longer side
_LINES = 1500  # matches drawn at most


@dataclass(frozen=True)
class Scale:
    """What a pixel of the optical image is worth. unit: `m`, or `px` in a pixel frame. per_px: (2,) units of a step
    along columns and rows. north: direction of it in the picture, x and y, or None."""

    unit: str
    per_px: Floats
    north: Floats | None

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

    def draw(axes: list[Axes]) -> None:
        for axis, sar, title in zip(axes, (view.before, view.after), ("before", "after"), strict=True):
            axis.imshow(checkerboard(view, sar))
            axis.set_title(f"{title}: optical and SAR in turns")

    return _figure(view, 2, draw)


def arrows(view: View, field: Block, scale: Scale) -> bytes:
    """The offsets as arrows over the optical image, in true length."""

    def draw(axes: list[Axes]) -> None:
        height, width = view.optical.shape[:2]
        step = max(1, max(height, width) // _ARROWS)
        y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
        u, v = (band[y, x] / view.factor for band in field[:2])
        known = np.isfinite(u) & np.isfinite(v)
        axes[0].imshow(view.optical)
        ends = (values[known] for values in (x, y, u, v))
        axes[0].quiver(*ends, angles="xy", scale_units="xy", scale=1, width=0.0025, color="#ff4d00")
        axes[0].set_title("from every place to where the SAR image has it, true length")
        _furniture(axes[0], view, scale)

    return _figure(view, 1, draw)


def maps(view: View, field: Block, scale: Scale) -> bytes:
    """dx, dy and, where known, sigma, as colours."""
    names = ("dx (right is positive)", "dy (down is positive)", "sigma (expected error)")[: len(field)]
    factors = (*scale.per_px, math.sqrt(float(np.prod(scale.per_px))))

    def draw(axes: list[Axes]) -> None:
        for axis, band, name, factor in zip(axes, field, names, factors, strict=False):
            values = band * factor
            limit = float(np.nanmax(np.abs(values))) or 1.0
            signed = not name.startswith("sigma")
            image = axis.imshow(
                values, cmap="RdBu_r" if signed else "viridis", vmin=-limit if signed else 0, vmax=limit,
                interpolation="nearest",
            )  # fmt: skip
            axis.set_title(f"{name}, {scale.unit}")
            axis.figure.colorbar(image, ax=axis, shrink=0.75)
            _furniture(axis, view, scale, colour="black")

    return _figure(view, len(names), draw)


def matches(view: View, optical_xy: Points, ends_xy: Points, inlier: npt.NDArray[np.bool_], scale: Scale) -> bytes:
    """Matches as lines from their place in the optical image to where the SAR image has it, both (N, 2) in optical
    pixels: those that the warp follows, and those that it does not."""
    shown = np.linspace(0, len(inlier) - 1, min(len(inlier), _LINES)).astype(int)

    def draw(axes: list[Axes]) -> None:
        axes[0].imshow(view.optical)
        for which, colour, name in ((~inlier, "#ff2d78", "outliers"), (inlier, "#35e0ff", "inliers")):
            some = shown[which[shown]]
            start, end = (_on(view, points[some]) for points in (optical_xy, ends_xy))
            axes[0].plot(*np.stack([start, end], axis=1).T, color=colour, linewidth=0.9)
            axes[0].plot(*start.T, ".", color=colour, markersize=2.5, label=f"{int(which.sum())} {name}")
        axes[0].legend(loc="upper right", fontsize=8, framealpha=0.9)
        axes[0].set_title("matches, from the optical place to that in the SAR image")
        _furniture(axes[0], view, scale)
        height, width = view.optical.shape[:2]
        axes[0].set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))

    return _figure(view, 1, draw)


def residuals(view: View, optical_xy: Points, error_px: Points, scale: Scale) -> bytes:
    """What is left at tie-points: (N, 2) offset minus reference, optical pixels; as arrows, and how long they are."""

    def draw(axes: list[Axes]) -> None:
        length = np.hypot(*(error_px * scale.per_px).T)
        good = np.isfinite(length)
        start, step = _on(view, optical_xy[good]), error_px[good] / view.factor
        axes[0].imshow(view.optical)
        axes[0].quiver(
            *start.T, *step.T, length[good], angles="xy", scale_units="xy", scale=0.2, width=0.004, cmap="autumn_r"
        )
        axes[0].plot(*start.T, ".", color="#35e0ff", markersize=3)
        axes[0].set_title("error at tie-points, five times its length")
        _furniture(axes[0], view, scale)
        axes[1].hist(length[good], bins=min(30, max(5, len(length) // 5)), color="#3576c4")
        axes[1].set(xlabel=f"error, {scale.unit}", ylabel="tie-points", title=f"{int(good.sum())} tie-points")
        if good.any():
            for name, value, style in (("median", np.median(length[good]), "-"), ("mean", length[good].mean(), "--")):
                axes[1].axvline(value, color="black", linestyle=style, label=f"{name} {value:.2f} {scale.unit}")
            axes[1].legend()

    return _figure(view, 2, draw, plain=(1,))


def _on(view: View, optical_xy: Points) -> Points:
    """Pixels of a view's pictures of optical pixels."""
    corner = np.array([view.window.col, view.window.row])
    return (optical_xy - corner + 0.5) / view.factor - 0.5


def _furniture(axis: Axes, view: View, scale: Scale, colour: str = "white") -> None:
    """A scale bar and an arrow to the north, on a ground that both are read on."""
    import matplotlib.patheffects as effects

    height, width = view.optical.shape[:2]
    per_pixel = float(scale.per_px[0]) * view.factor
    length = _round_length(0.25 * width * per_pixel)
    ground: dict[str, Any] = {
        "path_effects": [effects.withStroke(linewidth=3, foreground="white" if colour == "black" else "black")]
    }
    x, y = 0.04 * width, 0.95 * height
    axis.plot([x, x + length / per_pixel], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt", **ground)
    axis.text(x, y - 0.015 * height, f"{length:g} {scale.unit}", color=colour, fontsize=9, va="bottom", **ground)
    if scale.north is not None:
        reach = 0.07 * min(width, height)
        foot = np.array([0.93 * width, 0.93 * height])
        head = foot + reach * scale.north
        style = {"arrowstyle": "-|>", "color": colour, "lw": 1.8}
        axis.annotate("", xy=tuple(head), xytext=tuple(foot), arrowprops=style)
        x, y = foot + 1.3 * reach * scale.north
        axis.text(x, y, "N", color=colour, ha="center", va="center", fontsize=9, **ground)


def _round_length(length: float) -> float:
    """The largest 1, 2 or 5 times a power of ten up to a length."""
    power = 10.0 ** math.floor(math.log10(max(length, 1e-9)))
    return max(m for m in (1, 2, 5) if m * power <= length or m == 1) * power


def _figure(view: View, count: int, draw: Callable[[list[Axes]], None], plain: tuple[int, ...] = ()) -> bytes:
    """PNG of as many panels of a view's shape side by side. plain: panels that are diagrams, with axes."""
    from matplotlib.figure import Figure

    height, width = view.optical.shape[:2]
    side = (_WIDTH if count == 1 else 1.4 * _WIDTH) / count
    tall = min(1.6 * side, max(3.0, side * height / width)) + 0.5
    figure = Figure(figsize=(side * count, tall), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, count)))
    for k, axis in enumerate(axes):
        if k not in plain:
            axis.set_axis_off()
    draw(axes)
    target = io.BytesIO()
    # No date and no version among the file's facts: the same registration, the same bytes.
    figure.savefig(target, format="png", dpi=_DPI, metadata={"Software": None})
    return target.getvalue()
