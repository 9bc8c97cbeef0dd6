"""The contract of a matcher, and the list of those there are."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any, Protocol, runtime_checkable

from sn9reg.errors import ConfigError, check_options
from sn9reg.fit.correspondences import Correspondences
from sn9reg.raster.scene import ScenePair


@runtime_checkable
class Matcher(Protocol):
    """A source of correspondences. Its constructor's keyword arguments are its whole configuration. Where it was given
    weights other than those that ship it says so by an attribute `own_weights`, which is true: what ships of the
    calibration is not for them. A class that stands for many, each with a name of its own, see `make_matcher`."""

    name: str

    def match(self, pair: ScenePair) -> Correspondences:
        """Correspondences of a pair, possibly none. Raises InputError where a scene cannot be read."""
        ...


def matcher_classes() -> dict[str, type[Matcher]]:
    """Name -> class: every class with a `name` and a `match` that a file of this folder defines."""
    package = importlib.import_module("sn9reg.matchers")
    found: dict[str, type[Matcher]] = {}
    for module in sorted(pkgutil.walk_packages(package.__path__, f"{package.__name__}."), key=lambda m: m.name):
        loaded = importlib.import_module(module.name)
        members: list[tuple[str, Any]] = inspect.getmembers(loaded, inspect.isclass)
        for _, item in members:
            own = item.__module__ == loaded.__name__
            if own and isinstance(getattr(item, "name", None), str) and hasattr(item, "match"):
                found[item.name] = item
    return found


def make_matcher(name: str, **options: Any) -> Matcher:
    """The matcher of that name; FAMILY:VARIANT is one of a class that stands for many, which takes the option `variant`
    and has a `needs_variant` that is true. Raises ConfigError if there is none, or if it does not know an option."""
    classes = matcher_classes()
    family, colon, variant = name.partition(":")
    if family not in classes:
        raise ConfigError(f"no matcher {name!r}; there are: {', '.join(sorted(classes))}")
    if colon and not getattr(classes[family], "needs_variant", False):
        raise ConfigError(f"matcher {family!r} has no variants: leave out {colon + variant!r}")
    check_options(f"matcher {name!r}", options, inspect.signature(classes[family]).parameters)
    if colon:
        options |= {"variant": variant}
    return classes[family](**options)
