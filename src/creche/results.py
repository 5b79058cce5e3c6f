"""What happened, as values: how a command ended, why, what it used and what it wrote."""

from __future__ import annotations

import enum
import signal as _signal
from typing import Any, Literal, TypedDict

from attrs import field, frozen

from .errors import ExitError, SpecError
from .units import escaped, format_seconds, format_size
from .values import Value

__all__ = ["Detail", "Exit", "Reason", "Result", "Usage"]


class Reason(enum.Enum):
    """Why a command or a container is no longer running."""

    EXITED = "exited"  #: it ended by itself, with a status
    SIGNALED = "signaled"  #: a signal that it died of: its own, `terminate()`, `send_signal()`
    OOM = "oom"  #: the kernel killed it for memory; `Exit.limit` names the limit
    TIMEOUT = "timeout"  #: its time was over: ``timeout``, or ``limits.cpu_time``
    OUTPUT_LIMIT = "output_limit"  #: it wrote more than ``max_output``
    SECCOMP = "seccomp"  #: it made a system call that its filter kills for
    KILLED = "killed"  #: by us: `kill()`, the end of the block, a cancellation, a stop past its grace
    LOST = "lost"  #: its init died of something else, and all in the container with it; or, without an init, nobody told how it ended


@frozen(kw_only=True, eq=False, repr=False)
class Usage(Value):
    """What was used: of everything in the container where there is a control group, else of one command."""

    user: float = 0.0  #: seconds of processor in user mode
    system: float = 0.0  #: seconds of processor in the kernel
    wall: float = 0.0  #: seconds from the start to the end
    memory_peak: int | None = None  #: bytes, the most held at one time; None where it is not known
    throttled: float | None = None  #: seconds held back by ``limits.cpus``; None without a control group
    stalled: float | None = None  #: seconds in which something waited for memory (PSI); None where not known
    blocks_read: int | None = None  #: blocks of 512 bytes read from disks, as in getrusage(2)
    blocks_written: int | None = None  #: blocks of 512 bytes written, as in getrusage(2)
    scope: Literal["container", "command"] = "command"  #: "command": the main command and what it waited for

    @property
    def cpu(self) -> float:
        """Seconds of processor, user and system together."""
        return self.user + self.system


class Detail(TypedDict, total=False):
    """What `Exit.explain` and a log know beyond the Exit's fields; every key may be absent."""

    command: tuple[str, ...]  #: the argv
    limit_value: float | None  #: the limit that was met, in the unit of its field (bytes, seconds)
    peak: int  #: bytes of memory at the end
    duration: float  #: seconds it ran
    stderr: bytes  #: the last bytes of its standard error
    killed_by: str  #: what made us kill it: ``kill()``, ``the end of its block``, ``a cancellation``, …
    process: str  #: the process that was killed, where it is not the main command
    pids_refused: int  #: how often ``limits.pids`` refused it a process or a thread, where it did not end well
    syscall: str  #: the system call that the filter killed for, where it reports (``security.seccomp_report``)
    init: bool  #: False where it had none (``init=False``), and its end was told to somebody else


def _detail(value: Detail | None) -> Detail:
    return Detail(**value) if value else Detail()


@frozen(eq=False, repr=False)
class Exit(Value):
    """How a command or a container ended; equal where code, signal, reason, usage, limit and kills are."""

    code: int | None  #: the exit status, 0 to 255; None when a signal ended it
    signal: int | None = None  #: the signal that ended it; None when it exited
    reason: Reason = Reason.EXITED
    usage: Usage = Usage()
    limit: str | None = field(default=None, kw_only=True)  #: the Spec's field of the limit that ended it
    oom_kills: int = field(default=0, kw_only=True)  #: processes in it that the kernel killed for memory
    detail: Detail = field(default=None, kw_only=True, converter=_detail, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.code is not None and self.signal is not None:
            raise SpecError("Exit.signal", self.signal, "a command has an exit status or a signal, not both")
        if self.code is None and self.signal is None and self.reason is not Reason.LOST:
            raise SpecError(
                "Exit.code", None, "give an exit status or a signal (only a LOST one may lack both)"
            )

    @property
    def ok(self) -> bool:
        """It ended by itself, with status 0."""
        return self.reason is Reason.EXITED and self.code == 0

    @property
    def returncode(self) -> int:
        """The exit status, or the negative number of the signal, as in `subprocess`.

        What is LOST without either counts as killed: when a PID namespace's init dies, the kernel sends SIGKILL
        to all others in it (pid_namespaces(7)).
        """
        if self.code is not None:
            return self.code
        return -(self.signal if self.signal is not None else _signal.SIGKILL)

    def check(self) -> Exit:
        """Itself if `ok`; raises ExitError if not."""
        if not self.ok:
            raise ExitError(self)
        return self

    def explain(self) -> str:
        """One sentence for people: what happened, by which limit, and which field of the Spec to change.

        Text of the guest's (names, last words) is quoted and escaped, so it is safe for terminals and logs.
        """
        return _explain(self)


def _short(value: bytes) -> str:
    return repr(value) if len(value) <= 80 else f"<{len(value)} bytes {value[:32]!r}…>"


@frozen(eq=False, repr=False)
class Result(Value):
    """A command that has ended, and what it wrote; what was no pipe is ``b""``."""

    exit: Exit
    stdout: bytes = field(default=b"", repr=_short)
    stderr: bytes = field(default=b"", repr=_short)
    stdout_truncated: bool = False  #: it wrote more than ``max_output``: `stdout` is its head and its tail
    stderr_truncated: bool = False

    @property
    def ok(self) -> bool:
        """It ended by itself, with status 0."""
        return self.exit.ok

    @property
    def returncode(self) -> int:
        """As `Exit.returncode`."""
        return self.exit.returncode

    def check(self) -> Result:
        """Itself if `ok`; raises ExitError, which carries the output, if not."""
        if not self.ok:
            raise ExitError(self.exit, self.stdout, self.stderr)
        return self


def _signal_name(number: int) -> str:
    try:
        return _signal.Signals(number).name
    except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX has no member of its own
        return f"signal {number}"


def _explain(exit: Exit) -> str:
    detail = exit.detail
    command = detail.get("command")
    subject = (
        escaped(" ".join(command[:4]) + (" …" if len(command) > 4 else ""), 60) if command else "the command"
    )
    ran = detail.get("duration") or exit.usage.wall
    after = f" after {format_seconds(ran)}" if ran else ""
    words = detail.get("stderr", b"").strip()
    last = f"; it last said {escaped(words)}" if words and not exit.ok else ""
    return f"{subject} {_HOW[exit.reason](exit, detail, after)}{last}"


def _exited(exit: Exit, detail: Detail, after: str) -> str:
    kills = f"; {_kills(exit)} in it" if exit.oom_kills else ""
    if exit.code == 0:
        return f"ended well{after}{kills}"
    asked = {126: ", by which a shell says that it may not execute a file",
             127: ", by which a shell says that it does not find a command"}  # fmt: skip
    return f"ended with status {exit.code}{after}{asked.get(exit.code or 0, '')}{kills}{_refused(detail)}"


def _signaled(exit: Exit, detail: Detail, after: str) -> str:
    meaning = _signal.strsignal(exit.signal) if exit.signal else None
    kills = f"; {_kills(exit)} in it" if exit.oom_kills else ""
    return f"died of {_named(exit)}{f' ({meaning})' if meaning else ''}{after}{kills}{_refused(detail)}"


def _refused(detail: Detail) -> str:
    """That it wanted more processes than it may have, which may be why it did not end well."""
    times = detail.get("pids_refused", 0)
    return f"; limits.pids refused it a process {'once' if times == 1 else f'{times} times'}" if times else ""


def _oom(exit: Exit, detail: Detail, after: str) -> str:
    value, peak = detail.get("limit_value"), detail.get("peak", exit.usage.memory_peak)
    reached = f", having held {format_size(peak)}" if peak else ""
    who = f" (the process {escaped(detail['process'], 40)})" if "process" in detail else ""
    told = f"was killed by the kernel for memory{after}{reached}: {_kills(exit)}{who}"
    if exit.limit is None:
        return f"{told}; it met no limit of its own: the machine, or a group around the container, was out of memory"
    held = f" of {format_size(int(value))}" if value is not None else ""
    return f"{told}; give it more than {exit.limit}{held}, or make it hold less"


def _timeout(exit: Exit, detail: Detail, after: str) -> str:
    limit, value = exit.limit or "timeout", detail.get("limit_value")
    kind = "processor time" if limit.endswith("cpu_time") else "time"
    return f"used up its {kind}{after}; {limit}{f' is {format_seconds(value)}' if value is not None else ' ended it'}{_waits(exit.usage)}"


def _waits(usage: Usage) -> str:
    """What kept it from its work for a while, where that may be why it was late."""
    waits = (("limits.cpus held it back", usage.throttled or 0), ("it waited for memory", usage.stalled or 0))
    return "".join(f"; {what} for {format_seconds(long)} of that" for what, long in waits if long >= 0.01)


def _output(exit: Exit, detail: Detail, after: str) -> str:
    limit, value = exit.limit or "max_output", detail.get("limit_value")
    return (
        f"was killed{after} for writing more than {limit}{f' of {format_size(int(value))}' if value else ''}"
    )


def _seccomp(exit: Exit, detail: Detail, after: str) -> str:
    field = exit.limit or "security.seccomp"
    if "syscall" in detail:
        return f"was killed{after} for the system call {escaped(detail['syscall'], 40)}, which {field} does not allow"
    return f"was killed{after} for a system call that {field} does not allow; which one, only security.seccomp_report tells"


def _killed(exit: Exit, detail: Detail, after: str) -> str:
    return f"was killed{after} by {detail.get('killed_by', 'its supervisor')} ({_named(exit)})"


def _lost(exit: Exit, detail: Detail, after: str) -> str:
    if not detail.get("init", True):
        return f"ended{after}, and how it did was lost: other code in this program took its status, or ignores SIGCHLD; an init (init=True) would tell"
    return f"was lost{after}: the container's init died, and the kernel ended everything in it"


def _named(exit: Exit) -> str:
    return f"status {exit.code}" if exit.signal is None else _signal_name(exit.signal)


def _kills(exit: Exit) -> str:
    count = max(exit.oom_kills, 1)
    return "1 process was killed for memory" if count == 1 else f"{count} processes were killed for memory"


_HOW: dict[Reason, Any] = {
    Reason.EXITED: _exited,
    Reason.SIGNALED: _signaled,
    Reason.OOM: _oom,
    Reason.TIMEOUT: _timeout,
    Reason.OUTPUT_LIMIT: _output,
    Reason.SECCOMP: _seccomp,
    Reason.KILLED: _killed,
    Reason.LOST: _lost,
}
