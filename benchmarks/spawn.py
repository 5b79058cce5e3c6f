#!/usr/bin/env python3
"""Everything that is said of creche's speed and memory, measured in one interleaved run and printed as a table.

    spawn.py [--quick] [--runs N] [--out FOLDER]

The contenders take turns, one start each, so that a machine which is busy for a while is busy for all of them. Read the
ratios: another machine, or another day on this one, has other milliseconds. Writes `spawn.md` and `spawn.svg` to FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import picture

HERE = Path(__file__).resolve().parent
GIB = 1 << 30
STATIC = ["-static", "-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-stack-protector", "-s"]
STATIC += ["-fno-asynchronous-unwind-tables", "-Wl,--build-id=none,-z,noexecstack,-z,noseparate-code"]


def build(folder: Path) -> None:
    compiler = os.environ.get("CC", "cc")
    for name in ("true", "floor_init"):
        subprocess.run([compiler, "-Os", *STATIC, "-o", folder / name, HERE / f"{name}.c"], check=True)
    subprocess.run([compiler, "-O2", "-o", folder / "floor", HERE / "floor.c"], check=True)


def bundle(folder: Path) -> None:
    """What runc wants: its own default configuration with our program, all namespaces and a rootfs of one file."""
    (folder / "bundle" / "rootfs" / "bench").mkdir(parents=True)
    shutil.copy(folder / "true", folder / "bundle" / "rootfs" / "bench" / "true")
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    subprocess.run(["runc", "spec", *rootless], cwd=folder / "bundle", check=True)
    path = folder / "bundle" / "config.json"
    config = json.loads(path.read_text())
    config["process"]["args"], config["process"]["terminal"] = ["/bench/true"], False
    config["process"].pop("rlimits", None)
    path.write_text(json.dumps(config))


class Server:
    """A process that answers each line with a line."""

    def __init__(self, command: list[Any]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> Any:
        self.begin(line)
        return self.answer()

    def begin(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Bench:
    """The servers of one run, the numbers they gave, and what could not be measured."""

    def __init__(self, folder: Path, stack: ExitStack, loops: list[str]) -> None:
        self.folder, self.loops = folder, loops
        self.notes: list[str] = []
        self.wall: defaultdict[str, list[float]] = defaultdict(list)  # milliseconds
        self.own: defaultdict[str, list[float]] = defaultdict(list)
        self._stack = stack
        self._servers: dict[str, Server] = {}

    def server(self, name: str) -> Server:
        """`floor`, `asyncio`, `uvloop` or `trio`; with `+1GiB` behind it, from a parent that large, with `#…` a fresh one."""
        if name not in self._servers:
            kind, _, large = name.partition("#")[0].partition("+")
            size = [str(GIB)] if large else []
            if kind == "floor":
                command = [self.folder / "floor", self.folder, *size]
            else:
                command = [sys.executable, HERE / "worker.py", kind, self.folder, *size]
            self._servers[name] = Server(command)
            self._stack.callback(self._servers[name].close)
        return self._servers[name]

    def turn(self, label: str) -> None:
        """One start by the contender that the label names: WHO/WHAT."""
        who, what = label.split("/")
        if who.startswith("floor"):
            self.wall[label].append(self.server(who).ask(f"{what} 1") / 1e6)
        else:
            answer = self.server(who).ask(f"one {what} 1")
            self.wall[label] += [ns / 1e6 for ns in answer["wall"]]
            self.own[label] += [ns / 1e6 for ns in answer["own"]]

    def drop(self) -> None:
        """Forgets the warm-up."""
        self.wall.clear()
        self.own.clear()


def labels(bench: Bench, creche: bool, runc: bool) -> list[str]:
    found = [
        "floor/exec",
        "floor/nonet",
        "floor/all",
        "floor+1GiB/all",
        "asyncio/plain",
        "uvloop/plain",
        "trio/plain",
    ]
    found += ["asyncio/bwrap"] if shutil.which("bwrap") else []
    found += ["asyncio/runc"] if runc else []
    if creche:
        found += [f"{loop}/creche" for loop in bench.loops]
        found += [
            "asyncio/creche-no-network",
            "asyncio/creche-second",
            "asyncio+1GiB/plain",
            "asyncio+1GiB/creche",
        ]
    return found


NAMES = {
    "floor/exec": "C: vfork and exec, no namespaces",
    "floor/nonet": "C floor without a network namespace",
    "floor/all": "C floor: clone3, mounts, init, command",
    "floor+1GiB/all": "C floor, parent of 1 GiB",
    "asyncio/plain": "asyncio subprocess, three pipes",
    "uvloop/plain": "uvloop subprocess, three pipes",
    "trio/plain": "trio subprocess, three pipes",
    "asyncio/bwrap": "bwrap --unshare-all, through asyncio",
    "asyncio/runc": "runc run, through asyncio",
    "asyncio/creche": "creche on asyncio",
    "uvloop/creche": "creche on uvloop",
    "trio/creche": "creche on trio",
    "asyncio/creche-no-network": "creche, no network namespace",
    "asyncio/creche-second": "creche, a second command in a container",
    "asyncio+1GiB/plain": "asyncio subprocess, parent of 1 GiB",
    "asyncio+1GiB/creche": "creche on asyncio, parent of 1 GiB",
}


def starts(bench: Bench, names: list[str], runs: int) -> None:
    for name in names:  # imports, threads, caches
        bench.turn(name)
        bench.turn(name)
    bench.drop()
    order = random.Random(1)  # what one leaves to the kernel (runc most of all) is not always the same one's to wait for
    for number in range(runs):
        for name in order.sample(names, len(names)):
            bench.turn(name)
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {runs} turns", end="", file=sys.stderr, flush=True)


def start_table(bench: Bench, names: list[str]) -> Iterator[str]:
    floor, plain = median(bench.wall["floor/all"]), median(bench.wall["asyncio/plain"])
    yield "| from start to reaped | median ms | 10 % to 90 % | x C floor | x asyncio | loop's own ms |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name in names:
        values = bench.wall[name]
        middle = median(values)
        tenths = quantiles(values, n=10) if len(values) > 1 else [middle] * 9
        own = f"{median(bench.own[name]):.2f}" if name in bench.own else ""
        yield (
            f"| {NAMES[name]} | {middle:.2f} | {tenths[0]:.2f} to {tenths[-1]:.2f} | {middle / floor:.2f} "
            f"| {middle / plain:.2f} | {own} |"
        )


def ratio_table(bench: Bench) -> Iterator[str]:
    """The promises, each with what came out."""

    def middle(name: str) -> float:
        return median(bench.wall[name])

    yield "| promise | measured | bar |"
    yield "|---|---:|---:|"
    if "asyncio/bwrap" in bench.wall:
        yield f"| quicker than bwrap, both through asyncio | {middle('asyncio/bwrap') / middle('asyncio/creche'):.2f} x | at least 4 |"
    yield f"| against asyncio's plain subprocess | {middle('asyncio/creche') / middle('asyncio/plain'):.2f} x | at most 2.2 |"
    yield f"| the same without a network namespace | {middle('asyncio/creche-no-network') / middle('asyncio/plain'):.2f} x | at most 1.6 |"
    yield f"| against the C floor | {middle('asyncio/creche') / middle('floor/all'):.2f} x | at most 1.5 |"
    if "asyncio/runc" in bench.wall:
        yield f"| quicker than runc, both through asyncio | {middle('asyncio/runc') / middle('asyncio/creche'):.1f} x | at least 20 |"
    yield (
        f"| from a parent of 1 GiB against a small one | {middle('asyncio+1GiB/creche') / middle('asyncio/creche'):.2f} x "
        "| at most 1.15 |"
    )


def throughput(bench: Bench, count: int, creche: bool) -> Iterator[str]:
    contenders = ["asyncio/plain"] + (["asyncio/bwrap"] if shutil.which("bwrap") else [])
    contenders += [f"{loop}/creche" for loop in bench.loops] if creche else []
    floors = [bench.server(f"floor#{number}") for number in range(len(os.sched_getaffinity(0)))]
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(3):
        begin = time.perf_counter()
        for floor in floors:
            floor.begin(f"all {count // len(floors)}")
        for floor in floors:
            floor.answer()
        seconds["floor/all"].append(time.perf_counter() - begin)
        for name in contenders:
            who, what = name.split("/")
            seconds[name].append(bench.server(who).ask(f"many {what} {count}")["seconds"])
    rate = {name: count / median(values) for name, values in seconds.items()}
    yield f"| 64 at once (of the floor one for each processor), {count} in all | a second | x bwrap | x C floor |"
    yield "|---|---:|---:|---:|"
    for name in ("floor/all", *contenders):
        against = f"{rate[name] / rate['asyncio/bwrap']:.2f}" if "asyncio/bwrap" in rate else ""
        yield f"| {NAMES[name]} | {rate[name]:.0f} | {against} | {rate[name] / rate['floor/all']:.2f} |"
    yield "| bar | | 3.5 | 0.65 |"


def live(bench: Bench, count: int) -> Iterator[str]:
    """Commands in 16 containers that are there, 16 at a time, beside plain subprocesses; each in a process of its own."""
    contenders = {"asyncio subprocess, three pipes": ("asyncio", "plain"), **{f"16 live containers on {loop}": (f"{loop}#live", "creche-live") for loop in bench.loops}}
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for who, what in contenders.values():
        bench.server(who).ask(f"one {what} 1")
    for _ in range(9):
        for name, (who, what) in contenders.items():
            rates[name].append(count / bench.server(who).ask(f"many16 {what} {count}")["seconds"])
    base = next(iter(rates.values()))
    yield f"| {count} commands, 16 at a time | a second | x asyncio |"
    yield "|---|---:|---:|"
    for name, values in rates.items():
        yield f"| {name} | {median(values):.0f} | {median(mine / plain for mine, plain in zip(values, base, strict=True)):.2f} |"
    yield "| bar | | 1.3 |"


def stdout(bench: Bench, size: int, creche: bool) -> Iterator[str]:
    contenders = [f"{loop}/plain" for loop in bench.loops] + (
        [f"{loop}/creche" for loop in bench.loops] if creche else []
    )
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(3):
        for name in contenders:
            who, what = name.split("/")
            seconds[name].append(bench.server(who).ask(f"pour {what} {size}")["seconds"])
    speed = {name: size / median(values) / 1e6 for name, values in seconds.items()}
    yield f"| {size >> 20} MiB of stdout | MB a second | x asyncio |"
    yield "|---|---:|---:|"
    for name in contenders:
        yield f"| {NAMES[name].removesuffix(', three pipes')} | {speed[name]:.0f} | {speed[name] / speed['asyncio/plain']:.2f} |"


def memory(bench: Bench, count: int) -> Iterator[str]:
    yield f"| an idle container, of {count} | parent KB | init KB |"
    yield "|---|---:|---:|"
    for loop in bench.loops:
        answer = bench.server(loop + "#idle").ask(
            f"idle creche {count}"
        )  # no heap with holes from earlier measurements
        yield f"| {NAMES[loop + '/creche']} | {answer['parent'] / 1024:.1f} | {answer['init'] / 1024:.0f} |"
    yield "| bar | 40 | 300 |"


def crowd(bench: Bench, count: int) -> Iterator[str]:
    """Many that wait: whether the last costs what the first did, and what all of them use while nothing happens."""
    answer = bench.server("asyncio#crowd").ask(f"crowd creche {count}")
    yield f"| {count} idle containers, made after each other | the first tenth | the last tenth | ratio |"
    yield "|---|---:|---:|---:|"
    for words, name in (("median wall ms of a start", ""), ("processor ms of a start", "_used")):
        first, last = answer["first" + name], answer["last" + name]
        yield f"| {words} | {first:.2f} | {last:.2f} | {last / first:.2f} |"
    values = [ns / 1e6 for ns in bench.server("floor").ask(f"crowd {count}")]
    for words, (first, last) in (("wall", values[:2]), ("processor", values[2:])):
        yield f"| {words} ms of the C floor's, from clone to exec | {first:.2f} | {last:.2f} | {last / first:.2f} |"
    yield "| bar | | | 1.2 |"
    yield ""
    yield f"In 5 seconds in which nothing happened the parent used {answer['idle']:.0f} ms of a processor and all their inits {answer['idle_inits']:.1f} ms; "
    yield f"each container costs the parent {answer['parent'] / 1024:.1f} KB (bar: 40)."


def pauses(bench: Bench, count: int) -> Iterator[str]:
    yield f"| the loop's pauses in {count} starts | median ms | p99 ms | worst ms |"
    yield "|---|---:|---:|---:|"
    for kind, words in (("pauses", "after each other"), ("pauses64", "64 at once")):
        for loop in bench.loops:
            answer = bench.server(loop).ask(f"{kind} creche {count}")
            yield f"| {NAMES[loop + '/creche']}, {words} | {answer['p50']:.2f} | {answer['p99']:.2f} | {answer['worst']:.2f} |"
    yield "| bar | | 10 | |"


def draw(bench: Bench, names: list[str], runs: int) -> str:
    rows = []
    for name in names:
        kind = "creche" if "creche" in name else "floor" if name.startswith("floor") else "other"
        rows.append((NAMES[name], median(bench.wall[name]), kind))
    rows.sort(key=lambda row: row[1])
    return picture.bars(
        "A static program, from start to reaped",
        f"median of {runs} interleaved runs; less is better",
        rows,
        "ms",
    )


@contextmanager
def programs() -> Iterator[Path]:
    """A folder with what the contenders run, which an ordinary user's containers can reach."""
    with tempfile.TemporaryDirectory(prefix="creche-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        build(folder)
        yield folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few runs: to see that it works, not to quote")
    parser.add_argument("--runs", type=int, help="turns of each contender (default 200; 15 with --quick)")
    parser.add_argument("--out", type=Path, default=HERE / "build", help="folder for spawn.md and spawn.svg")
    options = parser.parse_args()
    runs = options.runs or (15 if options.quick else 200)
    notes = []
    try:
        import creche.container

        creche = True
    except ImportError as error:
        creche = False
        notes.append(f"creche is not measured: {error}")
    with programs() as folder, ExitStack() as stack:
        bench = Bench(folder, stack, ["asyncio", "uvloop", "trio"])
        runc = False
        if shutil.which("runc") and os.geteuid() == 0:
            bundle(folder)
            tried = subprocess.run(
                [
                    "runc",
                    "--root",
                    folder / "runc",
                    "run",
                    "--bundle",
                    folder / "bundle",
                    f"creche-bench-{os.getpid()}",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            runc = tried.returncode == 0
            if not runc:
                notes.append(f"runc is not measured: {tried.stderr.strip()[-300:]}")
        else:
            notes.append("runc is not measured: it is not here, or this is no root")
        names = labels(bench, creche, runc)
        starts(bench, names, runs)
        text = [*start_table(bench, names), ""]
        if creche:
            text += [*ratio_table(bench), ""]
        text += [*throughput(bench, 128 if options.quick else 1024, creche), ""]
        text += [*live(bench, 64 if options.quick else 256), ""] if creche else []
        text += [*stdout(bench, (64 << 20) if options.quick else GIB, creche), ""]
        if creche:
            text += [*memory(bench, 64 if options.quick else 200), ""]
            text += [*crowd(bench, 64 if options.quick else 2000), ""]
            text += [*pauses(bench, 128 if options.quick else 1024), ""]
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    text.append(
        f"{runs} turns as {who}; Linux {platform.release()}, {os.cpu_count()} processors, Python {platform.python_version()}."
    )
    text += notes
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "spawn.md").write_text("\n".join(text) + "\n")
    (options.out / "spawn.svg").write_text(draw(bench, names, runs))
    print("\n" + "\n".join(text))


if __name__ == "__main__":
    main()
