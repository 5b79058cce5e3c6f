#!/usr/bin/env python3
"""What a run of Python with its imports costs in a warm pool beside a plain ``python3 -c "import …"``: each in turn, so that the ratios hold.

    warm.py [--imports json,asyncio] [--python python3] [--runs 100] [--pause 0.2] [--quick]

A run is from the call to its Result; `--pause` seconds lie between two of them, in which the pool forks in the background.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
from collections.abc import Awaitable, Callable

from pool import in_turns, plain, table

from creche import Pool, PythonWarm, Spec, run

STANDARD = "asyncio,decimal,email.message,http.client,json,sqlite3,ssl,xml.etree.ElementTree"


def answer() -> int:
    """What is called."""
    return 42


async def measure(python: str, imports: list[str], runs: int, pause: float) -> dict[str, list[float]]:
    command = [python, "-c", f"import {', '.join(imports)}"]
    same = [shutil.which(python, path="/usr/local/bin:/usr/bin:/bin") or python, *command[1:]]  # the one that containers find

    async with Pool(Spec(), size=4) as cold, Pool(Spec(), size=4, warm=PythonWarm(python=python, imports=imports)) as warm:
        contenders: dict[str, Callable[[], Awaitable[object]]] = {
            "asyncio's subprocess": lambda: plain(same),
            "creche.run": lambda: run(command, check=True),
            "Pool": lambda: cold.run(command, check=True),
            "Pool(warm=…).run": lambda: warm.run(command, check=True),
            "Pool(warm=…).call": lambda: warm.call(answer),
        }
        return await in_turns(contenders, 3, runs, pause)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imports", default=STANDARD, help="modules, with commas between them")
    parser.add_argument("--python", default="python3")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds after each run, for the background")
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    given = parser.parse_args()
    times = asyncio.run(measure(given.python, given.imports.split(","), 3 if given.quick else given.runs, given.pause))
    rounds = len(times["asyncio's subprocess"])
    print(f"Linux {platform.release()}, uid {os.geteuid()}, {rounds} rounds of import {given.imports}, pause {given.pause:g} s\n")
    table(times)


if __name__ == "__main__":
    main()
