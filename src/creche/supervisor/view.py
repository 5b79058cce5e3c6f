"""What there is to see of a child, as a frozen value: its two states, its life and its past."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from creche.supervisor import states
from creche.supervisor.childspec import ChildSpec
from creche.supervisor.events import Record
from creche.supervisor.notify import Notices
from creche.supervisor.states import Actual, Wanted

if TYPE_CHECKING:
    from creche.supervisor.conductor import Slot


@frozen(kw_only=True)
class Child:
    """One child at one moment; times are those of the loop's clock (`anyio.current_time`), in seconds.

    `wanted` is "up" or "down"; `state` is "down", "waiting" (for its back-off), "admission" (for room), "starting",
    "ready", "stopping", "done", or "held" (a reload of it failed). `container` is None where there is none now.
    """

    name: str
    spec: ChildSpec = field(repr=False)
    wanted: str
    state: str
    life: int
    restarts: int
    failures: int
    pid: int | None
    due: float | None
    started: float | None
    ready: float | None
    status: str
    """What it said of itself (STATUS=)."""
    reloading: bool
    """It said RELOADING=1, and not yet READY=1 again."""
    main_pid: int | None
    """The process that it named as its main one (MAINPID=), by the number that it has inside."""
    records: tuple[Record, ...] = field(repr=False)
    lines: tuple[bytes, ...] = field(repr=False)
    container: Any = field(repr=False)

    def named(self, names: Collection[str]) -> bool:
        """Whether it is one of these, by its own name or its ChildSpec's; no names are all."""
        return not names or self.name in names or self.spec.name in names


def view_of(child: states.Child, slot: Slot, now: float) -> Child:
    """The view of a child."""
    life = slot.life
    notices = life.notices if life is not None else Notices()
    return Child(
        name=child.name,
        spec=slot.spec,
        wanted=child.wanted.value,
        state=_state(child, slot, now),
        life=slot.lives,
        restarts=max(slot.lives - 1, 0),
        failures=child.health.failures,
        pid=getattr(life.box, "pid", None) if life is not None else None,
        due=child.due,
        started=life.started if life is not None else None,
        ready=life.ready if life is not None else None,
        status=notices.status,
        reloading=notices.reloading,
        main_pid=notices.main_pid,
        records=tuple(slot.records),
        lines=tuple(slot.printed.tail),
        container=life.box if life is not None else None,
    )


def _state(child: states.Child, slot: Slot, now: float) -> str:
    if child.held:
        return "held"
    if (
        child.actual is Actual.DOWN
        and child.wanted is Wanted.UP
        and child.due is not None
        and child.due > now
    ):
        return "waiting"
    if child.actual is Actual.STARTING and slot.life is not None and slot.ask is None:
        return "admission"
    return child.actual.value
