#!/usr/bin/env python3
"""What a reset costs beside a new container, a step in a history of 1, 10 and 60 layers, and branches; in turns, medians in milliseconds.

    state.py [--quick] [--runs N]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import anyio

from creche import Bind, Container, Namespaces, Overlay, Spec

LAYERS = (1, 10, 60)


def image(folder: Path) -> Path:
    for name in ("usr", "etc", "proc", "dev", "tmp"):
        (folder / name).mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            (folder / name).symlink_to(os.readlink(f"/{name}"))
    return folder


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) * 1e3


async def fresh(spec: Spec) -> None:
    async with Container(spec):
        pass


async def attempts(box: Container) -> None:
    async with box.branches(3) as branches:
        await branches[1].run(["true"])
        await branches.keep(1)


async def measure(runs: int, folder: Path) -> dict[str, list[float]]:
    overlay = Overlay([image(folder)])
    usr = Bind("/usr", "/usr", readonly=True)
    specs = {
        "HostView": Spec(),
        "HostView without a network namespace": Spec(namespaces=Namespaces(network=False)),
        "Overlay": Spec(rootfs=overlay, mounts=[usr]),
    }
    found: dict[str, list[float]] = defaultdict(list)
    for name, spec in specs.items():
        async with Container(spec) as box:
            for _ in range(runs):
                await box.run(["sh", "-c", "echo > /tmp/file"])
                found[f"{name}: reset"].append(await timed(box.reset))
                found[f"{name}: new, made and ended"].append(await timed(lambda spec=spec: fresh(spec)))  # type: ignore[misc]
    async with Container(Spec(rootfs=Overlay(overlay.lower, history=True), mounts=[usr])) as box:
        for number in range(max(LAYERS)):
            await box.run(["sh", "-c", f"echo > /tmp/{number}"])
        for _ in range(runs):
            for n in LAYERS:
                found[f"history: at({n})"].append(await timed(lambda n=n: box.at(n)))  # type: ignore[misc]
            for n in LAYERS:
                await box.at(n)
                found[f"history: undo at {n}"].append(await timed(box.undo))
            for n in LAYERS:
                await box.at(n)
                found[f"history: diff({n})"].append(await timed(lambda n=n: box.diff(n)))  # type: ignore[misc]
        for n in reversed(LAYERS):  # the layers behind it are forgotten then
            await box.at(n)
            for _ in range(runs):
                found[f"branches(3) of {n} layers, one kept"].append(await timed(lambda: attempts(box)))
                await box.undo()
                await box.at(n)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        found = anyio.run(measure, 3 if arguments.quick else arguments.runs, Path(folder))
    print("| what | median ms | least |\n|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {median(values):.2f} | {min(values):.2f} |")


if __name__ == "__main__":
    main()
