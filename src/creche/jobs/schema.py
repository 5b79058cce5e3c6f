"""The tables of a job queue, and the statements on them: functions of an open transaction, and nothing else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from creche.jobs.policy import Candidate
from creche.jobs.values import JobState, Outcome

VERSION = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owners (id TEXT PRIMARY KEY, until REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    once TEXT UNIQUE,              -- the idempotency key
    key TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state INTEGER NOT NULL,
    payload TEXT NOT NULL,
    memory INTEGER,                -- bytes it counts for, and its limit
    cpus REAL NOT NULL,
    needs INTEGER NOT NULL,        -- unfinished jobs that it comes after
    attempt INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    due REAL,
    owner TEXT,
    submitted REAL NOT NULL,
    started REAL,
    finished REAL,
    seq INTEGER,                   -- the order of finishing
    outcome TEXT,
    result TEXT,
    stdout BLOB,
    stderr BLOB
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_queued ON jobs (key, priority DESC, id) WHERE state = 1;
CREATE INDEX IF NOT EXISTS jobs_running ON jobs (owner) WHERE state = 2;
CREATE UNIQUE INDEX IF NOT EXISTS jobs_finished ON jobs (seq) WHERE state = 3;
CREATE INDEX IF NOT EXISTS jobs_delayed ON jobs (due) WHERE state = 4;
CREATE INDEX IF NOT EXISTS jobs_left ON jobs (state) WHERE state != 3;
CREATE TABLE IF NOT EXISTS needs (
    before INTEGER NOT NULL, job INTEGER NOT NULL, PRIMARY KEY (before, job)
) STRICT, WITHOUT ROWID;
"""

Row = sqlite3.Row


def create(conn: sqlite3.Connection) -> None:
    """The tables, if they are not there; ValueError where a later version made them."""
    for statement in _TABLES.split(";"):
        conn.execute(statement)
    conn.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?), ('seq', 0)", (VERSION,))
    (version,) = conn.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
    if version != VERSION:
        raise ValueError(f"made by another version of creche (tables {version}, this one knows {VERSION})")


def submit(
    conn: sqlite3.Connection, job: dict[str, Any], after: Sequence[int], now: float
) -> tuple[int, bool, str | None]:
    """The job's id, whether it is new, and why it was cancelled at once (what it comes after did not end well)."""
    if job["once"] is not None:
        known = conn.execute("SELECT id FROM jobs WHERE once = ?", (job["once"],)).fetchone()
        if known is not None:
            return known["id"], False, None
    before = [_before(conn, number) for number in after]
    open_ = [row["id"] for row in before if row["state"] != JobState.FINISHED]
    bad = [row["id"] for row in before if row["outcome"] not in (None, Outcome.OK.value)]
    cursor = conn.execute(
        "INSERT INTO jobs (once, key, priority, state, payload, memory, cpus, needs, submitted)"
        " VALUES (:once, :key, :priority, :state, :payload, :memory, :cpus, :needs, :now)",
        {**job, "state": JobState.BLOCKED if open_ else JobState.QUEUED, "needs": len(open_), "now": now},
    )
    number = cursor.lastrowid
    assert number is not None
    conn.executemany("INSERT INTO needs VALUES (?, ?)", [(other, number) for other in open_])
    if not bad:
        return number, True, None
    why = f"job {bad[0]}, which it comes after, did not end well"
    end(conn, number, Outcome.CANCELLED, {"result": json.dumps({"error": why})}, now)
    return number, True, why


def _before(conn: sqlite3.Connection, number: int) -> Row:
    row: Row | None = conn.execute("SELECT id, state, outcome FROM jobs WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise LookupError(number)
    return row


def keys(conn: sqlite3.Connection) -> list[str]:
    """The keys that have queued jobs, found by jumping through the index from one to the next."""
    rows = conn.execute(
        "WITH RECURSIVE k(key) AS ("
        " SELECT min(key) FROM jobs WHERE state = 1"
        " UNION ALL SELECT (SELECT min(key) FROM jobs WHERE state = 1 AND key > k.key) FROM k WHERE key IS NOT NULL"
        ") SELECT key FROM k WHERE key IS NOT NULL"
    )
    return [row["key"] for row in rows]


def queued(conn: sqlite3.Connection, key: str, limit: int) -> list[Candidate]:
    """The first queued jobs of a key, in the order in which they are to go."""
    rows = conn.execute(
        "SELECT id, priority, memory, cpus FROM jobs WHERE state = 1 AND key = ? ORDER BY priority DESC, id LIMIT ?",
        (key, limit),
    )
    return [Candidate(row["id"], key, row["priority"], row["memory"] or 0, row["cpus"]) for row in rows]


def claim(conn: sqlite3.Connection, number: int, owner: str, now: float) -> Row | None:
    """Take a queued job for one more attempt; None where somebody else did, or it was cancelled."""
    rows = conn.execute(
        "UPDATE jobs SET state = 2, attempt = attempt + 1, owner = ?, started = ? WHERE id = ? AND state = 1"
        " RETURNING *",
        (owner, now, number),
    ).fetchall()
    return rows[0] if rows else None


def held(conn: sqlite3.Connection, number: int, attempt: int, owner: str) -> bool:
    """Whether this attempt still is ours: not if its lease ran out and another one began."""
    row = conn.execute(
        "SELECT 1 FROM jobs WHERE id = ? AND state = 2 AND attempt = ? AND owner = ?",
        (number, attempt, owner),
    ).fetchone()
    return row is not None


def again(conn: sqlite3.Connection, number: int, due: float, memory: int | None, lost: bool) -> None:
    """Another attempt, not before `due`."""
    column = "lost" if lost else "failed"
    conn.execute(
        f"UPDATE jobs SET state = 4, owner = NULL, due = ?, memory = ?, {column} = {column} + 1 WHERE id = ?",  # nosec B608: one of two words
        (due, memory, number),
    )


def release(conn: sqlite3.Connection, number: int) -> str:
    """Back into the queue as it was: the queue is being left. Its key."""
    (row,) = conn.execute(
        "UPDATE jobs SET state = 1, owner = NULL WHERE id = ? RETURNING key", (number,)
    ).fetchall()
    return str(row["key"])


def end(
    conn: sqlite3.Connection, number: int, outcome: Outcome, result: dict[str, Any], now: float
) -> set[str]:
    """Finish a job, and what follows from it for those that come after it. The keys that have new queued jobs.

    `result` may hold `result` (JSON text), `stdout` and `stderr` (bytes).
    """
    fresh: set[str] = set()
    work = [(number, outcome, result)]
    while work:
        number, outcome, result = work.pop()
        _finish(conn, number, outcome, result, now)
        for row in conn.execute("DELETE FROM needs WHERE before = ? RETURNING job", (number,)).fetchall():
            if outcome is Outcome.OK:
                fresh |= _one_need_less(conn, row["job"])
            elif conn.execute("SELECT 1 FROM jobs WHERE id = ? AND state = 0", (row["job"],)).fetchone():
                why = f"job {number}, which it comes after, did not end well"
                work.append((row["job"], Outcome.CANCELLED, {"result": json.dumps({"error": why})}))
    return fresh


def _finish(
    conn: sqlite3.Connection, number: int, outcome: Outcome, result: dict[str, Any], now: float
) -> None:
    ((seq,),) = conn.execute(
        "UPDATE meta SET value = value + 1 WHERE name = 'seq' RETURNING value"
    ).fetchall()
    conn.execute(
        "INSERT INTO meta VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1", (outcome.value,)
    )
    conn.execute(
        "UPDATE jobs SET state = 3, owner = NULL, finished = ?, seq = ?, outcome = ?, result = ?, stdout = ?,"
        " stderr = ?, failed = failed + ? WHERE id = ?",
        (
            now,
            seq,
            outcome.value,
            result.get("result"),
            result.get("stdout"),
            result.get("stderr"),
            int(outcome is Outcome.FAILED),
            number,
        ),
    )


def _one_need_less(conn: sqlite3.Connection, number: int) -> set[str]:
    rows = conn.execute(
        "UPDATE jobs SET needs = needs - 1, state = CASE needs WHEN 1 THEN 1 ELSE state END"
        " WHERE id = ? AND state = 0 RETURNING key, state",
        (number,),
    ).fetchall()
    return {row["key"] for row in rows if row["state"] == JobState.QUEUED}


def cancel(conn: sqlite3.Connection, number: int, now: float) -> JobState | None:
    """Finish a job that does not run. The state it was in; None for a job there is not."""
    row = conn.execute("SELECT state FROM jobs WHERE id = ?", (number,)).fetchone()
    if row is None:
        return None
    state = JobState(row["state"])
    if state not in (JobState.RUNNING, JobState.FINISHED):
        end(conn, number, Outcome.CANCELLED, {"result": json.dumps({"error": "it was cancelled"})}, now)
    return state


def wake(conn: sqlite3.Connection, now: float) -> tuple[set[str], float | None]:
    """Queue what was delayed until now; the keys, and when the next one is due."""
    rows = conn.execute(
        "UPDATE jobs SET state = 1, due = NULL WHERE state = 4 AND due <= ? RETURNING key", (now,)
    )
    woken = {row["key"] for row in rows.fetchall()}
    (due,) = conn.execute("SELECT min(due) FROM jobs WHERE state = 4").fetchone()
    return woken, due


def recover(conn: sqlite3.Connection, owner: str) -> list[Row]:
    """The jobs that a dead owner was running, put back into the queue with one more attempt lost."""
    rows = conn.execute(
        "UPDATE jobs SET state = 1, owner = NULL, lost = lost + 1 WHERE state = 2 AND owner = ? RETURNING *",
        (owner,),
    ).fetchall()
    conn.execute("DELETE FROM owners WHERE id = ?", (owner,))
    return rows


def finished(conn: sqlite3.Connection, since: int, limit: int) -> list[Row]:
    """Finished jobs after the `since`th, in order."""
    return conn.execute(
        "SELECT * FROM jobs WHERE state = 3 AND seq > ? ORDER BY seq LIMIT ?", (since, limit)
    ).fetchall()


def finished_ids(conn: sqlite3.Connection, since: int) -> list[int]:
    """The jobs that finished after the `since`th, in order."""
    rows = conn.execute("SELECT id FROM jobs WHERE state = 3 AND seq > ? ORDER BY seq", (since,))
    return [row["id"] for row in rows.fetchall()]


def last(conn: sqlite3.Connection) -> int:
    """The number of the last finished job."""
    (seq,) = conn.execute("SELECT value FROM meta WHERE name = 'seq'").fetchone()
    return int(seq)


def left(conn: sqlite3.Connection) -> bool:
    """Whether any job is not finished."""
    return conn.execute("SELECT 1 FROM jobs WHERE state != 3 LIMIT 1").fetchone() is not None


def counts(conn: sqlite3.Connection) -> tuple[dict[int, int], dict[str, int]]:
    """How many unfinished jobs there are in each state, and how many ever finished with each outcome."""
    states = conn.execute("SELECT state, count(*) FROM jobs WHERE state != 3 GROUP BY state").fetchall()
    return {row[0]: row[1] for row in states}, dict(conn.execute("SELECT name, value FROM meta").fetchall())


def forget(conn: sqlite3.Connection, before: int) -> list[tuple[int, int]]:
    """Delete finished jobs up to the `before`th; their ids and last attempts."""
    rows = conn.execute("DELETE FROM jobs WHERE state = 3 AND seq <= ? RETURNING id, attempt", (before,))
    return [(row["id"], row["attempt"]) for row in rows.fetchall()]
