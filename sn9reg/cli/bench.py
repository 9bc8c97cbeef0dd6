"""`sn9reg bench`: measure a matcher."""

from __future__ import annotations

import json

import click

from sn9reg.cli import options


@click.group()
def bench() -> None:
    """Measure a matcher."""


@bench.command()
@click.argument("folder")
@click.option("--matcher", default="structure", show_default=True, help="See `sn9reg matchers`.")
@click.option("--reference", type=click.IntRange(min=16), default=256, show_default=True, help="Optical patch, px.")
@click.option("--template", type=click.IntRange(min=8), default=192, show_default=True, help="SAR template, px.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many pairs, by name.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the templates' places.")
@options.as_json
def patches(
    folder: str, matcher: str, reference: int, template: int, limit: int | None, seed: int, as_json: bool
) -> None:
    """Look for SAR templates in optical patches: FOLDER holds NAME_opt.*, NAME_sar.* and, optionally, NAME_mask.*."""
    from sn9reg.benchmark import bench_patches
    from sn9reg.matchers.base import make_matcher

    result = bench_patches(folder, make_matcher(matcher), reference, template, limit, seed).as_dict()
    if as_json:
        click.echo(json.dumps(result))
        return
    rates = "  ".join(f"<= {t} px: {rate:.3f}" for t, rate in result["cmr"].items())
    click.echo(f"{matcher}, {result['n']} pairs: {rates}  mean {result['mean_l2_px']:.2f} px")
    click.echo(f"{result['ms_per_pair']:.0f} ms a pair (median)")
