"""The contract of a matcher, and how one is found by its name.

The matcher `some-name` is the class of that `name` in the module `sn9reg.matchers.some_name`, in `matcher.py` of the
folder `sn9reg/matchers/some_name`, or in `sn9reg.matchers.dense.some_name`; or it runs the dense network of that name.
Only the module of the matcher that is asked for is imported.
"""

from __future__ import annotations

import inspect
import pkgutil
from dataclasses import MISSING, fields
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sn9reg import matchers
from sn9reg.errors import ConfigError
from sn9reg.matchers import dense
from sn9reg.matchers.dense.networks.table import NETWORKS
from sn9reg.options import check_call

if TYPE_CHECKING:
    from sn9reg.fit.correspondences import Correspondences
    from sn9reg.raster.scene import ScenePair

_HELPERS = ("base", "fused")  # files beside the matchers that are none


@runtime_checkable
class Matcher(Protocol):
    """A source of correspondences. Its constructor's keyword arguments are its whole configuration; a class may declare
    them in a dataclass `Options` (see `sn9reg.options`). Where it was given weights other than those that ship it says
    so by an attribute `own_weights`, which is true: what ships of the calibration is not for them. A class that stands
    for many, each with a name of its own, see `make_matcher`."""

    name: str

    def match(self, pair: ScenePair) -> Correspondences:
        """Correspondences of a pair, possibly none. Raises InputError where a scene cannot be read."""
        ...


def matcher_names() -> list[str]:
    """Every name that `matcher_class` finds, sorted. Nothing is imported for it."""
    there = pkgutil.iter_modules(matchers.__path__, f"{matchers.__name__}.")
    modules = [m.name for m in there if not m.ispkg or find_spec(f"{m.name}.matcher")]
    names = {module.rpartition(".")[2].replace("_", "-") for module in modules} - set(_HELPERS)
    return sorted(names | set(dense.MATCHERS) | NETWORKS.keys())


def matcher_class(name: str) -> type[Matcher]:
    """The class of that name. Raises ConfigError where there is none."""
    if name in NETWORKS:
        return import_module("sn9reg.matchers.dense.learned").matcher_of(name)
    stem = name.replace("-", "_")
    places = (f"sn9reg.matchers.{stem}", f"sn9reg.matchers.{stem}.matcher", f"sn9reg.matchers.dense.{stem}")
    for place in places if stem.isidentifier() else ():
        if not _exists(place):
            continue
        module = import_module(place)
        members: list[tuple[str, Any]] = inspect.getmembers(module, inspect.isclass)
        for _, item in members:
            if item.__module__ == place and getattr(item, "name", None) == name and hasattr(item, "match"):
                return item
    raise ConfigError(f"no matcher {name!r}; there are: {', '.join(matcher_names())}")


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is no folder
        return False


def matcher_classes() -> dict[str, type[Matcher]]:
    """Name -> class of every matcher. Imports them all."""
    return {name: matcher_class(name) for name in matcher_names()}


def options_of(kind: type[Matcher]) -> dict[str, Any]:
    """Name -> default of a matcher's options."""
    if declared := getattr(kind, "Options", None):
        return {f.name: f.default if f.default is not MISSING else None for f in fields(declared)}
    return {name: p.default for name, p in inspect.signature(kind).parameters.items()}


def make_matcher(name: str, **options: Any) -> Matcher:
    """The matcher of that name; FAMILY:VARIANT is one of a class that stands for many, which takes the option `variant`
    and has a `needs_variant` that is true. Raises ConfigError if there is none, or if it does not know an option."""
    family, colon, variant = name.partition(":")
    kind = matcher_class(family)
    if colon and not getattr(kind, "needs_variant", False):
        raise ConfigError(f"matcher {family!r} has no variants: leave out {colon + variant!r}")
    if not hasattr(kind, "Options"):  # those check their options themselves
        check_call(kind, options, f"matcher {name!r}")
    return kind(**options, **({"variant": variant} if colon else {}))
