"""How one tells that a child is ready, or still well: the kinds of probes, as checked values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from attrs import field, frozen

from creche.errors import SpecError
from creche.supervisor.restarts import seconds


def _argv(value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, (str, bytes)) or not value:
        raise SpecError("probe.command", value, "give a list: ['sh', '-c', …] if a shell is meant")
    return tuple(os.fsdecode(word) for word in value)


def _pattern(value: bytes | str | re.Pattern[bytes]) -> re.Pattern[bytes]:
    if isinstance(value, re.Pattern):
        return value
    try:
        return re.compile(value.encode() if isinstance(value, str) else value)
    except re.error as error:
        raise SpecError("probe.pattern", value, f"give a regular expression: {error}") from None


@frozen(kw_only=True)
class Probe:
    """What all probes that are asked again and again have in common, in seconds and in times.

    As readiness a probe is asked every `every` seconds until it succeeded `successes` times in a row. As liveness it
    is asked every `every` seconds, and `failures` in a row make the child unhealthy: it is stopped, and counts as
    fallen. One that does not answer within `timeout` has failed.
    """

    every: float = 1.0
    timeout: float = 5.0
    successes: int = 1
    failures: int = 3

    def __attrs_post_init__(self) -> None:
        if seconds("probe", "every", self.every) == 0.0:
            raise SpecError("probe.every", self.every, "give seconds above 0")
        seconds("probe", "timeout", self.timeout)
        for name in ("successes", "failures"):
            number: object = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise SpecError(f"probe.{name}", number, "give a number of at least 1")


@frozen
class Connect(Probe):
    """Something accepts connections at a port (on `host`), or at a path of a Unix socket.

    It connects from the supervisor's own network namespace. A container that has one of its own cannot be reached
    there, other than through a socket that the supervisor listens on for it (`ChildSpec.listen`): a ChildSpec
    refuses such a probe, and `Command` is the one to use, as it runs inside.
    """

    to: int | str
    host: str = "127.0.0.1"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        to: object = self.to
        if isinstance(to, bool) or not (
            (isinstance(to, int) and 0 < to < 65536) or (isinstance(to, str) and to)
        ):
            raise SpecError("probe.to", to, "give a port, or the path of a Unix socket")


@frozen
class Http(Probe):
    """A GET of `path` is answered with a status of 200 to 399; where it connects is as for `Connect`."""

    to: int | str
    path: str = "/"
    host: str = "127.0.0.1"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        Connect(self.to)
        for name in ("path", "host"):
            value: str = getattr(self, name)
            if not re.fullmatch(r"[!-~]+", value):
                raise SpecError(f"probe.{name}", value, "give printable ASCII without blanks")


@frozen
class Command(Probe):
    """A command, run inside the container, ends with status 0."""

    command: tuple[str, ...] = field(converter=_argv)


@frozen
class Line:
    """The child prints a line in which `pattern` is found (a regular expression over bytes). Readiness only."""

    pattern: re.Pattern[bytes] = field(converter=_pattern)


@frozen
class Notify:
    """The child says so itself: sd_notify(3), on the socket that it finds in NOTIFY_SOCKET.

    As readiness it waits for READY=1. As liveness it is the watchdog: a child that does not say WATCHDOG=1 for
    `watchdog` seconds (given to it as WATCHDOG_USEC) is unhealthy. By EXTEND_TIMEOUT_USEC it may put off the end of its
    `start_timeout`, and of its grace when it is stopped, by up to `extend` seconds each.
    """

    watchdog: float | None = None
    extend: float = field(default=600.0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        seconds("probe", "extend", self.extend)
        if self.watchdog is not None and seconds("probe", "watchdog", self.watchdog) == 0.0:
            raise SpecError("probe.watchdog", self.watchdog, "give seconds above 0, or None for no watchdog")


@frozen
class Delay:
    """It still runs after so many seconds. Readiness only."""

    seconds: float

    def __attrs_post_init__(self) -> None:
        seconds("probe", "seconds", self.seconds)


@frozen
class Completed:
    """It ended well: for a task that has to be done before others start. Readiness only, of a transient child."""


@frozen
class Ask(Probe):
    """A callable of yours, given the Container, returns without raising; it may be asynchronous."""

    call: Callable[..., object]


Readiness = Connect | Http | Command | Line | Notify | Delay | Completed | Ask
Liveness = Connect | Http | Command | Notify | Ask
