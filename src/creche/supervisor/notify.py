"""sd_notify(3): a socket that a container is given, and the messages that come in on it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from array import array
from collections.abc import Callable

import anyio
import anyio.lowlevel
from attrs import Factory, evolve, frozen

from creche.spec import Bind, Spec
from creche.spec.spec import DEFAULT_ENV

INSIDE = "/run/creche-notify"
"""The folder in which a container finds its notify socket."""

_MOST = 4096  # bytes of a message: longer ones are cut, as systemd does
_FDS = 16


def parse(message: bytes) -> dict[str, str]:
    """The assignments of a message, the last one of a name winning; lines that are none are passed over."""
    lines = message.decode("utf-8", "replace").split("\n")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _micros(text: str | None) -> float | None:
    """Microseconds as seconds; None for what is no sensible number (at most a year)."""
    if text is None or not text.isascii() or not text.isdigit():
        return None
    value = int(text[:20]) / 1e6
    return value if 0 < value <= 366 * 86400 else None


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None


@frozen
class Notices:
    """What a child said about itself so far, as a value; times are the loop's."""

    ready: bool = False
    reloading: bool = False
    stopping: bool = False
    status: str = ""
    main_pid: int | None = None
    """As the container sees it (MAINPID)."""
    watchdog: float | None = None
    """Seconds within which the next WATCHDOG=1 is due."""
    pinged: float | None = None
    triggered: bool = False
    """It asked to be treated as hung (WATCHDOG=trigger)."""
    extend: float | None = None
    """Until when it asked the current time-out to be put off (EXTEND_TIMEOUT_USEC)."""
    errno: int | None = None
    requests: int | None = None
    """How many requests it has served in this life (X_CRECHE_REQUESTS)."""

    def heard(self, message: dict[str, str], now: float) -> Notices:
        """After one more message."""
        said = self
        if message.get("RELOADING") == "1":
            said = evolve(said, reloading=True)
        if message.get("READY") == "1":
            said = evolve(
                said, ready=True, reloading=False, pinged=now if said.pinged is None else said.pinged
            )
        if message.get("STOPPING") == "1":
            said = evolve(said, stopping=True)
        if "STATUS" in message:
            text = message["STATUS"][:1000]
            said = evolve(said, status="".join(char if char.isprintable() else "�" for char in text))
        if (number := _whole(message.get("MAINPID"))) is not None:
            said = evolve(said, main_pid=number)
        if (number := _whole(message.get("ERRNO"))) is not None:
            said = evolve(said, errno=number)
        if (number := _whole(message.get("X_CRECHE_REQUESTS"))) is not None:
            said = evolve(said, requests=number)
        if message.get("WATCHDOG") == "1":
            said = evolve(said, pinged=now)
        elif message.get("WATCHDOG") == "trigger":
            said = evolve(said, triggered=True)
        if (every := _micros(message.get("WATCHDOG_USEC"))) is not None:
            said = evolve(said, watchdog=every, pinged=now)
        if (more := _micros(message.get("EXTEND_TIMEOUT_USEC"))) is not None:
            said = evolve(said, extend=now + more)
        return said


@frozen
class NotifySocket:
    """A datagram socket in a folder of its own, one for each life: only that container can reach it."""

    folder: str
    socket: socket.socket
    _heard: list[Callable[[dict[str, str]], None]] = Factory(list)

    @classmethod
    def make(cls) -> NotifySocket:
        # The outer folder is ours alone; what is bound into the container is the inner one, which its user may search.
        folder = tempfile.mkdtemp(prefix="creche-notify-")
        try:
            os.mkdir(f"{folder}/n")
            os.chmod(f"{folder}/n", 0o755)  # nosec B103: in a folder that is ours alone
            sock = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            try:
                sock.bind(f"{folder}/n/socket")
                os.chmod(f"{folder}/n/socket", 0o666)  # nosec B103: whichever user the container maps to
            except BaseException:
                sock.close()
                raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(folder, sock)

    def into(self, spec: Spec, watchdog: float | None) -> Spec:
        """The Spec with the socket in it. The Bind is read-only: that keeps nobody from sending (mount(2))."""
        added = {"NOTIFY_SOCKET": f"{INSIDE}/socket"}
        if watchdog is not None:
            added["WATCHDOG_USEC"] = str(round(watchdog * 1e6))
        bind = Bind(f"{self.folder}/n", INSIDE, readonly=True)
        return with_env(evolve(spec, mounts=(*spec.mounts, bind)), added)

    async def receive(self) -> dict[str, str]:
        """The next message. Descriptors that come along are closed: for BARRIER=1 that is the answer."""
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(_MOST, socket.CMSG_SPACE(_FDS * 4))
            except (BlockingIOError, InterruptedError):
                await anyio.wait_readable(self.socket)
                continue
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array("i")
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                    for fd in fds:
                        os.close(fd)
            await anyio.lowlevel.checkpoint()  # a guest may always have one more to say, and others are to be heard too
            return parse(data)

    def close(self) -> None:
        """Close and remove it."""
        anyio.notify_closing(self.socket)
        self.socket.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def with_env(spec: Spec, added: dict[str, str]) -> Spec:
    """The Spec with more variables in its environment, and the rest of it as it would have been."""
    return evolve(spec, env={**(DEFAULT_ENV if spec.env is None else spec.env), **added})
