"""`creche stats`: what containers use, once, as a stream of JSON, or as a table that stays current."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from .figures import cells, percent, table
from .reaching import SETTINGS, asked, project_file, safe

__all__ = ["command"]

Samples = dict[str, dict[str, Any]]

_NO_PROJECT = ", or --all for all containers with limits, those of `creche run` among them"

_HELP = """Show what the containers of a running project use: processor, memory, processes, disk, pressure.

\b
CPU       of one processor, since the line before; two busy processors are 200%
MEMORY    now; PEAK the most there was; LIMIT what is allowed
READ …    bytes from and to disks, where a limit on io has them counted
PRESSURE  percent of the last 10 s in which something waited for the processor,
          for memory, for the disk

With --all: every container with limits in which something runs, those of
`creche run` and of other programs too, if they are yours (root sees all).
Only a container with limits has a cgroup that counts; "-" is for the others.
"""


@click.command("stats", help=_HELP, context_settings=SETTINGS)
@project_file
@click.option("-a", "--all", "everything", is_flag=True, help="Not a project's, but all that have limits.")
@click.option("--no-stream", "once", is_flag=True, help="One interval, then end.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each container.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between lines.",
)
@click.argument("names", nargs=-1)
def command(
    path: Path, everything: bool, once: bool, as_json: bool, interval: float, names: tuple[str, ...]
) -> None:
    """See _HELP."""
    if everything and names:
        raise click.UsageError("--all takes no names: it shows all of them")
    take: Callable[[], Samples] = _of_all if everything else lambda: _of_project(path, names)
    pairs = _pairs(take, interval)
    try:
        if as_json:
            _stream(pairs, once, _json_lines)
        elif once or not sys.stdout.isatty():
            _stream(pairs, once, lambda before, now: table_of(before, now, everything))
        else:
            _live(pairs, everything)
    except KeyboardInterrupt:
        pass  # the way to end it


def _of_project(path: Path, names: tuple[str, ...]) -> Samples:
    return {told["name"]: told for told in asked(path, do="stats", names=list(names), instead=_NO_PROJECT)}


def _of_all() -> Samples:
    import attrs

    from creche.cgroups import living

    found = {}
    for one in living():
        stats = attrs.asdict(one.stats())
        found[f"{one.name} {one.owner}"] = {
            "name": one.name,
            "pid": one.owner,
            "at": time.monotonic(),
            "stats": stats,
        }
    return found


def _pairs(take: Callable[[], Samples], interval: float) -> Iterator[tuple[Samples, Samples]]:
    """What was and what is, an interval apart: a share of the processor needs both."""
    before = take()
    while True:
        time.sleep(interval)
        now = take()
        yield before, now
        before = now


def _stream(
    pairs: Iterator[tuple[Samples, Samples]], once: bool, lines: Callable[[Samples, Samples], list[str]]
) -> None:
    for before, now in pairs:
        for line in lines(before, now):
            click.echo(line)
        if once:
            return
        sys.stdout.flush()


def _json_lines(before: Samples, now: Samples) -> list[str]:
    lines = []
    for key, told in now.items():
        kinds = ("cpu", "memory", "io", "pids", "pids_peak", "pressure")
        stats = told["stats"] or dict.fromkeys(kinds)
        share = percent(before.get(key), told)
        lines.append(json.dumps({"name": told["name"], "pid": told["pid"], "cpu_percent": share, **stats}))
    return lines


def table_of(before: Samples, now: Samples, everything: bool) -> list[str]:
    """The table, and a sentence about those that nothing counts."""
    rows = [cells(before.get(key), {**told, "name": safe(told["name"])}) for key, told in now.items()]
    lines = table(rows)
    if everything and not now:
        return [*lines, "no container with limits runs (of yours, in this pid namespace)"]
    uncounted = [told["name"] for told in now.values() if told["stats"] is None and told["pid"]]
    if uncounted:
        few = ", ".join(uncounted[:3]) + (" and others" if len(uncounted) > 3 else "")
        lines.append(f"-: nothing counts {few}: a spec with limits (limits = {{ pids = 1000 }}) has a cgroup")
    return lines


def _live(pairs: Iterator[tuple[Samples, Samples]], everything: bool) -> None:
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        raise click.ClickException(
            "a table that stays current needs rich: pip install 'creche[tui]'; --no-stream and --json do without"
        ) from None
    console = Console(highlight=False)
    with Live(Text("measuring …"), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for before, now in pairs:
            text = Text("\n".join(table_of(before, now, everything)), no_wrap=True, overflow="ellipsis")
            live.update(text, refresh=True)
