"""Runs a folder of programs, so many at a time, each in a container of its own.

python examples/job_runner examples/programs -j 4 --timeout 5 --memory 100M
python examples/job_runner examples/programs --queue jobs.db
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
from finding import NothingToRun, find
from report import Report
from running import Bounds, run_all
from screen import Screen

from creche import CrecheError, FileError, Limits, SpecError
from creche.units import number, seconds, size

FAILED, USAGE, OURS = 1, 2, 125

EPILOG = """\
A PATH is a folder (its .py and .sh files and executables are run), one such program, or a text file with a command in
each line. Programs see the host's programs and libraries, their own folder (read-only, at /work), an empty /tmp, and
nothing else: no home, no network, no other processes.

Exit status: 0 when all ended well, 1 when one did not (0 with --exit-zero), 2 for wrong options, 125 when this
machine can't do what was asked (`creche doctor` says why), 128+N when signal N ended the runner. Whatever ends it,
nothing is left running; with --queue, what was not done is in the file, and the next run does it.
"""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for; exits with status 2 and a sentence where that makes no sense."""
    parser = argparse.ArgumentParser(
        prog="job_runner",
        description=__doc__.splitlines()[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a folder, a program, or a list of commands")
    parser.add_argument(
        "--queue",
        type=Path,
        metavar="FILE",
        help="keep the jobs in this file: started again, it does what is not done (without a PATH: nothing else)",
    )
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        default=len(os.sched_getaffinity(0)),
        metavar="N",
        help="how many at a time (default: one for each processor)",
    )
    parser.add_argument(
        "-t", "--timeout", default="60", metavar="SECONDS", help='for each: 5, "2m", or "none" (default: 60)'
    )
    parser.add_argument("-m", "--memory", metavar="SIZE", help='for each, as a limit of its cgroup: "64M"')
    parser.add_argument("--cpus", metavar="N", help="processors for each, such as 0.5")
    parser.add_argument("--pids", type=int, metavar="N", help="processes and threads for each")
    parser.add_argument(
        "--max-output",
        default="1M",
        metavar="SIZE",
        help='bytes that each may print before it is killed, or "none" (default: 1M)',
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show what they print")
    parser.add_argument(
        "--exit-zero", action="store_true", help="end with status 0 also where a program did not end well"
    )
    parser.add_argument(
        "--loop",
        choices=("asyncio", "trio", "uvloop"),
        default="asyncio",
        help="the event loop (default: asyncio)",
    )
    given = parser.parse_args(words)
    if given.jobs < 1:
        parser.error("--jobs: at least 1")
    if not given.paths and given.queue is None:
        parser.error("the following arguments are required: PATH (or --queue)")
    try:
        given.bounds = Bounds(
            Limits(memory=given.memory, cpus=given.cpus and number(given.cpus, "--cpus"), pids=given.pids),
            None if given.timeout == "none" else seconds(given.timeout, "--timeout"),
            None if given.max_output == "none" else size(given.max_output, "--max-output"),
        )
        given.programs = find(given.paths) if given.paths else []
    except (SpecError, NothingToRun, OSError) as error:
        parser.error(str(error))
    return given


async def main(given: argparse.Namespace) -> int:
    """Run them, and show how they ended, also when a signal says that it is enough."""
    screen = Screen()
    report = Report(screen, quiet=given.quiet)
    caught: list[int] = []

    async def until_told(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                caught.append(number)
                scope.cancel()  # every container is killed and reaped before this scope ends

    async with anyio.create_task_group() as watch:
        with anyio.CancelScope() as scope:
            watch.start_soon(until_told, scope)
            watch.start_soon(screen.run)
            await run_all(given.programs, given.jobs, given.bounds, report, given.queue)
        watch.cancel_scope.cancel()
    await report.table()
    if caught:
        return 128 + caught[0]
    return 0 if report.all_well or given.exit_zero else FAILED


def run(given: argparse.Namespace) -> int:
    """The whole program, on the loop that was asked for."""
    options: dict[str, Any] = {"use_uvloop": True} if given.loop == "uvloop" else {}
    try:
        return anyio.run(
            main, given, backend="trio" if given.loop == "trio" else "asyncio", backend_options=options
        )
    except BaseExceptionGroup as group:
        causes = list(_causes(group))
        unknown = [cause for cause in causes if not isinstance(cause, (CrecheError, BrokenPipeError))]
        if unknown:
            raise
    except BrokenPipeError as error:
        causes = [error]
    ours = [cause for cause in causes if isinstance(cause, CrecheError)]
    if not ours:  # a broken pipe, as `| head` makes one: nobody wants to know any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    print(f"job_runner: {ours[0]}", file=sys.stderr)
    if not isinstance(ours[0], FileError):
        print(
            "job_runner: `creche doctor` tells what this machine can do, and what would change it",
            file=sys.stderr,
        )
    return OURS


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What a group of exceptions is made of, groups in it taken apart."""
    for cause in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _causes(cause) if isinstance(cause, BaseExceptionGroup) else (cause,)


if __name__ == "__main__":
    sys.exit(run(arguments()))
