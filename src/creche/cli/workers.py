"""`creche ps`, `logs`, `restart` and their like: asked of a running `creche up` on its control socket."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from creche.units import format_seconds

from .reaching import SETTINGS, asked, project_file, safe

__all__ = ["events", "exec_", "logs", "ps", "reload", "restart", "scale", "start", "stop"]


@click.command("ps", context_settings=SETTINGS)
@project_file
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def ps(path: Path, as_json: bool) -> None:
    """Show the workers: what each is, since when, how often it was restarted, and how it last ended."""
    (answer,) = asked(path, do="ps")
    if as_json:
        click.echo(json.dumps(answer["children"], indent=2))
        return
    rows = [("NAME", "STATE", "PID", "UP", "RESTARTS", "STATUS")]
    for child in answer["children"]:
        state = child["state"] if child["wanted"] == "up" or child["state"] != "ready" else "stopping"
        said = (
            child["status"]
            or (child["last"] if child["state"] in ("waiting", "held", "down", "done") else "")
            or ""
        )
        up = format_seconds(child["up"]) if child["up"] is not None else ""
        rows.append((child["name"], state, str(child["pid"] or ""), up, str(child["restarts"]), safe(said)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[5]]).rstrip())


@click.command("logs", context_settings=SETTINGS)
@click.option("--file", "path", default="creche.toml", type=click.Path(path_type=Path), help="The project.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what they print.")
@click.argument("names", nargs=-1)
def logs(path: Path, follow: bool, names: tuple[str, ...]) -> None:
    """Show what workers (or all) printed last."""
    for line in asked(path, do="logs", names=list(names), follow=follow):
        click.echo(f"{line['child']:12} | {safe(line['line'])}")


@click.command("events", context_settings=SETTINGS)
@project_file
@click.option("--json", "as_json", is_flag=True, help="As JSON, a line for each.")
def events(path: Path, as_json: bool) -> None:
    """Show what happens to the workers, as it happens."""
    for event in asked(path, do="events"):
        if "text" not in event:
            continue
        if as_json:
            click.echo(json.dumps(event["fields"]))
        else:
            clock = time.strftime("%H:%M:%S", time.localtime(event["at"]))
            click.echo(f"{clock} {event['child'] or '':12} {safe(event['text'])}")


@click.command("start", context_settings=SETTINGS)
@project_file
@click.argument("names", nargs=-1, required=True)
def start(path: Path, names: tuple[str, ...]) -> None:
    """Start workers that were stopped, that wait for their back-off, or that are done."""
    list(asked(path, do="start", names=list(names)))


@click.command("restart", context_settings=SETTINGS)
@project_file
@click.argument("names", nargs=-1)
def restart(path: Path, names: tuple[str, ...]) -> None:
    """Stop workers (or all) and start them anew, in order."""
    list(asked(path, do="restart", names=list(names)))


@click.command("stop", context_settings=SETTINGS)
@project_file
@click.argument("names", nargs=-1)
def stop(path: Path, names: tuple[str, ...]) -> None:
    """Stop workers; without names, the whole project and its supervisor."""
    list(asked(path, do="stop", names=list(names)))


@click.command("scale", context_settings=SETTINGS)
@project_file
@click.argument("wishes", nargs=-1, required=True, metavar="NAME=COUNT...")
def scale(path: Path, wishes: tuple[str, ...]) -> None:
    """Run more or fewer copies of workers that have a count: creche scale web=4 job=0."""
    pairs = [wish.partition("=") for wish in wishes]
    for name, _, count in pairs:
        if not name or not count.isdigit():
            raise click.UsageError(f"{name}={count}: give NAME=COUNT")
    for name, _, count in pairs:
        list(asked(path, do="scale", names=[name], count=int(count)))


@click.command("reload", context_settings=SETTINGS)
@project_file
def reload(path: Path) -> None:
    """Read the project again and replace what changed; if a new worker does not become ready, nothing changes."""
    (answer,) = asked(path, do="reload")
    if answer["failed"] is not None:
        said = f"{answer['failed']} did not become ready: everything is as it was"
        raise click.ClickException(f"{said}\n  {safe(answer['why'])}" if answer["why"] else said)
    click.echo(f"replaced: {', '.join(answer['changed']) or 'nothing'}")


@click.command("exec", context_settings={**SETTINGS, "ignore_unknown_options": True})
@project_file
@click.argument("name")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(path: Path, name: str, words: tuple[str, ...]) -> None:
    """Run a command in a worker's container, and end with its status."""
    import base64

    (answer,) = asked(path, do="exec", names=[name], command=list(words))
    sys.stdout.buffer.write(base64.b64decode(answer["stdout"]))
    sys.stderr.buffer.write(base64.b64decode(answer["stderr"]))
    code = answer["returncode"]
    sys.exit(code if code >= 0 else 128 - code)
