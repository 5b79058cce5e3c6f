#!/usr/bin/env python3
"""What the command line costs: `creche run true` beside a Python program that runs `true` once, and `import creche`, in turns.

    cli.py [--runs N]

The base imports asyncio and click, as we must, and runs `true` by asyncio's own subprocess. Read the ratios. The second program is the floor of
ours: the same with anyio and attrs, in which the library is written, and nothing of ours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

BASE = """
import asyncio, click
async def main():
    process = await asyncio.create_subprocess_exec("true")
    return await process.wait()
raise SystemExit(asyncio.run(main()))
"""
FLOOR = BASE.replace("click", "click, attrs, anyio").replace("asyncio.run(main())", "anyio.run(main)")
PYTHON = [sys.executable, "-P"]
CRECHE = [*PYTHON, str(Path(sys.executable).with_name("creche"))]  # the script that pip has made
# Without its compiled files Python reads every module anew, and that is all there is to be measured.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
CONTENDERS = {
    "asyncio + click, true": [*PYTHON, "-c", BASE],
    "… + attrs + anyio": [*PYTHON, "-c", FLOOR],
    "creche run true": [*CRECHE, "run", "true"],
    "creche run -m 64M true": [*CRECHE, "run", "-m", "64M", "true"],
    "import asyncio": [*PYTHON, "-c", "import asyncio"],
    "import asyncio, creche": [*PYTHON, "-c", "import asyncio, creche"],
    "… and creche.run, Spec, Container": [*PYTHON, "-c", "import asyncio; from creche import run, Spec, Container"],
}


def once(command: list[str]) -> tuple[float, float]:
    """Seconds on the wall, and of processor with everything that was waited for."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    for name, command in CONTENDERS.items():
        try:
            once(command)  # the first one fills the caches
        except SystemExit as error:
            print(f"not measured: {error}")
            del times[name]
    for _ in range(runs):
        for name in times:
            times[name].append(once(CONTENDERS[name]))
    base = times["asyncio + click, true"]
    print(f"{'':36} {'wall ms':>8} {'ratio':>6} {'cpu ms':>8} {'ratio':>6}")
    for name, seen in times.items():
        wall, cpu = (median(one[index] for one in seen) for index in (0, 1))
        ratios = [median(a[index] / b[index] for a, b in zip(seen, base, strict=True)) for index in (0, 1)]
        print(f"{name:36} {wall * 1e3:8.1f} {ratios[0]:6.2f} {cpu * 1e3:8.1f} {ratios[1]:6.2f}")


if __name__ == "__main__":
    main()
