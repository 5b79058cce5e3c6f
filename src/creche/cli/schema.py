"""`creche schema`: the JSON Schema of spec files, for editors and other programs."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("schema", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Print the JSON Schema of spec files (TOML and JSON have the same keys).

    \b
    creche schema > creche.schema.json      then, in a JSON spec:
    {"$schema": "./creche.schema.json", "command": ["true"]}
    """
    import json

    from creche.spec.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
