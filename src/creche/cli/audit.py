"""`creche audit`: a container of a spec file is started, and what it promises held against what the kernel says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .exits import OUR_FAILURE
from .reaching import safe

if TYPE_CHECKING:
    from creche import Spec
    from creche.audit.auditing import Finding

__all__ = ["command"]

_HELP = """Start a container of a spec file, and hold what it promises against what the kernel says of it.

\b
The spec's own command is started (or COMMAND in its place, such as sleep 60),
looked at from outside by the host's /proc, and killed at once: its input stays
open and empty, its output is dropped.

Exit status: 0 where every promise holds, 1 where one does not, 125 where the
container did not start or had ended before it was looked at.
"""


@click.command(
    "audit",
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "allow_interspersed_args": False},
)
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.argument("spec", type=click.Path(exists=True, dir_okay=False))
@click.argument("words", nargs=-1, type=click.Path(readable=False), metavar="[COMMAND…]")
@click.pass_context
def command(ctx: click.Context, spec: str, words: tuple[str, ...], as_json: bool) -> None:
    """See _HELP."""
    import anyio
    import attrs

    from creche import CrecheError, Spec

    try:
        wanted = Spec.from_file(spec)
        wanted = attrs.evolve(wanted, command=list(words) or wanted.command, **_ours(wanted))
        if wanted.command is None:
            raise click.UsageError("the spec has no command: give one, such as sleep 60", ctx)
        found = anyio.run(_audited, wanted)
    except CrecheError as error:
        click.echo(f"creche: {error}", err=True)
        ctx.exit(OUR_FAILURE)
    if as_json:
        import json

        rows: list[dict[str, Any]] = [attrs.asdict(item) for item in found]
        click.echo(json.dumps({"holds": all(item.holds for item in found), "findings": rows}, indent=2))
    else:
        click.echo(_table(found))
    ctx.exit(int(not all(item.holds for item in found)))


def _ours(spec: Spec) -> dict[str, Any]:
    """Pipes instead of our own descriptors; a terminal stays one."""
    return {} if spec.tty is not None else {"stdin": "pipe", "stdout": "null", "stderr": "null"}


async def _audited(spec: Spec) -> tuple[Finding, ...]:
    import anyio

    from creche import Container, CrecheError

    async with Container(spec) as box:
        try:
            return await box.audit()
        except CrecheError:
            with anyio.move_on_after(1):  # it may be just dying
                await box.wait()
            if box.exit is None:
                raise
            wish = "give one that lasts in its place, as in `creche audit SPEC sleep 60`"
            raise CrecheError(f"the command had ended before it was looked at: {wish}") from None


def _table(found: tuple[Finding, ...]) -> str:
    width = max((len(item.field) for item in found), default=0)
    lines = [
        f"{'ok' if item.holds else 'NO'}  {item.field:{width}}  {item.promise}: {safe(item.answer)}"
        for item in found
    ]
    broken = sum(not item.holds for item in found)
    return "\n".join(
        [*lines, "", f"{len(found)} promises, {f'{broken} do not hold' if broken else 'all hold'}"]
    )
