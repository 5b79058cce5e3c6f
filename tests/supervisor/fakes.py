"""Containers that only pretend, so that a supervisor's rules can be tried on every loop and on a virtual clock."""

from __future__ import annotations

import signal
from contextlib import suppress

import anyio
import anyio.lowlevel

from creche.cgroups import MemoryFigures, Stats
from creche.results import Exit, Reason, Result, Usage
from creche.supervisor.childspec import ChildSpec
from creche.supervisor.restarts import Backoff

AT_ONCE = Backoff(first=0)


def exit_of(code=None, number=None, reason=None):
    reason = reason or (Reason.EXITED if number is None else Reason.SIGNALED)
    return Exit(code, number, reason, Usage())


class Pipe:
    """What a fake prints."""

    def __init__(self):
        self.send, self.get = anyio.create_memory_object_stream(1000)

    async def receive(self):
        return await self.get.receive()

    def close(self):
        self.send.close()
        self.get.close()


class FakeBox:
    """A container of one fake process; `world` sees its every step."""

    pids = 1000

    def __init__(self, world, name, *, deaf=False, spawn_error=None, slow=0.0, immortal=False):
        self.world, self.name = world, name
        self.deaf, self.spawn_error, self.slow, self.immortal = deaf, spawn_error, slow, immortal
        self.stdout = self.stderr = self.exit = self.pid = None
        self.memory = 0
        self.commands = []
        self.command_code = 0
        self.endless = False
        self.running = 0

    async def __aenter__(self):
        await anyio.sleep(self.slow)
        if self.spawn_error is not None:
            raise self.spawn_error
        FakeBox.pids += 1
        self.pid = FakeBox.pids
        self.ended = anyio.Event()
        self.stdout = Pipe()
        self.world.note("+", self.name)
        self.world.boxes[self.name] = self
        return self

    async def __aexit__(self, *_):
        if self.exit is None:
            self.finish(exit_of(number=signal.SIGKILL, reason=Reason.KILLED))
        self.stdout.close()
        self.world.note("~", self.name)

    async def wait(self):
        await self.ended.wait()
        return self.exit

    def finish(self, exit):
        if self.exit is None:
            self.exit = exit
            with suppress(anyio.ClosedResourceError):
                self.stdout.send.close()
            self.ended.set()

    def end(self, code=0):
        self.finish(exit_of(code))

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number):
        self.world.note("-" if number == signal.SIGTERM else f"{signal.Signals(number).name} ", self.name)
        if not self.deaf:
            self.finish(exit_of(number=number))

    def kill(self):
        self.world.note("!", self.name)
        if not self.immortal:
            self.finish(exit_of(number=signal.SIGKILL, reason=Reason.KILLED))

    def print(self, text):
        self.stdout.send.send_nowait(text)

    async def run(self, command):
        self.commands.append(command)
        self.running += 1
        try:
            await (anyio.sleep_forever() if self.endless else anyio.lowlevel.checkpoint())
        finally:
            self.running -= 1
        return Result(exit_of(self.command_code))

    async def stats(self):
        return Stats(memory=MemoryFigures(current=self.memory))


class World:
    """All fakes of one test: what happened to them, in order, and the ones that live now, by name."""

    def __init__(self):
        self.log, self.boxes, self.options = [], {}, {}

    def note(self, sign, name):
        self.log.append(f"{sign}{name}")

    def started(self):
        return [line[1:] for line in self.log if line[0] == "+"]

    def child(self, name, *, box=None, **fields):
        """A ChildSpec of a fake. Each of its copies gets the spec's name, as a factory is not told which it is."""
        fields.setdefault("backoff", AT_ONCE)
        return ChildSpec(
            name, lambda: FakeBox(self, name, **(box or {}), **self.options.get(name, {})), **fields
        )

    def clear(self):
        self.log.clear()


async def settle(turns=20):
    """Let everything that can run do so (`wait_all_tasks_blocked` counts a waiting loop thread as busy)."""
    for _ in range(turns):
        await anyio.lowlevel.checkpoint()
