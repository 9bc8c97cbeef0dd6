"""`sn9reg matchers`: what `--matcher` can be."""

import inspect
import json
from typing import Any

import click

from sn9reg.cli import options


@click.command()
@options.as_json
def matchers(as_json: bool) -> None:
    """List the matchers and their options."""
    from sn9reg.matchers.base import matcher_classes, options_of

    table: dict[str, dict[str, Any]] = {}
    for name, item in matcher_classes().items():
        many = getattr(item, "needs_variant", False)  # each by a name of its own, which is no option then
        table[f"{name}:NAME" if many else name] = {
            "about": (inspect.getdoc(item) or "").split("\n")[0],
            "options": {key: value for key, value in options_of(item).items() if not (many and key == "variant")},
        }
    if as_json:
        click.echo(json.dumps(table))
        return
    for name, facts in table.items():
        click.echo(f"{name}: {facts['about']}")
        click.echo("    " + " ".join(f"{key}={value}" for key, value in facts["options"].items()))
