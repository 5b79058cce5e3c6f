"""What a supervisor tells: typed events, and their way to any number of readers, each with a bounded buffer."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet

import anyio
from attrs import field, fields, frozen

from creche.results import Exit

_log = logging.getLogger("creche.supervisor")


@frozen(kw_only=True)
class Record:
    """One life of a child: when, how it ended and why, and the last lines that it printed.

    Times are those of the loop's clock (`anyio.current_time`), in seconds. `exit` is None where there was none: a
    failed spawn, a supervisor; `error` is then what was raised, if anything.
    """

    child: str
    life: int
    started: float
    ready: float | None
    ended: float
    exit: Exit | None
    error: BaseException | None
    clean: bool
    why: str
    lines: tuple[bytes, ...] = field(repr=False)
    asked: bool

    def explain(self) -> str:
        """One sentence for people."""
        if self.error is not None:
            return f"{self.why}: {self.error}" if self.why else str(self.error) or repr(self.error)
        ended = self.exit.explain() if self.exit is not None else "ended"
        return f"{self.why}: {ended}" if self.why else ended


@frozen(kw_only=True)
class Event:
    """Something happened; `at` is the time of day, in seconds since 1970."""

    at: float = field(factory=time.time)


@frozen(kw_only=True)
class ChildEvent(Event):
    """Something happened to one child."""

    child: str


@frozen(kw_only=True)
class ChildStarting(ChildEvent):
    """Its start begins, once admission let it in after `waited` seconds."""

    life: int
    waited: float = 0.0


@frozen(kw_only=True)
class ChildSpawned(ChildEvent):
    """It runs, with this process id (None for a supervisor), and is not ready yet."""

    pid: int | None


@frozen(kw_only=True)
class ChildReady(ChildEvent):
    """It is ready, `after` seconds."""

    after: float


@frozen(kw_only=True)
class ChildStatus(ChildEvent):
    """It said something about itself on its notify socket."""

    text: str


@frozen(kw_only=True)
class ChildUnhealthy(ChildEvent):
    """Its liveness failed once too often, and it is being stopped."""

    why: str


@frozen(kw_only=True)
class ChildRecycled(ChildEvent):
    """It is being replaced: too old, too big, or done with so many requests."""

    why: str


@frozen(kw_only=True)
class ChildStopping(ChildEvent):
    """It was asked to stop."""


@frozen(kw_only=True)
class ChildKilled(ChildEvent):
    """It did not stop within its grace, and all of it is being killed."""


@frozen(kw_only=True)
class ChildEnded(ChildEvent):
    """Its life is over, or its start failed."""

    record: Record


@frozen(kw_only=True)
class ChildWaiting(ChildEvent):
    """It fell, for this many times in a row, and is started again in `seconds`."""

    seconds: float
    failures: int


@frozen(kw_only=True)
class ChildForgotten(ChildEvent):
    """It is no more one of the supervisor's children."""


@frozen(kw_only=True)
class HookFailed(ChildEvent):
    """A hook of its raised."""

    hook: str
    error: Exception


@frozen(kw_only=True)
class OutputLost(ChildEvent):
    """Bytes of its output could not be written to its file: the first that a trouble cost, and once it is over (the
    file is written again, or the child is gone) all others that it did."""

    lost: int
    error: str


@frozen(kw_only=True)
class Reloaded(Event):
    """A reload came to its end: these children changed; or were put back, because `failed` did not become ready (`why`)."""

    changed: tuple[str, ...]
    failed: str | None = None
    why: str = ""


@frozen(kw_only=True)
class SupervisorGaveUp(Event):
    """The restart of `child` was one too many; everything is being stopped. `history`: its last lives."""

    child: str
    history: tuple[Record, ...]


@frozen(kw_only=True)
class EventsLost(Event):
    """This reader was too slow, and so many events were dropped for it, the oldest first."""

    count: int


_LEVELS = {
    ChildUnhealthy: logging.WARNING,
    ChildKilled: logging.WARNING,
    HookFailed: logging.WARNING,
    OutputLost: logging.WARNING,
    ChildWaiting: logging.WARNING,
    ChildReady: logging.INFO,
    ChildRecycled: logging.INFO,
    Reloaded: logging.INFO,
    SupervisorGaveUp: logging.ERROR,
}


def level(event: Event) -> int:
    """How serious an event is, as a level of `logging`."""
    if isinstance(event, ChildEnded):
        return logging.INFO if event.record.clean or event.record.asked else logging.WARNING
    return _LEVELS.get(type(event), logging.DEBUG)


class Reader(AsyncIterator[Event]):
    """One reader's events, in order. It ends when the supervisor has ended; a slow one loses the oldest, and is told."""

    def __init__(self, bus: Bus, size: int) -> None:
        self._bus = bus
        self._events: deque[Event] = deque(maxlen=size)
        self._lost = 0
        self._news = anyio.Event()

    def _put(self, event: Event) -> None:
        if len(self._events) == self._events.maxlen:
            self._lost += 1
        self._events.append(event)
        self._news.set()

    async def __anext__(self) -> Event:
        while not self._events:
            if self._bus.closed:
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return EventsLost(count=lost)
        return self._events.popleft()

    def close(self) -> None:
        """Hear no more."""
        self._bus.readers.discard(self)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bus:
    """Where events are published: to logging (logger ``creche.supervisor``), to readers and to listeners."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.closed = False
        self.readers: WeakSet[Reader] = WeakSet()  # one that was dropped without a word costs nothing

    def publish(self, event: Event) -> None:
        number = level(event)
        if _log.isEnabledFor(number):
            about = getattr(event, "child", None)
            where = f"{self.name}/{about}" if about else self.name
            extra = {"creche_event": event, "creche_supervisor": self.name}
            extra |= {f"creche_{name}": value for name, value in plain(event).items()}
            _log.log(number, "%s: %s", where, described(event), extra=extra)
        for reader in self.readers:
            reader._put(event)

    def read(self, size: int | None = None) -> Reader:
        reader = Reader(self, size or self.size)
        if not self.closed:
            self.readers.add(reader)
        return reader

    def close(self) -> None:
        self.closed = True
        for reader in self.readers:
            reader._news.set()


def plain(event: Event) -> dict[str, Any]:
    """An event as JSON knows it: its `kind`, and its fields; of a Record, what a machine would look for."""
    told: dict[str, Any] = {"kind": type(event).__name__}
    for attribute in fields(type(event)):
        name, value = attribute.name, getattr(event, attribute.name)
        match value:
            case Record():
                exit = value.exit
                told |= {"life": value.life, "clean": value.clean, "asked": value.asked, "why": value.explain()}
                told["reason"] = exit.reason.value if exit is not None else None
                told["returncode"] = exit.returncode if exit is not None else None
            case Exception():
                told[name] = f"{type(value).__name__}: {value}"
            case tuple():
                told[name] = [item.explain() if isinstance(item, Record) else item for item in value]
            case _:
                told[name] = value
    return told


def described(event: Event) -> str:
    """An event in a few words, on one line."""
    words = type(event).__name__
    match event:
        case ChildEnded(record=record):
            text = f"{words}: {record.explain()}"
        case SupervisorGaveUp(child=child):
            text = f"{words} on {child}"
        case _:
            shown = [
                f"{name}={_brief(getattr(event, name))}"
                for name in (field.name for field in fields(type(event)))
                if name not in ("child", "at")
            ]
            text = " ".join([words, *shown])
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _brief(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else repr(value)
