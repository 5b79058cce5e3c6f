"""One contender's process: an event loop that starts the static `true` when told to, and says what each start cost.

    worker.py LOOP FOLDER [BYTES]     LOOP: asyncio, uvloop or trio; BYTES are kept resident, as a large parent would

It reads one request a line, `KIND CONTENDER COUNT`, and answers each with one line of JSON. Kinds: `one` (COUNT starts
after each other: wall and own processor nanoseconds of each), `many` and `many16` (COUNT starts, 64 or 16 at a time: seconds), `pour` (COUNT
bytes of stdout: seconds), `idle` (COUNT containers that wait: bytes), `crowd` (COUNT containers that wait, made after each other:
the processor milliseconds and the wall milliseconds of one of the first tenth and of the last, and of all of them while they wait), `pauses` and `pauses64` (COUNT starts after each other,
or 64 at a time: the loop's pauses in ms).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import anyio

LOOP, FOLDER = sys.argv[1], sys.argv[2]
TRUE = f"{FOLDER}/true"
AT_ONCE, LIVE = 64, 16
ETC = (
    "alternatives",
    "group",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "nsswitch.conf",
    "passwd",
    "resolv.conf",
    "ssl",
)

# The view that creche's HostView gives, as bwrap is told of it; the rest of it are symlinks.
BWRAP = [
    "bwrap",
    "--unshare-all",
    "--ro-bind",
    "/usr",
    "/usr",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
]
for _name in ("bin", "lib", "lib64", "sbin"):
    BWRAP += ["--symlink", f"usr/{_name}", f"/{_name}"]
for _name in ETC:
    if os.path.exists(f"/etc/{_name}") and not os.path.islink(f"/etc/{_name}"):
        BWRAP += ["--ro-bind", f"/etc/{_name}", f"/etc/{_name}"]
BWRAP += ["--ro-bind", FOLDER, "/bench", "--remount-ro", "/"]


async def by_loop(command: list[str]) -> None:
    """The loop's own way to run a process with three pipes: started, waited for, its pipes closed."""
    if LOOP == "trio":
        import trio

        pipe = subprocess.PIPE
        process = await trio.lowlevel.open_process(command, stdin=pipe, stdout=pipe, stderr=pipe)
        code = await process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            await stream.aclose()
    else:
        import asyncio

        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        code = await process.wait()
        process._transport.close()
    if code:
        raise SystemExit(f"{command[0]} ended with {code}")


async def plain() -> None:
    await by_loop([TRUE])


async def bwrap() -> None:
    await by_loop([*BWRAP, "/bench/true"])


_bundle_number = 0


async def runc() -> None:
    global _bundle_number
    _bundle_number += 1
    name = f"creche-bench-{os.getpid()}-{_bundle_number}"
    await by_loop(["runc", "--root", f"{FOLDER}/runc", "run", "--bundle", f"{FOLDER}/bundle", name])


def spec(*command: str, **fields: Any) -> Any:
    from creche import Bind, Spec

    return Spec(list(command) or None, mounts=[Bind(FOLDER, "/bench", readonly=True)], **fields)


async def creche() -> None:
    from creche import Container

    async with Container(spec("/bench/true")) as box:
        done = await box.wait()
    if done.code != 0:
        raise SystemExit(f"creche: {done.explain()}")


async def creche_no_network() -> None:
    from creche import Container, Namespaces

    async with Container(spec("/bench/true", namespaces=Namespaces(network=False))) as box:
        done = await box.wait()
    if done.code != 0:
        raise SystemExit(f"creche: {done.explain()}")


_place: Any = None


async def creche_second() -> None:
    """One more command in a container that is already there."""
    global _place
    from creche import Container

    if _place is None:
        _place = Container(spec())
        await _place.__aenter__()
    async with _place.open(["/bench/true"], stdin="pipe", stdout="pipe", stderr="pipe") as process:
        if await process.wait() != 0:
            raise SystemExit(f"creche: {process.exit.explain()}")


_live: list[Any] = []


async def creche_live() -> None:
    """A command in the next of 16 containers that are there already; the first call makes them."""
    global _place
    if not _live:
        from contextlib import AsyncExitStack

        from creche import Container

        _place = _place or await AsyncExitStack().__aenter__()
        _live.extend([await _place.enter_async_context(Container(spec())) for _ in range(LIVE)])
    _live.append(_live.pop(0))
    async with _live[-1].open(["/bench/true"], stdin="pipe", stdout="pipe", stderr="pipe") as process:
        if await process.wait() != 0:
            raise SystemExit(f"creche: {process.exit.explain()}")


CONTENDERS: dict[str, Callable[[], Awaitable[None]]] = {
    "plain": plain,
    "bwrap": bwrap,
    "runc": runc,
    "creche": creche,
    "creche-no-network": creche_no_network,
    "creche-second": creche_second,
    "creche-live": creche_live,
}


async def one(contender: str, count: int) -> dict[str, list[int]]:
    run = CONTENDERS[contender]
    wall, own = [], []
    for _ in range(count):
        await anyio.sleep(0.001)  # what the last one left to the loop is not this one's cost
        begin, begin_own = time.perf_counter_ns(), time.thread_time_ns()
        await run()
        wall.append(time.perf_counter_ns() - begin)
        own.append(time.thread_time_ns() - begin_own)
    return {"wall": wall, "own": own}


async def many(contender: str, count: int, at_once: int = AT_ONCE) -> dict[str, float]:
    run = CONTENDERS[contender]
    left = count

    async def starter() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await run()

    begin = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(starter)
    return {"seconds": time.perf_counter() - begin}


async def many16(contender: str, count: int) -> dict[str, float]:
    return await many(contender, count, LIVE)


async def pour(contender: str, count: int) -> dict[str, float]:
    command = ["/usr/bin/head", "-c", str(count), "/dev/zero"]
    begin, got = time.perf_counter(), 0
    if contender == "creche":
        from creche import Container

        async with Container(spec(*command)) as box:
            async for chunk in box.stdout:
                got += len(chunk)
    elif LOOP == "trio":
        import trio

        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        async for chunk in process.stdout:
            got += len(chunk)
        await process.wait()
    else:
        import asyncio

        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        while chunk := await process.stdout.read(1 << 20):
            got += len(chunk)
        await process.wait()
    if got != count:
        raise SystemExit(f"{contender}: {got} bytes of {count}")
    return {"seconds": time.perf_counter() - begin}


def private(pid: int | str) -> int:
    """Bytes that are this process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


async def idle(contender: str, count: int) -> dict[str, float]:
    """What a waiting container costs its parent, and its init."""
    import gc
    from contextlib import AsyncExitStack

    from creche import Container

    async with AsyncExitStack() as warm:  # the first ones bring modules, threads and the allocator's arenas
        for _ in range(8):
            await warm.enter_async_context(Container(spec()))
    gc.collect()
    before = private("self")
    async with AsyncExitStack() as stack:
        boxes = [await stack.enter_async_context(Container(spec())) for _ in range(count)]
        await anyio.sleep(0.2)
        parent = (private("self") - before) / count
        inits = sorted(private(box.init_pid) for box in boxes)
    return {"parent": parent, "init": inits[len(inits) // 2]}


def processor() -> float:
    """Seconds of this process and of the dead that it has waited for; the inits are alive, and counted by themselves."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + used.ru_utime + used.ru_stime


def of_inits(boxes: list[Any]) -> float:
    """Seconds that their first processes have had a processor: sched-stats.rst, the first number."""
    return sum(int(Path(f"/proc/{box.init_pid}/schedstat").read_text().split()[0]) for box in boxes) / 1e9


async def crowd(contender: str, count: int) -> dict[str, float]:
    """Whether a container costs what the first one did where so many wait already, and what they use while they wait."""
    from contextlib import AsyncExitStack

    from creche import Container

    tenth, one = max(1, count // 10), spec()
    wall: list[float] = []
    used: list[float] = []
    before = private("self")
    async with AsyncExitStack() as stack:
        boxes = []
        for _ in range(count):
            begin, begin_used = time.perf_counter(), processor()
            boxes.append(await stack.enter_async_context(Container(one)))
            used.append(processor() - begin_used + of_inits(boxes[-1:]))
            wall.append(time.perf_counter() - begin)
        parent = (private("self") - before) / count
        inits_at_rest, at_rest = of_inits(boxes), processor()
        await anyio.sleep(5)
        idle_used, inits_used = processor() - at_rest, of_inits(boxes) - inits_at_rest
    first, last = slice(tenth // 10, tenth), slice(-tenth, None)
    return {
        "first": median(wall[first]) * 1000, "last": median(wall[last]) * 1000,
        "first_used": sum(used[first]) / len(used[first]) * 1000, "last_used": sum(used[last]) / len(used[last]) * 1000,
        "idle": idle_used * 1000, "idle_inits": inits_used * 1000, "parent": parent,
    }  # fmt: skip


async def pauses(contender: str, count: int, at_once: int = 1) -> dict[str, float]:
    """How long the loop did not come round, while so many were started: a task that wants to run every millisecond."""
    gaps: list[float] = []
    async with anyio.create_task_group() as group:

        async def heart() -> None:
            last = time.perf_counter()
            while True:
                await anyio.sleep(0.001)
                now = time.perf_counter()
                gaps.append((now - last - 0.001) * 1000)
                last = now

        group.start_soon(heart)
        await many(contender, count, at_once)
        group.cancel_scope.cancel()
    gaps.sort()
    return {"p50": gaps[len(gaps) // 2], "p99": gaps[len(gaps) * 99 // 100], "worst": gaps[-1]}


async def pauses64(contender: str, count: int) -> dict[str, float]:
    return await pauses(contender, count, AT_ONCE)


KINDS: dict[str, Callable[[str, int], Awaitable[Any]]] = {
    "one": one,
    "many": many,
    "many16": many16,
    "pour": pour,
    "idle": idle,
    "crowd": crowd,
    "pauses": pauses,
    "pauses64": pauses64,
}


async def main() -> None:
    for line in sys.stdin:
        kind, contender, count = line.split()
        print(json.dumps(await KINDS[kind](contender, int(count))), flush=True)
    if _place is not None:
        await _place.__aexit__(None, None, None)


if __name__ == "__main__":
    resident = bytearray(b"\1") * int(sys.argv[3]) if len(sys.argv) > 3 else None
    anyio.run(
        main,
        backend="trio" if LOOP == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if LOOP == "uvloop" else {},
    )
