"""Supervision and jobs in ratios: many ready against bare spawns, a death to the next exec, a durable queue to one in memory.

    python benchmarks/supervise.py [--children 300] [--loop asyncio|trio]

Each figure stands beside the floor that it is measured against in the same run, on the same machine.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import signal
import statistics
import tempfile
import time
from functools import partial

import anyio

from creche import ChildSpec, Container, JobQueue, Spec, Supervisor
from creche.results import Exit, Reason, Result, Usage
from creche.supervisor import ChildReady, ChildSpawned

SPEC = Spec(["sleep", "1000"])


async def bare(count: int) -> float:
    """Seconds until so many containers run, started together without a supervisor."""
    began = time.perf_counter()
    running, all_run, end = 0, anyio.Event(), anyio.Event()

    async def one() -> None:
        nonlocal running
        async with Container(SPEC):
            running += 1
            if running == count:
                all_run.set()
            await end.wait()

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
        await all_run.wait()
        took = time.perf_counter() - began
        end.set()
    return took


async def supervised(count: int) -> None:
    """Ready together, idle, and one replaced after another."""
    floor = await bare(count)
    began = time.perf_counter()
    async with Supervisor([ChildSpec("w", SPEC, count=count, shutdown=0)], intensity=None) as sup:
        await sup.wait_ready()
        took = time.perf_counter() - began
        print(f"{count} ready: {took:.2f} s, bare {floor:.2f} s, ratio {took / floor:.2f}")
        used = time.process_time()
        await anyio.sleep(2)
        print(f"idle: {(time.process_time() - used) / 2:.4%} of a processor")
        print(
            f"death to exec: {await replaced(sup, count):.1f} ms, one bare spawn {await spawned():.1f} ms (medians)"
        )


async def replaced(sup: Supervisor, count: int) -> float:
    """Milliseconds from a worker's death to its successor's exec, median of 30 different ones."""
    times = []
    for number in random.sample(range(1, count + 1), min(30, count)):
        name = f"w.{number}"
        with sup.events() as events:
            pid = sup[name].pid
            assert pid is not None
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            async for event in events:
                if isinstance(event, ChildSpawned):
                    times.append(time.perf_counter() - began)
                elif isinstance(event, ChildReady):
                    break
    return statistics.median(times) * 1e3


async def spawned() -> float:
    """Milliseconds of one spawn, median of 30."""
    times = []
    for _ in range(30):
        began = time.perf_counter()
        async with Container(SPEC):
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


async def _ten_ms(
    spec: Spec, *, input: bytes | None, timeout: float | None, max_output: int | None
) -> Result:
    await anyio.sleep(0.01)
    return Result(Exit(0, None, Reason.EXITED, Usage()), b"x")


async def throughput(path: str | None, jobs: int) -> float:
    """Jobs of 10 ms a second, two at a time, from the first submission to the last result."""
    async with JobQueue(path, workers=2, runner=_ten_ms) as queue:
        began = time.perf_counter()

        async def submit() -> None:
            for _ in range(jobs // 4):
                await queue.submit(["x"])

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(submit)
        await queue.join()
        return jobs / (time.perf_counter() - began)


async def queues() -> None:
    """The durable queue against the one in memory, the better of three runs each."""
    memory = max([await throughput(None, 400) for _ in range(3)])
    durable = 0.0
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            durable = max(durable, await throughput(f"{folder}/jobs.db", 400))
    print(f"jobs of 10 ms: {durable:.0f}/s durable, {memory:.0f}/s in memory, ratio {durable / memory:.2f}")


async def main(children: int) -> None:
    """All of it."""
    logging.getLogger("creche.supervisor").setLevel(logging.CRITICAL)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    await supervised(children)
    await queues()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--children", type=int, default=300)
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio")
    given = parser.parse_args()
    anyio.run(partial(main, given.children), backend=given.loop)
