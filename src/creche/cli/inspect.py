"""`creche inspect`: what a container of a spec file could reach, how exposed that is, and what to change."""

from __future__ import annotations

from typing import Any

import click

from .exits import OUR_FAILURE
from .parameters import PRESETS

__all__ = ["command"]

_HELP = """Show what a container of a spec file could reach, with a score, and what would lower it.

\b
Nothing is started. The score is 0 (nothing but its own) to 10 (the host);
it weighs what the spec allows, and knows nothing of the program's faults.
With --threshold the exit status is 1 where the score is above it.
"""


@click.command("inspect", help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("spec", type=click.Path(exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="The table as JSON.")
@click.option("--threshold", type=click.FloatRange(0, 10), help="The highest score that is well.")
@click.option("--preset", type=click.Choice(PRESETS), help="As if the spec's security were this one.")
@click.pass_context
def command(
    ctx: click.Context, spec: str, as_json: bool, threshold: float | None, preset: str | None
) -> None:
    """See _HELP."""
    import attrs

    from creche import CrecheError, Spec
    from creche.audit.inspecting import inspect
    from creche.machine import probe
    from creche.spec import presets

    machine = probe()
    try:
        wanted = Spec.from_file(spec)
        if preset is not None:
            wanted = attrs.evolve(wanted, security=presets.preset(preset))
        found = inspect(wanted, arch=machine.arch, kernel=machine.kernel[:2])
    except CrecheError as error:
        click.echo(f"creche: {error}", err=True)
        ctx.exit(OUR_FAILURE)
    if as_json:
        import json

        rows: list[dict[str, Any]] = [attrs.asdict(item) for item in found.exposures]
        click.echo(json.dumps({"score": found.score, "level": found.level, "exposures": rows}, indent=2))
    else:
        click.echo(_table(found))
    ctx.exit(int(threshold is not None and found.score > threshold))


def _table(found: Any) -> str:
    lines = []
    for item in sorted(found.exposures, key=lambda item: -item.bad * item.weight):
        mark = "ok " if not item.bad else "-- " if item.bad * item.weight < 2 else "!! "
        lines.append(f"{mark} {item.field:24} {_printable(item.means)}")
        if item.bad and item.advice:
            lines.append(f"{'':29}{item.advice}")
    return "\n".join([*lines, "", f"exposure {found.score} of 10: {found.level}"])


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
