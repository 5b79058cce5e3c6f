"""`creche doctor`: what this machine, kernel and user can do, what not, why, and what would change it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from creche import CrecheError
    from creche.doctor import Finding, Limitation

__all__ = ["command"]

_MARKS = {"yes": ("ok", "green"), "partly": ("some", "yellow"), "no": ("no", "red")}
_HELP = """Tell what works on this machine, what does not, why, and what would change it.

Things are tried, not guessed: namespaces and mounts in a child that ends at
once, and in the end a real container. Nothing on the machine is changed.

Exit status: 0 when containers start and limits hold, 1 when something that
they need is missing (marked with !).
"""


@click.command("doctor", help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.option("--quick", is_flag=True, help="Without the real container at the end.")
@click.pass_context
def command(ctx: click.Context, as_json: bool, quick: bool) -> None:
    """See _HELP."""
    from creche.doctor import examine, healthy
    from creche.machine import probe
    from creche.trial import run_trial

    trial = run_trial()  # forks, so it comes before anything that could start a thread
    place, controllers = _cgroup()
    findings = examine(
        probe(landlock=True),
        trial,
        place=place,
        controllers=controllers,
        started=None if quick else _first_container(),
        executable=os.path.realpath("/proc/self/exe"),
    )
    if as_json:
        import json

        import attrs

        everything = [attrs.asdict(finding) for finding in findings]
        click.echo(
            json.dumps({"healthy": healthy(findings), "findings": everything}, indent=2, ensure_ascii=False)
        )
    else:
        click.echo(render(findings))
    ctx.exit(0 if healthy(findings) else 1)


def _cgroup() -> tuple[str | Limitation, tuple[str, ...]]:
    from creche import CrecheError
    from creche.cgroups import find_place
    from creche.doctor import Limitation

    try:
        place = find_place()
    except CrecheError as error:
        return _limitation(error), ()
    if not place.usable:
        why = "; ".join(place.reasons) or "no cgroup file system is mounted"
        return Limitation(why, place.hint or ""), ()
    where = f"{place.kind}: {place.hierarchies[0].folder}"
    moved = f" (this process was moved to {place.moved})" if place.moved else ""
    passed = f" (nothing nearer: {'; '.join(place.reasons)})" if place.reasons else ""
    return where + moved + passed, tuple(place.controllers())


def _first_container() -> str | Limitation:
    """A real one, with the defaults; its time is the second one's, since the first pays for the imports."""
    import time

    import anyio

    from creche import CrecheError, run

    async def twice() -> float:
        await run(["true"], check=True)
        start = time.perf_counter()
        await run(["true"], check=True)
        return time.perf_counter() - start

    try:
        return f"starts and ends in {anyio.run(twice) * 1000:.1f} ms"
    except CrecheError as error:
        return _limitation(error)


def _limitation(error: CrecheError) -> Limitation:
    """What was said, and apart from it what to do."""
    from creche.doctor import Limitation

    hint = getattr(error, "hint", None) or ""
    return Limitation(str(error).removesuffix(f"; {hint}"), hint)


def render(findings: tuple[Finding, ...], width: int | None = None) -> str:
    """The findings as people read them: a line each, and below the bad ones why and what to do."""
    from creche.doctor import healthy

    name_width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    topic = ""
    for finding in findings:
        if finding.topic != topic:
            topic = finding.topic
            lines += ["", click.style(topic, bold=True)] if lines else [click.style(topic, bold=True)]
        word, colour = _MARKS[finding.state]
        mark = click.style(f"{word:>4}", fg=colour) + (
            "!" if finding.needed and finding.state == "no" else " "
        )
        lines.append(f"{mark} {finding.name:<{name_width}}  {finding.found}")
        lines += _details(finding, width)
    bad = [finding for finding in findings if finding.needed and finding.state == "no"]
    verdict = "Containers start here, and their limits hold."
    if not healthy(findings):
        verdict = (
            f"{len(bad)} thing{'s are' if len(bad) > 1 else ' is'} missing that containers need; see ! above."
        )
    return "\n".join([*lines, "", verdict])


def _details(finding: Finding, width: int | None) -> list[str]:
    import shutil

    columns = max((width or shutil.get_terminal_size((100, 24)).columns) - 1, 60)
    lines = []
    if finding.why:
        lines += _wrapped("why: ", finding.why, columns)
    commands = finding.fix.startswith("sudo ") or "\n" in finding.fix
    for number, line in enumerate(finding.fix.splitlines()):
        label = "fix: " if number == 0 else "     "
        # what may be a command is never broken: it is there to be copied
        lines += [" " * 6 + label + line] if commands else _wrapped(label, line, columns)
    return lines


def _wrapped(label: str, text: str, columns: int) -> list[str]:
    import textwrap

    return textwrap.wrap(
        text,
        columns,
        initial_indent=" " * 6 + label,
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )
