#!/usr/bin/env python3
"""What the event loop does for one command, counted in Python's bytecodes: the same on a busy machine as on a quiet one.

    counted.py [--quick]

Beside asyncio's own subprocess. Bytecodes are no microseconds (a system call is none at all), but where two take the same calls
of the kernel, who has fewer of them has less to do.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from collections.abc import Awaitable, Callable
from statistics import median
from types import FrameType
from typing import Any

from creche import Container, Spec, run

TRUE = ["/bin/true"]
LATER = ["/bin/sleep", "0.01"]  # outlives its start
PIPE, NULL = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL


class Counter:
    """Counts the bytecodes and the calls of Python functions, in this thread."""

    def __init__(self) -> None:
        self.bytecodes = self.calls = 0

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "call":
            self.calls += 1
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self.bytecodes += 1
        return self.trace

    def start(self) -> None:
        sys.settrace(self.trace)
        frame: FrameType | None = sys._getframe()
        while frame is not None:  # those that run already are asked to count as well
            frame.f_trace_opcodes, frame.f_trace_lines, frame.f_trace = True, False, self.trace
            frame = frame.f_back


async def waited() -> None:
    process = await asyncio.create_subprocess_exec(*TRUE, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    await process.wait()
    process._transport.close()  # type: ignore[attr-defined]


async def communicated(command: list[str] = TRUE) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=NULL, stdout=PIPE, stderr=PIPE)
    await process.communicate()


async def measure(rounds: int) -> dict[str, tuple[float, float]]:
    found = {}
    async with Container(Spec()) as box:

        async def opened() -> None:
            async with box.open(TRUE) as process:
                await process.wait()

        contenders: dict[str, Callable[[], Awaitable[object]]] = {
            "asyncio, three pipes and wait()": waited,
            "asyncio, communicate()": communicated,
            "box.open() and wait()": opened,
            "box.run()": lambda: box.run(TRUE),
            "box.run(timeout=5)": lambda: box.run(TRUE, timeout=5),
            "asyncio, communicate(), a command of 10 ms": lambda: communicated(LATER),
            "box.run() of it": lambda: box.run(LATER),
            "creche.run(), cold": lambda: run(TRUE),
            "box.reset()": box.reset,
        }
        for name, start in contenders.items():
            for _ in range(5):
                await start()
            counts = []
            for _ in range(rounds):
                counter = Counter()
                counter.start()
                await start()
                sys.settrace(None)
                counts.append((counter.bytecodes, counter.calls))
            found[name] = median(item[0] for item in counts), median(item[1] for item in counts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    rounds = 3 if parser.parse_args().quick else 15
    found = asyncio.run(measure(rounds))
    print(f"Python {platform.python_version()}, medians of {rounds}\n\n| for one command | bytecodes | calls of Python functions |\n|---|---:|---:|")
    for name, (bytecodes, calls) in found.items():
        print(f"| {name} | {bytecodes:.0f} | {calls:.0f} |")


if __name__ == "__main__":
    main()
