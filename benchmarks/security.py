#!/usr/bin/env python3
"""What the default security costs a cold start: the same Spec with and without each part of it, in turns of ten.

    security.py [TURNS]

Processor time (ours and our dead children's, which the init and its commands are) says more than wall time on a machine that is
busy with something else. Page faults and sleeps are counted beside it.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from statistics import median

import anyio

from creche import Container, Namespaces, Security, Spec

AT_A_TIME = 10
COMMAND = ["/bin/true"]
KINDS = {
    "default security": Spec(COMMAND),
    "without its filter": Spec(COMMAND, security=Security(seccomp=None)),
    "without masked paths": Spec(COMMAND, security=Security(masked_paths=[])),
    "without read-only paths": Spec(COMMAND, security=Security(readonly_paths=[])),
    "without all three": Spec(COMMAND, security=Security(seccomp=None, masked_paths=[], readonly_paths=[])),
    "default, no network namespace": Spec(COMMAND, namespaces=Namespaces(network=False)),
}


def used() -> tuple[float, int, int]:
    """Seconds of processor, page faults and sleeps, of this process and the dead among its children."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in both), sum(u.ru_minflt for u in both), sum(u.ru_nvcsw for u in both)


async def start(spec: Spec) -> None:
    async with Container(spec) as box:
        if (await box.wait()).code != 0:
            raise SystemExit(f"{spec.command} failed")


async def main(turns: int) -> None:
    rows: defaultdict[str, list[tuple[float, ...]]] = defaultdict(list)
    for spec in KINDS.values():  # imports, threads, caches
        await start(spec)
    for _ in range(turns):
        for name, spec in KINDS.items():
            before, begin = used(), time.perf_counter()
            for _ in range(AT_A_TIME):
                await start(spec)
            wall = time.perf_counter() - begin
            rows[name].append((*(b - a for a, b in zip(before, used(), strict=True)), wall))
    bare = median(row[0] for row in rows["without all three"])
    print("| a cold start | processor ms | against none | page faults | sleeps | wall ms |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, values in rows.items():
        cpu, faults, sleeps, wall = (median(column) for column in zip(*values, strict=True))
        print(
            f"| {name} | {cpu / AT_A_TIME * 1000:.2f} | {cpu / bare:.2f} x | {faults / AT_A_TIME:.0f} "
            f"| {sleeps / AT_A_TIME:.0f} | {wall / AT_A_TIME * 1000:.2f} |"
        )
    print(f"\n{turns} turns of {AT_A_TIME}. Bar: default security at most 1.25 x of the start without it.")


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 30)
