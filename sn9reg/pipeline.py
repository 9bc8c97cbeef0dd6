"""A pipeline: matcher, its options, filter and model as one thing, under the names that `register` and the command line
have for them. Those that ship are the YAML files in `pipelines/`, by their names; any other is named by its path."""

import os
from collections.abc import Mapping
from dataclasses import field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Le

from sn9reg.errors import ConfigError, InputError
from sn9reg.features.pose import Posing
from sn9reg.fit.choose import Model
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.matchers.base import checked_matchers
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike, read_mapping


@options
class Pipeline:
    """How a pair is registered; each field but the first is an argument of `register`, which says what it means."""

    about: str = ""  # one line
    matcher: str = DEFAULT_MATCHER
    matcher_options: dict[str, Any] = field(default_factory=dict)
    model: Model = "auto"
    threshold: Annotated[float, Gt(0), Le(1e6)] | None = None
    ratio_filter: bool = False
    pose: Posing = "auto"

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `register`."""
        return {name: getattr(self, name) for name in SETTINGS}


SETTINGS = tuple(one.name for one in fields(Pipeline) if one.name != "about")


def shipped() -> dict[str, Pipeline]:
    """Name -> every pipeline that ships."""
    return {name: _read(path) for name, path in sorted(_places().items())}


def read_pipeline(pipeline: PathLike) -> Pipeline:
    """The pipeline of that name, or in the YAML file of that path. Raises ConfigError for a name, a setting, a matcher
    or an option that there is not, InputError for a file that is missing or no YAML."""
    known = _places()
    if str(pipeline) in known:
        return _read(known[str(pipeline)])
    if Path(pipeline).suffix not in (".yaml", ".yml") and not os.path.exists(pipeline):
        raise ConfigError(f"no pipeline {str(pipeline)!r}; there are: {', '.join(sorted(known))}; or give a .yaml file")
    return _read(pipeline)


def chosen(pipeline: PathLike | None = None, **given: Any) -> Pipeline:
    """A pipeline, by default one of default settings, with those in place of its own that are given and not None;
    matcher options one by one. Raises as `read_pipeline`, and ConfigError for a matcher beside a pipeline, which names
    its own."""
    found, said = Pipeline(), {name: value for name, value in given.items() if value is not None}
    if pipeline is not None:
        if "matcher" in said:
            raise ConfigError(f"pipeline {pipeline} names a matcher itself: leave out --pipeline or --matcher")
        found = read_pipeline(pipeline)
    asked: Mapping[str, Any] = said.pop("matcher_options", {})
    kept = {name: value for name, value in found.matcher_options.items() if not _overruled(name, asked)}
    made = replace(found, matcher_options=kept | dict(asked), **said)
    if pipeline is not None:
        _check_weights(pipeline, made)
    return made


def _check_weights(pipeline: PathLike, made: Pipeline) -> None:
    """Raises InputError where a source has no weights: without it, it would be another pipeline."""
    for name, (kind, given) in checked_matchers(made.matcher, made.matcher_options).items():
        if getattr(kind, "needs_weights", False) and not given.get("weights"):
            option = f"{name}.weights" if "+" in made.matcher else "weights"
            said = f"no weights of {name} ship with sn9reg: name a file, matcher_options: {{{option}: FILE}}"
            raise InputError(f"pipeline {pipeline}: {said}")


def _read(path: PathLike) -> Pipeline:
    made = check(Pipeline, read_mapping(path), str(path))
    try:
        checked_matchers(made.matcher, made.matcher_options)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return made


def _overruled(name: str, asked: Mapping[str, Any]) -> bool:
    """Whether what is asked is the same option of the same source, or of all."""
    return name in asked or name.rpartition(".")[2] in asked


def _places() -> dict[str, str]:
    """Name -> path of those that ship."""
    return {Path(one.name).stem: str(one) for one in files("sn9reg").joinpath("pipelines").iterdir()}
