"""Several matchers on one pair: their matches as one set, each of which remembers its source."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sn9reg import progress
from sn9reg.errors import ConfigError, InputError, Sn9regError
from sn9reg.fit.correspondences import Correspondences, joined
from sn9reg.fit.neighbours import witnesses_agree
from sn9reg.matchers.base import Matcher, matcher_class, options_of
from sn9reg.raster.scene import ScenePair

log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")

_COMMON = "max_offset"  # the one option that means the same to all


class FusedMatcher:
    """Several matchers, run one after the other on one pair. One that fails is left out, with a warning."""

    def __init__(self, sources: Mapping[str, Callable[[], Matcher]]) -> None:
        """sources: what makes each, by its name. Raises InputError where none can be made."""
        self.name = "+".join(sources)
        self.sources = self._of_each(sources, lambda make: make())

    def match(self, pair: ScenePair) -> Correspondences:
        """What all found, the source first whose places confirm each other most. Raises InputError where all fail."""
        parts = self._of_each(self.sources, lambda source: source.match(pair))
        return joined(dict(sorted(parts.items(), key=lambda part: -_confirmed(part[1]))))

    def _of_each(self, given: Mapping[str, S], do: Callable[[S], T]) -> dict[str, T]:
        """What a function makes of every source, but of those that fail."""
        done, said = {}, ""
        for k, (name, one) in enumerate(given.items()):
            try:
                with progress.part(k / len(given), (k + 1) / len(given)):
                    done[name] = do(one)
            except ConfigError:
                raise
            except Exception as error:  # of a matcher that is not ours, anything
                kind = "" if isinstance(error, Sn9regError) else f"{type(error).__name__}: "
                said = f"{name} failed: {kind}{' '.join(str(error).split())}"
                log.warning("%s; the others go on without it", said)
                log.debug("%s", name, exc_info=True)
        if not done:
            raise InputError(f"every source of {self.name} failed; the last: {said}")
        return done


def _confirmed(matches: Correspondences) -> float:
    """How many matches their neighbours confirm, times the share of the places tried that they are: many as well as
    sure."""
    return float(witnesses_agree(matches).sum()) ** 2 / max(1, matches.tried)


def check_names(names: Sequence[str]) -> None:
    """Raises ConfigError where a source is missing or given twice."""
    known = "+".join(names)
    if not all(names):
        raise ConfigError(f"matcher {known!r}: the name of a source is missing; say it as hybrid+keypoints")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"matcher {known!r}: the source {twice[0]} is given twice")


def options_by_source(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each source's share of options under the names NAME or SOURCE.NAME; `max_offset` is for all that have it. Raises
    ConfigError for a source or an option that there is not, and for a NAME that several have."""
    check_names(names)
    known = {name: options_of(matcher_class(name.partition(":")[0])) for name in names}
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in sorted(options.items(), key=lambda item: "." in item[0]):  # what is for one source comes last
        source, dot, option = key.rpartition(".")
        if dot and source not in given:
            raise ConfigError(f"{key}: {source} is none of the sources; there are: {', '.join(names)}")
        having = [source] if dot else [name for name in names if option in known[name]]
        if not having:
            raise ConfigError(f"matcher {'+'.join(names)!r}: none of its sources has an option {option}")
        if len(having) > 1 and option != _COMMON:
            each = " or ".join(f"{name}.{option}" for name in having)
            raise ConfigError(f"option {option}: {len(having)} sources have one of that name; say {each}")
        for name in having:
            given[name][option] = value
    return given
