"""What several commands share: options, under rasterio's names, a progress bar, and how a result is printed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import reduce
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from sn9reg.errors import ConfigError
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.progress import listening

if TYPE_CHECKING:
    from sn9reg.raster.scene import PairFiles


class _NumberRange(click.FloatRange):
    """Click's own ranges let NaN in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value} is not a number.", param, ctx)
        return number


POSITIVE, THREADS = _NumberRange(min=0, max=1e6, min_open=True), click.IntRange(1, 1024)
EXISTING = click.Path(exists=True, dir_okay=False)

overwrite = click.option("--overwrite", is_flag=True, help="Replace existing files.")
as_json = click.option("--json", is_flag=True, help="One JSON object on stdout.", expose_value=False,
                       callback=lambda context, _, given: context.meta.update({_JSON: given}))  # fmt: skip
pixel_frame = click.option(
    "--pixel-frame", is_flag=True, help="Ignore georeference: both images lie on one pixel grid, 1 px = 1 unit."
)
matcher = click.option("--matcher", default=DEFAULT_MATCHER, show_default=True, help="See `sn9reg matchers`.")
_matcher = click.option("--matcher", help=f"See `sn9reg matchers` [default: {DEFAULT_MATCHER}].")
_pipeline = click.option("--pipeline", metavar="NAME|FILE",
                         help="Matcher, its options, filter and model in one, see `sn9reg pipelines`; a name or a YAML "
                              "file. What else is given goes before it.")  # fmt: skip
_Option = Callable[[Any], Any]  # a decorator of commands
_JSON = "sn9reg.json"
_DELAY = 2.0  # seconds before a bar is shown at all
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left"


def say(facts: Any, lines: Iterable[str], allow_nan: bool = False) -> None:
    """Print what came of a command that has the option `as_json`: with it the facts, else the lines, for people."""
    for line in [json.dumps(facts, allow_nan=allow_nan)] if click.get_current_context().meta[_JSON] else lines:
        click.echo(line)


@contextmanager
def progress_bar(what: str) -> Iterator[None]:
    """A bar on stderr, where that is a terminal, that shows what is reported inside, its stage and the time left, once
    two seconds have gone by. None is shown with -q."""
    hidden = None if logging.getLogger("sn9reg").isEnabledFor(logging.WARNING) else True  # None: but on a terminal
    with tqdm(total=100, desc=what, leave=False, disable=hidden, delay=_DELAY, bar_format=_BAR) as bar:

        def show(fraction: float) -> None:
            bar.update(max(0, int(fraction * 100) - bar.n))

        with listening(show, lambda stage: bar.set_description_str(f"{what}, {stage}", refresh=False)):
            yield


def repeated(flag: str, name: str, metavar: str, parse: Callable[[tuple[str, ...]], Any], about: str) -> _Option:
    """An option that may be given several times. parse: makes of all its values the command's argument `name`."""
    return click.option(
        flag, name, multiple=True, metavar=metavar, help=f"{about}; may be repeated.", callback=lambda *c: parse(c[2])
    )


def _all_of(*decorators: _Option) -> _Option:
    """Several options as one decorator, in that order."""
    return lambda command: reduce(lambda made, option: option(made), reversed(decorators), command)


device = click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]",
                      help="What to compute on; auto takes a GPU if there is one.")  # fmt: skip
# How the images are read; `pair_files` takes the values.
reading = _all_of(
    pixel_frame,
    click.option("--optical-bidx", type=int, multiple=True, help="Band of the optical image [default: first three]."),
    click.option("--sar-bidx", type=int, multiple=True, help="Band of the SAR image [default: all]."),
    click.option("--optical-nodata", type=float, help="Nodata value of the optical image, in place of its own."),
    click.option("--sar-nodata", type=float, help="Nodata value of the SAR image, in place of its own."),
    click.option("--keep-collar", is_flag=True,
                 help="Areas of one value at the border, and lines and labels that both images share, are data, too."),
)  # fmt: skip
# `as_registering` takes the values, and those of `by_one_matcher`.
registering = _all_of(
    click.option("--model", type=click.Choice(["auto", "translation", "affine", "homography", "local"]),
                 help="Kind of warp; auto takes what predicts held-out matches best [default: auto]."),
    click.option("--ratio-filter/--no-ratio-filter", default=None,
                 help="Keep only matches that pass the adaptive-ratio filter [default: no]."),
    click.option("--pose", type=click.Choice(["auto", "none", "search"]),
                 help="Whether the SAR image may be turned and scaled: auto looks where the pair is refused as it "
                      "lies, search always [default: auto]."),
    click.option("--dem", type=EXISTING, metavar="FILE", help="Raster of heights of the ground, in any CRS."),
    click.option("--threshold", type=POSITIVE, help="Of RANSAC, metres [default: 30 px]."),
    click.option("--max-offset", type=POSITIVE,
                 help="Largest shift looked for, metres (pixels with --pixel-frame) [default: 150]."),
    device,
    reading,
)  # fmt: skip
_READING = ("pixel_frame", "optical_bidx", "sar_bidx", "optical_nodata", "sar_nodata", "keep_collar")
_REGISTERING = ("pipeline", "matcher", "model", "ratio_filter", "pose", "dem", "threshold", "calibration", "device")


def pair_files(optical: str, sar: str, given: Mapping[str, Any]) -> PairFiles:
    """The two images, read as the values of `reading` among others say."""
    from sn9reg.raster.scene import PairFiles

    return PairFiles(optical, sar, **{name.replace("bidx", "bands"): given[name] for name in _READING})


def as_registering(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those values of `registering` or `by_one_matcher` that are given, but for the reading, under `register`'s names;
    in place of a pipeline its settings. Raises as `sn9reg.pipeline.chosen`."""
    said = {name: given[name] for name in _REGISTERING if given.get(name) is not None}
    reach = {} if given["max_offset"] is None else {"max_offset": given["max_offset"]}
    said |= {"matcher_options": reach | given.get("matcher_options", {})}
    if (pipeline := said.pop("pipeline", None)) is None:
        return said
    from sn9reg.pipeline import SETTINGS, chosen  # here, so that `--help` does not wait for it

    own = {name: said.pop(name) for name in SETTINGS if name in said}
    return said | chosen(pipeline, **own).settings()


def by_matcher(values: tuple[str, ...]) -> dict[str, Any]:
    """('MATCHER.NAME=VALUE', ...) -> {MATCHER: {NAME: value}}. Raises ConfigError for anything else."""
    result: dict[str, Any] = {}
    for name, value in _matcher_options(values).items():
        matcher, dot, option = name.partition(".")
        if not dot or not option:
            raise ConfigError(f"{name!r} is not MATCHER.NAME")
        result.setdefault(matcher, {})[option] = value
    return result


# What rasterio.open takes by name beside creation options.
_NO_OPTIONS = {"", "fp", "mode", "driver", "width", "height", "count", "dtype", "crs", "transform", "nodata", "sharing"}
_NO_OPTIONS |= {"gcps", "rpcs", "opener", "thread_safe"}


def _matcher_options(values: tuple[str, ...]) -> dict[str, Any]:
    """Values are JSON where they can be read as such, else text."""
    result: dict[str, Any] = dict(_pairs(values))
    for name, content in result.items():
        with suppress(ValueError, RecursionError):
            result[name] = json.loads(content)
    return result


def _creation_options(values: tuple[str, ...]) -> dict[str, Any]:
    """Names in lower case. Raises click.BadParameter for what is a fact of the raster itself."""
    result = {}
    for name, content in _pairs(values):
        if (key := name.strip().lower()) in _NO_OPTIONS:
            raise click.BadParameter(f"{f'{name}={content}'!r} is no creation option of a GeoTIFF")
        result[key] = content
    return result


def _pairs(values: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Name and value of each NAME=VALUE. Raises ConfigError without an equals sign."""
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not NAME=VALUE")
        yield name, value


creation = repeated("--co", "creation_options", "NAME=VALUE", _creation_options, "GeoTIFF creation option")
matcher_options = repeated("--matcher-option", "matcher_options", "NAME=VALUE", _matcher_options, "Option of a matcher")
_calibration = click.option("--calibration", type=EXISTING, help="Calibration of the matcher [default: what ships].")
by_one_matcher = _all_of(_pipeline, _matcher, matcher_options, registering, _calibration)
