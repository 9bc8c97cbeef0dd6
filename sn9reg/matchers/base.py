"""The contract of a matcher, and how one is found by its name.

The matcher `some-name` is the class of that `name` in the module `sn9reg.matchers.some_name`, in `matcher.py` of that
folder, or in `sn9reg.matchers.dense.some_name`; or it runs the dense network of that name. No other is imported.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from sn9reg import matchers
from sn9reg.errors import ConfigError
from sn9reg.fit.correspondences import Correspondences
from sn9reg.matchers import dense
from sn9reg.matchers.dense.networks.table import NETWORKS
from sn9reg.options import check, check_call
from sn9reg.raster.scene import ScenePair

_NO_MATCHERS = {"base", "batch_norm", "dense", "fusion"}  # modules beside the matchers


@runtime_checkable
class Matcher(Protocol):
    """A source of correspondences. The keyword arguments of its constructor are its whole configuration; a class may
    declare them in a dataclass `Options` (see `sn9reg.options`). It raises ConfigError for options that make no sense,
    InputError where there are no weights or they do not fit. A true attribute `own_weights` says that other weights
    were given than those that ship: the calibration that ships is not for these. One of the class, `needs_weights`,
    says that none ship: its option `weights` is to name a file."""

    name: str

    def match(self, pair: ScenePair) -> Correspondences:
        """Correspondences of a pair, possibly none. Raises InputError where a scene cannot be read."""


def _places() -> dict[str, str]:
    """Name of every matcher -> the module that has its class. Nothing is imported for it."""
    found = {m.name: m.name + ".matcher" * m.ispkg for m in pkgutil.iter_modules(matchers.__path__)}
    found |= {stem: f"dense.{stem}" for stem in dense.MATCHERS}
    named = {stem.replace("_", "-"): f"{matchers.__name__}.{found[stem]}" for stem in found.keys() - _NO_MATCHERS}
    return named | dict.fromkeys(NETWORKS, f"{dense.__name__}.learned")


def matcher_class(name: str) -> type[Matcher]:
    """The class of that name. Raises ConfigError where there is none."""
    if place := _places().get(name):
        module = import_module(place)
        if name in NETWORKS:
            return module.matcher_of(name)
        classes: Any = inspect.getmembers(module, inspect.isclass)
        for _, kind in classes:
            if kind.__module__ == place and getattr(kind, "name", None) == name and hasattr(kind, "match"):
                return kind
    raise ConfigError(f"no matcher {name!r}; there are: {', '.join(sorted(_places()))}")


def matcher_classes() -> dict[str, type[Matcher]]:
    """Name -> class of every matcher. Imports them all."""
    return {name: matcher_class(name) for name in sorted(_places())}


def options_of(kind: type[Matcher]) -> dict[str, Any]:
    """Name -> default of a matcher's options."""
    declared = inspect.signature(getattr(kind, "Options", kind))
    return {name: option.default for name, option in declared.parameters.items()}


def make_matcher(name: str, /, **options: Any) -> Matcher:
    """The matcher of that name. FAMILY:VARIANT is one of a class that stands for many: it has a true attribute
    `needs_variant`, and takes the option `variant`. A+B are several in one run, whose options may be A.NAME; see
    `fusion`. Raises ConfigError for an unknown name or option."""
    sources = checked_matchers(name, options)
    if len(sources) == 1:
        ((kind, given),) = sources.values()
        return kind(**given)
    from sn9reg.matchers.fusion import FusedMatcher  # here, since it makes matchers by this module

    return FusedMatcher({source: partial(kind, **given) for source, (kind, given) in sources.items()})


def checked_matchers(name: str, options: Mapping[str, Any]) -> dict[str, tuple[type[Matcher], dict[str, Any]]]:
    """The class and the keyword arguments of every source that `make_matcher` would make; nothing is made or loaded.
    Raises as that does."""
    if "+" not in name:
        return {name: checked_matcher(name, options)}
    from sn9reg.matchers.fusion import options_by_source

    shares = options_by_source(name.split("+"), options)
    return {source: checked_matcher(source, given) for source, given in shares.items()}


def checked_matcher(name: str, options: Mapping[str, Any]) -> tuple[type[Matcher], dict[str, Any]]:
    """The same of one matcher."""
    family, colon, variant = name.partition(":")
    kind, given = matcher_class(family), dict(options)
    if colon and not getattr(kind, "needs_variant", False):
        raise ConfigError(f"matcher {family!r} has no variants: leave out {colon + variant!r}")
    if colon and given.setdefault("variant", variant) != variant:
        raise ConfigError(f"matcher {name!r}: leave out the option variant")
    if declared := getattr(kind, "Options", None):
        check(declared, given, f"matcher {family!r}")
    else:
        check_call(kind, given, f"matcher {name!r}")
    return kind, given
