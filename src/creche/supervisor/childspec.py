"""ChildSpec: one child of a supervisor as a checked value, and what a supervisor asks of a container."""

from __future__ import annotations

import re
import signal
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from attrs import field, frozen

from creche.errors import SpecError
from creche.results import Exit
from creche.spec import Spec
from creche.spec.rules import check_answered
from creche.supervisor.probes import Completed, Connect, Delay, Http, Line, Liveness, Notify, Readiness
from creche.supervisor.restarts import Backoff, Restart, seconds


class Box(Protocol):
    """What a supervisor needs of what it supervises: a Container has it, and so has another Supervisor.

    `stdout` and `stderr` may be None; `send_signal` and `run` are asked for only where a ChildSpec needs them.
    """

    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...
    async def wait(self) -> Exit | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


Maker = Callable[[], "Box | Awaitable[Box]"]
Hook = Callable[[Any], Awaitable[object]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@frozen(kw_only=True)
class Hooks:
    """Asynchronous callables around a child's life; each gets the Child view, and `timeout` seconds.

    A failing `spawn` (before the container is made) or `ready` (once the probe said so) is a failed start. A failing
    `exit` (the container is gone) or `stop` (before the stop signal) is told as an event, and life goes on.
    """

    spawn: Hook | None = None
    ready: Hook | None = None
    stop: Hook | None = None
    exit: Hook | None = None
    timeout: float = 10.0

    def __attrs_post_init__(self) -> None:
        seconds("hooks", "timeout", self.timeout)


@frozen(kw_only=True)
class Output:
    """Where a child's output goes; it is always read, so that no child gets stuck because nobody does.

    The last `keep` lines stay in memory, each cut at `line` bytes. With `log`, every line is also a record of the
    logger of that name. With `file`, the bytes go to that file (where `{name}` stands for the child's name),
    which is rotated at `max_bytes` into `backups` older ones. A disk that is full or too slow loses output, which
    is told as an event; it never holds the child up.
    """

    keep: int = 50
    line: int = 4096
    log: str | None = None
    file: str | Path | None = None
    max_bytes: int = 10 * 2**20
    backups: int = 3

    def __attrs_post_init__(self) -> None:
        for name, least in (("keep", 0), ("line", 1), ("max_bytes", 1), ("backups", 0)):
            number: object = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise SpecError(f"output.{name}", number, f"give a number of at least {least}")


@frozen(kw_only=True)
class Recycle:
    """When a healthy child is replaced, which does not count as a restart; its order and grace are a stop's.

    `age` in seconds, and `requests`, which the worker counts itself: it says X_CRECHE_REQUESTS=n on the notify socket
    that it is given (sd_notify(3)), n being all that it has served in this life. From both a random share of up to
    `jitter` is taken away, so that workers which began together do not go together. `memory` in bytes, as `stats()` of
    its container tells them, asked every `every` seconds.

    A worker that ends by itself after so many requests, as gunicorn's do, comes back as well (restart="permanent"), but
    for the supervisor that is a restart like any other, and counts for its intensity.
    """

    age: float | None = None
    requests: int | None = None
    jitter: float = 0.2
    memory: int | None = None
    every: float = 10.0

    def __attrs_post_init__(self) -> None:
        for name in ("age", "every"):
            value = getattr(self, name)
            if value is not None and seconds("recycle", name, value) == 0.0:
                raise SpecError(f"recycle.{name}", value, "give seconds above 0")
        if seconds("recycle", "jitter", self.jitter) > 1.0:
            raise SpecError("recycle.jitter", self.jitter, "give a share between 0 and 1")
        for name, what in (("memory", "bytes"), ("requests", "a number of requests")):
            number: object = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise SpecError(f"recycle.{name}", number, f"give {what}, or None")

    def sooner(self, bound: float, random: float) -> float:
        """`bound`, less a share of up to `jitter`, by a number in [0, 1)."""
        return bound * (1.0 - self.jitter * random)


def _signal(value: str | int) -> signal.Signals:
    try:
        return signal.Signals[value] if isinstance(value, str) else signal.Signals(value)
    except (KeyError, ValueError):
        raise SpecError("child.stop_signal", value, "give a signal, such as 'SIGTERM'") from None


def _restart(value: str | Restart) -> Restart:
    try:
        return Restart(value)
    except ValueError:
        wish = "give " + ", ".join(repr(kind.value) for kind in Restart)
        raise SpecError("child.restart", value, wish) from None


def _names(value: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(value, str):
        raise SpecError("child.depends_on", value, "give a list of names")
    return None if value is None else tuple(value)


def _command(value: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(value, (str, bytes)):
        raise SpecError("child.stop_command", value, "give a list: ['sh', '-c', …] if a shell is meant")
    return None if value is None else tuple(value)


@frozen
class ChildSpec:
    """One child: what it is (`spec`), when it comes back, how it is started, watched and stopped.

    `spec` is a Spec, or a callable (it may be asynchronous) that gives a Container, or another Supervisor. It is
    called anew for each life.

    >>> ChildSpec("web", Spec(["./serve"]), count=4, readiness=Http(8000, "/health"), depends_on=["db"])

    - `restart`: "permanent", "transient" (unless it ended well, which is a status in `success`) or "temporary".
    - `count`: None is one child called `name`; a number is that many copies, `name.1` and so on.
    - `depends_on`: None follows every child before it in the list; a list follows just the named ones, so
      `[]` starts at once. What it follows is ready before it is started, and stopped after it.
    - `start_timeout`: seconds in which it has to be ready, the spawn included; None waits for ever.
    - `stop_signal` or `stop_command` (run inside) asks it to end; after `shutdown` seconds all of it is killed.
      `shutdown=0` kills at once.
    - `listen`: names of the supervisor's sockets that it is given (see `Supervisor.sockets`).
    - `tenant`: whose it is, where an Admission is fair between tenants.
    - `significant`: whether its end for good counts for the supervisor's `auto_shutdown`.
    """

    name: str
    spec: Spec | Maker
    restart: Restart = field(default=Restart.PERMANENT, converter=_restart, kw_only=True)
    count: int | None = field(default=None, kw_only=True)
    depends_on: tuple[str, ...] | None = field(default=None, converter=_names, kw_only=True)
    readiness: Readiness | None = field(default=None, kw_only=True)
    liveness: Liveness | None = field(default=None, kw_only=True)
    start_timeout: float | None = field(default=90.0, kw_only=True)
    shutdown: float = field(default=10.0, kw_only=True)
    stop_signal: signal.Signals = field(default=signal.SIGTERM, converter=_signal, kw_only=True)
    stop_command: tuple[str, ...] | None = field(default=None, converter=_command, kw_only=True)
    success: Collection[int] = field(default=frozenset({0}), converter=frozenset, kw_only=True)
    backoff: Backoff = field(factory=Backoff, kw_only=True)
    recycle: Recycle | None = field(default=None, kw_only=True)
    output: Output = field(factory=Output, kw_only=True)
    hooks: Hooks = field(factory=Hooks, kw_only=True)
    listen: tuple[str, ...] = field(default=(), converter=tuple, kw_only=True)
    tenant: str = field(default="", kw_only=True)
    significant: bool = field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        name: object = self.name
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SpecError("child.name", name, "give letters, digits, '-' and '_', at most 63")
        if not isinstance(self.spec, Spec) and not callable(self.spec):
            raise SpecError("child.spec", self.spec, "give a Spec, or a callable that gives a Container")
        count: object = self.count
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            raise SpecError("child.count", count, "give a number of copies, or None for one child")
        seconds("child", "shutdown", self.shutdown)
        if self.start_timeout is not None:
            seconds("child", "start_timeout", self.start_timeout)
        self._check_probes()

    def _check_probes(self) -> None:
        if isinstance(self.liveness, (Line, Delay, Completed)):
            raise SpecError("child.liveness", self.liveness, "this kind of probe tells only of being ready")
        if isinstance(self.liveness, Notify) and self.liveness.watchdog is None:
            raise SpecError("child.liveness", self.liveness, "give Notify(watchdog=seconds)")
        if isinstance(self.readiness, Completed) and self.restart is Restart.PERMANENT:
            raise SpecError("child.readiness", self.readiness, "Completed() needs restart='transient'")
        if isinstance(self.spec, Spec):
            check_answered(self.spec)
            own = self.spec.namespaces.network is True
            for kind in ("readiness", "liveness"):
                probe = getattr(self, kind)
                inside = isinstance(probe, (Connect, Http)) and isinstance(probe.to, int)
                if own and inside and not self.listen:
                    wish = (
                        "its container has a network namespace of its own, where nobody outside reaches a port: "
                        "probe from inside with Command([…]), hand the socket in with listen=[…], "
                        "or share the network with Namespaces(network=False)"
                    )
                    raise SpecError(f"child.{kind}", probe, wish)
        elif self.listen or self.notifies:
            wish = "listen, Notify() and Recycle(requests=…) need a Spec, which they add to"
            raise SpecError("child.spec", self.spec, wish)

    @property
    def notifies(self) -> bool:
        """Whether it is given a notify socket."""
        counts = self.recycle is not None and self.recycle.requests is not None
        return counts or isinstance(self.readiness, Notify) or isinstance(self.liveness, Notify)

    @property
    def extend(self) -> float:
        """Seconds by which EXTEND_TIMEOUT_USEC may put off the end of its start, and of its grace."""
        probes = (self.readiness, self.liveness)
        return max((probe.extend for probe in probes if isinstance(probe, Notify)), default=0.0)

    def copies(self) -> tuple[str, ...]:
        """The names of its children."""
        return (self.name,) if self.count is None else tuple(self.copy(n + 1) for n in range(self.count))

    def copy(self, number: int) -> str:
        """The name of its copy with this number, from 1."""
        return f"{self.name}.{number}"


__all__ = ["Box", "ChildSpec", "Hooks", "Output", "Recycle"]
