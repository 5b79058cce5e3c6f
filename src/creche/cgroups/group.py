"""The cgroups of one container: its limits stand on the box, its commands run one level below them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import anyio

from ..errors import CgroupError
from . import files, killing, reading, v1, v2
from .applying import apply, check, enable, needed, prepare
from .figures import process
from .hierarchy import Hierarchy
from .values import CpuFigures, Events, ProcessFigures, Stats

if TYPE_CHECKING:
    from ..spec.limits import Limits
    from .place import Place


class Sub:
    """The cgroup of one command. Made by `Group.command`; the command must enter it before its first instruction."""

    def __init__(self, group: Group, name: str, limits: Limits | None) -> None:
        self.name = name
        self.limits = limits  # of its own, below the container's
        self._group = group
        self._fds: list[int] | None = None

    @property
    def folders(self) -> dict[Hierarchy, str]:
        """Where its processes are in each hierarchy: in a directory of its own, or in the box itself."""
        return {
            hierarchy: box if hierarchy.flat else f"{box}/{self.name}"
            for hierarchy, box in self._group.folders.items()
        }

    @property
    def own(self) -> dict[Hierarchy, str]:
        """The directories that are its alone."""
        return {hierarchy: folder for hierarchy, folder in self.folders.items() if not hierarchy.flat}

    @property
    def fds(self) -> list[int]:
        """One descriptor for each cgroup.procs into which the newborn writes "0" to enter. `close` closes them.

        The kernel checks the right to move at the opener, so they work in a child that has lost its privileges.
        """
        if self._fds is None:
            self._fds = []
            for folder in self.folders.values():
                path = f"{folder}/cgroup.procs"
                try:
                    self._fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
                except OSError as error:
                    self.close()
                    raise files.failure("cannot be opened", path, error) from error
        return self._fds

    def close(self) -> None:
        """Close what `fds` opened: to be called once the command is inside."""
        for fd in self._fds or ():
            os.close(fd)
        self._fds = None

    def enter(self, pid: int) -> None:
        """Move the process *pid* (0: the caller) here, for those that were not born here. Raises CgroupError."""
        for folder in self.folders.values():
            files.write(f"{folder}/cgroup.procs", str(pid))

    def oom_kills(self) -> int:
        """How many processes of this command the OOM killer has taken."""
        memory = self._group.home("memory")
        if memory is None:
            return 0
        folder = f"{self._group.folders[memory]}/{self.name}"
        return v1.oom_kills(folder) if memory.version == 1 else v2.oom_kills(folder)

    def short_of(self) -> int | None:
        """The memory limit, in bytes, at which memory ran out: its own, or its container's; None where neither did."""
        memory = self._group.home("memory")
        if memory is None:
            return None
        box = self._group.folders[memory]
        ran_out = v1.ran_out if memory.version == 1 else v2.ran_out
        for limits, folder in ((self.limits, f"{box}/{self.name}"), (self._group.limits, box)):
            if limits is not None and limits.memory is not None and ran_out(folder):
                return limits.memory
        return None

    def pids(self) -> tuple[int, ...]:
        """The processes in it, its own descendants included."""
        return reading.pids(next(iter(self.own.values())))

    def kill(self) -> None:
        """SIGKILL to everything in it. Raises CgroupError."""
        killing.kill(self.own)

    def remove(self, seconds: float = 1.0) -> None:
        """Remove it once its command has ended, waiting at most *seconds*. Raises CgroupError."""
        self._group.forget(self)
        _remove(self.own.values(), seconds)


class Group:
    """A container's cgroups: `box` with the limits, and below it one cgroup a command. Made by `Place.create`.

    The init is not in it: what shares the supervisor's memory, or must answer while the box is frozen, stays
    where the supervisor is. Every call is a few quick file operations, and none keeps a descriptor.
    """

    def __init__(self, name: str, folders: dict[Hierarchy, str], limits: Limits, place: Place) -> None:
        self.name = name
        self.place = place
        self.folders = folders  # the box's directory in each hierarchy
        self.limits = limits  # in force
        self.subs: dict[str, Sub] = {}
        self._gone = 0  # OOM kills of commands whose cgroup is removed (version 1 does not add them up)
        self._removed = False

    @property
    def unified(self) -> str | None:
        """The box's directory in version 2's hierarchy, if it has one."""
        return reading.unified(self.folders)

    def home(self, controller: str) -> Hierarchy | None:
        """The hierarchy of this group that holds *controller* (version 2's name), or None."""
        return reading.home(self.folders, controller)

    def command(self, name: str, limits: Limits | None = None) -> Sub:
        """Make the cgroup of one command, with limits of its own below the container's. Raises CgroupError."""
        sub = Sub(self, check_name(name), limits)
        made: list[str] = []
        try:
            for hierarchy, folder in sub.own.items():
                files.make(folder)
                made.append(folder)
                prepare(hierarchy, folder)
            if limits:
                check(sub.own, limits)
                if self.unified is not None:
                    enable(self.unified, (n for n in needed(limits) if self._two(n)))
                apply(sub.own, limits, None)
        except BaseException:
            for folder in made:
                with contextlib.suppress(CgroupError):
                    files.removed(folder)
            raise
        self.subs[name] = sub
        return sub

    def forget(self, sub: Sub) -> None:
        """Keep what is counted of a command whose cgroup goes."""
        if self.subs.pop(sub.name, None) is not None:
            sub.close()
            with contextlib.suppress(CgroupError):
                self._gone += sub.oom_kills()

    def update(self, limits: Limits) -> None:
        """Put the given fields of *limits* in force, wholly or (the earlier ones restored) not at all.

        Raises UnsupportedError for a controller that is not to be had here, CgroupError for a refusal.
        """
        self.place.extend(self, limits)
        done = apply(self.folders, limits, self.limits, subs=[sub.own for sub in self.subs.values()])
        self.limits = done.limits

    def adopt(self, hierarchy: Hierarchy, box: str) -> None:
        """Be in one more hierarchy of version 1, with all processes; repeated while they fork. Raises CgroupError."""
        first = next(iter(self.folders.values()))
        try:
            below = {} if hierarchy.flat else {name: f"{box}/{name}" for name in self.subs}
            for folder in (box, *below.values()):
                files.make(folder)
                prepare(hierarchy, folder)
            for name in self.subs:
                _bring(f"{first}/{name}", below.get(name, box))
        except BaseException:
            with contextlib.suppress(CgroupError):
                files.removed(box)
            raise
        self.folders[hierarchy] = box

    def oom_kills(self) -> int:
        """How many processes of the container the OOM killer has taken, over all its commands."""
        memory = self.home("memory")
        if memory is None:
            return 0
        box = self.folders[memory]
        if memory.version == 2:
            return v2.oom_kills(box)
        return v1.oom_kills(box) + sum(sub.oom_kills() for sub in self.subs.values()) + self._gone

    def events(self) -> Events:
        """The raw counters. On version 1 `oom` tells whether it is out of memory now, and `high` is not there."""
        if (memory := self.home("memory")) is None or memory.version == 2:
            return v2.events(self.unified) if self.unified else self._events_v1()
        return self._events_v1()

    def _events_v1(self) -> Events:
        memory, pids = self._folder("memory"), self._folder("pids")
        one = v1.events(memory, pids)
        refused = sum(v1.events(None, f"{pids}/{name}").pids_max for name in self.subs) if pids else 0
        state = v2.events(self.unified) if self.unified else None
        return Events(
            oom=one.oom,
            oom_kill=self.oom_kills(),
            max=one.max,
            pids_max=one.pids_max + refused,
            populated=state.populated if state else bool(self.pids()),
            frozen=state.frozen if state else self.frozen,
        )

    def watched(self) -> tuple[str, ...]:
        """The files of version 2 that an inotify watch should sit on, as far as they exist."""
        box = self.unified
        return tuple(p for p in (f"{box}/{f}" for f in v2.EVENT_FILES) if box and os.path.exists(p))

    def peak(self) -> int | None:
        """The most memory the container had at once, in bytes; None where no memory controller counts it."""
        memory = self.home("memory")
        if memory is None:
            return None
        return v1.peak(self.folders[memory]) if memory.version == 1 else v2.peak(self.folders[memory])

    def stalled(self) -> float | None:
        """Seconds in which some process of it waited for memory (PSI); None where the kernel does not count that."""
        return v2.stalled(self.unified) if self.unified is not None else None

    def cpu_usage(self) -> CpuFigures | None:
        """Processor time of everything that ran in it; None where nothing counts it."""
        return reading.cpu(self.folders)

    def stats(self) -> Stats:
        """All figures of this moment; what no controller counts here is None."""
        return reading.stats(self.folders)

    def pids(self) -> tuple[int, ...]:
        """The processes in it, over all commands."""
        return reading.pids(next(iter(self.folders.values())))

    def processes(self) -> tuple[ProcessFigures, ...]:
        """Figures of each process in it; one that ends meanwhile is left out."""
        found = (process(pid) for pid in self.pids())
        return tuple(figures for figures in found if figures is not None)

    @property
    def frozen(self) -> bool:
        """Whether everything in it stands still by now."""
        if self.unified is not None:
            return v2.events(self.unified).frozen
        freezer = self._folder("freezer")
        return freezer is not None and files.read_or(f"{freezer}/freezer.state").strip() == "FROZEN"

    def freeze(self) -> None:
        """Ask for a standstill, which `frozen` tells of; `wait_frozen` waits for it. Raises CgroupError."""
        self._freeze(True)

    def thaw(self) -> None:
        """End the standstill. Raises CgroupError."""
        self._freeze(False)

    def _freeze(self, frozen: bool) -> None:
        if self.unified is not None:
            files.write(f"{self.unified}/cgroup.freeze", str(int(frozen)))
        elif (freezer := self._folder("freezer")) is not None:
            killing.freeze_v1(freezer, frozen)
        else:
            raise CgroupError(
                "nothing here can freeze it",
                path=next(iter(self.folders.values())),
                hint="mount v1's freezer",
            )

    async def wait_frozen(self, frozen: bool = True) -> None:
        """Wait until everything in it stands still (or, with False, moves again); bounded by the caller's scope."""
        step = 0.0005
        while self.frozen is not frozen:
            await anyio.sleep(step)
            step = min(step * 2, 0.02)

    def kill(self) -> None:
        """SIGKILL to everything in it, the init excepted, which is not in it. Raises CgroupError."""
        killing.kill(self.folders)

    def remove_once(self) -> bool:
        """One attempt to remove it: True once nothing of it is left. Raises CgroupError for other than busy."""
        for sub in list(self.subs.values()):
            sub.close()
        if not self._removed:
            self._removed = all(
                files.removed(folder, *([] if hierarchy.flat else [f"{folder}/{name}" for name in self.subs]))
                for hierarchy, folder in self.folders.items()
            )
        return self._removed

    def remove(self, seconds: float = 1.0) -> None:
        """Remove it, waiting at most *seconds* (blocking) while processes leave. Raises CgroupError if they do not."""
        if not files.until(self.remove_once, seconds):
            raise _busy(self.folders.values())

    async def aremove(self, seconds: float = 5.0) -> None:
        """As `remove`, without holding up the loop."""
        step, waited = 0.0005, 0.0
        while not self.remove_once():
            if waited >= seconds:
                raise _busy(self.folders.values())
            await anyio.sleep(step)
            waited += step
            step = min(step * 2, 0.05)

    def _two(self, controller: str) -> bool:
        return (home := self.home(controller)) is not None and home.version == 2

    def _folder(self, controller: str) -> str | None:
        return reading.folder(self.folders, controller)


def check_name(name: str) -> str:
    """A directory name of ours: letters, digits, "-", "_" and "." but not in front. Raises CgroupError."""
    if not name or name[0] == "." or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
        raise CgroupError(f"{name!r} cannot be the name of a cgroup", hint="use letters, digits, - and _")
    return name


def _bring(source: str, target: str) -> None:
    """Move every process of one tree, until a look finds none that is not yet there."""
    while left := set(reading.pids(source)) - set(files.pids(target)):
        for pid in left:
            try:
                files.write(f"{target}/cgroup.procs", str(pid))
            except CgroupError as error:
                if error.errno != errno.ESRCH:
                    raise


def _remove(folders: Iterable[str], seconds: float) -> None:
    left = list(folders)
    if not files.until(lambda: all(files.removed(folder) for folder in left), seconds):
        raise _busy(left)


def _busy(folders: Iterable[str]) -> CgroupError:
    first = next(iter(folders))
    inside = reading.pids(first)
    return CgroupError(
        "cannot be removed", path=first, errno=errno.EBUSY, hint=f"processes are left in it: {inside or '?'}"
    )
