#!/usr/bin/env python3
"""What limits cost, and how soon what they do is told: each figure beside its bar, as one table.

    limits.py [--runs 200] [--live 1000] [--loop asyncio|trio] [--program PATH]

Starts with and without limits take turns, so that the ratio holds on a busy machine. In the guest with version 2:
`tests/guest/run python benchmarks/limits.py`. The place is what CRECHE_CGROUP says, else the one that is found; where there is
version 1 beside it, that is measured too.
"""

from __future__ import annotations

import argparse
import mmap
import os
import platform
import resource
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from statistics import median

import anyio

from creche import Container, Limits, Reason, Spec
from creche.cgroups import VARIABLE, find_place_async

LIMITS = Limits(memory="256M", cpus=1, pids=64)
# Writes the clock into a page that is shared with us after each page that it touches, so that the last word is from just
# before the kernel had no more: the time to an Exit has the kernel's own search for memory in it.
BOMB = """
import mmap, os, struct, sys, time
shared = mmap.mmap({fd}, 4096)
if {child}:
    if os.fork():
        os.wait()
        time.sleep(1000)
memory = mmap.mmap(-1, 256 << 20)
for at in range(0, len(memory), 4096):
    memory[at] = 1
    shared[:8] = struct.pack("q", time.monotonic_ns())
"""


def quickest(values: list[float]) -> float:
    """The slowest of the quickest tenth: what a busy machine has disturbed least."""
    return sorted(values)[len(values) // 10]


async def start(program: str, limits: Limits | None) -> float:
    """Milliseconds of one container, from the start until it is reaped and removed."""
    began = time.perf_counter()
    async with Container(Spec([program], limits=limits or Limits())) as box:
        exit = await box
    took = (time.perf_counter() - began) * 1e3
    assert exit.ok, exit
    return took


async def starts(program: str, runs: int, kinds: dict[str, tuple[str, Limits]]) -> dict[str, list[float]]:
    """What each contender (its place and limits) took, taking turns; "" is without limits."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for turn in range(runs + 2):
        os.environ.pop(VARIABLE, None)
        for name, (kind, limits) in {"": ("", None), **kinds}.items():
            if kind:
                os.environ[VARIABLE] = kind
            took = await start(program, limits)
            if turn > 1:
                found[name].append(took)
    return found


class Clock:
    """A page that is shared with the bomb, in which it writes the time."""

    def __enter__(self) -> Clock:
        self.fd = os.memfd_create("clock")
        os.ftruncate(self.fd, 4096)
        self._page = mmap.mmap(self.fd, 4096)
        return self

    def __exit__(self, *_: object) -> None:
        self._page.close()
        os.close(self.fd)

    def since(self) -> float:
        """Milliseconds since it last wrote."""
        return (time.monotonic_ns() - int.from_bytes(self._page[:8], "little")) / 1e6


async def ooms(runs: int) -> dict[str, float]:
    """From the last page that there was: to a bare parent's waitpid, to the Exit, to the event where a child was taken."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    limits = Limits(memory="24M", swap=0)
    place = await find_place_async()
    with Clock() as clock:
        program = [sys.executable, "-I", "-S", "-c"]
        for turn in range(runs):
            group = place.create(f"bare{turn}", limits)
            sub = group.command("main")
            bare = os.fork()
            if not bare:
                for fd in sub.fds:
                    os.write(fd, b"0")
                os.set_inheritable(clock.fd, True)
                os.execv(program[0], [*program, BOMB.format(fd=clock.fd, child=False)])
            os.waitpid(bare, 0)
            found["bare"].append(clock.since())
            group.remove()
            for child in (False, True):
                command = [*program, BOMB.format(fd=clock.fd, child=child)]
                async with Container(Spec(command, limits=limits, pass_fds=[clock.fd])) as box:
                    if child:
                        async for event in box.events():
                            if event.kind == "oom_kill":
                                break
                    else:
                        assert (await box).reason is Reason.OOM
                    found["event" if child else "exit"].append(clock.since())
    return {name: median(values) for name, values in found.items()}


async def stats(runs: int) -> float:
    """Milliseconds of one stats()."""
    async with Container(Spec(["sleep", "1000"], limits=LIMITS)) as box:
        await box.stats()
        began = time.perf_counter()
        for _ in range(runs):
            await box.stats()
        return (time.perf_counter() - began) / runs * 1e3


async def live(count: int) -> Iterator[str]:
    """So many limited containers at once, each waited for and its events read: what that holds, and what it costs."""
    spec = Spec(["sleep", "1000"], limits=LIMITS, stdin="null", stdout="null", stderr="null")
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    boxes: list[Container] = []
    gate = anyio.Semaphore(32)

    async def watch(box: Container) -> None:
        async for _ in box.events():
            pass

    async def make(stack: AsyncExitStack) -> None:
        async with gate:
            boxes.append(await stack.enter_async_context(Container(spec)))

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
        async with anyio.create_task_group() as starting:
            for _ in range(count):
                starting.start_soon(make, stack)
        took = time.perf_counter() - began
        for box in boxes:
            tasks.start_soon(box.wait)
            tasks.start_soon(watch, box)
        await anyio.sleep(1)
        used, cpu = len(os.listdir("/proc/self/fd")) - fds, time.process_time()
        await anyio.sleep(5)
        cpu = time.process_time() - cpu
        more = threading.active_count() - threads
        tasks.cancel_scope.cancel()
    return iter(
        [
            f"| {count} live: descriptors of one | {used / count:.2f} | 4 (version 1: 5) |",
            f"| … threads more, for all of them | {more} | 0 for each |",
            f"| … processor while all are idle | {cpu / 5:.2%} | 0 |",
            f"| … seconds until all ran | {took:.1f} | |",
        ]
    )


async def table(runs: int, count: int, program: str) -> None:
    place = await find_place_async()
    here = os.environ.get(VARIABLE) or place.kind
    other = await find_place_async({**os.environ, VARIABLE: "v1"})
    kinds = {here: (here, LIMITS)}
    if other.usable and other.home("memory"):
        kinds["v1"] = ("v1", LIMITS)
    two = place.home("hugetlb")
    if (
        place.kind == "hybrid" and two is not None and two.version == 2
    ):  # version 2 alone, with what it has here
        kinds["version 2, hugetlb alone"] = (two.folder, Limits(hugetlb={"2MB": "64M"}))
    took = await starts(program, runs, kinds)
    os.environ[VARIABLE] = here
    print(f"| place: {place.kind} | measured | bar |\n|---|---:|---:|")
    print(f"| a start without limits, ms | {median(took['']):.2f} | |")
    for kind in kinds:
        bar = "1.35 x" if kind not in ("v1", "hybrid") else ""
        middle, tenth = (at(took[kind]) / at(took[""]) for at in (median, quickest))
        print(f"| with limits, {kind}, ms | {median(took[kind]):.2f}: {middle:.2f} x, of the quickest tenth {tenth:.2f} x | {bar} |")
    few = max(5, runs // 10)
    oom = await ooms(few)
    print(f"| an OOM to a bare parent's waitpid, ms | {oom['bare']:.2f} | |")
    print(
        f"| the main command's OOM to its Exit, ms | {oom['exit']:.2f}: {oom['exit'] - oom['bare']:+.2f} | 5 |"
    )
    print(f"| a child's OOM to the event, ms | {oom['event']:.2f}: {oom['event'] - oom['bare']:+.2f} | 15 |")
    print(f"| stats(), ms | {await stats(runs * 5):.3f} | 0.3 |")
    for line in await live(count):
        print(line)
    print(f"\n{runs} turns; Linux {platform.release()}, {os.cpu_count()} processors.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--live", type=int, default=1000)
    parser.add_argument("--loop", default="asyncio", choices=("asyncio", "trio"))
    parser.add_argument("--program", default="/usr/bin/true", help="what is started")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    anyio.run(table, options.runs, options.live, options.program, backend=options.loop)


if __name__ == "__main__":
    main()
