"""A supervisor to be killed: submits and runs the jobs of a file, and writes down what it did before it says so.

python victim.py FOLDER TOTAL ROUND LOOP
"""

from __future__ import annotations

import os
import random
import sys

import anyio

from creche.jobs import JobQueue, Retry
from creche.results import Exit, Reason, Result, Usage
from creche.supervisor import Backoff

folder, total, turn, loop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
journal = os.open(f"{folder}/journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(*words: object) -> None:
    """One line, whole: a short write with O_APPEND."""
    os.write(journal, (" ".join(map(str, words)) + "\n").encode())


async def runner(spec, *, input, timeout, max_output):
    name = spec.command[1]
    note("start", name)
    await anyio.sleep(random.random() * 0.004)
    note("end", name)
    return Result(Exit(0, None, Reason.EXITED, Usage()), name.encode() * 50)


async def main() -> None:
    retry = Retry(lost=10_000, backoff=Backoff(first=0))
    print("begin", flush=True)
    async with JobQueue(f"{folder}/jobs.db", workers=4, runner=runner, inline=200, retry=retry) as queue:
        note("round", turn)
        print("open", flush=True)
        for number in range(total):
            name = f"job{number}"
            await queue.submit(["run", name], once=name, key=str(number % 3), tag=name)
            note("kept", name)
        await queue.join()
        note("all", turn)
        print("all", flush=True)
        await anyio.sleep(0.05)


options = {"use_uvloop": loop == "uvloop"} if loop != "trio" else None
anyio.run(main, backend="trio" if loop == "trio" else "asyncio", backend_options=options)
