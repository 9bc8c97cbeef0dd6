"""`sn9reg bench`: measure a matcher."""

from typing import Any

import click

from sn9reg.cli import options


@click.group()
def bench() -> None:
    """Measure a matcher."""


@bench.command()
@click.argument("folder")
@options.matcher
@options.matcher_options
@click.option("--reference", type=click.IntRange(16, 16_384), default=256, show_default=True, help="Optical patch, px.")
@click.option("--template", type=click.IntRange(8, 16_384), default=192, show_default=True, help="SAR template, px.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many pairs, spread over their names.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the templates' places.")
@click.option("--looks", type=options.POSITIVE, help="Speckle of so many looks on the template, an amplitude.")
@click.option("--blur", type=click.FloatRange(0, 1000), default=0.0, show_default=True, help="Its blur, sigma in px.")
@click.option("--lee", type=click.FloatRange(0, min_open=True), help="Filter it as Lee does, of so many looks.")
@click.option("--rotate", type=float, default=0.0, show_default=True, help="Turn templates, at most so many degrees.")
@options.device
@options.as_json
def patches(
    matcher: str, matcher_options: dict[str, Any], looks: float | None, blur: float, lee: float | None,
    device: str, **given: Any
) -> None:
    """Look for SAR templates in optical patches: FOLDER holds NAME_opt.*, NAME_sar.* and, optionally, NAME_mask.*."""
    from sn9reg.machine import computing_on
    from sn9reg.matchers.base import make_matcher
    from sn9reg.options import check
    from sn9reg.raster.degradation import Degradation
    from sn9reg.score.benchmark import bench_patches

    with computing_on(device), options.progress_bar("bench"):
        degradation = check(Degradation, {"looks": looks, "blur": blur, "lee": lee}, "the patches")
        found = bench_patches(matcher=make_matcher(matcher, **matcher_options), degradation=degradation, **given)
    changes = {"looks": looks, "blur": blur, "lee": lee, "rotate": given["rotate"]}
    result = found.as_dict() | {name: value for name, value in changes.items() if value}
    rates = "  ".join(f"<= {t} px: {rate:.3f}" for t, rate in result["cmr"].items())
    line = f"{matcher}, {result['n']} pairs: {rates}  mean {result['mean_l2_px']:.2f} px"
    lines = (line, f"{result['ms_per_pair']:.0f} ms a pair (median)")
    options.say(result, lines, allow_nan=True)  # where a matcher finds nothing its mean error is infinite
