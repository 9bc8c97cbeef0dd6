"""`sn9reg pipelines`: what `--pipeline` can be."""

import json

import click

from sn9reg.cli import options


@click.command()
@options.as_json
def pipelines() -> None:
    """List the pipelines that ship and their settings. A YAML file of such settings is one, too."""
    from sn9reg.pipeline import shipped

    known, lines = shipped(), []
    for name, made in known.items():
        said = (f"{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in made.settings().items())
        lines += [f"{name}: {made.about}", f"    {' '.join(said)}"]
    options.say({name: {"about": made.about} | made.settings() for name, made in known.items()}, lines)
