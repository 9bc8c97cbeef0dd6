"""What of a scene is shown: the optical image, and the SAR image as it lies and as the offsets bring it, on the optical
grid. The whole at up to 1,800 px a side, some places at full resolution; never more than that is held."""

import base64
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from sn9reg import progress
from sn9reg.errors import InputError
from sn9reg.offsets import Block, OffsetMap
from sn9reg.raster.grid import Grid, Window, to_common
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import PairFiles, Patch, ScenePair

Picture = npt.NDArray[np.uint8]  # (h, w, 3)
Floats32 = npt.NDArray[np.float32]
Range = tuple[Floats32, Floats32]  # (bands,) what becomes black, and what white

OVERVIEW_SIDE = 1800  # pixels; the longer side is between half of it and this
ZOOM_SIDE = 600  # pixels of a place shown at full resolution
_MARGIN = 64  # optical pixels around the optical image are a multiple of this, so that coarser grids fit
_SPREAD = 1024  # pixels of a picture by which offsets may differ from the median of what it shows; others show black
_SHARES = (1.0, 99.0)  # percentiles that become black and white


@dataclass(frozen=True)
class Place:
    """A place to be shown at full resolution: why, and its middle in optical pixels."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class View:
    """A part of the scene. The pictures are black where nothing is known."""

    name: str
    window: Window  # in optical pixels
    factor: int  # so many optical pixels, squared, make one pixel of the pictures
    optical: Picture
    before: Picture
    after: Picture

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(h, w) where both images show something."""
        return np.asarray(self.optical.any(axis=2) & self.after.any(axis=2))


def coarse_field(offsets: OffsetMap, factor: int) -> Block:
    """(2 or 3, ny, nx) offsets in the middle of every factor x factor optical pixels, optical pixels; read row by row.
    Raises InputError if none of them is a number."""
    rows, cols = (np.minimum(np.arange(0, n, factor) + factor // 2, n - 1) for n in offsets.grid.shape)
    lines = []
    for row in rows.tolist():
        lines.append(offsets.read(Window(0, row, offsets.grid.width, 1))[:, 0, cols])
        progress.report(len(lines) / len(rows))
    field = np.stack(lines, axis=1)
    if not np.isfinite(field[:2]).all(axis=0).any():
        raise InputError(f"{offsets.name}: holds no offset, only NaN: there is nothing to show")
    return field


def overview_factor(grid: Grid) -> int:
    """The power of two by which a whole scene is made smaller."""
    return max(1, 2 ** math.ceil(math.log2(max(grid.shape) / OVERVIEW_SIDE)))


class Viewer:
    """Shows parts of one pair, all with the same stretch. margin: of its grid around the optical image, pixels."""

    def __init__(self, pair: ScenePair, offsets: OffsetMap, margin: int) -> None:
        self._pair, self._offsets, self._margin = pair, offsets, margin
        optical, sar = (pair.overview(scene)[0] for scene in (pair.optical, pair.sar))
        self._sar_log = SarLog.of(sar.values, sar.valid, sar.decibel)
        self._optical_range = _range(optical)
        self._sar_range = _range(Patch(self._sar_log(sar.values)[None], sar.valid))

    def overview(self, field: Block, factor: int) -> View:
        """The whole scene. field: `coarse_field` of the same factor."""
        return self._view("the whole scene", self._offsets.grid.coarsen(factor).window, field, factor)

    def zoom(self, place: Place) -> View:
        grid = self._offsets.grid
        width, height = min(ZOOM_SIDE, grid.width), min(ZOOM_SIDE, grid.height)
        corner = np.clip([place.x - width / 2, place.y - height / 2], 0, [grid.width - width, grid.height - height])
        window = Window(int(corner[0]), int(corner[1]), width, height)
        return self._view(place.name, window, self._offsets.read(window), 1)

    def _view(self, name: str, window: Window, field: Block, factor: int) -> View:
        """window: coarse pixels of the optical image."""
        here = replace(window, col=window.col + self._margin // factor, row=window.row + self._margin // factor)
        optical = self._pair.optical.read(here, factor)
        known = np.asarray(np.isfinite(field[:2]).all(axis=0))
        # Read where most offsets lead, and around that as far as the others deviate, but never more than is bearable.
        most = np.rint([np.median(band[known]) if known.any() else 0 for band in field[:2] / factor]).astype(int)
        shift = np.where(known, field[:2] / factor - most[:, None, None], 0)
        spread = min(math.ceil(np.abs(shift).max()) + 2, _SPREAD)
        moved = replace(here, col=here.col + int(most[0]), row=here.row + int(most[1]))
        sar = self._sar(moved.grow(spread), factor)
        y, x = np.indices(window.shape, np.float32) + np.float32(spread)
        there = (x + shift[0]).astype(np.float32), (y + shift[1]).astype(np.float32)
        after = np.where(known[..., None], cv2.remap(sar, *there, cv2.INTER_LINEAR), 0).astype(np.uint8)
        before = self._sar(here, factor)
        full = Window(window.col * factor, window.row * factor, window.width * factor, window.height * factor)
        shown = _stretched(optical.values, optical.valid, self._optical_range)
        return View(name, full.intersect(self._offsets.grid.window), factor, shown, before, after)

    def _sar(self, window: Window, factor: int) -> Picture:
        patch = self._pair.sar.read(window, factor)
        return _stretched(self._sar_log(patch.values)[None], patch.valid, self._sar_range)


@contextmanager
def open_viewer(files: PairFiles, offsets: OffsetMap, field: Block) -> Iterator[Viewer]:
    """Open a pair on the optical grid and what the offsets reach around it. field: `coarse_field`. Raises InputError
    where the images cannot be read."""
    reach = min(float(np.nanmax(np.abs(field[:2]))), max(offsets.grid.shape) / 2)
    step = math.lcm(_MARGIN, overview_factor(offsets.grid))
    margin = step * math.ceil(_MARGIN * (int(reach) // _MARGIN + 2) / step)
    with files.open(offsets.grid.crop(offsets.grid.window.grow(margin))) as pair:
        yield Viewer(pair, offsets, margin)


def places_of_interest(field: Block, factor: int, known: npt.NDArray[np.bool_]) -> Iterator[Place]:
    """Where it is worth looking closer. field: `coarse_field`. known: (ny, nx) where both images show something."""
    middle = np.hypot(*(axis - (n - 1) / 2 for axis, n in zip(np.indices(known.shape), known.shape, strict=True)))
    names = "the middle", "the largest offset", "where the map is least sure"
    for name, value in zip(names, [-middle, np.hypot(*field[:2]), *field[2:]], strict=False):
        value = np.where(known & np.isfinite(value), value, -np.inf)
        if np.isfinite(value).any():
            row, col = np.unravel_index(int(np.argmax(value)), value.shape)
            yield Place(name, *to_common(np.array([col, row]), factor).tolist())


def checkerboard(view: View, sar: Picture, tiles: int = 12) -> Picture:
    """(h, w, 3) tiles of the optical and the SAR image in turns, `tiles` along the longer side."""
    side = max(1, max(sar.shape[:2]) // tiles)
    y, x = np.indices(sar.shape[:2]) // side
    return np.where(((x + y) % 2 == 0)[..., None], view.optical, sar)


def uri(picture: Picture, quality: int = 85) -> str:
    """A picture as part of a page, as WebP, for it must be small."""
    content = cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def png(picture: Picture) -> bytes:
    return bytes(cv2.imencode(".png", picture[..., ::-1])[1])


def _range(patch: Patch) -> Range:
    shares = np.array([np.percentile(band[patch.valid], _SHARES) for band in patch.values], np.float32)
    return shares[:, 0], np.maximum(shares[:, 1], shares[:, 0] + 1e-6)


def _stretched(values: Floats32, valid: npt.NDArray[np.bool_], between: Range) -> Picture:
    """(bands, h, w) -> (h, w, 3): three bands as colours, else the first as grey. Valid pixels are never black."""
    low, high = (limit[:, None, None] for limit in between)
    bands = np.clip((values - low) / (high - low), 0, 1) * 254 + 1
    bands = bands if len(bands) == 3 else np.repeat(bands[:1], 3, axis=0)
    return np.ascontiguousarray(np.where(valid, bands, 0).astype(np.uint8).transpose(1, 2, 0))
