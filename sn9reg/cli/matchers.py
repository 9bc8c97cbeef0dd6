"""`sn9reg matchers`: what `--matcher` can be."""

import inspect
from typing import Any

import click

from sn9reg.cli import options


@click.command()
@options.as_json
def matchers() -> None:
    """List the matchers and their options.

    Whichever finds the matches, the features of the default matcher judge whether the pair is registered.
    """
    from sn9reg.matchers.base import matcher_classes, options_of

    table: dict[str, dict[str, Any]] = {}
    lines = []
    for name, item in matcher_classes().items():
        about, known = (inspect.getdoc(item) or "").split("\n")[0], options_of(item)
        if getattr(item, "needs_variant", False):  # each by a name of its own, which is no option then
            name = f"{name}:NAME"
            known.pop("variant", None)
        table[name] = {"about": about, "options": known}
        lines += [f"{name}: {about}", "    " + " ".join(f"{key}={value}" for key, value in known.items())]
    options.say(table, lines)
