"""How soon an OOM is told: from the kernel's own decision, where it can be seen, and from the last page that there was.

The decision is the tracepoint oom:mark_victim, just before the SIGKILL; what lies before it is the kernel's search for memory,
a dozen rounds of reclaim that find nothing. Seen through a tracefs instance of our own, with CLOCK_MONOTONIC's time, so that no
setting of the machine's is touched; that needs root and a kernel whose tracepoint tells the victim's name (Linux 6.8).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from creche import Container, Limits, Reason, Spec
from creche.cgroups import find_place_async

TRACING = Path("/sys/kernel/tracing")
VICTIM = re.compile(r" (\d+\.\d+): mark_victim: pid=(\d+) comm=(\S+) ")
STRUCK = r"-{pid} .* (\d+\.\d+): signal_deliver: sig=9 "
EVENTS = ("oom/mark_victim", "signal/signal_deliver")
KINDS = ("bare", "exit", "event")
# Bears a name by which its death is found again. Writes the clock into a page that is shared with us after each page that it
# touches, so that the last word is from just before the kernel had no more.
BOMB = """
import mmap, os, struct, time
open("/proc/self/comm", "w").write({name!r})
shared = mmap.mmap({fd}, 4096)
if {child}:
    if os.fork():
        os.wait()
        time.sleep(1000)
memory = mmap.mmap(-1, 256 << 20)
for at in range(0, len(memory), 4096):
    memory[at] = 1
    shared[:8] = struct.pack("q", time.monotonic_ns())
"""


class Clock:
    """A page that is shared with the bomb, in which it writes the time."""

    def __enter__(self) -> Clock:
        self.fd = os.memfd_create("clock")
        os.ftruncate(self.fd, 4096)
        self._page = mmap.mmap(self.fd, 4096)
        return self

    def __exit__(self, *_: object) -> None:
        self._page.close()
        os.close(self.fd)

    def last(self) -> int:
        """When it last wrote, in nanoseconds of CLOCK_MONOTONIC."""
        return int.from_bytes(self._page[:8], "little")


class Decisions:
    """The kernel's choices of a victim, as a tracefs instance of ours has them."""

    def __init__(self, instance: Path) -> None:
        self._instance = instance

    def of(self, name: str) -> tuple[float, float]:
        """When the kernel decided to kill the process of this name, and when that one met its SIGKILL, in nanoseconds of CLOCK_MONOTONIC."""
        text = (self._instance / "trace").read_text()
        (self._instance / "trace").write_text("")
        found = [(when, pid) for when, pid, comm in VICTIM.findall(text) if comm == name]
        assert len(found) == 1, (name, found)
        when, pid = found[0]
        struck = re.findall(STRUCK.format(pid=pid), text)
        return float(when) * 1e9, float(struck[0]) * 1e9 if struck else float("nan")


@contextlib.contextmanager
def decisions() -> Iterator[Decisions | None]:
    """A tracefs instance that records them, removed afterwards; None where there can't be one."""
    instance = TRACING / f"instances/creche-{os.getpid()}"
    try:
        told = "comm" in (TRACING / "events/oom/mark_victim/format").read_text()
    except OSError:
        told = False
    if not told or not os.access(TRACING / "instances", os.W_OK):
        yield None
        return
    instance.mkdir()
    try:
        (instance / "trace_clock").write_text("mono")
        for event in EVENTS:
            (instance / "events" / event / "enable").write_text("1")
        yield Decisions(instance)
    finally:
        instance.rmdir()


async def ooms(runs: int) -> dict[str, list[float]]:
    """Milliseconds to a bare parent's waitpid ("bare"), to the Exit ("exit"), and to the event where a child was taken ("event").

    The three take turns. Under their own names from the last page that there was; with " decided" from the kernel's decision; with
    " struck" from the moment at which the victim meets its SIGKILL, before which the kernel writes to its log, and so to its console.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    limits = Limits(memory="24M", swap=0)
    program = ["python3", "-I", "-S", "-c"]
    with Clock() as clock, decisions() as decided:
        for turn in range(runs):
            for kind in KINDS:
                name = f"{kind[:2]}{os.getpid()}-{turn}"[:15]
                command = [*program, BOMB.format(fd=clock.fd, name=name, child=kind == "event")]
                told = await (bare(command, limits, clock.fd) if kind == "bare" else contained(command, limits, clock.fd))
                found[kind].append((told - clock.last()) / 1e6)
                if decided is not None:
                    when, struck = decided.of(name)
                    found[f"{kind} decided"].append((told - when) / 1e6)
                    if kind != "event":  # which is told before that
                        found[f"{kind} struck"].append((told - struck) / 1e6)
    return dict(found)


async def bare(command: list[str], limits: Limits, fd: int) -> int:
    """When a plain parent that does nothing but wait knows of it: what the kernel itself takes."""
    group = (await find_place_async()).create("bare", limits)
    sub = group.command("main")
    pid = os.fork()
    if not pid:
        for entrance in sub.fds:
            os.write(entrance, b"0")
        os.set_inheritable(fd, True)
        os.execvp(command[0], command)
    sub.close()
    os.waitpid(pid, 0)
    told = time.monotonic_ns()
    group.remove()
    return told


async def contained(command: list[str], limits: Limits, fd: int) -> int:
    """When the Exit of a main command is there, or the event where it lost a child only."""
    async with Container(Spec(command, limits=limits, pass_fds=[fd])) as box:
        if "if True:" in command[-1]:
            async for event in box.events():
                if event.kind == "oom_kill":
                    break
            return time.monotonic_ns()
        exit = await box
        told = time.monotonic_ns()
        assert exit.reason is Reason.OOM, exit
        return told
