"""What an answer costs: a refused call without a listener, with reports, and with a handler on the loop; printed as a table."""

from __future__ import annotations

import argparse

import anyio

from creche import Container, SeccompRules, Security, Spec

#: Makes getppid (nothing else does here) so many times and prints microseconds for each, the fastest of five rounds.
GUEST = """
import os, sys, time
count, rounds = int(sys.argv[1]), []
for _ in range(5):
    began = time.perf_counter()
    for _ in range(count):
        try:
            os.getppid()
        except OSError:
            pass
    rounds.append((time.perf_counter() - began) / count * 1e6)
print(min(rounds))
"""
WAYS = {
    "allowed": Security(),
    "allowed, the filter reports": Security(seccomp_report=True),
    "refused": Security(seccomp=SeccompRules(deny=["getppid"])),
    "refused, the filter reports": Security(seccomp=SeccompRules(deny=["getppid"]), seccomp_report=True),
    "answered by the loop": Security(seccomp=SeccompRules(notify=["getppid"])),
}


async def measured(security: Security, count: int) -> float:
    """Microseconds for one call."""
    async with Container(Spec(["python3", "-I", "-S", "-c", GUEST, str(count)], security=security)) as box:
        if security.notifies:
            async for call in box.syscalls():
                call.complete(1)
        await box
        assert box.stdout is not None
        return float(await box.stdout.receive())


async def main(count: int) -> None:
    """Each way once in turn, three times; the best of each."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(3):
        for name, security in WAYS.items():
            best[name] = min(best[name], await measured(security, count))
    print("| a call that is | µs |\n|---|---|")
    for name, value in best.items():
        print(f"| {name} | {value:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    anyio.run(main, 50 if options.quick else 3000, backend=options.loop)
