#!/usr/bin/env python3
"""How soon everything is dead after `kill -9` of the supervisor: from the signal to the end of the last container's init.

    killed.py [--runs 15] [--containers 1 10 50]

Each container has a daemon that left its session. With its init, all in a PID namespace is dead: pid_namespaces(7).
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import time
from statistics import median

SUPERVISOR = """
import anyio, sys
from creche import Container, Spec

async def main(count):
    boxes = []

    async def one():
        async with Container(Spec(["sh", "-c", "(setsid sleep 1000 &); exec sleep 1000"])) as box:
            boxes.append(box)
            await box

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
        while len(boxes) < count:
            await anyio.sleep(0.02)
        await anyio.sleep(0.2)
        print(*(box.init_pid for box in boxes), flush=True)

anyio.run(main, int(sys.argv[1]))
"""


def once(count: int) -> float:
    """Milliseconds."""
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(count)], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout
        pidfds = [os.pidfd_open(int(pid)) for pid in supervisor.stdout.readline().split()]
        poll, left = select.poll(), len(pidfds)
        for pidfd in pidfds:
            poll.register(pidfd, select.POLLIN)
        began = time.perf_counter()
        supervisor.kill()
        while left:
            for pidfd, _ in poll.poll():
                poll.unregister(pidfd)
                left -= 1
        took = (time.perf_counter() - began) * 1e3
    for pidfd in pidfds:
        os.close(pidfd)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--containers", type=int, nargs="+", default=[1, 10, 50])
    options = parser.parse_args()
    print("| containers | median ms | the longest |\n|---:|---:|---:|")
    for count in options.containers:
        times = [once(count) for _ in range(options.runs)]
        print(f"| {count} | {median(times):.1f} | {max(times):.1f} |")


if __name__ == "__main__":
    main()
