"""A scene that never was: an optical and a SAR image of one place, tie-points, and the exact offsets."""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.crs import CRS

from sn9reg import progress
from sn9reg.errors import ConfigError
from sn9reg.offsets import OffsetMap, from_nodes, node_positions, offsets_between
from sn9reg.raster.files import PathLike, atomic_output, check_output, create_raster, geotiff_profile, make_folder
from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.simulate.city import CITY, TOWN, build_city
from sn9reg.simulate.field import Bounds, GroundField, terrain_field, tiepoint_field
from sn9reg.simulate.given import read_given
from sn9reg.simulate.landuse import World, build_world, make_water
from sn9reg.simulate.look import PLAIN, Look, any_look
from sn9reg.simulate.optical import Optical
from sn9reg.simulate.roads import make_roads
from sn9reg.simulate.sar import Sar
from sn9reg.tiepoints import COLUMNS

OPTICAL_PIXEL, SAR_PIXEL = 0.305, 0.409
_CITIES = {"city": CITY, "town": TOWN}
SCENES = ("city", "town", "village")
_CRS = "EPSG:32637"
_ORIGIN = (354_234.0, 4_108_756.0)
_BLOCK = 1024
_AROUND = 250  # metres beyond the optical image that are laid out: what leans, lies over or casts shadows into it
_HEIGHTS = 16  # optical pixels from height to height
_LEAST, _MOST = 200, 20_000  # sides in pixels
_MOST_TIEPOINTS = 500
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


@dataclass(frozen=True)
class Scene:
    """What is to be drawn: both grids, the ground's displacement, and what stands on it."""

    optical: Grid
    sar: Grid
    field: GroundField
    world: World
    look: Look
    seed: int

    def truth(self) -> OffsetMap:
        """The exact offsets of the ground."""
        xy, shape = node_positions(self.optical)
        ground = self.optical.to_map(xy)
        nodes = offsets_between(self.optical, ground, self.field.in_sar(ground))
        return from_nodes(self.optical, nodes.T.reshape(2, *shape).astype(np.float32), 32, {"simulated": "ground"})


def make_scene(
    width: int, height: int, seed: int = 0, field: PathLike | None = None, field_geotransforms: PathLike | None = None,
    kind: str = "village",
) -> Scene:  # fmt: skip
    """Lay out a scene whose optical image is width x height px.

    field: a tie-point CSV to take the displacement from; field_geotransforms: JSON with its images' geotransforms.
    kind: one of `SCENES`.
    Raises ConfigError for another kind, a size or seed out of range, InputError if the tie-points cannot be used.
    """
    _check(width, height, seed)
    if field_geotransforms is not None and field is None:
        raise ConfigError("geotransforms are given without the tie-points they belong to: add --field CSV")
    optical = _grid(OPTICAL_PIXEL, *_ORIGIN, width, height)
    extent = Bounds(*rasterio.transform.array_bounds(height, width, optical.transform))
    bounds = extent.grow(_AROUND)
    if kind not in SCENES:
        raise ConfigError(f"no scene {kind!r}; there are: {', '.join(SCENES)}")
    look = any_look(seed) if kind in _CITIES else PLAIN
    if field is None:
        ground = terrain_field(extent, bounds, seed, look.towards_sensor, look.tan_incidence)
    else:
        ground = tiepoint_field(extent, bounds, *read_given(field, field_geotransforms, (OPTICAL_PIXEL, SAR_PIXEL)))
    if kind in _CITIES:
        world = build_city(bounds, _CITIES[kind], seed)
    else:
        water = make_water(bounds, extent, seed)
        world = build_world(bounds, make_roads(bounds, extent, water, seed), water, seed)
    return Scene(optical, _sar_grid(extent, seed), ground, world, look, seed)


def simulate(
    folder: PathLike, width: int = 2000, height: int | None = None, seed: int = 0, looks: float = 4.0,
    field: PathLike | None = None, field_geotransforms: PathLike | None = None, empty: float = 0.01,
    kind: str = "village", ground_truth: bool = False, overwrite: bool = False,
) -> SimulatedScene:  # fmt: skip
    """Write a scene into `folder` (made if missing): optical and SAR image, tie-points, exact offsets.

    width, height: of the optical image in px; height defaults to width. field, field_geotransforms: see `make_scene`.
    kind: one of `SCENES`. ground_truth: write also what each pixel shows, and the heights of the ground.
    looks: of the SAR speckle. empty: fraction of the SAR image that saw nothing, 0 to 0.9.
    Raises ConfigError, InputError, OutputError.
    """
    height = width if height is None else height
    if not 0.25 <= looks <= 1000:
        raise ConfigError(f"{looks} looks: must be 0.25 to 1000")
    if not 0 <= empty <= 0.9:
        raise ConfigError(f"an empty fraction of {empty}: must be 0 to 0.9")
    _check(width, height, seed)
    names: tuple[str, ...] = (
        "02_optical_train_01.tif",
        "02_sar_train_01.tif",
        "02_tiepoints_train_01.csv",
        "02_offsets_train_01.tif",
    )
    more = ("02_optical_surface_train_01.tif", "02_sar_surface_train_01.tif", "02_heights_train_01.tif")
    names += more if ground_truth else ()
    files = SimulatedScene(*(Path(folder) / name for name in names))
    for path in filter(None, astuple(files)) if Path(folder).exists() else ():
        check_output(path, overwrite, (field, field_geotransforms))
    scene = make_scene(width, height, seed, field, field_geotransforms, kind)
    make_folder(folder)  # not before it is known what is to be drawn
    optical = Optical(scene.world, scene.optical, scene.field, scene.look, seed)
    sar = Sar(scene.world, scene.sar, np.array(_ORIGIN), scene.field, seed, looks, empty)
    with progress.part(0, 0.6):
        _write(files.optical, optical.grid, optical.render, overwrite, 3, "uint8", photometric="rgb")
    with progress.part(0.6, 0.95):
        _write(files.sar, sar.grid, sar.render, overwrite, 1, "uint16", nodata=0)
    for path, image in ((files.optical_surface, optical), (files.sar_surface, sar)):
        if path:
            _write(path, image.grid, image.surface, overwrite, 1, "uint8", nodata=0)
    if files.heights:
        grid = Grid(
            scene.optical.transform @ Affine.scale(_HEIGHTS),
            width // _HEIGHTS + 1,
            height // _HEIGHTS + 1,
            scene.optical.crs,
        )
        _write(files.heights, grid, partial(_heights, scene.field, grid), overwrite, 1, "float32")
    with progress.part(0.95, 1):
        scene.truth().write(files.offsets, overwrite)
    with atomic_output(files.tiepoints, overwrite) as temporary:
        np.savetxt(temporary, tiepoints(scene, sar), "%d", ",", header=",".join(COLUMNS), comments="")
    return files


def _heights(field: GroundField, grid: Grid, window: Window) -> npt.NDArray[np.float64]:
    """(h, w) metres."""
    y, x = np.mgrid[window.slices()]
    shift = field.at(grid.to_map(np.column_stack([x.ravel(), y.ravel()]))) @ field.towards_sensor - field.mean_shift
    return np.asarray(shift * field.tan_incidence).reshape(window.shape)


def _check(width: int, height: int, seed: int) -> None:
    if not (_LEAST <= width <= _MOST and _LEAST <= height <= _MOST):
        raise ConfigError(f"a scene of {width} x {height} px: each side must be {_LEAST} to {_MOST} px")
    if not 0 <= seed < 2**31:
        raise ConfigError(f"seed {seed} is not between 0 and {2**31 - 1}")


def tiepoints(scene: Scene, sar: Sar) -> npt.NDArray[np.int64]:
    """(N, 4) sar_row, sar_col, optical_row, optical_col of landmarks seen in both images, as a person would set them.

    Landmarks are road junctions; where there are fewer than 10, corners of buildings and of parcels too.
    """
    random = np.random.default_rng([scene.seed, 5])
    found = _seen(scene, sar, scene.world.junctions, random)
    for shapes in (scene.world.solids, scene.world.ground):
        if len(found) < 10 and shapes.outlines:
            corners = np.stack([outline[0] for outline in shapes.outlines])
            found = np.concatenate([found, _seen(scene, sar, corners, random)[:20]])
    found = found[:_MOST_TIEPOINTS]
    return found[np.argsort(found[:, 2], kind="stable")]


def _seen(scene: Scene, sar: Sar, places: Points, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Those of the places on the ground that both images show, in random order."""
    places = places[random.permutation(len(places))]
    errors = random.normal(0, _CLICK_SIGMA * OPTICAL_PIXEL / np.sqrt(2), (2, *places.shape))
    optical_xy = np.rint(scene.optical.to_pixel(places + errors[0])).astype(int)
    sar_xy = np.rint(scene.sar.to_pixel(scene.field.in_sar(places) + errors[1])).astype(int)
    inside = sar.covers(*sar_xy.T)
    for xy, grid in ((optical_xy, scene.optical), (sar_xy, scene.sar)):
        inside &= ((xy >= 8) & (xy < np.array([grid.width, grid.height]) - 8)).all(axis=1)
    return np.column_stack([sar_xy[inside, ::-1], optical_xy[inside, ::-1]])


def _grid(pixel: float, left: float, top: float, width: int, height: int) -> Grid:
    return Grid(Affine(pixel, 0, left, 0, -pixel, top), width, height, CRS.from_string(_CRS))


def _sar_grid(extent: Bounds, seed: int) -> Grid:
    """An extent that differs from the optical one on each side, and as a rule holds what the optical image shows."""
    reach = min(45.0, 0.06 * float(extent.size.min()))
    left, top, right, bottom = (np.random.default_rng([seed, 6]).uniform(-1, 1, 4) * reach).tolist()
    outer = extent.grow(25.0)
    west, north = outer.left + left, outer.top + top
    width = round((outer.right + right - west) / SAR_PIXEL)
    height = round((north - outer.bottom - bottom) / SAR_PIXEL)
    return _grid(SAR_PIXEL, west, north, width, height)


def _write(
    path: Path, grid: Grid, render: Callable[[Window], npt.NDArray[Any]], overwrite: bool, count: int, dtype: str,
    **options: Any,
) -> None:  # fmt: skip
    """Render by rows of blocks into a GeoTIFF."""
    profile = geotiff_profile(grid, count, dtype, **options)
    with atomic_output(path, overwrite) as temporary, create_raster(temporary, profile) as target:
        for block in grid.blocks(_BLOCK):
            target.write(render(block).reshape(-1, *block.shape), window=block.slices())
            progress.report((block.row + block.height * (block.col + block.width) / grid.width) / grid.height)
