"""Asking: probes carried out on the loop, once, until they succeed, or until they failed too often."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import anyio
import anyio.abc

from creche.supervisor.notify import Notices
from creche.supervisor.probes import (
    Ask,
    Command,
    Completed,
    Connect,
    Delay,
    Http,
    Line,
    Liveness,
    Notify,
    Probe,
    Readiness,
)

_HEAD = 4096  # bytes of an HTTP answer in which its first line has to be


class Subject(Protocol):
    """Whom a probe asks about."""

    box: Any
    notices: Notices

    async def line(self) -> None:
        """Until it has printed the line that its readiness waits for."""

    async def notice(self) -> None:
        """Until it says something on its notify socket."""


class ProbeFailed(Exception):
    """A probe was answered, but not well."""


async def ask(probe: Probe, subject: Subject) -> None:
    """Once; raises whatever went wrong, and TimeoutError."""
    with anyio.fail_after(probe.timeout):
        match probe:
            case Http():
                await _get(probe)
            case Connect():
                async with await _connect(probe):
                    pass
            case Command():
                result = await subject.box.run(probe.command)
                if not result.exit.ok:
                    raise ProbeFailed(result.exit.explain())
            case Ask():
                answer = probe.call(subject.box)
                if inspect.isawaitable(answer):
                    await answer


async def _connect(probe: Connect | Http) -> anyio.abc.ByteStream:
    if isinstance(probe.to, int):
        return await anyio.connect_tcp(probe.host, probe.to)
    return await anyio.connect_unix(probe.to)


async def _get(probe: Http) -> None:
    """A GET as small as HTTP/1.1 allows; the status line is all that is read."""
    async with await _connect(probe) as stream:
        host = probe.host if isinstance(probe.to, str) else f"{probe.host}:{probe.to}"
        lines = [
            f"GET {probe.path} HTTP/1.1",
            f"Host: {host}",
            "User-Agent: creche",
            "Connection: close",
            "",
            "",
        ]
        await stream.send("\r\n".join(lines).encode("ascii"))
        head = b""
        while b"\n" not in head and len(head) < _HEAD:
            try:
                head += await stream.receive()
            except anyio.EndOfStream:
                break
    first = head.split(b"\n")[0]
    words = first.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or words[1] not in _WELL:
        raise ProbeFailed(f"GET {probe.path} was answered with {first[:80]!r}")


_WELL = frozenset(str(status).encode() for status in range(200, 400))


async def until_ready(probe: Readiness | None, subject: Subject) -> None:
    """Returns when the probe says so; how long that may take is the caller's business."""
    match probe:
        case None:
            return
        case Delay(seconds):
            await anyio.sleep(seconds)
        case Line():
            await subject.line()
        case Notify():
            while not subject.notices.ready:
                await subject.notice()
        case Completed():
            await anyio.sleep_forever()  # its end is what says so
        case _:
            good = 0
            while True:
                try:
                    await ask(probe, subject)
                    good += 1
                except Exception:  # noqa: BLE001 - whatever went wrong, the answer was no
                    good = 0
                if good >= probe.successes:
                    return
                await anyio.sleep(probe.every)


async def until_unhealthy(probe: Liveness, subject: Subject) -> str:
    """Returns, with the reason, when the child is not well any more."""
    if isinstance(probe, Notify):
        return await _watchdog(probe, subject)
    bad = 0
    while True:
        await anyio.sleep(probe.every)
        try:
            await ask(probe, subject)
            bad = 0
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the answer was no
            bad += 1
            if bad >= probe.failures:
                said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                return f"its probe failed {bad} times in a row, at last with {said}"


async def _watchdog(probe: Notify, subject: Subject) -> str:
    """A ping is due `watchdog` seconds after the last one, and the first after it became ready."""
    began = anyio.current_time()
    while True:
        said = subject.notices
        if said.triggered:
            return "it asked to be treated as hung (WATCHDOG=trigger)"
        every = said.watchdog if said.watchdog is not None else probe.watchdog
        if every is None:
            await subject.notice()
            continue
        due = max(began, said.pinged or began) + every
        if anyio.current_time() >= due:
            return f"no WATCHDOG=1 within {every:g} s"
        with anyio.CancelScope(deadline=due):
            await subject.notice()
