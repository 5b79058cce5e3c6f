"""The values of supervision: what a child is, what may happen to it, and what policy asks for; no behaviour."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from attrs import Factory, frozen

from creche.supervisor.order import Group
from creche.supervisor.restarts import Backoff, Health, Intensity, Restart


class Strategy(enum.Enum):
    """Who is restarted when one child falls (the words of OTP's supervisor)."""

    ONE_FOR_ONE = "one_for_one"
    """Only that child."""
    ONE_FOR_ALL = "one_for_all"
    """All of them."""
    REST_FOR_ONE = "rest_for_one"
    """That child and those which come after it."""
    SIMPLE_ONE_FOR_ONE = "simple_one_for_one"
    """Only that child; all are alike, added at run time, and a child that ended well is forgotten."""


class AutoShutdown(enum.Enum):
    """Whether the end of significant children, which do not come back, ends the supervisor as well."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


class Wanted(enum.Enum):
    """What a child shall be."""

    UP = "up"
    DOWN = "down"


class Actual(enum.Enum):
    """What a child is."""

    DOWN = "down"
    """Not running: not yet, not any more, or waiting for its back-off to pass."""
    STARTING = "starting"
    """Being spawned, or spawned and not ready yet."""
    READY = "ready"
    STOPPING = "stopping"
    """Told to stop, by us."""
    DONE = "done"
    """Ended well, and not to come back."""


RUNNING = frozenset({Actual.STARTING, Actual.READY, Actual.STOPPING})


@frozen
class Child:
    """One child, as policy knows it."""

    name: str
    group: int = 0
    restart: Restart = Restart.PERMANENT
    backoff: Backoff = Factory(Backoff)
    significant: bool = False
    wanted: Wanted = Wanted.UP
    actual: Actual = Actual.DOWN
    bounce: bool = False
    """Running, to be stopped and then started anew."""
    trial: bool = False
    """On probation (a reload): if it ends before it is ready, it is held down and `TrialFailed` says so."""
    held: bool = False
    forget: bool = False
    """To be forgotten as soon as it is down."""
    batch: int = 0
    due: float | None = None
    """Not to be started before this time."""
    health: Health = Factory(Health)

    @property
    def pending(self) -> bool:
        """Waits to be started."""
        return self.wanted is Wanted.UP and self.actual is Actual.DOWN and not self.held

    @property
    def doomed(self) -> bool:
        """Is running, has to stop, and was not told so yet."""
        running = self.actual is Actual.STARTING or self.actual is Actual.READY
        return running and (self.bounce or self.wanted is Wanted.DOWN)


@frozen
class State:
    """All that policy remembers."""

    strategy: Strategy = Strategy.ONE_FOR_ONE
    intensity: Intensity = Factory(Intensity)
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER
    groups: Mapping[int, Group] = Factory(dict)
    children: Mapping[str, Child] = Factory(dict)
    restarts: tuple[float, ...] = ()
    batch: int = 0
    ending: bool = False
    """Everything is being stopped for good."""
    gave_up: str | None = None
    """The child whose restart was one too many."""
    # Counted along, so that one event costs what it changes and not a walk over all children.
    pending: Mapping[str, None] = Factory(dict)  # a set that keeps its order
    doomed: Mapping[str, None] = Factory(dict)
    tally: Mapping[tuple[str, int, int], int] = Factory(dict)

    @property
    def running(self) -> int:
        """How many children are starting, ready or stopping."""
        return self.tally.get(("running", 0, 0), 0)

    @property
    def ended(self) -> bool:
        """Stopped for good, with nothing left running."""
        return self.ending and self.running == 0


# -- events ----------------------------------------------------------------------------------------------------


@frozen
class Ready:
    """A child became ready."""

    name: str


@frozen
class Ended:
    """A child's life is over (`clean`: as its spec counts a good end), or its start failed (never clean)."""

    name: str
    clean: bool = False


@frozen
class Tick:
    """Time has passed."""


@frozen
class Add:
    """Children to take on, and new groups of theirs."""

    children: tuple[Child, ...]
    groups: tuple[Group, ...] = ()


@frozen
class Remove:
    """Children to stop and forget; with `group`, the whole group."""

    names: tuple[str, ...] = ()
    group: int | None = None


@frozen
class Up:
    """Children wanted up, also those that are done, held or waiting: at once, and with a clean record."""

    names: tuple[str, ...]


@frozen
class Down:
    """Children wanted down, but not forgotten."""

    names: tuple[str, ...]


@frozen
class Again:
    """Children to stop and start anew on request, which does not count as a restart.

    `trial` puts them on probation, or ends it; None leaves that as it is.
    """

    names: tuple[str, ...]
    trial: bool | None = None


@frozen
class Shutdown:
    """Stop everything, for good."""


Event = Ready | Ended | Tick | Add | Remove | Up | Down | Again | Shutdown


# -- actions ---------------------------------------------------------------------------------------------------


@frozen
class Start:
    """Start this child now."""

    name: str


@frozen
class Stop:
    """Stop this child now, politely at first, within its bounds."""

    name: str


@frozen
class Wait:
    """This child fell and is to be started at `until` (send a Tick then); its failures in a row."""

    name: str
    until: float
    failures: int


@frozen
class Forget:
    """This child is down and no more one of ours."""

    name: str


@frozen
class TrialFailed:
    """A child on probation ended before it was ready, and is held down."""

    name: str


@frozen
class GiveUp:
    """The restart of this child was one too many: everything is being stopped."""

    name: str


Action = Start | Stop | Wait | Forget | TrialFailed | GiveUp
