"""What a queue keeps as text: Specs and results as JSON and back, and large output as files beside the queue."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from creche.errors import FileError, SpecError
from creche.jobs.values import JobResult, Outcome, Retry
from creche.results import Exit, Reason, Result, Usage
from creche.spec import Spec
from creche.supervisor.restarts import Backoff


@frozen(kw_only=True)
class Payload:
    """All of a job that is not for choosing: what the runner is given, how it may be tried again, the user's tag."""

    spec: Spec
    input: bytes | None = None
    timeout: float | None = None
    max_output: int | None = 16 << 20
    retry: Retry = attrs.Factory(Retry)
    tag: Any = None

    def dump(self) -> str:
        """As JSON. SpecError for what has no written form: descriptors in the Spec, a tag that is no JSON."""
        fields: dict[str, Any] = {
            "spec": self.spec.to_dict(),
            "timeout": self.timeout,
            "max_output": self.max_output,
            "retry": {
                **{field.name: getattr(self.retry, field.name) for field in attrs.fields(Retry)},
                "reasons": sorted(reason.value for reason in self.retry.reasons),
                "backoff": attrs.asdict(self.retry.backoff),
            },
            "tag": self.tag,
        }
        if self.input is not None:
            fields["input"] = base64.b64encode(self.input).decode("ascii")
        try:
            return json.dumps(fields)
        except (TypeError, ValueError) as error:
            raise SpecError("tag", self.tag, f"a durable queue keeps it as JSON: {error}") from None

    @classmethod
    def load(cls, text: str) -> Payload:
        """From what `dump` gave."""
        fields = json.loads(text)
        retry = fields["retry"]
        return cls(
            spec=Spec.from_dict(fields["spec"]),
            input=base64.b64decode(fields["input"]) if "input" in fields else None,
            timeout=fields["timeout"],
            max_output=fields["max_output"],
            retry=Retry(**{**retry, "backoff": Backoff(**retry["backoff"])}),
            tag=fields["tag"],
        )


def tag_of(payload: str) -> Any:
    """The tag alone."""
    return json.loads(payload).get("tag") if payload else None


def dump_result(result: Result | None, error: str | None) -> str:
    """How a job ended, without its output, as JSON."""
    fields: dict[str, Any] = {}
    if error is not None:
        fields["error"] = error
    if result is not None:
        exit = result.exit
        fields["exit"] = {
            "code": exit.code,
            "signal": exit.signal,
            "reason": exit.reason.value,
            "usage": attrs.asdict(exit.usage),
            "limit": exit.limit,
            "oom_kills": exit.oom_kills,
        }
        fields["truncated"] = [result.stdout_truncated, result.stderr_truncated]
    return json.dumps(fields)


def load_exit(fields: dict[str, Any]) -> Exit | None:
    """The Exit in what `dump_result` gave."""
    told = fields.get("exit")
    if told is None:
        return None
    return Exit(
        told["code"],
        told["signal"],
        Reason(told["reason"]),
        Usage(**told["usage"]),
        limit=told["limit"],
        oom_kills=told["oom_kills"],
    )


def load_result(row: sqlite3.Row, folder: Folder, tag: Any) -> JobResult:
    """A finished job's row as a value."""
    fields = json.loads(row["result"] or "{}")
    truncated = fields.get("truncated", [False, False])
    return JobResult(
        id=row["id"],
        seq=row["seq"],
        outcome=Outcome(row["outcome"]),
        exit=load_exit(fields),
        error=fields.get("error"),
        attempt=row["attempt"],
        lost=row["lost"],
        tag=tag,
        key=row["key"],
        submitted=row["submitted"],
        started=row["started"],
        finished=row["finished"],
        stdout_truncated=truncated[0],
        stderr_truncated=truncated[1],
        stdout=folder.find(row, "stdout"),
        stderr=folder.find(row, "stderr"),
    )


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@frozen
class Folder:
    """The folder beside the queue's file in which large output lies; without one, all of it stays in the rows.

    With `synced`, what is kept is on the disk, name and all, before its row is: else a power cut could leave the row alone.
    """

    path: Path | None
    inline: int
    synced: bool = False

    def keep(self, job: int, attempt: int, name: str, data: bytes) -> bytes | None:
        """What goes into the row: the bytes, or None once they are in a file, under a name that no other try has.

        Raises FileError where they can't be written, the disk being full, say.
        """
        if self.path is None or len(data) <= self.inline:
            return data
        path = self.path / f"{job}-{attempt}.{name}"
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
                if self.synced:
                    file.flush()
                    os.fsync(file.fileno())
            if self.synced:
                for folder in (self.path, self.path.parent):  # a file's name is its folder's: fsync(2)
                    _sync(folder)
        except OSError as error:
            raise FileError(str(path), error.errno) from error
        return None

    def find(self, row: sqlite3.Row, name: str) -> bytes | Path:
        """What `keep` kept."""
        if row[name] is not None:
            return bytes(row[name])
        if self.path is None or row["result"] is None or '"exit"' not in row["result"]:
            return b""
        return self.path / f"{row['id']}-{row['attempt']}.{name}"

    def sweep(self, job: int, attempt: int) -> None:
        """Remove the files of a try that did not count, or of a job that is forgotten."""
        if self.path is not None:
            for name in ("stdout", "stderr"):
                (self.path / f"{job}-{attempt}.{name}").unlink(missing_ok=True)
