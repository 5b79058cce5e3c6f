"""Events are told through one descriptor a loop, to whoever waits, whatever becomes of the others who wait."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from loop.helpers import wait_for

from creche.cgroups import Group, inotify, notify, watch
from creche.errors import CgroupError
from needs import needs

Make = Callable[..., Group]

BOMB = "x = bytearray(96 << 20)"
FORK = """
import os, time
for _ in range(20):
    try:
        if os.fork() == 0:
            time.sleep(0.2)
            os._exit(0)
    except BlockingIOError:
        pass
"""


async def until(box: Group, condition: Callable[[], bool]) -> None:
    """Wait by the watch alone: a change that is not told makes this time out."""
    with watch(box) as changes, anyio.fail_after(20):
        while not condition():
            await changes.changed()


async def test_an_oom_is_told(group: Make, start: Callable) -> None:
    box = group(memory="24M")
    sub = box.command("main")
    with watch(box) as changes:
        bomb = start(sub, BOMB)
        with anyio.fail_after(20):
            while not box.oom_kills():
                await changes.changed()
    assert bomb.wait() == -9


async def test_the_end_of_the_last_process_is_told(group: Make, start: Callable) -> None:
    box = group(memory="100M")
    if box.unified is None:
        return  # version 1 has nothing that tells it
    process = start(box.command("main"), "import sys; print('up', flush=True); sys.stdin.read()")
    assert process.told() == "up"
    assert box.events().populated
    process.stdin.close()
    await until(box, lambda: not box.events().populated)


async def test_a_fork_that_pids_refused_is_told(group: Make, start: Callable) -> None:
    box = group(pids=5)
    home = box.home("pids")
    if home is None or home.version == 1:
        return  # version 1 counts it, and tells nobody
    with watch(box) as changes:
        start(box.command("main"), FORK)
        with anyio.fail_after(20):
            while not box.events().pids_max:
                await changes.changed()


async def test_many_wait_on_one_descriptor(group: Make, start: Callable) -> None:
    """Thirty watches take one inotify and one epoll, and on version 1 an eventfd each."""
    boxes = [group(memory="24M") for _ in range(30)]
    subs = [box.command("main") for box in boxes]
    told = []
    gc.collect()  # what others left may hold descriptors, and go at any time
    before = len(os.listdir("/proc/self/fd"))

    async def wait(box: Group) -> None:
        with watch(box) as changes:
            ready.append(box)
            while not box.oom_kills():
                await changes.changed()
        told.append(box)

    ready: list[Group] = []
    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            for box in boxes:
                tasks.start_soon(wait, box)
            while len(ready) < len(boxes):
                await anyio.sleep(0.001)
            alarms = sum(box.home("memory").version == 1 for box in boxes)  # type: ignore[union-attr]
            assert len(os.listdir("/proc/self/fd")) - before == 2 + alarms
            for sub in subs[::7]:
                start(sub, BOMB)
            while len(told) < len(subs[::7]):
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert set(map(id, told)) == set(map(id, boxes[::7]))
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * len(subs[::7])  # pipes of the processes


async def test_when_the_one_who_waits_for_all_is_cancelled_the_next_takes_over(
    group: Make, start: Callable
) -> None:
    first, second = group(memory="24M"), group(memory="24M")
    sub = second.command("main")
    with watch(first) as leading, watch(second) as following, anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def lead() -> None:
                with scope:
                    while True:
                        await leading.changed()

            tasks.start_soon(lead)
            await anyio.sleep(0.01)

            async def follow() -> None:
                while not second.oom_kills():
                    await following.changed()

            tasks.start_soon(follow)
            await anyio.sleep(0.01)
            scope.cancel()
            await anyio.sleep(0.01)
            start(sub, BOMB)


def overflow(path: Path) -> None:
    """Fill the queue of the descriptor that this loop watches with, by changes of two files in turn: the same one twice is one (inotify(7))."""
    fd = notify._current.get()._inotify
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    files = [os.open(path / name, os.O_WRONLY | os.O_CREAT, 0o600) for name in ("one", "other")]
    for name in ("one", "other"):
        inotify.add(fd, str(path / name))
    for number in range(most + 2):
        os.pwrite(files[number % 2], b"x", 0)
    for file in files:
        os.close(file)


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "control"])
async def test_what_no_queue_had_room_for_is_told_all_the_same(group: Make, start: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seen: bool) -> None:
    """The kernel drops what comes while its queue is full, and says no more than that (IN_Q_OVERFLOW): all are looked at again.

    The loop is busy meanwhile, as by a program that blocks it. Unseen, the change is lost for ever: that is the control.
    """
    box, idle = group(memory="100M"), group(memory="100M")
    if box.unified is None:
        return  # version 1 has an eventfd for each, which counts and knows no queue
    if not seen:
        monkeypatch.setattr(inotify, "OVERFLOW", 0)
    process = start(box.command("main"), "import sys; print('up', flush=True); sys.stdin.read()")
    assert process.told() == "up"
    told = []

    async def wait(watched: Group) -> None:
        with watch(watched) as changes:
            while watched.events().populated or watched is idle:
                await changes.changed()
                told.append(watched)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, idle)
        tasks.start_soon(wait, box)
        await anyio.wait_all_tasks_blocked()
        overflow(tmp_path)
        process.stdin.close()
        process.wait()
        wait_for(lambda: not box.events().populated, "the end of the last process")
        time.sleep(0.05)  # what the kernel would tell of it now, it has tried: at most one in 10 ms, with the queue still full
        with anyio.move_on_after(20 if seen else 0.5):
            while box not in told:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert (box in told) is seen
    assert (idle in told) is seen  # whose change it was nobody knows


async def test_who_waits_is_told_of_the_end_of_the_watch(group: Make) -> None:
    box, other = group(memory="24M"), group(memory="24M")
    with anyio.fail_after(10):
        for watched in (box, other):
            changes = watch(watched)
            async with anyio.create_task_group() as tasks:

                async def wait(changes: object = changes) -> None:
                    with pytest.raises(anyio.ClosedResourceError):
                        while True:
                            await changes.changed()  # type: ignore[attr-defined]

                tasks.start_soon(wait)
                await anyio.sleep(0.01)
                changes.close()
            changes.close()
            with pytest.raises(anyio.ClosedResourceError):
                await changes.changed()


async def test_two_may_watch_the_same_group(group: Make, start: Callable) -> None:
    box = group(memory="24M")
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until, box, lambda: box.oom_kills() == 1)
            tasks.start_soon(until, box, lambda: box.oom_kills() == 1)
            await anyio.sleep(0.01)
            start(box.command("main"), BOMB)


async def test_used_up_watches_are_an_error_with_the_remedy(
    group: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own answer, from a limit of this user: simulated by the errno alone, since the limit is shared."""
    import ctypes

    class Full:
        @staticmethod
        def inotify_add_watch(*_: object) -> int:
            ctypes.set_errno(28)
            return -1

        inotify_init1 = staticmethod(inotify._libc.inotify_init1)
        inotify_rm_watch = staticmethod(inotify._libc.inotify_rm_watch)

    box = group(memory="24M")
    if box.unified is None:
        return
    monkeypatch.setattr(inotify, "_libc", Full)
    with pytest.raises(CgroupError, match=r"ENOSPC.*max_user_watches"):
        watch(box)


FULL = """
import os, sys
uid = os.getuid()
import ctypes
assert ctypes.CDLL(None).unshare(0x10000000) == 0
open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
open("/proc/sys/user/max_inotify_watches", "w").write("2")  # a user namespace has its own
from creche.cgroups import inotify
from creche.errors import CgroupError
fd = inotify.create()
for path in ("/", "/proc"):
    inotify.add(fd, path)
try:
    inotify.add(fd, "/usr")
except CgroupError as error:
    print(error)
"""


@needs("userns")
def test_the_kernels_own_refusal_of_one_watch_too_many() -> None:
    said = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=True).stdout
    assert "ENOSPC" in said and "max_user_watches" in said
