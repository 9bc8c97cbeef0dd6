"""Ground control points out: the SAR image as a VRT that GDAL, QGIS and SNAP can warp without sn9reg. Each point ties a
SAR pixel to the map position of its optical counterpart."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import rasterio.shutil
from rasterio.io import MemoryFile
from scipy.interpolate import RBFInterpolator

from sn9reg.errors import ConfigError, InputError, NotRegisteredError
from sn9reg.raster.files import PathLike, disk_file, open_raster, write_file
from sn9reg.raster.grid import Grid, Points, Window
from sn9reg.tiepoints import TiePoints

if TYPE_CHECKING:
    from sn9reg.registration import Registration  # here, so that `--help` does not wait for torch

log = logging.getLogger(__name__)

_CELLS = 400  # of the lattice
_OFF = 0.5  # optical pixels between the lattice's spline and the warp that go without a word
_PLACED = ("SRS", "GeoTransform", "GCPList")  # what else would say where the image lies
_PLACED_DOMAINS = ("RPC", "GEOLOCATION")  # and of its metadata


def gcps_of(found: Registration) -> TiePoints:
    """The warp on a regular lattice of some 441 optical places, pixels of each image: what a thin-plate spline needs to
    warp the SAR image. It covers the part of the optical image that the SAR image shows. A warning says how far the
    spline is off halfway between places if that is more than half a pixel. Raises NotRegisteredError where the pair was
    not registered."""
    if not found.registered:
        raise NotRegisteredError(f"{' and '.join(found.names)} were not registered: {found.verdict.reason}")
    optical, sar = found.optical, found.sar
    ends = found.matches.optical_map[found.fit.inliers], found.matches.sar_map[found.fit.inliers]
    here, there = (optical.to_pixel(found.grid.map_to_crs(xy, optical.crs)) for xy in ends)
    shown = optical.covering(sar.map_to(sar.outline(), optical))
    window = shown.grow(math.ceil(np.abs(there - here).max())).intersect(optical.window)
    places, between, step = _lattice(window, _CELLS)
    points = TiePoints(places, _sar_pixels(found, places))
    spline = RBFInterpolator(places / step, points.sar_xy, kernel="thin_plate_spline")
    off = np.hypot(*(spline(between / step) - _sar_pixels(found, between)).T).max()
    if (off := off * sar.metres_per_pixel / optical.metres_per_pixel) > _OFF:
        said = "a spline through %d ground control points is up to %.1f optical px off the offset map between them"
        log.warning(f"{said}; `sn9reg apply` is not", len(points), off)
    return points


def _sar_pixels(found: Registration, optical_xy: Points) -> Points:
    """Where the SAR image shows what lies at (N, 2) optical pixels."""
    moved = found.warp(found.optical.map_to(found.optical.to_map(optical_xy), found.grid))
    return found.sar.to_pixel(found.grid.map_to_crs(moved, found.sar.crs))


def _lattice(window: Window, cells: int) -> tuple[Points, Points, float]:
    """A window in about so many squares: (N, 2) their corners, (M, 2) their middles, and their side, in pixels."""
    step = math.sqrt(window.width * window.height / cells)
    counts = (max(1, round(side / step)) for side in (window.width, window.height))
    sides = (window.col, window.width), (window.row, window.height)
    corners = [np.linspace(start, start + side, n + 1) - 0.5 for (start, side), n in zip(sides, counts, strict=True)]
    middles = [(axis[:-1] + axis[1:]) / 2 for axis in corners]
    lattice, between = (np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2) for axes in (corners, middles))
    return lattice, between, step


def check_gcps(path: PathLike, optical: Grid, sar: PathLike) -> None:
    """What `write_gcps` would refuse. Raises ConfigError for an extension other than .vrt and for a pixel frame,
    InputError for a SAR image that lies on no disk."""
    if Path(path).suffix.lower() != ".vrt":
        raise ConfigError(f"{path}: ground control points are written as .vrt")
    if optical.crs is None:
        raise ConfigError(f"{path}: ground control points lie on a map, and a pixel frame has none; leave it out")
    if disk_file(sar) is None:
        raise InputError(f"{sar}: lies on no disk, and {path} would refer to nothing; save it as a file first")


def write_gcps(path: PathLike, points: TiePoints, optical: Grid, sar: PathLike, overwrite: bool = False) -> None:
    """Write the SAR image as a VRT with ground control points, whole or not at all.

    points: those of `gcps_of`. sar: the image itself, all of whose bands the VRT shows; that is read from
    where it lies, by a name relative to the VRT's folder, or by a whole one if in an archive. Pixel and line count from
    the corner of the first pixel, as GDAL's do; X and Y are in the CRS of `optical`. The image's own geotransform, CRS,
    points and RPCs are not in the VRT. Raises as `check_gcps`, OutputError if it cannot be written."""
    check_gcps(path, optical, sar)
    with open_raster(sar) as source, MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(source, memory.name, driver="VRT")
        root = ElementTree.fromstring(memory.read())
    for child in list(root):
        if child.tag in _PLACED or (child.tag == "Metadata" and child.get("domain") in _PLACED_DOMAINS):
            root.remove(child)
    for tag in ("SourceFilename", "SourceDataset"):
        for element in root.iter(tag):
            name, is_relative = _seen_from(Path(path).parent, element.text or "")
            element.text = name
            element.set("relativeToVRT", str(int(is_relative)))
    given = ElementTree.SubElement(root, "GCPList", Projection=optical.crs.to_wkt() if optical.crs else "")
    places = zip(points.sar_xy + 0.5, optical.to_map(points.optical_xy), strict=True)
    for i, (pixel, place) in enumerate(places, start=1):
        numbers = dict(zip(("Pixel", "Line", "X", "Y"), map(repr, (*pixel.tolist(), *place.tolist())), strict=True))
        ElementTree.SubElement(given, "GCP", {"Id": str(i)} | numbers)
    ElementTree.indent(root)
    write_file(path, ElementTree.tostring(root, encoding="unicode") + "\n", overwrite)


def _seen_from(folder: Path, name: str) -> tuple[str, bool]:
    """How a VRT in a folder names a raster, and whether that is relative to the folder. `name`: from where we are."""
    if os.path.isfile(name):
        whole = Path(name).parent.resolve() / Path(name).name  # a link is not followed, but folders on the way are
        return os.path.relpath(whole, folder.resolve()), True
    found = disk_file(name)  # in an archive, say
    return (name if found is None else name.replace(found, os.path.abspath(found), 1)), False
