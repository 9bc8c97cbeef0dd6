"""A matcher over places and times: correct match rates on a manifest (see `training.geosplit`) under the navigation
paper's protocols, held-out places and held-out years, for each season and year, and as a map. Source: S. Bertrand et
al., "Learning-based SAR-Optical Registration for Navigation", sections V-A, V-C.3 and V-D, Figs. 6, 11 and 12. Writes
errors.csv (every window), protocols.csv, times.csv (each optical by each SAR time), table.md and map.png."""

from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import pandas as pd

from pipelines.common import PATH, Command, drawing, markdown, out_option, write
from sn9reg import progress
from sn9reg.cli import options
from sn9reg.errors import ConfigError, naming
from sn9reg.matchers.base import Matcher, make_matcher
from sn9reg.options import check
from sn9reg.raster.degradation import Degradation
from sn9reg.raster.files import make_folder
from sn9reg.raster.grid import Window
from sn9reg.raster.view import Patch
from sn9reg.score.benchmark import locate
from sn9reg.score.metrics import cmr
from sn9reg.training.data import amplitude
from sn9reg.training.geosplit import Acquisition, Pair, Season, paired, parted, read_manifest, read_window
from sn9reg.training.sample import part

RADII = (0, 1, 2)
UNKNOWN = "unknown"
SEASONS = (*get_args(Season), UNKNOWN)
PROTOCOLS = ("temporal", "spatial")
RATES = "CMR(0) / (1) / (2)"


@click.command(cls=Command)
@click.option("--manifest", type=PATH, required=True, help="CSV: optical, sar, lon, lat, year, season.")
@out_option("cross_season")
@options.matcher
@options.matcher_options
@click.option("--longitude", type=float, help="Places west of it are held out [default: half of all].")
@click.option("--year", type=int, help="Pairs of other years are held out [default: all but the first].")
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="temporal", show_default=True,
              help="Of which the tables of times and the map show what is held out.")  # fmt: skip
@click.option("--reference", type=click.IntRange(16), default=256, show_default=True, help="Optical patch, px.")
@click.option("--template", type=click.IntRange(8), default=192, show_default=True, help="SAR template, px.")
@click.option("--windows", type=click.IntRange(1), default=1, show_default=True, help="Of each pair.")
@click.option("--limit", type=click.IntRange(1), help="Measure so many pairs of images only, drawn from all.")
@click.option("--sar-band", type=click.IntRange(1), default=1, show_default=True)
@click.option("--looks", type=options.POSITIVE, help="Speckle of so many looks on the template; the paper: 8.")
@click.option("--blur", type=click.FloatRange(0, 1000), default=0.0, show_default=True, help="The paper: 0.5.")
def main(
    manifest: Path, out: Path, matcher: str, matcher_options: dict[str, Any], longitude: float | None,
    year: int | None, protocol: str, limit: int | None, looks: float | None, blur: float, **sides: int
) -> None:  # fmt: skip
    """Measure a matcher, trained or not, on all pairs of images of one place, and on those that are held out. Weights,
    --matcher-option weights=FILE, must have been trained with the same longitude or year, as by
    pipelines/training/meow.yaml; what that holds out to know when to stop lies among the places to train on."""
    if not sides["template"] < sides["reference"]:
        raise ConfigError(f"--template {sides['template']} must be smaller than --reference {sides['reference']}")
    rows, degradation = read_manifest(manifest), check(Degradation, {"looks": looks, "blur": blur}, "the templates")
    longitude = float(np.median([lon for lon, _ in {row.place for row in rows}])) if longitude is None else longitude
    year = min((row.year for row in rows if row.year), default=0) if year is None else year
    pairs, notes = paired(rows), list[str]()
    sets: dict[str, dict[Pair, str]] = {}
    for name in PROTOCOLS:
        try:
            train, test = parted(rows, longitude if name == "spatial" else None, year)
            sets[name] = dict.fromkeys(train, "training") | dict.fromkeys(test, "test")
        except ConfigError as error:
            sets[name] = {}
            notes.append(f"No {name} separation: {error}.")
    chosen = np.sort(np.random.default_rng(0).permutation(len(pairs))[:limit])
    made = make_matcher(matcher, **matcher_options)
    make_folder(out)
    with options.progress_bar("cross-season"):
        found = measured([pairs[k] for k in chosen], made, degradation, **sides)
    for name, known in sets.items():
        found[name] = [known.get(pair, "") for pair in found["pair"]]
    found = found.drop(columns="pair")
    write(out / "errors.csv", found.to_csv(index=False))
    write(out / "protocols.csv", (protocols := by_protocol(found)).to_csv(index=False))
    held = found[found[protocol] == "test"] if (found[protocol] == "test").any() else found
    times = ["optical_year", "optical_season", "sar_year", "sar_season"]
    write(out / "times.csv", rates(held, times).to_csv(index=False))
    changed = f", SAR templates under {looks} looks and a blur of {blur} px" if looks or blur else ""
    sizes = f"{sides['template']} in {sides['reference']} px"
    head = f"`{matcher}`, {sizes}, {sides['windows']} a pair of images{changed}."
    held_out = [f"places west of {longitude:.4f} degrees", *([f"images not both of {year}"] if year else [])]
    text = " ".join([head, f"Held out: {' and '.join(held_out)}.", *notes]) + "\n\n" + protocol_table(protocols)
    which = "all pairs" if held is found else f"held out, {protocol}"
    for kind in ("SAR", "optical"):
        text += f"\n{RATES} by season and year of the {kind} image ({which}):\n\n{seasons(held, kind.lower())}"
    write(out / "table.md", text)
    draw(found if protocol == "spatial" else held, protocol, longitude, out / "map.png")
    click.echo(text)


def measured(
    pairs: list[Pair], matcher: Matcher, degradation: Degradation, reference: int, template: int, windows: int,
    sar_band: int,
) -> pd.DataFrame:  # fmt: skip
    """A row for each window of each pair. All pairs of a place are asked for the same windows and templates."""
    rows, places = [], sorted({optical.place for optical, _ in pairs})
    for index, pair in enumerate(pairs):
        optical, sar = pair
        facts = {"lon": optical.place[0], "lat": optical.place[1], **time_of(optical, "optical"), **time_of(sar, "sar")}
        for window in range(windows):
            random = np.random.default_rng([places.index(optical.place), window])
            images = read_window(pair, reference, sar_band, random)
            corner = random.integers(0, reference - template + 1, 2)
            seen, other = (Patch(image, np.ones(image.shape[1:], bool)) for image in images)
            cut = part(amplitude(other), Window(int(corner[0]), int(corner[1]), template, template))
            with naming(sar.sar):
                cut = Patch(degradation(cut.values, np.random.default_rng([index, window])), cut.valid)
            error = float(np.hypot(*(np.rint(locate(matcher, seen, cut)) - corner)))
            rows.append({**facts, "window": window, "error": error, "pair": pair})
        progress.report((index + 1) / len(pairs))
    return pd.DataFrame(rows)


def time_of(acquisition: Acquisition, kind: str) -> dict[str, str]:
    year, season = acquisition.year, acquisition.season
    return {f"{kind}_year": str(year or UNKNOWN), f"{kind}_season": season or UNKNOWN}


def rates(found: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Windows and CMR of each group."""
    rows = []
    for key, group in found.groupby(by):
        facts = dict(zip(by, key, strict=True)) | {"windows": len(group)}
        rows.append(facts | {f"cmr{radius}": cmr(group["error"], radius) for radius in RADII})
    return pd.DataFrame(rows)


def by_protocol(found: pd.DataFrame) -> pd.DataFrame:
    """CMR of all, and of what either protocol holds out and trains on."""
    parts = [rates(found.assign(protocol="none", part="all"), ["protocol", "part"])]
    for name in PROTOCOLS:
        known = found[found[name] != ""].assign(protocol=name)
        parts.append(rates(known.assign(part=known[name]), ["protocol", "part"]))
    return pd.concat(parts)


def said(row: Any) -> str:
    return " / ".join(f"{row[f'cmr{radius}']:.3f}" for radius in RADII)


def protocol_table(protocols: pd.DataFrame) -> str:
    cells = [(row["protocol"], row["part"], str(row["windows"]), said(row)) for row in protocols.to_dict("records")]
    return markdown(("separation", "part", "windows", RATES), cells)


def seasons(held: pd.DataFrame, kind: str) -> str:
    """Markdown: a row for each season and a column for each year of one sensor's images."""
    year, season = f"{kind}_year", f"{kind}_season"
    cells = {(row[season], row[year]): said(row) for row in rates(held, [year, season]).to_dict("records")}
    years = sorted({of for _, of in cells})
    rows = [(one, *(cells.get((one, of), "") for of in years)) for one in SEASONS if any(one == s for s, _ in cells)]
    return markdown(("", *years), rows)


def draw(found: pd.DataFrame, protocol: str, longitude: float, path: Path) -> None:
    """A map for each radius; places to train on are crosses."""
    with drawing(path, 110, columns=len(RADII), sharey=True, figsize=(15, 3.5)) as (canvas, (axes,)):
        for axis, radius in zip(axes, RADII, strict=True):
            for mark, group in found.groupby(np.where(found[protocol] == "training", "x", "o")):
                places = rates(group, ["lon", "lat"])
                how = {"c": places[f"cmr{radius}"], "marker": str(mark), "vmin": 0, "vmax": 1, "cmap": "viridis"}
                drawn = axis.scatter(places["lon"], places["lat"], **how)
            if protocol == "spatial":
                axis.axvline(longitude, color="grey", linestyle=":")
            axis.set(title=f"CMR({radius})", xlabel="longitude", aspect=1 / np.cos(np.radians(found["lat"].mean())))
        axes[0].set_ylabel("latitude")
        canvas.colorbar(drawn, ax=axes)


if __name__ == "__main__":
    main()
