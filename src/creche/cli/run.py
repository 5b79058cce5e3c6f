"""`creche run`: one command in a container, joined to our own terminal or pipes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .exits import TIMED_OUT, error_status, exit_status, worth_telling
from .parameters import RunCommand, shared
from .terminal import Standard, Terminal, choose_standard, kinds

if TYPE_CHECKING:
    from creche import Spec

__all__ = ["command", "say", "spec_of"]

_HELP = """Run COMMAND in a container of its own, and end as it ends.

\b
The default is a careful one: the host's programs and libraries read-only,
nothing of /home, /root, /run or /var, no network, no capabilities, a filter
for system calls. What it may have beyond that is said by options.

On a terminal it gets a terminal of its own, with Ctrl-C, Ctrl-Z and the
window's size; files and pipes are handed over as they are.
"""
_EPILOG = """\b
Exit status: the command's own; 128+N when signal N ended it; 124 when time
was up; 125 when creche itself failed; 126 when COMMAND may not be executed;
127 when it does not exist.

\b
  creche run -v .:/work -w /work -- make -j2
  creche run -m 256M --cpus 1 --pids 64 --timeout 10 python3 program.py
  creche run -f worker.toml -e DEBUG=1
  creche run --overlay /srv/debian -it bash
"""


@click.command(
    "run",
    cls=RunCommand,
    help=_HELP,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@shared
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """See _HELP."""
    from creche import CrecheError

    try:
        ctx.exit(_run(ctx, given))
    except CrecheError as error:
        say(error)
        ctx.exit(error_status(error))


def spec_of(ctx: click.Context, given: dict[str, Any]) -> Spec:
    """The Spec of the spec file and the options over it. Raises SpecError, and click's errors."""
    from creche import Spec

    from .options import build_spec

    try:
        base = Spec.from_file(given["spec"]) if given.get("spec") else None
    except OSError as error:
        raise click.BadParameter(f"{given['spec']}: {error.strerror}", ctx, param_hint="'--spec'") from None
    if not given["command"] and (base is None or not base.command):
        raise click.UsageError("give a command, for example: creche run -- ls /", ctx)
    return build_spec(given, given["command"], order=ctx.meta.get("creche.order", ()), base=base)


def _run(ctx: click.Context, given: dict[str, Any]) -> int:
    import attrs

    from creche.units import seconds

    timeout = None if given["timeout"] is None else seconds(given["timeout"], "--timeout")
    spec = spec_of(ctx, given)
    tty = given["tty"] if given["tty"] is not None or spec.tty is None else True
    standard = choose_standard(kinds(), tty=tty, interactive=given["interactive"])
    spec = attrs.evolve(spec, **_joined(standard, spec))

    import anyio

    from .session import hold

    refused = None
    if spec.security.seccomp_report:
        from .refused import Refused

        refused = Refused()
    exit = anyio.run(hold, spec, standard, timeout, refused)
    for line in refused.lines() if refused is not None else ():
        click.echo(f"creche: {line}", err=True)
    if exit is None:
        click.echo(f"creche: the command was ended: --timeout {given['timeout']} is over", err=True)
        return TIMED_OUT
    if worth_telling(exit):
        click.echo(f"creche: {exit.explain()}", err=True)
    return exit_status(exit)


def _joined(standard: Standard, spec: Spec) -> dict[str, Any]:
    """The fields that join *spec* to our own descriptors; what a spec file says of them stays."""
    if standard.tty:
        # a program must know what the terminal behind its own understands; but empty is empty
        env = spec.env
        known = env == {} or "TERM" in {*(env or ()), *spec.inherit_env} or "TERM" not in os.environ
        names = spec.inherit_env if known else (*spec.inherit_env, "TERM")
        return {"tty": Terminal().size(), "inherit_env": names}
    ours = {"stdin": standard.stdin, "stdout": standard.stdout, "stderr": standard.stderr}
    return {"tty": None} | {name: value for name, value in ours.items() if getattr(spec, name) == "pipe"}


def say(error: Exception) -> None:
    from creche import SpecError

    from .options import OPTION_OF_FIELD

    where = OPTION_OF_FIELD.get(error.field) if isinstance(error, SpecError) else None
    click.echo(f"creche: {where + ': ' if where else ''}{error}", err=True)
    sys.stderr.flush()
