"""Registered pairs to learn from: their sources, those held out, and endless samples drawn from the others."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count, product, repeat
from typing import Annotated, Any, Generic, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le, Lt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.utils.data import IterableDataset, get_worker_info

from sn9reg.errors import ConfigError, InputError
from sn9reg.options import options
from sn9reg.raster.folders import data_root, pair_files
from sn9reg.raster.radiometry import SarLog
from sn9reg.raster.scene import Patch
from sn9reg.training.geosplit import Pair, parted, read_manifest, read_window

log = logging.getLogger(__name__)
S = TypeVar("S")
_FAILURES = 500  # pairs without room for a sample, one after the other, before that is taken for an error
_SAME = 0.9  # correlation of two quadrants' thumbnails from which they are taken to show one place


@options
class Source:
    """A folder of pairs, or a manifest of large rasters (see `geosplit`). Raises ConfigError for neither or both."""

    folder: str | None = None  # relative to the data root
    manifest: str | None = None  # the same
    weight: Annotated[float, Ge(0)] = 1.0  # share of the samples, in proportion to those of the other sources
    zoom: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (1.0, 1.0)  # range, drawn on its logarithm
    zoomed: Annotated[float, Ge(0), Le(1)] = 1.0  # share of the samples that are magnified; others keep their pixels
    # Share of a folder's pairs kept for validation, on ground that the others do not show; of a manifest, the share of
    # the places to train on: when to stop must not be learned from the test set.
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.0
    longitude: float | None = None  # degrees at which a manifest is parted into training and test; if None, by year
    year: int = 2018  # of the training set of a manifest that is parted by year
    sar_band: Annotated[int, Ge(1)] = 1  # of a manifest's rasters, counted from 1

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.manifest is None):
            raise ConfigError("a source needs either a folder or a manifest")
        if self.zoom[0] > self.zoom[1]:
            raise ConfigError(f"{self.name}: zoom {self.zoom} must begin with the smaller number")

    @property
    def name(self) -> str:
        return str(self.folder or self.manifest)

    def drawn_zoom(self, random: np.random.Generator) -> float:
        low, high = self.zoom
        return float(np.exp(random.uniform(np.log(low), np.log(high)))) if random.random() < self.zoomed else 1.0


Pairs = Sequence[tuple[Patch, Patch]]  # optical, SAR
Parts = Sequence[tuple[Source, Pairs]]


class _Windows(Sequence[tuple[Patch, Patch]]):
    """A window of each pair of a manifest's rasters; another one each time that it is asked for, unless `fixed`."""

    def __init__(self, pairs: Sequence[Pair], size: int, seed: int, sar_band: int, fixed: bool = False) -> None:
        self._pairs, self._size, self._seed, self._sar_band = pairs, size, seed, sar_band
        self._draws = repeat(0) if fixed else count()

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: Any) -> Any:
        random = np.random.default_rng([self._seed, next(self._draws), index])
        optical, sar = read_window(self._pairs[index], self._size, self._sar_band, random)
        valid = np.ones(optical.shape[1:], bool)
        return Patch(optical, valid), amplitude(Patch(sar, valid))


def amplitude(sar: Patch) -> Patch:
    """The patch with decibels, of intensity, turned to amplitude."""
    if not SarLog.of(sar.values, sar.valid).decibel:
        return Patch(np.maximum(sar.values, 0), sar.valid)
    return Patch(np.where(sar.valid, np.power(10, sar.values / 20, dtype=np.float32), np.float32(0)), sar.valid)


def load_all(sources: Sequence[Source], seed: int, side: int) -> tuple[Parts, Parts]:
    """Each source's pairs that samples can be drawn from, and those held out. Raises as `load`."""
    loaded = [(source, *load(source, seed, side)) for source in sources]
    usable = [(source, pairs) for source, pairs, _ in loaded if pairs and source.weight > 0]
    return usable, [(source, held) for source, _, held in loaded]


def load(source: Source, seed: int, side: int) -> tuple[Pairs, Pairs]:
    """Pairs for training, and those held out. side: pixels of the patches. Raises InputError for none, or a file."""
    if source.manifest is not None:
        train, _ = parted(read_manifest(data_root() / source.manifest), source.longitude, source.year)
        places, out = sorted({pair[0].place for pair in train}), set[tuple[float, float]]()
        if source.held_out:
            if len(places) < 2:
                raise ConfigError(f"{source.name}: of one place for training, none can be held out")
            count = min(len(places) - 1, max(1, round(source.held_out * len(places))))
            out = {places[k] for k in np.random.default_rng(seed).permutation(len(places))[:count]}
        most = math.ceil(side / min(1, source.zoom[0]))
        seen, few = ([pair for pair in train if (pair[0].place in out) == held] for held in (False, True))
        return _Windows(seen, most, seed, source.sar_band), _Windows(few, side, seed, source.sar_band, fixed=True)
    pairs = []
    for files in pair_files(data_root() / source.name):
        optical, sar = files.read(native=True)
        if optical.valid.shape != sar.valid.shape:
            raise InputError(f"{files.optical} and {files.sar.name} differ in size; a registered pair does not")
        pairs.append((optical, amplitude(sar)))
    held = np.zeros(len(pairs), bool)
    if source.held_out:
        held = hold_out([optical.values.mean(axis=0) for optical, _ in pairs], source.held_out, seed)
    log.info("%s: %d pairs, %d held out", source.name, len(pairs), int(held.sum()))
    return [p for p, out in zip(pairs, held, strict=True) if not out], [pairs[k] for k in np.flatnonzero(held)]


def hold_out(images: Sequence[npt.NDArray[np.generic]], share: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """(N,) True for images kept from training, about `share` of them, ground that no other image shows: components of
    overlapping images drawn at random, none larger than a quarter of what is wanted, so that it is many places."""
    labels, wanted = ground_components(images), share * len(images)
    sizes, taken, held = np.bincount(labels), 0, []
    for label in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[label] <= max(1, wanted / 4) and taken + sizes[label] <= wanted:
            held.append(label)
            taken += sizes[label]
    return np.isin(labels, held)


def ground_components(images: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.int64]:
    """(N,) label of each (h, w) grey image; those that overlap by half, directly or through others, have the same: a
    quadrant of one, as a thumbnail without low frequencies, is another quadrant of the other, as in SEN1-2."""
    found = []
    for image in images:
        height, width = (n // 2 for n in image.shape)
        for row, col in product((0, height), (0, width)):
            quadrant = image[row : row + height, col : col + width].astype(np.float32)
            small = cv2.resize(quadrant, (16, 16), interpolation=cv2.INTER_AREA)
            small = small - cv2.GaussianBlur(small, (0, 0), 4)
            small -= small.mean()
            found.append((small / (np.linalg.norm(small) + 1e-6)).ravel())
    thumbnails = np.stack(found)
    parts = range(0, len(thumbnails), 1024)  # to bound the memory
    alike = [np.argwhere(thumbnails[at : at + 1024] @ thumbnails.T > _SAME) + np.array([at, 0]) for at in parts]
    i, j = np.concatenate(alike).T // 4
    graph = coo_matrix((np.ones(len(i)), (i, j)), shape=(len(images), len(images)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def drawn(parts: Parts, random: np.random.Generator) -> tuple[Source, Patch, Patch]:
    """A random source by its weight, and a random pair of it."""
    weights = np.array([source.weight for source, _ in parts])
    source, pairs = parts[int(random.choice(len(parts), p=weights / weights.sum()))]
    return source, *pairs[int(random.integers(len(pairs)))]


# A sample of a source's optical and SAR patch, or None where the pair has no room for it.
Make = Callable[[Source, Patch, Patch, np.random.Generator], S | None]


def fixed(parts: Parts, make: Make[S], seed: int) -> list[S]:
    """A sample of every pair that has room for it, the same each time."""
    pairs = ((source, index, pair) for source, pairs in parts for index, pair in enumerate(pairs))
    made = (make(source, *pair, np.random.default_rng([seed, index])) for source, index, pair in pairs)
    return [sample for sample in made if sample is not None]


class Samples(IterableDataset[S], Generic[S]):
    """Endless random samples, of each worker others. Raises ConfigError for no pair, and after many without room."""

    def __init__(self, parts: Parts, make: Make[S], seed: int) -> None:
        self.parts, self.make, self.seed = parts, make, seed
        if not parts:
            raise ConfigError("there is nothing to train on: no source has pairs and a weight above zero")

    def __iter__(self) -> Iterator[S]:
        worker = get_worker_info()
        random = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            tries = (self.make(*drawn(self.parts, random), random) for _ in range(_FAILURES))
            sample = next((made for made in tries if made is not None), None)
            if sample is None:
                raise ConfigError("no pair has room for a sample: ask for fewer or smaller ones")
            yield sample
