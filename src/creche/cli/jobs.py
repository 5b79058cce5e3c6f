"""`creche jobs`: what a durable queue's file says, while it is worked on or after."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.command("jobs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "-n", "--last", default=10, show_default=True, help="Show so many of the jobs that finished last."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(path: Path, last: int, as_json: bool) -> None:
    """Show how far the jobs in a queue's file have come. It only reads, and disturbs nobody who works on them."""
    try:
        told = _read(path, last)
    except sqlite3.Error as error:
        raise click.ClickException(f"{path} can't be read as a queue: {error}") from None
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for kind in ("jobs", "outcomes"):
        counts = [f"{number} {name}" for name, number in told[kind].items() if number]
        click.echo(f"{kind}: {', '.join(counts) or 'none'}")
    for job in told["last"]:
        click.echo(
            f"{job['id']:>8}  {job['outcome']:<9}  attempt {job['attempt']}  {job['error'] or ''}".rstrip()
        )


def _read(path: Path, last: int) -> dict[str, Any]:
    from creche.jobs import schema
    from creche.jobs.values import JobState, Outcome
    from creche.units import escaped

    conn = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        conn.row_factory = sqlite3.Row
        states, ended = schema.counts(conn)
        rows = conn.execute(
            "SELECT id, outcome, attempt, result FROM jobs WHERE state = 3 ORDER BY seq DESC LIMIT ?", (last,)
        ).fetchall()
    finally:
        conn.close()
    return {
        "jobs": {
            state.name.lower(): states.get(state, 0) for state in JobState if state is not JobState.FINISHED
        },
        "outcomes": {outcome.value: ended.get(outcome.value, 0) for outcome in Outcome},
        "last": [
            {
                "id": row["id"],
                "outcome": row["outcome"],
                "attempt": row["attempt"],
                "error": escaped(error)
                if (error := json.loads(row["result"] or "{}").get("error"))
                else None,
            }
            for row in reversed(rows)
        ],
    }
