"""Register a simulated pair: align, score, report, by `python -m pipelines.demo FOLDER`."""

from pathlib import Path

import click

from pipelines.common import PATH, Command
from sn9reg.offsets import open_offsets
from sn9reg.raster.scene import PairFiles
from sn9reg.registration import register
from sn9reg.report import Run, write_report
from sn9reg.score.scoring import score
from sn9reg.simulate import simulate
from sn9reg.tiepoints import read_tiepoints


@click.command(cls=Command)
@click.argument("folder", type=PATH, default=Path("demo"))
def main(folder: Path) -> None:
    """Simulate a pair into FOLDER, register it, say how right it is and show it."""
    click.echo(f"simulating an optical and a SAR scene of about 2400 x 2400 px in {folder} ...")
    files = simulate(folder, 2400, 2400, seed=1, overwrite=True)
    click.echo("registering ...")
    pair = PairFiles(files.optical, files.sar)
    registration = register(pair)
    path = folder / "offsets.tif"
    registration.offsets(sigma=True).write(path, overwrite=True)
    click.echo(f"{path}: {registration.warp.model} warp, {registration.verdict.reason}")
    grids = registration.optical, registration.sar
    points = read_tiepoints(files.tiepoints, *grids)
    matches, run = registration.tiepoints(), Run(f"python -m pipelines.demo {folder}", registration.seconds)
    with open_offsets(path) as offsets:
        result = score(offsets, *grids, points).as_dict()
        out = folder / "report"
        page = write_report(out, pair, offsets, tiepoints=points, matches=matches, run=run, overwrite=True)
    before = result["without_registration"]
    click.echo(f"\n{result['n']} tie-points          before    after")
    for label, key in (("mean error, px", "mean_px"), ("median, px", "median_px"), ("SpaceNet 9 score", "sn9_score")):
        click.echo(f"{label:20}{before[key]:10.2f}{result[key]:9.2f}")
    click.echo(f"\nopen {page} in a browser, or look at {page.parent / 'before_after.png'}")
    if not registration.registered:
        raise SystemExit(3)


if __name__ == "__main__":
    main()
