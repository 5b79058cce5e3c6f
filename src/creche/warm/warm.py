"""The template of a warm pool: one process with Python and its imports loaded, which forks and never runs a guest's code."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
from attrs import evolve, field, frozen

from .._native import ffi, lib
from ..channel import Channel
from ..container import Container
from ..errors import SpecError, UnsupportedError, WarmError
from ..kernelfs import kernel_trees
from ..machine import probe
from ..plan.compile import Plan
from ..plan.ids import map_text
from ..plan.nesting import check_ids, layers_of, template_spec
from ..process import Process
from ..spawn import exhausted
from ..spec.checks import Each, Text
from ..spec.spec import Spec, words_of
from ..streams import ReceiveStream
from ..units import seconds
from ..wire import control
from ..wire.control import Reply
from .template import CHANNEL, LIBRARY, NEWS

__all__ = ["Birth", "ForkServer", "PythonWarm", "Template"]

FORKING = 10.0  # seconds in which a template must have forked, or is replaced
_NEWS = 1 << 20  # bytes of what a template may say of its start
_NAMES = Each(Text("give the name of a module", least=1), "names of modules, such as ['numpy']")
_PYTHON = Text("give a name or a path", least=1)


def _imports(value: Sequence[str]) -> tuple[str, ...]:
    return _NAMES(value, "warm.imports")


def _python(value: str | os.PathLike[str]) -> str:
    return _PYTHON(value, "warm.python")


def _timeout(value: float | str) -> float:
    return seconds(value, "warm.timeout")


@frozen(kw_only=True)
class ForkServer:
    """A pool's program of your own that forks for each run, by the protocol of docs/pools.md: ``Pool(spec, warm=ForkServer(command=[…]))``.

    Attributes:
        command: its argv, inside.
        timeout: seconds in which it must be ready.
    """

    command: tuple[str, ...] = field(converter=words_of)
    timeout: float = field(default=60.0, converter=_timeout)

    @property
    def variables(self) -> dict[str, str]:
        """What it has beside the Spec's."""
        return {}

    @property
    def cwd(self) -> str | None:
        """Where it is started, if not where the Spec says."""
        return None

    def check(self, words: tuple[str, ...]) -> None:
        """It may be told anything."""


@frozen(kw_only=True)
class PythonWarm:
    """A pool's Python with its imports paid once: ``Pool(spec, warm=PythonWarm(imports=["numpy"]))``.

    Attributes:
        imports: modules that are loaded before the first run.
        python: the interpreter inside, 3.8 or later; what the first word of a run's command must be.
        timeout: seconds that the imports may take.
    """

    imports: tuple[str, ...] = field(default=(), converter=_imports)
    python: str = field(default="python3", converter=_python)
    timeout: float = field(default=60.0, converter=_timeout)

    @property
    def command(self) -> tuple[str, ...]:
        """The template's argv."""
        return self.python, "-c", Path(__file__).with_name("template.py").read_text("utf-8"), json.dumps(self.imports)

    @property
    def variables(self) -> dict[str, str]:
        """What it has beside the Spec's: libraries of numbers start threads when they are loaded, which no fork would have; and
        what a guest may have put into a home is not the template's to load."""
        return dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONNOUSERSITE"), "1")

    @property
    def cwd(self) -> str | None:
        """Not the Spec's, where guests may write: ``python3 -c`` imports from where it stands."""
        return "/"

    def check(self, words: tuple[str, ...]) -> None:
        """Raise SpecError for another program's words."""
        if words[0] != self.python:
            raise SpecError("command", words, f"what is warm is {self.python}: begin with that, or have another program executed by run() of a container that acquire() gives")


@frozen
class Birth:
    """A container that was forked: its first process, and the number of the command that waits in it."""

    pidfd: int
    pid: int  #: as the host sees it
    number: int


class Template:
    """A template's process in a container of its own, made when it is first needed and again where it has died."""

    def __init__(self, spec: Spec, warm: ForkServer | PythonWarm) -> None:
        self.spec = spec
        self.warm = warm
        self._box: Container | None = None
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._answers: list[tuple[Reply, list[int]]] = []
        self._lock: anyio.Lock | None = None

    @property
    def plan(self) -> Plan:
        """Of its container, whose ids are the forks' too."""
        assert self._box is not None and self._box._plan is not None
        return self._box._plan

    @property
    def pid(self) -> int:
        """As the host sees it; 0 where there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def base(self) -> tuple[int | None, int]:
        """The range of ids of its container."""
        assert self._box is not None
        return self._box._context.base, self._box._context.count

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            yield

    async def ready(self) -> None:
        """It is there, with its imports, or WarmError (and what the start of a container raises)."""
        async with self._turn():
            await self._made()

    async def _made(self) -> None:
        if self._box is not None and self._box.exit is not None:
            await self._close()
        if self._process is not None and self._process.exit is not None:
            self._drop()
        if self._channel is not None:
            return
        if self._box is None:
            if shown := kernel_trees(self.spec):
                raise UnsupportedError(f"a warm pool with files of the kernel below {next(iter(shown))}", "mount a folder without them; /proc is there")
            box = Container(template_spec(self.spec))
            box._for_forks = layers_of(self.spec)
            self._box = await box.__aenter__()
            check_ids(self.plan.who, probe())
        try:
            await self._load(self._box)
        except BaseException:
            self._drop()
            raise

    async def _load(self, box: Container) -> None:
        """Start the interpreter, and hear of its imports."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read, write = os.pipe2(os.O_CLOEXEC)
        library = -1
        news = ReceiveStream(read)
        try:
            library = _library()
            # What a fork's own rlimits are may be more than a command has where its Spec says nothing.
            rlimits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}")) for name in ("core", "nofile", *self.spec.rlimits)}
            env = {name: value for name, value in self.warm.variables.items() if name not in (self.spec.env or {})}
            fields: dict[str, Any] = {
                "stdin": "null", "stdout": "null", "stderr": "null", "pass_fds": (CHANNEL, LIBRARY, NEWS), "env": env,
                **({"cwd": self.warm.cwd} if self.warm.cwd is not None else {}),
                "rlimits": {name: value for name, value in rlimits.items() if value != (-1, -1)},
            }  # fmt: skip
            self._process = await box._launch(self.warm.command, fields, sources={CHANNEL: theirs.fileno(), LIBRARY: library, NEWS: write})
            os.close(write)
            write = -1
            said = await self._hear(news)
        except BaseException:
            ours.close()
            raise
        finally:
            news.close()
            theirs.close()
            for fd in (library, write):
                if fd >= 0:
                    os.close(fd)
        self._channel = Channel(ours, lambda reply, fds, _: self._answers.append((reply, fds)))
        if said.get("ready") is not True:
            raise WarmError(f"the template's imports failed: {said.get('error')}", "try them with the same program and mounts in a Container", str(said.get("traceback")))
        assert self._process is not None
        _check(self._process.pid)

    async def _hear(self, news: ReceiveStream) -> dict[str, Any]:
        heard = bytearray()
        with anyio.move_on_after(self.warm.timeout):
            with contextlib.suppress(anyio.EndOfStream):
                while len(heard) < _NEWS:
                    heard += await news.receive()
            with contextlib.suppress(ValueError, RecursionError):
                said = json.loads(heard)
                if isinstance(said, dict):
                    return said
            assert self._process is not None
            await self._process.wait()
            raise WarmError(f"the template died while it started: {self._process.exit.explain() if self._process.exit else ''}", "try the same program in a Container")
        raise WarmError(f"the template took more than {self.warm.timeout:g} seconds to be ready", "raise its timeout, or look at what its imports wait for")

    async def fork(self, flags: int, fds: list[int]) -> Birth:
        """Have it make a container of these namespaces; WarmError where it does not. Nothing of it stays where that is cancelled."""
        died = False
        async with self._turn():
            for again in (False, True):
                await self._made()
                with anyio.CancelScope(shield=True):  # a few milliseconds, and FORKING seconds at most
                    answer = await self._ask(flags, fds)
                if answer is not None:
                    return self._born(*answer)
                died = self._channel is not None and self._channel.ended
                self._drop()
                if again or not died:
                    break
        raise WarmError("the template died" if died else f"the template did not fork within {FORKING:g} seconds", "does a module of its imports have a hook for forks (os.register_at_fork)?")

    async def _ask(self, flags: int, fds: list[int]) -> tuple[Reply, list[int]] | None:
        assert self._channel is not None
        who = self.plan.who
        maps = b"\0".join(map_text(tuple(evolve(item, outside=item.inside) for item in items)) for items in (who.gid_map, who.uid_map))
        with anyio.move_on_after(FORKING), contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._channel.send(control.FORK, 0, a=flags, blob=maps + b"\0", fds=fds)
            await self._channel.until(lambda: bool(self._answers))
        return self._answers.pop() if self._answers else None

    def _born(self, reply: Reply, fds: list[int]) -> Birth:
        if reply.type != control.STARTED or len(fds) != 1:
            for fd in fds:
                os.close(fd)
            if reply.failure is not None and reply.failure.errno:
                raise WarmError(f"the template can't fork into namespaces of their own: {os.strerror(reply.failure.errno)}", "nested user namespaces must be allowed (user.max_user_namespaces), and processes left (ulimit -u)")
            raise WarmError("the template sent what none of ours sends")
        try:
            with open(f"/proc/self/fdinfo/{fds[0]}") as file:
                pid = next(int(line.split()[1]) for line in file if line.startswith("Pid:"))
        except (OSError, StopIteration, ValueError):
            os.close(fds[0])
            raise WarmError("the template sent what none of ours sends") from None
        return Birth(fds[0], pid, reply.id)

    def _drop(self) -> None:
        """Let the process go, which ends with its socket; the container stays, for what was forked lives in it."""
        if self._process is not None:
            if self._process._box._owner == os.getpid():  # else a fork of the host program leaves a block that is not its own
                self._process.kill()
            self._process._close()
            if self._box is not None:
                self._box._processes.pop(self._process._ident, None)
        self._process = None
        if self._channel is not None:
            self._channel.close()
        self._channel = None
        for _, fds in self._answers:
            for fd in fds:
                os.close(fd)
        self._answers.clear()

    async def _close(self) -> None:
        self._drop()
        if self._box is not None:
            box, self._box = self._box, None
            await box.__aexit__()

    async def aclose(self) -> None:
        """End it, and with it what was forked."""
        with anyio.CancelScope(shield=True):
            await self._close()


def _library() -> int:
    """The fork library in a sealed memfd."""
    size = ffi.new("unsigned *")
    data = lib.creche_fork_library(size)
    fd = os.memfd_create("creche-fork", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, bytes(ffi.buffer(data, size[0])))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(pid: int) -> None:
    """What a fork would not have, or would share with others, is refused. Raises WarmError."""
    try:
        threads = len(os.listdir(f"/proc/{pid}/task")) - 1
        maps = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
    except OSError as error:
        raise WarmError(f"the template can't be looked at: {error.strerror}", "was it killed?") from None
    if threads:
        raise WarmError(f"the template's imports have started {threads} threads, which no fork would have", "see the library's variables, such as OPENBLAS_NUM_THREADS=1, and give them in Spec.env")
    for line in maps.splitlines():
        words = line.split(maxsplit=5)
        if "w" in words[1] and "s" in words[1]:
            raise WarmError(f"the template has memory that is shared and can be written to ({words[-1]}): all forks could talk by it", "leave out the module that maps it")


def init_program() -> int:
    """The init's program: a descriptor that stays ours."""
    fd = int(lib.creche_init_program())
    if fd < 0:
        raise exhausted(-fd)
    return fd


