"""A scene that never was: an optical and a SAR image of one place, tie-points, and the exact offsets."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.crs import CRS
from rasterio.transform import array_bounds

from sn9reg import progress
from sn9reg.errors import ConfigError
from sn9reg.offsets import OffsetMap, from_nodes, node_positions, offsets_between
from sn9reg.raster.files import PathLike, check_output, create_raster, geotiff_profile, make_folder
from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.simulate.city import STYLES, City
from sn9reg.simulate.field import PLAIN, Bounds, any_look, terrain_field, tiepoint_field
from sn9reg.simulate.landuse import Scene, build_village
from sn9reg.simulate.optical import Optical
from sn9reg.simulate.sar import Sar
from sn9reg.tiepoints import TiePoints, write_tiepoints

OPTICAL_PIXEL, SAR_PIXEL = 0.305, 0.409
SCENES = (*STYLES, "village")
_ORIGIN = (354_234.0, 4_108_756.0)
_BLOCK = 1024
_AROUND = 250  # metres beyond the optical image that are laid out: what leans, lies over or casts shadows into it
_HEIGHTS = 16  # optical pixels from height to height
_LEAST, _MOST = 200, 20_000  # sides in pixels
_MOST_TIEPOINTS = 500
_APART = 104_729  # seeds from one time of a place to the next
_CLICK_SIGMA = 2.0  # error of a tie-point set by hand, optical pixels


@dataclass(frozen=True)
class SimulatedScene:
    """The files of a scene, under SpaceNet 9's names."""

    optical: Path
    sar: Path
    tiepoints: Path
    offsets: Path
    optical_surface: Path | None = None  # uint8, the `Surface` that each pixel shows
    sar_surface: Path | None = None
    heights: Path | None = None  # float32, of the ground, metres above the height that has no displacement


def make_scene(
    width: int, height: int, seed: int = 0, field: PathLike | None = None, field_geotransforms: PathLike | None = None,
    kind: str = "village", time: int = 0,
) -> Scene:  # fmt: skip
    """Lay out a scene of one of `SCENES`, whose optical image is width x height px. field: tie-points to take the
    displacement from; field_geotransforms: JSON with their images' geotransforms. time: each but 0 is the same place
    under another sun and haze, with another grain of the ground and other speckle; what grows and stands there stays.
    Raises ConfigError for another kind, a size, seed or time out of range, InputError if the tie-points cannot be used.
    """
    if not (_LEAST <= width <= _MOST and _LEAST <= height <= _MOST):
        raise ConfigError(f"a scene of {width} x {height} px: each side must be {_LEAST} to {_MOST} px")
    for name, value in (("seed", seed), ("time", time)):
        if not 0 <= value < 2**31:
            raise ConfigError(f"{name} {value} is not between 0 and {2**31 - 1}")
    if field_geotransforms is not None and field is None:
        raise ConfigError("geotransforms are given without the tie-points they belong to: add --field CSV")
    if kind not in SCENES:
        raise ConfigError(f"no scene {kind!r}; there are: {', '.join(SCENES)}")
    optical = _grid(OPTICAL_PIXEL, *_ORIGIN, width, height)
    extent = Bounds(*np.reshape(array_bounds(height, width, optical.transform), (2, 2)))
    bounds = extent.grow(_AROUND)
    look = any_look(seed) if kind in STYLES else PLAIN
    if field is None:
        ground = terrain_field(extent, bounds, seed, look)
    else:
        ground = tiepoint_field(extent, bounds, field, field_geotransforms, (OPTICAL_PIXEL, SAR_PIXEL))
    world = City(bounds, STYLES[kind], seed) if kind in STYLES else build_village(bounds, extent, seed)
    # The SAR's extent differs on each side, and as a rule holds what the optical image shows.
    reach = min(45.0, 0.06 * float(extent.size.min()))
    left, top, right, bottom = (np.random.default_rng([seed, 6]).uniform(-1, 1, 4) * reach).tolist()
    (west, south), (east, north) = (corner.tolist() for corner in astuple(extent.grow(25.0)))
    west, north = west + left, north + top
    across, down = round((east + right - west) / SAR_PIXEL), round((north - south - bottom) / SAR_PIXEL)
    if time:
        seed = (seed + _APART * time) % 2**31
        other = any_look(seed)
        look = replace(look, sun=other.sun, sun_slope=other.sun_slope, haze=other.haze)
    return Scene(optical, _grid(SAR_PIXEL, west, north, across, down), ground, world, look, seed)


def simulate(
    folder: PathLike, width: int = 2000, height: int | None = None, seed: int = 0, looks: float = 4.0,
    field: PathLike | None = None, field_geotransforms: PathLike | None = None, empty: float = 0.01,
    kind: str = "village", time: int = 0, ground_truth: bool = False, overwrite: bool = False,
) -> SimulatedScene:  # fmt: skip
    """Write a scene into `folder` (made if missing): optical and SAR image, tie-points, exact offsets.

    width, height: of the optical image in px; height defaults to width. field, field_geotransforms, kind, time: see
    `make_scene`. ground_truth: write also what each pixel shows, and the heights of the ground. looks: of the SAR
    speckle. empty: fraction of the SAR image that saw nothing, up to 0.9. Raises ConfigError, InputError, OutputError.
    """
    height = width if height is None else height
    if not 0.25 <= looks <= 1000:
        raise ConfigError(f"{looks} looks: must be 0.25 to 1000")
    if not 0 <= empty <= 0.9:
        raise ConfigError(f"an empty fraction of {empty}: must be 0 to 0.9")
    names = [f.name for f in fields(SimulatedScene)][: 7 if ground_truth else 4]
    files = SimulatedScene(*(Path(folder) / f"02_{n}_train_01.{'csv' if n == 'tiepoints' else 'tif'}" for n in names))
    for path in filter(None, astuple(files)) if Path(folder).exists() else ():
        check_output(path, overwrite, (field, field_geotransforms))
    scene = make_scene(width, height, seed, field, field_geotransforms, kind, time)
    make_folder(folder)  # not before it is known what is to be drawn
    optical, sar = Optical(scene), Sar(scene, looks, empty)
    with progress.part(0, 0.6):
        _write(files.optical, optical.grid, optical.render, overwrite, 3, "uint8", photometric="rgb")
    with progress.part(0.6, 0.95):
        _write(files.sar, sar.grid, sar.render, overwrite, 1, "uint16", nodata=0)
    for path, image in ((files.optical_surface, optical), (files.sar_surface, sar)):
        if path:
            _write(path, image.grid, image.surface, overwrite, 1, "uint8", nodata=0)
    if files.heights:
        grid = _grid(_HEIGHTS * OPTICAL_PIXEL, *_ORIGIN, width // _HEIGHTS + 1, height // _HEIGHTS + 1)

        def heights(window: Window) -> npt.NDArray[np.float64]:
            y, x = np.mgrid[window.slices()]
            return scene.field.lift(grid.to_map(np.column_stack([x.ravel(), y.ravel()]))) * scene.field.tan_incidence

        _write(files.heights, grid, heights, overwrite, 1, "float32")
    with progress.part(0.95, 1):
        truth(scene).write(files.offsets, overwrite)
    write_tiepoints(files.tiepoints, tiepoints(scene, sar), scene.optical, scene.sar, overwrite)
    return files


def truth(scene: Scene) -> OffsetMap:
    """The exact offsets of the ground."""
    xy, shape = node_positions(scene.optical)
    ground = scene.optical.to_map(xy)
    nodes = offsets_between(scene.optical, ground, scene.field.in_sar(ground))
    return from_nodes(scene.optical, nodes.T.reshape(2, *shape).astype(np.float32), 32, {"simulated": "ground"})


def tiepoints(scene: Scene, sar: Sar) -> TiePoints:
    """Whole pixels, as a person would set them, of road junctions; below 10 of corners of houses and parcels, too."""
    random = np.random.default_rng([scene.seed, 5])
    found = _seen(scene, sar, scene.world.junctions, random)
    for shapes in (scene.world.solids, scene.world.ground):
        if len(found) < 10 and shapes.outlines:
            corners = np.stack([outline[0] for outline in shapes.outlines])
            found = np.concatenate([found, _seen(scene, sar, corners, random)[:20]])
    found = found[:_MOST_TIEPOINTS]
    found = found[np.argsort(found[:, 1], kind="stable")]
    return TiePoints(found[:, :2], found[:, 2:])


def _seen(scene: Scene, sar: Sar, places: Points, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """(N, 4) optical and SAR pixels of those of the places on the ground that both images show, in random order."""
    places = places[random.permutation(len(places))]
    errors = random.normal(0, _CLICK_SIGMA * OPTICAL_PIXEL / np.sqrt(2), (2, *places.shape))
    optical_xy = np.rint(scene.optical.to_pixel(places + errors[0])).astype(int)
    sar_xy = np.rint(scene.sar.to_pixel(scene.field.in_sar(places) + errors[1])).astype(int)
    inside = sar.covers(*sar_xy.T)
    for xy, grid in ((optical_xy, scene.optical), (sar_xy, scene.sar)):
        inside &= ((xy >= 8) & (xy < np.array([grid.width, grid.height]) - 8)).all(axis=1)
    return np.column_stack([optical_xy[inside], sar_xy[inside]]).astype(float)


def _grid(pixel: float, left: float, top: float, width: int, height: int) -> Grid:
    return Grid(Affine(pixel, 0, left, 0, -pixel, top), width, height, CRS.from_epsg(32637))


def _write(
    path: Path, grid: Grid, render: Callable[[Window], npt.NDArray[Any]], overwrite: bool, count: int, dtype: str,
    **options: Any,
) -> None:  # fmt: skip
    """Render by rows of blocks into a GeoTIFF."""
    with create_raster(path, geotiff_profile(grid, count, dtype, **options), overwrite) as target:
        for block in grid.blocks(_BLOCK):
            target.write(render(block).reshape(-1, *block.shape), window=block.slices())
            progress.report((block.row + block.height * (block.col + block.width) / grid.width) / grid.height)
