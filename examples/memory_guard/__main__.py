"""The service: a job on each line of standard input, so many at a time, and a line for all that happens to it."""

from __future__ import annotations

import argparse
import functools
import math
import os
import shlex
import sys

import anyio
from guard import Guard, shown

from creche import CrecheError, Limits, UnsupportedError


def size(text: str) -> int:
    """A size as the Spec takes it: 64M."""
    try:
        memory = Limits(memory=text).memory
    except CrecheError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if memory is None:
        raise argparse.ArgumentTypeError("give a size, such as 64M")
    return memory


async def one(number: int, line: str, options: argparse.Namespace, needed: dict[tuple[str, ...], int], slots: anyio.CapacityLimiter) -> bool:
    """One job, from its line to its end; whether that was a good one."""

    def say(text: str) -> None:
        print(f"{number}: {text}", flush=True)

    async with slots:
        try:
            guard = Guard(options.memory, options.ceiling, say, needed)
            outcome = await guard.run(shlex.split(line), options.timeout)
        except UnsupportedError:
            raise
        except (CrecheError, ValueError) as error:
            say(f"not run: {error}")
            return False
        for part in outcome.result.stdout.decode(errors="replace").splitlines():
            say(f"| {part.encode('unicode_escape').decode()}")
        say(f"{outcome.result.exit.explain()} ({shown(outcome.memory)}, run {outcome.runs})")
        return outcome.result.exit.ok


async def main(options: argparse.Namespace) -> bool:
    """Take jobs until the end of standard input, and wait for the last of them; whether all ended well."""
    slots = anyio.CapacityLimiter(options.jobs)
    needed: dict[tuple[str, ...], int] = {}
    number, well = 0, True

    async def job(number: int, line: str) -> None:
        nonlocal well
        if not await one(number, line, options, needed, slots):
            well = False

    async with anyio.create_task_group() as tasks:
        async for line in anyio.wrap_file(sys.stdin):
            if line.strip() and not line.startswith("#"):
                number += 1
                tasks.start_soon(job, number, line)
    return well


def serve(options: argparse.Namespace) -> int:
    """The exit status: 0 when all ended well, 1 when one did not, 125 when this machine can't do what was asked, 130 for Ctrl-C."""
    try:
        return 0 if anyio.run(functools.partial(main, options)) else 1
    except KeyboardInterrupt:
        return 130
    except ExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, UnsupportedError):
            raise
        print(f"memory_guard: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="memory_guard", description=__doc__)
    parser.add_argument("-m", "--memory", type=size, default=size("32M"), help="what a job gets at first")
    parser.add_argument("-c", "--ceiling", type=size, default=size("1G"), help="what it may get in the end")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("-t", "--timeout", type=float, default=None, help="seconds for each run")
    parsed = parser.parse_args()
    if parsed.memory > parsed.ceiling or parsed.jobs < 1 or not (parsed.timeout or 1) < math.inf:
        parser.error("--memory is more than --ceiling, or --jobs less than 1")
    sys.exit(serve(parsed))
