"""How often and how soon: restart intensity and back-off, as values and functions without a clock of their own."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

from attrs import field, frozen

from creche.errors import SpecError

Random = Callable[[], float]
"""A source of numbers in [0, 1), as `random.random`: an argument, so that a test can know the delay."""


class Restart(enum.Enum):
    """When a child that ended is started again (the words of OTP's supervisor)."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """Unless it ended well."""
    TEMPORARY = "temporary"
    """Never; once ended it is forgotten."""


def comes_back(restart: Restart, clean: bool) -> bool:
    """Whether a child that ended by itself is started again."""
    return restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and not clean)


def seconds(owner: str, name: str, value: object, *, least: float = 0.0) -> float:
    """`value` as seconds, finite and not below `least`; a SpecError naming `owner.name` otherwise."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < least
    ):
        raise SpecError(f"{owner}.{name}", value, f"give seconds, a number of at least {least:g}")
    return float(value)


@frozen(kw_only=True)
class Backoff:
    """How long a child that keeps failing waits before it is started again, in seconds.

    The first failure after a healthy time costs nothing; the second waits `first`, each further one
    `factor` times longer, at most `most`. From each delay a random share of up to `jitter` is taken away,
    so that a thousand workers which fell together do not rise together. A child that was ready for
    `healthy` seconds has its failures forgotten.
    """

    first: float = 0.1
    factor: float = 2.0
    most: float = 30.0
    jitter: float = 0.5
    healthy: float = 5.0

    def __attrs_post_init__(self) -> None:
        seconds("backoff", "first", self.first)
        seconds("backoff", "most", self.most)
        seconds("backoff", "healthy", self.healthy)
        seconds("backoff", "factor", self.factor, least=1.0)
        if seconds("backoff", "jitter", self.jitter) > 1.0:
            raise SpecError("backoff.jitter", self.jitter, "give a share between 0 and 1")

    def delay(self, failures: int, random: Random) -> float:
        """Seconds to wait after the failure number `failures` (counted from 1) in a row."""
        if failures <= 1 or self.first == 0.0:
            return 0.0
        # Logarithms, since factor ** failures overflows a float after some thousand failures.
        steps = failures - 2
        grown = math.log(self.first) + steps * math.log(self.factor)
        longest = self.most if self.most == 0.0 or grown >= math.log(self.most) else math.exp(grown)
        return longest * (1.0 - self.jitter * random())


@frozen
class Intensity:
    """At most `restarts` restarts in any `period` seconds; one more, and the supervisor gives up.

    `restarts=None` never gives up. The times of the restarts that still count are a value of their own,
    handed in and out (`add_restart` in OTP's supervisor.erl).
    """

    restarts: int | None = 3
    period: float = 5.0

    def __attrs_post_init__(self) -> None:
        number: object = self.restarts
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
            raise SpecError("intensity", number, "give a number of restarts, or None to never give up")
        seconds("supervisor", "period", self.period)

    def add(self, times: tuple[float, ...], now: float) -> tuple[tuple[float, ...], bool]:
        """The times that count after one more restart at `now`, and whether it is still within bounds."""
        if self.restarts is None:
            return (), True
        kept = (*(time for time in times if now - time <= self.period), now)
        return kept, len(kept) <= self.restarts


@frozen
class Health:
    """How often in a row a child failed, and since when it is ready: what a back-off needs to know."""

    failures: int = field(default=0)
    ready_at: float | None = field(default=None)

    def fell(self, backoff: Backoff, now: float) -> Health:
        """After a failure at `now`: one more in a row, or the first one if it had been healthy."""
        recovered = self.ready_at is not None and now - self.ready_at >= backoff.healthy
        return Health(failures=1 if recovered else self.failures + 1)
