"""The half of Container that hears of system calls: those that wait for an answer, and those that were refused."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, cast

from ..errors import CrecheError
from ..plan.command import filter_of

if TYPE_CHECKING:
    from ..channel import Channel
    from ..container import Container
    from ..lifecycle import State
    from ..machine import Machine
    from ..process import Process
    from ..results import Exit
    from ..spec.spec import Spec
    from .calls import Calls, Syscalls, Violations
    from .violations import Reports

__all__ = ["Listening"]


class Listening:
    """`Container.syscalls` and `Container.violations`; each needs a filter that has a listener (`Security`)."""

    if TYPE_CHECKING:
        spec: Spec
        _state: State
        _exit: Exit | None
        _owner: int
        _channel: Channel | None
        _machine: Machine | None
        _processes: dict[int, Process]

        def _strike(self) -> None: ...

    _calls: Calls | None = None
    _reports: Reports | None = None

    def syscalls(self, *, observe: bool = False) -> Syscalls:
        """The calls that its filter hands over, each waiting for your answer: an async iterator of `Syscall`.

        They are those of ``SeccompRules(notify=[…])`` and of SCMP_ACT_NOTIFY in a profile, made by any process of any
        command in the container. Until you take one, and answer it, its caller stands still; so it does where nobody
        iterates. The iterator ends with the container. Several calls may be in your hands at a time (128 at most; the
        kernel keeps the others), so a slow answer need not hold up the rest. It is for one task at a time.

        `observe`: whether calls may `Syscall.proceed`.

        Raises CrecheError for a filter that hands no calls over.

        >>> async for call in box.syscalls():
        ...     call.deny(errno.EACCES)
        """
        if not self.spec.security.notifies:
            raise CrecheError("the container's filter hands no calls over: give Security(seccomp=SeccompRules(notify=[…])), or a profile with SCMP_ACT_NOTIFY")
        from .calls import Syscalls

        return Syscalls(cast("Container", self), observe)

    def violations(self) -> Violations:
        """What its filter refuses, as it happens: an async iterator of `Violation`, for ``Security(seccomp_report=True)``.

        The callers have their answers already; nothing waits for you. What is not read is kept, 256 of them, the
        newest; `Violation.dropped` counts those that are lost. The iterator ends with the container, and is for one
        task at a time.

        Raises CrecheError where the filter does not report.
        """
        if not self.spec.security.seccomp_report:
            raise CrecheError("the container's filter does not report: give Security(seccomp_report=True)")
        from .calls import Violations

        return Violations(cast("Container", self))

    def _listen(self, process: Process, command: tuple[str, ...], fd: int) -> None:
        """Take over the listener of a command that was executed."""
        from .listener import Listener  # few containers have one
        from .violations import Reports

        assert self._machine is not None
        compiled = filter_of(self.spec, self._machine)
        assert compiled is not None
        listener = Listener(fd, compiled)
        if not self.spec.security.seccomp_report:
            self._gathered().add(listener, process)
            return
        if self._reports is None:
            itself = weakref.ref(self)  # its thread must not keep a forgotten container

            def kill_all() -> None:
                if (box := itself()) is not None:
                    box._strike()

            self._reports = Reports(kill_all)
            self._gathered().watch(self._reports.news)
        self._reports.add(listener, process, command)

    def _gathered(self) -> Calls:
        if self._calls is None:
            from .calls import Calls

            self._calls = Calls()
        return self._calls

    def _forget_violations(self) -> None:
        """After a reset: who reads from here on hears of the next guest."""
        if self._reports is not None:
            self._reports.forget()

    def _deaf(self) -> None:
        """Close all listeners: whoever waits still is dead, or gets ENOSYS."""
        ours = os.getpid() == self._owner
        if self._calls is not None:
            self._calls.close()
        reports, self._reports = self._reports, None
        if reports is not None:
            reports.close(ours)
