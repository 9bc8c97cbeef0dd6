"""The page: pictures, figures and numbers of a registration in one HTML file that needs nothing else."""

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sn9reg import progress
from sn9reg.errors import ConfigError, OutputError
from sn9reg.offsets import Block, OffsetMap
from sn9reg.raster.files import PathLike, check_output, make_folder, write_file
from sn9reg.raster.scene import PairFiles
from sn9reg.report import figures
from sn9reg.report.figures import Scale
from sn9reg.report.views import Place, View, coarse_field, open_viewer, overview_factor, places_of_interest, uri
from sn9reg.score.scoring import Score, reference, score, score_rows
from sn9reg.tiepoints import TiePoints

PAGE = "report.html"
_FIGURES = ("before_after", "arrows", "offsets", "matches", "residuals")
_LAYERS = {"optical": "optical", "before": "SAR before", "after": "SAR after"}
_LIBRARIES = ("sn9reg", "torch", "rasterio", "numpy", "opencv-contrib-python")
_LARGEST = 9_500_000  # bytes of a page
_QUALITIES = (85, 60, 30, 10, 1)  # of WebP
Figures = dict[str, tuple[str, bytes]]  # name of the file -> what it shows, and the PNG


@dataclass(frozen=True)
class Run:
    """How a result came about."""

    command: str = ""  # as it was typed
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> time taken


def write_report(
    folder: PathLike,
    pair: PairFiles,
    offsets: OffsetMap,
    *,
    tiepoints: TiePoints | None = None,
    matches: TiePoints | None = None,
    places: Sequence[Place] = (),
    run: Run | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a page about an offset map, and its figures as PNG, into a folder, and return the page's path.

    tiepoints: the truth, for errors and score. matches: what the map was fitted to. places: to be shown at full
    resolution, before those that are chosen. Raises InputError for images that cannot be read, tie-points outside of
    them and a map that holds only NaN, OutputError where the folder cannot be written, ConfigError for a place outside
    the image and where matplotlib or jinja2 is missing.
    """
    check_report(folder, overwrite)
    factor = overview_factor(offsets.grid)
    with progress.part(0.0, 0.2, "read offsets"):
        dense = coarse_field(offsets, factor)
    scored = score(offsets, *pair.grids(), tiepoints) if tiepoints is not None else None
    for place in places:
        if not (0 <= place.x < offsets.grid.width and 0 <= place.y < offsets.grid.height):
            raise ConfigError(f"place {place.x:g},{place.y:g} lies outside the optical image")
    with progress.part(0.2, 0.8, "read images"), open_viewer(pair, offsets, dense) as viewer:
        whole = viewer.overview(dense, factor)
        chosen = [*places, *places_of_interest(dense, factor, whole.known)]
        if scored is not None:
            worst = scored.per_point.dropna(subset="error_px").nlargest(1, "error_px")
            xy = worst[["optical_col", "optical_row"]].to_numpy(float).tolist()
            chosen += [Place("the worst tie-point", x, y) for x, y in xy]
        views = [whole, *map(viewer.zoom, chosen)]
        progress.report(1.0)
    with progress.part(0.8, 1.0, "draw"):
        drawn = _figures(whole, dense, pair, offsets, matches, scored)
        html = _page(views, drawn, dense, offsets, scored, run or Run())
    make_folder(folder, parents=False)
    for name in _FIGURES:
        path = Path(folder) / f"{name}.png"
        if name in drawn:
            write_file(path, drawn[name][1], overwrite)
        else:
            path.unlink(missing_ok=True)
    page = Path(folder) / PAGE  # last: where it is, all of the report is, and nothing of one before
    write_file(page, html, overwrite)
    return page


def check_installed() -> None:
    """Raises ConfigError where what draws a report is not installed."""
    for name in ("jinja2", "matplotlib"):
        if find_spec(name) is None:
            raise ConfigError(f"a report needs {name}: pip install 'sn9reg[report]'")


def check_report(folder: PathLike, overwrite: bool = False) -> None:
    """Raises OutputError where a report could not be written in the end, ConfigError where what draws it is missing."""
    check_installed()
    check_folder(folder, "report", [PAGE, *(f"{name}.png" for name in _FIGURES)], overwrite)


def check_folder(folder: PathLike, kind: str, names: Sequence[str], overwrite: bool) -> None:
    """Raises OutputError where files of these names could not be written in a folder. kind: what it is to be."""
    target = Path(folder)
    exists = os.path.exists(target)
    if exists and not target.is_dir():
        raise OutputError(f"{folder}: is a file; a {kind} is a folder")
    for path in [target / name for name in names] if exists else [target]:
        check_output(path, overwrite)


def _figures(
    whole: View, dense: Block, pair: PairFiles, offsets: OffsetMap, matches: TiePoints | None, scored: Score | None
) -> Figures:
    scale = Scale.of(offsets.grid)
    agree = "Before and after: edges run on from tile to tile where the two agree"
    lead = "The offsets: from where the optical image has a place to where the SAR image has it"
    drawn = {
        "before_after": (agree, figures.before_and_after(whole)),
        "arrows": (lead, figures.arrows(whole, dense, scale)),
        "offsets": ("The offset map", figures.maps(whole, dense, scale)),
    }
    if matches is not None and len(matches):
        ends = matches.optical_xy + reference(*pair.grids(), matches)
        png = figures.matches(whole, matches, ends, scale)
        drawn["matches"] = ("The matches that the map was fitted to", png)
    if scored is not None:
        points = scored.per_point
        error = points[["dx", "dy"]].to_numpy() - points[["reference_dx", "reference_dy"]].to_numpy()
        png = figures.residuals(whole, points[["optical_col", "optical_row"]].to_numpy(float), error, scale)
        drawn["residuals"] = ("What is left at the tie-points", png)
    return drawn


def _page(
    views: Sequence[View], drawn: Figures, dense: Block, offsets: OffsetMap, scored: Score | None, run: Run
) -> str:
    """The page, at the best quality of pictures with which it is small enough."""
    facts = offsets.facts
    made = [("offset map made by sn9reg", facts["version"])] if "version" in facts else []
    content = {
        "title": f"{facts.get('optical', 'optical')} and {facts.get('sar', 'SAR')}",
        "registered": facts.get("registered"),
        "sentence": _sentence(facts),
        "layers": _LAYERS,
        "numbers": _numbers(offsets, dense),
        "scores": [(label, before, after) for label, after, before in score_rows(scored)] if scored else [],
        "facts": sorted(facts.items()),
        "run": run,
        "versions": [*made, *((name, version(name)) for name in _LIBRARIES), ("Python", platform.python_version())],
    }
    for quality in _QUALITIES:
        shown = [_shown(view, quality) for view in views]
        pictures = [(name, caption, uri(figures.decoded(png), quality)) for name, (caption, png) in drawn.items()]
        html = rendered("page.html", content | {"views": shown, "figures": pictures})
        if len(html) < _LARGEST:
            break
    return html


def rendered(name: str, content: Mapping[str, Any]) -> str:
    """A page of a template; style and script, which it includes, lie beside it."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(loader=PackageLoader("sn9reg", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(name).render(content)


def _sentence(facts: Mapping[str, str]) -> str:
    reason = facts.get("reason", "")
    if "registered" not in facts:
        return "The offset map does not say whether its pair was registered: it was made by another program."
    if facts["registered"] != "yes":
        return f"Not registered: {reason}."
    right = ""
    with suppress(KeyError, ValueError):  # another program may have written another text
        right = f", right to about {float(facts['expected_error_px']):.1f} optical px"
    mark = " (not calibrated)" if right and facts.get("calibrated") == "no" else ""
    return f"Registered{right}{mark}: {reason}."


def _shown(view: View, quality: int) -> dict[str, Any]:
    window, (rows, cols) = view.window, view.window.slices()
    return {
        "name": view.name,
        "where": f"columns {window.col} to {cols.stop - 1}, rows {window.row} to {rows.stop - 1}",
        "per_pixel": view.factor,
        "width": view.optical.shape[1],
        "height": view.optical.shape[0],
        "layers": {name: uri(getattr(view, name), quality) for name in _LAYERS},
    }


def _numbers(offsets: OffsetMap, dense: Block) -> list[tuple[str, str]]:
    """What the map says, in units of length and in pixels."""
    scale, grid = Scale.of(offsets.grid), offsets.grid
    length = np.hypot(*dense[:2])
    metric = np.hypot(*(band * factor for band, factor in zip(dense[:2], scale.per_px, strict=True)))
    known = np.isfinite(length)

    def both(px: float, m: float) -> str:
        return f"{px:.2f} px" if scale.unit == "px" else f"{px:.2f} px, {m:.2f} m"

    rows = [
        ("optical image", f"{grid.width} x {grid.height} px, {grid.describe()['crs']}"),
        ("mean offset", both(float(length[known].mean()), float(metric[known].mean()))),
        ("largest offset", both(float(length[known].max()), float(metric[known].max()))),
        ("pixels without an offset", f"{1 - known.mean():.1%}"),
    ]
    if len(dense) > 2 and np.isfinite(dense[2]).any():
        middle = float(np.nanmedian(dense[2]))
        rows.append(("median sigma", both(middle, middle * float(np.sqrt(np.prod(scale.per_px))))))
    return rows
