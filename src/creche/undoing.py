"""A container's history: what each command wrote to the root is a layer, to look at and to go back to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import CrecheError, UnsupportedError
from .files import FOLDER, Inside, failing
from .lifecycle import State
from .plan import steps as st
from .plan.compile import Context, Plan, compile_layers
from .spec.checks import Whole
from .spec.filesystem import Overlay
from .spec.spec import Spec
from .wire import control
from .wire.encode import encode

if TYPE_CHECKING:
    from .layers import Change, Layer
    from .machine import Machine
    from .process import Process

__all__ = ["CommandLayer", "Undoing"]

MOST = 400  # layers; overlayfs takes 500 with the Overlay's own (OVL_MAX_STACK)


class CommandLayer(NamedTuple):
    """One layer of a history: its number, from 1 on, and the command that wrote it."""

    number: int
    command: tuple[str, ...]


class Undoing:
    """The half of Container that goes back and forth in its history, with ``Overlay(…, history=True)``."""

    if TYPE_CHECKING:
        spec: Spec
        _state: State
        _plan: Plan | None
        _machine: Machine | None
        _context: Context
        _compiled: Spec
        _processes: dict[int, Process]
        _resetting: bool

        async def _compared(self, root: Overlay, layers: list[Layer], max_files: int) -> list[Change]: ...
        @contextlib.asynccontextmanager
        async def _whole(self) -> AsyncIterator[None]:
            yield

        async def _again(self, blob: bytes, steps: tuple[st.Step, ...]) -> None: ...
        async def _ask_file(self, path: str, flags: int = 0, mode: int = 0, *, verb: int = ..., base: int = -1, more: str | None = None, to: int = -1) -> int: ...

    _commands: tuple[CommandLayer, ...] = ()
    _names: tuple[int, ...] = ()  # of their layers
    _position = 0
    _next_name = 1
    _fresh = True  # nothing has been started over the layer that is written to now
    _stale: tuple[int, ...] = ()

    @property
    def history(self) -> tuple[CommandLayer, ...]:
        """Every command's layer, the first first; those behind `position` are undone, and forgotten when a command starts."""
        return self._commands

    @property
    def position(self) -> int:
        """How many layers of the history the root has now."""
        return self._position

    async def at(self, n: int) -> None:
        """Go to the root as it was after `n` commands, 0 being the start; back and forth, until a command starts there.

        What still runs in it is killed, and what was written since the last command (by `put`) belongs to that. /tmp is part of the
        root here, but /dev/shm and mounts of the Spec's own are not. Raises SpecError for a number that the history does not have,
        CrecheError where a command is running, UnsupportedError without ``Overlay(…, history=True)``.

        >>> async with Container(Spec(rootfs=Overlay(["/srv/base"], history=True))) as box:
        ...     await box.run(["touch", "/one"])
        ...     await box.run(["rm", "-rf", "/etc"])
        ...     await box.undo()          # or: await box.at(1)
        """
        root = self._with_history()
        Whole(0, len(self._commands), f"give a number from 0 to {len(self._commands)}, as many layers as there are")(n, "n")
        self._idle()
        await self._lay(root, n)
        self._position = n

    async def undo(self) -> None:
        """Take back what the last command wrote. Raises as `at`; CrecheError where nothing is left to undo."""
        self._with_history()
        if not self._position:
            raise CrecheError("nothing is left to undo: the root is as it was at the start")
        await self.at(self._position - 1)

    async def diff(self, n: int, *, max_files: int = 100_000) -> list[Change]:
        """What layer `n` of the history changed, as of `changes`. Raises SpecError for a number that the history does not have."""
        root = self._with_history()
        Whole(1, len(self._commands), f"give a number from 1 to {len(self._commands)}, as many layers as there are")(n, "n")
        return await self._changes_of(root, self._names[:n], max_files)

    async def _changes_of(self, root: Overlay, names: tuple[int, ...], max_files: int) -> list[Change]:
        """What the last of these layers changed."""
        from .layers import closing

        with closing([]) as layers:
            for name in reversed(names):
                layers.append(await self._layer(name))
            return await self._compared(root, layers, max_files)

    async def _layer(self, name: int) -> Layer:
        from .layers import Layer

        with failing("/"):
            return Layer(await self._ask_file(f"u{name}", FOLDER, verb=control.FILE_LAYER), Inside(self._ask_file))

    @property
    def _written(self) -> tuple[int, ...]:
        """The layers that the root has now, the lowest first, with the one that is written to."""
        return (*self._names[: self._position], self._next_name) if self._fresh else self._names[: self._position]

    def _with_history(self) -> Overlay:
        root = self.spec.rootfs
        if not isinstance(root, Overlay) or not root.history:
            raise UnsupportedError("a container without a history", "give rootfs=Overlay([folder], history=True)")
        if self._state is not State.RUNNING or self._resetting:
            raise CrecheError(f"the container's history can't be reached: {'it is being reset' if self._resetting else self._state.value}")
        return root

    def _idle(self) -> None:
        for process in self._processes.values():
            if process.sent and process._exit is None and process.failure is None:
                raise CrecheError("a command is running: with a history there is one at a time, since each has a layer of its own")

    async def _lay(self, root: Overlay, n: int) -> None:
        """The first `n` layers as the root, under one that is new."""
        assert self._plan is not None and self._machine is not None
        name = self._next_name + 1
        steps = compile_layers(self._compiled, self._machine, self._plan.who, self._context, (name, *reversed(self._names[:n])))
        async with self._whole():
            await self._again(encode(steps), steps)
        if self._fresh:
            self._stale = (*self._stale, self._next_name)
        self._next_name, self._fresh = name, True

    async def _begin_layer(self, command: tuple[str, ...]) -> None:
        """A command is about to start, over a layer of its own; what was undone before is forgotten."""
        root = self.spec.rootfs
        if not isinstance(root, Overlay) or not root.history:
            return
        self._idle()
        if self._position >= MOST:
            raise CrecheError(f"the history has {MOST} layers, which are the most: commit() what is to stay, and reset()")
        if not self._fresh:
            await self._lay(root, self._position)
        self._stale += self._names[self._position :]
        self._commands = (*self._commands[: self._position], CommandLayer(self._position + 1, command))
        self._names = (*self._names[: self._position], self._next_name)
        self._position += 1
        self._fresh = False
        await self._throw_away()

    async def _throw_away(self) -> None:
        """Remove the layers that nothing shows any more."""
        from . import trees

        while self._stale:
            name, inside = self._stale[0], Inside(self._ask_file)
            base = await self._ask_file(".", FOLDER, verb=control.FILE_LAYER)
            try:
                for kind in "uw":
                    with contextlib.suppress(FileNotFoundError):
                        await trees.remove_folder(inside, f"/{kind}{name}", f"{kind}{name}", base)
            finally:
                os.close(base)
            self._stale = self._stale[1:]

    def _forget_history(self) -> None:
        """After a reset."""
        self._commands, self._names, self._stale = (), (), ()
        self._position, self._next_name, self._fresh = 0, 1, True


def merged(parts: list[list[Change]]) -> list[Change]:
    """Changes one after the other as one, the first first."""
    from .layers import Change

    found: dict[str, Change] = {}
    for changes in parts:
        for change in changes:
            before = found.pop(change.path, None)
            if change.kind == "deleted":
                for path in [path for path in found if path.startswith(change.path + "/")]:
                    del found[path]
                if before is None or before.kind != "added":
                    found[change.path] = change
            elif before is None or before.kind == "changed":
                found[change.path] = change
            else:
                kind: Any = "added" if before.kind == "added" else "changed"
                found[change.path] = Change(change.path, kind, change.type)
    return sorted(found.values(), key=lambda change: change.path.split("/"))
