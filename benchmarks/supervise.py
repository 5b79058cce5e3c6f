"""Supervision and jobs in ratios: many ready against bare spawns, a death to the next exec, a durable queue to one in memory.

    python benchmarks/supervise.py [--children 300] [--loop asyncio|uvloop|trio]
    python benchmarks/supervise.py --deaths 600 [--children 300]     # memory and descriptors under random deaths, for so many seconds
    python benchmarks/supervise.py --reloads 50                      # a web application's workers replaced, under load

Each figure stands beside the floor that it is measured against in the same run, on the same machine.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import random
import resource
import signal
import socket
import statistics
import tempfile
import time

import anyio
from attrs import evolve

from creche import ChildSpec, Container, JobQueue, Spec, Supervisor
from creche.results import Exit, Reason, Result, Usage
from creche.supervisor import Backoff, ChildReady, ChildSpawned, Line

SPEC = Spec(["sleep", "1000"])
KEPT = 3  # lives that are told of each child, while memory is watched
ECHO = """
import select, signal, socket
listener = socket.socket(fileno=3)
listener.setblocking(False)
stopping = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(1))
print("up", flush=True)
while not stopping:
    if select.select([listener], [], [], 0.01)[0]:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            continue
        connection.setblocking(True)
        with connection:
            connection.sendall(connection.recv(1000))
"""


async def bare(count: int) -> float:
    """Seconds until so many containers run, started without a supervisor, 32 at a time as it does."""
    began = time.perf_counter()
    running, all_run, end = 0, anyio.Event(), anyio.Event()
    turns = anyio.Semaphore(32)

    async def one() -> None:
        nonlocal running
        async with contextlib.AsyncExitStack() as stack:
            async with turns:
                await stack.enter_async_context(Container(SPEC))
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
        print(
            f"idle: {(time.process_time() - used) / 2:.4%} of a processor, {len(os.listdir('/proc/self/fd'))} descriptors"
        )
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


async def deaths(count: int, seconds: float) -> None:
    """What a supervisor holds while random children of it die, each ten seconds."""

    def held() -> tuple[float, int]:
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return pages * resource.getpagesize() / 2**20, len(os.listdir("/proc/self/fd"))

    child = ChildSpec("w", SPEC, count=count, shutdown=0, backoff=Backoff(first=0.01, most=0.05))
    async with Supervisor([child], intensity=None, keep=KEPT) as sup:
        await sup.wait_ready()
        print(f"{count} ready: {held()[0]:.1f} MiB", flush=True)
        for _ in range(KEPT):  # until the records of the last lives are full: what counts is what comes after
            sup.restart(*sup.children)
            await sup.wait_ready()
        before = held()[0]
        killed, began, told = 0, time.monotonic(), 0.0
        while (now := time.monotonic() - began) < seconds:
            if now >= told:
                await sup.wait_ready()
                mib, fds = held()
                print(
                    f"{now:5.0f} s: {killed} deaths, {mib:.1f} MiB, {mib / before - 1:+.2%}, {fds} descriptors",
                    flush=True,
                )
                told = now + 10
            pid = sup[f"w.{random.randint(1, count)}"].pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            await anyio.sleep(0.02)


async def reloads(times: int) -> None:
    """Two workers on a socket of the supervisor's, replaced one after the other while four clients ask without a pause."""
    failed, answered = 0, 0

    async def load(address: tuple[str, int]) -> None:
        nonlocal failed, answered
        while True:
            try:
                async with await anyio.connect_tcp(*address) as stream:
                    await stream.send(b"hello")
                    answer = await stream.receive()
                failed += answer != b"hello"
                answered += 1
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
                failed += 1

    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        spec = Spec(["python3", "-u", "-c", ECHO, "0"])
        child = ChildSpec("web", spec, count=2, listen=["web"], readiness=Line("up"))
        async with Supervisor([child], sockets={"web": listener}) as sup:
            await sup.wait_ready()
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(load, listener.getsockname())
                for number in range(times):
                    command = ["python3", "-u", "-c", ECHO, str(number + 1)]
                    told = await sup.reload([evolve(child, spec=evolve(spec, command=command))])
                    assert told.changed == ("web.1", "web.2"), told
                tasks.cancel_scope.cancel()
    print(f"{times} rolling reloads under load: {answered} requests answered, {failed} failed")


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
    """The durable queue against the one in memory, in turns: the median of their ratios."""
    ratios, memory, durable = [], 0.0, 0.0
    for _ in range(5):
        memory = await throughput(None, 400)
        with tempfile.TemporaryDirectory() as folder:
            durable = await throughput(f"{folder}/jobs.db", 400)
        ratios.append(durable / memory)
    print(
        f"jobs of 10 ms: ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f});"
        f" last {durable:.0f}/s durable, {memory:.0f}/s in memory"
    )


async def main(given: argparse.Namespace) -> None:
    """What was asked for."""
    logging.getLogger("creche.supervisor").setLevel(logging.CRITICAL)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if given.deaths:
        await deaths(given.children, given.deaths)
    elif given.reloads:
        await reloads(given.reloads)
    else:
        await supervised(given.children)
        await queues()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--children", type=int, default=300)
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    parser.add_argument("--deaths", type=float, metavar="SECONDS")
    parser.add_argument("--reloads", type=int, metavar="TIMES")
    given = parser.parse_args()
    options = {"use_uvloop": given.loop == "uvloop"} if given.loop != "trio" else None
    anyio.run(main, given, backend="trio" if given.loop == "trio" else "asyncio", backend_options=options)
