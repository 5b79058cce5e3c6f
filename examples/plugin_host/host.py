"""PluginHost: strangers' plug-ins, each in a container that a Supervisor replaces when it crashes, hangs or lies."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import attrs
from frames import BadFrame, Frames
from interface import fits, methods

from creche import ChildSpec, Container, Exit, File, Limits, Security, Spec, Supervisor, Tmpfs, run
from creche.supervisor import Ask, Backoff

__all__ = ["LIMITS", "PluginError", "PluginHost", "spec_of"]

LIMITS = Limits(memory="64M", pids=16, cpus=0.5)
MOST = 64 << 10  #: bytes of one call, and of one answer
_SERVE = (Path(__file__).parent / "serve.py").read_bytes()


class PluginError(Exception):
    """A plug-in did not do what was asked. `replaced`: it broke the rules or died, and another copy is started."""

    def __init__(self, name: str, what: str, *, replaced: bool) -> None:
        self.replaced = replaced
        super().__init__(f"plug-in {name}: {what}")


def spec_of(code: bytes, limits: Limits) -> Spec:
    """A plug-in's container: it computes, and talks on descriptor 3. No processes, no network, no files but its own."""
    return Spec(
        ["python3", "-I", "-u", "/host/serve.py"],
        mounts=[
            File("/host/serve.py", _SERVE),
            File("/plugin/plugin.py", code),
            Tmpfs("/tmp", size="8M", mode=0o1777),
        ],
        cwd="/tmp",
        hostname="plugin",
        limits=limits,
        rlimits={"core": 0, "nofile": 64},
        security=Security(seccomp="strict"),
        stdin="null",
        pass_fds=[3],
    )


class _Life:
    """One life of a plug-in: a container and our end of its socket, as one thing that a Supervisor can hold."""

    def __init__(self, plugin: _Plugin, spec: Spec) -> None:
        self._plugin, self._spec = plugin, spec
        self._box: Container
        self._frames: Frames
        self._numbers = count(1)

    async def __aenter__(self) -> Self:
        ours, theirs = socket.socketpair()
        self._frames = Frames(ours, MOST)
        try:
            with theirs:
                self._box = Container(self._spec, sources={3: theirs.fileno()})
                await self._box.__aenter__()
        except BaseException:
            self._frames.close()
            raise
        self._plugin.began(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._plugin.ended(self)
        await self._box.__aexit__(kind, error, trace)
        self._frames.close()

    @property
    def pid(self) -> int:
        """As the host sees it."""
        return self._box.pid

    @property
    def stdout(self) -> Any:
        """What it prints; the Supervisor reads it."""
        return self._box.stdout

    @property
    def stderr(self) -> Any:
        """As `stdout`."""
        return self._box.stderr

    async def wait(self) -> Exit:
        """Wait for its end."""
        return await self._box.wait()

    def terminate(self) -> None:
        """Ask it to end."""
        self._box.terminate()

    def kill(self) -> None:
        """End it, and all in its container."""
        self._box.kill()

    async def ask(self, method: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """One call and its answer. Raises BadFrame for anything else than one."""
        number = next(self._numbers)
        await self._frames.send({"id": number, "method": method, "arguments": arguments})
        match await self._frames.receive():
            case {"id": int(told), "value": value} if told == number:
                return {"value": value}
            case {"id": int(told), "error": str(text)} if told == number:
                return {"error": text[:1000]}
        raise BadFrame("an answer to no question")


class _Plugin:
    """One plug-in through all its lives: one call at a time."""

    def __init__(self, name: str, code: bytes, limits: Limits, offered: dict[str, Any]) -> None:
        self._name, self._offered = name, offered
        self._spec = spec_of(code, limits)
        self._lock = anyio.Lock()
        self._life: _Life | None = None
        self._news = anyio.Event()

    def make(self) -> _Life:
        """What the Supervisor asks for at the start of each life."""
        return _Life(self, self._spec)

    def began(self, life: _Life) -> None:
        """Calls go to this life now."""
        self._life = life
        self._news.set()

    def ended(self, life: _Life) -> None:
        """It takes no more calls."""
        if self._life is life:
            self._life, self._news = None, anyio.Event()

    async def probe(self, life: _Life) -> None:
        """Whether it answers. One that is busy with a call is left alone: the call has a time of its own."""
        if life is self._life and not self._lock.locked():
            async with self._lock:
                await self._ask(life, "", (), bool)

    async def call(self, method: str, arguments: tuple[Any, ...], timeout: float) -> Any:
        """A call with its bounds."""
        takes, gives = self._offered[method]
        if len(arguments) != len(takes) or not all(map(fits, arguments, takes)):
            raise TypeError(f"{method} takes {', '.join(hint.__name__ for hint in takes) or 'nothing'}")
        if len(json.dumps(arguments)) > MOST:
            raise ValueError(f"the arguments of a call have at most {MOST} bytes")
        with anyio.move_on_after(timeout):
            async with self._lock:
                while (life := self._life) is None:
                    await self._news.wait()
                return await self._ask(life, method, arguments, gives)
        raise PluginError(self._name, f"no answer to {method} within {timeout:g} s", replaced=True)

    async def _ask(self, life: _Life, method: str, arguments: tuple[Any, ...], gives: Any) -> Any:
        try:
            answer = await life.ask(method, arguments)
            if "value" in answer and not fits(answer["value"], gives):
                raise BadFrame(f"the answer to {method} is of another type")
        except BaseException as error:  # also our own impatience: its answer would come to the next question
            life.kill()
            self.ended(life)
            if not isinstance(error, BadFrame):
                raise
            raise PluginError(self._name, str(error), replaced=True) from None
        if "error" in answer:
            raise PluginError(self._name, answer["error"], replaced=False)
        return answer["value"]


class PluginHost:
    """Plug-ins by name, kept alive while the block lasts.

    async with PluginHost({"shout": Path("shout.py")}, TextPlugin) as host:
        await host.call("shout", "transform", "hello")

    Entering raises what a Container's start does: where none can be had with these limits, trying again would not help.
    """

    def __init__(self, files: Mapping[str, Path], interface: type, *, limits: Limits = LIMITS) -> None:
        offered = methods(interface)
        self._trial = attrs.evolve(spec_of(b"", limits), command=["true"], pass_fds=[])
        self._plugins = {
            name: _Plugin(name, path.read_bytes(), limits, offered) for name, path in files.items()
        }
        children = [
            ChildSpec(
                name,
                plugin.make,
                depends_on=[],
                readiness=Ask(plugin.probe, every=0.2, timeout=10.0),
                liveness=Ask(plugin.probe, every=1.0, timeout=2.0, failures=2),
                start_timeout=10.0,
                shutdown=0.0,
                backoff=Backoff(first=0.05, most=10.0),
            )
            for name, plugin in self._plugins.items()
        ]
        # It never gives up: a plug-in that always fails waits longer and longer, and is no reason to end the others.
        self.supervisor = Supervisor(children, intensity=None)

    async def __aenter__(self) -> Self:
        await run(self._trial, check=True, timeout=20)
        await self.supervisor.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self.supervisor.__aexit__(*error)

    @property
    def names(self) -> tuple[str, ...]:
        """The plug-ins."""
        return tuple(self._plugins)

    async def call(self, name: str, method: str, *arguments: Any, timeout: float = 5.0) -> Any:
        """Call a plug-in's function; `timeout` includes waiting for others, and for one that is just being replaced.

        Raises PluginError; and KeyError, TypeError, ValueError for calls that the interface does not have.
        """
        return await self._plugins[name].call(method, arguments, timeout)
