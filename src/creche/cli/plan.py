"""`creche plan`: every step that the kernel would be told for a run, and none of them told."""

from __future__ import annotations

from typing import Any

import click

from .exits import OUR_FAILURE
from .parameters import RunCommand, shared
from .run import say, spec_of

__all__ = ["command"]

_HELP = """Show every step that the kernel would be told for `creche run` with the same options.

\b
Nothing is made, reserved or started. The steps are those that would run:
first the parent's, then those of the init (process 1), then the command's.
At the end of a line stands the field of the spec that asked for it.
"""


@click.command(
    "plan",
    cls=RunCommand,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--json", "as_json", is_flag=True, help="The steps as JSON.")
@shared
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """See _HELP."""
    import attrs

    from creche import CrecheError
    from creche.plan.render import as_dict, as_text
    from creche.planning import plan_of

    try:
        spec = spec_of(ctx, given)
        plan = plan_of(attrs.evolve(spec, tty=True) if given["tty"] else spec)
    except CrecheError as error:
        say(error)
        ctx.exit(OUR_FAILURE)
    if as_json:
        import json

        click.echo(json.dumps(as_dict(plan), indent=2))
    else:
        click.echo(as_text(plan))
