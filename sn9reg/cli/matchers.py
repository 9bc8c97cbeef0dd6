"""`sn9reg matchers`: what `--matcher` can be."""

import inspect
from typing import Any

import click

from sn9reg.cli import options


@click.command()
@options.as_json
def matchers() -> None:
    """List the matchers and their options."""
    from sn9reg.matchers.base import matcher_classes, options_of

    table: dict[str, dict[str, Any]] = {}
    for name, item in matcher_classes().items():
        many = getattr(item, "needs_variant", False)  # each by a name of its own, which is no option then
        table[f"{name}:NAME" if many else name] = {
            "about": (inspect.getdoc(item) or "").split("\n")[0],
            "options": {key: value for key, value in options_of(item).items() if not (many and key == "variant")},
        }
    lines = []
    for name, facts in table.items():
        lines += [f"{name}: {facts['about']}", "    " + " ".join(f"{k}={v}" for k, v in facts["options"].items())]
    options.say(table, lines)
