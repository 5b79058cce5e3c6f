"""A Unix socket by which its owner reaches a running supervisor: one JSON request, then JSON lines in answer."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from anyio.abc import SocketAttribute
from attrs import define, field, frozen

from creche.errors import CrecheError, SpecError
from creche.supervisor.events import Reloaded, described, plain
from creche.supervisor.supervisor import Supervisor
from creche.supervisor.telling import row, sample

LONGEST = 65_536  # bytes of a request
PATIENCE = 10.0  # seconds in which a request has to be there
CLIENTS = 64
_Socket = socket.socket  # a Place has a `socket` of its own


class AlreadyRunning(CrecheError):
    """The project is run by another process."""

    def __init__(self, name: str, pid: int | None) -> None:
        super().__init__(name, pid)
        self.pid = pid

    def __str__(self) -> str:
        return (
            f"{self.args[0]} is run by {f'the process {self.pid}' if self.pid else 'another process'} already"
        )


@frozen
class Place:
    """Where the socket of a project is: in a folder that only its owner can enter."""

    folder: Path
    name: str

    @classmethod
    def of(cls, name: str) -> Place:
        """In the runtime directory of the user, or for want of one in a folder of /tmp that is checked to be ours.

        A login has a runtime directory where a service of the same user has none (`User=` in a unit, cron, sudo), so
        where it runs already in the other of the two, that is its place. An XDG_RUNTIME_DIR of another kind was
        chosen by somebody, and is the only one.
        """
        login, without = usual()
        base = os.environ.get("XDG_RUNTIME_DIR") or without
        here, *others = (cls(Path(path) / "creche", name) for path in dict.fromkeys([base, login, without]))
        if base not in (login, without):
            return here
        return next((place for place in (here, *others) if place.runs()), here)

    @property
    def socket(self) -> Path:
        """The socket's path."""
        return self.folder / f"{self.name}.sock"

    @contextlib.contextmanager
    def reach(self) -> Iterator[str]:
        """A short name for the socket: an address of a Unix socket has 107 bytes at most (unix(7))."""
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/{self.socket.name}"
        finally:
            os.close(folder)

    def connect(self, sock: _Socket) -> None:
        """To whoever runs it. CrecheError where nobody does, or somebody else pretends to: anyone may make a folder in /tmp."""
        try:
            with self.reach() as path:
                sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise CrecheError(f"{self.name} does not run: start it with `creche up`") from None
        if (uid := peer(sock)) not in (os.geteuid(), 0):
            raise CrecheError(f"{self.socket} is the user {uid}'s, and nothing is said to it")

    def runs(self) -> bool:
        """Whether somebody of ours does run it there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, contextlib.suppress(CrecheError, OSError):
            self.connect(sock)
            return True
        return False

    def prepare(self) -> None:
        """Make the folder. CrecheError where it is not ours alone: somebody else was there first."""
        for path in (self.folder.parent, self.folder):
            path.mkdir(mode=0o700, exist_ok=True)
        ours = [self.folder, self.folder.parent] if str(self.folder).startswith("/tmp/") else [self.folder]
        for path in ours:
            found = os.lstat(path)
            if found.st_uid != os.geteuid() or found.st_mode & 0o077 or not stat.S_ISDIR(found.st_mode):
                raise CrecheError(f"{path} has to be a folder of ours that nobody else can enter (mode 0700)")

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Be the one that runs this name, until the block ends or the process dies. AlreadyRunning where another is."""
        self.prepare()
        lock = os.open(self.folder / f"{self.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = os.read(lock, 20).strip()
                raise AlreadyRunning(self.name, int(text) if text.isdigit() else None) from None
            os.ftruncate(lock, 0)
            os.write(lock, str(os.getpid()).encode())
            self.socket.unlink(missing_ok=True)  # of one that was killed: the lock says that it is gone
            yield
        finally:
            os.close(lock)  # the file stays: removing it would let two hold "the" lock


@define
class Control:
    """Serves one supervisor. `reload` is what "reload" does; only `uid` (and root) may ask."""

    supervisor: Supervisor
    place: Place
    reload: Callable[[], Awaitable[Reloaded]] | None = None
    uid: int = field(factory=os.geteuid)
    _clients: int = field(default=0, init=False)

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until it is cancelled; whoever calls it holds the `claim`."""
        with self.place.reach() as path:
            listener = await anyio.create_unix_listener(path, mode=0o600)
        async with listener:
            try:
                task_status.started()
                await listener.serve(self._client)
            finally:
                self.place.socket.unlink(missing_ok=True)

    async def _client(self, stream: anyio.abc.SocketStream) -> None:
        self._clients += 1
        try:
            async with stream:
                try:
                    await self._answer(stream)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                    return  # it has gone
        finally:
            self._clients -= 1

    async def _answer(self, stream: anyio.abc.SocketStream) -> None:
        async def say(**answer: Any) -> None:
            await stream.send(json.dumps(answer).encode() + b"\n")

        raw = stream.extra(SocketAttribute.raw_socket)  # nosec B610: it takes that name for Django's
        uid = peer(raw)
        if self._clients > CLIENTS:
            await say(error="there are too many who ask; try again")
            return
        try:
            with anyio.fail_after(PATIENCE):
                request = await _request(stream)
            # Only now: an answer to what was not read yet may be lost with the reset that closing causes (unix(7)).
            if uid not in (self.uid, 0):
                raise CrecheError(f"only the user {self.uid} may ask, and you are {uid}")
            if request.get("do") in _WHILE_HEARD:
                await _while_there(stream, lambda: self._do(request, say))
            else:
                await self._do(request, say)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            raise
        except TimeoutError:
            await say(error=f"the request was not there within {PATIENCE:g} s")
        except Exception as error:  # noqa: BLE001 - whatever one asks, the supervisor and the others go on
            await say(error=str(error) or type(error).__name__)

    async def _do(self, request: dict[str, Any], say: Callable[..., Awaitable[None]]) -> None:
        sup = self.supervisor
        names = _names(request)
        match request.get("do"):
            case "ping":
                await say(ok=True, pid=os.getpid(), name=self.place.name)
            case "ps":
                now = anyio.current_time()
                await say(ok=True, children=[row(view, now) for view in sup.children.values()])
            case "stats":
                views = [view for view in sup.children.values() if view.named(names)]
                if names and not views:
                    raise SpecError(
                        "name", names[0], f"the children are: {', '.join(sup.children) or 'none'}"
                    )
                for view in views:
                    await say(**await sample(view))
            case "start" | "restart" as verb:
                getattr(sup, verb)(*(names or sup.children))
                await say(ok=True)
            case "stop":
                if names:
                    await sup.stop(*names)
                else:
                    sup.terminate()
                await say(ok=True)
            case "scale":
                count = request.get("count")
                if isinstance(count, bool) or not isinstance(count, int):
                    raise SpecError("count", count, "give a number")
                await say(ok=True, names=[copy for name in names for copy in sup.scale(name, count)])
            case "reload":
                if self.reload is None:
                    raise CrecheError("there is nothing to reload from")
                told = await self.reload()
                await say(ok=told.failed is None, changed=told.changed, failed=told.failed, why=told.why)
            case "events":
                with sup.events() as events:
                    await say(ok=True)
                    async for event in events:
                        child = getattr(event, "child", None)
                        await say(at=event.at, child=child, text=described(event), fields=plain(event))
            case "logs":
                await self._logs(names, bool(request.get("follow")), say)
            case "exec":
                await self._exec(names, request.get("command"), say)
            case other:
                raise SpecError(
                    "do", other, "ping, ps, stats, start, restart, stop, scale, reload, events, logs or exec"
                )

    async def _logs(self, names: tuple[str, ...], follow: bool, say: Callable[..., Awaitable[None]]) -> None:
        with self.supervisor.output(*names) as lines:
            for name, view in self.supervisor.children.items():
                if view.named(names):
                    for line in view.lines:
                        await say(child=name, line=line.decode("utf-8", "replace"))
            if follow:
                async for told in lines:
                    await say(child=told.child, stream=told.stream, line=told.line.decode("utf-8", "replace"))

    async def _exec(
        self, names: tuple[str, ...], command: object, say: Callable[..., Awaitable[None]]
    ) -> None:
        if (
            len(names) != 1
            or not isinstance(command, list)
            or not all(isinstance(word, str) for word in command)
        ):
            raise SpecError("exec", command, "give one child and a command, as a list of words")
        children = self.supervisor.children
        view = children.get(names[0])
        copies = [name for name, child in children.items() if child.spec.name == names[0]]
        if view is None and copies:
            raise SpecError("name", names[0], f"it has copies, name one: {', '.join(copies)}")
        if view is None or not hasattr(view.container, "run"):
            raise SpecError("name", names[0], "no container of that name runs now")
        result = await view.container.run(command)
        out, err = (base64.b64encode(data).decode("ascii") for data in (result.stdout, result.stderr))
        await say(ok=result.exit.ok, returncode=result.exit.returncode, stdout=out, stderr=err)


def usual() -> tuple[str, str]:
    """The runtime directory that this user has in a login, and what stands for it where there is none."""
    uid = os.geteuid()
    return f"/run/user/{uid}", "/run" if uid == 0 else f"/tmp/creche-{uid}"


def peer(sock: socket.socket) -> int:
    """The user on the other end of a Unix socket, as the kernel saw him come."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


_WHILE_HEARD = ("events", "logs", "exec")  # requests that are nobody's business once whoever asked has gone


async def _while_there(stream: anyio.abc.SocketStream, call: Callable[[], Awaitable[None]]) -> None:
    """Do it as long as the other end is there: else what it follows, or runs, would go on for nobody."""
    failed: Exception | None = None

    async def until_gone() -> None:
        raw = stream.extra(SocketAttribute.raw_socket)  # nosec B610: it takes that name for Django's
        await anyio.wait_readable(raw)
        poll = select.poll()  # who only has no more to say, as `nc -N`, still listens: that is no POLLHUP (poll(2))
        poll.register(raw, 0)
        if poll.poll(0):
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_gone)
        try:
            await call()
        except Exception as error:  # noqa: BLE001 - it goes its way, and not in a group
            failed = error
        tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _request(stream: anyio.abc.SocketStream) -> dict[str, Any]:
    data = b""
    while b"\n" not in data:
        if len(data) > LONGEST:
            raise SpecError("request", f"{len(data)} bytes", f"a request has {LONGEST} at most")
        data += await stream.receive()
    try:
        request = json.loads(data.split(b"\n")[0])
    except (ValueError, RecursionError) as error:
        raise SpecError("request", "its text", f"give one line of JSON: {error}") from None
    if not isinstance(request, dict):
        raise SpecError("request", request, 'give an object, such as {"do": "ps"}')
    return request


def _names(request: dict[str, Any]) -> tuple[str, ...]:
    names = request.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SpecError("names", names, "give a list of names")
    return tuple(names)


def ask(place: Place, request: dict[str, Any], *, patience: float | None = None) -> Iterator[dict[str, Any]]:
    """What a command line does: ask, and give the answers as they come. CrecheError where nothing runs, or says no.

    TimeoutError where an answer takes longer than `patience` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience)
        place.connect(sock)
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as answers:
                for line in answers:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise CrecheError(str(answer["error"]))
                    yield answer
        except (ConnectionResetError, BrokenPipeError):  # what was sent was not read: it ended, or thinks it too long
            raise CrecheError(f"{place.name} hung up before it had answered: it does not run any more, or the request is too long") from None
