"""Any of the some seventy published matchers of photographs that the package vismatch has, tiled over a scene.

`vismatch:NAME` names one of them. Its weights must be on the disk: sn9reg never downloads any.
"""

import contextlib
import importlib
import io
import logging
from collections.abc import Callable
from typing import Annotated, Any, cast

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from sn9reg import progress
from sn9reg.errors import ConfigError, InputError
from sn9reg.fit.correspondences import Correspondences, Floats
from sn9reg.fit.warp import fit_global
from sn9reg.matchers.vismatch.offline import no_connections, offline
from sn9reg.matchers.vismatch.tiles import Photograph, Photographs, Tile, contrast, is_valid, tiles_of
from sn9reg.options import Count, MaxOffset, check, options
from sn9reg.raster.grid import to_common
from sn9reg.raster.scene import ScenePair

log = logging.getLogger(__name__)

Match = Callable[[Tensor, Tensor], dict[str, Any]]

_LEAST_CONTRAST = 1e-3  # standard deviation; a tile with less is not matched
_THRESHOLD = 5.0  # largest distance of a match from its tile's affine, pixels of the level
_FEWEST = 8  # least number of a tile's matches that agree on an affine; six of a hundred may agree by chance
_FOOTPRINT = 32.0  # least side of the area that a match depends on, pixels of the level
_DEFAULT_SCORE = 0.5  # score of matches where the matcher gives none


@options
class VismatchOptions:
    """Options of vismatch's matchers."""

    variant: str = ""  # the name of one of them
    max_offset: MaxOffset = 150.0  # largest shift looked for, metres
    # Side of the optical image that is matched at once, pixels; the SAR image is larger by max_offset on each side.
    tile: Annotated[int, Ge(64), Le(16_384)] = 640
    max_matches: Count = 4000  # at most so many are kept, spread over the tiles
    device: str = "cpu"  # where the matcher runs, as torch names it

    def __post_init__(self) -> None:
        if not self.variant:
            raise ConfigError("it is many: name one, as in vismatch:minima-loftr or vismatch:sift-nn")
        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            raise ConfigError(f"device is {self.device!r}, not a device such as cpu or cuda:0") from None
        if kind == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device is {self.device!r}, but torch finds no GPU: use device=cpu")


class VismatchMatcher:
    """Any matcher of the package vismatch, by its name there: vismatch:minima-loftr. Raises ConfigError where vismatch
    is not installed, too, InputError where the matcher's weights are not on the disk."""

    name = "vismatch"
    needs_variant = True
    Options = VismatchOptions

    def __init__(self, **options: Any) -> None:
        self.options = check(VismatchOptions, options, "matcher 'vismatch'")
        self.name = f"vismatch:{self.options.variant}"
        self._match = _load(self.options.variant, self.options.device)

    def match(self, pair: ScenePair) -> Correspondences:
        """Correspondences that agree with others of their tile, possibly none. Raises InputError where a scene cannot
        be read, or the matcher fails on every tile."""
        factor, side, shift = 1, self.options.tile, self.options.max_offset / pair.grid.metres_per_pixel
        while min(shift, max(pair.grid.shape)) / factor > side / 2:
            factor *= 2
        optical, sar = Photographs(pair, "optical", factor), Photographs(pair, "sar", factor)
        tiles = list(tiles_of(pair, factor, side, shift / factor))
        parts, failures = [], []
        for k, tile in enumerate(tiles):
            progress.report(k / len(tiles))
            shown = optical(tile.optical), sar(tile.sar)
            if min(contrast(*image) for image in shown) < _LEAST_CONTRAST:
                continue
            try:
                parts.append(self._of_tile(tile, *shown, shift / factor))
            except Exception as error:  # third-party code may raise anything, often where a tile shows too little
                log.warning("%s failed on a tile: %s", self.name, _line(error))
                failures.append(error)
        progress.report(1.0)
        if failures and not parts:
            raise InputError(f"{self.name} failed on every tile: {_line(failures[0])}") from failures[0]
        found = np.concatenate([np.zeros((0, 6)), *(part for _, part in parts)])
        return self._merged(pair, found, sum(count for count, _ in parts), shift, factor)

    def _of_tile(self, tile: Tile, optical: Photograph, sar: Photograph, reach: float) -> tuple[int, Floats]:
        """Number of matches proposed in the tile's core, and (N, 6) those that are good: x, y of the optical and of the
        SAR place, pixels of the level; score; rank by score within the tile."""
        # Some matchers draw random numbers, and some print. Standard output is for results of commands only.
        devices = [self.options.device] if self.options.device.startswith("cuda") else []
        with torch.random.fork_rng(devices), contextlib.redirect_stdout(io.StringIO()), no_connections():
            torch.manual_seed(0)
            result = self._match(torch.from_numpy(optical[0]), torch.from_numpy(sar[0]))
        here, there = (np.asarray(result[f"matched_kpts{k}"], np.float64).reshape(-1, 2) for k in (0, 1))
        given = result.get("matched_confidences")
        score = np.full(len(here), _DEFAULT_SCORE) if given is None else np.clip(np.asarray(given, np.float64), 0, 1)
        found = np.column_stack([here, there, score])
        found = found[np.isfinite(found).all(axis=1)]
        kept = is_valid(optical[1], found[:, :2]) & is_valid(sar[1], found[:, 2:4])
        found[:, :4] += tile.optical.col, tile.optical.row, tile.sar.col, tile.sar.row
        in_core = tile.in_core(found[:, :2])
        found = found[kept & in_core & (np.hypot(*(found[:, 2:4] - found[:, :2]).T) <= reach)]
        # On SAR too many may be wrong for a vote of neighbours: those are kept that agree on an affine.
        fit = fit_global(found[:, :2], found[:, 2:4], "affine", _THRESHOLD) if len(found) >= _FEWEST else None
        found = found[fit.inliers] if fit is not None and fit.inliers.sum() >= _FEWEST else found[:0]
        # Equal scores are ranked at random, since matchers list matches row by row.
        order = np.lexsort((np.random.default_rng(0).random(len(found)), -found[:, 4]))
        return int(in_core.sum()), np.column_stack([found, np.argsort(order)])

    def _merged(self, pair: ScenePair, found: Floats, proposed: int, shift: float, factor: int) -> Correspondences:
        here = to_common(found[:, :2], factor)
        inside = np.flatnonzero(((here >= 0) & (here <= [pair.grid.width - 1, pair.grid.height - 1])).all(axis=1))
        order = np.argsort(found[inside, 5], kind="stable")  # the best of each tile first
        chosen = inside[np.sort(order[: self.options.max_matches])]
        there, score = to_common(found[chosen, 2:4], factor), found[chosen, 4]
        return Correspondences(
            grid=pair.grid, optical_xy=here[chosen], sar_xy=there, solo_xy=there,
            score=score, sigma=np.full(len(chosen), float(factor)), distance=1 - score, rival_distance=1 + 0 * score,
            search_radius=shift, step=float(factor), footprint=_FOOTPRINT * factor,
            tried=proposed - (len(inside) - len(chosen)),  # matches beyond max_matches do not count as tried
        )  # fmt: skip


def _load(variant: str, device: str) -> Match:
    """The matcher, with weights from the disk. Raises ConfigError or InputError, see `VismatchMatcher`."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, offline() as refused:
        try:
            package: Any = importlib.import_module("vismatch")
        except ModuleNotFoundError as error:
            if error.name == "vismatch":
                message = f"matcher vismatch:{variant} needs vismatch: pip install 'sn9reg[vismatch]'"
                raise ConfigError(message) from None
            raise ConfigError(f"vismatch is installed, but not all that it needs: {_line(error)}") from error
        if variant not in (known := getattr(package, "available_models", [variant])):
            raise ConfigError(f"vismatch has no matcher {variant!r}; it has: {', '.join(sorted(known))}")
        try:
            matcher = package.get_matcher(variant, device=device)
        except Exception as error:
            log.debug("vismatch said: %s", printed.getvalue())
            if refused or _lacks_a_file(error):
                command = f"python -c \"import vismatch; vismatch.get_matcher('{variant}')\""
                message = f"weights of vismatch's {variant} are not on this disk; this downloads them: {command}"
                raise InputError(message) from error
            raise InputError(f"vismatch cannot load {variant}: {_line(error)}") from error
    matcher.skip_ransac = True  # vismatch would fit a homography, which is not needed and fails where there is none
    return cast(Match, matcher)


def _lacks_a_file(error: BaseException) -> bool:
    """Whether an error was caused by a missing file or by a refused connection."""
    cause = error.__cause__ or error.__context__
    return isinstance(error, ConnectionError | FileNotFoundError) or (cause is not None and _lacks_a_file(cause))


def _line(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
