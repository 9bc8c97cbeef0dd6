"""`sn9reg info`: what an offset map says of itself. Also `rio sn9reg`, a plug-in of rasterio's command line."""

from typing import Any

import click
import numpy as np

from sn9reg.cli import OneLine, options
from sn9reg.errors import printable
from sn9reg.fit.correspondences import Floats
from sn9reg.offsets import open_offsets
from sn9reg.raster.files import open_raster, reading
from sn9reg.raster.grid import Grid
from sn9reg.score.scoring import metres

# Displacements are smooth: this many pixels a side are enough for statistics.
_MAX_SIDE = 1024


# rasterio adds its plug-ins under the command's own name, and `rio info` is taken. As a plug-in it runs under a group
# that knows nothing of sn9reg's errors.
@click.command("sn9reg", cls=OneLine, short_help="Facts and statistics of an sn9reg offset map.")
@click.argument("offsets_path", metavar="OFFSETS")
@options.as_json
def info(offsets_path: str) -> None:
    """Say what the offset map OFFSETS is: size, CRS, bands, facts, and how long and one-sided its offsets are."""
    with open_offsets(offsets_path) as offsets:
        grid = offsets.grid
        bands = {"bands": ["dx", "dy", "sigma"][: offsets.count], "facts": dict(offsets.facts)}
    with open_raster(offsets_path) as dataset, reading(offsets_path):
        # Whole pixels, not means, so that a NaN stays where it is.
        step = max(1, -(-max(grid.shape) // _MAX_SIDE))
        values = dataset.read([1, 2], out_shape=(2, -(-grid.height // step), -(-grid.width // step)))
    facts = grid.describe() | bands | {"statistics": _statistics(values.reshape(2, -1).T.astype(np.float64), grid)}
    options.say(facts, _lines(facts))


def _statistics(vectors: Floats, grid: Grid) -> dict[str, Any]:
    """Lengths in px and metres, and the direction (x, y) along which the offsets vary most."""
    known = vectors[np.isfinite(vectors).all(axis=1)]
    result: dict[str, Any] = {"valid_percent": 100.0 * len(known) / len(vectors)}
    if not len(known):
        return result
    centre = np.array([[(grid.width - 1) / 2, (grid.height - 1) / 2]])
    for unit, steps in {"px": known, **({"m": metres(grid, centre, known)} if grid.crs else {})}.items():
        length = np.hypot(steps[:, 0], steps[:, 1])
        result |= {f"{name}_{unit}": float(getattr(length, name)()) for name in ("min", "mean", "max")}
    variance, axes = np.linalg.eigh(np.cov(known.T, ddof=0))
    if variance[1] > 1e-12:
        direction = axes[:, 1] * (1 if known.mean(axis=0) @ axes[:, 1] >= 0 else -1)
        result["direction"] = direction.tolist()
        result["direction_percent"] = float(100.0 * variance[1] / variance.sum())
    return result


def _lines(facts: dict[str, Any]) -> list[str]:
    statistics = facts["statistics"]
    rows = [("size", f"{facts['width']} x {facts['height']} px"), ("crs", facts["crs"])]
    rows += [("transform", ", ".join(f"{v:.10g}" for v in facts["transform"])), ("bands", ", ".join(facts["bands"]))]
    rows += [*facts["facts"].items(), ("valid", f"{statistics['valid_percent']:.1f} %")]
    for unit in ("px", "m"):
        if f"mean_{unit}" in statistics:
            low, mean, high = (statistics[f"{name}_{unit}"] for name in ("min", "mean", "max"))
            rows.append((f"length, {unit}", f"{low:.2f} to {high:.2f}, mean {mean:.2f}"))
    if "direction" in statistics:
        x, y = statistics["direction"]
        rows.append(("direction", f"({x:.2f}, {y:.2f}) holds {statistics['direction_percent']:.0f} % of the variance"))
    return [printable(f"{name:<11} {value}") for name, value in rows]
