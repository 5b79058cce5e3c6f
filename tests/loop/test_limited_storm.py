"""Many limited containers at once, and a bomb that goes off where commands are started: who is outside the limit stays alive."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter

import anyio
import pytest
from loop.helpers import SLEEPER, all_descriptors

from creche import Container, CrecheError, Limits, Reason, Spec
from leaks import THREADS
from needs import needs

pytestmark = [needs("native", "userns", "limits"), pytest.mark.slow]
PYTHON = ["python3", "-I", "-S", "-c"]
# Takes what there is, and again whatever was taken of it.
BOMB = "import os\nwhile True:\n    if os.fork():\n        os.wait()\n    else:\n        x = bytearray(256 << 20)\n        os._exit(0)"
HOLD = "x = bytearray(40 << 20); print('held', flush=True); input()"


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.long)])
async def test_so_many_live_at_once(count: int) -> None:
    """Each is waited for and watched; none has a thread, and each has few descriptors."""
    quiet = {"stdin": "null", "stdout": "null", "stderr": "null"}
    spec = Spec(SLEEPER, limits=Limits(memory="100M", pids=50, cpus=1), **quiet)
    before, gate = len(os.listdir("/proc/self/fd")), anyio.Semaphore(16)
    ready, end = [], anyio.Event()

    async def live() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with gate:
                box = await stack.enter_async_context(Container(spec))
            ready.append(box)
            async with anyio.create_task_group() as watching:
                watching.start_soon(watch, box)
                await end.wait()
                box.kill()
                assert (await box).reason is Reason.KILLED

    async def watch(box: Container) -> None:
        async for _ in box.events():
            pass

    with all_descriptors(), anyio.fail_after(60 + 3 * count):  # seconds; a guest kernel on a busy machine takes two for each
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(live)
            while len(ready) < count:
                await anyio.sleep(0.01)
            await anyio.sleep(0.1)
            home = ready[0]._group.home("memory")  # type: ignore[union-attr]
            each = 4 if home is not None and home.version == 2 else 5
            assert len(os.listdir("/proc/self/fd")) - before <= each * count
            assert sum(thread.name.startswith("creche") for thread in threading.enumerate()) <= THREADS
            end.set()


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.long)])
async def test_a_bomb_beside_so_many_starts(count: int) -> None:
    """E13: the init and the supervisor are not in the limited cgroup, nor is anybody who shares their memory."""
    told: Counter[str] = Counter()
    async with (
        Container(Spec(limits=Limits(memory="64M", swap=0, pids=200))) as box,
        Container(Spec()) as other,
    ):
        async with box.open([*PYTHON, HOLD]) as bystander:
            assert bystander.stdout is not None
            assert await bystander.stdout.receive(5) == b"held\n"
            async with box.open([*PYTHON, BOMB]):
                with anyio.fail_after(60):
                    await bystander.wait()
                assert bystander.exit is not None
                assert bystander.exit.reason is Reason.OOM, (
                    "the control: who is inside and large is taken, whatever it does"
                )
                with anyio.fail_after(600):
                    # The bystander's is the first; a slow machine may start all these before the second.
                    while told.total() < count or box._oom_kills() < 2:
                        try:
                            told[(await box.run(["true"])).exit.reason.name] += 1
                        except CrecheError:
                            told["error"] += 1
                stats = await box.stats()
                assert stats.memory is not None and (stats.memory.peak or 0) <= 64 << 20
        assert box.exit is None, "its init lives"
        assert (await box.run(["true"])).exit.ok
        assert (await other.run(["true"])).exit.ok
    assert told["EXITED"] > told.total() // 2
    assert box.exit is not None and box.exit.oom_kills > 1, "the bomb went off again and again"


async def test_cgroups_that_are_removed_under_our_feet() -> None:
    """By an administrator, or a sweep that is not ours: the container goes on, and ends as it would have."""
    async with Container(Spec(limits=Limits(memory="64M", pids=50))) as box:
        group = box._group
        assert group is not None
        assert (await box.run(["true"])).exit.ok
        for folder in group.folders.values():
            for inner in [*(entry.path for entry in os.scandir(folder) if entry.is_dir()), folder]:
                os.rmdir(inner)
        assert not any(os.path.exists(folder) for folder in group.folders.values())
        with pytest.raises(CrecheError):
            await box.run(["true"])
        with pytest.raises(CrecheError):
            await box.update(Limits(pids=60))
        await box.stats()
        box.kill()
        assert (await box).reason is Reason.KILLED
