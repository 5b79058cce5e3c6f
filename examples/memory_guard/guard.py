"""Runs jobs under a memory limit, and those that ran out of it again under twice as much, up to a ceiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import creche
from creche import Exit, Limits, Reason

__all__ = ["Guard", "Outcome", "ran_out", "shown"]

UNITS = ("", "K", "M", "G", "T")


def shown(size: int) -> str:
    """Bytes as people write them: 64M."""
    power = 0
    while size and size % 1024 == 0 and power < len(UNITS) - 1:
        size, power = size // 1024, power + 1
    return f"{size}{UNITS[power]}"


def ran_out(exit: Exit) -> bool:
    """Whether memory is why it failed: it was killed for it itself, or a process that it had started was."""
    return exit.reason is Reason.OOM or (not exit.ok and exit.oom_kills > 0)


@dataclass(frozen=True)
class Outcome:
    """How a job ended in the end."""

    result: creche.Result
    memory: int  #: bytes, the limit of its last run
    runs: int

    @property
    def gave_up(self) -> bool:
        """Whether the ceiling was not enough."""
        return ran_out(self.result.exit)


@dataclass
class Guard:
    """Limits that grow with need. What a job needed is remembered, so that the same job starts there the next time."""

    start: int = 32 << 20  #: bytes
    ceiling: int = 1 << 30
    say: Callable[[str], None] = print
    needed: dict[tuple[str, ...], int] = field(default_factory=dict)

    async def run(self, command: list[str], timeout: float | None = None) -> Outcome:
        """Run it until memory is not what ends it, or there is no more to give. Raises creche.UnsupportedError without cgroups."""
        memory = min(self.needed.get(tuple(command), self.start), self.ceiling)
        runs = 0
        while True:
            runs += 1
            result = await creche.run(command, limits=Limits(memory=memory, pids=64), timeout=timeout, on_overflow="discard")
            if not ran_out(result.exit):
                self.needed[tuple(command)] = memory
                return Outcome(result, memory, runs)
            if memory >= self.ceiling:
                self.say(f"ran out of {shown(memory)}, the ceiling: given up")
                return Outcome(result, memory, runs)
            more = min(memory * 2, self.ceiling)
            self.say(f"ran out of {shown(memory)}: again with {shown(more)}")
            memory = more
