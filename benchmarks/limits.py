#!/usr/bin/env python3
"""What limits cost, and how soon what they do is told: each figure beside its bar, as one table.

    limits.py [--runs 200] [--live 1000] [--loop asyncio|trio] [--program PATH]

Starts with and without limits take turns, so that the ratio holds on a busy machine. In the guest with version 2:
`tests/guest/run python benchmarks/limits.py`. The place is what CRECHE_CGROUP says, else the one that is found; where there is
version 1 beside it, that is measured too.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from statistics import median

import anyio
from oom import ooms

from creche import Container, Limits, Spec
from creche.cgroups import VARIABLE, find_place_async

LIMITS = Limits(memory="256M", cpus=1, pids=64)


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


def told(found: dict[str, list[float]]) -> Iterator[str]:
    """Rows of the OOMs: from the kernel's decision where it could be seen, and from the last page that there was."""
    for since, suffix in (
        ("the kernel's decision (oom:mark_victim)", " decided"),
        ("the victim's SIGKILL, once the kernel has logged the decision,", " struck"),
        ("the last page that it got", ""),
    ):
        if f"bare{suffix}" not in found:
            yield f"| from {since} | not seen: needs root, tracefs and Linux 6.8 | |"
            continue
        bare = median(found[f"bare{suffix}"])
        yield f"| from {since} to a bare parent's waitpid, ms | {bare:.2f} | |"
        for kind, what, bar in (("exit", "… to the main command's Exit", 5), ("event", "… to the event of a child's", 15)):
            if f"{kind}{suffix}" in found:
                middle = median(found[f"{kind}{suffix}"])
                yield f"| {what}, ms | {middle:.2f}: {middle - bare:+.2f} | {bar if suffix == ' decided' else ''} |"


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
    for line in told(await ooms(few)):
        print(line)
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
