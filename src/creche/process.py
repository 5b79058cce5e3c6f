"""Process: one command inside a container, as an anyio.abc.Process."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import signal as _signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import ref

import anyio.abc
import attrs

from .channel import belongs
from .commands import figures
from .errors import CrecheError, SpecError
from .lifecycle import CLOSING, TELLING
from .results import Detail, Exit, Reason, Usage
from .shielded import finish
from .spawn import exhausted
from .streams import ReceiveStream, SendStream
from .timer import Timer
from .wire.control import Failure, Reply

if TYPE_CHECKING:
    from .container import Container
    from .errors import SpawnError
    from .intake import Intake
    from .plumbing import Plumbing

__all__ = ["Process", "is_dead", "seconds"]


def signal_number(signal: object) -> int:
    """A signal's number, real-time ones included. Raises ValueError for what is none."""
    if not isinstance(signal, int) or not 0 < signal <= 64:
        raise ValueError(f"{signal!r} is not a signal: give a number, such as signal.SIGTERM")
    return signal


def seconds(grace: float) -> float:
    """A grace, checked. Raises SpecError for what is none."""
    if type(grace) not in (int, float) or not grace >= 0:
        raise SpecError("grace", grace, "give seconds, 0 or more (math.inf: never kill)")
    return grace


def is_dead(pidfd: int, seconds: float = 0) -> bool:
    """Whether the process is dead, reaped or not, waiting at most so long: its pidfd is readable then (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _late(process: ref[Process]) -> Callable[[], None]:
    """What a timer calls, which must keep neither process nor container alive."""

    def look() -> None:
        late = process()
        if late is not None and late._box._owner == os.getpid():  # a fork of the host program may run the same loop on
            late._past_grace()

    return look


class Process(anyio.abc.Process):
    """A command in a container: what `Container.open` gives, and what `anyio.abc.Process` promises.

    Its end is the end of the command alone; what it left in the background lives on in the container.
    """

    def __init__(self, box: Container, ident: int, command: tuple[str, ...], plumbing: Plumbing) -> None:
        self._box = box
        self._ident = ident
        self._command = command
        self._plumbing = plumbing
        self._pidfd = -1
        self._pid = 0
        self._began = time.monotonic()
        self._exit: Exit | None = None
        self._killing: Reason | None = None
        self._killed_by = ""
        self._grace_ends: float | None = None
        self._timer: Timer | None = None
        self._told_by: float | None = None
        self._wanted: Reason | None = None
        self._refused: str | None = None
        self.started = False
        self.listens = False  #: its filter has a listener, which comes with the news of its start
        self.limit: str | None = None
        self.limit_value: float | None = None
        self._struck = False  #: a SIGKILL was sent to it by `send_signal`
        self.sent = False
        self.brief = False  #: its end, where that comes soon, is told with its start: it may have neither pid nor pidfd
        self._seen: tuple[float, float, int | None] | None = None
        self.failure: Failure | None = None
        self.intake: Intake | None = None  #: what it writes, for who waits for it to take
        self.trouble: SpawnError | None = None  #: it was executed, and we can't hold it

    # ---- what the container tells ----

    def _on_started(self, fds: list[int], pid: int) -> None:
        """It was executed: take its pidfd and, where it has them, its terminal and its filter's listener; the kernel drops what we have no number for."""
        self.started, self._pid = True, pid
        try:
            if not fds:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._pidfd = fds.pop(0)
            if self._plumbing.tty:
                if not fds:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._plumbing.terminal(fds.pop(0))
            if self.listens:
                if not fds:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                self._box._listen(self, self._command, fds.pop(0))
        except OSError as error:
            self.trouble = exhausted(error.errno or errno.EMFILE)

    def _on_exited(self, reply: Reply, oom_kills: int) -> None:
        usage = Usage(
            user=reply.user, system=reply.system, wall=time.monotonic() - self._began, memory_peak=reply.maxrss,
            blocks_read=reply.blocks_read, blocks_written=reply.blocks_written,
        )  # fmt: skip
        self._ended(reply.status, usage, oom_kills)

    def _ended(self, status: int | None, usage: Usage, oom_kills: int = 0) -> None:
        """The command is dead: `status` as wait4(2) gives it, or None where nobody can tell any more."""
        if self._exit is not None:
            return
        self._forgo_grace()
        self.started = True
        code = signal = None
        if status is None:
            signal = int(_signal.SIGKILL) if self._killing else None
            reason = self._killing or Reason.LOST
        elif os.WIFEXITED(status):
            code, reason = os.WEXITSTATUS(status), Reason.EXITED
        else:
            signal, reason = os.WTERMSIG(status), Reason.SIGNALED
            if signal == _signal.SIGKILL and self._killing:
                reason = self._killing
            elif signal == _signal.SIGKILL and oom_kills and not self._struck:
                reason = Reason.OOM
            elif signal == _signal.SIGSYS and self._box.spec.security.seccomp is not None:
                reason = Reason.SECCOMP
        if reason is Reason.OOM:  # where no limit of its own was met, it was one above it, or the machine's end of memory
            short_of = self._box._short_of(self._ident)
            self.limit, self.limit_value = "limits.memory" if short_of is not None else None, short_of
        detail: Detail = {"command": self._command, "duration": usage.wall}
        if self.limit_value is not None:
            detail["limit_value"] = self.limit_value
        if reason is Reason.SECCOMP and self._refused is not None:
            detail["syscall"] = self._refused
        if reason is Reason.LOST and not self._box.spec.has_init:
            detail["init"] = False
        if reason is Reason.KILLED and self._killed_by:
            detail["killed_by"] = self._killed_by
        self._exit = Exit(code, signal, reason, usage, limit=self.limit, oom_kills=oom_kills, detail=detail)

    def _doom(self, reason: Reason, by: str) -> None:
        """It is about to be killed by us; a time-out of what has lost a process to the OOM killer is that one's (it may wait for it in vain)."""
        if reason is Reason.TIMEOUT and self._box._kills_of(self._ident):
            reason = Reason.OOM
        self._killing, self._killed_by = reason, by

    def _refuse(self, call: str) -> None:
        """It is about to be killed for a call that its filter kills for (`violations`, whose thread asks)."""
        if self._killing is None:
            self._killing, self._refused = Reason.SECCOMP, call

    @property
    def _alarm_at(self) -> float | None:
        """When whoever waits for it must look at the clock."""
        return min((at for at in (self._grace_ends, self._told_by) if at is not None), default=None)

    def _expect_word(self, reason: Reason) -> None:
        """It is to be dead, and its init to tell of that soon."""
        if self.started and self._exit is None and self._told_by is None and self._box.spec.has_init:
            self._told_by, self._wanted = time.monotonic() + TELLING, reason
            self._box._wake()

    def _unheard(self) -> None:
        """Dead, and not told of: a guest that traces another is told of its death before the init (ptrace(2)), and may never wait for it."""
        if self._told_by is None or self._exit is not None or time.monotonic() < self._told_by:
            return
        self._told_by = None
        if not self.is_over():
            self._told_by = time.monotonic() + TELLING
            return
        self._killing = self._killing or self._wanted
        if self is self._box._main:
            self._box._strike()  # the tracer dies with all else
        else:
            self._ended(None, self.last_seen(Usage(wall=time.monotonic() - self._began)))
            self._box._leave(self._ident)

    def is_over(self) -> bool:
        """Whether it is dead and its init is about to tell how: then it ended before we acted."""
        if self._exit is not None or self._pidfd < 0 or not self._box.spec.has_init:
            return self._exit is not None
        return is_dead(self._pidfd)

    def look(self, wanted: bool) -> None:
        """Take its figures while they are there: who is killed with the init is reaped by nobody who would tell."""
        if wanted and self.started and self._pid:
            with contextlib.suppress(OSError, ValueError, IndexError):
                self._seen = figures(self._pid)

    def last_seen(self, usage: Usage) -> Usage:
        """`usage` with the figures that `look` took, where it did."""
        if self._seen is None:
            return usage
        user, system, peak = self._seen
        return attrs.evolve(usage, user=max(user, usage.user), system=max(system, usage.system), memory_peak=peak)

    # ---- anyio.abc.Process ----

    @property
    def pid(self) -> int:
        """As the host sees it."""
        return self._pid

    @property
    def pidfd(self) -> int:
        """A descriptor of the command, for signals and as an alarm (pidfd_open(2)); -1 once closed."""
        return self._pidfd

    @property
    def returncode(self) -> int | None:
        """None while it runs; then its status, or the negative number of its signal."""
        return None if self.exit is None else self.exit.returncode

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        if self._exit is None:
            self._box._look()
        return self._exit

    @property
    def stdin(self) -> SendStream | None:
        """Where it reads from; None where that is no pipe of ours."""
        return self._plumbing.stdin

    @property
    def stdout(self) -> ReceiveStream | None:
        """What it writes; None where that is no pipe of ours."""
        return self._plumbing.stdout

    @property
    def stderr(self) -> ReceiveStream | None:
        """What it writes as errors; None where that is no pipe of ours."""
        return self._plumbing.stderr

    async def wait(self) -> int:
        """Wait for the command's end, whoever holds its pipes open. Returns `returncode`; may be cancelled and called again."""
        await self._box._until(lambda: self._exit is not None, self)
        if self._exit is None:
            await self._box._gone()
        assert self._exit is not None
        return self._exit.returncode

    def send_signal(self, signal: int) -> None:
        """Send it a signal; nothing where it has ended. Raises ValueError for no signal."""
        number = signal_number(signal)
        belongs(self._box._owner)
        if self._exit is None and self._pidfd >= 0:
            self._struck = self._struck or (number == _signal.SIGKILL and not self.is_over())
            try:
                _signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass  # it has just ended; its message is on the way

    def terminate(self, grace: float = 10.0) -> None:
        """Send SIGTERM, and after `grace` seconds SIGKILL. Raises SpecError for a grace that is none.

        The loop that runs keeps that time, whether anybody waits for the end or not. Where none runs, whoever waits later keeps it.
        """
        grace = seconds(grace)
        self.send_signal(_signal.SIGTERM)
        if self._exit is None and self._grace_ends is None:
            self._grace_ends = time.monotonic() + grace
            if grace != math.inf:
                self._timer = Timer(grace, _late(ref(self)))
            self._box._wake()

    def _past_grace(self) -> None:
        """Its time is over; of all who keep it, the first to see that acts."""
        if self._grace_ends is not None:
            self._forgo_grace()
            self._kill(Reason.KILLED, "terminate(), after its grace")

    def _forgo_grace(self) -> None:
        """There is nothing to be killed any more, or it is done at once."""
        self._grace_ends = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def kill(self) -> None:
        """Send SIGKILL to the command; what it left behind lives on in the container."""
        belongs(self._box._owner)
        self._kill(Reason.KILLED, "kill()")

    def _kill(self, reason: Reason, by: str = "") -> None:
        self._box._look()
        if not self.is_over():
            if self._killing is None:
                self._doom(reason, by)
            self.send_signal(_signal.SIGKILL)
        self._expect_word(reason)

    async def aclose(self) -> None:
        """Kill what still runs, wait for its death, close the streams; shielded from cancellation."""
        if self._box._owner != os.getpid():  # a fork of the host program leaves a block that is not its own
            self._close()
            return
        await finish(self._end)

    async def _end(self) -> None:
        if self._exit is None:
            self._kill(Reason.KILLED, "the end of its block")
            with anyio.move_on_after(CLOSING):
                await self.wait()
        self._close()
        self._box._processes.pop(self._ident, None)
        if self._exit is None:
            raise CrecheError(f"the command was killed, but is not dead after {CLOSING} seconds: it (pid {self._pid}) hangs in the kernel, or is frozen")

    def _close(self) -> None:
        self._forgo_grace()
        self._plumbing.close()
        fd, self._pidfd = self._pidfd, -1
        if fd >= 0:
            os.close(fd)
