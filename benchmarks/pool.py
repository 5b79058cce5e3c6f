#!/usr/bin/env python3
"""What a run in a pool costs beside asyncio's plain subprocess: each in turn, so that the ratios hold on a busy machine.

    pool.py [--runs 300] [--pause 0.0] [--quick]

A run is from the call to its Result, with its output. `--pause` seconds lie between two rounds, in which the pool makes
containers anew in the background; at 0 it competes with what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median

from creche import Container, Pool, Spec, run

COMMAND = ["/bin/true"]


async def plain(command: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    await process.communicate()
    assert process.returncode == 0


async def in_turns(contenders: Mapping[str, Callable[[], Awaitable[object]]], warm_up: int, runs: int, pause: float) -> dict[str, list[float]]:
    """Milliseconds of each, one after the other in every round."""
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(-warm_up, runs):
        for name, start in contenders.items():
            began = time.perf_counter()
            await start()
            if number >= 0:
                times[name].append((time.perf_counter() - began) * 1e3)
            if pause:
                await asyncio.sleep(pause)
    return times


def table(times: Mapping[str, list[float]]) -> None:
    """Each beside the first."""
    base = next(iter(times.values()))
    print("| what | median ms | ratio of medians |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {median(values):.2f} | {median(values) / median(base):.2f} |")


async def measure(runs: int, pause: float) -> dict[str, list[float]]:
    async with (
        Pool(Spec(), size=8) as never,
        Pool(Spec(), size=8, reuse="reset") as reset,
        Container(Spec()) as live,
    ):
        contenders: dict[str, Callable[[], Awaitable[object]]] = {
            "asyncio's subprocess": lambda: plain(COMMAND),
            'Pool(reuse="never")': lambda: never.run(COMMAND, check=True),
            'Pool(reuse="reset")': lambda: reset.run(COMMAND, check=True),
            "a live container": lambda: live.run(COMMAND, check=True),
            "creche.run, cold": lambda: run(COMMAND, check=True),
        }
        return await in_turns(contenders, 10, runs, pause)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each run, for the background")
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    given = parser.parse_args()
    times = asyncio.run(measure(10 if given.quick else given.runs, given.pause))
    rounds = len(times["asyncio's subprocess"])
    print(f"Linux {platform.release()}, Python {platform.python_version()}, uid {os.geteuid()}, {rounds} rounds, pause {given.pause:g} s\n")
    table(times)


if __name__ == "__main__":
    main()
