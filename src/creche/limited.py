"""A container's limits and figures while it lives: what its cgroup tells, and what can be changed in it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import anyio

from .errors import CgroupError, CrecheError, SpecError
from .results import Reason
from .spec.limits import Limits

if TYPE_CHECKING:
    from .cgroups import BoxEvent, Events, ProcessFigures, Stats
    from .cgroups.group import Group, Sub
    from .cgroups.notify import Watch
    from .process import Process
    from .results import Exit
    from .spec.spec import Spec
    from .spending import Spending

__all__ = ["Limited"]


_KINDS = {
    "oom_kill": "limits.memory", "oom": "limits.memory", "oom_group_kill": "limits.memory", "max": "limits.memory",
    "high": "limits.memory_high", "pids_max": "limits.pids",
}  # fmt: skip


class Limited:
    """The half of Container that has to do with cgroups; all of it needs limits in the Spec."""

    if TYPE_CHECKING:
        spec: Spec
        _group: Group | None
        _exit: Exit | None
        _subs: dict[int, Sub]
        _watches: list[Watch]
        _last_events: Events | None
        _processes: dict[int, Process]
        _pidfd: int
        _reaped: bool

        @property
        def exit(self) -> Exit | None: ...
        async def wait(self) -> Exit: ...

    def _limited(self) -> Group:
        if self._group is None:
            raise CrecheError("the container has no cgroup: give its Spec limits (such as Limits(pids=1000)), and use it in its block")
        return self._group

    async def stats(self) -> Stats:
        """What it uses now; None in a figure that nothing counts here. Raises CgroupError."""
        return self._limited().stats()

    async def watch(self, interval: float = 1.0) -> AsyncIterator[Stats]:
        """`stats()` every `interval` seconds, until it ends."""
        while self.exit is None and self._group is not None:
            yield self._group.stats()
            await anyio.sleep(interval)

    async def processes(self) -> tuple[ProcessFigures, ...]:
        """Each process in it, with the pid that the host sees."""
        return self._limited().processes()

    async def events(self) -> AsyncIterator[BoxEvent]:
        """What the kernel does to it for its limits, as it happens; ends with the container, or its reset.

        The kernel gives at most one notice in 10 ms, so a rise may be by more than one (`count`).
        """
        from .cgroups.notify import watch

        group = self._limited()
        seen = group.events()
        with watch(group) as changes:
            self._watches.append(changes)
            try:
                while True:
                    over = self._exit is not None or self._group is not group
                    now = self._last_events or seen if over else group.events()
                    for event in _rises(seen, now):
                        yield event
                    seen = now
                    if over:
                        return
                    await self._change(changes)
            finally:
                self._watches.remove(changes)

    async def _change(self, changes: Watch) -> None:
        """Wait for the watch, or for the container's end, which closes it."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.wait)
            with contextlib.suppress(anyio.ClosedResourceError):
                await changes.changed()
            tasks.cancel_scope.cancel()

    async def update(self, limits: Limits) -> None:
        """Change the limits that are given, wholly or (rolled back) not at all. Raises SpecError, CgroupError, UnsupportedError.

        >>> await box.update(Limits(memory="512M"))
        """
        if not isinstance(limits, Limits):
            raise SpecError("limits", limits, 'give Limits, such as Limits(memory="512M")')
        self._limited().update(limits)
        if limits.cpu_time is not None:
            self._watch_spending()

    async def freeze(self) -> None:
        """Stop every process in it, until `thaw`; the init goes on, so the container still ends with its supervisor.

        It waits for the answer to a call that `syscalls` gave: its caller stops no earlier. Cancelled meanwhile, it lets them go on.
        """
        group = self._limited()
        group.freeze()
        try:
            await group.wait_frozen()
        except BaseException:
            with contextlib.suppress(CgroupError):  # the cgroup may be gone, and that is what is told
                group.thaw()
            raise

    async def thaw(self) -> None:
        """Let them go on."""
        group = self._limited()
        group.thaw()
        await group.wait_frozen(False)

    # ---- what the OOM killer did in it; the cgroup may have been removed under our feet ----

    def _kills_of(self, ident: int) -> int:
        """Processes of one command that the kernel has killed for memory, by the count of its own cgroup."""
        with contextlib.suppress(CrecheError, KeyError):
            return self._subs[ident].oom_kills()
        return 0

    def _short_of(self, ident: int) -> int | None:
        """The memory limit, in bytes, that one command's OOM met; None where it was none of its own or its container's."""
        with contextlib.suppress(CrecheError, KeyError):
            return self._subs[ident].short_of()
        return None

    def _oom_kills(self) -> int:
        """Processes of the whole container that the kernel has killed for memory."""
        with contextlib.suppress(CrecheError):
            return self._group.oom_kills() if self._group is not None else 0
        return 0

    # ---- limits.cpu_time: no control of the kernel's, so a thread of ours looks at the figures ----

    _spending: Spending | None = None

    def _watch_spending(self) -> None:
        """From here on its processor time is looked at, where that is limited: at the start, with a new cgroup, or a new limit."""
        if self._group is None or self._group.limits.cpu_time is None or self._reaped:
            return
        if self._spending is not None:
            self._spending.again()
            return
        from .spending import Spending  # few containers have that limit

        self._spending = Spending(self._group, self._pidfd)

    def _unwatch_spending(self) -> None:
        """Before its cgroup is another's, or the pidfd is closed."""
        if self._spending is not None:
            self._spending.close()
            if self._spending.spent is None:  # else its end is still to be told
                self._spending = None

    def _blame_spending(self) -> None:
        """It is dead. Where the thread has killed it: what had not ended by itself before was ended by the limit."""
        limit = None if self._spending is None else self._spending.spent
        if limit is None:
            return
        for process in self._processes.values():
            if process._exit is None and process._killing is None:
                process._doom(Reason.TIMEOUT, "")
                process.limit, process.limit_value = "limits.cpu_time", limit


def _rises(before: Events, now: Events) -> list[BoxEvent]:
    from .cgroups import BoxEvent

    return [
        BoxEvent(kind, getattr(now, kind) - getattr(before, kind), getattr(now, kind), field)
        for kind, field in _KINDS.items()
        if getattr(now, kind) > getattr(before, kind)
    ]
