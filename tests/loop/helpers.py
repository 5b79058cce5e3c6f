"""What tests of living containers share: programs to run inside, and a look at the host's processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel

SLEEPER = ["sleep", "1000"]
SET_CHILD_SUBREAPER = 36  # prctl(2)
BOUND = 20.0  # seconds after which a test that waits has failed; nothing measures with it


def shell(text: str) -> list[str]:
    """An argv for the container's shell."""
    return ["sh", "-c", text]


def python(text: str) -> list[str]:
    """An argv for the Python that HostView shows, which is the system's."""
    return ["python3", "-S", "-c", text]


def parent_of(pid: int) -> int:
    """The pid of its parent, or 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def alive(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def below(pid: int) -> set[int]:
    """The processes that descend from it, as the host sees them."""
    parents = {int(name): parent_of(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    found: set[int] = set()
    more = {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more and child not in found}
        found |= more
    return found


async def until(condition: Callable[[], bool], what: str = "a condition") -> None:
    """Wait for it, within the bound."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await anyio.sleep(0.005)


def wait_for(condition: Callable[[], bool], what: str = "a condition") -> None:
    """The same without a loop."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def supervisor(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process that supervises containers: its program is text, and says on standard output what the test waits for."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip


@contextlib.contextmanager
def adopting():
    """What a killed supervisor leaves becomes ours (prctl(2), PR_SET_CHILD_SUBREAPER), so that nothing can hide; all must die."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    mine = below(os.getpid())
    try:
        yield
        wait_for(lambda: not any(alive(pid) for pid in below(os.getpid()) - mine), "the end of what the supervisor left")
    finally:
        assert libc.prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG | 0x40000000)[0]:  # __WALL
                pass


@contextmanager
def all_descriptors() -> Iterator[None]:
    """As many as this process may have: what it has by itself, mostly 1024, is not enough for a thousand containers."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Turns:
    """How many turns of the loop somebody else has had."""

    taken = 0


@asynccontextmanager
async def others() -> AsyncIterator[Turns]:
    """Somebody else on the loop, who takes each turn that he gets."""
    turns = Turns()

    async def other() -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            turns.taken += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        yield turns
        tasks.cancel_scope.cancel()


class Suspending:
    """Awaits something, and calls `now(count)` each time when it is about to suspend, for the count-th time."""

    def __init__(self, coroutine, now):
        self._steps, self._now = coroutine.__await__(), now
        self.count = 0

    def __await__(self):
        step, value = self._steps.send, None
        while True:
            try:
                trap = step(value)
            except StopIteration as end:
                return end.value
            self.count += 1
            self._now(self.count)
            try:
                step, value = self._steps.send, (yield trap)
            except BaseException as error:  # noqa: BLE001
                step, value = self._steps.throw, error


def cancelled_at(coroutine, number, scope):
    """Awaits it, and cancels a scope when it is about to suspend for the so-manieth time."""
    return Suspending(coroutine, lambda count: count == number and scope.cancel())
