"""A rolling reload: from the children there are to the children there shall be, and back if that does not go well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from creche.errors import CrecheError, SpecError
from creche.supervisor import states
from creche.supervisor.childspec import ChildSpec
from creche.supervisor.conductor import Conductor
from creche.supervisor.events import Reloaded

if TYPE_CHECKING:
    from creche.supervisor.supervisor import Supervisor


class Reload:
    """One reload. What changes is decided when it is made; `run` does it."""

    def __init__(
        self, supervisor: Supervisor, conductor: Conductor, children: tuple[ChildSpec, ...], at_once: int
    ) -> None:
        if at_once < 1:
            raise SpecError("reload.at_once", at_once, "give a number of at least 1")
        self._supervisor = supervisor
        self._conductor = conductor
        self._at_once = at_once
        new = {child.name: child for child in children}
        if len(new) < len(children):
            raise SpecError(
                "reload.children", [child.name for child in children], "give each a name of its own"
            )
        old = dict(conductor.specs)
        self._old = old
        self._why = ""
        self._added = [child for child in children if child.name not in old]
        self._gone = [name for name in old if name not in new]
        self._scaled = [
            child for child in new.values() if child.name in old and child.count != old[child.name].count
        ]
        self._changed = [
            child
            for child in new.values()
            if child.name in old and evolve(child, count=old[child.name].count) != old[child.name]
        ]
        for child in (*self._scaled, *self._changed):
            before = old[child.name]
            if child.depends_on != before.depends_on:
                raise SpecError(
                    "child.depends_on", child.depends_on, f"{child.name}: remove and add it to change this"
                )
            if (child.count is None) is not (before.count is None):
                raise SpecError("child.count", child.count, f"{child.name}: remove and add it to change this")
            conductor.check(child)

    async def run(self) -> Reloaded:
        """All of it, and what came of it."""
        self._supervisor.take_on(self._added)
        touched: list[str] = []
        try:
            failed = await self._replace_all(touched)
        except BaseException:  # cancelled, or the supervisor is ending
            self._ask_back(touched)
            raise
        if failed is None:
            for child in self._scaled:
                assert child.count is not None
                self._supervisor.scale(child.name, child.count)
            if self._gone:
                await self._supervisor.remove(*self._gone)
        told = Reloaded(changed=tuple(touched), failed=failed, why=self._why)
        self._conductor.publish(told)
        return told

    async def _replace_all(self, touched: list[str]) -> str | None:
        """Replace what changed, batch by batch, adding to `touched`; if one fails, its name, and all is put back."""
        for child in self._changed:
            names = [name for name, slot in self._conductor.slots.items() if slot.spec.name == child.name]
            for start in range(0, len(names), self._at_once):
                batch = names[start : start + self._at_once]
                touched += batch
                failed = await self._replace(batch, child, trial=True)
                if failed is not None:
                    self._why = self._reason(failed)
                    await self._put_back(touched)
                    return failed
            self._conductor.specs[child.name] = child
        return None

    async def _replace(self, names: Sequence[str], child: ChildSpec, *, trial: bool) -> str | None:
        """Replace these, wait until all are where they are wanted, and name one that failed its trial."""
        conductor = self._conductor
        lives = {}
        for name in names:
            slot = conductor.slots.get(name)
            if slot is not None:
                conductor.failed_trials.pop(name, None)
                slot.spec = child
                lives[name] = slot.lives
        wanted = tuple(name for name in lives if conductor.state.children[name].wanted is states.Wanted.UP)
        if not wanted:
            return None
        conductor.post(states.Again(wanted, trial=trial))

        def fell(name: str) -> bool:
            # Its probation ended in some other way (stopped and started by somebody), and it does not get ready.
            child = conductor.state.children[name]
            return (
                conductor.slots[name].lives > lives[name] + 1
                and not child.trial
                and not conductor.settled(name)
            )

        def settled() -> bool:
            return all(
                name not in conductor.slots
                or name in conductor.failed_trials
                or (conductor.settled(name) and conductor.slots[name].lives > lives[name])
                or conductor.state.children[name].wanted is states.Wanted.DOWN
                or fell(name)
                for name in wanted
            )

        await conductor.until(settled)
        if conductor.state.ending:
            raise CrecheError(f"the supervisor {conductor.name!r} is ending, in the middle of a reload")
        return next(
            (
                name
                for name in wanted
                if name in conductor.failed_trials or (name in conductor.slots and fell(name))
            ),
            None,
        )

    def _reason(self, failed: str) -> str:
        """Why it did not become ready, and the last that it said."""
        records = self._conductor.slots[failed].records
        if not records:
            return ""
        said = records[-1].lines[-1].decode("utf-8", "replace") if records[-1].lines else ""
        return records[-1].explain() + (f"; it last said: {said}" if said else "")

    async def _put_back(self, touched: Sequence[str]) -> None:
        """As it was: the old specs of all that were touched, one batch at a time as well, and none of the new ones."""
        for start in range(0, len(touched), self._at_once):
            for name in touched[start : start + self._at_once]:
                slot = self._conductor.slots.get(name)
                if slot is not None:
                    self._conductor.specs[slot.spec.name] = self._old[slot.spec.name]
                    await self._replace([name], self._old[slot.spec.name], trial=False)
        if self._added:
            await self._supervisor.remove(*(child.name for child in self._added))

    def _ask_back(self, touched: Sequence[str]) -> None:
        """As `_put_back`, all at once and without waiting for it: nobody is left who could."""
        conductor = self._conductor
        back = []
        for name in touched:
            slot = conductor.slots.get(name)
            if slot is None:
                continue
            old = conductor.specs[slot.spec.name] = self._old[slot.spec.name]
            if slot.spec != old:
                slot.spec = old
                if conductor.state.children[name].wanted is states.Wanted.UP:
                    back.append(name)
        conductor.post(states.Again(tuple(back), trial=False))
        if added := [child.name for child in self._added if child.name in conductor.specs]:
            self._supervisor.let_go(added)
