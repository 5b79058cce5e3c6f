"""`creche rm`: removes trees that containers left under ids which are nobody's outside."""

from __future__ import annotations

import os

import click

from .exits import OUR_FAILURE

__all__ = ["command"]

_HELP = """Remove PATH and everything below it, whoever of a container's users it belongs to.

\b
A container with many users leaves files of ids that are yours to give and
still not yours, and an ordinary rm fails on them. This one enters a user
namespace with all of your ids, where its root may. It follows no links and
crosses no mounts. There is no way back.
"""


@click.command("rm", help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True, type=click.Path(readable=False), metavar="PATH…")
@click.option("-f", "--force", is_flag=True, help="Say nothing of what is not there.")
@click.option(
    "-r", "-R", "--recursive", is_flag=True, hidden=True, help="For fingers used to rm: it is always so."
)
@click.pass_context
def command(ctx: click.Context, paths: tuple[str, ...], force: bool, recursive: bool) -> None:
    """See _HELP."""
    import anyio

    from creche import CrecheError
    from creche.remove import remove_tree

    failed = False
    for path in paths:
        try:
            if not force and not os.path.lexists(path):
                raise FileNotFoundError(2, "it is not there", path)
            anyio.run(remove_tree, path)
        except (CrecheError, OSError) as error:
            text = error if isinstance(error, CrecheError) else f"{path}: {error.strerror}"
            click.echo(f"creche: {text}", err=True)
            failed = True
    ctx.exit(OUR_FAILURE if failed else 0)
