"""Letting children in: so many at once, so much memory, so many starting together, and fair between tenants."""

from __future__ import annotations

from collections import Counter, deque

import anyio
from attrs import define, field, frozen

from creche.errors import SpecError


@frozen(eq=False)
class Ask:
    """One who asked to be let in."""

    tenant: str
    memory: int
    event: anyio.Event = field(factory=anyio.Event)


@define(eq=False)
class Admission:
    """Bounds on what runs, for one supervisor or shared by several on the same loop; None is no bound.

    `running` children at once, with `memory` bytes between them (as their Specs' `limits.memory` declare it), and
    `starting` of them between spawn and ready. Who waits is let in by turns: the tenant with the fewest running
    first, then whose last turn is longest ago, and in the order of asking for each tenant. Whoever is next and does not fit holds back the others of his
    tenant, so that a big one is not starved by small ones.
    """

    running: int | None = field(default=None, kw_only=True)
    memory: int | None = field(default=None, kw_only=True)
    starting: int | None = field(default=None, kw_only=True)
    _held: set[Ask] = field(factory=set, init=False)
    _starting: set[Ask] = field(factory=set, init=False)
    _used: int = field(default=0, init=False)
    _by_tenant: Counter[str] = field(factory=Counter, init=False)
    _turns: dict[str, int] = field(factory=dict, init=False)
    _turn: int = field(default=0, init=False)
    _queues: dict[str, deque[Ask]] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        for name in ("running", "memory", "starting"):
            number: object = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise SpecError(
                    f"admission.{name}", number, "give a number of at least 1, or None for no bound"
                )

    @property
    def waiting(self) -> int:
        """How many wait to be let in."""
        return sum(len(queue) for queue in self._queues.values())

    def check(self, child: str, memory: int | None) -> int:
        """The memory that a child counts for; a SpecError where it declares none, or more than there ever is."""
        if self.memory is None:
            return memory or 0
        if memory is None:
            raise SpecError(f"{child}.limits.memory", None, "admission.memory needs to know it: give a limit")
        if memory > self.memory:
            raise SpecError(
                f"{child}.limits.memory", memory, f"admission.memory is {self.memory}: it never fits"
            )
        return memory

    async def enter(self, tenant: str, memory: int) -> Ask:
        """Wait to be let in; `leave` gives it back."""
        ask = Ask(tenant, memory)
        self._queues.setdefault(tenant, deque()).append(ask)
        self._let_in()
        try:
            await ask.event.wait()
        except BaseException:
            if ask in self._held:
                self.leave(ask)
            else:
                self._queues[tenant].remove(ask)
                if not self._queues[tenant]:
                    del self._queues[tenant]
                self._let_in()  # it may have held back others
            raise
        return ask

    def settle(self, ask: Ask) -> None:
        """It is ready: no more one of those that start."""
        if ask in self._starting:
            self._starting.remove(ask)
            self._let_in()

    def leave(self, ask: Ask) -> None:
        """It is gone."""
        self._held.remove(ask)
        self._used -= ask.memory
        self._by_tenant -= Counter((ask.tenant,))
        self._starting.discard(ask)
        self._let_in()

    def _fits(self, ask: Ask) -> bool:
        return (
            (self.running is None or len(self._held) < self.running)
            and (self.starting is None or len(self._starting) < self.starting)
            and (self.memory is None or self._used + ask.memory <= self.memory)
        )

    def _let_in(self) -> None:
        while self._queues:
            for tenant in sorted(
                self._queues, key=lambda name: (self._by_tenant[name], self._turns.get(name, 0))
            ):
                if self._fits(self._queues[tenant][0]):
                    self._admit(tenant)
                    break
            else:
                return
        self._turns.clear()

    def _admit(self, tenant: str) -> None:
        queue = self._queues[tenant]
        ask = queue.popleft()
        if not queue:
            del self._queues[tenant]
        self._held.add(ask)
        self._starting.add(ask)
        self._used += ask.memory
        self._by_tenant[tenant] += 1
        self._turn += 1
        self._turns[tenant] = self._turn
        ask.event.set()
