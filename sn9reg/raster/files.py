"""Opening rasters with errors that say what to do, and writing files that are whole or not there."""

import fcntl
import html
import logging
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.io import DatasetReader, DatasetWriter, MemoryFile

from sn9reg.errors import ConfigError, InputError, OutputError
from sn9reg.raster.grid import Grid

if TYPE_CHECKING:  # for the type alone: reading and writing rasters does not wait for it
    import pandas as pd

PathLike = str | os.PathLike[str]

# What GDAL opens though no file has that name: /vsizip/archive/file, zip://archive!file, DRIVER:"file":name.
_VIRTUAL = re.compile(r"/vsi\w+/|[A-Za-z]\w+:")
_ONLINE = ("DAAS", "EEDAI", "HTTP", "NGW", "OGCAPI", "PG", "PLMOSAIC", "WCS", "WMS", "WMTS")  # drivers: ask a server
_SERVERS = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)(_streaming)?[/?]", re.IGNORECASE)
_LOCAL = {"file", "gzip", "tar", "vrt", "zip"}  # schemes; any other NAME:// is a server's
_SOURCE = re.compile(r"<Source(?:Filename|Dataset)\b[^>]*>([^<]*)<")
# Should a server's name hide where it is not looked for: GDAL opens none of this kind, and its web client finds no way.
_OFFLINE = {"CPL_VSIL_CURL_ALLOWED_FILENAME": "none", "GDAL_HTTP_PROXY": "127.0.0.1:9"}
MOST_PIXELS = 10**10  # of what is read as a whole: 100,000 x 100,000
_SURROGATE = re.compile("[\ud800-\udfff]")  # what stands in a name for a byte that is not UTF-8
_NO_UTF8 = "its name is not UTF-8, as GDAL wants names; give it another one"
# GDAL's errors are raised as exceptions; rasterio's log would print them a second time.
logging.getLogger("rasterio._env").setLevel(logging.CRITICAL)


@contextmanager
def open_raster(path: PathLike) -> Iterator[DatasetReader]:
    """A raster opened for reading, of an archive or a container too, but nothing is fetched from a network. Raises
    InputError if the file is missing, is no raster, has no bands, or lies, itself or what it is made of, online."""
    _check_offline(path, str(path))
    if not os.path.exists(path) and not _VIRTUAL.match(str(path)):
        raise InputError(f"{path}: no such file")
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder, not a raster")
    check_regular(path)
    if _SURROGATE.search(str(path)):
        raise InputError(f"{path}: {_NO_UTF8}")
    with rasterio.Env(**_OFFLINE):
        try:
            dataset = _opened(path)
        except (RasterioError, UnicodeDecodeError) as error:  # what GDAL says may hold bytes of a damaged file
            raise InputError(f"{path}: not a raster that GDAL can read ({_first_line(error)})") from error
        with dataset:
            _check_offline(path, f"{dataset.driver}:", *_sources(dataset))
            if dataset.count == 0:
                raise InputError(f"{path}: has no bands; if it is a container, name one of its subdatasets")
            yield dataset


def _opened(path: PathLike) -> DatasetReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def _check_offline(path: PathLike, *names: str) -> None:
    """Raises InputError for a raster that has one of these names, or is made of what has, if a server has it."""
    for name in names:
        schemes = {part for url in re.findall(r"([A-Za-z][\w+.-]+)://", name) for part in url.lower().split("+")}
        if schemes - _LOCAL or _SERVERS.search(name) or name.partition(":")[0].upper() in _ONLINE:
            through = "" if name == str(path) else f", through {name.rstrip(':')}"
            raise InputError(f"{path}: lies on a network{through}; nothing is fetched from there: download it first")


def _sources(dataset: DatasetReader, depth: int = 8) -> Iterator[str]:
    """The names of the files that a VRT is made of, those of VRTs among them included."""
    if dataset.driver != "VRT" or not depth:
        return
    yield from map(html.unescape, _SOURCE.findall(dataset.tags(ns="xml:VRT").get("xml:VRT", "")))
    for name in dataset.files[1:]:
        if name.lower().endswith(".vrt"):
            with suppress(RasterioError), _opened(name) as source:
                yield from _sources(source, depth - 1)


def disk_file(path: PathLike) -> str | None:
    """The file on disk that holds a raster: itself, its archive, its container. None where there is none."""
    text = str(path)
    starts = [0, *(found.end() for found in re.finditer(r'/vsi\w+/\{?|:(//)?"?', text))]
    ends = sorted({len(text), *(found.start() for found in re.finditer(r'[/:"!?}]', text))}, reverse=True)
    return next((text[a:b] for a in starts for b in ends if a < b and os.path.isfile(text[a:b])), None)


def beside(folder: PathLike, name: str) -> str:
    """The name of a raster that is looked for in a folder, unless its name says where it lies."""
    return name if _VIRTUAL.match(name) else str(Path(folder) / name)


def check_regular(path: PathLike) -> None:
    """Raises InputError for a pipe or a device, which may keep a reader waiting."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{path}: is a pipe or a device, not a file")


def read_file(path: PathLike) -> bytes:
    """What a file holds that is no raster. Raises InputError if it is missing or cannot be read."""
    check_regular(path)
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def read_mapping(path: PathLike) -> dict[str, Any]:
    """What a YAML file says. Raises InputError where it cannot be read or is no YAML, ConfigError for no mapping."""
    import yaml  # here, so that only those who use it wait for it

    try:
        content = yaml.safe_load(read_file(path).decode())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is {content!r}, not a mapping")
    return content


@contextmanager
def reading(name: PathLike) -> Iterator[None]:
    """Raises InputError that names the file for every read error inside the block."""
    try:
        yield
    except (RasterioIOError, CPLE_BaseError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read, the file may be truncated ({_first_line(error)})") from error
    except MemoryError as error:
        raise InputError(f"{name}: what is read of it at once does not fit into the memory") from error


def grid_of(dataset: DatasetReader, pixel_frame: bool = False) -> Grid:
    """The grid of an open raster. Raises InputError without CRS or geotransform; `pixel_frame` ignores both."""
    if pixel_frame:
        return Grid.pixel_frame(dataset.width, dataset.height)
    if dataset.crs is None or dataset.transform.is_identity:
        missing = "no CRS" if dataset.crs is None else "no geotransform"
        hint = "rectify it first (e.g. gdalwarp), or " if dataset.gcps[0] or dataset.rpcs else ""
        way = f"{hint}use --pixel-frame to register both images as plain pixel grids"
        raise InputError(f"{dataset.name}: has {missing}; {way}")
    try:
        return Grid(dataset.transform, dataset.width, dataset.height, dataset.crs)
    except InputError as error:
        raise InputError(f"{dataset.name}: {error}; use --pixel-frame to ignore it") from error


def data_bands(dataset: DatasetReader) -> list[int]:
    """1-based indexes of the bands that are not alpha. Raises InputError if there is none."""
    bands = [i for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True) if c != ColorInterp.alpha]
    if not bands:
        raise InputError(f"{dataset.name}: has no band but alpha")
    return bands


def alpha_band(dataset: DatasetReader) -> int | None:
    """1-based index of the first alpha band."""
    return next((i for i, c in zip(dataset.indexes, dataset.colorinterp, strict=True) if c == ColorInterp.alpha), None)


def check_bands(dataset: DatasetReader, bands: Iterable[int], allow_complex: bool = False) -> None:
    """Raises InputError if a band is not there, or holds complex numbers without `allow_complex`."""
    for band in bands:
        if band not in dataset.indexes:
            raise InputError(f"{dataset.name}: has no band {band}, only 1 to {dataset.count}")
        if not allow_complex and dataset.dtypes[band - 1].startswith("complex"):
            raise InputError(f"{dataset.name}: band {band} is complex; give its amplitude or intensity instead")


@contextmanager
def atomic_output(path: PathLike, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path, moved to `path` when the block ends well and removed when it does not. It has the target's
    name, in a folder of its own beside it: what else the block leaves there, as GDAL leaves a world file, is moved too.
    Raises OutputError if a target exists and `overwrite` is not set, or cannot be written."""
    check_output(path, overwrite)
    target = Path(path)
    try:
        with ExitStack() as stack:
            own = TemporaryDirectory(prefix=_prefix(target), dir=target.parent, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(own))
            with suppress(OSError):  # not every file system has locks
                stack.enter_context(_locked(folder))
            temporary = folder / target.name
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            if target.exists() and not overwrite:
                raise OutputError(f"{path}: appeared while it was being computed; use --overwrite to replace it")
            temporary.chmod(mode)
            _put_in_place(folder, target, overwrite)
    except (OSError, RasterioError) as error:
        words = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
        raise OutputError(f"{path}: cannot be written ({words})") from error


def _put_in_place(folder: Path, target: Path, overwrite: bool) -> None:
    """Move all that lies in a folder beside `target`, and itself last."""
    beside = [found.name for found in folder.iterdir() if found.name != target.name]
    if taken := [name for name in beside if target.with_name(name).exists() and not overwrite]:
        raise OutputError(f"{target.with_name(taken[0])}: exists; use --overwrite to replace it")
    for name in (*beside, target.name):
        (folder / name).replace(target.with_name(name))
    for suffix in (".aux.xml", ".ovr", ".msk"):  # of a raster replaced: GDAL would take them for the new one's
        stale = f"{target.name}{suffix}"
        if stale not in beside and os.path.exists(target.with_name(stale)):  # its name may be too long
            target.with_name(stale).unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises OSError where another process has the folder locked. The lock ends with the process, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _prefix(target: Path) -> str:
    return f".sn9reg-{zlib.crc32(os.fsencode(target.name)):08x}-"


def check_output(path: PathLike, overwrite: bool = False, inputs: Iterable[PathLike | None] = ()) -> None:
    """Raises OutputError where `path` cannot be written or is one of `inputs`; to be called before any work is done.
    What a killed process left of it is taken away."""
    target, exists = Path(path), os.path.exists(path)
    on_disk = [disk_file(given) for given in inputs if given is not None]
    is_input = exists and any(target.samefile(found) for found in on_disk if found is not None)
    for wrong, words in (
        (os.path.isdir(path), "is a folder"),
        (is_input, "is an input too, and inputs are never written; give another name"),
        (exists and not target.is_file(), "is not a regular file; give another name"),
        (exists and not overwrite, "exists; use --overwrite to replace it"),
        (not os.path.isdir(target.parent), "its folder does not exist"),
        (not os.access(target.parent, os.W_OK | os.X_OK), "its folder is not writable"),
        (_SURROGATE.search(str(path)), _NO_UTF8),
    ):
        if wrong:
            raise OutputError(f"{path}: {words}")
    for folder in target.parent.glob(f"{_prefix(target)}*"):  # one that is in use is locked, or empty before it is
        with suppress(OSError), _locked(folder):
            if any(folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)


def make_folder(folder: PathLike, parents: bool = True) -> None:
    """Make a folder that is not there yet, and those that it lies in. Raises OutputError where it cannot be made."""
    if _SURROGATE.search(str(folder)):
        raise OutputError(f"{folder}: {_NO_UTF8}")
    try:
        Path(folder).mkdir(parents=parents, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error


def write_file(path: PathLike, content: bytes | str, overwrite: bool = False) -> None:
    """Write a file, a text in UTF-8, whole or not at all. Raises OutputError as `atomic_output`."""
    with atomic_output(path, overwrite) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_csv(path: PathLike, table: "pd.DataFrame") -> None:
    """Write or replace a table, whole or not at all. Raises OutputError. A text that a spreadsheet would compute gets
    an apostrophe in front."""
    with atomic_output(path, overwrite=True) as temporary:
        table.map(_not_computed).to_csv(temporary, index=False, float_format="%.4f")


def _not_computed(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    line = re.sub(r"[\r\n]", " ", cell)
    return f"'{line}" if line.startswith(("=", "+", "-", "@", "\t", " ")) else line


def geotiff_profile(grid: Grid, count: int, dtype: str, **options: Any) -> dict[str, Any]:
    """Creation profile of every GeoTIFF that sn9reg writes; `options` (GDAL creation options) win."""
    floating = dtype.startswith(("float", "complex"))
    profile: dict[str, Any] = {"driver": "GTiff", "width": grid.width, "height": grid.height, "count": count}
    profile |= {"dtype": dtype, "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}
    interleave = "pixel" if count <= 4 and not floating else "band"
    profile |= {"num_threads": "all_cpus", "bigtiff": "if_safer", "interleave": interleave}
    if not dtype.startswith("complex"):
        profile["predictor"] = 3 if floating else 2
    if grid.crs is not None:
        profile |= {"crs": grid.crs, "transform": grid.transform}
    return profile | options


def check_creation(path: PathLike, profile: Mapping[str, Any], options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The creation profile with creation options. Makes a raster of few pixels in memory, and raises ConfigError for an
    option or a value that GDAL does not know, of which it only warns, OutputError for options that do not fit."""
    if not options:
        return dict(profile)
    made, said = {**profile, **options}, list[str]()
    small = {"num_threads": 1, **options, "width": 16, "height": 16}

    def keep(record: logging.LogRecord) -> bool:
        kind, _, words = record.getMessage().partition(" in ")
        if kind in ("CPLE_NotSupported", "CPLE_IllegalArg") or words.startswith("Invalid value"):
            said.append(words.removesuffix(", ignoring."))
        return False

    logger = logging.getLogger("rasterio._env")
    logger.setLevel(logging.WARNING)
    logger.addFilter(keep)
    try:
        with warnings.catch_warnings(), MemoryFile() as file:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with file.open(**(made | small)) as target:
                target.write(np.zeros((target.count, 16, 16), made["dtype"].replace("_int16", "64")))
    except (RasterioError, CPLE_BaseError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written ({_first_line(error)})") from error
    finally:
        logger.removeFilter(keep)
        logger.setLevel(logging.CRITICAL)
    if said:
        raise ConfigError(f"GDAL does not know such a creation option of a GeoTIFF: {said[0]}")
    return made


@contextmanager
def create_raster(path: PathLike, profile: Mapping[str, Any], overwrite: bool = False) -> Iterator[DatasetWriter]:
    """A new GeoTIFF to write, as `atomic_output`. GDAL itself raises nothing where it fails in one of its threads or
    while it closes the file, e.g. on a full disk or for a compression that does not know the type."""
    with atomic_output(path, overwrite) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # one in a pixel frame has none, and needs none
        with rasterio.open(temporary, "w", **profile) as dataset:
            yield dataset
        sparse = str(profile.get("sparse_ok", "no")).lower() in ("yes", "true", "on", "1")
        if not _is_whole(temporary, sparse):
            raise OSError("GDAL left it incomplete: the disk is full, or a creation option does not fit the data")


def _is_whole(path: PathLike, sparse: bool) -> bool:
    """Whether a GeoTIFF can be opened and holds all its blocks; `sparse`: blocks may be absent."""
    size = os.path.getsize(path)
    try:
        with rasterio.open(path) as dataset:
            bands = dataset.indexes if dataset.interleaving != Interleaving.pixel else dataset.indexes[:1]
            for band, ((row, col), _) in ((b, block) for b in bands for block in dataset.block_windows(b)):
                keys = (f"BLOCK_{name}_{col}_{row}" for name in ("OFFSET", "SIZE"))
                start, length = (dataset.get_tag_item(key, "TIFF", bidx=band) for key in keys)
                absent = start is None or length is None
                if (absent and not sparse) or (not absent and int(start) + int(length) > size):
                    return False
            if dataset.mask_flag_enums[0] == [MaskFlags.per_dataset]:  # a mask of its own, not an alpha band
                for _, window in dataset.block_windows(1):
                    dataset.read_masks(1, window=window)
    except RasterioError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    if isinstance(error, RasterioError) and error.__cause__ is not None:
        error = error.__cause__  # GDAL's own words; rasterio's are "Read failed. See previous exception for details."
    return (str(error) or type(error).__name__).splitlines()[0]
