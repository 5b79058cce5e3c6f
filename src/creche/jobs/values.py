"""The values of a job queue: what is asked, how it may be tried again, what came of it."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

from attrs import field, frozen

from creche.errors import CrecheError, ExitError, SpecError
from creche.results import Exit, Reason
from creche.supervisor.restarts import Backoff


class JobState(enum.IntEnum):
    """Where a job is."""

    BLOCKED = 0
    """Waits for jobs that it comes after."""
    QUEUED = 1
    RUNNING = 2
    FINISHED = 3
    DELAYED = 4
    """Waits for the back-off of its next attempt."""


class Outcome(enum.Enum):
    """What came of a finished job."""

    OK = "ok"
    """It ended well."""
    FAILED = "failed"
    """It ended otherwise: `exit` says how."""
    ERROR = "error"
    """It could not be run: `error` says why."""
    LOST = "lost"
    """It was being run when its supervisor died, once more often than allowed."""
    CANCELLED = "cancelled"
    """It was cancelled, or a job that it came after did not end well."""


PROGRAM = frozenset({Reason.EXITED, Reason.SIGNALED, Reason.OOM, Reason.TIMEOUT})


def _reasons(value: Any) -> frozenset[Reason]:
    try:
        return frozenset(Reason(reason) for reason in value)
    except (TypeError, ValueError):
        raise SpecError("retry.reasons", value, "give a list of Reasons") from None


@frozen(kw_only=True)
class Retry:
    """How often a job is tried, and when.

    `attempts` bounds the tries of a program that fails for one of the `reasons`. Apart from these, a try that was
    not the program's fault (its container's init was killed, no memory for a spawn, the supervisor died) is
    repeated up to `lost` times. Between tries `backoff` passes. After an OOM the next try gets `more_memory`
    times its memory limit, at most `most_memory` bytes.
    """

    attempts: int = 1
    lost: int = 5
    reasons: frozenset[Reason] = field(default=PROGRAM, converter=_reasons)
    backoff: Backoff = field(factory=lambda: Backoff(first=1.0, most=300.0))
    more_memory: float = 1.0
    most_memory: int | None = None

    def __attrs_post_init__(self) -> None:
        for name, least in (("attempts", 1), ("lost", 0)):
            number: object = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise SpecError(f"retry.{name}", number, f"give a number of at least {least}")
        if not self.more_memory >= 1.0:
            raise SpecError("retry.more_memory", self.more_memory, "give a factor of at least 1")


@frozen(kw_only=True)
class JobResult:
    """A finished job. `seq` counts finished jobs in the order in which they finished; times are seconds since 1970.

    `attempt` is the number of the try that it ended with, from 1; of the earlier ones, `lost` were not the program's
    fault. `exit` is None where it never ran to an end; `error` then says why.
    """

    id: int
    seq: int
    outcome: Outcome
    exit: Exit | None
    error: str | None
    attempt: int
    lost: int
    tag: Any
    key: str
    submitted: float
    started: float | None
    finished: float
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    _stdout: bytes | Path = field(default=b"", repr=False, alias="stdout")
    _stderr: bytes | Path = field(default=b"", repr=False, alias="stderr")

    @property
    def ok(self) -> bool:
        """It ended well."""
        return self.outcome is Outcome.OK

    @property
    def stdout(self) -> bytes:
        """What it wrote. Large output is read from its file now (OSError where that is gone)."""
        return self._stdout if isinstance(self._stdout, bytes) else self._stdout.read_bytes()

    @property
    def stderr(self) -> bytes:
        """As `stdout`."""
        return self._stderr if isinstance(self._stderr, bytes) else self._stderr.read_bytes()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files in which its output lies, where it was large."""
        return tuple(path for path in (self._stdout, self._stderr) if isinstance(path, Path))

    def check(self) -> JobResult:
        """Itself if `ok`; raises ExitError, or a CrecheError that says why it did not run."""
        if self.ok:
            return self
        if self.exit is not None and self.outcome is Outcome.FAILED:
            raise ExitError(self.exit, self.stdout, self.stderr)
        raise CrecheError(f"job {self.id} {self.outcome.value}: {self.error or 'no reason is known'}")


@frozen(kw_only=True)
class Progress:
    """How far a queue has come: numbers of jobs in each state, and of the finished ones by outcome."""

    blocked: int = 0
    queued: int = 0
    running: int = 0
    delayed: int = 0
    finished: int = 0
    outcomes: dict[Outcome, int] = field(factory=dict)

    @property
    def left(self) -> int:
        """Jobs that are not finished."""
        return self.blocked + self.queued + self.running + self.delayed

    @property
    def total(self) -> int:
        """All jobs that the queue knows."""
        return self.left + self.finished
